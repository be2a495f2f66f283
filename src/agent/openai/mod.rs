//! OpenAI Realtime (GA) over WebSocket, and whatever speaks the same wire by another URL: this side is its client.
//!
//! Facts: the client and server events of the Realtime API reference. The server detects the caller's speech and stops
//! its own answer (`interrupt_response`); what the caller heard of it is told by `conversation.item.truncate`.

mod calls;
pub(crate) mod failures;
pub mod items;
pub mod opening;
#[cfg(test)]
mod tests;
pub mod usage;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::audio_json::{self, Fields};
use crate::agent::closing::failure_of_close;
use crate::agent::outbox::Outbox;
use crate::agent::{Agent, AgentOutput, Capabilities, Endpoint, Wire};
use crate::config::vendor::VendorAgent;
use crate::ids::{CallId, ItemId};
use crate::media::format::{Codec, Format};
use crate::message::{
    AgentAudio, AgentStart, AgentTranscript, Delta, FailureClass, FromAgent, Greeting, InputAction, Ready, Role,
    SpeechEvent, TextMessage, ToAgent, Truncate, TurnDetection,
};
use crate::time::Micros;
use failures::{class_of, code_of};
use items::Items;

/// What stands before and after the audio of an uplink frame.
const APPEND: (&str, &str) = (r#"{"type":"input_audio_buffer.append","audio":""#, "\"}");
/// Marks events of ours whose errors mean nothing to anybody: they crossed with what made them needless.
const HARMLESS: &str = "antiphon_x";
/// Marks the first `session.update`.
const OPENING: &str = "antiphon_start";
/// How long the vendor keeps a session at most.
const SESSION_CAP: Duration = Duration::from_secs(60 * 60);

/// The client's side of one Realtime session.
#[derive(Debug)]
pub struct OpenaiAgent {
    settings: VendorAgent,
    vendor: Value,
    model: Option<String>,
    uplink: Format,
    downlink: Format,
    ready: bool,
    start: Option<AgentStart>,
    items: Items,
    /// The item that is being spoken.
    turn: Option<ItemId>,
    /// Whether audio is dropped until the next response: the present one was stopped.
    silenced: bool,
    /// Whether a response is being made, or was asked for.
    busy: bool,
    /// A `response.create` that waits for the present response to end.
    wanted: Option<Value>,
    interrupts: bool,
    manual: bool,
    /// Calls that were told, in order, and those whose results are missing.
    told: VecDeque<CallId>,
    missing: BTreeSet<CallId>,
    answer_after_results: bool,
    events: u64,
    last_event: Option<String>,
    ignored: u64,
    out: Outbox,
}

impl OpenaiAgent {
    /// An agent that is not connected yet. `vendor` is merged into the first `session.update`, `model` is the set-up's.
    pub fn new(settings: &VendorAgent, vendor: Value, model: Option<String>) -> OpenaiAgent {
        let pcm = Format::pcm16(24_000);
        OpenaiAgent {
            uplink: settings.uplink.unwrap_or(pcm),
            downlink: settings.downlink.unwrap_or(pcm),
            settings: settings.clone(),
            vendor,
            model,
            ready: false,
            start: None,
            items: Items::default(),
            turn: None,
            silenced: false,
            busy: false,
            wanted: None,
            interrupts: true,
            manual: false,
            told: VecDeque::new(),
            missing: BTreeSet::new(),
            answer_after_results: false,
            events: 0,
            last_event: None,
            ignored: 0,
            out: Outbox::default(),
        }
    }

    /// Events that are not known, and errors that mean nothing, so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// An id for an event whose error means nothing.
    fn harmless(&mut self) -> String {
        self.events += 1;
        format!("{HARMLESS}_{}", self.events)
    }

    // ------------------------------------------------------------------------------------------- from the session

    fn handle_start(&mut self, start: AgentStart) {
        let client = start.client.map(|client| (client.uplink, client.downlink));
        let is_g711 = |format: &Format| matches!(format.codec, Codec::Pcmu | Codec::Pcma) && format.channels == 1;
        if let Some((uplink, downlink)) = client {
            // Where the client speaks G.711 and the operator has not decided, it passes through untouched.
            self.uplink = self.settings.uplink.or(Some(uplink).filter(is_g711)).unwrap_or(self.uplink);
            self.downlink = self.settings.downlink.or(Some(downlink).filter(is_g711)).unwrap_or(self.downlink);
        }
        let setup = &start.setup;
        // Whoever says when the caller has finished, this vendor hears it by `commit`.
        self.manual =
            setup.turns.is_some_and(|turns| matches!(turns.detect, TurnDetection::Manual | TurnDetection::Relay));
        let tools = self.settings.tools(setup);
        let session = opening::session(self.uplink, self.downlink, setup, &tools, &self.vendor);
        self.out.say(&json!({"type": "session.update", "event_id": OPENING, "session": session}));
        let mut not_applied = Vec::new();
        if setup.model.is_some() && setup.model != self.model {
            not_applied.push("model".to_owned());
        }
        if tools.len() < setup.tools.as_ref().map_or(0, Vec::len) {
            not_applied.push("tools".to_owned());
        }
        if start.greet && matches!(setup.greeting, Some(Greeting::Clip(_))) {
            not_applied.push("greeting".to_owned());
        }
        self.out.not_apply(not_applied);
        self.start = Some(start);
    }

    /// What was said before, and the greeting.
    fn begin(&mut self) {
        let Some(start) = self.start.take() else { return };
        for item in &start.context {
            self.out.say(&opening::context_item(item));
        }
        let greeting = start.setup.greeting.as_ref().filter(|_| start.greet);
        match greeting {
            Some(Greeting::Say(text)) => {
                let order = format!("Say exactly the following, word for word, and nothing else: {text}");
                self.respond(json!({"instructions": order}));
            }
            Some(Greeting::Prompt(prompt)) => self.respond(json!({"instructions": prompt})),
            Some(Greeting::Agent) => self.respond(Value::Null),
            Some(Greeting::Clip(_) | Greeting::None) | None => {}
        }
    }

    /// Asks for a response now, or once the present one is over: there is one at a time.
    fn respond(&mut self, response: Value) {
        if self.busy {
            self.wanted = Some(response);
            return;
        }
        self.busy = true;
        self.events += 1;
        let mut event = json!({"type": "response.create", "event_id": format!("antiphon_response_{}", self.events)});
        if !response.is_null() {
            event["response"] = response;
        }
        self.out.say(&event);
    }

    fn handle_truncate(&mut self, truncate: &Truncate) {
        let Some(id) = &truncate.item else { return };
        let Some((content_index, ms)) = self.items.truncation(id, truncate.heard, &self.downlink) else { return };
        self.items.cut(id);
        let event_id = self.harmless();
        self.out.say(&json!({
            "type": "conversation.item.truncate", "event_id": event_id, "item_id": id.as_str(),
            "content_index": content_index, "audio_end_ms": ms,
        }));
    }

    /// The session has cut the present answer off.
    fn handle_cancel(&mut self) {
        self.end_turn(false);
        if self.busy {
            self.silenced = true;
            let event_id = self.harmless();
            self.out.say(&json!({"type": "response.cancel", "event_id": event_id}));
        }
    }

    fn handle_message(&mut self, message: &TextMessage) {
        self.out.say(&json!({
            "type": "conversation.item.create",
            "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": message.text}]},
        }));
        self.respond(Value::Null);
    }

    fn handle_input(&mut self, action: InputAction) {
        match action {
            InputAction::Start => {}
            InputAction::Commit => {
                let event_id = self.harmless();
                self.out.say(&json!({"type": "input_audio_buffer.commit", "event_id": event_id}));
                self.respond(Value::Null);
            }
            InputAction::Clear => self.out.say(&json!({"type": "input_audio_buffer.clear"})),
        }
    }

    // --------------------------------------------------------------------------------------------- from the vendor

    fn handle_text(&mut self, text: &str, now: Micros) {
        let fields = Fields::read(text);
        if let Some(Fields { kind, item: Some(item), audio: Some(audio) }) = &fields
            && matches!(&**kind, "response.output_audio.delta" | "response.audio.delta")
        {
            return self.handle_audio(item, audio, now);
        }
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return self.out.tell_error(FailureClass::Protocol, "bad_message", "a message is not JSON");
        };
        let id = event["event_id"].as_str().map(str::to_owned);
        let again = id.is_some() && id == self.last_event;
        self.last_event = id;
        let kind = event["type"].as_str().unwrap_or_default();
        match kind {
            _ if again => self.ignored += 1,
            "session.updated" => self.handle_updated(&event["session"]),
            "input_audio_buffer.speech_started" => self.handle_speech_started(event["item_id"].as_str()),
            "input_audio_buffer.speech_stopped" => self.out.tell(FromAgent::Speech(SpeechEvent::Stopped)),
            "conversation.item.input_audio_transcription.delta" => {
                self.tell_transcript(&event, Role::User, &event["delta"], false);
            }
            "conversation.item.input_audio_transcription.completed" => {
                self.tell_transcript(&event, Role::User, &event["transcript"], true);
                if let Some(usage) = usage::of_transcription(&event["usage"]) {
                    self.out.tell(FromAgent::Usage(usage));
                }
            }
            "conversation.item.input_audio_transcription.failed" => {
                let message =
                    event["error"]["message"].as_str().unwrap_or("the caller's speech could not be transcribed");
                self.out.tell_error(FailureClass::Internal, "transcription_failed", message);
            }
            "response.created" => self.handle_response_created(),
            "response.output_audio_transcript.delta" | "response.audio_transcript.delta" => {
                self.tell_transcript(&event, Role::Agent, &event["delta"], false);
            }
            "response.output_audio_transcript.done" | "response.audio_transcript.done" => {
                self.tell_transcript(&event, Role::Agent, &event["transcript"], true);
            }
            "response.output_text.delta" | "response.text.delta" => {
                if let (Some(item), Some(text)) = (event["item_id"].as_str(), event["delta"].as_str()) {
                    self.out.tell(FromAgent::Delta(Delta { message_id: item.into(), text: text.to_owned() }));
                }
            }
            "response.output_text.done" | "response.text.done" => {
                if let (Some(item), Some(text)) = (event["item_id"].as_str(), event["text"].as_str()) {
                    let (id, role) = (item.into(), Some(Role::Agent));
                    self.out.tell(FromAgent::Message(TextMessage { id, text: text.to_owned(), role }));
                }
            }
            "response.output_item.done" if event["item"]["type"] == "function_call" => self.handle_call(&event["item"]),
            "response.function_call_arguments.done" if event["name"].is_string() => self.handle_call(&event),
            "response.done" => self.handle_response_done(&event["response"]),
            "error" => self.handle_error(&event["error"]),
            _ => self.ignored += 1,
        }
    }

    fn handle_updated(&mut self, session: &Value) {
        let detection = &session["audio"]["input"]["turn_detection"];
        self.interrupts = detection["interrupt_response"].as_bool().unwrap_or(true);
        if self.ready {
            return;
        }
        let told = |direction: &str| opening::format_of(&session["audio"][direction]["format"]);
        self.uplink = told("input").unwrap_or(self.uplink);
        self.downlink = told("output").unwrap_or(self.downlink);
        self.ready = true;
        self.out.tell(FromAgent::Ready(Ready { uplink: self.uplink, downlink: self.downlink, delay: None }));
        self.begin();
    }

    fn handle_speech_started(&mut self, item: Option<&str>) {
        // What stops the voice goes first.
        if self.interrupts {
            self.silenced = self.busy;
            self.end_turn(true);
        }
        self.out.tell(FromAgent::Speech(SpeechEvent::Started));
        if let Some(item) = item {
            self.out.tell(FromAgent::Utterance(item.into()));
        }
    }

    /// The present item is not spoken any more; `told`: the session is told that the agent stopped by itself.
    fn end_turn(&mut self, told: bool) {
        let turn = self.turn.take();
        if told {
            self.out.tell(FromAgent::Interrupted);
        }
        if let Some(item) = turn {
            self.items.cut(&item);
            self.out.tell(FromAgent::TurnEnded);
        }
    }

    fn handle_response_created(&mut self) {
        (self.busy, self.silenced) = (true, false);
        self.out.tell(FromAgent::Thinking);
    }

    fn handle_audio(&mut self, item: &str, audio: &str, now: Micros) {
        if self.silenced || !self.ready {
            return;
        }
        let Some(payload) = audio_json::decode(audio) else {
            return self.out.tell_error(FailureClass::Protocol, "bad_audio", "an audio delta is not base64");
        };
        let Some(payload) = self.items.on_audio(item, 0, payload, &self.downlink) else { return };
        let id = match &self.turn {
            Some(turn) if turn.as_str() == item => turn.clone(),
            other => {
                let went_on = other.is_some();
                let id = ItemId::from(item);
                self.turn = Some(id.clone());
                if went_on {
                    self.out.tell(FromAgent::TurnEnded);
                }
                self.out.tell(FromAgent::TurnStarted(Some(id.clone())));
                id
            }
        };
        self.out.tell(FromAgent::Audio(AgentAudio { arrival: now, item: Some(id), rtp: None, payload }));
    }

    fn tell_transcript(&mut self, event: &Value, role: Role, text: &Value, is_final: bool) {
        let Some(text) = text.as_str() else { return };
        let item = event["item_id"].as_str().map(ItemId::from);
        let (text, append) = (text.to_owned(), !is_final);
        self.out.tell(FromAgent::Transcript(AgentTranscript { item, role, text, append, is_final }));
    }

    fn handle_response_done(&mut self, response: &Value) {
        (self.busy, self.silenced) = (false, false);
        if self.turn.take().is_some() {
            self.out.tell(FromAgent::TurnEnded);
        }
        if let Some(usage) = usage::of_response(&response["usage"]) {
            self.out.tell(FromAgent::Usage(usage));
        }
        let details = &response["status_details"];
        match response["status"].as_str().unwrap_or_default() {
            "failed" => {
                let error = &details["error"];
                let message = error["message"].as_str().unwrap_or("the response failed");
                self.out.tell_error(class_of(error), code_of(error), message);
            }
            "incomplete" => {
                let reason = details["reason"].as_str();
                self.out.tell_error(FailureClass::Internal, reason, "the response is incomplete");
            }
            _ => {}
        }
        if let Some(wanted) = self.wanted.take() {
            self.respond(wanted);
        }
    }
}

impl Agent for OpenaiAgent {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            continuous: true,
            server_vad: true,
            truncation: true,
            playout: false,
            tools: true,
            text: true,
            manual_turns: true,
            context: true,
            endless: false,
            longest: Some(SESSION_CAP),
        }
    }

    fn endpoint(&self) -> Option<Endpoint> {
        let model: Vec<(&str, &str)> = self.model.iter().map(|model| ("model", model.as_str())).collect();
        Some(Endpoint::of_vendor(&self.settings, &model))
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, _now: Micros) {
        match message {
            ToAgent::Audio(audio) => {
                let text = audio_json::encode(APPEND.0, &audio.payload, APPEND.1);
                self.out.send_audio(Wire::Text(text), audio.ready);
            }
            ToAgent::Start(start) => self.handle_start(start),
            ToAgent::Message(message) => self.handle_message(&message),
            ToAgent::Prompt(prompt) => self.respond(json!({"instructions": prompt})),
            ToAgent::Truncate(truncate) => self.handle_truncate(&truncate),
            ToAgent::Cancel(_) => self.handle_cancel(),
            ToAgent::ToolResult(result) => self.handle_tool_result(&result),
            ToAgent::Input(input) => self.handle_input(input.action),
            ToAgent::Update(setup) => {
                let session = opening::session_fields(&setup, &self.settings.tools(&setup));
                self.out.say(&json!({"type": "session.update", "session": session}));
            }
            ToAgent::History(items) => items.iter().for_each(|item| self.out.say(&opening::context_item(item))),
            ToAgent::Typing(_) | ToAgent::Dtmf(_) | ToAgent::App(_) | ToAgent::Playout(_) | ToAgent::End => {}
        }
    }

    fn handle_wire(&mut self, wire: Wire, now: Micros) {
        match wire {
            Wire::Close(code, reason) => self.out.end(failure_of_close(code, &reason, self.ready)),
            _ if self.out.has_ended() => {}
            Wire::Text(text) => self.handle_text(&text, now),
            Wire::Binary(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.handle_text(text, now),
                Err(_) => self.out.tell_error(FailureClass::Protocol, "bad_message", "a message is not text"),
            },
        }
    }

    fn handle_deadline(&mut self, _now: Micros) {}

    fn poll(&mut self, _now: Micros) -> AgentOutput {
        self.out.poll(None)
    }
}
