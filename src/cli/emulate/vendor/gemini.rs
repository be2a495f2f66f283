//! The wire of Gemini Live (`BidiGenerateContent`), the server's side: keys in both styles are understood, and answers
//! are JSON in binary frames.
//!
//! The service assumes that its speech is played in real time and calls a turn complete only when it would be: until
//! then the caller can interrupt it. The clock for that is the caller's own audio.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::actor::{Heard, Says};
use super::{Answered, Outbox, Wiring, not_found};
use crate::agent::{Wire, audio_json};
use crate::media::format::Format;

const SPEAKS: Format = Format::pcm16(24_000);
/// Fields of `setup`.
const SETUP: [&str; 14] = [
    "model",
    "generationConfig",
    "systemInstruction",
    "tools",
    "sessionResumption",
    "inputAudioTranscription",
    "outputAudioTranscription",
    "realtimeInputConfig",
    "contextWindowCompression",
    "proactivity",
    "explicitVadSignal",
    "historyConfig",
    "avatarConfig",
    "safetySettings",
];

/// Answers a request; leading slashes may be doubled.
pub(super) fn connect(request: &http::request::Parts) -> Answered {
    let path = request.uri.path();
    if !path.starts_with('/') || !path.ends_with(".GenerativeService.BidiGenerateContent") {
        return Answered::Http(not_found());
    }
    Answered::WebSocket(Box::new(Gemini::default()), None)
}

/// One conversation.
#[derive(Default)]
struct Gemini {
    begun: bool,
    /// The history comes first and asks for no answer.
    history: bool,
    hears: u32,
    heard: Duration,
    transcribes: (bool, bool),
    handles: bool,
    /// The turn that is spoken: when it will have been played, on the clock of the caller's audio.
    played_at: Option<Duration>,
    spoken: Duration,
    /// It was interrupted, and `turnComplete` is still to be said.
    broken: bool,
}

impl Gemini {
    fn send(out: &mut Outbox, message: &Value) {
        out.event(Wire::Binary(message.to_string().into()));
    }

    fn refuse(out: &mut Outbox, code: u16, reason: &str) -> Vec<Heard> {
        out.event(Wire::Close(code, reason.to_owned()));
        Vec::new()
    }

    fn set_up(&mut self, setup: &Value, out: &mut Outbox) -> Vec<Heard> {
        let strange = setup.as_object().and_then(|setup| setup.keys().find(|name| !SETUP.contains(&name.as_str())));
        if let Some(name) = strange {
            let reason = format!("Invalid JSON payload received. Unknown name \"{name}\" at 'setup': no such field.");
            return Gemini::refuse(out, 1007, &reason);
        }
        let model = setup["model"].as_str().unwrap_or_default();
        if !model.contains('/') {
            return Gemini::refuse(out, 1007, "Request contains an invalid argument: model");
        }
        if setup.pointer("/generationConfig/responseModalities/0").is_some_and(|kind| kind != "AUDIO") {
            return Gemini::refuse(out, 1007, "Request contains an invalid argument: only AUDIO is served");
        }
        let handle = setup.pointer("/sessionResumption/handle").and_then(Value::as_str);
        if handle.is_some_and(|handle| !handle.starts_with("handle-")) {
            return Gemini::refuse(out, 1007, "Invalid session resumption handle.");
        }
        out.log(json!({ "event": "set_up", "model": model, "resumes": handle }));
        self.begun = true;
        self.hears = 16_000;
        self.history = setup.pointer("/historyConfig/initialHistoryInClientContent").is_some_and(|on| on == true);
        self.handles = setup.get("sessionResumption").is_some();
        self.transcribes =
            (setup.get("inputAudioTranscription").is_some(), setup.get("outputAudioTranscription").is_some());
        Gemini::send(out, &json!({ "setupComplete": { "sessionId": "emulated" } }));
        self.give_handle(out);
        let detection = setup.pointer("/realtimeInputConfig/automaticActivityDetection/disabled");
        let listens = detection.is_none_or(|disabled| disabled != true);
        vec![self.begin(listens)]
    }

    fn begin(&self, listens: bool) -> Heard {
        Heard::Begin { uplink: Format::pcm16(self.hears), downlink: SPEAKS, greet: false, listens, yields: true }
    }

    fn give_handle(&self, out: &mut Outbox) {
        if self.handles {
            let handle = format!("handle-{}", self.heard.as_millis());
            Gemini::send(out, &json!({ "sessionResumptionUpdate": { "newHandle": handle, "resumable": true } }));
        }
    }

    fn hear(&mut self, input: &Map<String, Value>, out: &mut Outbox) -> Vec<Heard> {
        if input.len() != 1 {
            return Gemini::refuse(out, 1007, "Request contains an invalid argument: one kind of input per message");
        }
        let (kind, value) = input.iter().next().map_or(("", &Value::Null), |(kind, value)| (kind.as_str(), value));
        match kind {
            "audio" => self.hear_audio(value, out),
            "text" => {
                self.complete(out);
                vec![Heard::Text { text: value.as_str().unwrap_or_default().to_owned(), answer: true }]
            }
            "activityStart" => vec![Heard::Stop],
            "activityEnd" => vec![Heard::Answer],
            "audioStreamEnd" => {
                self.complete(out);
                Vec::new()
            }
            "video" => Vec::new(),
            _ => Gemini::refuse(out, 1007, &format!("Unknown name \"{kind}\" at 'realtime_input'")),
        }
    }

    fn hear_audio(&mut self, audio: &Value, out: &mut Outbox) -> Vec<Heard> {
        let kind = audio["mimeType"].as_str().unwrap_or_default();
        let rate = kind.split(';').find_map(|part| part.trim().strip_prefix("rate=")?.parse().ok());
        let payload = audio["data"].as_str().and_then(decode);
        let (Some(payload), true) = (payload, kind.starts_with("audio/pcm")) else {
            return Gemini::refuse(out, 1007, "Request contains an invalid argument: audio");
        };
        let mut heard = Vec::new();
        let rate = rate.unwrap_or(16_000);
        if rate != self.hears {
            self.hears = rate;
            heard.push(self.begin(true));
        }
        self.heard += Duration::from_micros(payload.len() as u64 * 500_000 / u64::from(rate.max(1)));
        if self.played_at.is_some_and(|at| at <= self.heard) {
            self.complete(out);
        }
        heard.push(Heard::Audio(payload));
        heard
    }

    /// The turn would have been played by now.
    fn complete(&mut self, out: &mut Outbox) {
        let played = self.played_at.take().is_some();
        if played || std::mem::take(&mut self.broken) {
            Gemini::send(out, &json!({ "serverContent": { "turnComplete": true } }));
            self.give_handle(out);
        }
    }

    fn content(&mut self, content: &Value) -> Vec<Heard> {
        let complete = content["turnComplete"].as_bool().unwrap_or(false);
        let answer = complete && !std::mem::take(&mut self.history);
        let parts = content["turns"].as_array().into_iter().flatten().flat_map(|turn| turn["parts"].as_array());
        let text: Vec<&str> = parts.flatten().filter_map(|part| part["text"].as_str()).collect();
        vec![Heard::Text { text: text.join(" "), answer }]
    }

    fn results(response: &Value, out: &mut Outbox) -> Vec<Heard> {
        let responses: Vec<&Value> = response["functionResponses"].as_array().into_iter().flatten().collect();
        if responses.is_empty() || responses.iter().any(|response| !response["id"].is_string()) {
            return Gemini::refuse(out, 1007, "Request contains an invalid argument: function response without id");
        }
        let last = responses.len() - 1;
        let result = |(at, response): (usize, &&Value)| Heard::ToolResult {
            call_id: response["id"].as_str().unwrap_or_default().to_owned(),
            output: response["response"].to_string(),
            answer: at == last,
        };
        responses.iter().enumerate().map(result).collect()
    }

    fn end_turn(&mut self, sent: Duration, cut: bool, out: &mut Outbox) {
        let tokens = (sent.as_millis() as u64 / 40).max(1);
        let usage = json!({
            "promptTokenCount": 40, "responseTokenCount": tokens, "totalTokenCount": 40 + tokens,
            "promptTokensDetails": [{ "modality": "AUDIO", "tokenCount": 30 }, { "modality": "TEXT", "tokenCount": 10 }],
            "responseTokensDetails": [{ "modality": "AUDIO", "tokenCount": tokens }],
        });
        if cut {
            Gemini::send(out, &json!({ "serverContent": { "interrupted": true }, "usageMetadata": usage }));
            (self.broken, self.played_at) = (true, None);
        } else {
            Gemini::send(out, &json!({ "serverContent": { "generationComplete": true }, "usageMetadata": usage }));
            self.played_at = Some(self.spoken + sent);
            if self.heard.is_zero() {
                self.complete(out);
            }
        }
    }
}

impl Wiring for Gemini {
    fn handle(&mut self, wire: Wire, out: &mut Outbox) -> Vec<Heard> {
        let text = match &wire {
            Wire::Text(text) => text.as_str(),
            Wire::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Wire::Close(..) => return Vec::new(),
        };
        let Ok(Value::Object(message)) = serde_json::from_str::<Value>(text).map(camel_case) else {
            return Gemini::refuse(out, 1007, "Invalid JSON payload received.");
        };
        let (kind, value) = message.iter().next().map_or(("", &Value::Null), |(kind, value)| (kind.as_str(), value));
        match (kind, self.begun) {
            ("setup", false) => self.set_up(value, out),
            (_, false) => Gemini::refuse(out, 1007, "setup must be the first message and only the first"),
            ("realtimeInput", true) => self.hear(value.as_object().unwrap_or(&Map::new()), out),
            ("clientContent", true) => {
                self.complete(out);
                self.content(value)
            }
            ("toolResponse", true) => Gemini::results(value, out),
            _ => Gemini::refuse(out, 1007, &format!("Unknown name \"{kind}\"")),
        }
    }

    fn say(&mut self, says: &Says, out: &mut Outbox) {
        match says {
            Says::SpeechStarted { interrupts, .. } => {
                if !interrupts && self.played_at.take().is_some() {
                    Gemini::send(out, &json!({ "serverContent": { "interrupted": true } }));
                    self.broken = true;
                }
            }
            Says::SpeechStopped { .. } => self.complete(out),
            Says::Understood { text } if self.transcribes.0 => {
                let (first, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
                for piece in [first, rest].into_iter().filter(|piece| !piece.is_empty()) {
                    Gemini::send(out, &json!({ "serverContent": { "inputTranscription": { "text": piece } } }));
                }
            }
            Says::TurnStarted { .. } => {
                self.complete(out);
                self.spoken = self.heard;
            }
            Says::Text { text, .. } if self.transcribes.1 => {
                Gemini::send(out, &json!({ "serverContent": { "outputTranscription": { "text": text } } }));
            }
            Says::Audio { payload, .. } => {
                let data = BASE64_STANDARD.encode(payload);
                let part = json!({ "inlineData": { "mimeType": "audio/pcm;rate=24000", "data": data } });
                let message = json!({ "serverContent": { "modelTurn": { "parts": [part] } } });
                out.audio(Wire::Binary(message.to_string().into()));
            }
            Says::TurnEnded { sent, cut, .. } => self.end_turn(*sent, cut.is_some(), out),
            Says::ToolCall { call_id, name, arguments, .. } => {
                let args: Value = serde_json::from_str(arguments).unwrap_or_default();
                let call = json!({ "id": call_id, "name": name, "args": args });
                Gemini::send(out, &json!({ "toolCall": { "functionCalls": [call] } }));
            }
            Says::ToolCancelled { call_id, .. } => {
                Gemini::send(out, &json!({ "toolCallCancellation": { "ids": [call_id] } }));
            }
            Says::GoAway { left } => {
                let left = format!("{:.3}s", left.as_secs_f64());
                Gemini::send(out, &json!({ "goAway": { "timeLeft": left } }));
            }
            // The service knows no errors that do not end the session.
            Says::Error { message } => out.log(json!({ "event": "unsaid", "error": message })),
            Says::Expired => drop(Gemini::refuse(out, 1008, "The session duration limit is over.")),
            Says::Understood { .. } | Says::Text { .. } | Says::Stall(_) | Says::Close(_) => {}
        }
    }
}

/// Base64 of either alphabet: the Python SDK uses the one for URLs.
fn decode(text: &str) -> Option<bytes::Bytes> {
    audio_json::decode(text).or_else(|| audio_json::decode(&text.replace('-', "+").replace('_', "/")))
}

/// Keys in camel case, but for those of the application's own data.
fn camel_case(value: Value) -> Value {
    const OWN: [&str; 5] = ["response", "args", "parameters", "parametersJsonSchema", "parameters_json_schema"];
    match value {
        Value::Array(items) => items.into_iter().map(camel_case).collect(),
        Value::Object(fields) => {
            let field = |(name, value): (String, Value)| {
                let own = OWN.contains(&name.as_str());
                let mut words = name.split('_');
                let mut camel = words.next().unwrap_or_default().to_owned();
                for word in words {
                    let mut letters = word.chars();
                    camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
                    camel.push_str(letters.as_str());
                }
                (camel, if own { value } else { camel_case(value) })
            };
            Value::Object(fields.into_iter().map(field).collect())
        }
        other => other,
    }
}
