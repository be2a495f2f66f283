//! QUIC and WebTransport, with the real binary.

mod harness;

use std::time::Duration;

use harness::quic::{Client, End, endpoints, start, tone};
use harness::{Daemon, PATIENCE};
use serde_json::{Value, json};
use tokio::time::Instant;

const PCM16: u8 = 96;

#[tokio::test]
async fn a_caller_hears_itself_in_datagrams_and_hangs_up() {
    let daemon = Daemon::start(&[]).await;
    let told = endpoints(&daemon).await;
    assert_eq!(told["quic"]["addr"], daemon.quic.unwrap().to_string());
    assert_eq!(told["webtransport"]["url"], format!("https://{}/v1/session", daemon.quic.unwrap()));
    let client = Client::connect(&daemon).await;
    let mut session = client.open(5, &start("echo")).await;
    let started = session.hear_type("started").await;
    assert_eq!(started["audio"]["flow"], 5);
    let mut sent = Vec::new();
    let mut heard = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut last = None;
    let begun = Instant::now();
    while heard.len() < 50 * 640 && begun.elapsed() < PATIENCE {
        tokio::select! {
            _ = ticks.tick() => {
                let number = sent.len() as u32 / 640;
                let frame = tone(440.0, number);
                client.speak(5, session.header(PCM16, number * 320), &frame);
                sent.extend_from_slice(&frame);
            }
            (flow, packet) = client.datagram() => {
                assert_eq!((flow, packet.header.payload_type, packet.payload.len()), (5, PCM16, 640));
                if let Some((seq, timestamp)) = last {
                    assert_eq!(packet.header.seq, seq + 1);
                    assert_eq!(packet.header.timestamp, timestamp + 320);
                }
                last = Some((packet.header.seq, packet.header.timestamp));
                heard.extend_from_slice(&packet.payload);
            }
        }
    }
    let at = sent.windows(640).position(|window| window == &heard[..640]).expect("nothing of what was said");
    assert!(heard == sent[at..at + heard.len()], "every sample as it was said");
    session.say(&json!({ "type": "end" })).await;
    let (messages, end, code) = session.hear_out().await;
    let ended = messages.last().unwrap();
    assert_eq!((ended["type"].as_str(), ended["reason"].as_str()), (Some("ended"), Some("client_hangup")));
    assert_eq!((end, code), (End::Finished, Some(1000)));
    assert_eq!(daemon.metric("antiphon_sessions_ended_total", "transport=\"quic\"").await, 1.0);
    assert!(daemon.metric("antiphon_added_latency_seconds_count", "transport=\"quic\"").await > 50.0);
}

/// Runs the client on aioquic, which shares no code with ours; `.venv` comes from `./setup`.
async fn aioquic(arguments: &[&str]) -> Value {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/quic/aioquic_call.py");
    let output = tokio::process::Command::new(python).arg(script).args(arguments).output();
    let output = output.await.expect("run ./setup first: it makes .venv");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

async fn aioquic_holds_a_spoken_call(mode: &str) {
    let daemon = Daemon::start(&[]).await;
    let pin = endpoints(&daemon).await[mode]["cert_sha256"].as_str().unwrap().to_owned();
    let speech = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/speech.ogg");
    let seen = aioquic(&[mode, &daemon.quic.unwrap().to_string(), &pin, "echo", speech, "5"]).await;
    println!("{mode}: {seen}");
    assert!(seen["packets"].as_u64().unwrap() > 150, "{seen}");
    assert_eq!((&seen["wrong"], &seen["missing"]), (&json!(0), &json!(0)), "{seen}");
    assert!(seen["compared"].as_u64().unwrap() > 100_000 && seen["loud"].as_f64().unwrap() > 0.4, "{seen}");
    assert_eq!((&seen["stopped"], &seen["ended"]["reason"]), (&json!(1000), &json!("client_hangup")), "{seen}");
    let labels = format!("transport=\"{mode}\"");
    assert_eq!(daemon.metric("antiphon_sessions_ended_total", &labels).await, 1.0);
    assert_eq!(daemon.metric("antiphon_uplink_lost_packets_total", &labels).await, 0.0);
}

#[tokio::test]
async fn aioquic_holds_a_spoken_call_over_quic() {
    aioquic_holds_a_spoken_call("quic").await;
}

#[tokio::test]
async fn aioquic_holds_a_spoken_call_over_webtransport() {
    aioquic_holds_a_spoken_call("webtransport").await;
}

#[tokio::test]
async fn webtransport_is_refused_to_foreign_pages_and_at_other_paths() {
    let daemon = Daemon::start(&[]).await;
    let pin = endpoints(&daemon).await["webtransport"]["cert_sha256"].as_str().unwrap().to_owned();
    let address = daemon.quic.unwrap().to_string();
    let refused = async |path, origin| aioquic(&["refused", &address, &pin, path, origin]).await["status"].clone();
    assert_eq!(refused("/v1/session", "https://evil.example").await, 403);
    assert_eq!(refused("/elsewhere", "http://localhost").await, 404);
    assert_eq!(daemon.metric("antiphon_handshakes_refused_total", "reason=\"origin\"").await, 1.0);
}
