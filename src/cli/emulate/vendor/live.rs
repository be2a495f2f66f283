//! OpenAI Live, the server's side of its primary WebSocket: one stream of audio without end, fragments of what was said,
//! and work that is handed over.

use serde_json::{Value, json};

use super::actor::{Heard, Says};
use super::{Answered, Outbox, Wiring, not_found};
use crate::agent::openai::opening::format_of;
use crate::agent::{Wire, audio_json};
use crate::media::format::Format;

/// Fields of a session's configuration; anything else is refused.
const FIELDS: [&str; 9] =
    ["model", "audio", "client", "delegation", "input", "instructions", "store", "triggers", "metadata"];
/// The longest content of an append that is taken, in bytes: a guess at 500 tokens.
const CONTENT: usize = 2_000;

/// Answers a request: any path that ends in `/live/sessions`.
pub fn connect(request: &http::request::Parts) -> Answered {
    if !request.uri.path().ends_with("/live/sessions") {
        return Answered::Http(not_found());
    }
    if request.uri.query().is_some_and(|query| query.contains("model=")) {
        let message = "The model belongs into session.start, not into the URL.";
        return Answered::Http(super::json_answer(
            400,
            &json!({ "error": { "type": "invalid_request_error", "code": "unknown_parameter", "message": message } }),
        ));
    }
    Answered::WebSocket(Box::new(LiveWire::default()), None)
}

#[derive(Default)]
struct LiveWire {
    session: Option<Value>,
    events: u64,
    format: Option<Format>,
    /// Bytes of audio that were sent: the session's clock.
    sent: u64,
    /// When the caller was heard to begin, on that clock.
    speech_ms: u64,
    /// The run of the backend model that waits for a function's output, and whether it has it.
    waiting: Option<(String, bool)>,
}

impl LiveWire {
    fn send(&mut self, out: &mut Outbox, kind: &str, mut fields: Value) {
        self.events += 1;
        fields["type"] = kind.into();
        fields["event_id"] = format!("event_{}", self.events).into();
        out.json(&fields);
    }

    fn refuse(&mut self, out: &mut Outbox, of: &Value, code: &str, param: Option<&str>, message: &str) {
        let error = json!({
            "type": "invalid_request_error", "code": code, "message": message, "param": param,
            "client_event_id": of["event_id"],
        });
        self.send(out, "error", json!({ "error": error }));
    }

    fn now_ms(&self) -> u64 {
        let format = self.format.unwrap_or(Format::pcm16(24_000));
        let width = format.bytes_per_sample().unwrap_or(1) as u64;
        self.sent / width * 1000 / u64::from(format.rate)
    }

    fn usage(&self) -> Value {
        json!({ "seconds": self.now_ms() as f64 / 1000.0 })
    }

    fn responds(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session["delegation"]["type"] == "responses")
    }

    fn start(&mut self, event: &Value, out: &mut Outbox) -> Vec<Heard> {
        let asked = &event["session"];
        let strange = asked.as_object().and_then(|asked| asked.keys().find(|name| !FIELDS.contains(&name.as_str())));
        if let Some(strange) = strange {
            let param = format!("session.{strange}");
            self.refuse(out, event, "unknown_parameter", Some(&param), &format!("Unknown parameter: '{param}'."));
            return Vec::new();
        }
        let format = match &asked["audio"]["format"] {
            Value::Null => Some(Format::pcm16(24_000)),
            named => format_of(named).filter(|format| crate::agent::live::opening::wire_format(*format).is_some()),
        };
        let wrong = match (asked["model"].as_str(), format, asked["input"].as_array().map_or(0, Vec::len)) {
            (None, ..) => Some(("missing_required_parameter", "session.model")),
            (_, None, _) => Some(("invalid_value", "session.audio.format")),
            (.., 129..) => Some(("invalid_value", "session.input")),
            _ if asked["delegation"]["type"] == "responses"
                && !asked["delegation"]["responses"]["model"].is_string() =>
            {
                Some(("missing_required_parameter", "session.delegation.responses.model"))
            }
            _ if asked["delegation"].is_object() && asked["delegation"]["type"].is_null() => {
                Some(("missing_required_parameter", "session.delegation.type"))
            }
            _ => None,
        };
        if let Some((code, param)) = wrong {
            self.refuse(out, event, code, Some(param), &format!("Invalid or missing: '{param}'."));
            return Vec::new();
        }
        let mut session = asked.clone();
        session["id"] = "live_emulated".into();
        (session["expires_at"], session["status"]) = (1_900_000_000.into(), "active".into());
        if session["audio"]["output"]["voice"].is_null() {
            session["audio"]["output"]["voice"] = "marin".into();
        }
        if session["delegation"].is_null() {
            session["delegation"] = json!({ "type": "client" });
        }
        self.session = Some(session.clone());
        self.format = format;
        self.send(out, "session.started", json!({ "session": session, "client_event_id": event["event_id"] }));
        let format = format.unwrap_or(Format::pcm16(24_000));
        vec![Heard::Begin { uplink: format, downlink: format, greet: false, listens: true, yields: true }]
    }

    fn append(&mut self, channel: &str, event: &Value, out: &mut Outbox) -> Vec<Heard> {
        let Some(content) = event["content"].as_str().filter(|text| !text.is_empty() && text.len() <= CONTENT) else {
            self.refuse(out, event, "invalid_value", Some("content"), "The content is missing or too long.");
            return Vec::new();
        };
        if event.get("delegation_id").is_none() {
            self.refuse(out, event, "missing_required_parameter", Some("delegation_id"), "Say null, or which.");
            return Vec::new();
        }
        let at = self.now_ms();
        let fields = json!({ "start_ms": at, "end_ms": at, "client_event_id": event["event_id"] });
        self.send(out, &format!("session.{channel}.appended"), fields);
        match (channel, event["delegation_id"].as_str()) {
            ("commentary", Some(id)) => {
                vec![Heard::ToolResult { call_id: id.to_owned(), output: content.to_owned(), answer: true }]
            }
            ("commentary", None) => vec![Heard::Text { text: content.to_owned(), answer: true }],
            ("instructions", None) if content.contains("stop speaking") => vec![Heard::Stop],
            _ => Vec::new(),
        }
    }

    fn handle_item(&mut self, event: &Value, out: &mut Outbox) -> Vec<Heard> {
        let item = &event["item"];
        if !self.responds() {
            self.refuse(out, event, "invalid_value", Some("type"), "This needs Responses delegation.");
            return Vec::new();
        }
        if item["type"] != "function_call_output" {
            return Vec::new();
        }
        if let Some((_, answered)) = &mut self.waiting {
            *answered = true;
        }
        let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
        vec![Heard::ToolResult { call_id: text("call_id"), output: text("output"), answer: false }]
    }

    fn close(&mut self, reason: &str, event: &Value, out: &mut Outbox) {
        let (session, usage) = (self.session.clone().unwrap_or_default(), self.usage());
        let fields =
            json!({ "reason": reason, "session": session, "usage": usage, "client_event_id": event["event_id"] });
        self.send(out, "session.closed", fields);
    }

    fn delegate(&mut self, call_id: &str, name: &str, arguments: &str, turn: u32, out: &mut Outbox) {
        let offset = self.now_ms();
        if !self.responds() {
            let delegation = json!({ "id": call_id, "type": "delegation", "target": "client" });
            return self.send(
                out,
                "session.delegation.created",
                json!({ "offset_ms": offset, "delegation": delegation }),
            );
        }
        let (id, response_id) = (format!("delegation_{turn}"), format!("resp_{turn}"));
        let delegation = json!({ "id": id, "type": "delegation", "target": "responses", "response_id": response_id });
        self.send(out, "session.delegation.created", json!({ "offset_ms": offset, "delegation": delegation }));
        let item = json!({
            "id": "fc_1", "type": "function_call", "status": "completed", "call_id": call_id, "name": name,
            "arguments": arguments,
        });
        let response =
            |status: &str| json!({ "id": response_id, "object": "response", "status": status, "output": [] });
        let mut completed = response("completed");
        completed["usage"] = json!({
            "input_tokens": 50, "output_tokens": 8, "total_tokens": 58,
            "input_tokens_details": { "cached_tokens": 20 }, "output_tokens_details": { "reasoning_tokens": 0 },
        });
        for (n, event) in [
            json!({ "type": "response.created", "response": response("in_progress") }),
            json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
            json!({ "type": "response.completed", "response": completed }),
        ]
        .into_iter()
        .enumerate()
        {
            let mut event = event;
            event["sequence_number"] = n.into();
            self.send(out, "response.event", json!({ "delegation_id": id, "event": event }));
        }
        self.waiting = Some((id, false));
    }
}

impl Wiring for LiveWire {
    fn handle(&mut self, wire: Wire, out: &mut Outbox) -> Vec<Heard> {
        let Wire::Text(text) = wire else { return Vec::new() };
        let Ok(event) = serde_json::from_str::<Value>(&text) else {
            self.refuse(out, &Value::Null, "invalid_json", None, "This is not JSON.");
            return Vec::new();
        };
        let kind = event["type"].as_str().unwrap_or_default();
        match (kind, self.session.is_some()) {
            ("session.start", false) => return self.start(&event, out),
            ("session.start", true) | (_, false) => {
                let message =
                    if self.session.is_some() { "The session has begun." } else { "Say session.start first." };
                self.refuse(out, &event, "invalid_state", Some("type"), message);
                return Vec::new();
            }
            _ => {}
        }
        match kind {
            "session.input_audio.append" => match event["audio"].as_str().and_then(audio_json::decode) {
                Some(payload) => return vec![Heard::Audio(payload)],
                None => self.refuse(out, &event, "invalid_value", Some("audio"), "The audio is not base64."),
            },
            "session.commentary.append" => return self.append("commentary", &event, out),
            "session.thinking.append" => return self.append("thinking", &event, out),
            "session.instructions.append" => return self.append("instructions", &event, out),
            "response.item.create" => return self.handle_item(&event, out),
            "response.create" if matches!(self.waiting, Some((_, false))) => {
                let message = "The response waits for the outputs of its functions.";
                self.refuse(out, &event, "function_call_outputs_required", None, message);
            }
            "response.create" if self.responds() => {
                self.waiting = None;
                return vec![Heard::Answer];
            }
            "session.update" => {
                let session = self.session.clone().unwrap_or_default();
                let fields = json!({ "session": session, "client_event_id": event["event_id"] });
                self.send(out, "session.updated", fields);
            }
            "session.close" => {
                self.close("close_requested", &event, out);
                out.event(Wire::Close(1000, String::new()));
            }
            other => {
                self.refuse(out, &event, "invalid_value", Some("type"), &format!("Invalid value: '{other}'."));
            }
        }
        Vec::new()
    }

    fn streams(&self) -> bool {
        true
    }

    fn say(&mut self, says: &Says, out: &mut Outbox) {
        match says {
            Says::SpeechStarted { .. } => self.speech_ms = self.now_ms(),
            Says::Understood { text } => {
                let (start, end) = (self.speech_ms, self.now_ms().max(self.speech_ms + 200));
                let middle = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
                let (first, second) = text.split_at(middle);
                for (piece, start, end) in [(first, start, (start + end) / 2), (second, (start + end) / 2, end)] {
                    let fields = json!({ "delta": piece, "start_ms": start, "end_ms": end });
                    self.send(out, "session.input_transcript.delta", fields);
                }
            }
            Says::Text { text, .. } => {
                let at = self.now_ms();
                let fields = json!({ "delta": text, "start_ms": at, "end_ms": at + 200 });
                self.send(out, "session.output_transcript.delta", fields);
            }
            Says::Audio { payload, .. } => {
                self.sent += payload.len() as u64;
                let text = audio_json::encode(r#"{"type":"session.output_audio.delta","delta":""#, payload, "\"}");
                out.audio(Wire::Text(text));
            }
            Says::TurnEnded { .. } => {
                let usage = self.usage();
                let fields = json!({ "usage": usage, "context_window": { "usage_ratio": 0.01 } });
                self.send(out, "session.usage.updated", fields);
            }
            Says::ToolCall { call_id, name, arguments, turn } => self.delegate(call_id, name, arguments, *turn, out),
            Says::Error { message } => {
                let error = json!({ "type": "server_error", "code": "server_error", "message": message });
                self.send(out, "error", json!({ "error": error }));
            }
            Says::Expired => self.close("expired", &Value::Null, out),
            Says::SpeechStopped { .. }
            | Says::TurnStarted { .. }
            | Says::ToolCancelled { .. }
            | Says::GoAway { .. }
            | Says::Stall(_)
            | Says::Close(_) => {}
        }
    }
}
