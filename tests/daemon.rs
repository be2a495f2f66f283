//! The life of the daemon: start, signals, reload, end.

mod harness;

use std::time::{Duration, Instant};

use harness::{Caller, Daemon, Heard, get, run};
use serde_json::json;
use tokio::net::TcpListener;

#[tokio::test]
async fn a_ready_daemon_says_so_and_what_it_offers() {
    let daemon = Daemon::start(&[]).await;
    let (status, _, body) = get(daemon.control, "/livez").await;
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    let (status, _, body) = get(daemon.control, "/readyz?verbose").await;
    assert_eq!(status, 200);
    assert!(body.contains("[+]worker-0 ok") && body.contains("[+]draining ok"), "{body}");
    let (_, head, body) = get(daemon.http, "/v1/endpoints").await;
    assert!(head.contains("application/json"), "{head}");
    let endpoints: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(endpoints["websocket"], format!("ws://{}/v1/session", daemon.http));
    let (status, head, body) = get(daemon.http, "/nothing").await;
    assert_eq!((status, head.contains("application/problem+json")), (404, true), "{body}");
    assert_eq!(get(daemon.http, "/v1/session").await.0, 426);
    assert_eq!(get(daemon.http, "/metrics").await.0, 404, "metrics are for the operator");
}

#[tokio::test]
async fn an_unknown_agent_is_refused_by_name() {
    let daemon = Daemon::start(&[]).await;
    let mut caller = Caller::connect(&daemon).await;
    caller.say(json!({ "type": "start", "agent": "nobody" })).await;
    let (messages, code) = caller.hear_out().await;
    assert_eq!((code, &messages[0]["code"], &messages[0]["field"]), (4404, &json!("not_found"), &json!("agent")));
}

#[tokio::test]
async fn a_taken_port_names_the_key_the_holder_and_the_way_out() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let output = run(&["run"], &[("ANTIPHON_LISTEN__HTTP", &address)]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let own = format!("process {}", std::process::id());
    for part in ["listen.http", &address, &own, "ANTIPHON_LISTEN__HTTP=127.0.0.1:0"] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[tokio::test]
async fn a_terminated_daemon_lets_calls_end_and_takes_no_new_ones() {
    let mut daemon = Daemon::start(&[("ANTIPHON_RUNTIME__DRAIN_S", "15")]).await;
    let (mut caller, _) = Caller::call(&daemon, "echo").await;
    let mut waiting = Caller::connect(&daemon).await;
    daemon.signal("TERM");
    daemon.notified("STOPPING=1").await;
    let draining = caller.hear_type("draining").await;
    assert!(draining["reconnect_after_ms"].as_u64().unwrap() <= 15_000, "{draining}");
    assert_eq!(get(daemon.control, "/readyz").await.0, 503);
    assert_eq!(get(daemon.control, "/livez").await.0, 200);
    let (status, head, _) = upgrade(&daemon).await;
    assert_eq!(status, 503);
    assert!(head.to_ascii_lowercase().contains("retry-after:"), "{head}");
    waiting.say(json!({ "type": "start", "agent": "echo" })).await;
    assert_eq!(waiting.hear_out().await.1, 1012);

    caller.say(json!({ "type": "end" })).await;
    assert_eq!(caller.hear_type("ended").await["reason"], "client_hangup");
    assert_eq!(daemon.ended().await.code(), Some(0));
}

async fn upgrade(daemon: &Daemon) -> (u16, String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tcp = tokio::net::TcpStream::connect(daemon.http).await.unwrap();
    let request = "GET /v1/session HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.into(), body.into())
}

#[tokio::test]
async fn the_drain_deadline_ends_the_calls_that_are_left() {
    let mut daemon = Daemon::start(&[("ANTIPHON_RUNTIME__DRAIN_S", "1")]).await;
    let (mut caller, _) = Caller::call(&daemon, "echo").await;
    daemon.signal("TERM");
    assert_eq!(caller.hear_type("ended").await["reason"], "draining");
    assert_eq!(caller.hear_out().await.1, 1012);
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut daemon = Daemon::start(&[("ANTIPHON_RUNTIME__DRAIN_S", "60")]).await;
    let (mut caller, _) = Caller::call(&daemon, "echo").await;
    daemon.signal("TERM");
    caller.hear_type("draining").await;
    let begun = Instant::now();
    daemon.signal("TERM");
    assert_eq!(caller.hear_type("ended").await["reason"], "draining");
    assert_eq!(caller.hear_out().await.1, 1012);
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_reload_takes_a_good_file_and_refuses_a_bad_one() {
    let daemon = Daemon::start_with(Some(""), &[]).await;
    let file = daemon.folder.join("antiphon.toml");
    let (mut before, _) = Caller::call(&daemon, "echo").await;

    std::fs::write(&file, "[agent.parrot]\nkind = \"echo\"\n").unwrap();
    daemon.signal("HUP");
    daemon.notified("RELOADING=1").await;
    daemon.notified("READY=1").await;
    let (_parrot, started) = Caller::call(&daemon, "parrot").await;
    assert_eq!(started["agent"]["name"], "parrot");

    std::fs::write(&file, "[agent.parrot]\nkind = \"ecco\"\n").unwrap();
    daemon.signal("HUP");
    daemon.notified("RELOADING=1").await;
    daemon.notified("READY=1").await;
    assert_eq!(daemon.metric("antiphon_config_last_reload_successful", "").await, 0.0);
    assert_eq!(daemon.metric("antiphon_config_reloads_total", "refused").await, 1.0);
    Caller::call(&daemon, "parrot").await;

    before.say(json!({ "type": "ping", "t": 1 })).await;
    assert_eq!(before.hear_type("pong").await["t"], 1, "a live call is not touched");
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_at_the_start() {
    let folder = harness::folder();
    let file = folder.join("wrong.toml");
    std::fs::write(&file, "[listen]\nhtpp = \"127.0.0.1:0\"\n").unwrap();
    let output = run(&["run", "--config", file.to_str().unwrap()], &[]).await;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("wrong.toml:2") && text.contains("http"), "{text}");
}

#[tokio::test]
async fn a_lost_call_is_resumed_over_a_new_connection_once() {
    for workers in ["1", "4"] {
        let daemon = Daemon::start(&[("ANTIPHON_RUNTIME__WORKERS", workers)]).await;
        let (caller, started) = Caller::call(&daemon, "echo").await;
        let token = &started["resume_token"];
        // Without a goodbye.
        drop(caller);

        let mut again = Caller::connect(&daemon).await;
        again.say(json!({ "type": "start", "resume": token, "have": 1 })).await;
        let resumed = again.hear_type("started").await;
        assert_eq!(resumed["session_id"], started["session_id"]);
        assert_eq!(resumed["resumed"], true);
        assert_ne!(&resumed["resume_token"], token, "a token is used once");

        let mut thief = Caller::connect(&daemon).await;
        thief.say(json!({ "type": "start", "resume": token })).await;
        let (messages, code) = thief.hear_out().await;
        assert_eq!((code, &messages[0]["code"]), (4404, &json!("resume_failed")), "{messages:?}");

        let mut newest = Caller::connect(&daemon).await;
        newest.say(json!({ "type": "start", "resume": resumed["resume_token"] })).await;
        newest.hear_type("started").await;
        assert_eq!(again.hear_out().await.1, 4409, "the newest link wins");
        assert_eq!(daemon.metric("antiphon_resumes_total", "worker").await, 2.0);
        assert_eq!(daemon.metric("antiphon_sessions_active", "").await, 1.0);
    }
}

#[tokio::test]
async fn a_hung_up_call_leaves_nothing_behind() {
    let daemon = Daemon::start(&[]).await;
    let (mut caller, _) = Caller::call(&daemon, "storyteller").await;
    caller.say(json!({ "type": "end" })).await;
    assert_eq!(caller.hear_type("ended").await["reason"], "client_hangup");
    assert!(matches!(caller.hear().await, Heard::Closed(1000, _)));
    drop(caller);
    // The last trace of a call is its record.
    while !daemon.log().contains("call ended") {
        tokio::task::yield_now().await;
    }
    assert_eq!(daemon.metric("antiphon_sessions_active", "").await, 0.0);
    assert_eq!(daemon.metric("antiphon_sessions_ended_total", "client_hangup").await, 1.0);
}
