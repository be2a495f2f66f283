//! A call with the voice agent of `examples/voice_agent.py`: a real agent, with speech recognition and a voice.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use antiphon::media::format::Format;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::harness::Daemon;
use crate::harness::speech::espeak;
use crate::person::Person;

/// Loading its libraries takes several seconds.
const START: Duration = Duration::from_secs(60);

/// The agent, and where it listens.
async fn agent() -> (Child, u16) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join(".venv/bin/python"));
    command.arg(root.join("examples/voice_agent.py")).args(["127.0.0.1", &port.to_string()]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(START, lines.next_line()).await.expect("the agent does not listen").unwrap();
    assert_eq!(line.as_deref(), Some("listening"));
    (child, port)
}

fn says(person: &Person, role: &str, words: &str) -> bool {
    let spoken = person.messages.iter().filter(|message| message["type"] == "transcript" && message["role"] == role);
    spoken.filter_map(|line| line["text"].as_str()).any(|text| text.contains(words))
}

#[tokio::test]
async fn the_voice_agent_greets_is_asked_answers_and_is_interrupted() {
    let (_child, port) = agent().await;
    let config = format!(
        "[[route]]\nname = \"all\"\nto = \"bot\"\n[agent.bot]\nkind = \"pipecat\"\nurl = \"ws://127.0.0.1:{port}/\"\n"
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let mut person = Person::call(&daemon, "bot", Format::OPUS).await;
    person
        .until("the greeting", |person| says(person, "agent", "Hello and welcome") && person.played_ms() > 1500.0)
        .await;
    assert!(person.loudest > 3_000, "the greeting was not heard: {}", person.loudest);
    person.speak_samples(espeak("en-us", "what is the weather today").resampled(48_000).unwrap().samples);
    person.until("the interruption", |person| !person.said("heard").is_empty()).await;
    let heard = person.said("heard")[0].clone();
    let off = (heard["ms"].as_f64().unwrap() - person.stopped_at).abs();
    assert!(off <= 20.0 && heard["ms"].as_u64() <= heard["of_ms"].as_u64(), "{heard}, played {}", person.stopped_at);
    person.until("the question", |person| says(person, "user", "what is the weather")).await;
    person.until("the answer", |person| says(person, "agent", "sunny and warm")).await;
    let from = person.played_ms();
    person.until("some of the answer", |person| person.played_ms() > from + 1500.0).await;
    person.speak_samples(espeak("en-us", "please tell me your name").resampled(48_000).unwrap().samples);
    person.until("the second interruption", |person| person.said("heard").len() == 2).await;
    person.until("the second answer", |person| says(person, "agent", "My name is Echo")).await;
    let roles: Vec<String> = person.transcript().into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, ["agent", "user", "agent", "user", "agent"], "{:?}", person.transcript());
}
