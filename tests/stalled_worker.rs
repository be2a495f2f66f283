//! A worker that is held up shows in the added latency, although TCP gives no receive stamp.

use std::sync::Arc;
use std::time::Duration;

use antiphon::config::settings::Settings;
use antiphon::ingress;
use antiphon::runtime::admission::keyring::Keyrings;
use antiphon::runtime::clock::Clock;
use antiphon::runtime::node::{InForce, Node};
use antiphon::runtime::worker::Workers;
use antiphon::telemetry::{CallRecordSink, CallRecordTarget, Telemetry};
use antiphon::upstream::exchange::Exchanges;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const FRAME: Duration = Duration::from_millis(20);
const FRAMES: u32 = 150;

/// Sends audio in real time to a daemon with one worker, which is blocked for 20 ms out of every 50 if `stalls`, and
/// gives the 90th percentile of the uplink's added latency in the daemon's own histogram, by its buckets.
async fn p90_of_uplink(stalls: bool) -> f64 {
    let clock = Clock::start();
    let mut workers = Workers::start(1, clock).unwrap();
    let ends = workers.take_ends();
    let telemetry = Telemetry::new();
    let records = CallRecordSink::open(CallRecordTarget::Log, &telemetry).unwrap();
    let exchanges = Exchanges::on(Handle::current());
    let keyrings = Keyrings::new(exchanges.clone(), telemetry.clone());
    let in_force = InForce::new(Settings::default(), &keyrings).unwrap();
    let all = workers.all().to_vec();
    let node = Arc::new(Node::new(clock, in_force, telemetry.clone(), all, records, exchanges, keyrings).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(ingress::accept::accept(node, None, listener));

    let mut request = format!("ws://{address}/v1/session").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "antiphon.v1".parse().unwrap());
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
    let pcm = json!({ "codec": "pcm16", "rate": 16_000 });
    let start = json!({ "type": "start", "agent": "echo", "audio": { "in": pcm, "out": pcm } });
    socket.send(Message::text(start.to_string())).await.unwrap();
    loop {
        let Some(Ok(Message::Text(text))) = socket.next().await else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        if message["type"] == "agent" && message["status"] == "ready" {
            break;
        }
    }
    let worker = workers.all()[0].clone();
    let mut pace = tokio::time::interval(FRAME);
    for n in 0..FRAMES {
        pace.tick().await;
        if stalls && n % 2 == 0 {
            // On the worker's own thread: everything that arrives meanwhile waits in the kernel.
            let held_up = Box::pin(async { std::thread::sleep(Duration::from_millis(20)) });
            worker.try_run(held_up).unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        socket.send(Message::binary(vec![0; 640])).await.unwrap();
    }
    socket.send(Message::text(r#"{"type":"end"}"#)).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    let text = telemetry.render();
    accepting.abort();
    workers.stop().cancel();
    for end in ends {
        let _ = end.await;
    }
    quantile(&text, r#"antiphon_added_latency_seconds_bucket{direction="up","#, 0.9)
}

/// The upper bound of the bucket in which a quantile lies.
fn quantile(text: &str, series: &str, q: f64) -> f64 {
    let mut buckets = std::collections::BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with(series)) {
        let (labels, count) = line.rsplit_once(' ').unwrap();
        let bound = labels.split("le=\"").nth(1).unwrap().trim_end_matches("\"}");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
        *buckets.entry((bound * 1e6) as u64).or_insert(0.0) += count.parse::<f64>().unwrap();
    }
    let all = *buckets.values().next_back().expect("the histogram is there");
    assert_eq!(all, f64::from(FRAMES), "each frame is counted once");
    let (bound, _) = buckets.iter().find(|(_, count)| **count >= q * all).unwrap();
    *bound as f64 / 1e6
}

#[tokio::test]
async fn a_worker_that_is_blocked_for_20_ms_shows_in_the_histogram_of_added_latency() {
    let stalled = p90_of_uplink(true).await;
    assert!(stalled >= 0.010, "half of the frames arrive within a stall of 20 ms: p90 is {stalled} s");
    let calm = p90_of_uplink(false).await;
    assert!(calm < stalled, "without the stalls it is less: {calm} s");
}
