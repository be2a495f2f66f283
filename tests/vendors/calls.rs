//! Calls with real speech through the daemon to emulated vendors.

use std::time::Duration;

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::Format;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::Vendor;
use crate::harness::{Daemon, PATIENCE};
use crate::person::Person;

/// A figure of heard audio is exact to one frame where the client reports.
const FRAME_MS: f64 = 20.0;

/// The agent `vendor` of a configuration, with its key.
pub fn agent(name: &str, kind: VendorKind, url: &str) -> String {
    let id = if kind == VendorKind::Elevenlabs { "agent_id = \"agent_1\"\n" } else { "" };
    format!("[agent.{name}]\nkind = \"{}\"\nurl = \"{url}\"\napi_key = \"${{env:TEST_KEY}}\"\n{id}", kind.label())
}

async fn daemon(agents: &str, key: &str) -> Daemon {
    let config = format!("[[route]]\nname = \"all\"\nto = \"requested\"\n{agents}");
    Daemon::start_with(Some(&config), &[("TEST_KEY", key)]).await
}

/// What is particular to an agent, and the formats in which it is called: the client's, and the two of the agent.
struct Row {
    kind: VendorKind,
    /// More of its configuration.
    more: &'static str,
    /// It speaks first; else it is written to.
    greets: bool,
    /// It tells when speech interrupts it; else it just falls silent, and only the client can cut it off.
    tells_interruptions: bool,
    /// It tells where its words are in its audio.
    aligned: bool,
    /// It reports what was written as if it had been said.
    repeats: bool,
    /// Its audio has names, so that what comes late is known as such.
    named: bool,
    /// So have its events, so that what comes twice is.
    numbered: bool,
    client: Format,
    audio: [&'static str; 2],
}

const PCM: Format = Format { codec: antiphon::media::format::Codec::Pcm16, rate: 24_000, channels: 1 };
const PCM_24: [&str; 2] = ["pcm16/24000", "pcm16/24000"];

const ROW: Row = Row {
    kind: VendorKind::Openai,
    more: "",
    greets: false,
    tells_interruptions: true,
    aligned: false,
    repeats: false,
    named: true,
    numbered: false,
    client: Format::OPUS,
    audio: PCM_24,
};

const ELEVENLABS: Row = Row {
    kind: VendorKind::Elevenlabs,
    greets: true,
    aligned: true,
    numbered: true,
    audio: ["pcm16/16000", "pcm16/44100"],
    ..ROW
};
const DEEPGRAM: Row = Row { kind: VendorKind::Deepgram, repeats: true, numbered: true, ..ROW };
const GEMINI: Row = Row { kind: VendorKind::Gemini, named: false, audio: ["pcm16/16000", "pcm16/24000"], ..ROW };
const PIPECAT: Row =
    Row { kind: VendorKind::Pipecat, greets: true, named: false, audio: ["pcm16/16000", "pcm16/24000"], ..ROW };

const LIVE: Row = Row {
    kind: VendorKind::Live,
    more: "vendor.delegation = { type = \"responses\", responses = { model = \"gpt-5.5\" } }\n",
    tells_interruptions: false,
    numbered: true,
    ..ROW
};

const SAID: &str = "Where is my order?";
const TOLD: &str = "sent on Friday";

async fn answer_tool(person: &mut Person) {
    person.until("the tool call", |person| !person.said("tool_call").is_empty()).await;
    let call = person.said("tool_call")[0].clone();
    assert_eq!(call["name"], "lookup_order");
    assert_eq!(serde_json::from_str::<Value>(call["arguments"].as_str().unwrap()).unwrap()["query"], "as scripted");
    person.say(json!({ "type": "tool_result", "call_id": call["call_id"], "output": TOLD })).await;
}

/// What was heard of an answer that is being cut off, which is exact; `before`: milliseconds of what came before it.
async fn cut(person: &mut Person, before: f64) -> Value {
    person.until("the interruption", |person| !person.said("heard").is_empty()).await;
    let heard = person.said("heard")[0].clone();
    let (ms, of_ms) = (heard["ms"].as_f64().unwrap(), heard["of_ms"].as_f64().unwrap());
    let played = person.stopped_at - before;
    assert!((ms - played).abs() <= FRAME_MS && ms <= of_ms, "{heard}, played {played}");
    assert_eq!(heard["basis"], "reported");
    heard
}

/// An answer, an interruption by speech, a tool, another answer, the end. Who does not tell interruptions is interrupted
/// in the second answer by the client.
async fn converse(row: Row) {
    let plays = Script {
        pace: row.tells_interruptions.then_some(3.0),
        answer_s: Some(5.0),
        // At the pace of speech a frame whose rest is late is padded, so there messages have whole frames.
        chunk_bytes: if row.tells_interruptions { vec![3001, 640, 1] } else { Vec::new() },
        hears: Some(SAID.into()),
        tool: Some("lookup_order".into()),
        late_audio_ms: row.named.then_some(200),
        duplicate: row.numbered,
        audio_in: Some(row.audio[0].into()),
        audio_out: Some(row.audio[1].into()),
        ..Script::default()
    };
    let vendor = Vendor::start(row.kind, Some("secret"), plays).await;
    let config = agent("vendor", row.kind, &vendor.url) + row.more + "setup = { transcribe = true }\n";
    let daemon = daemon(&config, "secret").await;
    let mut person = Person::call(&daemon, "vendor", row.client).await;
    if !row.greets {
        person.say(json!({ "type": "message", "id": "m", "text": "Hello?" })).await;
        answer_tool(&mut person).await;
    }
    person.until("a second of the first answer", |person| person.played_ms() > 1000.0).await;
    person.speak();
    let mut heard = None;
    if row.tells_interruptions {
        heard = Some(cut(&mut person, 0.0).await);
    }
    if row.greets {
        answer_tool(&mut person).await;
    }
    let turns = |person: &Person| person.said("turn").iter().filter(|turn| turn["phase"] == "start").count();
    person.until("the answer", |person| turns(person) == 2).await;
    let from = person.played_ms();
    person.until("some of the answer", |person| person.played_ms() > from + 300.0).await;
    if heard.is_none() {
        person.until("words of the answer", |person| person.played_ms() > from + 1_000.0).await;
        assert!(person.said("heard").is_empty(), "nobody has told it: {:?}", person.said("heard"));
        let begins =
            person.said("turn").iter().rfind(|turn| turn["phase"] == "start").unwrap()["pos"].as_f64().unwrap();
        let before = begins * 1000.0 / f64::from(row.client.clock());
        person.say(json!({ "type": "interrupt" })).await;
        heard = Some(cut(&mut person, before).await);
    }
    person.until("the words of all", |person| person.transcript().len() == if row.repeats { 4 } else { 3 }).await;
    person.until("the cut text", |person| cut_text(person).is_some()).await;
    check_transcript(&person, &row, &vendor);
    assert!(person.loudest > 5_000, "the agent was not heard: {}", person.loudest);
    person.say(json!({ "type": "end" })).await;
    person.until("the end", |_| false).await;
    assert_eq!((person.code(), person.said("ended")[0]["reason"].as_str()), (Some(1000), Some("client_hangup")));
    check_vendor(&vendor, &row, &heard.unwrap()).await;
}

fn cut_text(person: &Person) -> Option<&Value> {
    person.said("transcript").into_iter().find(|line| !line["cut"].is_null())
}

fn check_transcript(person: &Person, row: &Row, vendor: &Vendor) {
    let lines = person.transcript();
    let roles: Vec<&str> = lines.iter().map(|(role, _)| role.as_str()).collect();
    let expected = if row.repeats { &["user", "agent", "user", "agent"][..] } else { &["agent", "user", "agent"] };
    assert_eq!(roles, expected, "{:#?}", person.said("transcript"));
    assert_eq!(lines[lines.len() - 2].1, SAID);
    let cut = cut_text(person).unwrap();
    let how = if row.aligned { "aligned" } else { "estimated" };
    let whole = &vendor.logged("/event", "speaking")[usize::from(!row.tells_interruptions)];
    let text = cut["text"].as_str().unwrap();
    assert!(cut["cut"] == how && whole["text"].as_str().unwrap().starts_with(text), "{cut} of {whole}");
}

async fn check_vendor(vendor: &Vendor, row: &Row, heard: &Value) {
    let begin = &vendor.logged("/event", "begin")[0];
    assert_eq!([begin["hears"].as_str().unwrap(), begin["speaks"].as_str().unwrap()], row.audio);
    let result = vendor.logged("/event", "tool_result").remove(0);
    assert!(result["output"].as_str().unwrap().contains(TOLD) && result["known"] == true, "{result}");
    assert!(vendor.logged("/event", "pong").iter().all(|pong| pong["known"] == true));
    assert!(!vendor.logged("/event", "speech").is_empty(), "the caller was heard");
    if row.kind == VendorKind::Openai {
        let cut = &vendor.logged("/event", "truncated")[0];
        assert_eq!(cut["audio_end_ms"], heard["ms"], "the agent learns what was heard");
        assert!(cut["audio_end_ms"].as_u64() <= cut["sent_ms"].as_u64(), "{cut}");
        assert!(vendor.logged("/event", "refused").is_empty());
    }
    if row.kind == VendorKind::Live {
        let told = vendor.heard("session.instructions.append");
        assert!(told.len() == 1 && told[0].to_string().contains("stop speaking"), "{told:?}");
        assert!(vendor.logged("/event", "refused").is_empty());
    }
    let closed = async {
        while vendor.logged("/event", "close").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("the connection stays");
    assert_eq!(vendor.logged("/event", "close")[0]["code"], 1000);
}

macro_rules! calls {
    ($($name:ident: $row:expr),* $(,)?) => {$(
        #[tokio::test]
        async fn $name() {
            converse($row).await;
        }
    )*};
}

calls! {
    a_call_with_elevenlabs_in_the_formats_that_it_announces: ELEVENLABS,
    a_call_with_elevenlabs_in_two_telephone_formats:
        Row { client: Format::PCMA, audio: ["pcmu/8000", "pcmu/8000"], ..ELEVENLABS },
    a_call_with_deepgram_from_opus: DEEPGRAM,
    a_call_with_deepgram_in_the_clients_own_format:
        Row { client: Format::PCMU, audio: ["pcmu/8000", "pcmu/8000"], ..DEEPGRAM },
    a_call_with_openai_from_opus: ROW,
    a_call_with_openai_in_the_clients_own_telephone_format:
        Row { client: Format::PCMA, audio: ["pcma/8000", "pcma/8000"], ..ROW },
    a_call_with_openai_in_its_own_pcm: Row { client: PCM, ..ROW },
    a_call_with_openai_live_from_opus: LIVE,
    a_call_with_openai_live_in_the_clients_own_telephone_format:
        Row { client: Format::PCMU, audio: ["pcmu/8000", "pcmu/8000"], ..LIVE },
    a_call_with_gemini_from_opus: GEMINI,
    a_call_with_gemini_from_a_telephone: Row { client: Format::PCMU, ..GEMINI },
    a_call_with_pipecat_from_opus: PIPECAT,
    a_call_with_pipecat_in_json_from_a_telephone:
        Row { more: "protocol = \"rtvi\"\n", client: Format::PCMA, ..PIPECAT },
}

/// A client that never tells what it has played: the agent learns an estimate within the error that is stated.
#[tokio::test]
async fn openai_is_told_no_more_than_was_sent_by_a_client_that_reports_nothing() {
    let plays = Script { pace: Some(3.0), answer_s: Some(8.0), ..Script::default() };
    let vendor = Vendor::start(VendorKind::Openai, Some("secret"), plays).await;
    let daemon = daemon(&agent("vendor", VendorKind::Openai, &vendor.url), "secret").await;
    let mut person = Person::call(&daemon, "vendor", Format::pcm16(24_000)).await;
    person.reports = false;
    person.say(json!({ "type": "message", "id": "m", "text": "Hello?" })).await;
    person.until("a second of the answer", |person| person.played_ms() > 1000.0).await;
    person.speak();
    person.until("the interruption", |person| !person.said("heard").is_empty()).await;
    let heard = person.said("heard")[0].clone();
    let (ms, error) = (heard["ms"].as_f64().unwrap(), heard["error_ms"].as_f64().unwrap());
    assert_ne!(heard["basis"], "reported");
    assert!((ms - person.stopped_at).abs() <= error, "{heard}, played {}", person.stopped_at);
    person.until("the truncation", |_| !vendor.logged("/event", "truncated").is_empty()).await;
    let cut = &vendor.logged("/event", "truncated")[0];
    assert_eq!(cut["audio_end_ms"], heard["ms"], "the agent learns what is told");
    assert!(cut["audio_end_ms"].as_u64() <= cut["sent_ms"].as_u64(), "{cut}");
    assert!(vendor.logged("/event", "refused").is_empty());
}
