//! What is told of calls over WebRTC, and whether the bars hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::swarm::Outcome;
use super::{Part, Under};
use crate::measure::{Exposition, Quantiles};
use crate::report::{Bar, Views};

/// CPU per peer and second of an echo, over that of the bare loop.
const CPU: f64 = 1.5;
/// Resident memory of one peer, in kilobytes.
const RESIDENT: f64 = 200.0;
/// How much later than from the bare loop a frame may come to the agent, in milliseconds: median, 99th percentile.
const ADDED: [f64; 2] = [0.3, 2.0];
/// A floor that takes more of its core, in per cent, is none.
const FLOOR: f64 = 90.0;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Of what.
    pub under: Under,
    /// Calls at once.
    pub calls: usize,
    /// Caller to agent, or to the echo's return, in milliseconds.
    pub took: Quantiles,
    /// Lateness of the swarm in writing, in milliseconds.
    pub late: Quantiles,
    /// How long what had arrived waited for the swarm, in milliseconds.
    pub waited: Quantiles,
    /// Offer to connected, in milliseconds.
    pub set_up: Quantiles,
    /// Frames that callers wrote.
    pub frames: u64,
    /// Frames that never arrived.
    pub missing: u64,
    /// What should not have happened.
    pub accidents: Vec<String>,
    /// CPU milliseconds per peer and second.
    pub cpu: f64,
    /// Resident kilobytes that each peer after the first has added.
    pub kb: f64,
    /// Series of losses and drops that have risen.
    pub drops: Vec<(String, f64)>,
    /// The daemon's own view.
    pub views: Option<Views>,
}

impl Row {
    /// From what the swarm has seen, and from what the process says of itself before and after.
    pub fn new(under: Under, outcome: &Outcome, cpu: Duration, kb: f64, calls: usize, metrics: &[Exposition]) -> Row {
        const COUNTERS: [&str; 3] = [
            "antiphon_queue_dropped_audio_seconds_total",
            "antiphon_queue_dropped_total",
            "antiphon_uplink_lost_packets_total",
        ];
        let took = Quantiles::from(&outcome.took);
        let (mut drops, mut views) = (Vec::new(), None);
        if let [before, after] = metrics {
            drops.extend(COUNTERS.iter().flat_map(|name| after.risen_since(before, name)));
            let buckets = after.buckets_since(before, "antiphon_added_latency_seconds", &["direction=\"up\""]);
            views = Some(Views::new("up", &buckets, &took));
        }
        Row {
            under,
            calls,
            took,
            late: (&outcome.late).into(),
            waited: (&outcome.waited).into(),
            set_up: (&outcome.set_up).into(),
            frames: outcome.frames,
            missing: outcome.missing,
            accidents: outcome.accidents.iter().cloned().collect(),
            cpu: cpu.as_secs_f64() * 1000.0 / outcome.lasted.as_secs_f64() / calls as f64,
            kb,
            drops,
            views,
        }
    }

    /// The share of its core that the process takes.
    pub fn share(&self) -> f64 {
        self.cpu * self.calls as f64 / 1000.0
    }

    fn tell(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "{:<32} {:>5} {:>8.3} / {:>5.2} / {:>5.1} {:>8.1} / {:>6.1} {:>6.2} / {:>5.2} {:>8.3} {:>6.0} {:>7.0}",
            self.under.name(),
            self.calls,
            self.took.p50,
            self.took.p99,
            self.took.max,
            self.set_up.p50,
            self.set_up.p99,
            self.late.p99,
            self.waited.p99,
            self.cpu,
            100.0 * self.share(),
            self.kb
        );
        if self.missing > 0 || !self.accidents.is_empty() {
            let _ = writeln!(text, "    missing {} of {}, {:?}", self.missing, self.frames, self.accidents);
        }
        for (name, count) in &self.drops {
            let _ = writeln!(text, "    risen: {name} by {count}");
        }
        if let Some(views) = &self.views {
            let [p50, p95, p99] = views.inside;
            let _ = writeln!(text, "    its own view of the uplink: p50/p95/p99 {p50:.3}/{p95:.3}/{p99:.3} ms");
        }
    }
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    machine: BTreeMap<&'static str, String>,
    /// With more calls than leave the floor a margin.
    told: Vec<Row>,
    judged: Vec<Row>,
    /// The bars.
    pub bars: Vec<Bar>,
}

impl Report {
    /// Judges what is to be judged.
    pub fn new(machine: BTreeMap<&'static str, String>, told: Vec<Row>, mut judged: Vec<Row>) -> Report {
        judged.sort_by_key(|row| row.under);
        let bars = judge(&judged);
        Report { machine, told, judged, bars }
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            let _ = writeln!(text, "{name:<12} {value}");
        }
        let _ = writeln!(
            text,
            "\n{:<32} {:>5} {:>24} {:>17} {:>14} {:>8} {:>6} {:>7}",
            "", "calls", "p50/p99/max ms", "set-up p50/p99 ms", "swarm p99 ms", "CPU ms/ps", "core %", "kB/peer"
        );
        for row in &self.judged {
            row.tell(&mut text);
        }
        text.push_str("(ms/ps: CPU milliseconds per peer and second; swarm: how late it wrote / read itself)\n");
        if !self.told.is_empty() {
            text.push_str("\nNot judged, with a floor that leaves its core no margin:\n");
        }
        for row in &self.told {
            row.tell(&mut text);
        }
        text.push('\n');
        for Bar { name, figure, most, holds } in &self.bars {
            let _ = writeln!(text, "{} {name}: {figure:.2} (at most {most})", if *holds { "ok    " } else { "MISSED" });
        }
        text
    }
}

/// Medians of the runs against the bars.
fn judge(rows: &[Row]) -> Vec<Bar> {
    let median = |under: Under, figure: &dyn Fn(&Row) -> f64| {
        let mut figures: Vec<f64> = rows.iter().filter(|row| row.under == under).map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let measured = |part: Part| rows.iter().any(|row| row.under.part() == part);
    let losses = rows.iter().map(|row| row.missing as f64 + row.accidents.len() as f64).sum();
    let drops = rows.iter().flat_map(|row| &row.drops).map(|(_, count)| count).sum();
    let mut bars =
        vec![("frames lost, or calls ended", losses, 0.0), ("drops and losses by its own count", drops, 0.0)];
    if measured(Part::Echo) {
        let cpu = median(Under::Echo, &|row| row.cpu) / median(Under::BareEcho, &|row| row.cpu);
        bars.push(("echo: CPU, times the bare loop", cpu, CPU));
        bars.push(("echo: resident kB per peer", median(Under::Echo, &|row| row.kb), RESIDENT));
    }
    if measured(Part::Agents) {
        let over = |pair: [Under; 2], figure: &dyn Fn(&Row) -> f64| median(pair[0], figure) - median(pair[1], figure);
        let (passed, coded) = ([Under::Passed, Under::BarePassed], [Under::Coded, Under::BareCoded]);
        bars.push(("Opus to agents: p50 over the bare loop, ms", over(passed, &|row| row.took.p50), ADDED[0]));
        bars.push(("Opus to agents: p99 over the bare loop, ms", over(passed, &|row| row.took.p99), ADDED[1]));
        bars.push(("PCM16 to agents: p50 over the bare loop, ms", over(coded, &|row| row.took.p50), ADDED[0]));
        bars.push(("PCM16 to agents: p99 over the bare loop, ms", over(coded, &|row| row.took.p99), ADDED[1]));
        let share = |under| 100.0 * median(under, &Row::share);
        let largest = share(Under::BarePassed).max(share(Under::BareCoded));
        bars.push(("to agents: of its core the bare loop takes, %", largest, FLOOR));
    }
    let bar = |(name, figure, most): (&str, f64, f64)| Bar {
        name: name.into(),
        figure: figure + 0.0,
        most,
        holds: figure <= most,
    };
    bars.into_iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(under: Under, calls: usize, p99: f64, cpu: f64) -> Row {
        Row {
            under,
            calls,
            took: Quantiles { p50: 0.2, p99, ..Quantiles::default() },
            late: Quantiles::default(),
            waited: Quantiles::default(),
            set_up: Quantiles::default(),
            frames: 1000,
            missing: 0,
            accidents: Vec::new(),
            cpu,
            kb: 100.0,
            drops: Vec::new(),
            views: None,
        }
    }

    #[test]
    fn the_median_of_the_runs_is_judged_and_nothing_that_is_only_told() {
        let runs = |under, p99: [f64; 3], cpu| p99.map(|p99| row(under, 60, p99, cpu)).to_vec();
        let judged = [
            runs(Under::BarePassed, [1.0; 3], 1.6),
            runs(Under::Passed, [1.5, 50.0, 2.5], 2.0),
            runs(Under::BareCoded, [1.0; 3], 9.0),
            runs(Under::Coded, [50.0, 3.5, 1.5], 10.0),
        ];
        let told = vec![row(Under::BareCoded, 100, 5.0, 9.7), row(Under::Coded, 100, 95.0, 9.9)];
        let report = Report::new(BTreeMap::new(), told, judged.concat());
        let missed: Vec<&str> = report.bars.iter().filter(|bar| !bar.holds).map(|bar| bar.name.as_str()).collect();
        assert_eq!(missed, ["PCM16 to agents: p99 over the bare loop, ms"]);
        assert!(report.table().contains("Not judged"));
    }

    #[test]
    fn a_floor_that_is_never_idle_is_none() {
        let all = [Under::BarePassed, Under::Passed, Under::BareCoded, Under::Coded];
        let report = Report::new(BTreeMap::new(), Vec::new(), all.map(|under| row(under, 100, 1.0, 9.1)).to_vec());
        let missed: Vec<&str> = report.bars.iter().filter(|bar| !bar.holds).map(|bar| bar.name.as_str()).collect();
        assert_eq!(missed, ["to agents: of its core the bare loop takes, %"]);
    }
}
