//! What a session and an agent say to each other.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AgentAudio, AgentAudioOut, Alert, App, AudioFormats, Basis, Delta, Dtmf, Input, Role, Setup, SpeechEvent,
    TextMessage, ToolCall, ToolResult, Typing, Usage,
};
use crate::ids::{CallId, ConversationId, FlushId, ItemId, SessionId, TurnId};
use crate::media::format::Format;

/// What a session says to an agent.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "moved once, from the session to the agent")]
pub enum ToAgent {
    /// The first message, after the upstream is connected.
    Start(AgentStart),
    /// An audio frame.
    Audio(AgentAudioOut),
    /// A text message of the user.
    Message(TextMessage),
    /// The user types, or stopped.
    Typing(Typing),
    /// Manual turns.
    Input(Input),
    /// Say something by this instruction, which is no part of the conversation.
    Prompt(String),
    /// Telephone keys.
    Dtmf(Dtmf),
    /// The caller interrupted: stop, and cut the item to what was heard.
    Truncate(Truncate),
    /// The agent's turn was cut off without a heard figure yet: stop generating now.
    Cancel(TurnId),
    /// The result of a tool call.
    ToolResult(ToolResult),
    /// Application data.
    App(App),
    /// Changed set-up fields.
    Update(Setup),
    /// What was said since the start without this agent; it is not to be answered.
    History(Vec<ContextItem>),
    /// What the caller hears now: position in the agent's own audio.
    Playout(AgentPlayout),
    /// Goodbye.
    End,
}

/// What an agent needs to know at the start.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentStart {
    /// The effective set-up: agent, route, token, hook and client merged, templates filled in.
    pub setup: Setup,
    /// The conversation so far, oldest first: empty at the first dial, filled on failover and rollover.
    pub context: Vec<ContextItem>,
    /// The session, for logs on both sides.
    pub session_id: SessionId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The client's `context`.
    pub client_context: Option<Value>,
    /// The client's `metadata`.
    pub metadata: Option<Value>,
    /// Whether to open the conversation with the greeting.
    pub greet: bool,
    /// The formats of the client's link, for an agent that can adopt them so that audio passes through untouched.
    pub client: Option<AudioFormats>,
}

impl AgentStart {
    /// A conversation that begins with an empty set-up.
    #[cfg(test)]
    pub fn example() -> AgentStart {
        AgentStart {
            setup: Setup::default(),
            context: Vec::new(),
            session_id: "s-1".into(),
            conversation_id: "c-1".into(),
            client_context: None,
            metadata: None,
            greet: true,
            client: None,
        }
    }
}

/// One utterance of the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContextItem {
    /// Who.
    pub role: Role,
    /// What was said (agent items: what was heard).
    pub text: String,
}

/// The exact interruption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// The turn that was cut.
    pub turn: TurnId,
    /// The agent's own item, where it named one.
    pub item: Option<ItemId>,
    /// How much of the item was heard; never more than was received for it.
    pub heard: Duration,
    /// How much of the item was received.
    pub of: Duration,
    /// What the figure rests on.
    pub basis: Basis,
    /// How far it may be off.
    pub error: Duration,
}

/// What the caller hears, in the agent's own audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentPlayout {
    /// Audio received from this upstream that has left the caller's speaker, discarded audio included.
    pub played: Duration,
    /// Received but not yet heard.
    pub buffered: Duration,
    /// The agent's flush that this answers.
    pub flush: Option<FlushId>,
}

/// What a session hears from an agent.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "moved once, from the agent to the session")]
pub enum FromAgent {
    /// The agent is ready: audio may flow.
    Ready(Ready),
    /// Audio of its answer.
    Audio(AgentAudio),
    /// A new answer begins; audio without one begins an answer by itself.
    TurnStarted(Option<ItemId>),
    /// The present answer is complete: no more audio of it will come.
    TurnEnded,
    /// The agent has detected that the caller interrupts: its own answer has stopped.
    Interrupted,
    /// Transcribed speech of either side.
    Transcript(AgentTranscript),
    /// What the agent believes was heard of an item that was interrupted.
    Corrected(Correction),
    /// Audio of an interrupted answer that came late and was dropped: its length.
    Discarded(Duration),
    /// Audio of the caller that waited too long to be sent and was dropped: its length.
    Dropped(Duration),
    /// When each word of an item is spoken.
    Words(Words),
    /// A piece of a text message.
    Delta(Delta),
    /// A text message.
    Message(TextMessage),
    /// The agent types, or stopped.
    Typing(bool),
    /// Speech of the caller, as the agent detects it.
    Speech(SpeechEvent),
    /// The agent's name for what the caller has just begun to say: its text will come under this name.
    Utterance(ItemId),
    /// It is preparing an answer.
    Thinking,
    /// It calls a tool.
    ToolCall(ToolCall),
    /// It no longer wants these results.
    ToolCancelled(Vec<CallId>),
    /// What it used.
    Usage(Usage),
    /// Application data.
    App(App),
    /// Something for the desk.
    Alert(Alert),
    /// The set-up fields that the vendor did not apply.
    NotApplied(Vec<String>),
    /// It will close the connection in this time.
    GoAway(Duration),
    /// It has left its connection and goes on over another one.
    Renewed,
    /// An error that does not end the conversation.
    Error(AgentError),
    /// It has ended the conversation.
    Ended(AgentEnd),
}

/// The agent's formats and what else it announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// What it wants to hear.
    pub uplink: Format,
    /// What it speaks.
    pub downlink: Format,
    /// `echo`: how late it speaks back.
    pub delay: Option<Duration>,
}

/// Transcribed speech.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentTranscript {
    /// The agent's item, where it names one.
    pub item: Option<ItemId>,
    /// Who spoke.
    pub role: Role,
    /// The text.
    pub text: String,
    /// Whether `text` is appended to what came before for this item instead of replacing it.
    pub append: bool,
    /// Whether it will change no more.
    pub is_final: bool,
}

/// What the agent believes was heard of an item that was interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The agent's item.
    pub item: ItemId,
    /// The text.
    pub text: String,
}

/// Word timings of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The agent's item; the present one if absent.
    pub item: Option<ItemId>,
    /// In the order spoken; appended to what came before.
    pub words: Vec<Word>,
}

/// One word, or run of characters, and when it is spoken within its item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// As it stands in the text, with the white space that follows it.
    pub text: String,
    /// Start within the item.
    pub start: Duration,
    /// End within the item.
    pub end: Duration,
}

/// A class of upstream failure: decides log level, metric label, and whether another try may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Could not connect.
    Unreachable,
    /// Took too long.
    Timeout,
    /// Credentials refused.
    Auth,
    /// Rate or quota.
    Limit,
    /// The agent's session cap.
    Expired,
    /// The agent broke its own protocol.
    Protocol,
    /// The agent's own fault.
    Internal,
    /// Our request was wrong.
    BadRequest,
    /// The connection was lost.
    Lost,
    /// It gave no sign of an answer in time.
    Stalled,
    /// All of its `max_sessions` are in use here: it was not dialled.
    Full,
    /// It has failed again and again: it was not dialled.
    Suspended,
}

impl FailureClass {
    /// The metric label and log field.
    pub const fn label(self) -> &'static str {
        match self {
            FailureClass::Unreachable => "unreachable",
            FailureClass::Timeout => "timeout",
            FailureClass::Auth => "auth",
            FailureClass::Limit => "limit",
            FailureClass::Expired => "expired",
            FailureClass::Protocol => "protocol",
            FailureClass::Internal => "internal",
            FailureClass::BadRequest => "bad_request",
            FailureClass::Lost => "lost",
            FailureClass::Stalled => "stalled",
            FailureClass::Full => "full",
            FailureClass::Suspended => "suspended",
        }
    }
}

/// An error that an agent reported without ending the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentError {
    /// Its class.
    pub class: FailureClass,
    /// The vendor's own code.
    pub code: Option<String>,
    /// The vendor's own words.
    pub message: String,
}

/// How a conversation ended at the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEnd {
    /// `None`: it hung up as a normal end of the conversation.
    pub failure: Option<AgentError>,
}
