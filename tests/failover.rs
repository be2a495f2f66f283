//! Agents that refuse or die, over real sockets.

mod harness;
#[path = "failover/taps.rs"]
mod taps;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::agent::AgentServer;
use harness::{Caller, Daemon, Heard};
use serde_json::json;
use tokio::net::TcpListener;

/// Twenty milliseconds of PCM16 at 24 kHz whose samples all are `value`.
fn frame(value: i16) -> bytes::Bytes {
    value.to_le_bytes().repeat(480).into()
}

#[tokio::test]
async fn a_pool_member_that_refuses_is_left_alone_and_every_call_gets_another_one() {
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = refusing.local_addr().unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = refusing.accept().await {
            counted.fetch_add(1, Relaxed);
            drop(connection);
        }
    });
    let config = format!(
        "[agent.bad]\nkind = \"websocket\"\nurl = \"ws://{address}/\"\n[agent.one]\nkind = \"echo\"\n\
         [agent.two]\nkind = \"echo\"\n[[route]]\nname = \"pool\"\nsticky = \"session\"\nto = [\"bad\", \"one\", \"two\"]\n"
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let began = Instant::now();
    for _ in 0..200 {
        let mut caller = Caller::connect(&daemon).await;
        caller.say(json!({ "type": "start" })).await;
        while !matches!(caller.hear_type("agent").await["status"].as_str(), Some("ready" | "fallback")) {}
        caller.say(json!({ "type": "end" })).await;
        caller.hear_out().await;
    }
    // Five open the breaker; then one probe each 0.5 s at the soonest, with pauses that double.
    let probes = 1 + (began.elapsed().as_secs_f64() / 0.5) as usize;
    let tried = tries.load(Relaxed);
    assert!((5..=5 + probes).contains(&tried), "{tried} tries in {:?}", began.elapsed());
    assert!(tried <= 20, "{tried} tries of about 67 calls that chose it");
    assert!(daemon.metric("antiphon_upstream_attempts_total", "result=\"refused\"").await >= 40.0);
    assert!(daemon.metric("antiphon_breaker_state", "agent=\"bad\"").await >= 1.0);
}

#[tokio::test]
async fn when_the_agent_dies_in_mid_answer_the_next_one_is_heard_within_a_second_and_knows_what_was_said() {
    let (first, second) = (AgentServer::bind().await, AgentServer::bind().await);
    let config = format!(
        "[agent.first]\nkind = \"websocket\"\nurl = \"{}\"\n[agent.second]\nkind = \"websocket\"\nurl = \"{}\"\n\
         [[route]]\nname = \"r\"\nto = \"first\"\nfallback = \"second\"\n",
        first.url(),
        second.url()
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let mut caller = Caller::connect(&daemon).await;
    let pcm = json!({ "codec": "pcm16", "rate": 24000 });
    caller.say(json!({ "type": "start", "audio": { "in": pcm, "out": pcm } })).await;
    let mut agent = first.accept().await;
    agent.begin().await;
    agent
        .say(json!({ "type": "transcript", "item": "u1", "turn": 0, "role": "user", "text": "tell me", "final": true,
                      "start_ms": 0 }))
        .await;
    agent.say(json!({ "type": "turn", "turn": 1, "generation": 0, "phase": "start", "pos": 0 })).await;
    agent
        .say(
            json!({ "type": "transcript", "item": "a1", "turn": 1, "role": "agent", "text": "once upon", "final": false,
                      "start_ms": 0 }),
        )
        .await;
    for _ in 0..5 {
        agent.speak(frame(1)).await;
    }
    while !matches!(caller.hear().await, Heard::Audio(_)) {}
    let died = Instant::now();
    drop(agent);
    let mut agent = second.accept().await;
    let start = agent.begin().await;
    assert_eq!(
        start["history"],
        json!([{ "role": "user", "text": "tell me" }, { "role": "agent", "text": "once upon" }])
    );
    let prompt = start["setup"]["greeting"]["prompt"].as_str().unwrap_or_default();
    assert!(prompt.contains("Do not greet"), "{start}");
    for _ in 0..5 {
        agent.speak(frame(2)).await;
    }
    let heard_at = loop {
        if let Heard::Audio(audio) = caller.hear().await
            && audio[..2] == 2i16.to_le_bytes()
        {
            break died.elapsed();
        }
    };
    assert!(heard_at < Duration::from_secs(1), "{heard_at:?}");
    caller.say(json!({ "type": "end" })).await;
    let (messages, code) = caller.hear_out().await;
    assert_eq!(code, 1000, "the call was the same one all the time: {messages:?}");
    let record = daemon.call_record().await;
    assert_eq!(record["agents"].as_array().map(Vec::len), Some(2), "{record}");
}
