//! An emulator is worth something only if the vendor's own SDK holds a full session with it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::clip::Clip;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::{Vendor, harness};

/// What a script of `tests/sdk` prints.
pub async fn script(name: &str, arguments: &[&str]) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.exists(), "{} is missing; run `make setup`", python.display());
    let mut command = Command::new(python);
    command.arg(root.join("tests/sdk").join(name)).args(arguments).kill_on_drop(true).stdin(Stdio::null());
    let output = timeout(Duration::from_secs(60), command.output()).await.expect("the script does not end").unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{name}: {error}"))
}

/// Two seconds of speech and two of silence, PCM16 at 16 kHz, in a file.
pub fn speech(folder: &Path) -> String {
    let recorded = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/speech.ogg")).unwrap();
    let mut samples = Clip::parse(&recorded).unwrap().resampled(16_000).unwrap().samples;
    samples.truncate(32_000);
    samples.resize(64_000, 0);
    let file = folder.join("speech.raw");
    std::fs::write(&file, samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    file.to_str().unwrap().to_owned()
}

pub fn plays() -> Script {
    Script {
        pace: Some(1.5),
        answer_s: Some(6.0),
        hears: Some("Where is my order?".into()),
        tool: Some("lookup_order".into()),
        late_audio_ms: Some(200),
        ..Script::default()
    }
}

/// Positions of the events of a kind.
pub fn at(events: &Value, kind: &str) -> Vec<usize> {
    let events = events.as_array().unwrap();
    (0..events.len()).filter(|&index| events[index][0] == kind).collect()
}

async fn elevenlabs(auth: &str) {
    let folder = harness::folder();
    let key = (auth == "signed").then_some("secret");
    let vendor = Vendor::start(VendorKind::Elevenlabs, key, plays()).await;
    let base = format!("http://{}", vendor.host());
    let said = script("elevenlabs_call.py", &[&base, &speech(&folder), auth]).await;
    let events = &said["events"];
    assert_eq!(said["conversation"], "conv_emulated");
    let interrupted = at(events, "interrupt")[0];
    let correction = at(events, "correction")[0];
    assert!(interrupted < correction, "{events}");
    assert_eq!(events[correction - 1][0], "interrupt", "late audio was played: {events}");
    assert_eq!(events[at(events, "transcript")[0]][1][0], "Where is my order?");
    assert_eq!(events[at(events, "tool")[0]][1]["query"], "as scripted");
    assert!(at(events, "latency").len() > 2 && at(events, "alignment").len() > 2, "{events}");
    assert_eq!(vendor.heard("client_tool_result")[0]["result"], "sent on Friday");
    assert!(!vendor.logged("/event", "pong").is_empty());
    assert!(vendor.logged("/event", "pong").iter().all(|line| line["known"] == true));
    assert_eq!(vendor.logged("/event", "request").len(), if auth == "signed" { 2 } else { 1 });
    let _ = std::fs::remove_dir_all(folder);
}

#[tokio::test]
async fn the_elevenlabs_sdk_holds_a_session_with_a_public_agent() {
    elevenlabs("public").await;
}

#[tokio::test]
async fn the_elevenlabs_sdk_holds_a_session_by_a_signed_url() {
    elevenlabs("signed").await;
}

#[tokio::test]
async fn the_elevenlabs_sdk_takes_a_break_in_a_word_for_an_error() {
    let plays = Script { close_at_ms: Some(300), ..plays() };
    let vendor = Vendor::start(VendorKind::Elevenlabs, None, plays).await;
    let end = script("elevenlabs_closed.py", &[&format!("http://{}", vendor.host())]).await;
    assert_eq!((end["reason"].as_str(), end["close_code"].as_u64()), (Some("error"), Some(1011)), "{end}");
}

#[tokio::test]
async fn the_deepgram_sdk_holds_a_session() {
    let folder = harness::folder();
    let vendor = Vendor::start(VendorKind::Deepgram, Some("secret"), plays()).await;
    let said = script("deepgram_call.py", &[vendor.host(), &speech(&folder)]).await;
    let events = &said["events"];
    assert_eq!(said["refused"], 401);
    let (speaks, asks) = (at(events, "UserStartedSpeaking")[0], at(events, "FunctionCallRequest")[0]);
    assert!(at(events, "AgentStartedSpeaking")[0] < speaks && speaks < asks, "{events}");
    let texts: Vec<_> = at(events, "ConversationText").into_iter().map(|index| &events[index][1]).collect();
    assert!(texts.iter().any(|text| *text == "Where is my order?"), "{texts:?}");
    assert!(at(events, "AgentAudioDone").iter().all(|&index| index > asks), "the greeting was cut: {events}");
    assert_eq!(events[at(events, "Error")[0]][1], "UNPARSABLE_CLIENT_MESSAGE");
    assert_eq!(vendor.heard("KeepAlive").len(), 1);
    assert_eq!(vendor.heard("FunctionCallResponse")[0]["content"], "sent on Friday");
    let _ = std::fs::remove_dir_all(folder);
}

#[tokio::test]
async fn the_openai_sdk_holds_a_live_session() {
    let folder = harness::folder();
    let vendor = Vendor::start(VendorKind::Live, Some("secret"), Script { pace: None, ..plays() }).await;
    let said = script("openai_live.py", &[&format!("http://{}/v1", vendor.host()), &speech(&folder)]).await;
    let events = &said["events"];
    assert_eq!((&said["early"][0], &said["hasty"]), (&"early".into(), &"function_call_outputs_required".into()));
    assert_eq!((&said["voice"], &said["started"], &said["refused"]), (&"cedar".into(), &"start".into(), &401.into()));
    assert_eq!(said["call"]["name"], "lookup_order");
    let (speaks, stopped) = (at(events, "speaks")[0], at(events, "stopped")[0]);
    let voiced = |range: std::ops::Range<usize>| at(events, "voice").iter().any(|index| range.contains(index));
    assert!(voiced(0..speaks) && voiced(stopped..events.as_array().unwrap().len()), "{events}");
    let silences = at(events, "silence");
    assert!(silences[0] < at(events, "voice")[0], "it is silent before it speaks: {events}");
    assert!(silences.iter().any(|&index| index > stopped), "it falls silent: {events}");
    assert_eq!(vendor.logged("/event", "stopped").len(), 1, "the caller interrupted it");
    let heard: String =
        at(events, "session.input_transcript.delta").iter().filter_map(|&index| events[index][1].as_str()).collect();
    assert!(
        "Where is my order?".starts_with(said["heard"].as_str().unwrap()) && heard == "Where is my order?",
        "{heard}"
    );
    assert_eq!((&said["closed"][0], &said["code"]), (&"close_requested".into(), &1000.into()));
    assert!(said["closed"][1].as_f64() > Some(3.0), "{said}");
    let results = vendor.logged("/event", "tool_result");
    assert!(results.len() == 1 && results[0]["known"] == true, "{results:?}");
    let _ = std::fs::remove_dir_all(folder);
}
