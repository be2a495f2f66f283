//! The emulators of Gemini, Pipecat and chat completions against their own client libraries.

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;

use crate::sdk::{at, plays, script, speech};
use crate::{Vendor, harness};

#[tokio::test]
async fn the_google_sdk_holds_a_session_and_goes_on_with_it_over_another_connection() {
    let folder = harness::folder();
    let tls = folder.join("tls");
    let script_ = Script { go_away_s: Some(8.0), ..plays() };
    let vendor = Vendor::start_with_tls(VendorKind::Gemini, Some("secret"), script_, &tls).await;
    let certificate = tls.join("cert.pem");
    let arguments = [&format!("https://{}", vendor.host()), certificate.to_str().unwrap(), &speech(&folder)];
    let said = script("gemini_call.py", &arguments).await;
    let events = &said["events"];
    let interrupted = at(events, "interrupted")[0];
    assert_eq!(events[at(events, "tool")[0]][1]["query"], "as scripted");
    assert!(at(events, "tool")[0] < at(events, "audio")[0] && at(events, "audio")[0] < interrupted, "{events}");
    let heard: String = at(events, "heard").into_iter().map(|index| events[index][1].as_str().unwrap()).collect();
    assert_eq!(heard, "Where is my order?");
    assert!(!at(events, "usage").is_empty() && !at(events, "go_away").is_empty(), "{events}");
    assert!(said["handle"].as_str().unwrap().starts_with("handle-"));
    assert!(!at(&said["again"], "complete").is_empty() && said["refused"] == 1007, "{said}");
    assert_eq!(vendor.logged("/event", "set_up").iter().filter(|line| line["resumes"].is_string()).count(), 1);
    let _ = std::fs::remove_dir_all(folder);
}

async fn pipecat(wire: &str) {
    let folder = harness::folder();
    let vendor = Vendor::start(VendorKind::Pipecat, None, plays()).await;
    let said = script("pipecat_call.py", &[&vendor.url, &speech(&folder), wire]).await;
    let events = &said["events"];
    let (spoken, stopped) = (at(events, "bot-tts-text")[0], at(events, "interruption")[0]);
    let (heard, called) = (at(events, "user-transcription")[0], at(events, "llm-function-call-in-progress")[0]);
    assert!(spoken < stopped && stopped < heard && heard < called, "{events}");
    assert_eq!(events[heard][1], "Where is my order?");
    assert!(at(events, "bot-tts-text").into_iter().any(|index| index > called), "{events}");
    if wire == "protobuf" {
        assert!(at(events, "audio").into_iter().all(|index| events[index][2] == 24_000), "{events}");
        assert_eq!(events[at(events, "error")[0]][1], "as asked for");
    }
    let results = vendor.logged("/event", "tool_result");
    assert!(results.len() == 1 && results[0]["known"] == true, "{results:?}");
    let _ = std::fs::remove_dir_all(folder);
}

#[tokio::test]
async fn pipecats_own_serializer_and_transport_hold_a_session() {
    pipecat("protobuf").await;
}

#[tokio::test]
async fn pipecats_own_rtvi_client_holds_a_session() {
    pipecat("rtvi").await;
}

#[tokio::test]
async fn the_openai_sdk_reads_completions_as_they_are_streamed() {
    let vendor = Vendor::start(VendorKind::Chat, Some("secret"), Script::default()).await;
    let said = script("chat_call.py", &[&format!("http://{}/v1", vendor.host())]).await;
    let pieces: String = said["pieces"].as_array().unwrap().iter().filter_map(|piece| piece.as_str()).collect();
    assert_eq!(pieces, "you wrote: Hello there (1 messages so far)");
    assert_eq!(said["whole"], pieces);
    assert_eq!(said["calls"][0]["arguments"], r#"{"query": "as asked"}"#);
    assert!(said["after"].as_str().unwrap().starts_with("the tool says: sent on Friday"));
    assert_eq!((said["broken"].as_str(), said["refused"].as_u64()), (Some("as asked for"), Some(401)));
}
