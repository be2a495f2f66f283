//! QUIC and WebTransport, with the real binary.

mod harness;

use std::time::Duration;

use harness::quic::{Client, End, endpoints, start, tone};
use harness::{Daemon, PATIENCE};
use serde_json::json;
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
