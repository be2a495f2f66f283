//! One conversation of five turns with every emulated agent, over every transport; what an agent cannot do is asserted
//! as such.
//!
//! The user writes, and the agent calls a tool; the result is answered; the caller speaks into the answer, is understood
//! and answered; the client interrupts that; the user writes again, is answered, and hangs up.

use std::time::Duration;

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::Format;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Bytes;

use crate::Vendor;
use crate::calls::Person;
use crate::harness::Daemon;
use crate::harness::peer::Peer;
use crate::harness::speech::{ClientCodec, utterances};

/// An agent, and what it can do.
struct Row {
    name: &'static str,
    kind: VendorKind,
    /// More of its configuration.
    more: &'static str,
    /// It hears and speaks; else it only reads and writes.
    voice: bool,
    /// It reports errors that do not end the session.
    errors: bool,
    /// It tells when the caller interrupts it; otherwise it just falls silent, and what was sent is heard.
    tells_interruptions: bool,
}

const ROWS: [Row; 8] = [
    Row { name: "chat", kind: VendorKind::Chat, more: "", voice: false, errors: true, tells_interruptions: true },
    Row {
        name: "deepgram",
        kind: VendorKind::Deepgram,
        more: "",
        voice: true,
        errors: false,
        tells_interruptions: true,
    },
    Row {
        name: "elevenlabs",
        kind: VendorKind::Elevenlabs,
        more: "agent_id = \"a\"\n",
        voice: true,
        errors: true,
        tells_interruptions: true,
    },
    Row { name: "gemini", kind: VendorKind::Gemini, more: "", voice: true, errors: false, tells_interruptions: true },
    Row {
        name: "live",
        kind: VendorKind::Live,
        more: "vendor.delegation = { type = \"responses\", responses = { model = \"gpt-5.5\" } }\n",
        voice: true,
        errors: true,
        tells_interruptions: false,
    },
    Row { name: "openai", kind: VendorKind::Openai, more: "", voice: true, errors: true, tells_interruptions: true },
    Row { name: "pipecat", kind: VendorKind::Pipecat, more: "", voice: true, errors: true, tells_interruptions: true },
    Row {
        name: "rtvi",
        kind: VendorKind::Pipecat,
        more: "protocol = \"rtvi\"\n",
        voice: true,
        errors: true,
        tells_interruptions: true,
    },
];

/// A caller over one of the transports.
enum Line {
    WebSocket(Box<Person>),
    Webrtc(Box<Peer>, Vec<Bytes>),
}

impl Line {
    async fn call(transport: &str, daemon: &Daemon, agent: &str) -> Line {
        if transport == "websocket" {
            return Line::WebSocket(Box::new(Person::call(daemon, agent, Format::OPUS).await));
        }
        let mut clip = utterances(48_000).remove(2).clip;
        clip.samples.truncate(2 * 48_000);
        let speech = ClientCodec::new(Format::OPUS).encode(&clip.samples);
        Line::Webrtc(Box::new(Peer::call(daemon, agent).await), speech)
    }

    fn told(&self) -> &[Value] {
        match self {
            Line::WebSocket(person) => &person.messages,
            Line::Webrtc(peer, _) => &peer.told,
        }
    }

    fn said(&self, kind: &str) -> Vec<&Value> {
        self.told().iter().filter(|message| message["type"] == kind).collect()
    }

    fn turns(&self) -> usize {
        let mut turns: Vec<u64> = self.said("turn").iter().filter_map(|turn| turn["turn"].as_u64()).collect();
        turns.sort_unstable();
        turns.dedup();
        turns.len()
    }

    fn understood(&self) -> bool {
        self.said("transcript").iter().any(|line| line["role"] == "user" && line["text"] == "Where is my order?")
    }

    async fn say(&mut self, message: Value) {
        match self {
            Line::WebSocket(person) => person.caller.say(message).await,
            Line::Webrtc(peer, _) => peer.say(message).await,
        }
    }

    async fn speak(&mut self) {
        match self {
            Line::WebSocket(person) => person.speak(),
            Line::Webrtc(peer, speech) => peer.speak_packets(&speech.clone()).await,
        }
    }

    async fn until(&mut self, what: &str, done: impl Fn(&[Value]) -> bool) {
        match self {
            Line::WebSocket(person) => person.until(what, |person| done(&person.messages)).await,
            Line::Webrtc(peer, _) => peer.until(|peer| done(&peer.told)).await,
        }
    }

    async fn wait(&mut self, span: Duration) {
        let end = tokio::time::Instant::now() + span;
        match self {
            Line::WebSocket(person) => person.until("time", |_| tokio::time::Instant::now() >= end).await,
            Line::Webrtc(peer, _) => peer.live(span).await,
        }
    }
}

fn count(told: &[Value], kind: &str) -> usize {
    told.iter().filter(|message| message["type"] == kind).count()
}

async fn write(line: &mut Line, id: &str, text: &str) {
    line.say(json!({ "type": "message", "id": id, "text": text })).await;
}

async fn five_turns(row: &Row, transport: &str) {
    let plays = Script {
        pace: Some(1.2),
        answer_s: Some(10.0),
        hears: Some("Where is my order?".into()),
        tool: row.voice.then(|| "lookup_order".to_owned()),
        ..Script::default()
    };
    let vendor = Vendor::start(row.kind, Some("secret"), plays).await;
    let config = format!(
        "[[route]]\nname = \"all\"\nto = \"agent\"\n[tool.lookup_order]\ndescription = \"Find an order\"\n\
         [agent.agent]\nkind = \"{}\"\nurl = \"{}\"\napi_key = \"${{env:TEST_KEY}}\"\n{}\
         setup = {{ transcribe = true, tools = [\"lookup_order\"] }}\n",
        row.kind.label(),
        vendor.url,
        row.more
    );
    let daemon = Daemon::start_with(Some(&config), &[("TEST_KEY", "secret")]).await;
    let mut line = Line::call(transport, &daemon, "agent").await;
    write(&mut line, "m1", "Please use the tool.").await;
    line.until("the tool call", |told| count(told, "tool_call") == 1).await;
    let call = line.said("tool_call")[0].clone();
    assert_eq!(call["name"], "lookup_order", "{}", row.name);
    let before = line.turns();
    line.say(json!({ "type": "tool_result", "call_id": call["call_id"], "output": "sent on Friday" })).await;
    match row.voice {
        true => spoken_turns(&mut line, row, before).await,
        false => written_turns(&mut line, &vendor).await,
    }
    let errors = line.said("error").len();
    assert_eq!(errors, 0, "{}: {:?}", row.name, line.said("error"));
    let before = (line.turns(), line.said("message").len());
    write(&mut line, "m2", "An error, please.").await;
    if row.errors {
        line.until("the error", |told| count(told, "error") == 1).await;
        assert_eq!(line.said("error")[0]["code"], "agent_error");
    }
    if row.voice {
        line.until("the last answer", |told| {
            told.iter().any(|m| m["type"] == "turn" && m["turn"].as_u64() > Some(before.0 as u64))
        })
        .await;
        assert_eq!(line.said("error").len(), usize::from(row.errors), "{}", row.name);
    }
    line.say(json!({ "type": "end" })).await;
    line.until("the end", |told| count(told, "ended") == 1).await;
    assert_eq!(line.said("ended")[0]["reason"], "client_hangup", "{} over {transport}", row.name);
}

/// Turns two to four of an agent that speaks.
async fn spoken_turns(line: &mut Line, row: &Row, before: usize) {
    let turn_after = |turns: usize| {
        move |told: &[Value]| told.iter().any(|m| m["type"] == "turn" && m["turn"].as_u64() > Some(turns as u64))
    };
    line.until("the answer to the tool", turn_after(before)).await;
    line.wait(Duration::from_millis(800)).await;
    let turn = line.turns();
    line.speak().await;
    if row.tells_interruptions {
        line.until("the interruption by speech", |told| count(told, "heard") >= 1).await;
    }
    line.until("the caller's words", |told| {
        told.iter().any(|m| m["type"] == "transcript" && m["role"] == "user" && m["text"] == "Where is my order?")
    })
    .await;
    line.until("the answer to speech", turn_after(turn)).await;
    assert_eq!(row.tells_interruptions, !line.said("heard").is_empty(), "{}", row.name);
    line.wait(Duration::from_millis(500)).await;
    let cut = line.said("heard").len();
    line.say(json!({ "type": "interrupt" })).await;
    line.until("the interruption by the client", |told| count(told, "heard") > cut).await;
    for heard in line.said("heard") {
        assert!(heard["ms"].as_u64() <= heard["of_ms"].as_u64(), "{}: {heard}", row.name);
    }
    assert!(line.understood(), "{}", row.name);
}

/// Turns two to four of an agent that only writes: nothing is heard, and nothing can be interrupted.
async fn written_turns(line: &mut Line, vendor: &Vendor) {
    line.until("the answer to the tool", |told| count(told, "message") == 1).await;
    let text = line.said("message")[0]["text"].as_str().unwrap_or_default().to_owned();
    assert!(text.starts_with("the tool says: sent on Friday"), "{text}");
    let pieces: String = line.said("delta").iter().filter_map(|delta| delta["text"].as_str()).collect();
    assert_eq!(pieces, text);
    let asked = vendor.logged("/event", "request").len();
    line.speak().await;
    line.say(json!({ "type": "interrupt" })).await;
    line.wait(Duration::from_secs(3)).await;
    assert_eq!(vendor.logged("/event", "request").len(), asked, "speech is nothing to a chat model");
    assert!(line.said("turn").is_empty() && line.said("heard").is_empty() && !line.understood());
}

async fn with_every_agent(transport: &str) {
    // Two at a time: callers that come too late with their audio prove nothing.
    for rows in ROWS.chunks(2) {
        futures_util::future::join_all(rows.iter().map(|row| five_turns(row, transport))).await;
    }
}

#[tokio::test]
async fn five_turns_with_every_agent_over_websocket() {
    with_every_agent("websocket").await;
}

#[tokio::test]
async fn five_turns_with_every_agent_over_webrtc() {
    with_every_agent("webrtc").await;
}
