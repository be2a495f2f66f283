//! The OpenAI Realtime wire (GA) towards clients, whatever the agent behind is: the server's side of the client and
//! server events of its API reference.
//!
//! The relay paces the audio, so a response is in progress for as long as it is heard. An agent answers by itself;
//! `response.create` hands over what the client has written before. What `session.update` asks for is put to the
//! session field by field, and `session.updated` tells what came of it. Over WebRTC the events travel on a data channel
//! and the audio beside them, so that the relay itself tells what plays (`output_audio_buffer.*`).

mod effective;
mod hear;
pub(crate) mod items;
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
use crate::message::{AudioFormats, AudioOut, ContextItem, FromClient, Setup, Start, ToClient};
use crate::time::Micros;
use items::Items;

/// The subprotocol that browsers offer, beside their key.
pub const SUBPROTOCOL: &str = "realtime";
/// What browsers offer with their key behind it.
pub const KEY_PROTOCOL: &str = "openai-insecure-api-key.";
/// The data channel of a call over WebRTC.
pub const CHANNEL: &str = "oai-events";
/// Turns that are remembered for `conversation.item.truncate`.
const TURNS: usize = 32;
/// Messages of the client that wait for its `response.create`.
const WAITING: usize = 32;
/// Updates that wait for the session's word.
const UPDATES: usize = 16;

/// What the next word of the session on the set-up in force is told as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Not at all: only this dialect wanted to know.
    Nothing,
    /// `session.created`.
    Created,
    /// `session.updated`.
    Updated,
}

/// One client of the Realtime wire.
#[derive(Debug)]
pub struct Openai {
    id: String,
    model: String,
    /// The set-up in force, as far as the session has told.
    setup: Setup,
    /// Whether the audio travels beside these events.
    beside: bool,
    audio: AudioFormats,
    agent: Option<AgentName>,
    token: Option<String>,
    started: bool,
    wires: VecDeque<Wire>,
    heard: VecDeque<Heard>,
    events: u64,
    asked: VecDeque<Asked>,
    carry: Carry,
    /// Audio since the last commit, where the client decides.
    uncommitted: bool,
    /// Written, and not handed over yet.
    waiting: VecDeque<ContextItem>,
    items: Items,
    turns: VecDeque<Spoken>,
    /// What is being said.
    open: Option<TurnId>,
    /// The response whose audio plays, where the client is told; and whether it was told last that nothing does.
    playing: Option<String>,
    cleared: bool,
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
    /// The agent was lost in the present answer, and nobody takes over.
    lost: bool,
    clock: SessionClock,
}

/// How long the session has lasted, as far as is known.
#[derive(Clone, Copy, Debug, Default)]
struct SessionClock {
    began: Option<Micros>,
    ms: u64,
}

impl SessionClock {
    fn on_time(&mut self, now: Micros) {
        let began = *self.began.get_or_insert(now);
        self.on_ms(now.since(began).as_millis() as u64);
    }

    fn on_ms(&mut self, ms: u64) {
        self.ms = self.ms.max(ms);
    }
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
    /// It is the rest of a turn that was paused.
    rest: bool,
    /// Calls of tools in it.
    calls: Vec<Value>,
}

/// The caller's present utterance.
#[derive(Debug, Default)]
struct User {
    item: Option<String>,
    /// The session's own name of it.
    theirs: Option<ItemId>,
    speaking: bool,
    /// Speaks into an answer that goes on so far; whether it has stopped again. To tell it would stop the client's
    /// player, and only the agent knows whether it yields.
    over: Option<Over>,
    /// Told because the agent has stopped; nobody has said that the caller speaks.
    implied: bool,
    told: usize,
}

/// What became of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Completed,
    /// It was broken off, and why.
    Cancelled(&'static str),
    /// The call has ended before it, for this reason.
    Failed(&'static str),
}

impl Outcome {
    /// The response's `status` and `status_details`.
    fn status(self) -> (&'static str, Value) {
        match self {
            Outcome::Completed => ("completed", Value::Null),
            Outcome::Cancelled(reason) => ("cancelled", json!({ "type": "cancelled", "reason": reason })),
            Outcome::Failed(code) => {
                let error = json!({ "type": "server_error", "code": code });
                ("failed", json!({ "type": "failed", "error": error }))
            }
        }
    }
}

/// Speech into an answer, when it began and ended.
#[derive(Clone, Copy, Debug)]
struct Over {
    from_ms: u64,
    to_ms: Option<u64>,
}

impl Openai {
    /// A link to `model`, an agent or whatever a route knows, with the key that the client presented elsewhere than in
    /// a header. `id` is this session's.
    pub fn new(id: &str, model: Option<String>, token: Option<String>) -> Openai {
        let pcm = Format::pcm16(24_000);
        let audio = AudioFormats { uplink: pcm, downlink: pcm, flow: None };
        let mut dialect = Openai::with(id, model, audio);
        dialect.token = token;
        let session = effective::outline(&dialect.id, &dialect.model, Some(audio));
        dialect.send("session.created", json!({ "session": session }));
        dialect
    }

    /// A call over WebRTC, and how it starts: with the client's own `session`, or, without one, with its first event.
    /// `model` where the session names none.
    pub fn call(id: &str, model: Option<String>, session: Option<&Value>, format: Format) -> (Openai, Start) {
        let named = session.and_then(|session| session["model"].as_str()).map(str::to_owned);
        let audio = AudioFormats { uplink: format, downlink: format, flow: None };
        let mut dialect = Openai::with(id, named.or(model), audio);
        dialect.beside = true;
        let start = dialect.start(session.map(effective::setup));
        match session {
            Some(_) => dialect.ask(Asked::Created),
            None => {
                dialect.started = false;
                let session = effective::outline(&dialect.id, &dialect.model, None);
                dialect.send("session.created", json!({ "session": session }));
            }
        }
        (dialect, start)
    }

    fn with(id: &str, model: Option<String>, audio: AudioFormats) -> Openai {
        Openai {
            id: id.to_owned(),
            model: model.clone().unwrap_or_else(|| "default".to_owned()),
            setup: Setup::default(),
            beside: false,
            audio,
            agent: model.map(AgentName::from),
            token: None,
            started: false,
            wires: VecDeque::new(),
            heard: VecDeque::new(),
            events: 0,
            asked: VecDeque::new(),
            carry: Carry::default(),
            uncommitted: false,
            waiting: VecDeque::new(),
            items: Items::default(),
            turns: VecDeque::new(),
            open: None,
            playing: None,
            cleared: true,
            flush: None,
            cancelled: false,
            user: User::default(),
            usage: Value::Null,
            responses: 0,
            early: None,
            typed: None,
            awaits_agent: false,
            lost: false,
            clock: SessionClock::default(),
        }
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

    /// A new item of the conversation; complete at once, or still growing.
    fn add_item(&mut self, item: &Value, done: bool) {
        let previous = self.items.add(item);
        let fields = json!({ "previous_item_id": previous, "item": item });
        self.send("conversation.item.added", fields.clone());
        if done {
            self.send("conversation.item.done", fields);
        }
    }

    /// A growing item is complete.
    fn complete_item(&mut self, item: &Value) {
        let previous = self.items.complete(item);
        self.send("conversation.item.done", json!({ "previous_item_id": previous, "item": item }));
    }

    fn spoken(&mut self, turn: TurnId) -> Option<&mut Spoken> {
        self.turns.iter_mut().rev().find(|spoken| spoken.turn == turn)
    }

    fn is_manual(&self) -> bool {
        effective::is_manual(&self.setup)
    }

    /// The formats that these events carry.
    fn carried(&self) -> Option<AudioFormats> {
        (!self.beside).then_some(self.audio)
    }

    /// The `start` of this link, once.
    fn start(&mut self, setup: Option<Setup>) -> Start {
        self.started = true;
        let (agent, token, audio) = (self.agent.clone(), self.token.take(), Some(self.audio));
        Start { agent, token, audio, setup: setup.filter(|setup| *setup != Setup::default()), ..Start::default() }
    }

    /// Asks the session what it makes of what it was told before.
    fn ask(&mut self, asked: Asked) {
        self.asked.push_back(asked);
        self.heard.push_back(Heard::Message(FromClient::Describe));
    }
}

impl Dialect for Openai {
    fn handle_wire(&mut self, wire: Wire, now: Micros) -> Option<Heard> {
        self.clock.on_time(now);
        match wire {
            Wire::Text(text) => self.handle_text(&text, now),
            Wire::Binary(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.handle_text(text, now),
                Err(_) => self.refuse(&Value::Null, "invalid_json", None, "a message is one event in JSON"),
            },
            Wire::Close(..) if self.started => return Some(Heard::Message(FromClient::End)),
            Wire::Close(..) => return None,
        }
        self.heard.pop_front()
    }

    fn encode(&mut self, _seq: Option<Seq>, message: &ToClient) -> Option<Wire> {
        self.say(message);
        self.wires.pop_front()
    }

    fn on_audio(&mut self, audio: &AudioOut) {
        self.count_audio(audio);
    }

    fn take_wire(&mut self) -> Option<Wire> {
        self.wires.pop_front()
    }

    fn take_heard(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    fn can_resume(&self) -> bool {
        false
    }

    fn is_started(&self) -> bool {
        self.started
    }

    fn start_unasked(&mut self) -> Option<Start> {
        (!self.started).then(|| {
            let start = self.start(None);
            self.ask(Asked::Nothing);
            start
        })
    }
}
