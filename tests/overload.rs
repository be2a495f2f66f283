//! A daemon that has more to do than it can.

mod harness;

use std::time::{Duration, Instant};

use harness::{Caller, Daemon, Heard, PATIENCE, get, header, upgrade};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// So little of a core counts as much, that a machine with other things to do can show it.
const CONFIG: &str = r#"
[runtime]
workers = 1
[overload]
cpu = 0.12
lag_ms = 0
[[route]]
name = "costly"
to = "requested"
[route.audio.opus]
complexity = 10
bitrate = 64000
max_bandwidth = "full"
"#;

/// More than so little of a core can carry at any complexity.
const CALLERS: usize = 60;
/// Nobody is kept waiting for a refusal. Generous, because this machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(2);

async fn start(daemon: &Daemon, resume: Option<&str>) -> Result<Caller, u16> {
    let mut caller = Caller::try_connect(daemon).await?;
    let opus = json!({ "codec": "opus", "rate": 48000 });
    let start =
        json!({ "type": "start", "agent": "storyteller", "audio": { "in": opus, "out": opus }, "resume": resume });
    caller.say(start).await;
    Ok(caller)
}

/// Status and `Retry-After` of an upgrade.
async fn knock(daemon: &Daemon) -> (u16, Option<String>) {
    let (_, head) = upgrade(daemon).await;
    (head.split(' ').nth(1).unwrap().parse().unwrap(), header(&head, "retry-after").map(str::to_owned))
}

async fn is_refusing(daemon: &Daemon) -> bool {
    let (status, _, body) = get(daemon.control, "/readyz").await;
    assert_eq!(status == 503, body.contains("[-]load"), "{body}");
    status == 503
}

#[tokio::test]
async fn a_loaded_node_spares_its_encoders_then_refuses_new_calls_keeps_those_it_has_and_recovers() {
    let daemon = Daemon::start_with(Some(CONFIG), &[]).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut talks = JoinSet::new();
    let mut first = start(&daemon, None).await.unwrap();
    let token = first.hear_type("started").await["resume_token"].as_str().unwrap().to_owned();
    let mut admitted = 0;
    while admitted < CALLERS
        && let Ok(mut caller) = start(&daemon, None).await
    {
        admitted += 1;
        let mut stopped = stopped.clone();
        talks.spawn(async move {
            let mut frames = 0_u32;
            loop {
                tokio::select! {
                    _ = stopped.changed() => break,
                    heard = caller.hear() => match heard {
                        Heard::Audio(_) => frames += 1,
                        Heard::Control(message) if message["type"] == "error" => {
                            assert_eq!(message["code"], "overloaded", "{message}");
                            return None;
                        }
                        Heard::Control(_) => {}
                        end => panic!("a running call was ended: {end:?}"),
                    },
                }
            }
            let before = frames;
            while frames == before {
                frames += u32::from(matches!(caller.hear().await, Heard::Audio(_)));
            }
            caller.say(json!({ "type": "end" })).await;
            Some(frames)
        });
    }
    let begun = Instant::now();
    while !is_refusing(&daemon).await {
        assert!(begun.elapsed() < PATIENCE, "nothing is too much for this node");
        tokio::task::yield_now().await;
    }
    assert_eq!(daemon.metric("antiphon_overload_step_active", "complexity").await, 1.0, "encoders were spared first");
    let asked = Instant::now();
    assert_eq!(knock(&daemon).await, (503, Some("5".to_owned())));
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());

    drop(first);
    let way_back = async { while knock(&daemon).await.0 != 101 {} };
    timeout(PATIENCE, way_back).await.expect("the way back is open");
    let mut back = start(&daemon, Some(&token)).await.unwrap();
    back.hear_type("started").await;

    stop.send(true).unwrap();
    let mut held = 0;
    while let Some(frames) = talks.join_next().await {
        held += usize::from(frames.unwrap().is_some());
    }
    assert!(held > 0, "of {admitted} callers none was taken");
    back.say(json!({ "type": "end" })).await;
    let ended = Instant::now();
    while is_refusing(&daemon).await {
        assert!(ended.elapsed() < PATIENCE, "it does not recover");
        tokio::task::yield_now().await;
    }
    Caller::call(&daemon, "echo").await;
    assert!(daemon.log().contains("overload: the step is taken"), "{}", daemon.log());
}
