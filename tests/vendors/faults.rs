//! What goes wrong at a vendor, and what becomes of the call.

use std::process::Stdio;

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::Format;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::Vendor;
use crate::calls::agent;
use crate::harness::{Daemon, PATIENCE, command, folder};
use crate::person::Person;

/// Kinds that hear and speak.
const VOICES: [VendorKind; 6] = [
    VendorKind::Deepgram,
    VendorKind::Elevenlabs,
    VendorKind::Gemini,
    VendorKind::Live,
    VendorKind::Openai,
    VendorKind::Pipecat,
];

/// An agent that speaks first.
fn greets(name: &str, kind: VendorKind, url: &str) -> String {
    agent(name, kind, url) + "setup = { transcribe = true, greeting = { say = \"Hello!\" } }\n"
}

async fn daemon(agents: &str) -> Daemon {
    let config = format!("[[route]]\nname = \"all\"\nto = \"requested\"\n{agents}");
    Daemon::start_with(Some(&config), &[("TEST_KEY", "secret"), ("WRONG_KEY", "wrong")]).await
}

/// How a call of `person` ended: the class of the failure, or `bye`.
fn told(person: &Person) -> &str {
    let down = person.said("agent").into_iter().find(|agent| agent["status"] == "down");
    let reason = person.said("ended")[0]["reason"].as_str().unwrap();
    let told = down.map_or("bye", |agent| agent["reason"].as_str().unwrap());
    assert_eq!(reason, if told == "bye" { "agent_hangup" } else { "agent_failed" }, "{:?}", person.messages);
    told
}

async fn ends_are_told(kind: VendorKind) {
    let close = |code| Script { close_at_ms: Some(100), close_code: Some(code), pace: Some(0.0), ..Script::default() };
    let refuse = |status| Script { refuse: Some(status), ..Script::default() };
    // A vendor that closes because of a policy says by that what its documents say.
    let policy = match kind {
        VendorKind::Openai | VendorKind::Live | VendorKind::Pipecat => "auth",
        _ => "bad_request",
    };
    // A bot just hangs up.
    let old = if kind == VendorKind::Pipecat { "bye" } else { "expired" };
    // A Gemini session goes on over another connection, by its handle.
    let oops = if kind == VendorKind::Gemini { "goes on" } else { "internal" };
    let cases = [
        ("bye", close(1000), "bye"),
        ("policy", close(1008), policy),
        ("oops", close(1011), oops),
        ("busy", refuse(429), "limit"),
        ("broken", refuse(503), "unreachable"),
        ("old", Script { expire_s: Some(0.1), ..Script::default() }, old),
    ];
    let (mut vendors, mut agents) = (Vec::new(), String::new());
    for (name, plays, _) in &cases {
        let vendor = Vendor::start(kind, Some("secret"), plays.clone()).await;
        agents += &greets(name, kind, &vendor.url);
        vendors.push(vendor);
    }
    agents += "[agent.wrong]\nlike = \"bye\"\napi_key = \"${env:WRONG_KEY}\"\n";
    let daemon = daemon(&agents).await;
    let ends = cases.iter().map(|(name, _, class)| (*name, *class)).chain([("wrong", "auth")]);
    for (name, class) in ends {
        let mut person = Person::call(&daemon, name, Format::pcm16(16_000)).await;
        if class == "goes on" {
            person.until("another connection", |_| vendors[2].logged("/event", "set_up").len() > 1).await;
            assert!(person.said("error").is_empty() && person.code().is_none(), "{:?}", person.messages);
            continue;
        }
        person.until("the end", |_| false).await;
        assert_eq!(told(&person), class, "{kind:?} {name}: {:?}", person.messages);
    }
    assert!(!daemon.log().contains("secret"), "a key is in the log");
}

/// The class that the client is told, or the normal end.
#[tokio::test]
async fn every_end_at_the_vendor_is_told_by_its_class() {
    for kinds in VOICES.chunks(2) {
        futures_util::future::join_all(kinds.iter().map(|kind| ends_are_told(*kind))).await;
    }
}

/// Bursts, a stall, messages of odd sizes, audio after an interruption, events told twice, errors: the call goes on.
async fn survives(kind: VendorKind) {
    let plays = Script {
        pace: (kind != VendorKind::Live).then_some(4.0),
        chunk_bytes: vec![3001, 640, 1],
        answer_s: Some(5.0),
        hears: Some("Where is my order?".into()),
        stall_at_ms: Some(1_500),
        stall_s: Some(0.8),
        late_audio_ms: Some(300),
        duplicate: true,
        errors: true,
        ..Script::default()
    };
    let vendor = Vendor::start(kind, Some("secret"), plays).await;
    let daemon = daemon(&greets("vendor", kind, &vendor.url)).await;
    let mut person = Person::call(&daemon, "vendor", Format::pcm16(24_000)).await;
    person.until("a second of the greeting", |person| person.played_ms() > 1_000.0).await;
    person.speak();
    if kind != VendorKind::Live {
        person.until("the interruption", |person| !person.said("heard").is_empty()).await;
        let heard = person.said("heard")[0].clone();
        assert!(heard["ms"].as_u64() <= heard["of_ms"].as_u64(), "{kind:?}: {heard}");
    }
    let spoke = |person: &Person, who: &str| person.transcript().iter().any(|(role, _)| role == who);
    person.until("the caller's words", |person| spoke(person, "user")).await;
    let answers = |person: &Person| person.transcript().last().is_some_and(|(role, _)| role == "agent");
    person.until("the answer", answers).await;
    let from = person.played_ms();
    person.until("some of the answer", |person| person.played_ms() > from + 500.0).await;
    let lines = person.transcript();
    // The stall divides what an agent says that tells no turns.
    let mut roles: Vec<&str> = lines.iter().map(|(role, _)| role.as_str()).collect();
    roles.dedup();
    assert_eq!(roles, ["agent", "user", "agent"], "{kind:?}: {:#?}", person.said("transcript"));
    let said = lines.iter().find(|(role, _)| role == "user").map(|(_, text)| text.as_str());
    // Gemini gives its events no number: what it tells twice stands twice.
    let twice = if kind == VendorKind::Gemini { "WhereWhere is my order? is my order?" } else { "Where is my order?" };
    assert_eq!(said, Some(twice), "{kind:?}");
    assert!(person.loudest > 3_000, "{kind:?}");
    for error in person.said("error") {
        assert!(error["message"].as_str().is_some_and(|text| text.ends_with("as scripted")), "{kind:?}: {error}");
    }
    assert!(!vendor.logged("/event", "stalling").is_empty(), "{kind:?}");
    person.say(json!({ "type": "end" })).await;
    person.until("the end", |_| false).await;
    assert_eq!(person.said("ended")[0]["reason"], "client_hangup", "{kind:?}");
}

#[tokio::test]
async fn a_call_survives_whatever_a_vendor_does_short_of_ending_it() {
    for kinds in VOICES.chunks(2) {
        futures_util::future::join_all(kinds.iter().map(|kind| survives(*kind))).await;
    }
}

#[tokio::test]
async fn a_gemini_session_that_is_announced_to_end_goes_on_over_another_connection() {
    let plays = Script { go_away_s: Some(2.0), expire_s: Some(8.0), answer_s: Some(3.0), ..Script::default() };
    let vendor = Vendor::start(VendorKind::Gemini, Some("secret"), plays).await;
    let daemon = daemon(&greets("vendor", VendorKind::Gemini, &vendor.url)).await;
    let mut person = Person::call(&daemon, "vendor", Format::pcm16(24_000)).await;
    person.until("another connection", |_| vendor.logged("/event", "set_up").len() == 2).await;
    let resumed = vendor.logged("/event", "set_up")[1]["resumes"].clone();
    assert!(resumed.as_str().is_some_and(|handle| handle.starts_with("handle-")), "{resumed}");
    person.say(json!({ "type": "message", "id": "m", "text": "Are you still there?" })).await;
    let turns = |person: &Person| person.said("turn").iter().filter(|turn| turn["phase"] == "start").count();
    person.until("an answer on the new connection", |person| turns(person) == 2).await;
    assert!(person.said("error").is_empty() && person.code().is_none(), "{:?}", person.messages);
}

/// A script in a file, and the command line over it, play the same as in this process.
#[tokio::test]
async fn each_vendor_is_emulated_from_the_command_line_by_a_script() {
    let folder = folder();
    let file = folder.join("breaks.toml");
    std::fs::write(&file, "pace = 0.0\nchunk_bytes = [999]\nclose_at_ms = 300\nclose_code = 1002\n").unwrap();
    let (mut emulators, mut agents) = (Vec::new(), String::new());
    for kind in VOICES {
        let mut command = command(&[]);
        command.args(["emulate", kind.label(), "--key", "secret", "--close-code", "1011", "--script"]).arg(&file);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        agents += &greets(kind.label(), kind, line["listening"].as_str().unwrap());
        emulators.push(child);
    }
    let daemon = daemon(&agents).await;
    for kind in VOICES.into_iter().filter(|kind| *kind != VendorKind::Gemini) {
        let mut person = Person::call(&daemon, kind.label(), Format::pcm16(16_000)).await;
        person.until("the end", |_| false).await;
        assert_eq!(told(&person), "internal", "{kind:?}: {:?}", person.messages);
    }
    let _ = std::fs::remove_dir_all(folder);
}

/// A chat model has no connection that could break: each request stands for itself.
#[tokio::test]
async fn a_chat_model_that_refuses_is_told_by_its_class() {
    let refuses = Vendor::start(VendorKind::Chat, None, Script { refuse: Some(429), ..Script::default() }).await;
    let daemon = daemon(&agent("chat", VendorKind::Chat, &refuses.url)).await;
    let mut person = Person::call(&daemon, "chat", Format::pcm16(16_000)).await;
    person.say(json!({ "type": "message", "id": "m", "text": "Hello?" })).await;
    person.until("the refusal", |person| !person.said("error").is_empty() || !person.said("ended").is_empty()).await;
    let text = serde_json::to_string(&person.messages).unwrap();
    assert!(text.contains("429") || text.contains("limit"), "{text}");
}
