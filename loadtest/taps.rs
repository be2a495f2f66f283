//! Calls with and without taps at the same time: taps that do everything wrong must not be noticed by the calls they are on.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use antiphon::dialect::native::SUBPROTOCOL;
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::child::Child;
use crate::machine::{Cores, lower_priority};
use crate::measure::{Exposition, histogram};
use crate::progress::Progress;
use crate::report::LAG;
use crate::swarm::{self, Edge, Outcome, Scenario, Target};
use crate::websocket::ATTEMPTS;

/// How much later a tapped call's frames may come than those of other calls, 50th percentile.
const MOST: f64 = 1.05;
/// Windows of a run.
const WINDOWS: u32 = 4;
/// The receive buffer of the tap that never reads, in bytes.
const SMALL: u32 = 4096;

/// Three taps, where the daemon finds them: one that never reads, one that talks nonsense without end, one that dies.
pub struct BadTaps {
    /// In that order.
    pub addresses: [SocketAddr; 3],
    _runtime: tokio::runtime::Runtime,
}

impl BadTaps {
    fn start() -> std::io::Result<BadTaps> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(lower_priority)
            .enable_all()
            .build()?;
        let _entered = runtime.enter();
        let mut addresses = Vec::new();
        for tap in [never_reads as fn(TcpStream), talks_nonsense, dies] {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(SMALL)?;
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            let listener = socket.listen(1024)?;
            addresses.push(listener.local_addr()?);
            runtime.spawn(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    tap(tcp);
                }
            });
        }
        let addresses = addresses.try_into().map_err(|_| std::io::Error::other("three taps"))?;
        Ok(BadTaps { addresses, _runtime: runtime })
    }
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn begin(tcp: TcpStream) -> Result<Socket, Error> {
    #[allow(clippy::result_large_err, reason = "the library's signature")]
    let choose = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        Ok(response)
    };
    let mut socket = accept_hdr_async(tcp, choose).await?;
    socket.next().await.transpose()?;
    socket.send(Message::text(r#"{"type":"started"}"#)).await?;
    Ok(socket)
}

fn never_reads(tcp: TcpStream) {
    tokio::spawn(async move {
        let _socket = begin(tcp).await;
        std::future::pending::<()>().await;
    });
}

fn talks_nonsense(tcp: TcpStream) {
    tokio::spawn(async move {
        let talking: Result<std::convert::Infallible, Error> = talk_nonsense(tcp).await;
        drop(talking);
    });
}

async fn talk_nonsense(tcp: TcpStream) -> Result<std::convert::Infallible, Error> {
    let (mut socket, mut heard) = begin(tcp).await?.split();
    tokio::spawn(async move { while let Some(Ok(_)) = heard.next().await {} });
    loop {
        socket.send(Message::text(r#"{"type":"nonsense","data":[1,2,3,"\u0000"]}"#)).await?;
        socket.send(Message::binary(vec![7; 333])).await?;
    }
}

fn dies(tcp: TcpStream) {
    tokio::spawn(async move { begin(tcp).await.map(drop) });
}

/// Calls in the same situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// Nobody is tapped.
    Alone,
    /// Not tapped, at the same time as others that are.
    Beside,
    /// Tapped.
    Tapped,
}

/// What was measured of all windows together.
struct Sum {
    /// By group; up and down.
    times: [[Histogram<u64>; 2]; 3],
    dropped: f64,
    lost: f64,
    accidents: Vec<String>,
    lag: Duration,
}

impl Sum {
    fn new() -> Sum {
        let times = std::array::from_fn(|_| [histogram(), histogram()]);
        Sum { times, dropped: 0.0, lost: 0.0, accidents: Vec::new(), lag: Duration::ZERO }
    }

    fn add(&mut self, tapped: bool, outcome: Outcome, before: &Exposition, after: &Exposition) {
        let risen = |name: &str, label: &str| {
            let series = after.risen_since(before, name).into_iter().filter(|(series, _)| series.contains(label));
            series.map(|(_, count)| count).sum::<f64>()
        };
        self.dropped += risen("antiphon_queue_dropped_audio_seconds_total", "queue=\"tap\"");
        self.lost += risen("antiphon_tap_events_total", "event=\"lost\"");
        self.lag = self.lag.max(outcome.lag());
        if outcome.missing + outcome.surplus > 0 {
            self.accidents.push(format!("{} frames lost, {} doubled", outcome.missing, outcome.surplus));
        }
        self.accidents.extend(outcome.accidents);
        let others = if tapped { Group::Beside } else { Group::Alone };
        for (group, new) in [(others, [outcome.up, outcome.down]), (Group::Tapped, outcome.tapped)] {
            for (sum, new) in self.times[group as usize].iter_mut().zip(&new) {
                // All have the same bounds.
                let _ = sum.add(new);
            }
        }
    }

    /// In milliseconds.
    fn at(&self, group: Group, direction: usize, quantile: f64) -> f64 {
        self.times[group as usize][direction].value_at_quantile(quantile) as f64 / 1e6
    }
}

/// Measures, tells, and says whether the bars hold. A run is four short windows, so that what else the machine does
/// meets all of them alike: half of the calls tapped, none, the other half, none. When in its 20 ms a call speaks
/// decides behind which others it waits; so all four have the same calls, and each of them is tapped in one.
///
/// # Errors
/// If it cannot be measured.
pub fn run(scenario: &Scenario, agents: &TcpListener, cores: Cores, runs: u8) -> Result<bool, String> {
    let progress = Progress::start();
    let taps = BadTaps::start().map_err(|error| error.to_string())?;
    let mut sum = Sum::new();
    for run in 0..u64::from(runs) {
        for tapped in [Some(0), None, Some(1), None] {
            progress.begin(if tapped.is_some() { "half of the calls tapped" } else { "no call tapped" });
            let measured = scenario.measured / WINDOWS;
            let scenario = Scenario { tapped, seed: scenario.seed + run, measured, ..scenario.clone() };
            window(&scenario, agents, cores, &taps, &progress, &mut sum)?;
        }
    }
    drop(progress);
    println!("{} calls, of which half have four connections of bad taps each", scenario.calls);
    Ok(tell(&sum))
}

/// Measures one window, and again if the swarm itself was late.
fn window(
    scenario: &Scenario,
    agents: &TcpListener,
    cores: Cores,
    taps: &BadTaps,
    progress: &Progress,
    sum: &mut Sum,
) -> Result<(), String> {
    for attempt in 1.. {
        let address = agents.local_addr().map_err(|error| error.to_string())?;
        let child = Child::tapped_daemon(cores, address, taps)?;
        let target = Target { address: child.address, agents, tells_ready: true, transcodes: true };
        let mut metrics = Vec::new();
        let outcome = swarm::run(scenario, target, progress, &mut |edge| {
            if matches!(edge, Edge::Settled | Edge::Drained) {
                metrics.extend(child.metrics().ok());
            }
        })?;
        let Ok([before, after]) = <[Exposition; 2]>::try_from(metrics) else {
            return Err("/metrics did not answer".into());
        };
        if outcome.lag() <= LAG || attempt == ATTEMPTS {
            sum.add(scenario.tapped.is_some(), outcome, &before, &after);
            break;
        }
        eprintln!("the swarm was late itself (p99 {:?}): measuring this window again", outcome.lag());
    }
    Ok(())
}

fn tell(sum: &Sum) -> bool {
    let mut holds = true;
    for (index, direction) in ["up", "down"].into_iter().enumerate() {
        for group in [Group::Alone, Group::Beside, Group::Tapped] {
            let times = &sum.times[group as usize][index];
            let (p50, p99) = (sum.at(group, index, 0.5), sum.at(group, index, 0.99));
            let (frames, mean) = (times.len(), times.mean() / 1e6);
            println!("{direction:>5} {group:?}: {frames} frames, p50 {p50:.3} ms, mean {mean:.3}, p99 {p99:.3}");
        }
        let to = |than, quantile| sum.at(Group::Tapped, index, quantile) / sum.at(than, index, quantile);
        let (p50, p99) = (to(Group::Beside, 0.5), to(Group::Beside, 0.99));
        holds &= p50 <= MOST;
        println!("{direction:>5} tapped to others at the same time: p50 {p50:.3} (at most {MOST}), p99 {p99:.3}");
        let (p50, p99) = (to(Group::Alone, 0.5), to(Group::Alone, 0.99));
        println!("{direction:>5} tapped to windows without any tap (no bar): p50 {p50:.3}, p99 {p99:.3}");
    }
    let Sum { dropped, lost, accidents, lag, .. } = sum;
    println!(
        "dropped for taps: {dropped:.1} s; taps lost: {lost}; accidents: {accidents:?}; the swarm's own lag, p99: {lag:?}"
    );
    holds && *dropped > 0.0 && *lost > 0.0 && accidents.is_empty()
}

/// The part of the configuration that brings the taps.
pub fn configuration(taps: &BadTaps) -> String {
    let [stuck, nonsense, dying] = taps.addresses;
    format!(
        r#"[agent.stuck]
kind = "websocket"
url = "ws://{stuck}/"
[agent.nonsense]
kind = "websocket"
url = "ws://{nonsense}/"
[agent.dying]
kind = "websocket"
url = "ws://{dying}/"
[[route]]
name = "tapped"
match.agent = "tapped"
to = "swarm"
taps = [{{ agent = "stuck" }}, {{ agent = "nonsense" }}, {{ agent = "dying", hear = ["caller", "agent"] }}]
"#
    )
}
