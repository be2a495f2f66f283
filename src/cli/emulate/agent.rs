//! What an emulated agent hears and says on one connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::agent::storyteller::Storyteller;
use crate::agent::storyteller::voice::VoiceDetector;
use crate::cli::emulate::{AgentMode, AgentProtocol, Queue, WsAgentArgs};
use crate::dialect::native::codec;
use crate::ids::{FlushId, Generation, TurnId};
use crate::media::format::{Codec, Format};
use crate::media::transcode::{Decoder, Encoder, payload_ticks};
use crate::message::{
    AgentInfo, AgentState, AgentStatus, AudioFormats, CloseReason, Ended, Flush, Greeting, Role, Speech, SpeechEvent,
    Start, Started, Stats, TextMessage, ToClient, Transcript, Turn, TurnPhase,
};
use crate::route::plan::OpusSettings;

/// Spoken where nothing else is asked for.
const DEFAULT: Format = Format::pcm16(24_000);
/// Rate at which the detector hears.
const DETECTOR_RATE: u32 = 16_000;
/// Length of the frames it sends; one Opus packet, or a run of samples.
const FRAME: Duration = Duration::from_millis(20);

enum Out {
    Control(String),
    Audio(Bytes),
}

/// A scripted agent: no clock, no socket.
pub struct EmulatedAgent {
    mode: AgentMode,
    native: bool,
    fixed: Option<Format>,
    audio: AudioFormats,
    started: bool,
    out: Queue<Out>,
    log: Queue<Value>,
    ears: Option<(Decoder, VoiceDetector)>,
    turn: TurnId,
    /// Whether audio of the present turn may still be unheard: nothing tells when it was heard to the end.
    speaking: bool,
    flushes: FlushId,
    sentence: usize,
    sent_ticks: u64,
    heard_frames: u64,
    heard_bytes: u64,
}

impl EmulatedAgent {
    /// An agent that has heard nothing yet; a plain one needs no `start`.
    pub fn new(args: &WsAgentArgs) -> EmulatedAgent {
        let format = args.format.unwrap_or(DEFAULT);
        let mut agent = EmulatedAgent {
            mode: args.mode,
            native: args.protocol == AgentProtocol::Native,
            fixed: args.format,
            audio: AudioFormats { uplink: format, downlink: format, flow: None },
            started: false,
            out: Queue::new(),
            log: Queue::new(),
            ears: None,
            turn: TurnId(0),
            speaking: false,
            flushes: FlushId(0),
            sentence: 0,
            sent_ticks: 0,
            heard_frames: 0,
            heard_bytes: 0,
        };
        if !agent.native {
            agent.begin(true);
        }
        agent
    }

    /// Whether something is to be sent.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// The next thing to send.
    pub fn next_output(&mut self) -> Option<Message> {
        Some(match self.out.pop_front()? {
            Out::Control(text) => Message::text(text),
            Out::Audio(payload) => {
                self.sent_ticks += u64::from(payload_ticks(&self.audio.downlink, &payload).unwrap_or(0));
                Message::Binary(payload)
            }
        })
    }

    /// What happened since the last call.
    pub fn take_log(&mut self) -> Queue<Value> {
        std::mem::take(&mut self.log)
    }

    /// What was heard and said in total.
    pub fn summary(&self) -> Value {
        json!({
            "event": "closed",
            "audio_frames": self.heard_frames,
            "audio_bytes": self.heard_bytes,
            "sent_ms": self.audio.downlink.ticks_to_time(self.sent_ticks).as_millis() as u64,
        })
    }

    /// A text frame came.
    pub fn handle_text(&mut self, text: &str) {
        let message: Value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        match message["type"].as_str().unwrap_or_default() {
            "start" if !self.started => self.on_start(text),
            "interrupt" => self.stop(),
            "message" => self.on_message(&message),
            "stats" => self.say(&ToClient::Stats(Stats::default())),
            "end" => self.on_end(),
            "ping" if self.native => {
                self.out.push_back(Out::Control(json!({ "type": "pong", "t": message["t"] }).to_string()))
            }
            _ => {}
        }
        self.log.push_back(json!({ "event": "message", "message": message }));
    }

    /// A binary frame came.
    pub fn handle_audio(&mut self, payload: Bytes) {
        if self.heard_frames == 0 {
            self.log.push_back(json!({ "event": "audio", "bytes": payload.len() }));
        }
        self.heard_frames += 1;
        self.heard_bytes += payload.len() as u64;
        match self.mode {
            AgentMode::Echo => self.echo(payload),
            AgentMode::Talk => self.listen(&payload),
            AgentMode::Silent | AgentMode::Burst => {}
        }
    }

    fn on_start(&mut self, text: &str) {
        let start: Start = serde_json::from_str(text).unwrap_or_default();
        let asked = start.audio.unwrap_or(self.audio);
        if self.fixed.is_none() {
            self.audio = asked;
        }
        if self.mode == AgentMode::Echo {
            self.audio.downlink = self.audio.uplink;
        }
        let delay_ms = (self.mode == AgentMode::Echo).then_some(0);
        self.say(&ToClient::Started(Started {
            session_id: "emulated".into(),
            conversation_id: start.conversation_id.unwrap_or_else(|| "emulated".into()),
            agent: AgentInfo { name: "emulated".into(), display: Value::Null, delay_ms },
            audio: self.audio,
            resume_token: String::new(),
            expires_at: None,
            resumed: None,
            setup: None,
        }));
        let ready = AgentState { status: AgentStatus::Ready, name: None, reason: None, retry_after_ms: None };
        self.say(&ToClient::Agent(ready));
        self.begin(start.setup.and_then(|setup| setup.greeting) != Some(Greeting::None));
    }

    fn on_end(&mut self) {
        self.out.clear();
        let (reason, stats) = (CloseReason::ClientHangup, Stats::default());
        self.say(&ToClient::Ended(Ended { reason, duration_ms: 0, messages: u64::from(self.turn.0), stats }));
    }

    fn begin(&mut self, greet: bool) {
        self.started = true;
        let decoder = Decoder::new(self.audio.uplink, DETECTOR_RATE).ok();
        self.ears = decoder.map(|decoder| (decoder, VoiceDetector::default()));
        match self.mode {
            AgentMode::Talk if greet => self.speak(1),
            AgentMode::Burst if greet => self.speak(usize::MAX),
            _ => {}
        }
    }

    fn echo(&mut self, payload: Bytes) {
        if self.turn == TurnId(0) {
            self.begin_turn();
        }
        self.out.push_back(Out::Audio(payload));
    }

    fn listen(&mut self, payload: &[u8]) {
        let Some((decoder, detector)) = &mut self.ears else { return };
        let mut pcm = Vec::new();
        if decoder.decode(payload, &mut pcm).is_err() {
            return;
        }
        let bytes: Vec<u8> = pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let Some(event) = detector.on_pcm16(&bytes) else { return };
        self.log.push_back(json!({ "event": "speech", "what": event }));
        // What stops the voice goes first.
        if event == SpeechEvent::Started {
            self.stop();
        }
        self.say(&ToClient::Speech(Speech { who: Role::User, event }));
        if event == SpeechEvent::Stopped {
            self.speak(1);
        }
    }

    fn on_message(&mut self, message: &Value) {
        let text = format!("you wrote: {}", message["text"].as_str().unwrap_or_default());
        let id = format!("answer-{}", message["id"].as_str().unwrap_or_default());
        self.say(&ToClient::Message(TextMessage { id: id.into(), text, role: Some(Role::Agent) }));
        if self.mode == AgentMode::Talk {
            self.speak(1);
        }
    }

    fn begin_turn(&mut self) {
        self.turn = self.turn.next();
        self.speaking = true;
        self.say_turn(TurnPhase::Start);
    }

    fn say_turn(&mut self, phase: TurnPhase) {
        let queued = self.out.iter().map(|out| match out {
            Out::Audio(payload) => u64::from(payload_ticks(&self.audio.downlink, payload).unwrap_or(0)),
            Out::Control(_) => 0,
        });
        let pos = (self.sent_ticks + queued.sum::<u64>()) as u32;
        let item = Some(format!("emulated-{}", self.turn).into());
        self.say(&ToClient::Turn(Turn { turn: self.turn, generation: Generation(0), item, phase, pos }));
    }

    /// Says the next `count` sentences as one answer.
    fn speak(&mut self, count: usize) {
        let sentences: Vec<_> = Storyteller::sentences().collect();
        let count = count.min(sentences.len());
        let chosen: Vec<_> = (0..count).map(|n| sentences[(self.sentence + n) % sentences.len()]).collect();
        self.sentence += count;
        self.begin_turn();
        let text = chosen.iter().map(|(text, _)| *text).collect::<Vec<_>>().join(" ");
        self.say(&ToClient::Transcript(Transcript {
            item: format!("emulated-{}", self.turn).into(),
            turn: self.turn,
            role: Role::Agent,
            text: Some(text.clone()),
            is_final: true,
            start_ms: 0,
            end_ms: None,
            heard: None,
            cut: None,
        }));
        match frames(chosen.iter().flat_map(|(_, packets)| packets.iter()), self.audio.downlink) {
            Ok(frames) => {
                self.log
                    .push_back(json!({ "event": "speaking", "turn": self.turn, "text": text, "frames": frames.len() }));
                self.out.extend(frames.into_iter().map(Out::Audio));
            }
            Err(error) => self.log.push_back(json!({ "event": "failed", "error": error })),
        }
        self.say_turn(TurnPhase::End);
    }

    /// Takes back what was not heard of the present answer.
    fn stop(&mut self) {
        if !std::mem::take(&mut self.speaking) {
            return;
        }
        let unsent = self.out.len();
        self.out.retain(|out| matches!(out, Out::Control(text) if !text.contains("\"phase\":\"end\"")));
        self.log.push_back(json!({ "event": "stopped", "turn": self.turn, "unsent": unsent - self.out.len() }));
        self.flushes = self.flushes.next();
        if self.native {
            let valid_from = self.sent_ticks as u32;
            self.say(&ToClient::Flush(Flush { id: self.flushes, turn: self.turn, valid_from, pause: false }));
        } else {
            self.out.push_back(Out::Control(json!({ "type": "interrupt" }).to_string()));
        }
    }

    fn say(&mut self, message: &ToClient) {
        if self.native {
            self.out.extend(codec::encode_to_client(None, message).map(Out::Control));
        }
    }
}

/// The story's packets as frames of `format`.
fn frames<'a>(packets: impl Iterator<Item = &'a Bytes>, format: Format) -> Result<Vec<Bytes>, String> {
    if format.codec == Codec::Opus {
        return Ok(packets.cloned().collect());
    }
    let mut decoder = Decoder::new(Format::OPUS, format.rate).map_err(|error| error.to_string())?;
    let mut encoder = Encoder::new(format, format.rate, &OpusSettings::default()).map_err(|error| error.to_string())?;
    let mut pcm = Vec::new();
    for packet in packets {
        decoder.decode(packet, &mut pcm).map_err(|error| error.to_string())?;
    }
    let mut buffer = BytesMut::new();
    let length = (format.time_to_ticks(FRAME) as usize).max(1);
    pcm.chunks(length).map(|run| encoder.encode(run, &mut buffer).map_err(|error| error.to_string())).collect()
}
