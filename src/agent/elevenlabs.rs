//! ElevenLabs Conversational AI over WebSocket (`/v1/convai/conversation`); this side is its client.
//!
//! Public agents are reached by their id; with a key the URL of each conversation is fetched first (a signed URL).
//! Both formats are the ones that the service announces. It tells neither when an answer is complete nor when the
//! caller speaks, and has no message for what the caller has heard.

mod opening;
#[cfg(test)]
mod tests;
mod turns;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::agent::audio_json;
use crate::agent::carry::Carry;
use crate::agent::closing::closed;
use crate::agent::native::merge;
use crate::agent::outbox::{Outbox, reported};
use crate::agent::recap::recap;
use crate::agent::setup::SetupRow;
use crate::agent::{Agent, AgentOutput, Before, Capabilities, Endpoint, UrlFetch, Wire};
use crate::config::vendor::VendorAgent;
use crate::dialect::native::codec;
use crate::ids::ItemId;
use crate::media::format::Format;
use crate::message::{
    AgentAudio, AgentError, AgentStart, AgentTranscript, Alert, App, Correction, Delta, FailureClass, FromAgent,
    Greeting, Ready, Role, ToAgent, ToolCall, Words,
};
use crate::time::Micros;

use turns::{Placed, Turns};
use wire::{ErrorEvent, Said};

/// Without audio for so long after a piece of it, beyond the piece's own length, an answer counts as complete, where
/// its word timings have not told before.
const TURN_GAP: Duration = Duration::from_secs(2);
/// After the tool that hangs up the service closes the connection; if not, this side does after this time.
const HANGUP_WAIT: Duration = Duration::from_secs(3);
/// `error_type` of the end of the longest time that the agent may talk.
const TOO_LONG: &str = "max_duration_exceeded";

/// What each field of a set-up becomes in `conversation_initiation_client_data`, below `conversation_config_override`;
/// the agent at the vendor must allow each override.
pub const SETUP: &[SetupRow] = &[
    ("instructions", Some("agent.prompt.prompt")),
    ("voice", Some("tts.voice_id")),
    ("language", Some("agent.language")),
    ("model", Some("agent.prompt.llm")),
    ("greeting", Some("agent.first_message")),
    ("transcribe", Some("always")),
    ("turns", Some("always `server`")),
    ("tools", None),
];

/// One conversation with an ElevenLabs agent.
#[derive(Debug)]
pub struct ElevenLabs {
    settings: VendorAgent,
    vendor: Value,
    /// What was sent first.
    opening: Value,
    /// What was said before, sent once the conversation has begun.
    context: Option<String>,
    /// What it is asked for when it is ready.
    prompt: Option<String>,
    /// The format of the agent's voice, once announced.
    downlink: Option<Format>,
    carry: Carry,
    turns: Turns,
    /// When the present answer ends unless more audio comes.
    turn_ends: Option<Micros>,
    hangs_up: Option<Micros>,
    /// The last error that was told: closing codes say less.
    error: Option<AgentError>,
    /// The last message without audio, if no other came since.
    last: String,
    ignored: u64,
    out: Outbox,
}

impl ElevenLabs {
    /// An agent that is not connected yet. `vendor` is merged into the first message.
    pub fn new(settings: &VendorAgent, vendor: Value) -> ElevenLabs {
        ElevenLabs {
            settings: settings.clone(),
            vendor,
            opening: Value::Null,
            context: None,
            prompt: None,
            downlink: None,
            carry: Carry::default(),
            turns: Turns::default(),
            turn_ends: None,
            hangs_up: None,
            error: None,
            last: String::new(),
            ignored: 0,
            out: Outbox::default(),
        }
    }

    /// Messages that were of no use or unknown, so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn start(&mut self, start: &AgentStart) {
        let (mut message, missing) = opening::opening(start);
        if self.vendor.as_object().is_some_and(|fields| !fields.is_empty()) {
            merge(&mut message, &self.vendor);
        }
        self.context = recap(&start.context);
        self.prompt = match &start.setup.greeting {
            Some(Greeting::Prompt(prompt)) if start.greet => Some(prompt.clone()),
            _ => None,
        };
        self.out.say(&message);
        self.opening = message;
        self.out.refuse(missing);
    }

    fn handle_said(&mut self, said: Said, now: Micros) {
        match said {
            Said::Audio { event, payload, words } => self.handle_audio(event, payload, words, now),
            Said::Metadata { uplink, downlink } => self.handle_metadata(&uplink, &downlink),
            Said::UserTranscript { text, is_final } => self.handle_user(text, is_final),
            Said::Response { event, text } => self.handle_response(event, text),
            Said::Part { event, text } if !text.is_empty() => {
                self.out.tell(FromAgent::Delta(Delta { message_id: format!("answer-{event}").into(), text }));
            }
            Said::Correction { event, text } => {
                if let Some(item) = self.turns.corrected(event) {
                    self.out.tell(FromAgent::Corrected(Correction { item, text: text.trim_end().to_owned() }));
                }
            }
            Said::Interruption { event } => {
                self.turns.interrupt(event);
                self.turn_ends = None;
                self.carry.clear();
                self.out.tell(FromAgent::Interrupted);
            }
            Said::Ping { event } => self.out.say(&json!({ "type": "pong", "event_id": event })),
            Said::ToolCall { name, call, arguments } => {
                self.out.tell(FromAgent::ToolCall(ToolCall { call_id: call.into(), name, arguments }));
            }
            Said::ToolResponse { name } if name == "end_call" => self.hangs_up = Some(now + HANGUP_WAIT),
            Said::Typing(on) => self.out.tell(FromAgent::Typing(on)),
            Said::Error(error) => self.handle_error(error),
            Said::Guardrail(data) => {
                let name = "guardrail_triggered".to_owned();
                self.out.tell(FromAgent::Alert(Alert { name, severity: "warning".to_owned(), data }));
            }
            Said::Part { .. } | Said::ToolResponse { .. } | Said::Nothing => self.ignored += 1,
        }
    }

    fn handle_metadata(&mut self, uplink: &str, downlink: &str) {
        if self.downlink.is_some() {
            self.ignored += 1;
            return;
        }
        let named = |key: &str, name: &str| wire::format(name).map_err(|error| format!("`{key}`: {error}"));
        let formats = named("user_input_audio_format", uplink)
            .and_then(|up| Ok((up, named("agent_output_audio_format", downlink)?)));
        match formats {
            Ok((uplink, downlink)) => {
                self.downlink = Some(downlink);
                self.out.tell(FromAgent::Ready(Ready { uplink, downlink, delay: None }));
                if let Some(text) = self.context.take() {
                    self.out.say(&json!({ "type": "contextual_update", "text": text }));
                }
                if let Some(text) = self.prompt.take() {
                    self.out.say(&json!({ "type": "user_message", "text": text }));
                }
            }
            Err(message) => {
                self.end(Some(reported(FailureClass::Protocol, "bad_format", &message)));
            }
        }
    }

    fn handle_audio(&mut self, event: u64, payload: Bytes, words: Vec<crate::message::Word>, now: Micros) {
        let Some((format, sample)) = self.downlink.and_then(|format| Some((format, format.bytes_per_sample()?))) else {
            self.ignored += 1;
            return;
        };
        let rate = u64::from(format.rate) * sample as u64;
        let length = Duration::from_micros(payload.len() as u64 * 1_000_000 / rate);
        let placed = self.turns.audio(event);
        let item = match placed {
            Placed::Void => return self.out.tell(FromAgent::Discarded(length)),
            Placed::Continued(item) => item,
            Placed::Begun(item) => {
                self.carry.clear();
                self.out.tell(FromAgent::TurnStarted(Some(item.clone())));
                item
            }
        };
        let bytes = payload.len();
        let payload = self.carry.align(sample, payload);
        self.turn_ends = Some(now + length + TURN_GAP);
        if !payload.is_empty() {
            self.out.tell(FromAgent::Audio(AgentAudio { arrival: now, item: Some(item.clone()), rtp: None, payload }));
        }
        let words = self.turns.keep(bytes, rate, words);
        if !words.is_empty() {
            self.out.tell(FromAgent::Words(Words { item: Some(item), words }));
        }
        if self.turns.is_complete() {
            self.end_turn();
        }
    }

    fn handle_user(&mut self, text: String, is_final: bool) {
        self.out.tell(FromAgent::Transcript(AgentTranscript {
            item: None,
            role: Role::User,
            text,
            append: false,
            is_final,
        }));
        if is_final {
            self.end_words();
            self.out.tell(FromAgent::Thinking);
        }
    }

    fn handle_response(&mut self, event: u64, text: String) {
        let (item, new) = self.turns.text(event, &text);
        if new {
            self.out.tell(FromAgent::TurnStarted(Some(item.clone())));
        }
        self.tell_text(item, text);
        if self.turns.is_complete() {
            self.end_turn();
        }
    }

    fn tell_text(&mut self, item: ItemId, text: String) {
        let text = text.trim_end().to_owned();
        let said = AgentTranscript { item: Some(item), role: Role::Agent, text, append: false, is_final: true };
        self.out.tell(FromAgent::Transcript(said));
    }

    fn end_words(&mut self) {
        if let Some((item, word)) = self.turns.over() {
            self.out.tell(FromAgent::Words(Words { item: Some(item), words: vec![word] }));
        }
    }

    fn end_turn(&mut self) {
        if self.turn_ends.take().is_some() {
            self.end_words();
            if !self.turns.waits() {
                self.out.tell(FromAgent::TurnEnded);
            }
        }
    }

    fn handle_error(&mut self, event: ErrorEvent) {
        let ErrorEvent { code, error_type, message, reason } = event;
        let name = error_type.filter(|name| !name.is_empty()).unwrap_or_else(|| code.to_string());
        let words = message.or(reason).unwrap_or_default();
        if name == "override_error" {
            self.out.refuse(opening::refused(&words, &self.opening));
        }
        let class = class_of(code, &format!("{name} {words}"));
        let error = reported(class, name.as_str(), &words);
        if name == TOO_LONG {
            return self.end(Some(AgentError { class: FailureClass::Expired, ..error }));
        }
        self.error = Some(error.clone());
        self.out.tell(FromAgent::Error(error));
    }

    /// The service closed the connection: 1000 is its goodbye once a conversation has begun.
    fn handle_close(&mut self, code: u16, reason: &str) {
        if code == 1000 && self.downlink.is_some() {
            return self.end(None);
        }
        let failure = self.error.take().unwrap_or_else(|| closed(class_of(code, reason), code, reason));
        self.end(Some(failure));
    }

    fn end(&mut self, failure: Option<AgentError>) {
        if self.out.has_ended() {
            return;
        }
        // An answer that a failure breaks off is not complete.
        match failure {
            None => self.end_turn(),
            Some(_) => self.end_words(),
        }
        (self.turn_ends, self.hangs_up) = (None, None);
        self.out.end(failure);
    }

    /// Data of the application: what the wire has a message for.
    fn pass(&mut self, app: App) {
        let App { name, data } = app;
        let text = data.as_str().or_else(|| data["text"].as_str());
        match (name.as_str(), text) {
            ("contextual_update", Some(text)) => self.out.say(&json!({ "type": name, "text": text })),
            ("user_activity", _) => self.out.say(&json!({ "type": name })),
            ("feedback", _) if data.is_object() => {
                let mut message = json!({ "type": name });
                merge(&mut message, &data);
                self.out.say(&message);
            }
            _ => {
                let name = codec::shortened(&name, 64);
                let message = format!(
                    "this agent takes `app` messages named contextual_update, user_activity and feedback, not `{name}`"
                );
                self.out.tell_error(FailureClass::BadRequest, "unsupported", &message);
            }
        }
    }
}

/// The class of a failure: by its words where they tell, else by the close code (1002, 1008 and 1011 are in use).
fn class_of(code: u16, words: &str) -> FailureClass {
    let words = words.to_ascii_lowercase();
    let says = |any: &[&str]| any.iter().any(|word| words.contains(word));
    if says(&["quota", "credit", "rate_limit", "rate limit", "concurren", "too many", "exceeds your"]) {
        return FailureClass::Limit;
    }
    if says(&["max_duration", "max duration", "duration exceeded", "inactiv", "expired"]) {
        return FailureClass::Expired;
    }
    if says(&["unauthori", "authenticat", "authoriz", "api key", "api_key", "signature", "forbidden", "not allowed to"])
    {
        return FailureClass::Auth;
    }
    match code {
        1000 | 1002 => FailureClass::Protocol,
        1003 | 1007..=1010 | 3000 => FailureClass::BadRequest,
        1011 => FailureClass::Internal,
        1013 => FailureClass::Limit,
        _ => FailureClass::Lost,
    }
}

impl Agent for ElevenLabs {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            continuous: true,
            // It interrupts by itself, and does not tell when the caller begins and stops: the relay finds that.
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
        let settings = &self.settings;
        let agent = settings.agent_id.as_deref().unwrap_or_default();
        let url = settings.url_with(&[("agent_id", agent)]);
        let before = settings.key_header().and_then(|key| {
            let mut url = url.clone();
            let scheme = if url.scheme() == "wss" { "https" } else { "http" };
            url.set_scheme(scheme).ok()?;
            let path = format!("{}/get-signed-url", url.path().trim_end_matches('/'));
            url.set_path(&path);
            Some(Before::Url(UrlFetch { url, headers: vec![key], field: "signed_url" }))
        });
        let plain = Endpoint::new(url, settings.connect_timeout);
        Some(Endpoint { headers: settings.headers.clone(), before, ..plain })
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, _now: Micros) {
        match message {
            ToAgent::Audio(audio) => {
                let text = audio_json::encode(r#"{"user_audio_chunk":""#, &audio.payload, r#""}"#);
                self.out.send_audio(Wire::Text(text), audio.ready);
            }
            ToAgent::Start(start) => self.start(&start),
            ToAgent::Message(message) => self.out.say(&json!({ "type": "user_message", "text": message.text })),
            ToAgent::Prompt(text) => self.out.say(&json!({ "type": "user_message", "text": text })),
            ToAgent::Typing(typing) if typing.on => self.out.say(&json!({ "type": "user_activity" })),
            ToAgent::ToolResult(result) => self.out.say(&json!({
                "type": "client_tool_result",
                "tool_call_id": result.call_id,
                "result": result.output,
                "is_error": result.is_error,
            })),
            ToAgent::App(app) => self.pass(app),
            ToAgent::History(items) => {
                if let Some(text) = recap(&items) {
                    self.out.say(&json!({ "type": "contextual_update", "text": text }));
                }
            }
            ToAgent::Update(setup) => self.out.refuse(setup.set_fields()),
            // Nothing stops an answer: what comes of it is dropped by its item.
            ToAgent::Cancel(_)
            | ToAgent::Typing(_)
            | ToAgent::Input(_)
            | ToAgent::Dtmf(_)
            | ToAgent::Truncate(_)
            | ToAgent::Playout(_)
            | ToAgent::End => {}
        }
    }

    fn handle_wire(&mut self, wire: Wire, now: Micros) {
        match wire {
            Wire::Close(code, reason) => self.handle_close(code, &reason),
            _ if self.out.has_ended() => {}
            Wire::Binary(_) => self.ignored += 1,
            // The same message twice in a row is one that was sent twice.
            Wire::Text(text) if text == self.last => self.ignored += 1,
            Wire::Text(text) => match wire::read(&text) {
                Ok(said) => {
                    self.last = if matches!(said, Said::Audio { .. }) { String::new() } else { text };
                    self.handle_said(said, now);
                }
                Err(error) => self.out.tell_error(FailureClass::Protocol, "bad_message", &error),
            },
        }
    }

    fn handle_deadline(&mut self, now: Micros) {
        if self.turn_ends.is_some_and(|at| at <= now) {
            self.end_turn();
        }
        if self.hangs_up.is_some_and(|at| at <= now) {
            self.end(None);
        }
    }

    fn poll(&mut self, _now: Micros) -> AgentOutput {
        self.out.poll([self.turn_ends, self.hangs_up].into_iter().flatten().min())
    }
}
