//! Twice as many callers as the daemon can bear: those whom it lets in hear as before, the others are told at once, and
//! when all have gone it is as it was.

mod crowd;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use antiphon::media::format::Format;
use serde::Serialize;

use crate::child::{Child, Mode};
use crate::machine::{self, Cores};
use crate::material::{AGENT, Voice};
use crate::measure::{Quantiles, get};
use crate::report::{self, Bar};
use crate::swarm::{self, Outcome, Scenario, Target, Window};
use crowd::{Answers, Arrivals, Crowd};

/// More calls than this are not tried.
const MOST: usize = 600;
/// Callers come so fast while the capacity is found.
const RAMP: Duration = Duration::from_millis(50);
/// The capacity is found when nobody more is let in for so long.
const FULL: Duration = Duration::from_secs(4);
/// Twice the capacity comes within this.
const RUSH: Duration = Duration::from_secs(5);
/// What lasts is measured in windows of this.
const WINDOW: Duration = Duration::from_secs(10);
/// A refusal may take so long, 99th percentile in milliseconds.
const REFUSAL: f64 = 50.0;
/// Until a new call is let in after the load's end, in seconds.
const RECOVERY: f64 = 10.0;

/// 99th percentiles of one window, up and down in milliseconds, and the calls at its end.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    up: f64,
    down: f64,
    calls: usize,
}

impl From<&Window> for Row {
    fn from(window: &Window) -> Row {
        let [up, down] = [&window.up, &window.down].map(|times| Quantiles::from(times).p99);
        Row { up, down, calls: window.calls }
    }
}

/// Everything.
#[derive(Debug, Serialize)]
struct Report {
    /// Calls at which no more were let in.
    capacity: usize,
    /// With as many calls, and nobody else.
    calm: Row,
    /// While twice as many come, and after that, while those who were refused come again and again.
    rush: Row,
    beyond: Vec<Row>,
    granted: Quantiles,
    refused: Quantiles,
    failed: Vec<String>,
    /// Frames that never arrived, and those that nobody had sent.
    missing: u64,
    surplus: u64,
    accidents: Vec<String>,
    /// How late the swarm was itself, 99th percentile in milliseconds.
    swarm_late: f64,
    /// From the end of all calls to the first new one, in seconds.
    recovery_s: f64,
    bars: Vec<Bar>,
}

/// Finds the capacity, exceeds it twice, and lets go; whether the bars hold.
///
/// # Errors
/// If something cannot be started.
pub fn run(seed: u64, cores: Cores, name: &str) -> Result<bool, String> {
    let scenario = Scenario {
        calls: MOST,
        measured: Duration::ZERO,
        seed,
        caller: Voice::caller(Format::OPUS).map_err(|error| error.to_string())?,
        agent: Voice::agent(AGENT).map_err(|error| error.to_string())?,
        reports: false,
        tapped: None,
    };
    let calm = calm(&scenario, cores)?;
    eprintln!("capacity: {} calls", calm.calls);
    let mut report = exceed(&scenario, cores, calm)?;
    report.judge();
    let path = report::write(name, &report).map_err(|error| format!("the report: {error}"))?;
    println!("{}written to {}", report.table(), path.display());
    Ok(report.bars.iter().all(|bar| bar.holds))
}

fn listen() -> Result<TcpListener, String> {
    TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())
}

/// A daemon under the callers of a crowd; `next` is as in [`swarm::run_in_windows`].
fn with_crowd(
    scenario: &Scenario,
    (child, agents): (&Child, TcpListener),
    arrivals: Arrivals,
    next: &mut dyn FnMut(&Crowd, Option<Window>) -> Option<Duration>,
) -> Result<(Outcome, Answers), String> {
    // The crowd answers for the agents; nobody calls these.
    let none = listen()?;
    let target = Target { address: child.address, agents: &none, tells_ready: true, transcodes: true };
    let (crowd, arrived) = Crowd::start(arrivals, child.address, agents, scenario.caller.format);
    let outcome = swarm::run_in_windows(scenario, target, Some(&arrived), &mut |window| next(&crowd, window))?;
    Ok((outcome, crowd.end()))
}

fn daemon(cores: Cores) -> Result<(Child, TcpListener), String> {
    let agents = listen()?;
    let address = agents.local_addr().map_err(|error| error.to_string())?;
    Ok((Child::daemon(cores, address, Mode { overload: true, ..Mode::default() })?, agents))
}

/// As many calls as are let in one after the other, and how late they hear when no more come.
fn calm(scenario: &Scenario, cores: Cores) -> Result<Row, String> {
    let (child, agents) = daemon(cores)?;
    let (mut calm, mut settled) = (None, false);
    let arrivals = Arrivals::UntilFull { every: RAMP, patience: FULL };
    with_crowd(scenario, (&child, agents), arrivals, &mut |crowd, window| match (crowd.is_over(), settled) {
        (false, _) => Some(Duration::from_millis(200)),
        (true, false) => {
            settled = true;
            Some(WINDOW)
        }
        (true, true) => {
            calm = window.as_ref().map(Row::from);
            None
        }
    })?;
    calm.filter(|calm| calm.calls > 0 && calm.calls < MOST).ok_or_else(|| "no capacity was found".to_owned())
}

fn exceed(scenario: &Scenario, cores: Cores, calm: Row) -> Result<Report, String> {
    let (child, agents) = daemon(cores)?;
    let control = child.control.ok_or("the daemon has no control listener")?;
    let later = agents.try_clone().map_err(|error| error.to_string())?;
    let mut rows: Vec<Row> = Vec::new();
    let arrivals = Arrivals::Crowd { callers: 2 * calm.calls, within: RUSH };
    let (outcome, answers) = with_crowd(scenario, (&child, agents), arrivals, &mut |_, window| {
        rows.extend(window.as_ref().map(Row::from));
        match rows.len() {
            0 => Some(RUSH),
            1..=2 => Some(WINDOW),
            _ => None,
        }
    })?;
    let ended = Instant::now();
    let arrivals = Arrivals::UntilGranted { every: Duration::from_millis(100) };
    let (crowd, _first) = Crowd::start(arrivals, child.address, later, scenario.caller.format);
    while !crowd.is_over() && ended.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    while !get(control, "/readyz?verbose").is_ok_and(|body| body.contains("[+]load ok"))
        && ended.elapsed() < Duration::from_secs(60)
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    let recovery_s = ended.elapsed().as_secs_f64();
    drop(crowd.end());
    Ok(Report {
        capacity: calm.calls,
        calm,
        rush: rows[0],
        beyond: rows[1..].to_vec(),
        granted: (&answers.granted).into(),
        refused: (&answers.refused).into(),
        failed: answers.failed.into_iter().map(|(why, times)| format!("{times} times: {why}")).collect(),
        missing: outcome.missing,
        surplus: outcome.surplus,
        swarm_late: outcome.lag().as_secs_f64() * 1000.0,
        accidents: outcome.accidents.into_iter().collect(),
        recovery_s,
        bars: Vec::new(),
    })
}

impl Report {
    fn judge(&mut self) {
        let bar = |name: &str, figure: f64, most: f64| Bar { name: name.into(), figure, most, holds: figure <= most };
        let most = |calm: f64| (2.0 * calm).max(calm + 2.0);
        let worst = |way: fn(&Row) -> f64| self.beyond.iter().map(way).fold(0.0, f64::max);
        self.bars = vec![
            bar("frames lost", self.missing as f64, 0.0),
            bar("frames that nobody sent", self.surplus as f64, 0.0),
            bar("admitted calls ended, and other accidents", self.accidents.len() as f64, 0.0),
            bar("admitted calls, p99 up, ms", worst(|row| row.up), most(self.calm.up)),
            bar("admitted calls, p99 down, ms", worst(|row| row.down), most(self.calm.down)),
            bar("refusals, p99 ms", self.refused.p99, REFUSAL),
            bar("callers without an answer", self.failed.len() as f64, 0.0),
            bar("recovery, s", self.recovery_s, RECOVERY),
        ];
    }

    fn table(&self) -> String {
        let mut text =
            format!("load {:.1} at the end; swarm late by {:.2} ms\n\n", machine::load_average(), self.swarm_late);
        let mut row = |name: &str, row: &Row| {
            let _ =
                writeln!(text, "{name:<34} {:>4} calls, p99 up {:.2} ms, down {:.2} ms", row.calls, row.up, row.down);
        };
        row("capacity", &self.calm);
        row("twice as many come in 5 s", &self.rush);
        self.beyond.iter().for_each(|beyond| row("they come again each second", beyond));
        for (name, q) in [("let in", &self.granted), ("refused", &self.refused)] {
            let Quantiles { p50, p99, max, count, .. } = q;
            let _ = writeln!(text, "{name:<34} {count:>4} answers, p50 {p50:.2}, p99 {p99:.2}, max {max:.2} ms");
        }
        for told in self.failed.iter().chain(&self.accidents) {
            let _ = writeln!(text, "    {told}");
        }
        let _ = writeln!(text, "recovered after {:.2} s\n", self.recovery_s);
        for Bar { name, figure, most, holds } in &self.bars {
            let _ =
                writeln!(text, "{} {name}: {figure:.2} (at most {most:.2})", if *holds { "ok    " } else { "MISSED" });
        }
        text
    }
}
