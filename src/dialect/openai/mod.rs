//! The OpenAI Realtime wire (GA) towards clients, whatever the agent behind is: the server's side of the client and
//! server events of its API reference.
//!
//! The relay paces the audio, so a response is in progress for as long as it is heard. An agent answers by itself;
//! `response.create` hands over what the client has written before. What `session.update` asks for is put to the
//! session field by field, and `session.updated` tells what came of it.

mod effective;
mod hear;
mod say;
mod secret;
#[cfg(test)]
mod tests;

pub use secret::session_of_secret;

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::agent::Wire;
use crate::agent::carry::Carry;
use crate::dialect::{Dialect, Heard};
use crate::ids::{AgentName, FlushId, ItemId, Seq, TurnId};
use crate::media::format::Format;
use crate::message::{AudioFormats, ContextItem, Start, ToClient};
use crate::time::Micros;

/// The subprotocol that browsers offer, beside their key.
pub const SUBPROTOCOL: &str = "realtime";
/// What browsers offer with their key behind it.
pub const KEY_PROTOCOL: &str = "openai-insecure-api-key.";
/// Turns that are remembered for `conversation.item.truncate`.
const TURNS: usize = 32;
/// Messages of the client that wait for its `response.create`.
const WAITING: usize = 32;
/// Updates that wait for the session's word.
const UPDATES: usize = 16;

/// One client of the Realtime wire.
#[derive(Debug)]
pub struct Openai {
    session: Value,
    audio: AudioFormats,
    agent: Option<AgentName>,
    token: Option<String>,
    started: bool,
    manual: bool,
    wires: VecDeque<Wire>,
    heard: VecDeque<Heard>,
    events: u64,
    ignored: u32,
    /// Updates whose outcome is not known yet, with their marks, and the fields refused so far of the first.
    updates: VecDeque<(u64, Value)>,
    refused: Vec<String>,
    carry: Carry,
    /// Audio since the last commit, where the client decides.
    uncommitted: bool,
    /// Written, and not handed over yet.
    waiting: VecDeque<ContextItem>,
    items: u64,
    last_item: Option<String>,
    turns: VecDeque<Spoken>,
    /// What is being said.
    open: Option<TurnId>,
    flush: Option<FlushId>,
    /// Whether the client itself has asked the agent to stop.
    cancelled: bool,
    user: User,
    usage: Value,
    responses: u64,
    /// Text of a turn whose audio has not begun.
    early: Option<(TurnId, String)>,
    /// The message that was handed over last.
    typed: Option<String>,
    /// Whether the agent goes on by itself: after a tool's result, and after the caller has spoken.
    awaits_agent: bool,
    /// How long the session has lasted, as far as is known.
    clock_ms: u64,
}

/// One answer of the agent.
#[derive(Debug)]
struct Spoken {
    turn: TurnId,
    item: String,
    response: String,
    /// Position of its first sample, and how much of it was sent, in ticks.
    pos: u32,
    sent: u64,
    text: String,
    /// What of the text was told.
    told: usize,
}

/// The caller's present utterance.
#[derive(Debug, Default)]
struct User {
    item: Option<String>,
    /// The session's own name of it.
    theirs: Option<ItemId>,
    speaking: bool,
    /// Told because the agent has stopped; nobody has said that the caller speaks.
    implied: bool,
    told: usize,
}

impl Openai {
    /// A link to `model`, an agent or whatever a route knows, with the key that the client presented elsewhere than in
    /// a header. `id` is this session's.
    pub fn new(id: &str, model: Option<String>, token: Option<String>) -> Openai {
        let pcm = Format::pcm16(24_000);
        let audio = AudioFormats { uplink: pcm, downlink: pcm, flow: None };
        let session = effective::session(id, model.as_deref().unwrap_or("default"), audio);
        let mut dialect = Openai {
            session,
            audio,
            agent: model.map(AgentName::from),
            token,
            started: false,
            manual: false,
            wires: VecDeque::new(),
            heard: VecDeque::new(),
            events: 0,
            ignored: 0,
            updates: VecDeque::new(),
            refused: Vec::new(),
            carry: Carry::default(),
            uncommitted: false,
            waiting: VecDeque::new(),
            items: 0,
            last_item: None,
            turns: VecDeque::new(),
            open: None,
            flush: None,
            cancelled: false,
            user: User::default(),
            usage: Value::Null,
            responses: 0,
            early: None,
            typed: None,
            awaits_agent: false,
            clock_ms: 0,
        };
        let session = dialect.session.clone();
        dialect.send("session.created", json!({ "session": session }));
        dialect
    }

    fn send(&mut self, kind: &str, mut fields: Value) {
        self.events += 1;
        fields["type"] = kind.into();
        fields["event_id"] = format!("event_{}", self.events).into();
        self.wires.push_back(Wire::Text(fields.to_string()));
    }

    /// An error that answers an event of the client.
    fn refuse(&mut self, event: &Value, code: &str, param: Option<&str>, message: &str) {
        let error = json!({
            "type": "invalid_request_error", "code": code, "message": message, "param": param,
            "event_id": event["event_id"].as_str(),
        });
        self.send("error", json!({ "error": error }));
    }

    fn next_item(&mut self) -> String {
        self.items += 1;
        format!("item_{}", self.items)
    }

    /// A new item of the conversation; complete at once, or still growing.
    fn add_item(&mut self, item: &Value, done: bool) {
        let previous = self.last_item.replace(item["id"].as_str().unwrap_or_default().to_owned());
        let fields = json!({ "previous_item_id": previous, "item": item });
        self.send("conversation.item.added", fields.clone());
        if done {
            self.send("conversation.item.done", fields);
        }
    }

    fn spoken(&mut self, turn: TurnId) -> Option<&mut Spoken> {
        self.turns.iter_mut().find(|spoken| spoken.turn == turn)
    }

    /// The `start` of this link, once.
    fn start(&mut self, setup: Option<crate::message::Setup>) -> Start {
        self.started = true;
        let (agent, token, audio) = (self.agent.clone(), self.token.take(), Some(self.audio));
        Start { agent, token, audio, setup, ..Start::default() }
    }
}

impl Dialect for Openai {
    fn handle_wire(&mut self, wire: Wire, now: Micros) -> Option<Heard> {
        match wire {
            Wire::Text(text) => self.handle_text(&text, now),
            Wire::Binary(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.handle_text(text, now),
                Err(_) => self.refuse(&Value::Null, "invalid_json", None, "a message is one event in JSON"),
            },
            Wire::Close(1000, _) if self.started => return Some(Heard::Message(crate::message::FromClient::End)),
            Wire::Close(..) => return None,
        }
        self.heard.pop_front()
    }

    fn encode(&mut self, _seq: Option<Seq>, message: &ToClient) -> Option<Wire> {
        self.say(message);
        self.wires.pop_front()
    }

    fn take_wire(&mut self) -> Option<Wire> {
        self.wires.pop_front()
    }

    fn take_heard(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    fn start_unasked(&mut self) -> Option<Start> {
        (!self.started).then(|| self.start(None))
    }

    fn take_ignored_fields(&mut self) -> u32 {
        std::mem::take(&mut self.ignored)
    }
}
