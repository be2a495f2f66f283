//! Callers over WebRTC: what the transport costs beside a bare str0m loop, and how late the relay hands speech to an
//! agent beside such a loop that hands on what it gets, or calls libopus on it, both ways, where agents speak PCM16.

mod report;
mod swarm;

use std::net::TcpListener;
use std::time::Duration;

use antiphon::media::format::Format;
use serde::Serialize;

use crate::child::{Child, Mode};
use crate::machine::{self, Cores};
use crate::material::{AGENT, Voice};
use crate::progress::Progress;
use crate::report::{LAG, write};
use crate::swarm::Edge;
use report::{Report, Row};
use swarm::Scenario;

/// The floor takes no more of its core than this where speech is transcoded, else fewer calls are measured: libopus takes
/// the same on both sides, and a core that is never idle adds a queue to whatever is measured on it.
const SHARE: f64 = 0.6;

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

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Under {
    BareEcho,
    Echo,
    BarePassed,
    Passed,
    BareCoded,
    Coded,
}

impl Under {
    const ALL: [Under; 6] =
        [Under::BareEcho, Under::Echo, Under::BarePassed, Under::Passed, Under::BareCoded, Under::Coded];

    fn name(self) -> &'static str {
        match self {
            Under::BareEcho => "echo, bare str0m",
            Under::Echo => "echo, antiphon",
            Under::BarePassed => "Opus to agents, bare",
            Under::Passed => "Opus to agents, antiphon",
            Under::BareCoded => "PCM16 to agents, bare + libopus",
            Under::Coded => "PCM16 to agents, antiphon",
        }
    }

    fn part(self) -> Part {
        if matches!(self, Under::BareEcho | Under::Echo) { Part::Echo } else { Part::Agents }
    }

    fn is_coded(self) -> bool {
        matches!(self, Under::BareCoded | Under::Coded)
    }

    fn is_bare(self) -> bool {
        matches!(self, Under::BareEcho | Under::BarePassed | Under::BareCoded)
    }
}

/// Measures, tells, and says whether the bars hold.
///
/// # Errors
/// If it could not be measured.
pub fn run(plan: Plan, name: Option<&str>) -> Result<bool, String> {
    let progress = Progress::start();
    let cores = Cores::choose();
    machine::pin(cores.generator).map_err(|error| format!("a core of its own: {error}"))?;
    let agents = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let priority = machine::raise_priority();
    let mut test = Test { plan, cores, agents, progress, told: Vec::new(), judged: Vec::new() };
    let transcoded = test.measure_all()?;
    let machine = [
        ("calls", format!("{} over WebRTC, {:?} each, frames of 20 ms, both sides talking", plan.calls, plan.measured)),
        ("transcoded", transcoded),
        ("cores", format!("daemon with one worker on {}, swarm on {}", cores.daemon, cores.generator)),
        ("priority", priority),
        ("load", format!("{:.1} at the end", machine::load_average())),
    ];
    let report = Report::new(machine.into(), test.told, test.judged);
    let name = name.unwrap_or(if plan.hasty { "webrtc-smoke" } else { "webrtc" });
    let path = write(name, &report).map_err(|error| format!("the report: {error}"))?;
    println!("{}\nwritten to {}", report.table(), path.display());
    Ok(report.bars.iter().all(|bar| bar.holds))
}

struct Test {
    plan: Plan,
    cores: Cores,
    agents: TcpListener,
    progress: Progress,
    /// What was measured with more calls than can be judged.
    told: Vec<Row>,
    judged: Vec<Row>,
}

impl Test {
    /// Measures everything that is asked for; says with how many calls transcoding is judged, and why.
    fn measure_all(&mut self) -> Result<String, String> {
        let Plan { calls, runs, only, .. } = self.plan;
        let (coded, why) = if only == Some(Part::Echo) { (calls, "not measured".into()) } else { self.fit()? };
        for _ in 0..runs {
            for under in Under::ALL.into_iter().filter(|under| only.is_none_or(|part| part == under.part())) {
                let row = self.patiently(under, if under.is_coded() { coded } else { calls })?;
                self.judged.push(row);
            }
        }
        Ok(why)
    }

    /// How many calls of which speech is transcoded leave the floor a margin. Where that is not all, the daemon is
    /// measured with all of them too, to be told.
    fn fit(&mut self) -> Result<(usize, String), String> {
        let calls = self.plan.calls;
        let floor = self.patiently(Under::BareCoded, calls)?;
        let (share, most) = (floor.share(), 100.0 * SHARE);
        let fitting = fitting(calls, share);
        let why = format!("with {calls} calls the floor takes {:.0} % of its core", 100.0 * share);
        if fitting == calls {
            return Ok((calls, why));
        }
        let daemon = self.patiently(Under::Coded, calls)?;
        self.told.extend([floor, daemon]);
        Ok((fitting, format!("{why}: judged with {fitting}, which are to take {most:.0} %")))
    }

    /// Measures, and again if the swarm itself was late.
    fn patiently(&self, under: Under, calls: usize) -> Result<Row, String> {
        let fail = |error: antiphon::media::transcode::MediaError| error.to_string();
        let scenario = Scenario {
            calls,
            measured: self.plan.measured,
            seed: self.plan.seed,
            caller: Voice::caller(Format::OPUS).map_err(fail)?,
            agent: Voice::agent(if under.is_coded() { AGENT } else { Format::OPUS }).map_err(fail)?,
        };
        for attempt in 1.. {
            self.progress.begin(under.name());
            let row = self.measure(under, &scenario)?;
            let late = row.late.p99.max(row.waited.p99) > LAG.as_secs_f64() * 1000.0;
            if !late || self.plan.hasty || attempt == 3 {
                return Ok(row);
            }
            eprintln!("the swarm was late itself against {}: measuring again", under.name());
        }
        unreachable!("the last attempt returns")
    }

    fn measure(&self, under: Under, scenario: &Scenario) -> Result<Row, String> {
        let address = self.agents.local_addr().map_err(|error| error.to_string())?;
        let agents = (under.part() == Part::Agents).then_some(&self.agents);
        let child = if under.is_bare() {
            Child::bare(self.cores, agents.map(|_| address), under.is_coded())?
        } else {
            Child::daemon(self.cores, address, Mode { opus: !under.is_coded(), ..Mode::default() })?
        };
        let (mut cpu, mut before, mut resident, mut metrics) = (Vec::new(), 0, 0, Vec::new());
        let outcome = swarm::run(scenario, child.address, agents, &self.progress, &mut |edge| {
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
}

/// How many of the calls with which the floor takes a share of its core can be judged.
fn fitting(calls: usize, share: f64) -> usize {
    if share <= SHARE { calls } else { ((calls as f64 * SHARE / share) as usize).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_calls_are_judged_as_leave_the_floor_a_margin() {
        assert_eq!([0.1, 0.6, 0.61, 0.97, 60.0].map(|share| fitting(100, share)), [100, 100, 98, 61, 1]);
    }
}
