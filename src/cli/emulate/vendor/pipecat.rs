//! The wire of a Pipecat bot: protobuf frames, or RTVI messages in JSON where the client speaks so first.

use serde_json::{Value, json};

use super::actor::{Cut, Heard, Says};
use super::{Answered, Outbox, Wiring};
use crate::agent::pipecat::frame::{self, InterruptionFrame, Kind, MessageFrame};
use crate::agent::pipecat::rtvi;
use crate::agent::{Wire, audio_json};
use crate::media::format::Format;

const SPEAKS: Format = Format::pcm16(24_000);

/// Answers a request: a bot is at any path.
pub(super) fn connect() -> Answered {
    Answered::WebSocket(Box::new(Pipecat::default()), None)
}

/// One conversation.
#[derive(Default)]
struct Pipecat {
    /// It speaks JSON alone.
    json: bool,
    hears: u32,
    messages: u64,
    segments: u64,
    /// The call that waits for its result.
    call: Option<String>,
}

impl Pipecat {
    fn send(&mut self, out: &mut Outbox, kind: &str, data: &Value) {
        self.messages += 1;
        let id = self.messages.to_string();
        self.answer(out, kind, &id, data);
    }

    fn answer(&self, out: &mut Outbox, kind: &str, id: &str, data: &Value) {
        let text = rtvi::message(kind, id, data);
        out.event(match self.json {
            true => Wire::Text(text),
            false => Wire::Binary(frame::encode(Kind::Message(MessageFrame { data: text }))),
        });
    }

    fn begin(&mut self, rate: u32) -> Option<Heard> {
        let greet = self.hears == 0;
        if self.hears == rate {
            return None;
        }
        self.hears = rate;
        Some(Heard::Begin { uplink: Format::pcm16(rate), downlink: SPEAKS, greet, listens: true, yields: true })
    }

    fn hear(&mut self, message: &Value, out: &mut Outbox) -> Vec<Heard> {
        let (data, id) = (&message["data"], message["id"].as_str().unwrap_or_default());
        let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str().unwrap_or_default() {
            "client-ready" => {
                let about = json!({ "library": "antiphon", "emulated": true });
                self.answer(out, "bot-ready", id, &json!({ "version": rtvi::VERSION, "about": about }));
                self.begin(16_000).into_iter().collect()
            }
            "raw-audio" => {
                let rate = data["sampleRate"].as_u64().unwrap_or(16_000) as u32;
                let payload = data["base64Audio"].as_str().and_then(audio_json::decode);
                self.begin(rate).into_iter().chain(payload.map(Heard::Audio)).collect()
            }
            "send-text" => {
                let echoed = json!({ "text": text("content"), "input_type": "chat", "timestamp": "", "final": true });
                self.send(out, "user-input", &echoed);
                vec![Heard::Text { text: text("content"), answer: data["options"]["run_immediately"] != false }]
            }
            "llm-function-call-result" => {
                let (call_id, output) = (text("tool_call_id"), data["result"].to_string());
                if self.call.take_if(|call| *call == call_id).is_some() {
                    let told = json!({ "tool_call_id": call_id, "cancelled": false, "result": data["result"] });
                    self.send(out, "llm-function-call-stopped", &told);
                }
                vec![Heard::ToolResult { call_id, output, answer: true }]
            }
            "client-message" => {
                self.answer(out, "server-response", id, &json!({ "t": data["t"], "d": data["d"] }));
                Vec::new()
            }
            "disconnect-bot" => {
                out.event(Wire::Close(1000, String::new()));
                Vec::new()
            }
            "dtmf" => Vec::new(),
            other => {
                self.answer(out, "error-response", id, &json!({ "error": format!("Unsupported type {other}") }));
                Vec::new()
            }
        }
    }

    fn hear_text(&mut self, text: &str, out: &mut Outbox) -> Vec<Heard> {
        match serde_json::from_str::<Value>(text) {
            Ok(message) if message["label"] == rtvi::LABEL => self.hear(&message, out),
            _ => Vec::new(),
        }
    }

    /// A segment of what is spoken, in each of the messages that tell it.
    fn tell(&mut self, text: &str, out: &mut Outbox) {
        let text = text.trim();
        self.segments += 1;
        let output = json!({
            "text": text, "spoken": true, "will_be_spoken": true, "output_type": "sentence",
            "segment_id": self.segments, "spoken_status": "completed",
            "spoken_progress": { "accumulated_text": text, "remaining_text": "" },
        });
        self.send(out, "bot-output", &output);
        self.send(out, "bot-tts-text", &json!({ "text": text }));
    }

    fn interrupt(&mut self, out: &mut Outbox) {
        if !self.json {
            let stop = InterruptionFrame { id: self.messages, name: "InterruptionFrame".into() };
            out.event(Wire::Binary(frame::encode(Kind::Interruption(stop))));
        }
    }
}

impl Wiring for Pipecat {
    fn handle(&mut self, wire: Wire, out: &mut Outbox) -> Vec<Heard> {
        match wire {
            Wire::Text(text) => {
                self.json |= self.messages == 0 && self.hears == 0;
                self.hear_text(&text, out)
            }
            Wire::Binary(payload) => match frame::decode(payload) {
                Ok(Some(Kind::Audio(audio))) => {
                    self.begin(audio.sample_rate).into_iter().chain([Heard::Audio(audio.audio)]).collect()
                }
                Ok(Some(Kind::Message(message))) => self.hear_text(&message.data, out),
                Ok(Some(Kind::Interruption(_))) => vec![Heard::Stop],
                Ok(Some(Kind::Text(text))) => vec![Heard::Text { text: text.text, answer: true }],
                Ok(Some(Kind::Transcription(_)) | None) => Vec::new(),
                Err(error) => {
                    out.log(json!({ "event": "bad_frame", "error": error }));
                    Vec::new()
                }
            },
            Wire::Close(..) => Vec::new(),
        }
    }

    fn say(&mut self, says: &Says, out: &mut Outbox) {
        match says {
            Says::SpeechStarted { .. } => {
                self.send(out, "user-started-speaking", &Value::Null);
                // What was sent may still be played: a bot interrupts whenever the caller begins to speak.
                self.interrupt(out);
                self.send(out, "bot-interrupted", &Value::Null);
            }
            Says::SpeechStopped { .. } => self.send(out, "user-stopped-speaking", &Value::Null),
            Says::Understood { text } => {
                // One for each utterance; a bot sends the time of day.
                let timestamp = self.messages.to_string();
                let input =
                    json!({ "text": text, "input_type": "transcription", "timestamp": timestamp, "final": true });
                self.send(out, "user-input", &input);
                let old = json!({ "text": text, "user_id": "", "timestamp": timestamp, "final": true });
                self.send(out, "user-transcription", &old);
            }
            Says::TurnStarted { .. } => {
                self.send(out, "bot-llm-started", &Value::Null);
                self.send(out, "bot-started-speaking", &Value::Null);
            }
            Says::Text { text, .. } => self.tell(text, out),
            Says::Audio { payload, .. } if self.json => {
                self.messages += 1;
                let before = format!(
                    r#"{{"label":"{}","type":"bot-tts-audio","id":"{}","data":{{"sample_rate":24000,"num_channels":1,"audio":""#,
                    rtvi::LABEL,
                    self.messages
                );
                out.audio(Wire::Text(audio_json::encode(&before, payload, "\"}}")));
            }
            Says::Audio { payload, .. } => {
                out.audio(Wire::Binary(frame::encode_audio(payload.clone(), SPEAKS.rate)));
            }
            Says::TurnEnded { cut, .. } => {
                // Speech has been told already.
                if *cut == Some(Cut::Client) {
                    self.interrupt(out);
                    self.send(out, "bot-interrupted", &Value::Null);
                }
                self.send(out, "bot-stopped-speaking", &Value::Null);
            }
            Says::ToolCall { call_id, name, arguments, .. } => {
                self.call = Some(call_id.clone());
                let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
                self.send(out, "llm-function-call-started", &json!({ "function_name": name }));
                let call = json!({ "tool_call_id": call_id, "function_name": name, "arguments": arguments });
                self.send(out, "llm-function-call-in-progress", &call);
            }
            Says::ToolCancelled { call_id, name } => {
                self.call = None;
                let told = json!({ "tool_call_id": call_id, "function_name": name, "cancelled": true });
                self.send(out, "llm-function-call-stopped", &told);
            }
            Says::Error { message } => self.send(out, "error", &json!({ "error": message, "fatal": false })),
            Says::GoAway { .. } | Says::Expired | Says::Stall(_) | Says::Close(_) => {}
        }
    }
}
