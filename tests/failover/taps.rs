//! Taps over real sockets: those that misbehave are not noticed by the call, those that behave hear all of it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio_tungstenite::tungstenite::Bytes;

use crate::harness::agent::{AgentLink, AgentServer, upgrade};
use crate::harness::{Caller, Daemon, Heard, echo_call_with};

/// A listener whose connections take little before they stop reading.
fn narrow() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(16).unwrap()
}

/// Never reads a byte after the handshake.
fn never_reads() -> String {
    let listener = narrow();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut links = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let mut link = upgrade(tcp).await;
            link.begin().await;
            links.push(link);
        }
    });
    url
}

/// Says what means nothing, as fast as it can; then what is no message at all.
fn talks_nonsense() -> String {
    let server = narrow();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = server.accept().await {
            tokio::spawn(async move {
                let mut link = upgrade(tcp).await;
                link.begin().await;
                use futures_util::SinkExt;
                use tokio_tungstenite::tungstenite::Message;
                for _ in 0..2_000 {
                    let unknown = Message::text(r#"{"type":"nonsense","text":"blah"}"#);
                    if link.socket.send(unknown).await.is_err()
                        || link.socket.send(Message::Binary(Bytes::from_static(&[7; 333]))).await.is_err()
                    {
                        return;
                    }
                }
                let _ = link.socket.send(Message::text("{\"type\":")).await;
                while !matches!(link.hear().await, Heard::Closed(..) | Heard::Gone) {}
            });
        }
    });
    url
}

/// Dies as soon as it is ready.
fn dies() -> String {
    let listener = narrow();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move { drop(upgrade(tcp).await.begin().await) });
        }
    });
    url
}

fn agent(name: &str, url: &str) -> String {
    format!("[agent.{name}]\nkind = \"websocket\"\nurl = \"{url}\"\naudio_in = \"pcm16/48000\"\n")
}

#[tokio::test]
async fn a_call_beside_taps_that_never_read_talk_nonsense_or_die_is_complete_and_what_they_miss_is_counted() {
    let config = format!(
        "{}{}{}{}[[route]]\nname = \"tapped\"\nto = \"echo\"\n\
         taps = [{{ agent = \"stuck\" }}, {{ agent = \"nonsense\", tell = [\"alert\", \"app\"] }}, \
         {{ agent = \"dying\", hear = [\"caller\", \"agent\"] }}, {{ agent = \"nobody\" }}]\n",
        agent("stuck", &never_reads()),
        agent("nonsense", &talks_nonsense()),
        agent("dying", &dies()),
        agent("nobody", "ws://127.0.0.1:1/"),
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let report = echo_call_with(&daemon, "echo", Duration::from_secs(6)).await;
    assert_eq!(report.wrong, 0, "bytes of the call");
    let record = daemon.call_record().await;
    assert_eq!((&record["reason"], record["agents"].as_array().map(Vec::len)), (&"client_hangup".into(), Some(1)));
    let taps = record["taps"].as_array().unwrap();
    let [stuck, nonsense, dying, dying_too, nobody] = &taps[..] else { panic!("{record}") };
    assert!(stuck["dropped_ms"].as_u64() > Some(500), "{stuck}");
    assert!(daemon.metric("antiphon_queue_dropped_audio_seconds_total", "queue=\"tap\"").await > 0.5);
    assert!(!nonsense["ready_ms"].is_null(), "{nonsense}");
    for (tap, hears) in [(dying, "caller"), (dying_too, "agent")] {
        assert!(tap["hears"] == hears && tap["losses"].as_u64() >= Some(2), "{tap}");
    }
    assert!(nobody["ready_ms"].is_null() && nobody["losses"].as_u64() >= Some(2), "{nobody}");
    let lost = daemon.metric("antiphon_tap_events_total", "agent=\"dying\",event=\"lost\"").await;
    assert!((4.0..=20.0).contains(&lost), "dialled again with growing pauses: {lost}");
}

/// The next control message of a type, and the audio before it.
async fn hear_all(link: &mut AgentLink, until: usize) -> Vec<u8> {
    let mut audio = Vec::new();
    while audio.len() < until {
        match link.hear().await {
            Heard::Audio(frame) => audio.extend_from_slice(&frame),
            Heard::Control(_) => {}
            end => panic!("the tap is hung up: {end:?}"),
        }
    }
    audio
}

#[tokio::test]
async fn taps_hear_each_side_and_clients_learn_of_them_what_the_route_tells() {
    let (agent, caller_tap, agent_tap) =
        (AgentServer::bind().await, AgentServer::bind().await, AgentServer::bind().await);
    let server = |name: &str, url: &str| format!("[agent.{name}]\nkind = \"websocket\"\nurl = \"{url}\"\n");
    let config = format!(
        "{}{}{}[agent.safety.setup]\ninstructions = \"Watch.\"\n[[route]]\nname = \"r\"\nto = \"main\"\n\
         setup = {{ instructions = \"Talk.\" }}\n\
         taps = [{{ agent = \"safety\", tell = [\"alert\", \"transcript\"] }}, {{ agent = \"ears\", hear = \"agent\" }}]\n",
        server("main", &agent.url()),
        server("safety", &caller_tap.url()),
        server("ears", &agent_tap.url()),
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let mut caller = Caller::connect(&daemon).await;
    let pcm = json!({ "codec": "pcm16", "rate": 24000 });
    caller.say(json!({ "type": "start", "audio": { "in": pcm, "out": pcm } })).await;
    let mut main = agent.accept().await;
    assert_eq!(main.begin().await["setup"]["instructions"], "Talk.");
    let (mut safety, mut ears) = (caller_tap.accept().await, agent_tap.accept().await);
    let told = safety.begin().await;
    assert_eq!((&told["setup"]["instructions"], &told["setup"]["greeting"]), (&"Watch.".into(), &"none".into()));
    ears.begin().await;

    let frame = |value: i16| Bytes::from(value.to_le_bytes().repeat(480));
    for value in 1..=50 {
        caller.speak(frame(value)).await;
    }
    let heard = hear_all(&mut safety, 50 * 960).await;
    let values: Vec<i16> = heard.chunks(960).map(|frame| i16::from_le_bytes([frame[0], frame[1]])).collect();
    assert_eq!(values, (1..=50).collect::<Vec<i16>>(), "the tap hears the caller, untouched in the same format");
    main.say(json!({ "type": "turn", "turn": 1, "generation": 0, "phase": "start", "pos": 0 })).await;
    for value in 101..=110 {
        main.speak(frame(value)).await;
    }
    let mut spoken = Vec::new();
    while spoken.len() < 10 {
        let heard = hear_all(&mut ears, 960).await;
        let value = i16::from_le_bytes([heard[0], heard[1]]);
        spoken.extend(Some(value).filter(|value| *value != 0));
    }
    assert_eq!(spoken, (101..=110).collect::<Vec<i16>>(), "and the other one what the caller hears");

    let said = json!({ "type": "transcript", "item": "t1", "turn": 0, "role": "user", "text": "hello", "final": true, "start_ms": 0 });
    for tap in [&mut safety, &mut ears] {
        tap.say(said.clone()).await;
        tap.say(json!({ "type": "tool_call", "call_id": "c", "name": "f", "arguments": "{}" })).await;
        tap.say(json!({ "type": "message", "id": "m", "text": "I answer" })).await;
        tap.say(json!({ "type": "alert", "name": "self_harm", "severity": "critical" })).await;
    }
    let line = caller.hear_type("transcript").await;
    assert_eq!((&line["text"], &line["role"], &line["item"]), (&"hello".into(), &"user".into(), &"safety.t1".into()));
    assert_eq!(caller.hear_type("alert").await["name"], "self_harm");
    while daemon.metric("antiphon_tap_events_total", "event=\"alert\"").await < 2.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    caller.say(json!({ "type": "end" })).await;
    let (rest, code) = caller.hear_out().await;
    assert_eq!(code, 1000);
    let kinds: Vec<&Value> = rest.iter().map(|message| &message["type"]).collect();
    assert!(
        !rest.iter().any(|m| m["type"] == "message" || m["type"] == "tool_call" || m["type"] == "alert"),
        "{kinds:?}"
    );
    safety.hear_type("end").await;
    let record = daemon.call_record().await;
    let alerts: Vec<&Value> = record["alerts"].as_array().unwrap().iter().map(|alert| &alert["from"]).collect();
    assert_eq!(alerts, ["safety", "ears"]);
    assert!(!record.to_string().contains("hello"), "no words in the record");
}
