//! Pipecat bots over WebSocket: protobuf frames with RTVI messages in them, or RTVI messages in JSON alone; this side is
//! the client.
//!
//! A bot sets itself up; it names no answers, so this side does: an answer begins with audio or text, and ends when the
//! bot has stopped speaking, is interrupted, or pauses where it sends no RTVI messages.

pub mod frame;
mod opening;
pub mod rtvi;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::agent::carry::Carry;
use crate::agent::closing::closed;
use crate::agent::open_calls::OpenCalls;
use crate::agent::outbox::{Outbox, reported};
use crate::agent::setup::SetupRow;
use crate::agent::turns::{Place, Turns};
use crate::agent::{Agent, AgentOutput, Capabilities, Endpoint, Wire, audio_json};
use crate::config::vendor::{PipecatWire, VendorAgent};
use crate::dialect::native::codec;
use crate::ids::ItemId;
use crate::media::format::{Codec, Format};
use crate::message::{
    AgentAudio, AgentAudioOut, AgentError, AgentTranscript, App, FailureClass, FromAgent, Ready, ToAgent, ToolCall,
    ToolResult,
};
use crate::time::Micros;

use frame::{InterruptionFrame, Kind, MessageFrame};
use rtvi::{Said, UserInput};

/// What a bot hears if nobody says otherwise.
const UPLINK: Format = Format::pcm16(16_000);
/// What a bot speaks, until its audio says otherwise.
const DOWNLINK: Format = Format::pcm16(24_000);
/// Without audio for so long, the answer of a bot that sends no messages is over.
const TURN_GAP: Duration = Duration::from_millis(500);
/// An interruption is told twice, as a frame and as a message.
const SAME_INTERRUPTION: Duration = Duration::from_millis(200);
/// Segments of text that are remembered, as each is told several times.
const MAX_SEGMENTS: usize = 64;

/// A bot is set up where it runs.
pub const SETUP: &[SetupRow] = &[
    ("instructions", None),
    ("voice", None),
    ("language", None),
    ("model", None),
    ("greeting", Some("send-text (a prompt only)")),
    ("transcribe", None),
    ("turns", None),
    ("tools", None),
];

/// Which messages tell a text; a bot sends several of them for the same words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    #[default]
    Unknown,
    Oldest,
    Older,
    Newest,
}

/// One conversation with a Pipecat bot.
#[derive(Debug)]
pub struct Pipecat {
    settings: VendorAgent,
    vendor: Value,
    uplink: Format,
    downlink: Format,
    carry: Carry,
    turns: Turns,
    /// The present answer has text: the next piece stands after a space.
    has_text: bool,
    /// Whether the bot tells by messages when it speaks.
    tells: bool,
    words: Source,
    inputs: Source,
    /// The newest words of the caller, which may be told twice.
    said: Option<UserInput>,
    segments: VecDeque<Value>,
    heard: Option<Micros>,
    interrupted: Option<Micros>,
    /// Their names and arguments.
    calls: OpenCalls<(String, Value)>,
    messages: u64,
    ignored: u64,
    out: Outbox,
}

impl Pipecat {
    /// An agent that is not connected yet. `vendor` is merged into the data of `client-ready`.
    pub fn new(settings: &VendorAgent, vendor: Value) -> Pipecat {
        let pcm = |format: Option<Format>, usual| format.filter(|own| own.codec == Codec::Pcm16).unwrap_or(usual);
        Pipecat {
            uplink: pcm(settings.uplink, UPLINK),
            downlink: pcm(settings.downlink, DOWNLINK),
            settings: settings.clone(),
            vendor,
            carry: Carry::default(),
            turns: Turns::default(),
            has_text: false,
            tells: false,
            words: Source::Unknown,
            inputs: Source::Unknown,
            said: None,
            segments: VecDeque::new(),
            heard: None,
            interrupted: None,
            calls: OpenCalls::default(),
            messages: 0,
            ignored: 0,
            out: Outbox::default(),
        }
    }

    /// Messages that were of no use or unknown, so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn is_protobuf(&self) -> bool {
        self.settings.wire == PipecatWire::Protobuf
    }

    fn say(&mut self, kind: &str, data: &Value) {
        self.messages += 1;
        let text = rtvi::message(kind, &self.messages.to_string(), data);
        let wire = match self.settings.wire {
            PipecatWire::Protobuf => Wire::Binary(frame::encode(Kind::Message(MessageFrame { data: text }))),
            PipecatWire::Rtvi => Wire::Text(text),
        };
        self.out.send(wire);
    }

    fn announce(&mut self) {
        self.out.tell(FromAgent::Ready(Ready { uplink: self.uplink, downlink: self.downlink, delay: None }));
    }

    fn hear(&mut self, audio: AgentAudioOut) {
        let AgentAudioOut { payload, ready, .. } = audio;
        let rate = self.uplink.rate;
        let wire = if self.is_protobuf() {
            Wire::Binary(frame::encode_audio(payload, rate))
        } else {
            self.messages += 1;
            let before = format!(
                r#"{{"label":"{}","type":"raw-audio","id":"{}","data":{{"sampleRate":{rate},"numChannels":1,"base64Audio":""#,
                rtvi::LABEL,
                self.messages
            );
            Wire::Text(audio_json::encode(&before, &payload, "\"}}"))
        };
        self.out.send_audio(wire, ready);
    }

    fn handle_frame(&mut self, kind: Kind, now: Micros) {
        match kind {
            Kind::Audio(audio) => self.handle_audio(audio.audio, audio.sample_rate, audio.num_channels, now),
            Kind::Message(message) => self.handle_text(&message.data, now),
            Kind::Interruption(_) => self.handle_interruption(now),
            Kind::Transcription(words) => {
                self.handle_user(
                    Source::Oldest,
                    UserInput { text: words.text, is_final: true, ..UserInput::default() },
                );
            }
            Kind::Text(text) => self.handle_words(Source::Oldest, &text.text, now),
        }
    }

    fn handle_text(&mut self, text: &str, now: Micros) {
        match rtvi::read(text) {
            Ok(Some(said)) => self.handle_said(said, now),
            Ok(None) => self.ignored += 1,
            Err(error) => self.out.tell_error(FailureClass::Protocol, "bad_message", &error),
        }
    }

    fn handle_said(&mut self, said: Said<'_>, now: Micros) {
        match said {
            Said::BotReady => self.tells = true,
            Said::BotStartedSpeaking => {
                self.tells = true;
                self.turns.begins();
            }
            Said::BotStoppedSpeaking => self.end_answer(),
            Said::BotInterrupted => self.handle_interruption(now),
            Said::Thinking => self.out.tell(FromAgent::Thinking),
            Said::Output(output) => self.handle_output(&output, now),
            Said::TtsText(text) => self.handle_words(Source::Older, &text.text, now),
            Said::Transcription(text) => self.handle_words(Source::Oldest, &text.text, now),
            Said::UserInput(input) if input.input_type.as_deref().is_none_or(|kind| kind == "transcription") => {
                self.handle_user(Source::Newest, input);
            }
            Said::UserInput(_) => {}
            Said::UserTranscription(input) => self.handle_user(Source::Older, input),
            Said::Call(call) => self.call(call),
            Said::CallStopped(call) => {
                if self.calls.close(&call.tool_call_id).is_some() {
                    self.out.tell(FromAgent::ToolCancelled(vec![call.tool_call_id.into()]));
                }
            }
            Said::Audio(audio) => match audio_json::decode(&audio.audio.0) {
                Some(payload) => self.handle_audio(payload, audio.sample_rate, audio.num_channels, now),
                None => self.ignored += 1,
            },
            Said::App { name, data } => {
                self.out.tell(FromAgent::App(App { name: codec::shortened(&name, 128), data }));
            }
            Said::Error(error) if error.fatal => {
                self.end(Some(reported(FailureClass::Internal, "fatal", &error.error)));
            }
            Said::Error(error) => self.out.tell_error(FailureClass::Internal, "error", &error.error),
            Said::Used(metrics) => {
                if let Some(usage) = metrics.amounts() {
                    self.out.tell(FromAgent::Usage(usage));
                }
            }
            Said::Nothing => {}
            Said::Unknown => self.ignored += 1,
        }
    }

    /// A segment is told when it is new, as it is spoken, and when it was spoken: the first time counts.
    fn handle_output(&mut self, output: &rtvi::Output, now: Micros) {
        let known = !output.segment_id.is_null() && self.segments.contains(&output.segment_id);
        let progress = output.spoken_status.as_deref() == Some("in-progress");
        if known || progress || output.will_be_spoken == Some(false) {
            return;
        }
        if self.segments.len() == MAX_SEGMENTS {
            self.segments.pop_front();
        }
        self.segments.push_back(output.segment_id.clone());
        self.handle_words(Source::Newest, &output.text, now);
    }

    /// Words of the bot, from one of the messages that tell them: the newest kind that it sends counts.
    fn handle_words(&mut self, source: Source, text: &str, now: Micros) {
        if source < self.words || text.is_empty() {
            return;
        }
        self.words = source;
        let (begun, mut line) = self.turns.text(text, now);
        if let Some(item) = begun {
            self.begin(item);
        }
        if std::mem::replace(&mut self.has_text, true) && !text.starts_with(' ') {
            line.text.insert(0, ' ');
        }
        self.out.tell(FromAgent::Transcript(line));
    }

    fn handle_user(&mut self, source: Source, input: UserInput) {
        let told = !input.timestamp.is_empty() && self.said.as_ref() == Some(&input);
        if source < self.inputs || input.text.is_empty() || told {
            return;
        }
        self.inputs = source;
        let line = self.turns.said(&input.text, false, input.is_final);
        self.out.tell(FromAgent::Transcript(line));
        self.said = Some(input);
    }

    fn handle_audio(&mut self, audio: Bytes, rate: u32, channels: u32, now: Micros) {
        let format = Format { rate, channels: u8::try_from(channels).unwrap_or(u8::MAX), ..DOWNLINK };
        if let Err(error) = format.check() {
            return self.out.tell_error(FailureClass::Protocol, "bad_audio", &error.to_string());
        }
        if format != self.downlink {
            self.downlink = format;
            self.carry.clear();
            self.announce();
        }
        let payload = self.carry.align(2 * usize::from(format.channels), audio);
        if payload.is_empty() {
            return;
        }
        let item = match self.turns.audio(now) {
            Place::Present(item) | Place::Stale(item) => item,
            Place::New(item) => {
                self.begin(item.clone());
                item
            }
        };
        self.heard = Some(now);
        self.out.tell(FromAgent::Audio(AgentAudio { arrival: now, item: Some(item), rtp: None, payload }));
    }

    fn handle_interruption(&mut self, now: Micros) {
        let again = self.interrupted.is_some_and(|before| now - before < SAME_INTERRUPTION);
        if again {
            return;
        }
        self.interrupted = Some(now);
        self.heard = None;
        self.carry.clear();
        self.turns.interrupted(now);
        self.out.tell(FromAgent::Interrupted);
    }

    fn begin(&mut self, item: ItemId) {
        self.has_text = false;
        if let Some(line) = self.turns.answered() {
            self.out.tell(FromAgent::Transcript(line));
        }
        self.out.tell(FromAgent::TurnStarted(Some(item)));
    }

    fn end_answer(&mut self) {
        self.heard = None;
        let (was_open, line): (bool, Option<AgentTranscript>) = self.turns.complete();
        if was_open {
            self.carry.clear();
            self.out.tell(FromAgent::TurnEnded);
        }
        if let Some(line) = line {
            self.out.tell(FromAgent::Transcript(line));
        }
    }

    /// Without a name and arguments the bot only tells that it runs a tool by itself.
    fn call(&mut self, call: rtvi::Call) {
        let (Some(name), Some(arguments)) = (call.function_name, call.arguments) else { return };
        let text = arguments.to_string();
        self.calls.open(call.tool_call_id.clone(), (name.clone(), arguments));
        self.out.tell(FromAgent::ToolCall(ToolCall { call_id: call.tool_call_id.into(), name, arguments: text }));
    }

    fn answer_call(&mut self, result: &ToolResult) {
        let Some((name, arguments)) = self.calls.close(result.call_id.as_str()) else { return };
        let given = match serde_json::from_str::<Value>(&result.output) {
            _ if result.is_error => json!({ "error": result.output }),
            Ok(object @ Value::Object(_)) => object,
            _ => Value::String(result.output.clone()),
        };
        let data =
            json!({ "function_name": name, "tool_call_id": result.call_id, "arguments": arguments, "result": given });
        self.say("llm-function-call-result", &data);
    }

    fn end(&mut self, failure: Option<AgentError>) {
        // An answer that a failure breaks off is not complete.
        if failure.is_none() && !self.out.has_ended() {
            self.end_answer();
        }
        self.out.end(failure);
    }

    /// When the answer of a bot that sends no messages is over.
    fn deadline(&self) -> Option<Micros> {
        self.heard.filter(|_| !self.tells && !self.out.has_ended()).map(|heard| heard + TURN_GAP)
    }
}

impl Agent for Pipecat {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            continuous: true,
            // Not every bot tells when the caller begins and stops to speak.
            server_vad: false,
            truncation: false,
            playout: false,
            tools: true,
            text: true,
            manual_turns: false,
            context: true,
            ..Capabilities::default()
        }
    }

    fn endpoint(&self) -> Option<Endpoint> {
        Some(Endpoint::of_vendor(&self.settings, &[]))
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, _now: Micros) {
        match message {
            ToAgent::Audio(audio) => self.hear(audio),
            ToAgent::Start(start) => self.start(&start),
            ToAgent::Message(message) => self.send_text(&message.text, true),
            ToAgent::Prompt(text) => self.send_text(&text, true),
            ToAgent::History(items) => self.remember(&items),
            ToAgent::Dtmf(dtmf) => {
                let buttons: Vec<String> = dtmf.digits.chars().map(String::from).collect();
                self.say("dtmf", &json!({ "buttons": buttons }));
            }
            ToAgent::App(app) => self.say("client-message", &json!({ "t": app.name, "d": app.data })),
            ToAgent::ToolResult(result) => self.answer_call(&result),
            ToAgent::Cancel(_) if self.is_protobuf() => {
                let stop = frame::encode(Kind::Interruption(InterruptionFrame::default()));
                self.out.send(Wire::Binary(stop));
            }
            ToAgent::Update(setup) => self.out.not_apply(setup.set_fields()),
            ToAgent::End => self.say("disconnect-bot", &json!({})),
            ToAgent::Cancel(_)
            | ToAgent::Typing(_)
            | ToAgent::Input(_)
            | ToAgent::Truncate(_)
            | ToAgent::Playout(_) => {}
        }
    }

    fn handle_wire(&mut self, wire: Wire, now: Micros) {
        match wire {
            Wire::Close(1000, _) => self.end(None),
            Wire::Close(code, reason) => {
                let class = match code {
                    1002 | 1003 | 1007 | 1009 | 1010 => FailureClass::BadRequest,
                    1008 => FailureClass::Auth,
                    1011 => FailureClass::Internal,
                    // A bot that serves one caller at a time refuses the second one so.
                    1013 => FailureClass::Limit,
                    _ => FailureClass::Lost,
                };
                self.end(Some(closed(class, code, &reason)));
            }
            _ if self.out.has_ended() => {}
            Wire::Binary(payload) if self.is_protobuf() => match frame::decode(payload) {
                Ok(Some(kind)) => self.handle_frame(kind, now),
                Ok(None) => self.ignored += 1,
                Err(error) => self.out.tell_error(FailureClass::Protocol, "bad_frame", &error),
            },
            Wire::Binary(payload) => match std::str::from_utf8(&payload) {
                Ok(text) => self.handle_text(text, now),
                Err(error) => self.out.tell_error(FailureClass::Protocol, "bad_message", &error.to_string()),
            },
            Wire::Text(text) => self.handle_text(&text, now),
        }
    }

    fn handle_deadline(&mut self, now: Micros) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.end_answer();
        }
    }

    fn poll(&mut self, _now: Micros) -> AgentOutput {
        let deadline = self.deadline();
        self.out.poll(deadline)
    }
}
