//! OpenAI Realtime (GA), the server's side: events in the order of the API reference.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::actor::{Cut, Heard, Says};
use super::{Answered, Outbox, Wiring, not_found};
use crate::agent::openai::opening::{format_of, merge};
use crate::agent::{Wire, audio_json};
use crate::dialect::openai::items::Items;
use crate::media::format::Format;

/// Answers a request: any path that ends in `/realtime`.
pub fn connect(request: &http::request::Parts) -> Answered {
    if !request.uri.path().ends_with("/realtime") {
        return Answered::Http(not_found());
    }
    let query = request.uri.query().unwrap_or_default();
    let model = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "model");
    let model = model.map_or("gpt-realtime".into(), |(_, model)| model.into_owned());
    let offered = request.headers.get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
    let offers = offered.is_some_and(|offered| offered.split(',').any(|name| name.trim() == "realtime"));
    Answered::WebSocket(Box::new(OpenaiWire::new(&model)), offers.then_some("realtime"))
}

struct OpenaiWire {
    session: Value,
    events: u64,
    items: Items,
    /// The caller's utterance.
    user_item: String,
    /// Turn, item and whether it goes on; and what of it was sent.
    spoken: Vec<Spoken>,
    active: bool,
    committed: bool,
    begun: bool,
}

struct Spoken {
    turn: u32,
    item: String,
    bytes: u64,
}

impl OpenaiWire {
    fn new(model: &str) -> OpenaiWire {
        let pcm = json!({"type": "audio/pcm", "rate": 24_000});
        let detection = json!({
            "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 600,
            "create_response": true, "interrupt_response": true, "idle_timeout_ms": null,
        });
        let session = json!({
            "type": "realtime", "object": "realtime.session", "id": "sess_emulated", "model": model,
            "output_modalities": ["audio"], "instructions": "", "tools": [], "tool_choice": "auto",
            "max_output_tokens": "inf", "tracing": null, "truncation": "auto",
            "audio": {
                "input": {"format": pcm, "transcription": null, "noise_reduction": null, "turn_detection": detection},
                "output": {"format": pcm, "voice": "marin", "speed": 1.0},
            },
        });
        OpenaiWire {
            session,
            events: 0,
            items: Items::default(),
            user_item: String::new(),
            spoken: Vec::new(),
            active: false,
            committed: true,
            begun: false,
        }
    }

    fn event(&mut self, kind: &str, mut fields: Value) -> Value {
        self.events += 1;
        fields["type"] = kind.into();
        fields["event_id"] = format!("event_{}", self.events).into();
        fields
    }

    fn send(&mut self, out: &mut Outbox, kind: &str, fields: Value) {
        let event = self.event(kind, fields);
        out.json(&event);
    }

    fn refuse(&mut self, out: &mut Outbox, of: &Value, code: &str, param: Option<&str>, message: &str) {
        let error = json!({
            "type": "invalid_request_error", "code": code, "message": message, "param": param,
            "event_id": of["event_id"],
        });
        self.send(out, "error", json!({ "error": error }));
    }

    /// A new item of the conversation; complete at once, or still growing.
    fn add_item(&mut self, out: &mut Outbox, item: &Value, done: bool) {
        let fields = json!({ "previous_item_id": self.items.add(item), "item": item });
        self.send(out, "conversation.item.added", fields.clone());
        if done {
            self.send(out, "conversation.item.done", fields);
        }
    }

    fn complete_item(&mut self, out: &mut Outbox, item: &Value) {
        let fields = json!({ "previous_item_id": self.items.complete(item), "item": item });
        self.send(out, "conversation.item.done", fields);
    }

    fn retrieve(&mut self, event: &Value, out: &mut Outbox) {
        let id = event["item_id"].as_str().unwrap_or_default();
        match self.items.find(id).cloned() {
            Some(item) => self.send(out, "conversation.item.retrieved", json!({ "item": item })),
            None => {
                let message = format!("Item with item_id '{id}' not found.");
                self.refuse(out, event, "item_retrieve_invalid_item_id", Some("item_id"), &message);
            }
        }
    }

    fn format(&self, direction: &str) -> Option<Format> {
        format_of(&self.session["audio"][direction]["format"])
    }

    fn text_only(&self) -> bool {
        self.session["output_modalities"][0] == "text"
    }

    fn update(&mut self, event: &Value, out: &mut Outbox) -> Vec<Heard> {
        let asked = &event["session"];
        let known = |name: &&String| self.session.get(*name).is_some();
        if let Some(strange) = asked.as_object().and_then(|asked| asked.keys().find(|name| !known(name))) {
            let param = format!("session.{strange}");
            let message = format!("Unknown parameter: '{param}'.");
            self.refuse(out, event, "unknown_parameter", Some(&param), &message);
            return Vec::new();
        }
        if asked.get("model").is_some_and(|model| *model != self.session["model"]) {
            self.refuse(out, event, "invalid_value", Some("session.model"), "Cannot change the model of a session.");
            return Vec::new();
        }
        let before = self.session.clone();
        overlay(&mut self.session, asked);
        let (Some(uplink), Some(downlink)) = (self.format("input"), self.format("output")) else {
            self.session = before;
            self.refuse(out, event, "invalid_value", Some("session.audio"), "There is no such audio format.");
            return Vec::new();
        };
        let session = self.session.clone();
        self.send(out, "session.updated", json!({ "session": session }));
        self.begun = true;
        let detection = &self.session["audio"]["input"]["turn_detection"];
        let (listens, yields) = (!detection.is_null(), detection["interrupt_response"] != false);
        vec![Heard::Begin { uplink, downlink, greet: false, listens, yields }]
    }

    fn create_item(&mut self, event: &Value, out: &mut Outbox) -> Vec<Heard> {
        let mut item = event["item"].clone();
        let kind = item["type"].as_str().unwrap_or_default().to_owned();
        if !matches!(kind.as_str(), "message" | "function_call" | "function_call_output") {
            self.refuse(out, event, "invalid_value", Some("item.type"), "There is no such type of item.");
            return Vec::new();
        }
        if item["id"].is_null() {
            item["id"] = self.items.next_id().into();
        }
        merge(&mut item, &json!({ "object": "realtime.item", "status": "completed" }));
        self.add_item(out, &item, true);
        match kind.as_str() {
            "function_call_output" => {
                let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
                vec![Heard::ToolResult { call_id: text("call_id"), output: text("output"), answer: false }]
            }
            "message" if item["role"] == "user" => {
                let text = item["content"][0]["text"].as_str().unwrap_or_default().to_owned();
                vec![Heard::Text { text, answer: false }]
            }
            _ => Vec::new(),
        }
    }

    fn truncate(&mut self, event: &Value, out: &mut Outbox) {
        let (id, ms) = (event["item_id"].as_str().unwrap_or_default(), event["audio_end_ms"].as_u64());
        let width = self.format("output").and_then(|format| format.bytes_per_sample()).unwrap_or(2) as u64;
        let rate = self.format("output").map_or(24_000, |format| u64::from(format.rate));
        let sent = self.spoken.iter().find(|spoken| spoken.item == id).map(|spoken| spoken.bytes / width * 1000 / rate);
        match (sent, ms) {
            (None, _) => {
                let message = format!("Item with item_id '{id}' not found.");
                self.refuse(out, event, "item_truncate_invalid_item_id", Some("item_id"), &message);
            }
            (Some(sent), Some(ms)) if ms <= sent => {
                out.log(json!({ "event": "truncated", "item": id, "audio_end_ms": ms, "sent_ms": sent }));
                let fields = json!({ "item_id": id, "content_index": 0, "audio_end_ms": ms });
                self.send(out, "conversation.item.truncated", fields);
            }
            (Some(sent), _) => {
                out.log(json!({ "event": "refused", "item": id, "audio_end_ms": ms, "sent_ms": sent }));
                let message = format!("Audio content of {sent}ms is already shorter than {}ms", ms.unwrap_or_default());
                self.refuse(out, event, "invalid_value", Some("audio_end_ms"), &message);
            }
        }
    }

    fn response(&self, turn: u32, status: &str, output: Value) -> Value {
        json!({
            "object": "realtime.response", "id": format!("resp_{turn}"), "status": status, "status_details": null,
            "output": output, "conversation_id": "conv_emulated", "output_modalities": self.session["output_modalities"],
            "metadata": null, "usage": null,
        })
    }

    fn usage() -> Value {
        json!({
            "total_tokens": 60, "input_tokens": 40, "output_tokens": 20,
            "input_token_details": {"text_tokens": 30, "audio_tokens": 10, "cached_tokens": 20,
                "cached_tokens_details": {"text_tokens": 20, "audio_tokens": 0}},
            "output_token_details": {"text_tokens": 5, "audio_tokens": 15},
        })
    }

    fn message_item(&self, id: &str, status: &str, text: Option<&str>) -> Value {
        let content = match (text, self.text_only()) {
            (None, _) => json!([]),
            (Some(text), true) => json!([{ "type": "output_text", "text": text }]),
            (Some(text), false) => json!([{ "type": "output_audio", "transcript": text }]),
        };
        json!({ "id": id, "object": "realtime.item", "type": "message", "status": status, "role": "assistant", "content": content })
    }

    fn place(&self, turn: u32) -> Value {
        let item = self.spoken.iter().find(|spoken| spoken.turn == turn).map_or("", |spoken| spoken.item.as_str());
        json!({ "response_id": format!("resp_{turn}"), "item_id": item, "output_index": 0, "content_index": 0 })
    }

    fn start_turn(&mut self, turn: u32, out: &mut Outbox) {
        self.active = true;
        let item = self.items.next_id();
        self.spoken.push(Spoken { turn, item: item.clone(), bytes: 0 });
        let response = self.response(turn, "in_progress", json!([]));
        self.send(out, "response.created", json!({ "response": response }));
        let value = self.message_item(&item, "in_progress", None);
        let fields = json!({ "response_id": format!("resp_{turn}"), "output_index": 0, "item": value });
        self.send(out, "response.output_item.added", fields);
        self.add_item(out, &value, false);
        let part = if self.text_only() {
            json!({"type": "text", "text": ""})
        } else {
            json!({"type": "audio", "transcript": ""})
        };
        let mut fields = self.place(turn);
        fields["part"] = part;
        self.send(out, "response.content_part.added", fields);
    }

    fn end_turn(&mut self, turn: u32, text: &str, cut: Option<Cut>, out: &mut Outbox) {
        self.active = false;
        let status = if cut.is_some() { "incomplete" } else { "completed" };
        let place = self.place(turn);
        if self.text_only() {
            let mut fields = place.clone();
            fields["text"] = text.into();
            self.send(out, "response.output_text.done", fields);
        } else {
            self.send(out, "response.output_audio.done", place.clone());
            let mut fields = place.clone();
            fields["transcript"] = text.into();
            self.send(out, "response.output_audio_transcript.done", fields);
        }
        let mut fields = place.clone();
        fields["part"] = if self.text_only() {
            json!({"type": "text", "text": text})
        } else {
            json!({"type": "audio", "transcript": text})
        };
        self.send(out, "response.content_part.done", fields);
        let item = self.message_item(place["item_id"].as_str().unwrap_or_default(), status, Some(text));
        let fields = json!({ "response_id": format!("resp_{turn}"), "output_index": 0, "item": item });
        self.send(out, "response.output_item.done", fields);
        self.complete_item(out, &item);
        let mut response = self.response(turn, if cut.is_some() { "cancelled" } else { "completed" }, json!([item]));
        if let Some(cut) = cut {
            let reason = if cut == Cut::Speech { "turn_detected" } else { "client_cancelled" };
            response["status_details"] = json!({ "type": "cancelled", "reason": reason });
        }
        response["usage"] = OpenaiWire::usage();
        self.send(out, "response.done", json!({ "response": response }));
    }

    fn call_tool(&mut self, call_id: &str, name: &str, arguments: &str, turn: u32, out: &mut Outbox) {
        let id = self.items.next_id();
        let item = |status: &str, arguments: &str| {
            json!({
                "id": id, "object": "realtime.item", "type": "function_call", "status": status, "name": name,
                "call_id": call_id, "arguments": arguments,
            })
        };
        let response_id = format!("resp_{turn}");
        let response = self.response(turn, "in_progress", json!([]));
        self.send(out, "response.created", json!({ "response": response }));
        let begun = item("in_progress", "");
        let fields = json!({ "response_id": response_id, "output_index": 0, "item": begun });
        self.send(out, "response.output_item.added", fields);
        self.add_item(out, &begun, false);
        let place = json!({ "response_id": response_id, "item_id": id, "output_index": 0, "call_id": call_id });
        let mut delta = place.clone();
        delta["delta"] = arguments.into();
        self.send(out, "response.function_call_arguments.delta", delta);
        let mut done = place;
        (done["name"], done["arguments"]) = (name.into(), arguments.into());
        self.send(out, "response.function_call_arguments.done", done);
        let done = item("completed", arguments);
        let fields = json!({ "response_id": response_id, "output_index": 0, "item": done });
        self.send(out, "response.output_item.done", fields);
        self.complete_item(out, &done);
        let mut response = self.response(turn, "completed", json!([done]));
        response["usage"] = OpenaiWire::usage();
        self.send(out, "response.done", json!({ "response": response }));
    }

    fn end_speech(&mut self, at_ms: u64, out: &mut Outbox) {
        let id = self.user_item.clone();
        self.send(out, "input_audio_buffer.speech_stopped", json!({ "audio_end_ms": at_ms, "item_id": id }));
        self.commit(id, out);
    }

    fn commit(&mut self, id: String, out: &mut Outbox) {
        self.committed = true;
        let previous = self.items.last().map(str::to_owned);
        self.send(out, "input_audio_buffer.committed", json!({ "item_id": id, "previous_item_id": previous }));
        let item = json!({
            "id": id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
            "content": [{ "type": "input_audio", "transcript": null }],
        });
        self.add_item(out, &item, true);
    }
}

impl Wiring for OpenaiWire {
    fn open(&mut self, out: &mut Outbox) {
        let session = self.session.clone();
        self.send(out, "session.created", json!({ "session": session }));
    }

    fn handle(&mut self, wire: Wire, out: &mut Outbox) -> Vec<Heard> {
        let Wire::Text(text) = wire else { return Vec::new() };
        let Ok(event) = serde_json::from_str::<Value>(&text) else {
            self.refuse(out, &Value::Null, "invalid_json", None, "This is not JSON.");
            return Vec::new();
        };
        if event["type"] == "session.update" {
            return self.update(&event, out);
        }
        let begin = (!self.begun).then(|| {
            self.begun = true;
            let format = Format::pcm16(24_000);
            Heard::Begin { uplink: format, downlink: format, greet: false, listens: true, yields: true }
        });
        let heard = match event["type"].as_str().unwrap_or_default() {
            "input_audio_buffer.append" => match event["audio"].as_str().and_then(audio_json::decode) {
                Some(payload) => {
                    self.committed = false;
                    vec![Heard::Audio(payload)]
                }
                None => {
                    self.refuse(out, &event, "invalid_value", Some("audio"), "The audio is not base64.");
                    Vec::new()
                }
            },
            "input_audio_buffer.commit" if self.committed => {
                let message = "Error committing input audio buffer: buffer too small.";
                self.refuse(out, &event, "input_audio_buffer_commit_empty", None, message);
                Vec::new()
            }
            "input_audio_buffer.commit" => {
                let id = self.items.next_id();
                self.commit(id, out);
                Vec::new()
            }
            "input_audio_buffer.clear" => {
                self.committed = true;
                self.send(out, "input_audio_buffer.cleared", json!({}));
                Vec::new()
            }
            "conversation.item.create" => self.create_item(&event, out),
            "conversation.item.retrieve" => {
                self.retrieve(&event, out);
                Vec::new()
            }
            "conversation.item.truncate" => {
                self.truncate(&event, out);
                Vec::new()
            }
            "conversation.item.delete" => {
                let id = event["item_id"].clone();
                self.send(out, "conversation.item.deleted", json!({ "item_id": id }));
                Vec::new()
            }
            "response.create" if self.active => {
                let message = "Conversation already has an active response in progress.";
                self.refuse(out, &event, "conversation_already_has_active_response", None, message);
                Vec::new()
            }
            "response.create" => vec![Heard::Answer],
            "response.cancel" if !self.active => {
                let message = "Cancellation failed: no active response found";
                self.refuse(out, &event, "response_cancel_not_active", None, message);
                Vec::new()
            }
            "response.cancel" => vec![Heard::Stop],
            other => {
                let message = format!("Invalid value: '{other}'.");
                self.refuse(out, &event, "invalid_value", Some("type"), &message);
                Vec::new()
            }
        };
        begin.into_iter().chain(heard).collect()
    }

    fn say(&mut self, says: &Says, out: &mut Outbox) {
        match says {
            Says::SpeechStarted { at, .. } => {
                self.user_item = self.items.next_id();
                let fields = json!({ "audio_start_ms": at.as_millis() as u64, "item_id": self.user_item });
                self.send(out, "input_audio_buffer.speech_started", fields);
            }
            Says::SpeechStopped { at } => self.end_speech(at.as_millis() as u64, out),
            Says::Understood { text } if !self.session["audio"]["input"]["transcription"].is_null() => {
                self.items.set_transcript(&self.user_item, text);
                let place = json!({ "item_id": self.user_item, "content_index": 0 });
                let mut delta = place.clone();
                delta["delta"] = text.as_str().into();
                self.send(out, "conversation.item.input_audio_transcription.delta", delta);
                let mut done = place;
                done["transcript"] = text.as_str().into();
                done["usage"] = json!({ "type": "duration", "seconds": 2 });
                self.send(out, "conversation.item.input_audio_transcription.completed", done);
            }
            Says::TurnStarted { turn } => self.start_turn(*turn, out),
            Says::Text { turn, text } => {
                let mut fields = self.place(*turn);
                fields["delta"] = text.as_str().into();
                let kind = if self.text_only() {
                    "response.output_text.delta"
                } else {
                    "response.output_audio_transcript.delta"
                };
                self.send(out, kind, fields);
            }
            Says::Audio { turn, payload } if !self.text_only() => {
                let mut fields = self.place(*turn);
                fields["delta"] = BASE64_STANDARD.encode(payload).into();
                if let Some(spoken) = self.spoken.iter_mut().find(|spoken| spoken.turn == *turn) {
                    spoken.bytes += payload.len() as u64;
                }
                let event = self.event("response.output_audio.delta", fields);
                out.audio(Wire::Text(event.to_string()));
            }
            Says::TurnEnded { turn, text, cut, .. } => self.end_turn(*turn, text, *cut, out),
            Says::ToolCall { call_id, name, arguments, turn } => self.call_tool(call_id, name, arguments, *turn, out),
            Says::Error { message } => {
                let error = json!({ "type": "server_error", "code": null, "message": message, "param": null, "event_id": null });
                self.send(out, "error", json!({ "error": error }));
            }
            Says::Expired => {
                let message = "Your session hit the maximum duration of 60 minutes.";
                let error = json!({ "type": "invalid_request_error", "code": "session_expired", "message": message, "param": null, "event_id": null });
                self.send(out, "error", json!({ "error": error }));
            }
            Says::Understood { .. }
            | Says::Audio { .. }
            | Says::ToolCancelled { .. }
            | Says::GoAway { .. }
            | Says::Stall(_)
            | Says::Close(_) => {}
        }
    }
}

/// As [`merge`], but `null` clears a field.
fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
