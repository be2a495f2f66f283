//! Many calls at once against a daemon of its own, measured from outside; exits with 1 if a bar is missed.
//!
//! The daemon runs on one core with one worker, the swarm on another. The floor is a bare WebSocket proxy under the same
//! swarm in the same run, because absolute figures depend on the machine.
#![allow(missing_docs, reason = "a program, not a library")]

#[path = "../benches/measure/allocations.rs"]
mod allocations;
mod bare;
mod chaos;
mod child;
mod ends;
mod floor;
mod machine;
mod material;
mod measure;
mod overload;
mod progress;
mod quic;
mod report;
mod rude;
mod servers;
mod swarm;
mod taps;
mod webrtc;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use antiphon::cli::run::RunArgs;
use antiphon::media::format::Format;
use antiphon::runtime::certificate::CertificateHash;
use clap::{Parser, Subcommand, ValueEnum};

use child::{Child, Mode};
use machine::Cores;
use material::{Libopus, Voice};
use measure::Exposition;
use progress::Progress;
use report::{Daemon, LAG, Report, Row, Views};
use rude::Rude;
use swarm::{Edge, Outcome, Scenario, Target};

/// How often a run is repeated in which the swarm itself was late.
const ATTEMPTS: usize = 3;
/// A short load test takes no longer than this.
const SMOKE: Duration = Duration::from_secs(40);
/// Calls and seconds in which allocations are counted.
const COUNTED: (usize, u64) = (20, 3);

/// Many calls at once against a daemon of its own, measured from outside.
#[derive(Parser, Clone, Debug)]
#[command(name = "loadtest", max_term_width = 100, args_conflicts_with_subcommands = true)]
#[command(
    after_long_help = "Bars: no frame lost and no queue drop; added p99 at most the floor + 10 ms each way; CPU of the \
    daemon beyond that of a bare proxy at most 1.4 times libopus alone for the same frames; its own added-latency histogram within 20 % (or one \
    bucket) of the view from outside. With --bad-clients: no other call loses a frame, and added p99 within 2 ms of the run without them. With \
    --taps: p50 each way of calls with bad taps at most 1.05 times that of the others, and no frame lost. With --transport webrtc: CPU per peer of \
    an echo at most 1.5 times a bare str0m loop, at most 200 kB per peer, and to agents p50 at most 0.3 ms and p99 at most 2 ms over such a loop, \
    for Opus that passes through, and for Opus made PCM16 and back, where the loop calls libopus, with as many of the calls as take 60 % of its core. \
    With --chaos and --crowd: p99 at most the larger of twice that of calm and 2 ms more; admissions p99 25 ms; well again in 2 s; refusals p99 50 ms; recovered in 10 s.\n\nExit status: 0 all bars hold, 1 one is missed, 2 it could not run."
)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args, Clone, Debug)]
struct Options {
    /// Calls at once
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u16).range(1..=1000))]
    calls: u16,
    /// How long the daemon is measured
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How long each floor is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    floor_seconds: u64,
    /// Runs of the daemon; the median counts
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    runs: u8,
    /// How callers connect; over WebRTC they speak Opus, and the floor is a bare str0m loop, which to agents that speak PCM16 calls libopus;
    /// over QUIC agents speak Opus too, and the floor is two bare QUIC legs
    #[arg(long, value_enum, default_value_t = Transport::Websocket)]
    transport: Transport,
    /// Over WebRTC: only what the transport costs (echo), or only how late speech reaches an agent, Opus passed through and transcoded
    #[arg(long, value_enum)]
    only: Option<webrtc::Part>,
    /// What callers speak; agents speak PCM16 at 24 kHz
    #[arg(long, value_enum, default_value_t = Codec::Opus)]
    codec: Codec,
    /// Callers tell every 100 ms what their speaker plays
    #[arg(long)]
    reports: bool,
    /// One more run beside clients that never read, send garbage or 10 MB, or stall in the handshake
    #[arg(long)]
    bad_clients: bool,
    /// Instead: calls over WebSocket, PCM16 on both sides, beside a real Redis that is frozen, killed, cut off and fails over,
    /// and while the daemon's control runtime stands still for ten seconds, in three windows each; takes four minutes
    #[arg(long, conflicts_with_all = ["transport", "bad_clients", "smoke", "seconds", "runs", "codec", "reports", "taps", "overload"])]
    chaos: bool,
    #[arg(long, value_enum, requires = "chaos", help = "With --chaos: only this")]
    breakage: Option<chaos::Breakage>,
    /// Instead: as many calls as the daemon lets in, then twice as many, then none
    #[arg(long, conflicts_with_all = ["transport", "bad_clients", "smoke", "seconds", "runs", "codec", "reports", "taps", "overload", "calls", "chaos"])]
    crowd: bool,
    /// Compare calls with taps that never read, talk nonsense or die with calls without, at the same time
    #[arg(long)]
    taps: bool,
    /// Over WebSocket: leave the daemon's steps against overload on, which change the work that a frame costs
    #[arg(long)]
    overload: bool,
    /// Decides when each end speaks
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A short run of few calls, at most 40 s: judges losses and lateness, tells the CPU
    #[arg(long)]
    smoke: bool,
    /// Of the JSON file in target/loadtest
    #[arg(long)]
    name: Option<String>,
}

/// How callers connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// WebSocket.
    Websocket,
    /// WebRTC.
    Webrtc,
    /// QUIC.
    Quic,
}

/// What callers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Codec {
    /// Opus: one decode and one encode per call.
    Opus,
    /// PCM16 at 24 kHz: the daemon passes it through.
    Pcm16,
}

/// The parts that this program starts itself as.
#[derive(Subcommand, Clone, Debug)]
enum Part {
    /// A bare proxy to the agents at an address
    #[command(hide = true)]
    Proxy {
        agents: SocketAddr,
        /// Decode what callers say and encode what agents say
        #[arg(long)]
        codec: bool,
    },
    /// A bare str0m loop that gives audio back, or hands it to the agents at an address as it is
    #[command(hide = true)]
    Bare {
        agents: Option<SocketAddr>,
        #[arg(long)]
        codec: bool,
    },
    /// Two bare QUIC legs to the agents at an address, whose certificate has this hash
    #[command(hide = true)]
    QuicProxy { agents: SocketAddr, pin: CertificateHash },
    /// The daemon, counting its allocations
    #[command(hide = true)]
    Run(RunArgs),
}

fn main() -> ExitCode {
    let Args { part, mut options } = Args::parse();
    let result = match part {
        Some(Part::Proxy { agents, codec }) => {
            floor::run(agents, codec).map_err(|error| error.to_string()).map(|()| true)
        }
        Some(Part::Bare { agents, codec }) => {
            bare::run(agents, codec).map_err(|error| error.to_string()).map(|()| true)
        }
        Some(Part::QuicProxy { agents, pin }) => quic::proxy::run(agents, pin).map(|()| true),
        Some(Part::Run(args)) => {
            let (block, mut blocks) = tokio::sync::mpsc::unbounded_channel();
            child::serve_counter_and_blocks(allocations::count, move |length| {
                let _ = block.send(length);
            });
            return antiphon::app::run_beside(&args, async move {
                while let Some(length) = blocks.recv().await {
                    std::thread::sleep(length);
                }
                std::future::pending().await
            });
        }
        None => {
            if options.smoke {
                (options.calls, options.seconds, options.floor_seconds) = (60, 6, 3);
            }
            match options.transport {
                _ if options.chaos || options.crowd => in_trouble(&options),
                Transport::Websocket if options.taps => LoadTest::new(options).and_then(|test| test.beside_taps()),
                Transport::Websocket => LoadTest::new(options).and_then(|test| test.run()),
                Transport::Webrtc => over_webrtc(&options),
                Transport::Quic => quic::run(options.calls.into(), options.seconds),
            }
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn over_webrtc(options: &Options) -> Result<bool, String> {
    let plan = webrtc::Plan {
        calls: options.calls.into(),
        measured: Duration::from_secs(options.seconds),
        runs: options.runs,
        seed: options.seed,
        hasty: options.smoke,
        only: options.only,
    };
    webrtc::run(plan, options.name.as_deref())
}

fn in_trouble(options: &Options) -> Result<bool, String> {
    let cores = Cores::choose();
    machine::pin(cores.generator).map_err(|error| format!("a core of its own: {error}"))?;
    println!("priority: {}", machine::raise_priority());
    let name = options.name.as_deref().unwrap_or(if options.crowd { "crowd" } else { "chaos" });
    if options.crowd {
        return overload::run(options.seed, cores, name);
    }
    chaos::run(options.calls.into(), options.seed, options.breakage, cores, name)
}

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

struct LoadTest {
    options: Options,
    cores: Cores,
    priority: String,
    progress: Progress,
    agents: TcpListener,
    scenario: Scenario,
}

impl LoadTest {
    fn new(options: Options) -> Result<LoadTest, String> {
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
    fn run(&self) -> Result<bool, String> {
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
    fn beside_taps(&self) -> Result<bool, String> {
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
