//! What a client's events mean.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Asked, Openai, UPDATES, WAITING, effective};
use crate::agent::audio_json;
use crate::dialect::Heard;
use crate::message::{
    AudioIn, ContextItem, FromClient, History, Input, InputAction, Interrupt, Playout, Role, Setup, TextMessage,
    ToolResult, Update,
};
use crate::time::Micros;

/// The longest run of audio that the session is given at once.
const RUN: Duration = Duration::from_millis(100);
/// Longest text of a message, as for every client.
const MAX_TEXT: usize = 64 << 10;

/// An event with audio, borrowed.
#[derive(serde::Deserialize)]
struct Append<'a> {
    #[serde(rename = "type", borrow)]
    kind: audio_json::Text<'a>,
    #[serde(borrow)]
    audio: audio_json::Text<'a>,
}

/// What `response.create` may ask for in place of the session's own, and this relay cannot pass on.
const RESPONSE_FIELDS: [&str; 6] = ["conversation", "input", "instructions", "prompt", "tools", "tool_choice"];

impl Openai {
    fn hear(&mut self, message: FromClient) {
        self.heard.push_back(Heard::Message(message));
    }

    pub(super) fn handle_text(&mut self, text: &str, now: Micros) {
        if let Ok(Append { kind, audio }) = serde_json::from_str(text)
            && kind.0 == "input_audio_buffer.append"
        {
            return self.handle_append(&audio.0, now);
        }
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return self.refuse(&Value::Null, "invalid_json", None, "a message is one event in JSON");
        };
        match event["type"].as_str().unwrap_or_default() {
            "session.update" => self.handle_update(&event),
            "input_audio_buffer.append" => {
                self.refuse(&event, "invalid_value", Some("audio"), "`audio` must be base64 text");
            }
            "input_audio_buffer.commit" => self.handle_commit(&event),
            "input_audio_buffer.clear" => self.handle_clear(),
            "conversation.item.create" => self.handle_item(&event),
            "conversation.item.retrieve" => self.handle_retrieve(&event),
            "conversation.item.delete" => {
                let message = "what was said cannot be taken back from the agent";
                self.refuse(&event, "item_delete_unsupported", Some("type"), message);
            }
            "conversation.item.truncate" => self.handle_truncate(&event),
            "response.create" => self.handle_respond(&event),
            "response.cancel" => self.handle_cancel(&event),
            "output_audio_buffer.clear" => self.handle_clear_output(),
            "" => self.refuse(&event, "missing_required_parameter", Some("type"), "an event has a `type`"),
            other => {
                let message = format!("events of type `{other}` are not served here");
                self.refuse(&event, "invalid_value", Some("type"), &message);
            }
        }
    }

    /// Starts the session with the first event that needs one.
    fn begin(&mut self, setup: Option<Setup>, asked: Asked) {
        let start = self.start(setup);
        self.heard.push_back(Heard::Start(start));
        self.ask(asked);
    }

    fn begin_if_new(&mut self) {
        if !self.started {
            self.begin(None, Asked::Nothing);
        }
    }

    fn hear_input(&mut self, action: InputAction) {
        self.begin_if_new();
        if self.is_manual() {
            self.hear(FromClient::Input(Input { action }));
        }
    }

    fn handle_append(&mut self, audio: &str, now: Micros) {
        if self.beside {
            let message = "in a call over WebRTC the audio is on the track";
            return self.refuse(&Value::Null, "invalid_value", Some("type"), message);
        }
        self.begin_if_new();
        let Some(payload) = audio_json::decode(audio) else {
            return self.refuse(&Value::Null, "invalid_value", Some("audio"), "`audio` must be base64 text");
        };
        let format = self.audio.uplink;
        let mut payload: Bytes = self.carry.align(format.bytes_per_sample().unwrap_or(1), payload);
        if self.is_manual() && !self.uncommitted && !payload.is_empty() {
            self.hear(FromClient::Input(Input { action: InputAction::Start }));
        }
        self.uncommitted = true;
        let run = format.bytes_in(RUN).unwrap_or(usize::MAX).max(1);
        while !payload.is_empty() {
            let payload = payload.split_to(run.min(payload.len()));
            self.hear(FromClient::Audio(AudioIn { arrival: now, rtp: None, payload }));
        }
    }

    fn handle_update(&mut self, event: &Value) {
        let asked = &event["session"];
        if !asked.is_object() {
            return self.refuse(event, "missing_required_parameter", Some("session"), "`session` is missing");
        }
        let audio = match self.carried().map_or(Ok(self.audio), |now| effective::formats(asked, now)) {
            Ok(audio) => audio,
            Err(field) => {
                let message = "possible are audio/pcm at 24000, audio/pcmu and audio/pcma";
                return self.refuse(event, "invalid_value", Some(field), message);
            }
        };
        if self.started && audio != self.audio {
            let message = "the audio formats are settled by the first session.update";
            return self.refuse(event, "invalid_value", Some("session.audio"), message);
        }
        if self.asked.len() >= UPDATES {
            return self.refuse(event, "rate_limit_exceeded", None, "too many updates at once");
        }
        let setup = effective::setup(asked);
        if !self.started {
            self.audio = audio;
            return self.begin(Some(setup), Asked::Updated);
        }
        if setup != Setup::default() {
            self.hear(FromClient::Update(Update { setup }));
        }
        self.ask(Asked::Updated);
    }

    fn handle_clear(&mut self) {
        self.uncommitted = false;
        self.hear_input(InputAction::Clear);
        if self.beside {
            // The track never stops: what comes from here on is spoken for the next commit.
            self.hear_input(InputAction::Start);
        }
        self.send("input_audio_buffer.cleared", json!({}));
    }

    fn handle_commit(&mut self, event: &Value) {
        let manual = self.is_manual();
        if !manual || !(self.uncommitted || self.beside) {
            let message = if manual {
                "there is no audio to commit"
            } else {
                "turns are detected here; there is nothing to commit"
            };
            return self.refuse(event, "input_audio_buffer_commit_empty", None, message);
        }
        self.uncommitted = false;
        self.hear_input(InputAction::Commit);
    }

    fn handle_item(&mut self, event: &Value) {
        let mut item = event["item"].clone();
        let kind = item["type"].as_str().unwrap_or("message").to_owned();
        let text: String =
            item["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str()).collect();
        let role = match item["role"].as_str() {
            Some("user") => Some(Role::User),
            Some("assistant") => Some(Role::Agent),
            _ => None,
        };
        let call = (item["call_id"].as_str().map(str::to_owned), item["output"].as_str().map(str::to_owned));
        match (kind.as_str(), role, call) {
            ("function_call_output", _, (Some(call_id), Some(output))) => {
                self.begin_if_new();
                self.hear(FromClient::ToolResult(ToolResult { call_id: call_id.into(), output, is_error: false }));
            }
            ("message", Some(role), _) if !text.is_empty() && text.len() <= MAX_TEXT => {
                self.begin_if_new();
                if self.waiting.len() == WAITING {
                    self.hand_over();
                }
                self.waiting.push_back(ContextItem { role, text });
            }
            _ => {
                let message = "served are text messages of user and assistant, and function_call_output";
                return self.refuse(event, "invalid_value", Some("item"), message);
            }
        }
        if item["id"].is_null() {
            item["id"] = self.items.next_id().into();
        }
        (item["object"], item["status"]) = ("realtime.item".into(), "completed".into());
        self.add_item(&item, true);
    }

    /// What was written and is not to be answered goes to the agent as history.
    pub(super) fn hand_over(&mut self) {
        if !self.waiting.is_empty() {
            let items = self.waiting.drain(..).collect();
            self.hear(FromClient::History(History { items }));
        }
    }

    fn handle_retrieve(&mut self, event: &Value) {
        let id = event["item_id"].as_str().unwrap_or_default();
        match self.items.find(id).cloned() {
            Some(item) => self.send("conversation.item.retrieved", json!({ "item": item })),
            None => {
                let message = format!("there is no item `{id}`, or it is too old");
                self.refuse(event, "item_retrieve_invalid_item_id", Some("item_id"), &message);
            }
        }
    }

    fn handle_respond(&mut self, event: &Value) {
        let asked = &event["response"];
        let is_own = |field: &&&str| !asked[**field].is_null() && asked[**field] != "auto";
        if let Some(field) = RESPONSE_FIELDS.iter().find(is_own) {
            let message = format!("an answer follows the session; `{field}` cannot be set for one answer alone");
            return self.refuse(event, "invalid_value", Some(&format!("response.{field}")), &message);
        }
        self.begin_if_new();
        let last = self.waiting.pop_back_if(|item| item.role == Role::User);
        self.hand_over();
        match last {
            Some(item) => {
                let id = self.items.next_id();
                self.typed = Some(item.text.clone());
                self.hear(FromClient::Message(TextMessage { id: id.into(), text: item.text, role: None }));
            }
            // After a tool's result and after a commit the agent goes on by itself.
            None if self.awaits_agent => {}
            None => {
                let message = "the agent answers by itself; there is nothing new to answer";
                self.refuse(event, "nothing_to_answer", None, message);
            }
        }
    }

    fn handle_cancel(&mut self, event: &Value) {
        if self.open.is_none() {
            let message = "Cancellation failed: no active response found";
            return self.refuse(event, "response_cancel_not_active", None, message);
        }
        self.interrupt();
    }

    fn interrupt(&mut self) {
        self.cancelled = true;
        self.hear(FromClient::Interrupt(Interrupt::default()));
    }

    /// The client wants silence now.
    fn handle_clear_output(&mut self) {
        if self.open.is_some() {
            self.interrupt();
        } else if !self.cleared {
            self.say_cleared();
        }
    }

    fn handle_truncate(&mut self, event: &Value) {
        let (id, ms) = (event["item_id"].as_str().unwrap_or_default(), event["audio_end_ms"].as_u64());
        let format = self.audio.downlink;
        let Some(spoken) = self.turns.iter().find(|spoken| spoken.item == id) else {
            let message = format!("there is no item `{id}` with audio");
            return self.refuse(event, "item_truncate_invalid_item_id", Some("item_id"), &message);
        };
        let ticks = ms.map(|ms| format.time_to_ticks(Duration::from_millis(ms)));
        let Some(ticks) = ticks.filter(|ticks| *ticks <= spoken.sent + format.time_to_ticks(Duration::from_millis(1)))
        else {
            let sent = format.ticks_to_time(spoken.sent).as_millis();
            let message = format!("Audio content of {sent}ms is already shorter than {}ms", ms.unwrap_or_default());
            return self.refuse(event, "invalid_value", Some("audio_end_ms"), &message);
        };
        let pos = spoken.pos.wrapping_add(ticks.min(spoken.sent) as u32);
        // The only time that this client tells its position; without a flush it is not asked for.
        if let Some(flush) = self.flush.take() {
            self.hear(FromClient::Playout(Playout { pos, buffered_ms: 0, flush: Some(flush) }));
        }
        self.send("conversation.item.truncated", json!({ "item_id": id, "content_index": 0, "audio_end_ms": ms }));
    }
}
