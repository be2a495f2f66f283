//! How calls over WebRTC fare on networks that are not as one would wish: TCP only, several addresses, IPv6, changes.

mod harness;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::forward::Forwarded;
use harness::peer::{PACKET, Peer};
use harness::{Caller, Daemon, PATIENCE, ask};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

async fn until_sessions(daemon: &Daemon, wanted: f64) {
    let begun = Instant::now();
    while daemon.metric("antiphon_sessions_active", "webrtc").await != wanted {
        assert!(begun.elapsed() < PATIENCE, "not {wanted} sessions");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn echoed(peer: &Peer) -> usize {
    peer.heard.iter().filter(|(_, _, payload, _)| payload[..] == PACKET).count()
}

#[tokio::test]
async fn a_caller_who_has_only_tcp_holds_a_call_and_hangs_up() {
    for workers in ["1", "4"] {
        let forwarded = Forwarded::start(workers).await;
        let (daemon, near) = (&forwarded.daemon, forwarded.near);
        let begun = Instant::now();
        let mut peer = Peer::signal_by_tcp(daemon, "echo", near).await;
        peer.until(|peer| peer.open && peer.connected.is_some()).await;
        println!("set-up over TCP: {:?}", peer.connected.unwrap() - begun);
        peer.speak(Duration::from_secs(2)).await;
        peer.until(|peer| echoed(peer) == 100).await;
        peer.say(json!({ "type": "ping", "t": 5 })).await;
        peer.until(|peer| peer.was_told("pong")).await;
        assert_eq!(daemon.metric("antiphon_connections", "webrtc").await, 1.0);
        peer.say(json!({ "type": "end" })).await;
        peer.until(|peer| peer.was_told("ended") && peer.closed).await;
        until_sessions(daemon, 0.0).await;
        while daemon.metric("antiphon_connections", "webrtc").await != 0.0 {
            assert!(begun.elapsed() < PATIENCE, "the connection outlives its session");
        }
    }
}

/// Waits for the other side to close; gives how long it took.
async fn closed(mut tcp: TcpStream) -> Duration {
    let begun = Instant::now();
    let mut buffer = [0; 100];
    let end = tokio::time::timeout(PATIENCE, tcp.read(&mut buffer)).await.expect("it stays open");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    begun.elapsed()
}

#[tokio::test]
async fn a_connection_that_names_no_session_is_closed() {
    let variables = [
        ("ANTIPHON_HTTP__HANDSHAKE_MS", "1000"),
        ("ANTIPHON_HTTP__MAX_HANDSHAKES", "8"),
        ("ANTIPHON_RUNTIME__WORKERS", "1"),
    ];
    let daemon = Daemon::start(&variables).await;
    let port = daemon.webrtc.unwrap();
    let connect = async || TcpStream::connect(port).await.unwrap();
    let mut stun = vec![0, 1, 0, 12, 0x21, 0x12, 0xA4, 0x42];
    stun.extend([7; 12]);
    stun.extend([0, 6, 0, 8]);
    stun.extend(b"none:abc");
    let framed = |packet: &[u8]| [&(packet.len() as u16).to_be_bytes()[..], packet].concat();
    for bytes in [framed(&stun), framed(&[22; 60]), vec![255, 255], b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut tcp = connect().await;
        tcp.write_all(&bytes).await.unwrap();
        assert!(closed(tcp).await < Duration::from_millis(900), "{bytes:?}");
    }
    let silent = connect().await;
    assert!(closed(silent).await >= Duration::from_millis(900));
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(connect().await);
    }
    let last = held.pop().unwrap();
    assert!(closed(last).await < Duration::from_millis(900), "half-open connections are capped");
    assert!(daemon.metric("antiphon_handshakes_refused_total", "handshakes").await >= 1.0);
    let mut peer = Peer::call(&daemon, "echo").await;
    peer.speak(Duration::from_millis(400)).await;
    peer.until(|peer| echoed(peer) == 20).await;
}

async fn echoes(peer: &mut Peer) {
    let before = echoed(peer);
    peer.speak(Duration::from_millis(400)).await;
    peer.until(|peer| echoed(peer) >= before + 20).await;
    peer.say(json!({ "type": "ping", "t": 5 })).await;
    peer.until(|peer| peer.was_told("pong")).await;
}

async fn listening_at(address: &str, public: &[&str]) -> Daemon {
    let public = serde_json::to_string(public).unwrap();
    let config = format!("[listen]\nwebrtc_public = {public}\n[runtime]\nworkers = 2\n");
    Daemon::start_with(Some(&config), &[("ANTIPHON_LISTEN__WEBRTC", address)]).await
}

#[tokio::test]
async fn each_announced_address_answers_from_itself_in_both_families() {
    let daemon = listening_at("[::]:0", &["127.0.0.1", "127.0.0.2", "::1"]).await;
    for (own, theirs) in [("127.0.0.1", "127.0.0.2"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1")] {
        let [own, theirs]: [IpAddr; 2] = [own.parse().unwrap(), theirs.parse().unwrap()];
        let mut peer = Peer::call_between(&daemon, own, theirs).await;
        echoes(&mut peer).await;
        assert_eq!(peer.answered_by.unwrap().ip(), theirs);
        peer.close().await;
    }
    let daemon = listening_at("[::1]:0", &[]).await;
    let [own, theirs] = ["::1", "::1"].map(|ip| ip.parse().unwrap());
    let mut peer = Peer::call_between(&daemon, own, theirs).await;
    echoes(&mut peer).await;
}

/// As when a home router gives the client another port, or a phone goes from Wi-Fi to cellular.
#[tokio::test]
async fn another_socket_without_a_word_keeps_the_call() {
    let daemon = Daemon::start(&[("ANTIPHON_RUNTIME__WORKERS", "4")]).await;
    let mut peer = Peer::call(&daemon, "echo").await;
    echoes(&mut peer).await;
    for _ in 0..3 {
        peer.socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let before = echoed(&peer);
        let begun = Instant::now();
        while echoed(&peer) < before + 40 {
            assert!(begun.elapsed() < PATIENCE, "its audio does not come back");
            peer.speak(Duration::from_millis(100)).await;
        }
        println!("heard again {:?} after the change", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10), "at its next check, not when the old address has timed out");
    }
    assert_eq!(daemon.metric("antiphon_sessions_started_total", "webrtc").await, 1.0);
    assert_eq!(daemon.metric("antiphon_resumes_total", "").await, 0.0);
}

#[tokio::test]
async fn silence_within_the_grace_is_no_end_and_beyond_it_the_link_is_lost() {
    let route = "[[route]]\nname = \"all\"\nanonymous = true\nto = \"requested\"\nresume_window_s = 0\n";
    let config = format!("[webrtc]\ngrace_s = 8\n{route}");
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let mut peer = Peer::call(&daemon, "echo").await;
    echoes(&mut peer).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(daemon.metric("antiphon_sessions_active", "webrtc").await, 1.0);
    echoes(&mut peer).await;
    drop(peer);
    let begun = Instant::now();
    until_sessions(&daemon, 0.0).await;
    assert!((5..11).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

/// The last control message of a type.
fn told<'a>(peer: &'a Peer, kind: &str) -> &'a Value {
    peer.told.iter().rfind(|message| message["type"] == kind).unwrap()
}

#[tokio::test]
async fn a_session_goes_on_from_websocket_to_webrtc_and_back() {
    let daemon = Daemon::start(&[("ANTIPHON_RUNTIME__WORKERS", "2")]).await;
    let (caller, started) = Caller::call(&daemon, "echo").await;
    drop(caller);

    let start = json!({ "resume": started["resume_token"], "have": 1 });
    let mut peer = Peer::signal_with(&daemon, start).await;
    peer.until(|peer| peer.open && peer.was_told("started")).await;
    let again = told(&peer, "started").clone();
    assert_eq!((&again["session_id"], &again["resumed"]), (&started["session_id"], &json!(true)));
    assert_eq!(again["audio"]["in"]["codec"], "opus", "a format is of the link: {again}");
    peer.speak(Duration::from_millis(600)).await;
    peer.until(|peer| peer.heard.len() >= 30).await;
    drop(peer);

    let mut caller = Caller::connect(&daemon).await;
    caller.say(json!({ "type": "start", "resume": again["resume_token"], "have": 1 })).await;
    let last = caller.hear_type("started").await;
    assert_eq!((&last["session_id"], &last["resumed"]), (&started["session_id"], &json!(true)));
    caller.say(json!({ "type": "ping", "t": 1 })).await;
    caller.hear_type("pong").await;
    assert_eq!(daemon.metric("antiphon_resumes_total", "worker").await, 2.0);
    assert_eq!(daemon.metric("antiphon_sessions_started_total", "").await, 1.0);

    let (.., sdp, _) = Peer::offer().await;
    let body = json!({ "sdp": sdp, "start": { "resume": "spent" } }).to_string();
    let json = ["content-type: application/json"];
    let (status, _, body) = ask(daemon.http, "POST", "/v1/session/webrtc", &json, &body).await;
    assert!(status == 404 && body.contains("resume_failed"), "{status} {body}");
}

/// What DTLS and SRTP keep strangers from sending, an authenticated client can.
#[tokio::test]
async fn a_client_that_breaks_sctp_dcep_and_rtp_harms_not_even_its_own_call() {
    let daemon = Daemon::start(&[("ANTIPHON_AGENT__ECHO__DELAY_MS", "100")]).await;
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/webrtc/aiortc_misbehaves.py");
    let call = tokio::process::Command::new(python).args([script, &format!("http://{}", daemon.http)]).output();
    let mut other = Peer::call(&daemon, "echo").await;
    let (output, ()) = tokio::join!(call, async { other.speak(Duration::from_secs(4)).await });
    let output = output.expect("run ./setup first: it makes .venv");
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(text.trim())
        .unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(report["state"], "connected", "{report}");
    assert!(report["kinds"].as_array().unwrap().contains(&json!("pong")), "{report}");
    assert!(report["heard_after"].as_u64().unwrap() > 50, "{report}");
    other.until(|peer| echoed(peer) >= 190).await;
    assert_eq!(daemon.metric("antiphon_sessions_started_total", "webrtc").await, 2.0);
}
