//! Calls while Redis is frozen, killed, cut off or fails over, and while the daemon's control runtime stands still: what
//! callers hear must be as late as before, and whoever comes new must be answered at once. Audio is passed through: calls that
//! are transcoded would keep the only core so busy that what comes of a lost Redis could not be told from it.

mod breakage;
mod probe;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use crate::child::{Child, Mode};
use crate::machine::{self, Cores};
use crate::material::{AGENT, Voice};
use crate::measure::{Exposition, Quantiles};
use crate::report::{self, Bar};
use crate::swarm::{self, Scenario, Target, Window};
use breakage::{Breaker, Mended};
use probe::Prober;

/// How often each breakage is looked at, each time after a calm window.
const ROUNDS: usize = 3;
/// From what was mended to the next calm window, at least.
const PAUSE: Duration = Duration::from_millis(1500);
/// What comes in between is waited for in steps of this.
const STEP: Duration = Duration::from_millis(250);
/// What an admission may take, 99th percentile in milliseconds.
const ADMISSION: f64 = 25.0;
/// How long the node may take until it is well again, in seconds.
const CONVERGENCE: f64 = 2.0;
/// Each frame and each call is counted by limits that all nodes share; none of them is reached.
const OF_ROUTES: &str = "limits = [\"all\"]";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
pub enum Breakage {
    /// Redis gets a SIGSTOP.
    Frozen,
    /// Redis gets a SIGKILL, and comes back empty.
    Killed,
    /// Nothing comes through to Redis any more, in either direction, and nobody is told.
    Cut,
    /// The primary is killed and the sentinels make the replica one.
    Failover,
    /// The daemon's control runtime does nothing for ten seconds.
    Blocked,
}

impl Breakage {
    const fn name(self) -> &'static str {
        match self {
            Breakage::Frozen => "frozen (SIGSTOP)",
            Breakage::Killed => "killed (SIGKILL)",
            Breakage::Cut => "cut off",
            Breakage::Failover => "failover (Sentinel)",
            Breakage::Blocked => "control blocked 10 s",
        }
    }

    /// How long it is looked at.
    const fn window(self) -> Duration {
        Duration::from_millis(match self {
            Breakage::Frozen | Breakage::Killed | Breakage::Cut => 3000,
            Breakage::Failover => 5000,
            // It is looked at for half a second more.
            Breakage::Blocked => 9500,
        })
    }
}

/// What came of one breakage.
#[derive(Clone, Debug, Serialize)]
struct Row {
    breakage: Breakage,
    /// 99th percentiles, up and down, in milliseconds: calm and rough, by round.
    calm: Vec<[f64; 2]>,
    rough: Vec<[f64; 2]>,
    /// Until the node was well again, in seconds, by round.
    converged: Vec<f64>,
    /// From a connection to the answer to its `start`, in milliseconds, while it was broken and until it was well again.
    admissions: Quantiles,
    /// Admissions that were not answered by `started`.
    refused: u64,
    /// Frames lost or doubled, and accidents.
    losses: u64,
    accidents: Vec<String>,
    /// What limits refused.
    limited: f64,
    /// How late the swarm was itself, 99th percentile in milliseconds.
    swarm_late: f64,
    /// Of its core, what the daemon used.
    cpu: f64,
}

/// Everything.
#[derive(Serialize)]
struct Report {
    calls: usize,
    audio: String,
    rows: Vec<Row>,
    bars: Vec<Bar>,
}

/// Breaks everything in turn, or only this; whether the bars hold.
///
/// # Errors
/// If something cannot be started.
pub fn run(calls: usize, seed: u64, only: Option<Breakage>, cores: Cores, name: &str) -> Result<bool, String> {
    let scenario = Scenario {
        calls,
        measured: Duration::ZERO,
        seed,
        caller: Voice::caller(AGENT).map_err(|error| error.to_string())?,
        agent: Voice::agent(AGENT).map_err(|error| error.to_string())?,
        reports: false,
        tapped: None,
    };
    let wanted = Breakage::value_variants().iter().filter(|breakage| only.is_none_or(|only| only == **breakage));
    let rows = wanted.map(|&breakage| measure(breakage, &scenario, cores)).collect::<Result<Vec<Row>, String>>()?;
    let bars: Vec<Bar> = rows.iter().flat_map(Row::bars).collect();
    let report = Report { calls, audio: AGENT.to_string(), rows, bars };
    let path = report::write(name, &report).map_err(|error| format!("the report: {error}"))?;
    println!("{}written to {}", report.table(), path.display());
    Ok(report.bars.iter().all(|bar| bar.holds))
}

/// `[redis]` and the limits.
fn tables(redis: &str) -> String {
    format!(
        "{redis}[limit.chunks]\nkey = [\"ip\"]\nunit = \"audio_frames\"\nrate = \"1200000/60s\"\n\
         [limit.calls]\nkey = [\"ip\"]\nunit = \"sessions\"\nrate = 1000\n[limits.all]\nuse = [\"chunks\", \"calls\"]\n"
    )
}

fn measure(breakage: Breakage, scenario: &Scenario, cores: Cores) -> Result<Row, String> {
    eprintln!("{}", breakage.name());
    let agents = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = agents.local_addr().map_err(|error| error.to_string())?;
    let mut breaker = Breaker::start(breakage)?;
    let tables = tables(breaker.redis());
    let mode = Mode { counting: breakage == Breakage::Blocked, ..Mode::default() };
    let mut child = Child::daemon_under(cores, address, (OF_ROUTES, &tables), mode)?;
    let control = child.control.ok_or("the daemon has no control listener")?;
    breaker.attend(control);
    breaker.await_well()?;
    let prober = Prober::start(child.address);
    let target = Target { address: child.address, agents: &agents, tells_ready: true, transcodes: true };
    let (before, begun) = (child.metrics()?, Instant::now());
    let mut round = Round::default();
    let mut next = |window| round.next(window, &mut breaker, &mut child, &prober);
    let outcome = swarm::run_in_windows(scenario, target, None, &mut next)?;
    let (admissions, refused) = prober.end();
    let after = child.metrics()?;
    let used = machine::cpu_of(child.id()).map_err(|error| error.to_string())?;
    let Mended { took } = breaker.end()?;
    let limited = |of: &Exposition| of.sum("antiphon_limit_refused_total") + of.sum("antiphon_limit_unleased_total");
    Ok(Row {
        breakage,
        calm: round.calm,
        rough: round.rough,
        converged: took.iter().map(Duration::as_secs_f64).collect(),
        admissions: (&admissions).into(),
        refused,
        losses: outcome.missing + outcome.surplus + outcome.accidents.len() as u64,
        swarm_late: outcome.lag().as_secs_f64() * 1000.0,
        accidents: outcome.accidents.into_iter().collect(),
        limited: limited(&after) - limited(&before),
        cpu: used.as_secs_f64() / begun.elapsed().as_secs_f64(),
    })
}

/// Where in its rounds a measurement is.
#[derive(Debug, Default)]
struct Round {
    stage: Stage,
    calm: Vec<[f64; 2]>,
    rough: Vec<[f64; 2]>,
    paused: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Begin,
    Calm,
    Rough,
    Pause,
}

impl Round {
    fn next(
        &mut self,
        window: Option<Window>,
        breaker: &mut Breaker,
        child: &mut Child,
        prober: &Prober,
    ) -> Option<Duration> {
        let p99 = |window: Option<Window>| {
            window.map_or([f64::NAN; 2], |window| [window.up, window.down].map(|times| Quantiles::from(&times).p99))
        };
        let breakage = breaker.breakage();
        match self.stage {
            Stage::Begin => self.stage = Stage::Calm,
            Stage::Calm => {
                self.calm.push(p99(window));
                self.stage = Stage::Rough;
                match breakage {
                    // Nobody is let in meanwhile: the listener is on the control runtime.
                    Breakage::Blocked => child.block(Duration::from_secs(10)).ok()?,
                    _ => {
                        prober.record(true);
                        breaker.make();
                    }
                }
            }
            Stage::Rough => {
                self.rough.push(p99(window));
                breaker.mend();
                (self.stage, self.paused) = (Stage::Pause, Duration::ZERO);
                return Some(STEP);
            }
            Stage::Pause => {
                self.paused += STEP;
                if self.paused < PAUSE || breaker.is_busy() {
                    return Some(STEP);
                }
                // While it is mended, callers come too.
                prober.record(false);
                if self.rough.len() == ROUNDS {
                    return None;
                }
                self.stage = Stage::Calm;
            }
        }
        Some(breakage.window())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    fn bars(&self) -> Vec<Bar> {
        let name = self.breakage.name();
        let bar = |what: &str, figure: f64, most: f64| Bar {
            name: format!("{name}: {what}"),
            figure,
            most,
            holds: figure <= most,
        };
        let mut bars = vec![bar("frames lost, doubled, or calls ended", self.losses as f64, 0.0)];
        for (way, label) in [(0, "p99 up, ms"), (1, "p99 down, ms")] {
            let calm = median(self.calm.iter().map(|p99| p99[way]));
            let rough = median(self.rough.iter().map(|p99| p99[way]));
            bars.push(bar(label, rough, (2.0 * calm).max(calm + 2.0)));
        }
        if self.breakage != Breakage::Blocked {
            bars.push(bar("admissions, p99 ms", self.admissions.p99, ADMISSION));
            bars.push(bar("admissions not granted", self.refused as f64, 0.0));
        }
        bars.push(bar("refused by limits", self.limited, 0.0));
        bars.push(bar("converged after, s", self.converged.iter().copied().fold(0.0, f64::max), CONVERGENCE));
        bars
    }
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!(
            "{} calls, {} on both sides (passed through, nothing is transcoded), load {:.1} at the end\n\n",
            self.calls,
            self.audio,
            machine::load_average()
        );
        let _ = writeln!(
            text,
            "{:<22} {:>26} {:>26} {:>24} {:>16} {:>8} {:>5}",
            "p99 in ms by window", "calm up", "rough up", "admissions p50/p99/max", "converged s", "swarm", "CPU"
        );
        for row in &self.rows {
            let list = |all: &[[f64; 2]], way: usize| {
                all.iter().map(|p99| format!("{:.2}", p99[way])).collect::<Vec<_>>().join(" / ")
            };
            let q = &row.admissions;
            let converged: Vec<String> = row.converged.iter().map(|s| format!("{s:.2}")).collect();
            let _ = writeln!(
                text,
                "{:<22} {:>26} {:>26} {:>24} {:>16} {:>8.2} {:>4.0}%",
                row.breakage.name(),
                list(&row.calm, 0),
                list(&row.rough, 0),
                format!("{:.1} / {:.1} / {:.1} ({})", q.p50, q.p99, q.max, q.count),
                converged.join(" "),
                row.swarm_late,
                100.0 * row.cpu
            );
            let _ = writeln!(text, "{:<22} {:>26} {:>26}", "   down", list(&row.calm, 1), list(&row.rough, 1));
            if !row.accidents.is_empty() {
                let _ = writeln!(text, "    {:?}", row.accidents);
            }
        }
        text.push('\n');
        for Bar { name, figure, most, holds } in &self.bars {
            let _ =
                writeln!(text, "{} {name}: {figure:.2} (at most {most:.2})", if *holds { "ok    " } else { "MISSED" });
        }
        text
    }
}
