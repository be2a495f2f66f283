//! The wire of the Deepgram Voice Agent.

use serde_json::{Value, json};

use super::actor::{Heard, Says};
use super::{Answered, Outbox, Wiring, json_answer, not_found};
use crate::agent::Wire;
use crate::media::format::Format;

const CONVERSE: &str = "/v1/agent/converse";

/// Answers a request: the conversation.
pub(super) fn connect(request: &http::request::Parts) -> Answered {
    if request.uri.path() != CONVERSE {
        return Answered::Http(not_found());
    }
    let offered = request.headers.get(http::header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let offered: Vec<&str> = offered.map(|offered| offered.split(',').map(str::trim).collect()).unwrap_or_default();
    let scheme = ["token", "bearer"].into_iter().find(|scheme| offered.contains(scheme));
    let authorization = request.headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let told = authorization.is_some_and(|value| {
        let scheme = value.split(' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case("token") || scheme.eq_ignore_ascii_case("bearer")
    });
    if !told && scheme.is_none() {
        let body = json!({ "err_code": "INVALID_AUTH", "err_msg": "Invalid credentials." });
        return Answered::Http(json_answer(401, &body));
    }
    Answered::WebSocket(Box::new(Deepgram::default()), scheme)
}

/// One conversation.
#[derive(Default)]
struct Deepgram {
    applied: bool,
    text: String,
}

/// The format of one direction of `Settings`.
fn format(audio: &Value) -> Result<Format, String> {
    if audio.is_null() {
        return Ok(Format::pcm16(24_000));
    }
    let rate = audio["sample_rate"].as_u64().unwrap_or(24_000) as u32;
    let format = match audio["encoding"].as_str() {
        Some("linear16") | None => Format::pcm16(rate),
        Some("mulaw") => Format { rate, ..Format::PCMU },
        Some("alaw") => Format { rate, ..Format::PCMA },
        Some(other) => return Err(format!("the emulator has no {other}")),
    };
    format.check().map(|()| format).map_err(|error| error.to_string())
}

impl Deepgram {
    fn fail(out: &mut Outbox, code: &str, description: &str) {
        out.json(&json!({ "type": "Error", "code": code, "description": description }));
        out.event(Wire::Close(1008, code.to_owned()));
    }

    fn apply(&mut self, settings: &Value, out: &mut Outbox) -> Vec<Heard> {
        if std::mem::replace(&mut self.applied, true) {
            Self::fail(out, "SETTINGS_ALREADY_APPLIED", "Settings came twice.");
            return Vec::new();
        }
        if settings["agent"].is_null() {
            Self::fail(out, "INVALID_SETTINGS", "agent is missing.");
            return Vec::new();
        }
        let formats =
            format(&settings["audio"]["input"]).and_then(|uplink| Ok((uplink, format(&settings["audio"]["output"])?)));
        match formats {
            Ok((uplink, downlink)) => {
                out.json(&json!({ "type": "SettingsApplied" }));
                let greet = settings["agent"]["greeting"].is_string();
                vec![Heard::Begin { uplink, downlink, greet, listens: true, yields: true }]
            }
            Err(error) => {
                Self::fail(out, "INVALID_SETTINGS", &error);
                Vec::new()
            }
        }
    }
}

impl Wiring for Deepgram {
    fn open(&mut self, out: &mut Outbox) {
        out.json(&json!({ "type": "Welcome", "request_id": "00000000-0000-4000-8000-000000000000" }));
    }

    fn handle(&mut self, wire: Wire, out: &mut Outbox) -> Vec<Heard> {
        let text = match wire {
            Wire::Binary(payload) if self.applied => return vec![Heard::Audio(payload)],
            Wire::Text(text) => text,
            _ => return Vec::new(),
        };
        let Ok(message) = serde_json::from_str::<Value>(&text) else {
            Self::fail(out, "UNPARSABLE_CLIENT_MESSAGE", "the message is no JSON.");
            return Vec::new();
        };
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str().unwrap_or_default() {
            "Settings" => self.apply(&message, out),
            "InjectUserMessage" => {
                let content = text("content");
                out.json(&json!({ "type": "ConversationText", "role": "user", "content": content }));
                vec![Heard::Text { text: content, answer: true }]
            }
            "FunctionCallResponse" => {
                vec![Heard::ToolResult { call_id: text("id"), output: text("content"), answer: true }]
            }
            "UpdatePrompt" => {
                out.json(&json!({ "type": "PromptUpdated" }));
                Vec::new()
            }
            "UpdateSpeak" => {
                out.json(&json!({ "type": "SpeakUpdated" }));
                Vec::new()
            }
            "KeepAlive" => Vec::new(),
            _ => {
                Self::fail(out, "UNPARSABLE_CLIENT_MESSAGE", "the type is not known.");
                Vec::new()
            }
        }
    }

    fn announce(&mut self, _turn: u32, text: &str) {
        text.clone_into(&mut self.text);
    }

    fn say(&mut self, says: &Says, out: &mut Outbox) {
        match says {
            Says::SpeechStarted { .. } => out.json(&json!({ "type": "UserStartedSpeaking" })),
            Says::Understood { text } => {
                let said = json!({ "type": "ConversationText", "role": "user", "content": text });
                out.json(&said);
                out.json(&json!({ "type": "History", "role": "user", "content": text }));
            }
            Says::TurnStarted { .. } => {
                out.json(&json!({ "type": "AgentThinking", "content": "" }));
                for sentence in
                    self.text.split_inclusive(['.', '!', '?']).map(str::trim).filter(|text| !text.is_empty())
                {
                    out.json(&json!({ "type": "ConversationText", "role": "assistant", "content": sentence }));
                }
                let latency = json!({
                    "type": "AgentStartedSpeaking", "total_latency": 0.3, "tts_latency": 0.1, "ttt_latency": 0.2,
                });
                out.json(&latency);
            }
            Says::Audio { payload, .. } => out.audio(Wire::Binary(payload.clone())),
            Says::TurnEnded { cut: None, .. } => out.json(&json!({ "type": "AgentAudioDone" })),
            Says::ToolCall { call_id, name, arguments, .. } => {
                let call = json!({ "id": call_id, "name": name, "arguments": arguments, "client_side": true });
                out.json(&json!({ "type": "FunctionCallRequest", "functions": [call] }));
            }
            Says::ToolCancelled { call_id, name } => {
                let functions = json!([{ "id": call_id, "name": name }]);
                out.json(&json!({ "type": "FunctionCallCancelled", "functions": functions }));
            }
            Says::Error { message } => {
                out.json(&json!({ "type": "Warning", "code": "AS_ASKED_FOR", "description": message }));
            }
            Says::Expired => {
                let description = "The maximum session time is over.";
                out.json(&json!({ "type": "Error", "code": "SESSION_TIMEOUT", "description": description }));
            }
            Says::Text { .. }
            | Says::TurnEnded { .. }
            | Says::SpeechStopped { .. }
            | Says::GoAway { .. }
            | Says::Stall(_)
            | Says::Close(_) => {}
        }
    }
}
