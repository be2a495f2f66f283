//! Clients that misbehave end alone, with a clear code, while a well-behaved call beside them notices nothing.

mod harness;

use std::time::Duration;

use harness::{Caller, Daemon, EchoReport, PATIENCE, echo_call};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Short deadlines, so that the tests are.
const QUICK: &[(&str, &str)] = &[
    ("ANTIPHON_HTTP__HANDSHAKE_MS", "400"),
    ("ANTIPHON_HTTP__START_MS", "400"),
    ("ANTIPHON_HTTP__WEBSOCKET__PING_S", "1"),
    ("ANTIPHON_HTTP__WEBSOCKET__PONG_S", "1"),
];

/// Runs `rude` beside a good call of two seconds, with one worker and with four.
async fn beside_a_good_call<F: Future<Output = ()>>(rude: impl Fn(std::sync::Arc<Daemon>) -> F) {
    for workers in ["1", "4"] {
        let daemon =
            std::sync::Arc::new(Daemon::start(&[QUICK, &[("ANTIPHON_RUNTIME__WORKERS", workers)]].concat()).await);
        let (good, ()) = tokio::join!(echo_call(&daemon, Duration::from_secs(2)), rude(daemon.clone()));
        assert_unharmed(&good);
    }
}

fn assert_unharmed(good: &EchoReport) {
    assert_eq!(good.wrong, 0, "{good:?}");
    assert!(good.latest < Duration::from_millis(150), "{good:?}");
}

async fn all_of(tcp: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_that_sends_garbage_is_told_so_and_ended() {
    beside_a_good_call(async |daemon| {
        let mut caller = Caller::connect_raw(&daemon, &[0xFF; 512]).await;
        let (messages, code) = caller.hear_out().await;
        assert_eq!((code, &messages[0]["code"]), (4400, &json!("bad_message")), "{messages:?}");

        let mut caller = Caller::connect(&daemon).await;
        caller.socket.send_text("{ not json").await;
        let (messages, code) = caller.hear_out().await;
        assert_eq!((code, &messages[0]["code"]), (4400, &json!("bad_message")), "{messages:?}");

        let mut tcp = TcpStream::connect(daemon.http).await.unwrap();
        tcp.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x0D, 0x0A, 0x0D, 0x0A]).await.unwrap();
        assert!(all_of(&mut tcp).await.starts_with("HTTP/1.1 400"));
    })
    .await;
}

#[tokio::test]
async fn garbage_within_a_session_is_answered_and_the_session_goes_on() {
    let daemon = Daemon::start(&[]).await;
    let (mut caller, _) = Caller::call(&daemon, "echo").await;
    caller.socket.send_text("{ not json").await;
    assert_eq!(caller.hear_type("error").await["code"], "bad_message");
    caller.say(json!({ "type": "ping", "t": 7 })).await;
    assert_eq!(caller.hear_type("pong").await["t"], 7);
}

#[tokio::test]
async fn a_frame_of_10_mb_is_refused_before_it_is_read() {
    beside_a_good_call(async |daemon| {
        let (mut caller, _) = Caller::call(&daemon, "echo").await;
        let tcp = caller.socket.get_mut();
        let size: u64 = 10 << 20;
        tcp.write_all(&[&[0x82, 0x80 | 127][..], &size.to_be_bytes(), &[0; 4]].concat()).await.unwrap();
        // The daemon throws away what is still on its way, so that the client can read why.
        for _ in 0..160 {
            tcp.write_all(&[0; 64 << 10]).await.unwrap();
        }
        let (messages, code) = caller.hear_out().await;
        assert_eq!(code, 4400, "{messages:?}");
        assert!(messages.iter().any(|message| message["type"] == "error" && message["code"] == "bad_message"));
    })
    .await;
}

#[tokio::test]
async fn a_stalled_handshake_ends_at_its_deadline() {
    beside_a_good_call(async |daemon| {
        let mut silent = TcpStream::connect(daemon.http).await.unwrap();
        let mut upgraded = Caller::connect(&daemon).await;
        let (answer, (messages, code)) = tokio::join!(all_of(&mut silent), upgraded.hear_out());
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert_eq!(code, 4408, "{messages:?}");
        assert!(daemon.metric("antiphon_handshakes_refused_total", "timeout").await >= 2.0);
    })
    .await;
}

#[tokio::test]
async fn a_request_head_that_trickles_in_ends_at_its_deadline() {
    beside_a_good_call(async |daemon| {
        let (mut read, mut write) = TcpStream::connect(daemon.http).await.unwrap().into_split();
        let trickle = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            for byte in b"GET /v1/session HTTP/1.1\r\nhost: x\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a')) {
                ticks.tick().await;
                if write.write_u8(*byte).await.is_err() {
                    break;
                }
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = trickle => {}
            _ = timeout(PATIENCE, read.read_to_end(&mut answer)) => {}
        }
        assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_ended_and_can_see_why() {
    beside_a_good_call(async |daemon| {
        let (mut caller, _) = Caller::call(&daemon, "storyteller").await;
        // Neither audio nor pings are read, so that the library answers none.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        let mut left = Vec::new();
        timeout(PATIENCE, caller.socket.get_mut().read_to_end(&mut left)).await.expect("it stays open").unwrap();
        let code = 4408_u16.to_be_bytes();
        let close = left.windows(4).rposition(|bytes| bytes[0] == 0x88 && bytes[2..] == code).expect("no close frame");
        assert_eq!(left.len() - close, 2 + usize::from(left[close + 1]), "the close frame is the last");
        assert!(left.len() < 64 << 10, "{} bytes were sent to somebody who does not read", left.len());
    })
    .await;
}

#[tokio::test]
async fn a_page_of_another_site_is_refused() {
    let daemon = Daemon::start(&[]).await;
    let mut tcp = TcpStream::connect(daemon.http).await.unwrap();
    let request = "GET /v1/session HTTP/1.1\r\nhost: x\r\norigin: https://evil.example\r\nconnection: upgrade, close\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    tcp.write_all(request.as_bytes()).await.unwrap();
    assert!(all_of(&mut tcp).await.starts_with("HTTP/1.1 403"));
}

/// Sends text that is not JSON.
trait SendText {
    async fn send_text(&mut self, text: &'static str);
}

impl SendText for tokio_tungstenite::WebSocketStream<TcpStream> {
    async fn send_text(&mut self, text: &'static str) {
        futures_util::SinkExt::send(self, Message::text(text)).await.unwrap();
    }
}
