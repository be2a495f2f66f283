//! Calls over WebSocket: the daemon between a bare proxy, a proxy with libopus and rude clients, all under the same swarm.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use antiphon::media::format::Format;

use crate::child::{Child, Mode};
use crate::machine::{self, Cores};
use crate::material::{self, Libopus, Voice};
use crate::measure::Exposition;
use crate::progress::Progress;
use crate::report::{self, Daemon, LAG, Report, Row, Views};
use crate::rude::{self, Rude};
use crate::swarm::{self, Edge, Outcome, Scenario, Target};
use crate::{Codec, Options, taps};

/// How often a run is repeated in which the swarm itself was late.
pub const ATTEMPTS: usize = 3;
/// A short load test takes no longer than this.
const SMOKE: Duration = Duration::from_secs(40);
/// Calls and seconds in which allocations are counted.
const COUNTED: (usize, u64) = (20, 3);

/// What is under the swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    Proxy { codec: bool },
    Daemon,
    CountingDaemon,
}

/// One measurement, and what was asked of the process meanwhile.
struct Measured {
    outcome: Outcome,
    cpu: Duration,
    kb_per_call: f64,
    metrics: Option<(Exposition, Exposition)>,
    counted: u64,
    rude: rude::Ends,
}

/// One load test over WebSocket.
pub struct LoadTest {
    options: Options,
    cores: Cores,
    priority: String,
    progress: Progress,
    agents: TcpListener,
    scenario: Scenario,
}

impl LoadTest {
    /// Takes a core and a port for the agents, and makes what is said.
    ///
    /// # Errors
    /// If there is none, or the voices cannot be encoded.
    pub fn new(options: Options) -> Result<LoadTest, String> {
        let progress = Progress::start();
        let cores = Cores::choose();
        machine::pin(cores.generator).map_err(|error| format!("a core of its own: {error}"))?;
        let format = match options.codec {
            Codec::Opus => Format::OPUS,
            Codec::Pcm16 => material::AGENT,
        };
        let scenario = Scenario {
            calls: options.calls.into(),
            measured: Duration::from_secs(options.seconds),
            seed: options.seed,
            caller: Voice::caller(format).map_err(|error| error.to_string())?,
            agent: Voice::agent(material::AGENT).map_err(|error| error.to_string())?,
            reports: options.reports,
            tapped: None,
        };
        let agents = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let priority = machine::raise_priority();
        Ok(LoadTest { options, cores, priority, progress, agents, scenario })
    }

    /// Measures, tells, and says whether the bars hold. A short test is repeated once if there is time for it.
    ///
    /// # Errors
    /// If something could not be measured.
    pub fn run(&self) -> Result<bool, String> {
        let begun = Instant::now();
        let name = self.options.name.clone().unwrap_or_else(|| self.default_name());
        loop {
            let before = begun.elapsed();
            let mut report = self.measure_all()?;
            report.judge(self.options.smoke);
            let path = report::write(&name, &report).map_err(|error| format!("the report: {error}"))?;
            println!("{}\nwritten to {}", report.table(), path.display());
            let took = begun.elapsed() - before;
            if report.passed() || !self.options.smoke || begun.elapsed() + took > SMOKE {
                return Ok(report.passed());
            }
            println!("a bar is missed: measuring again\n");
        }
    }

    /// Measures calls with and without taps at the same time, tells, and says whether the bars hold.
    ///
    /// # Errors
    /// If something could not be measured.
    pub fn beside_taps(&self) -> Result<bool, String> {
        taps::run(&self.scenario, &self.agents, self.cores, self.options.runs)
    }

    fn default_name(&self) -> String {
        let codec = if self.options.codec == Codec::Opus { "opus" } else { "pcm16" };
        let kind = if self.options.smoke { "smoke" } else { codec };
        format!("{kind}{}", if self.options.bad_clients { "-bad-clients" } else { "" })
    }

    fn measure_all(&self) -> Result<Report, String> {
        let opus = self.options.codec == Codec::Opus;
        let floor_time = Duration::from_secs(self.options.floor_seconds);
        let floor = self.patiently("bare proxy", Under::Proxy { codec: false }, floor_time)?;
        let (mut codec_floor, mut libopus, mut in_proxy) = (None, None, None);
        if opus {
            let measured = self.patiently("proxy with libopus", Under::Proxy { codec: true }, floor_time)?;
            in_proxy = Some(measured.counted as f64 / 1e6);
            codec_floor = Some(row("proxy with libopus", &measured));
            libopus = Some(self.libopus()?);
        }
        let mut daemon = Vec::new();
        for run in 1..=self.options.runs {
            let measured = self.patiently("the daemon", Under::Daemon, self.scenario.measured)?;
            daemon.push(judge_inside(&format!("antiphon, run {run}"), &measured));
        }
        if let Some(before) = libopus {
            libopus = Some(before.mean(self.libopus()?));
        }
        let beside_rude = if self.options.bad_clients { Some(self.beside_rude()?) } else { None };
        let mut report = Report {
            scenario: self.describe_scenario(),
            machine: self.describe_machine(),
            floor: row("bare proxy (the floor)", &floor),
            codec_floor,
            libopus,
            libopus_in_proxy_ms: in_proxy,
            daemon,
            beside_rude,
            allocations_per_frame: None,
            bars: Vec::new(),
            calls: self.scenario.calls,
        };
        report.allocations_per_frame = Some(self.allocations()?);
        Ok(report)
    }

    fn libopus(&self) -> Result<Libopus, String> {
        self.progress.begin("libopus alone");
        machine::pin(self.cores.daemon).map_err(|error| error.to_string())?;
        let frames = if self.options.smoke { 50 } else { 100 };
        let measured = Libopus::measure(self.scenario.calls, frames, &self.scenario.caller, &self.scenario.agent);
        machine::pin(self.cores.generator).map_err(|error| error.to_string())?;
        measured.map_err(|error| format!("libopus: {error}"))
    }

    fn beside_rude(&self) -> Result<(Daemon, rude::Ends), String> {
        self.progress.begin("beside rude clients");
        let measured = self.measure(Under::Daemon, &self.scenario, true)?;
        Ok((judge_inside("antiphon, rude clients", &measured), measured.rude))
    }

    fn allocations(&self) -> Result<f64, String> {
        self.progress.begin("counting allocations");
        let scenario = Scenario {
            calls: self.scenario.calls.min(COUNTED.0),
            measured: Duration::from_secs(COUNTED.1),
            ..self.scenario.clone()
        };
        let measured = self.measure(Under::CountingDaemon, &scenario, false)?;
        let (up, down) = measured.outcome.frames;
        Ok(measured.counted as f64 / (up + down) as f64)
    }

    /// Measures, and again if the swarm itself was late.
    fn patiently(&self, name: &str, under: Under, time: Duration) -> Result<Measured, String> {
        let scenario = Scenario { measured: time, ..self.scenario.clone() };
        for attempt in 1.. {
            self.progress.begin(name);
            let measured = self.measure(under, &scenario, false)?;
            let lag = measured.outcome.lag();
            if lag <= LAG || attempt == ATTEMPTS || self.options.smoke {
                return Ok(measured);
            }
            eprintln!("the swarm was late itself (p99 {lag:?}) against {name}: measuring again");
        }
        unreachable!("the last attempt returns")
    }

    fn measure(&self, under: Under, scenario: &Scenario, rude: bool) -> Result<Measured, String> {
        let agents = self.agents.local_addr().map_err(|error| error.to_string())?;
        let mut child = match under {
            Under::Proxy { codec } => Child::proxy(self.cores, agents, codec)?,
            Under::Daemon | Under::CountingDaemon => {
                let (counting, overload) = (under == Under::CountingDaemon, self.options.overload);
                Child::daemon(self.cores, agents, Mode { counting, overload, opus: false })?
            }
        };
        let counts = matches!(under, Under::Proxy { codec: true } | Under::CountingDaemon);
        let target = Target {
            address: child.address,
            agents: &self.agents,
            tells_ready: !matches!(under, Under::Proxy { .. }),
            transcodes: !matches!(under, Under::Proxy { codec: false }),
        };
        let before = machine::resident(child.id());
        let rude = rude.then(|| Rude::start(child.address));
        let (mut cpu, mut resident, mut counted, mut metrics) = (Vec::new(), 0, Vec::new(), Vec::new());
        let outcome = swarm::run(scenario, target, &self.progress, &mut |edge| match edge {
            Edge::First => {}
            Edge::Settled => metrics.extend(child.metrics().ok()),
            Edge::Begin | Edge::End => {
                cpu.push(machine::cpu_of(child.id()).unwrap_or_default());
                if counts {
                    counted.extend(child.count());
                }
            }
            Edge::Drained => {
                metrics.extend(child.metrics().ok());
                resident = machine::resident(child.id());
            }
        });
        let rude = rude.map(Rude::end).unwrap_or_default();
        let outcome = outcome?;
        let metrics = match <[Exposition; 2]>::try_from(metrics) {
            Ok([before, after]) => Some((before, after)),
            Err(_) if under == Under::Daemon => return Err("/metrics did not answer".into()),
            Err(_) => None,
        };
        Ok(Measured {
            outcome,
            cpu: cpu.last().zip(cpu.first()).map_or(Duration::ZERO, |(end, begin)| end.saturating_sub(*begin)),
            kb_per_call: resident.saturating_sub(before) as f64 / 1024.0 / scenario.calls as f64,
            metrics,
            counted: counted.last().zip(counted.first()).map_or(0, |(end, begin)| end - begin),
            rude,
        })
    }

    fn describe_scenario(&self) -> BTreeMap<&'static str, String> {
        let Options { calls, seconds, seed, reports, overload, .. } = self.options;
        let caller = self.scenario.caller.format;
        [
            ("calls", format!("{calls} over WebSocket, {seconds} s, both sides talking, frames of 20 ms, seed {seed}")),
            ("formats", format!("callers {caller}, agents {}", material::AGENT)),
            ("encoder", "libopus voip, complexity 1, 48 kb/s, wideband".to_owned()),
            ("overload", if overload { "steps are taken" } else { "no steps are taken" }.to_owned()),
            ("callers", if reports { "tell what they play" } else { "answer pings, tell nothing" }.to_owned()),
        ]
        .into()
    }

    fn describe_machine(&self) -> BTreeMap<&'static str, String> {
        let Cores { daemon, generator } = self.cores;
        let apart = if self.cores.are_apart() { "" } else { " (the same: figures are too high)" };
        [
            ("cores", format!("daemon with one worker on {daemon}, swarm on {generator}{apart}")),
            ("priority", self.priority.clone()),
            ("load", format!("{:.1} at the end", machine::load_average())),
        ]
        .into()
    }
}

fn row(name: &str, measured: &Measured) -> Row {
    Row::new(name, &measured.outcome, measured.cpu, measured.kb_per_call)
}

/// What the daemon says of itself.
fn judge_inside(name: &str, measured: &Measured) -> Daemon {
    const COUNTERS: [&str; 5] = [
        "antiphon_queue_dropped_audio_seconds_total",
        "antiphon_queue_dropped_total",
        "antiphon_uplink_lost_packets_total",
        "antiphon_concealed_seconds_total",
        "antiphon_filled_seconds_total",
    ];
    let row = row(name, measured);
    let (mut drops, mut views) = (Vec::new(), Vec::new());
    if let Some((before, after)) = &measured.metrics {
        drops.extend(COUNTERS.iter().flat_map(|name| after.risen_since(before, name)));
        for (direction, label, outside) in
            [("up", "direction=\"up\"", &row.up), ("down", "direction=\"down\"", &row.down)]
        {
            let buckets = after.buckets_since(before, "antiphon_added_latency_seconds", &[label]);
            views.push(Views::new(direction, &buckets, outside));
        }
    }
    Daemon { row, drops, views }
}
