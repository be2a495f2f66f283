//! Agents of vendors that only listen.

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::Format;
use serde_json::{Value, json};

use crate::Vendor;
use crate::calls::agent;
use crate::harness::agent::AgentServer;
use crate::harness::{Daemon, Heard};
use crate::person::Person;

/// An agent that only listens to its call.
async fn listener() -> String {
    let server = AgentServer::bind().await;
    let url = server.url();
    tokio::spawn(async move {
        let mut link = server.accept().await;
        link.begin().await;
        while !matches!(link.hear().await, Heard::Closed(..) | Heard::Gone) {}
    });
    url
}

#[tokio::test]
async fn vendors_that_listen_write_down_what_the_caller_says_and_nothing_of_their_answers_is_heard() {
    for kind in [VendorKind::Elevenlabs, VendorKind::Openai, VendorKind::Gemini, VendorKind::Deepgram] {
        let plays = Script { hears: Some("Where is my order?".into()), ..Script::default() };
        let vendor = Vendor::start(kind, Some("secret"), plays).await;
        let config = format!(
            "[[route]]\nname = \"r\"\nto = \"quiet\"\ntaps = [{{ agent = \"scribe\", tell = [\"transcript\"] }}]\n\
             [agent.quiet]\nkind = \"websocket\"\nurl = \"{}\"\n{}setup = {{ transcribe = true }}\n",
            listener().await,
            agent("scribe", kind, &vendor.url)
        );
        let daemon = Daemon::start_with(Some(&config), &[("TEST_KEY", "secret")]).await;
        let mut person = Person::call(&daemon, "quiet", Format::pcm16(24_000)).await;
        person.until("the agent", |person| person.said("agent").iter().any(|agent| agent["status"] == "ready")).await;
        person.speak();
        let written = |line: &&Value| line["text"] == "Where is my order?" && line["final"] == true;
        person.until("the transcript", |person| person.said("transcript").iter().any(written)).await;
        person.until("the answer of the tap", |_| !vendor.logged("/event", "speaking").is_empty()).await;
        person.say(json!({ "type": "end" })).await;
        person.until("the end", |_| false).await;
        assert!(person.transcript().iter().all(|(role, _)| role == "user"), "{kind:?}: {:?}", person.transcript());
        assert_eq!(person.loudest, 0, "{kind:?} is heard");
        let record = daemon.call_record().await;
        let tap = &record["taps"][0];
        assert!(tap["losses"] == 0 && tap["transcripts"].as_u64() >= Some(1), "{kind:?}: {record}");
    }
}
