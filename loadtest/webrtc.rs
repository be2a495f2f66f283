//! Callers over WebRTC: what the transport costs beside a bare str0m loop, and how late the relay hands speech to an
//! agent beside such a loop that only calls libopus, both ways, on what it hands on.

mod swarm;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::time::Duration;

use antiphon::media::format::Format;
use serde::Serialize;

use crate::child::{Child, Mode};
use crate::machine::{self, Cores};
use crate::material::Voice;
use crate::measure::{Exposition, Quantiles};
use crate::progress::Progress;
use crate::report::{Bar, LAG, Views, write};
use crate::swarm::Edge;
use swarm::{Outcome, Scenario};

/// CPU per peer and second of an echo, over that of the bare loop.
const CPU: f64 = 1.5;
/// Resident memory of one peer, in kilobytes.
const RESIDENT: f64 = 200.0;
/// How much later than from the bare loop a frame may come to the agent, in milliseconds: median, 99th percentile.
const ADDED: [f64; 2] = [0.3, 2.0];

/// How much and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Calls at once.
    pub calls: usize,
    /// How long each measurement takes.
    pub measured: Duration,
    /// Measurements of each, in turn; the median counts.
    pub runs: u8,
    /// Decides when each end speaks.
    pub seed: u64,
    /// Repeats nothing.
    pub hasty: bool,
    /// All parts, if it is not told.
    pub only: Option<Part>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What the transport costs.
    Echo,
    /// How late speech reaches an agent.
    Agents,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Row {
    name: String,
    /// Caller to agent, or to the echo's return, in milliseconds.
    took: Quantiles,
    /// Lateness of the swarm in writing, and in reading, in milliseconds.
    late: Quantiles,
    waited: Quantiles,
    set_up: Quantiles,
    frames: u64,
    missing: u64,
    accidents: Vec<String>,
    /// CPU milliseconds per peer and second.
    cpu: f64,
    /// Resident kilobytes that each peer after the first has added.
    kb: f64,
    /// Series of losses and drops that have risen.
    drops: Vec<(String, f64)>,
    /// The daemon's own view.
    views: Option<Views>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
struct Report {
    machine: BTreeMap<&'static str, String>,
    rows: Vec<Row>,
    bars: Vec<Bar>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    BareEcho,
    Echo,
    BareAgents,
    Agents,
}

impl Under {
    const ALL: [Under; 4] = [Under::BareEcho, Under::Echo, Under::BareAgents, Under::Agents];

    fn name(self) -> &'static str {
        match self {
            Under::BareEcho => "echo, bare str0m",
            Under::Echo => "echo, antiphon",
            Under::BareAgents => "to agents, bare + libopus",
            Under::Agents => "to agents, antiphon",
        }
    }

    fn has_agents(self) -> bool {
        matches!(self, Under::BareAgents | Under::Agents)
    }

    fn is_part(self, only: Option<Part>) -> bool {
        only.is_none_or(|part| (part == Part::Agents) == self.has_agents())
    }

    fn is_bare(self) -> bool {
        matches!(self, Under::BareEcho | Under::BareAgents)
    }
}

/// Measures, tells, and says whether the bars hold.
///
/// # Errors
/// If it could not be measured.
pub fn run(plan: Plan, name: &str) -> Result<bool, String> {
    let progress = Progress::start();
    let cores = Cores::choose();
    machine::pin(cores.generator).map_err(|error| format!("a core of its own: {error}"))?;
    let agents = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let scenario = Scenario {
        calls: plan.calls,
        measured: plan.measured,
        seed: plan.seed,
        caller: Voice::caller(Format::OPUS).map_err(|error| error.to_string())?,
        agent: Voice::agent().map_err(|error| error.to_string())?,
    };
    let priority = machine::raise_priority();
    let mut rows: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
    for _ in 0..plan.runs {
        for (number, under) in Under::ALL.into_iter().enumerate().filter(|(_, under)| under.is_part(plan.only)) {
            rows.entry(number).or_default().push(patiently(under, plan, &scenario, cores, &agents, &progress)?);
        }
    }
    let machine = [
        ("calls", format!("{} over WebRTC, {:?} each, frames of 20 ms", plan.calls, plan.measured)),
        ("cores", format!("daemon with one worker on {}, swarm on {}", cores.daemon, cores.generator)),
        ("priority", priority),
        ("load", format!("{:.1} at the end", machine::load_average())),
    ];
    let bars = judge(&rows, plan.only);
    let report = Report { machine: machine.into(), rows: rows.into_values().flatten().collect(), bars };
    let path = write(name, &report).map_err(|error| format!("the report: {error}"))?;
    println!("{}\nwritten to {}", report.table(), path.display());
    Ok(report.bars.iter().all(|bar| bar.holds))
}

/// Measures, and again if the swarm itself was late.
fn patiently(
    under: Under,
    plan: Plan,
    scenario: &Scenario,
    cores: Cores,
    agents: &TcpListener,
    progress: &Progress,
) -> Result<Row, String> {
    for attempt in 1.. {
        progress.begin(under.name());
        let row = measure(under, scenario, cores, agents, progress)?;
        let late = row.late.p99.max(row.waited.p99) > LAG.as_secs_f64() * 1000.0;
        if !late || plan.hasty || attempt == 3 {
            return Ok(row);
        }
        eprintln!("the swarm was late itself against {}: measuring again", under.name());
    }
    unreachable!("the last attempt returns")
}

fn measure(
    under: Under,
    scenario: &Scenario,
    cores: Cores,
    agents: &TcpListener,
    progress: &Progress,
) -> Result<Row, String> {
    let address = agents.local_addr().map_err(|error| error.to_string())?;
    let child = if under.is_bare() {
        Child::bare(cores, under.has_agents().then_some(address))?
    } else {
        Child::daemon(cores, address, Mode::default())?
    };
    let (mut cpu, mut before, mut resident, mut metrics) = (Vec::new(), 0, 0, Vec::new());
    let outcome = swarm::run(scenario, child.address, under.has_agents().then_some(agents), progress, &mut |edge| {
        match edge {
            Edge::First => before = machine::resident(child.id()),
            Edge::Settled | Edge::Drained => metrics.extend(child.metrics().ok()),
            Edge::Begin | Edge::End => cpu.push(machine::cpu_of(child.id()).unwrap_or_default()),
        }
        resident = machine::resident(child.id());
    })?;
    let cpu = cpu.last().zip(cpu.first()).map_or(Duration::ZERO, |(end, begin)| end.saturating_sub(*begin));
    let kb = resident.saturating_sub(before) as f64 / 1024.0 / scenario.calls.saturating_sub(1).max(1) as f64;
    Ok(Row::new(under, &outcome, cpu, kb, scenario.calls, &metrics))
}

impl Row {
    fn new(under: Under, outcome: &Outcome, cpu: Duration, kb: f64, calls: usize, metrics: &[Exposition]) -> Row {
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
            name: under.name().into(),
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
}

/// Medians of the runs against the bars.
fn judge(rows: &BTreeMap<usize, Vec<Row>>, only: Option<Part>) -> Vec<Bar> {
    let median = |under: Under, figure: &dyn Fn(&Row) -> f64| {
        let mut figures: Vec<f64> = rows.get(&(under as usize)).into_iter().flatten().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let all = || rows.values().flatten();
    let losses = all().map(|row| row.missing as f64 + row.accidents.len() as f64).sum();
    let drops = all().flat_map(|row| &row.drops).map(|(_, count)| count).sum();
    let over = |figure: &dyn Fn(&Row) -> f64| median(Under::Agents, figure) - median(Under::BareAgents, figure);
    let mut bars =
        vec![("frames lost, or calls ended", losses, 0.0), ("drops and losses by its own count", drops, 0.0)];
    if only != Some(Part::Agents) {
        let cpu = median(Under::Echo, &|row| row.cpu) / median(Under::BareEcho, &|row| row.cpu);
        bars.push(("echo: CPU, times the bare loop", cpu, CPU));
        bars.push(("echo: resident kB per peer", median(Under::Echo, &|row| row.kb), RESIDENT));
    }
    if only != Some(Part::Echo) {
        bars.push(("to agents: p50 over the bare loop, ms", over(&|row| row.took.p50), ADDED[0]));
        bars.push(("to agents: p99 over the bare loop, ms", over(&|row| row.took.p99), ADDED[1]));
    }
    let bar = |(name, figure, most): (&str, f64, f64)| Bar {
        name: name.into(),
        figure: figure + 0.0,
        most,
        holds: figure <= most,
    };
    bars.into_iter().map(bar).collect()
}

impl Report {
    fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            let _ = writeln!(text, "{name:<12} {value}");
        }
        let _ = writeln!(
            text,
            "\n{:<26} {:>26} {:>18} {:>15} {:>9} {:>8}",
            "", "p50/p99/max ms", "set-up p50/p99 ms", "swarm p99 ms", "CPU ms/ps", "kB/peer"
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{:<26} {:>10.3} / {:>5.2} / {:>5.1} {:>9.1} / {:>6.1} {:>7.2} / {:>5.2} {:>9.3} {:>8.0}",
                row.name,
                row.took.p50,
                row.took.p99,
                row.took.max,
                row.set_up.p50,
                row.set_up.p99,
                row.late.p99,
                row.waited.p99,
                row.cpu,
                row.kb
            );
            if row.missing > 0 || !row.accidents.is_empty() {
                let _ = writeln!(text, "    missing {} of {}, {:?}", row.missing, row.frames, row.accidents);
            }
            for (name, count) in &row.drops {
                let _ = writeln!(text, "    risen: {name} by {count}");
            }
            if let Some(views) = &row.views {
                let [p50, p95, p99] = views.inside;
                let _ = writeln!(text, "    its own view of the uplink: p50/p95/p99 {p50:.3}/{p95:.3}/{p99:.3} ms");
            }
        }
        text.push_str("(ms/ps: CPU milliseconds per peer and second; swarm: how late it wrote / read itself)\n\n");
        for Bar { name, figure, most, holds } in &self.bars {
            let _ = writeln!(text, "{} {name}: {figure:.2} (at most {most})", if *holds { "ok    " } else { "MISSED" });
        }
        text
    }
}
