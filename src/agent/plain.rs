//! A WebSocket agent that speaks raw audio: PCM16 or G.711 bytes in frames of any size, or one Opus packet per binary
//! frame, both ways, with an optional JSON `start` first (`docs/protocol.md`, "Plain agents").

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::agent::carry::Carry;
use crate::agent::closing::closed;
use crate::agent::native::{endpoint, opening};
use crate::agent::outbox::Outbox;
use crate::agent::{Agent, AgentOutput, Capabilities, Endpoint, Wire};
use crate::config::settings::WebsocketAgent;
use crate::dialect::native::codec;
use crate::ids::ItemId;
use crate::media::format::Format;
use crate::message::{
    AgentAudio, AgentError, AgentTranscript, App, AudioFormats, FailureClass, FromAgent, FromClient, Interrupt, Ready,
    Role, ToAgent,
};
use crate::time::Micros;

/// Without audio for so long, the agent's turn counts as complete: nothing else tells.
const TURN_GAP: Duration = Duration::from_millis(500);
/// An interrupted agent that speaks on without a gap is taken to have begun a new turn after this time.
const CANCEL_WAIT: Duration = Duration::from_secs(2);
/// Longest Opus packet (RFC 6716 section 3.4: 48 frames of at most 1275 bytes, with their lengths).
const MAX_OPUS_BYTES: usize = 61_440;

/// One conversation with a plain agent.
#[derive(Debug)]
pub struct PlainAgent {
    settings: WebsocketAgent,
    /// Merged into `start`; `None` sends no text at all.
    start: Option<Value>,
    /// The end of a sample whose beginning came in the frame before.
    carry: Carry,
    /// When the present turn ends unless more audio comes.
    turn_ends: Option<Micros>,
    /// Until when audio still belongs to the turn that was interrupted.
    cancelled_until: Option<Micros>,
    out: Outbox,
}

impl PlainAgent {
    /// An agent that is not connected yet. With `start` a JSON `start` with these fields merged in goes first, and
    /// `interrupt` and `end` are sent as JSON text too; without it the agent gets nothing but audio.
    pub fn new(settings: &WebsocketAgent, start: Option<Value>) -> PlainAgent {
        PlainAgent {
            settings: settings.clone(),
            start,
            carry: Carry::default(),
            turn_ends: None,
            cancelled_until: None,
            out: Outbox::default(),
        }
    }

    fn format(&self) -> Format {
        self.settings.downlink
    }

    fn say(&mut self, message: &FromClient) {
        if self.start.is_some() {
            self.out.say_native(message);
        }
    }

    fn handle_audio(&mut self, payload: Bytes, now: Micros) {
        let payload = match self.format().bytes_per_sample() {
            Some(sample) => self.carry.align(sample, payload),
            None if payload.len() > MAX_OPUS_BYTES => return,
            None => payload,
        };
        if payload.is_empty() {
            return;
        }
        if self.cancelled_until.is_some_and(|until| until <= now) {
            self.end_turn();
        }
        if self.turn_ends.is_none() {
            self.out.tell(FromAgent::TurnStarted(None));
        }
        self.turn_ends = Some(now + TURN_GAP);
        self.out.tell(FromAgent::Audio(AgentAudio { arrival: now, item: None, rtp: None, payload }));
    }

    fn end_turn(&mut self) {
        self.cancelled_until = None;
        if self.turn_ends.take().is_some() {
            self.out.tell(FromAgent::TurnEnded);
        }
    }

    fn handle_text(&mut self, text: String) {
        let Ok(Value::Object(mut fields)) = serde_json::from_str(&text) else {
            return self.out.tell(FromAgent::App(App { name: "text".to_owned(), data: Value::String(text) }));
        };
        match fields.get("type").and_then(Value::as_str).unwrap_or_default() {
            "transcript" => {
                if let Some(transcript) = transcript(&fields) {
                    self.out.tell(FromAgent::Transcript(transcript));
                }
            }
            "interrupt" => {
                self.turn_ends = None;
                self.cancelled_until = None;
                self.out.tell(FromAgent::Interrupted);
            }
            "end" => self.end(None),
            "app" => {
                let name = fields.get("name").and_then(Value::as_str).unwrap_or("app");
                let name = codec::shortened(name, 128);
                let data = fields.remove("data").unwrap_or_default();
                self.out.tell(FromAgent::App(App { name, data }));
            }
            kind => {
                let name = codec::shortened(if kind.is_empty() { "json" } else { kind }, 128);
                self.out.tell(FromAgent::App(App { name, data: Value::Object(fields) }));
            }
        }
    }

    fn end(&mut self, failure: Option<AgentError>) {
        // An answer that a failure breaks off is not complete.
        if failure.is_none() && !self.out.has_ended() {
            self.end_turn();
        }
        self.turn_ends = None;
        self.out.end(failure);
    }
}

/// `{"type": "transcript", "text", "role"?, "final"?, "item"?}`: the agent's own words, complete, unless it says else.
fn transcript(fields: &Map<String, Value>) -> Option<AgentTranscript> {
    let text = fields.get("text").and_then(Value::as_str)?.to_owned();
    let role = match fields.get("role").and_then(Value::as_str) {
        Some("user") => Role::User,
        _ => Role::Agent,
    };
    let is_final = fields.get("final").and_then(Value::as_bool).unwrap_or(true);
    let item = fields.get("item").and_then(Value::as_str).map(|id| ItemId::from(codec::shortened(id, 128)));
    Some(AgentTranscript { item, role, text, append: false, is_final })
}

impl Agent for PlainAgent {
    fn capabilities(&self) -> Capabilities {
        Capabilities { continuous: true, ..Capabilities::default() }
    }

    fn endpoint(&self) -> Option<Endpoint> {
        Some(endpoint(&self.settings, Vec::new()))
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, now: Micros) {
        match message {
            ToAgent::Audio(audio) => {
                self.out.send_audio(Wire::Binary(audio.payload), audio.ready);
            }
            ToAgent::Start(start) => {
                let WebsocketAgent { uplink, downlink, .. } = self.settings;
                if let Some(vendor) = &self.start {
                    let text = opening(start, AudioFormats { uplink, downlink, flow: None }, vendor);
                    self.out.send(Wire::Text(text));
                }
                self.out.tell(FromAgent::Ready(Ready { uplink, downlink, delay: None }));
            }
            ToAgent::Cancel(_) => {
                if self.turn_ends.is_some() {
                    self.cancelled_until = Some(now + CANCEL_WAIT);
                }
                self.say(&FromClient::Interrupt(Interrupt::default()));
            }
            ToAgent::End => self.say(&FromClient::End),
            ToAgent::Message(_)
            | ToAgent::Prompt(_)
            | ToAgent::Typing(_)
            | ToAgent::Input(_)
            | ToAgent::Dtmf(_)
            | ToAgent::Truncate(_)
            | ToAgent::ToolResult(_)
            | ToAgent::App(_)
            | ToAgent::Update(_)
            | ToAgent::History(_)
            | ToAgent::Playout(_) => {}
        }
    }

    fn handle_wire(&mut self, wire: Wire, now: Micros) {
        match wire {
            Wire::Close(1000, _) => self.end(None),
            Wire::Close(code, reason) => {
                let class = if code == 1008 { FailureClass::Auth } else { FailureClass::Lost };
                self.end(Some(closed(class, code, &reason)));
            }
            _ if self.out.has_ended() => {}
            Wire::Binary(payload) => self.handle_audio(payload, now),
            Wire::Text(text) => self.handle_text(text),
        }
    }

    fn handle_deadline(&mut self, now: Micros) {
        if self.turn_ends.is_some_and(|at| at <= now) {
            self.end_turn();
        }
    }

    fn poll(&mut self, _now: Micros) -> AgentOutput {
        self.out.poll(self.turn_ends)
    }
}
