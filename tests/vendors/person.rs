//! Somebody who speaks and listens in real time, over any of the transports.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use antiphon::cli::call::carrier::{Arrived, Carrier};
use antiphon::cli::call::{CallTransport, connect, quic, session_url, webrtc};
use antiphon::media::format::Format;
use antiphon::media::transcode::payload_ticks;
use antiphon::message::{AudioFormats, Start};
use serde_json::Value;
use tokio::time::{Interval, interval, timeout};
use tokio_tungstenite::tungstenite::Bytes;

use crate::harness::speaker::Speaker;
use crate::harness::speech::{ClientCodec, utterances};
use crate::harness::{Daemon, PATIENCE};

/// One caller.
pub struct Person {
    carrier: Carrier,
    format: Format,
    voice: ClientCodec,
    to_say: VecDeque<Bytes>,
    quiet: Bytes,
    speaker: Speaker,
    /// Where the newest sample stands on a transport that carries RTP.
    end: Option<u32>,
    microphone: Interval,
    pub messages: Vec<Value>,
    ears: ClientCodec,
    /// The loudest sample so far.
    pub loudest: u16,
    code: Option<u16>,
    /// It tells what was played; else it stays silent about that.
    pub reports: bool,
    /// What the speaker had played, in milliseconds, when the last flush came.
    pub stopped_at: f64,
}

impl Person {
    /// Calls over WebSocket.
    pub async fn call(daemon: &Daemon, agent: &str, format: Format) -> Person {
        Person::call_over(CallTransport::Websocket, daemon, agent, format).await
    }

    pub async fn call_over(transport: CallTransport, daemon: &Daemon, agent: &str, format: Format) -> Person {
        let audio = AudioFormats { uplink: format, downlink: format, flow: None };
        let start = Start { agent: Some(agent.into()), audio: Some(audio), ..Start::default() };
        let url = session_url(&format!("http://{}", daemon.http)).unwrap();
        let of_quic = async |kind| quic::connect(kind, &url, None, format).await.unwrap().0;
        let carrier = match transport {
            CallTransport::Websocket => Carrier::WebSocket(Box::new(connect(&url, None).await.unwrap().0)),
            CallTransport::Webrtc => {
                let url = webrtc::endpoint(&url).unwrap();
                Carrier::Webrtc(Box::new(webrtc::connect(&url, None, &start, format).await.unwrap().peer))
            }
            CallTransport::Quic => Carrier::Quic(Box::new(of_quic(quic::Kind::Quic).await)),
            CallTransport::Webtransport => Carrier::Quic(Box::new(of_quic(quic::Kind::WebTransport).await)),
        };
        let mut voice = ClientCodec::new(format);
        let quiet = voice.encode(&vec![0; format.rate as usize / 50])[0].clone();
        let mut person = Person {
            carrier,
            format,
            voice,
            to_say: VecDeque::new(),
            quiet,
            speaker: Speaker::new(format.clock()),
            end: None,
            microphone: interval(Duration::from_millis(20)),
            messages: Vec::new(),
            ears: ClientCodec::new(format),
            loudest: 0,
            code: None,
            reports: true,
            stopped_at: 0.0,
        };
        if transport != CallTransport::Webrtc {
            let start = antiphon::dialect::native::codec::encode_start(&start).unwrap();
            person.say(serde_json::from_str(&start).unwrap()).await;
        }
        person
    }

    /// How the connection was closed, if it was.
    pub fn code(&self) -> Option<u16> {
        self.code
    }

    pub async fn say(&mut self, message: Value) {
        // What comes too late for a call that is over is not heard.
        let _ = self.carrier.send_message(message.to_string()).await;
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

    pub fn played_ms(&self) -> f64 {
        self.speaker.position() as f64 * 1000.0 / f64::from(self.format.clock())
    }

    pub fn received_ms(&self) -> f64 {
        self.speaker.received() as f64 * 1000.0 / f64::from(self.format.clock())
    }

    /// Received and not played yet.
    pub fn buffered_ms(&self) -> f64 {
        self.received_ms() - self.played_ms()
    }

    fn report(&self) -> Value {
        let mut report = self.speaker.report();
        if let Some(end) = self.end {
            let buffered = (self.speaker.received() - self.speaker.position()) as u32;
            report["pos"] = end.wrapping_sub(buffered).into();
        }
        report
    }

    /// Goes on until `done`, or until the call has ended.
    pub async fn until(&mut self, what: &str, mut done: impl FnMut(&Person) -> bool) {
        let talking = async {
            while self.code.is_none() && !done(self) {
                tokio::select! {
                    arrived = self.carrier.next() => self.hear(arrived).await,
                    _ = self.microphone.tick() => {
                        let frame = self.to_say.pop_front().unwrap_or_else(|| self.quiet.clone());
                        let _ = self.carrier.send_audio(frame).await;
                    }
                    _ = self.speaker.reports.tick() => {
                        if self.reports && self.speaker.received() > 0 {
                            self.say(self.report()).await;
                        }
                    }
                }
            }
        };
        let came = timeout(PATIENCE, talking).await;
        assert!(came.is_ok(), "{what} never came: {:#?}", self.messages);
    }

    /// Lives on for a while.
    pub async fn wait(&mut self, span: Duration) {
        let end = tokio::time::Instant::now() + span;
        self.until("time", |_| tokio::time::Instant::now() >= end).await;
    }

    async fn hear(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Message(text) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                if message["type"] == "flush" {
                    let mut report = self.report();
                    report["flush"] = message["id"].clone();
                    self.stopped_at = self.played_ms();
                    if self.reports {
                        self.say(report).await;
                    }
                }
                self.messages.push(message);
            }
            Arrived::Audio { payload, timestamp } => {
                let ticks = payload_ticks(&self.format, &payload).unwrap();
                self.speaker.take(ticks.into());
                self.end = timestamp.map(|timestamp| timestamp.wrapping_add(ticks));
                let samples = self.ears.decode(&[payload]);
                self.loudest = samples.iter().map(|sample| sample.unsigned_abs()).fold(self.loudest, u16::max);
            }
            Arrived::Nothing => {}
            Arrived::Closed(how) => {
                let mut words = how.split(|c: char| !c.is_ascii_digit());
                self.code = Some(words.find_map(|word| word.parse().ok()).unwrap_or(1006));
            }
        }
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
