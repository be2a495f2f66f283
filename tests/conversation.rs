//! What a conversation is held to over real sockets: how much was heard of an answer, whatever lies between the caller
//! and the agent, and that an answer goes on where it was when a connection is lost.

mod harness;

use std::time::Duration;

use antiphon::media::format::Format;
use antiphon::media::transcode::payload_ticks;
use harness::agent::{AgentLink, AgentServer};
use harness::speaker::Speaker;
use harness::speech::utterances;
use harness::{Caller, Daemon, Heard, PATIENCE, folder, run_for};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Bytes;

const RATE: u32 = 24_000;
/// Figures are cut to whole milliseconds, and a position to a sample on each link.
const EXACT_MS: f64 = 1.2;

/// A daemon whose only agent is at `url`, and speaks PCM at 24 kHz.
async fn daemon(url: &str, workers: &str) -> Daemon {
    let config = format!(
        "[[route]]\nname = \"all\"\nto = \"speaker\"\n\
         [agent.speaker]\nkind = \"websocket\"\nurl = \"{url}\"\naudio_in = \"pcm16/16000\"\naudio_out = \"pcm16/{RATE}\"\n"
    );
    Daemon::start_with(Some(&config), &[("ANTIPHON_RUNTIME__WORKERS", workers)]).await
}

/// A long answer: speech, over and over.
fn answer() -> Vec<i16> {
    utterances(RATE).into_iter().flat_map(|utterance| utterance.clip.samples).collect()
}

fn bytes(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// Says the answer at once, as one turn.
async fn say_answer(agent: &mut AgentLink, samples: &[i16]) {
    agent.say(json!({ "type": "turn", "turn": 7, "item": "a-7", "phase": "start" })).await;
    for frame in samples.chunks(RATE as usize / 10) {
        agent.speak(Bytes::from(bytes(frame))).await;
    }
    agent.say(json!({ "type": "turn", "turn": 7, "phase": "end" })).await;
}

/// A caller with a speaker, on one link.
struct Listener {
    caller: Caller,
    format: Format,
    speaker: Speaker,
    started: Value,
    /// Of the last message that had one.
    seq: u64,
    /// Control messages since the last look.
    messages: Vec<Value>,
    audio: Vec<u8>,
}

impl Listener {
    /// Opens a link in `format` with these fields of `start`.
    async fn open(daemon: &Daemon, format: Format, mut start: Value) -> Listener {
        let mut caller = Caller::connect(daemon).await;
        let audio = json!({ "codec": format.codec.to_string(), "rate": format.rate });
        start["type"] = "start".into();
        start["audio"] = json!({ "in": audio, "out": audio });
        caller.say(start).await;
        let started = caller.hear_type("started").await;
        let speaker = Speaker::new(format.clock());
        Listener { caller, format, speaker, started, seq: 0, messages: Vec::new(), audio: Vec::new() }
    }

    /// Listens and reports until `done`.
    async fn listen(&mut self, mut done: impl FnMut(&Listener) -> bool) {
        let listening = async {
            while !done(self) {
                tokio::select! {
                    heard = self.caller.hear() => match heard {
                        Heard::Control(message) => {
                            self.seq = message["seq"].as_u64().unwrap_or(self.seq);
                            self.messages.push(message);
                        }
                        Heard::Audio(frame) => {
                            self.speaker.take(payload_ticks(&self.format, &frame).unwrap().into());
                            self.audio.extend_from_slice(&frame);
                        }
                        end => panic!("the call was ended: {end:?}"),
                    },
                    _ = self.speaker.reports.tick() => {
                        let report = self.speaker.report();
                        self.caller.say(report).await;
                    }
                }
            }
        };
        timeout(PATIENCE, listening).await.expect("it does not come so far");
    }

    /// Reports a last time; gives the position, once the daemon has read it.
    async fn last_report(&mut self) -> u64 {
        let report = self.speaker.report();
        self.caller.say(report.clone()).await;
        self.caller.say(json!({ "type": "ping", "t": 1 })).await;
        self.caller.hear_type("pong").await;
        report["pos"].as_u64().unwrap()
    }

    /// Interrupts; gives `heard`, and the position at which the speaker stopped.
    async fn interrupt(&mut self) -> (Value, u64) {
        self.caller.say(json!({ "type": "interrupt" })).await;
        let flush = self.caller.hear_type("flush").await;
        let mut report = self.speaker.report();
        report["flush"] = flush["id"].clone();
        self.caller.say(report.clone()).await;
        (self.caller.hear_type("heard").await, report["pos"].as_u64().unwrap())
    }

    fn said(&self, kind: &str) -> Vec<&Value> {
        self.messages.iter().filter(|message| message["type"] == kind).collect()
    }
}

/// Loses the connection a second into the answer, comes back with `second`, and interrupts a second later.
async fn lose_and_resume(first: Format, second: Format, workers: &str, reset: bool) {
    let server = AgentServer::bind().await;
    let daemon = daemon(&server.url(), workers).await;
    let answer = answer();
    let (mut listener, mut agent) = tokio::join!(Listener::open(&daemon, first, json!({})), async {
        let mut agent = server.accept().await;
        agent.begin().await;
        say_answer(&mut agent, &answer).await;
        agent
    });
    listener.listen(|listener| listener.speaker.position() >= u64::from(first.clock())).await;
    let reported = listener.last_report().await;
    let Listener { caller, started, seq, .. } = listener;
    if reset {
        caller.socket.get_ref().set_zero_linger().unwrap();
    }
    drop(caller);

    let resume = json!({ "resume": started["resume_token"], "have": seq });
    let mut listener = Listener::open(&daemon, second, resume).await;
    assert_eq!(listener.started["session_id"], started["session_id"]);
    assert_eq!(listener.started["resumed"], true);
    listener.listen(|listener| listener.speaker.position() >= u64::from(second.clock())).await;
    let turns = listener.said("turn");
    assert_eq!((&turns[0]["phase"], &turns[0]["turn"], &turns[0]["pos"]), (&json!("start"), &json!(1), &json!(0)));

    // Positions cross from one clock to another in microseconds: that may cost a sample.
    let from = (reported * u64::from(RATE) / u64::from(first.clock())) as usize;
    if second == Format::pcm16(RATE) {
        let begins = [0, 1].map(|off| bytes(&answer[from - off..]).starts_with(&listener.audio));
        assert!(begins.contains(&true), "it does not go on at sample {from}: {:?}", &listener.audio[..8]);
    }
    let (heard, played) = listener.interrupt().await;
    let exact = |ticks: u64, format: Format| ticks as f64 * 1000.0 / f64::from(format.clock());
    let both = exact(reported, first) + exact(played, second);
    assert_eq!((&heard["basis"], &heard["turn"]), (&json!("reported"), &json!(1)));
    let off = heard["ms"].as_f64().unwrap() - both;
    assert!(off.abs() <= EXACT_MS, "{heard}, but {both:.1} ms left both speakers");

    // The agent is told the same, in its own positions; it was called once and asked for one greeting.
    let ms = |pos: &Value| pos.as_f64().map(|pos| pos * 1000.0 / f64::from(RATE));
    let mut reports = Vec::new();
    let cut = loop {
        match agent.hear().await {
            Heard::Control(message) if message["type"] == "playout" => reports.extend(ms(&message["pos"])),
            Heard::Control(message) if message["type"] == "interrupt" => {
                assert_eq!(message["turn"], 7);
                if let Some(cut) = ms(&message["pos"]) {
                    break cut;
                }
            }
            Heard::Control(_) | Heard::Audio(_) => {}
            end => panic!("the agent was hung up: {end:?}"),
        }
    };
    assert!(reports.len() >= 10, "it is told while the answer plays: {reports:?}");
    assert!(reports.windows(2).all(|pair| pair[1] > pair[0] - 0.1), "time goes on: {reports:?}");
    assert!(
        reports.iter().all(|heard| *heard <= both + EXACT_MS),
        "never more than was heard, {both:.1} ms: {reports:?}"
    );
    assert!((cut - both).abs() <= EXACT_MS, "the agent is told {cut:.1} ms, but {both:.1} ms left both speakers");
    listener.caller.say(json!({ "type": "end" })).await;
    let ended = listener.caller.hear_type("ended").await;
    let heard_ms = ended["stats"]["heard_ms"].as_f64().unwrap();
    assert!((heard_ms - both).abs() <= EXACT_MS, "{ended}");
    assert_eq!(daemon.metric("antiphon_resumes_total", "worker").await, 1.0);
    let mut rest = Vec::new();
    while let message @ (Heard::Control(_) | Heard::Audio(_)) = agent.hear().await {
        rest.push(message);
    }
    let again = |heard: &Heard| matches!(heard, Heard::Control(message) if message["type"] == "start");
    assert!(!rest.iter().any(again), "there is no second greeting");
    println!("{first} then {second}, {workers} workers: {reported} ticks reported, heard {} ms", heard["ms"]);
}

#[tokio::test]
async fn an_answer_goes_on_at_the_sample_that_was_reported_before_the_connection_was_lost() {
    let pcm = Format::pcm16(RATE);
    tokio::join!(lose_and_resume(pcm, pcm, "1", false), lose_and_resume(pcm, pcm, "4", true));
}

#[tokio::test]
async fn an_answer_goes_on_in_the_format_of_the_new_link() {
    let pcm = Format::pcm16(RATE);
    tokio::join!(lose_and_resume(Format::OPUS, pcm, "4", true), lose_and_resume(pcm, Format::OPUS, "1", false));
}

#[tokio::test]
async fn an_answer_waits_while_no_connection_is_there() {
    let server = AgentServer::bind().await;
    let daemon = daemon(&server.url(), "1").await;
    let answer = answer();
    let pcm = Format::pcm16(RATE);
    let (listener, mut agent) = tokio::join!(Listener::open(&daemon, pcm, json!({})), async {
        let mut agent = server.accept().await;
        agent.begin().await;
        agent
    });
    drop(listener.caller);
    while daemon.metric("antiphon_sessions_active", "").await != 1.0 {}
    say_answer(&mut agent, &answer).await;
    // What it hears meanwhile is silence.
    for _ in 0..20 {
        match agent.hear().await {
            Heard::Audio(frame) => assert!(frame.iter().all(|byte| *byte == 0), "silence"),
            Heard::Control(_) => {}
            end => panic!("the agent was hung up: {end:?}"),
        }
    }
    let resume = json!({ "resume": listener.started["resume_token"], "have": listener.seq });
    let mut listener = Listener::open(&daemon, pcm, resume).await;
    listener.listen(|listener| listener.audio.len() >= RATE as usize).await;
    assert!(bytes(&answer).starts_with(&listener.audio), "all of it is still there");
}

/// Calls the story through two daemons, one the agent of the other, and interrupts it.
async fn call_through_two_daemons(workers: &str) {
    let variables = [("ANTIPHON_RUNTIME__WORKERS", workers)];
    let inner = Daemon::start(&variables).await;
    let config = format!(
        "[[route]]\nname = \"edge\"\nto = \"inner\"\n[agent.inner]\nkind = \"websocket\"\n\
         url = \"ws://{}/v1/session\"\naudio_in = \"pcm16/16000\"\naudio_out = \"pcm16/24000\"\n",
        inner.http
    );
    let edge = Daemon::start_with(Some(&config), &variables).await;
    let reply = folder().join("reply.wav");
    let url = format!("http://{}", edge.http);
    let arguments = ["call", "--url", &url, "--json", "--out", reply.to_str().unwrap()];
    let output = run_for(3 * PATIENCE, &arguments, &[]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["ok"]), (Some(0), &json!(true)), "{report}");

    let heard = &report["heard"][0];
    assert_eq!(heard["basis"], "reported", "{report}");
    assert!(heard["ms"].as_u64().unwrap() < heard["of_ms"].as_u64().unwrap(), "it was interrupted: {report}");
    let [edge, inner] = [edge.call_record().await, inner.call_record().await];
    for record in [&edge, &inner] {
        assert_eq!((&record["interruptions"], &record["turns"]), (&json!(1), &json!(2)), "{record}");
        assert_eq!(record["reason"], "client_hangup");
        assert_eq!(record["stats"]["lost"], 0);
    }
    // The inner daemon knows from the edge what the caller heard.
    let of = |record: &Value| record["agent_audio_heard_ms"].as_f64().unwrap();
    println!("heard: {heard}; edge {} ms, inner {} ms", of(&edge), of(&inner));
    assert!((of(&edge) - of(&inner)).abs() <= 40.0, "edge {edge}, inner {inner}");
}

#[tokio::test]
async fn an_interruption_travels_through_two_daemons() {
    tokio::join!(call_through_two_daemons("1"), call_through_two_daemons("4"));
}

#[tokio::test]
async fn an_echo_behind_two_daemons_comes_back_as_it_was() {
    let inner = Daemon::start(&[("ANTIPHON_AGENT__ECHO__DELAY_MS", "100")]).await;
    let config = format!(
        "[[route]]\nname = \"edge\"\nto = \"inner\"\naudio.stall_ms = 5000\n[agent.inner]\nkind = \"websocket\"\n\
         url = \"ws://{}/v1/session\"\naudio_in = \"pcm16/16000\"\naudio_out = \"pcm16/16000\"\n\
         vendor = {{ agent = \"echo\" }}\n",
        inner.http
    );
    let edge = Daemon::start_with(Some(&config), &[]).await;
    let report = harness::echo_call(&edge, Duration::from_secs(2)).await;
    assert_eq!(report.wrong, 0, "{report:?}");
    let inner = inner.call_record().await;
    assert_eq!((&inner["agents"][0]["name"], &inner["stats"]["lost"]), (&json!("echo"), &json!(0)), "{inner}");
}
