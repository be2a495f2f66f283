//! Calls with real speech through the daemon to emulated vendors.

use std::collections::BTreeMap;
use std::time::Duration;

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::{Codec, Format};
use antiphon::media::transcode::payload_ticks;
use serde_json::{Value, json};
use tokio::time::{Interval, interval, timeout};
use tokio_tungstenite::tungstenite::Bytes;

use crate::Vendor;
use crate::harness::speaker::Speaker;
use crate::harness::speech::{ClientCodec, utterances};
use crate::harness::{Caller, Daemon, Heard, PATIENCE};

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

/// Somebody who speaks and listens in real time.
pub struct Person {
    pub caller: Caller,
    format: Format,
    voice: ClientCodec,
    to_say: std::collections::VecDeque<Bytes>,
    quiet: Bytes,
    speaker: Speaker,
    microphone: Interval,
    pub messages: Vec<Value>,
    ears: ClientCodec,
    /// The loudest sample so far.
    pub loudest: u16,
    code: Option<u16>,
    /// What the speaker had played, in milliseconds, when the last flush came.
    pub stopped_at: f64,
}

impl Person {
    pub async fn call(daemon: &Daemon, agent: &str, format: Format) -> Person {
        let mut caller = Caller::connect(daemon).await;
        let audio = json!({ "codec": format.codec.to_string(), "rate": format.rate });
        caller.say(json!({ "type": "start", "agent": agent, "audio": { "in": audio, "out": audio } })).await;
        let mut voice = ClientCodec::new(format);
        let quiet = voice.encode(&vec![0; format.rate as usize / 50])[0].clone();
        Person {
            caller,
            format,
            voice,
            to_say: Default::default(),
            quiet,
            speaker: Speaker::new(format.clock()),
            microphone: interval(Duration::from_millis(20)),
            messages: Vec::new(),
            ears: ClientCodec::new(format),
            loudest: 0,
            code: None,
            stopped_at: 0.0,
        }
    }

    /// Says a sentence, two seconds of it.
    pub fn speak(&mut self) {
        let mut clip = utterances(self.format.rate).remove(2).clip;
        clip.samples.truncate(2 * self.format.rate as usize);
        self.to_say.extend(self.voice.encode(&clip.samples));
    }

    /// Says this, at the rate of the format.
    pub fn speak_samples(&mut self, mut samples: Vec<i16>) {
        let frame = self.format.rate as usize / 50;
        samples.resize(samples.len().next_multiple_of(frame), 0);
        self.to_say.extend(self.voice.encode(&samples));
    }

    /// How the connection was closed, if it was.
    pub fn code(&self) -> Option<u16> {
        self.code
    }

    pub fn played_ms(&self) -> f64 {
        self.speaker.position() as f64 * 1000.0 / f64::from(self.format.clock())
    }

    /// Goes on until `done`, or until the call has ended.
    pub async fn until(&mut self, what: &str, mut done: impl FnMut(&Person) -> bool) {
        let talking = async {
            while self.code.is_none() && !done(self) {
                tokio::select! {
                    heard = self.caller.hear() => self.hear(heard).await,
                    _ = self.microphone.tick() => {
                        let frame = self.to_say.pop_front().unwrap_or_else(|| self.quiet.clone());
                        self.caller.speak(frame).await;
                    }
                    _ = self.speaker.reports.tick() => {
                        let report = self.speaker.report();
                        self.caller.say(report).await;
                    }
                }
            }
        };
        let came = timeout(PATIENCE, talking).await;
        assert!(came.is_ok(), "{what} never came: {:#?}", self.messages);
    }

    async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Control(message) => {
                if message["type"] == "flush" {
                    let mut report = self.speaker.report();
                    report["flush"] = message["id"].clone();
                    self.stopped_at = self.played_ms();
                    self.caller.say(report).await;
                }
                self.messages.push(message);
            }
            Heard::Audio(frame) => {
                self.speaker.take(payload_ticks(&self.format, &frame).unwrap().into());
                let samples = self.ears.decode(&[frame]);
                self.loudest = samples.iter().map(|sample| sample.unsigned_abs()).fold(self.loudest, u16::max);
            }
            Heard::Closed(code, _) => self.code = Some(code),
            Heard::Gone => self.code = Some(1006),
        }
    }

    /// What waits to be heard.
    pub fn buffered_ms(&self) -> f64 {
        self.speaker.received() as f64 * 1000.0 / f64::from(self.format.clock()) - self.played_ms()
    }

    pub fn said(&self, kind: &str) -> Vec<&Value> {
        self.messages.iter().filter(|message| message["type"] == kind).collect()
    }

    /// Who said what, in spoken order, as the client ends up with it; and how the first agent text was cut.
    pub fn transcript(&self) -> Vec<(String, String)> {
        let mut lines: BTreeMap<(u64, String), (String, String)> = BTreeMap::new();
        for line in self.said("transcript") {
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            lines.insert((line["start_ms"].as_u64().unwrap(), text("item")), (text("role"), text("text")));
        }
        lines.into_values().filter(|(_, text)| !text.is_empty()).collect()
    }
}

/// A greeting, an interruption by speech, a tool, an answer, the end.
async fn converse(kind: VendorKind, client: Format, audio: [&str; 2]) {
    let plays = Script {
        pace: Some(3.0),
        answer_s: Some(5.0),
        chunk_bytes: vec![3001, 640, 1],
        hears: Some("Where is my order?".into()),
        tool: Some("lookup_order".into()),
        late_audio_ms: Some(200),
        duplicate: true,
        audio_in: Some(audio[0].into()),
        audio_out: Some(audio[1].into()),
        ..Script::default()
    };
    let vendor = Vendor::start(kind, Some("secret"), plays).await;
    let daemon = daemon(&agent("vendor", kind, &vendor.url), "secret").await;
    let mut person = Person::call(&daemon, "vendor", client).await;
    if kind == VendorKind::Deepgram {
        // It speaks first only if it is told what to say.
        person.caller.say(json!({ "type": "message", "id": "m", "text": "Hello?" })).await;
        person.until("the tool call", |person| !person.said("tool_call").is_empty()).await;
        let call = person.said("tool_call")[0]["call_id"].clone();
        person.caller.say(json!({ "type": "tool_result", "call_id": call, "output": "sent on Friday" })).await;
    }
    person.until("a second of the first answer", |person| person.played_ms() > 1000.0).await;
    person.speak();
    person.until("the interruption", |person| !person.said("heard").is_empty()).await;
    let heard = person.said("heard")[0].clone();
    let (ms, of_ms) = (heard["ms"].as_f64().unwrap(), heard["of_ms"].as_f64().unwrap());
    assert!((ms - person.stopped_at).abs() <= FRAME_MS && ms <= of_ms, "{heard}, played {}", person.stopped_at);
    assert_eq!(heard["basis"], "reported");
    if kind == VendorKind::Elevenlabs {
        person.until("the tool call", |person| !person.said("tool_call").is_empty()).await;
        let call = person.said("tool_call")[0].clone();
        assert_eq!(
            (call["name"].as_str(), call["arguments"].as_str()),
            (Some("lookup_order"), Some(r#"{"query":"as scripted"}"#))
        );
        let result = json!({ "type": "tool_result", "call_id": call["call_id"], "output": "sent on Friday" });
        person.caller.say(result).await;
    }
    let turns = |person: &Person| person.said("turn").iter().filter(|turn| turn["phase"] == "start").count();
    person.until("the answer", |person| turns(person) == 2).await;
    let from = person.played_ms();
    person.until("some of the answer", |person| person.played_ms() > from + 300.0).await;
    check_transcript(&person, kind);
    assert!(person.loudest > 5_000, "the agent was not heard: {}", person.loudest);
    person.caller.say(json!({ "type": "end" })).await;
    person.until("the end", |_| false).await;
    assert_eq!((person.code, person.said("ended")[0]["reason"].as_str()), (Some(1000), Some("client_hangup")));
    check_vendor(&vendor, kind, audio).await;
}

fn check_transcript(person: &Person, kind: VendorKind) {
    let lines = person.transcript();
    let roles: Vec<&str> = lines.iter().map(|(role, _)| role.as_str()).collect();
    let expected: &[&str] = match kind {
        VendorKind::Deepgram => &["user", "agent", "user", "agent"],
        _ => &["agent", "user", "agent"],
    };
    assert_eq!(roles, expected, "{:#?}", person.said("transcript"));
    assert_eq!(lines[lines.len() - 2].1, "Where is my order?");
    let cut = person.said("transcript").into_iter().find(|line| !line["cut"].is_null()).expect("a cut text").clone();
    let how = if kind == VendorKind::Elevenlabs { "aligned" } else { "estimated" };
    let text = cut["text"].as_str().unwrap();
    assert!(cut["cut"] == how && "Hello, and welcome. While nobody interrupts me".starts_with(text), "{cut}");
}

async fn check_vendor(vendor: &Vendor, kind: VendorKind, audio: [&str; 2]) {
    let begin = &vendor.logged("/event", "begin")[0];
    if kind == VendorKind::Elevenlabs {
        assert_eq!((begin["hears"].as_str(), begin["speaks"].as_str()), (Some(audio[0]), Some(audio[1])));
        assert_eq!(vendor.heard("client_tool_result")[0]["result"], "sent on Friday");
        assert!(vendor.logged("/event", "pong").iter().all(|pong| pong["known"] == true));
    } else {
        assert_eq!(vendor.heard("FunctionCallResponse")[0]["content"], "sent on Friday");
    }
    assert!(!vendor.logged("/event", "speech").is_empty(), "the caller was heard");
    let closed = async {
        while vendor.logged("/event", "close").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("the connection stays");
    assert_eq!(vendor.logged("/event", "close")[0]["code"], 1000);
}

#[tokio::test]
async fn a_call_with_elevenlabs_in_the_formats_that_it_announces() {
    converse(VendorKind::Elevenlabs, Format::OPUS, ["pcm16/16000", "pcm16/44100"]).await;
}

#[tokio::test]
async fn a_call_with_elevenlabs_in_two_telephone_formats() {
    converse(VendorKind::Elevenlabs, Format::PCMA, ["pcmu/8000", "pcmu/8000"]).await;
}

#[tokio::test]
async fn a_call_with_deepgram_from_opus() {
    converse(VendorKind::Deepgram, Format::OPUS, ["pcm16/24000", "pcm16/24000"]).await;
}

#[tokio::test]
async fn a_call_with_deepgram_in_the_clients_own_format() {
    converse(VendorKind::Deepgram, Format { codec: Codec::Pcmu, ..Format::PCMU }, ["pcmu/8000", "pcmu/8000"]).await;
}
