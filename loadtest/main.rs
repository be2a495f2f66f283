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
mod poller;
mod progress;
mod quic;
mod report;
mod rude;
mod servers;
mod swarm;
mod taps;
mod webrtc;
mod websocket;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use antiphon::cli::run::RunArgs;
use antiphon::runtime::certificate::CertificateHash;
use clap::{Parser, Subcommand, ValueEnum};

use machine::Cores;
use websocket::LoadTest;

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
