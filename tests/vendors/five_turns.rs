//! One conversation of five turns with every emulated agent, over every transport; what an agent cannot do is asserted
//! as such.
//!
//! The user writes, and the agent calls a tool; the result is answered; the caller speaks into the answer, is understood
//! and answered; the client interrupts that; the user writes again, is answered, and hangs up.

use std::time::Duration;

use antiphon::cli::call::CallTransport;
use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::Format;
use serde_json::json;

use crate::Vendor;
use crate::harness::Daemon;
use crate::person::Person;

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
    /// It is told how much of an answer was heard.
    truncates: bool,
    /// It tells when the caller interrupts it; otherwise it just falls silent, and what was sent is heard.
    tells_interruptions: bool,
}

const SPEAKS: Row = Row {
    name: "",
    kind: VendorKind::Chat,
    more: "",
    voice: true,
    errors: true,
    truncates: false,
    tells_interruptions: true,
};

const DELEGATES: &str = "vendor.delegation = { type = \"responses\", responses = { model = \"gpt-5.5\" } }\n";

const ROWS: [Row; 8] = [
    Row { name: "chat", kind: VendorKind::Chat, voice: false, ..SPEAKS },
    Row { name: "deepgram", kind: VendorKind::Deepgram, errors: false, ..SPEAKS },
    Row { name: "elevenlabs", kind: VendorKind::Elevenlabs, more: "agent_id = \"a\"\n", ..SPEAKS },
    Row { name: "gemini", kind: VendorKind::Gemini, errors: false, ..SPEAKS },
    Row { name: "live", kind: VendorKind::Live, more: DELEGATES, tells_interruptions: false, ..SPEAKS },
    Row { name: "openai", kind: VendorKind::Openai, truncates: true, ..SPEAKS },
    Row { name: "pipecat", kind: VendorKind::Pipecat, ..SPEAKS },
    Row { name: "rtvi", kind: VendorKind::Pipecat, more: "protocol = \"rtvi\"\n", ..SPEAKS },
];

const SAID: &str = "Where is my order?";

fn count(person: &Person, kind: &str) -> usize {
    person.said(kind).len()
}

/// The newest turn that the agent has begun.
fn newest_turn(person: &Person) -> u64 {
    person.said("turn").iter().filter_map(|turn| turn["turn"].as_u64()).max().unwrap_or_default()
}

fn understood(person: &Person) -> bool {
    person.said("transcript").iter().any(|line| line["role"] == "user" && line["text"] == SAID)
}

async fn write(person: &mut Person, id: &str, text: &str) {
    person.say(json!({ "type": "message", "id": id, "text": text })).await;
}

async fn five_turns(row: &Row, transport: CallTransport) {
    let name = format!("{} over {transport:?}", row.name);
    let plays = Script {
        pace: Some(1.2),
        answer_s: Some(10.0),
        hears: Some(SAID.into()),
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
    let mut person = Person::call_over(transport, &daemon, "agent", Format::OPUS).await;
    write(&mut person, "m1", "Please use the tool.").await;
    person.until("the tool call", |person| count(person, "tool_call") == 1).await;
    let call = person.said("tool_call")[0].clone();
    assert_eq!(call["name"], "lookup_order", "{name}");
    let before = newest_turn(&person);
    person.say(json!({ "type": "tool_result", "call_id": call["call_id"], "output": "sent on Friday" })).await;
    match row.voice {
        true => spoken_turns(&mut person, row, &name, before).await,
        false => written_turns(&mut person, &vendor).await,
    }
    assert_eq!(count(&person, "error"), 0, "{name}: {:?}", person.said("error"));
    let before = newest_turn(&person);
    write(&mut person, "m2", "An error, please.").await;
    if row.errors {
        person.until("the error", |person| count(person, "error") == 1).await;
        assert_eq!(person.said("error")[0]["code"], "agent_error", "{name}");
    }
    if row.voice {
        person.until("the last answer", |person| newest_turn(person) > before).await;
        assert_eq!(count(&person, "error"), usize::from(row.errors), "{name}");
    }
    person.say(json!({ "type": "end" })).await;
    person.until("the end", |person| count(person, "ended") == 1).await;
    assert_eq!(person.said("ended")[0]["reason"], "client_hangup", "{name}");
    let truncated = vendor.heard("conversation.item.truncate").len();
    assert_eq!(truncated, if row.truncates { count(&person, "heard") } else { 0 }, "{name}");
}

/// Turns two to four of an agent that speaks.
async fn spoken_turns(person: &mut Person, row: &Row, name: &str, before: u64) {
    person.until("the answer to the tool", |person| newest_turn(person) > before).await;
    person.wait(Duration::from_millis(800)).await;
    let turn = newest_turn(person);
    // Who greets may have been cut off by what was written.
    let written = count(person, "heard");
    person.speak();
    if row.tells_interruptions {
        person.until("the interruption by speech", |person| count(person, "heard") > written).await;
    }
    person.until("the caller's words", understood).await;
    person.until("the answer to speech", |person| newest_turn(person) > turn).await;
    let spoken = count(person, "heard") - written;
    assert_eq!(spoken, usize::from(row.tells_interruptions), "{name}: {:?}", person.said("heard"));
    person.wait(Duration::from_millis(500)).await;
    let cut = count(person, "heard");
    person.say(json!({ "type": "interrupt" })).await;
    person.until("the interruption by the client", |person| count(person, "heard") > cut).await;
    for heard in person.said("heard") {
        assert!(heard["ms"].as_u64() <= heard["of_ms"].as_u64(), "{name}: {heard}");
        assert_eq!(heard["basis"], "reported", "{name}: {heard}");
    }
}

/// Turns two to four of an agent that only writes: nothing is heard, and nothing can be interrupted.
async fn written_turns(person: &mut Person, vendor: &Vendor) {
    person.until("the answer to the tool", |person| count(person, "message") == 1).await;
    let text = person.said("message")[0]["text"].as_str().unwrap_or_default().to_owned();
    assert!(text.starts_with("the tool says: sent on Friday"), "{text}");
    let pieces: String = person.said("delta").iter().filter_map(|delta| delta["text"].as_str()).collect();
    assert_eq!(pieces, text);
    let asked = vendor.logged("/event", "request").len();
    person.speak();
    person.say(json!({ "type": "interrupt" })).await;
    person.wait(Duration::from_secs(3)).await;
    assert_eq!(vendor.logged("/event", "request").len(), asked, "speech is nothing to a chat model");
    assert!(person.said("turn").is_empty() && person.said("heard").is_empty() && !understood(person));
}

async fn with_every_agent(transport: CallTransport) {
    // Two at a time: callers that come too late with their audio prove nothing.
    for rows in ROWS.chunks(2) {
        futures_util::future::join_all(rows.iter().map(|row| five_turns(row, transport))).await;
    }
}

macro_rules! over_each_transport {
    ($($name:ident: $transport:ident),*) => {$(
        #[tokio::test]
        async fn $name() {
            with_every_agent(CallTransport::$transport).await;
        }
    )*};
}

over_each_transport! {
    five_turns_with_every_agent_over_websocket: Websocket,
    five_turns_with_every_agent_over_webrtc: Webrtc,
    five_turns_with_every_agent_over_quic: Quic,
    five_turns_with_every_agent_over_webtransport: Webtransport
}
