//! A minute of speech that an agent sends in a second: nothing of it is lost, it takes little memory, the caller hears it
//! in real time, and what was not heard when the caller interrupts is gone.

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::Format;
use serde_json::json;

use crate::Vendor;
use crate::harness::Daemon;
use crate::person::Person;

const MINUTE_MS: u64 = 60_000;
/// As PCM16 at 24 kHz.
const MINUTE_BYTES: f64 = 60.0 * 48_000.0;
/// What a client may have at most before it is played: `send_ahead_ms`, and what is on its way on a busy machine.
const AHEAD_MS: f64 = 700.0;

async fn burst(kind: VendorKind) {
    let name = kind.label();
    let plays = Script { pace: Some(60.0), answer_s: Some(60.0), ..Script::default() };
    let vendor = Vendor::start(kind, Some("secret"), plays).await;
    let id = if kind == VendorKind::Elevenlabs { "agent_id = \"a\"\n" } else { "" };
    let config = format!(
        "[[route]]\nname = \"all\"\nto = \"agent\"\n[agent.agent]\nkind = \"{name}\"\nurl = \"{}\"\n\
         api_key = \"${{env:TEST_KEY}}\"\n{id}setup = {{ greeting = \"none\" }}\n",
        vendor.url
    );
    let daemon = Daemon::start_with(Some(&config), &[("TEST_KEY", "secret")]).await;
    let mut person = Person::call(&daemon, "agent", Format::pcm16(24_000)).await;
    person.until("the agent", |person| person.said("agent").iter().any(|agent| agent["status"] == "ready")).await;
    let before = daemon.metric("process_resident_memory_bytes", "").await;
    // The bot of Pipecat speaks as soon as somebody is there; what is written would interrupt that.
    if kind != VendorKind::Pipecat {
        person.say(json!({ "type": "message", "id": "m", "text": "Tell me everything." })).await;
    }
    let mut most_ahead = 0.0_f64;
    person
        .until("five seconds", |person| {
            most_ahead = most_ahead.max(person.buffered_ms());
            person.played_ms() > 5_000.0
        })
        .await;
    assert!(most_ahead <= AHEAD_MS, "{name}: {most_ahead} ms were ahead of the ear");
    let grown = daemon.metric("process_resident_memory_bytes", "").await - before;
    assert!(grown < 3.0 * MINUTE_BYTES + 8e6, "{name}: {grown} bytes for a minute of speech");
    person.say(json!({ "type": "interrupt" })).await;
    person.until("the interruption", |person| !person.said("heard").is_empty()).await;
    let heard = person.said("heard")[0].clone();
    let (ms, of_ms) = (heard["ms"].as_f64().unwrap(), heard["of_ms"].as_u64().unwrap());
    assert!((ms - person.stopped_at).abs() <= 20.0, "{name}: {heard}, played {}", person.stopped_at);
    assert!(of_ms >= MINUTE_MS, "{name}: {heard}: something was lost");
    let lost = daemon.metric("antiphon_queue_dropped_audio_seconds_total", "queue=\"playout\"").await;
    assert_eq!(lost, 0.0, "{name}");
    // What was not heard is gone: the next that is heard is of the next answer.
    let received = person.received_ms();
    person.say(json!({ "type": "message", "id": "n", "text": "And now?" })).await;
    person.until("the next answer", |person| person.received_ms() > received).await;
    let turn = person.said("turn").last().unwrap()["turn"].as_u64();
    assert_eq!(turn, heard["turn"].as_u64().map(|turn| turn + 1), "{name}");
    if kind == VendorKind::Openai {
        let cut = &vendor.logged("/event", "truncated")[0];
        assert_eq!((cut["audio_end_ms"].as_u64(), cut["sent_ms"].as_u64()), (heard["ms"].as_u64(), Some(of_ms)));
    }
    person.say(json!({ "type": "end" })).await;
    person.until("the end", |_| false).await;
}

#[tokio::test]
async fn a_minute_in_a_second_is_kept_played_in_real_time_and_cut_where_it_was_heard() {
    let kinds =
        [VendorKind::Openai, VendorKind::Elevenlabs, VendorKind::Deepgram, VendorKind::Gemini, VendorKind::Pipecat];
    for kinds in kinds.chunks(2) {
        futures_util::future::join_all(kinds.iter().map(|kind| burst(*kind))).await;
    }
}
