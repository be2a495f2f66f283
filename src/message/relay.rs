//! What the relay says to clients.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AgentStatus, App, AudioFormats, AudioOut, Basis, CloseReason, ErrorCode, Ping, Role, Setup, State, TextMessage,
    Typing, Usage,
};
use crate::ids::{AgentName, CallId, ConversationId, FlushId, Generation, ItemId, MessageId, SessionId, TurnId};

/// What the relay says to a client.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "moved once, from the session to the link")]
pub enum ToClient {
    /// An audio frame (not JSON: it has its own carriage).
    #[serde(skip)]
    Audio(AudioOut),
    /// The session runs.
    Started(Started),
    /// What was said.
    Transcript(Transcript),
    /// A piece of a text message that is being written.
    Delta(Delta),
    /// A text message.
    Message(TextMessage),
    /// The state changed.
    State(StateChange),
    /// The agent types, or stopped.
    Typing(Typing),
    /// Speech began or ended.
    Speech(Speech),
    /// A turn of the agent begins or ends here in the audio.
    Turn(Turn),
    /// Discard audio that has not been played.
    Flush(Flush),
    /// How much of a turn was heard.
    Heard(Heard),
    /// The agent's status.
    Agent(AgentState),
    /// Run a tool and answer with `tool_result`.
    ToolCall(ToolCall),
    /// A tool that the relay runs.
    Tool(ToolStatus),
    /// Usage that the agent reported.
    Usage(Usage),
    /// Something that the operator or the desk should see.
    Alert(Alert),
    /// Application data of the agent.
    App(App),
    /// The node is going down: reconnect elsewhere.
    Draining(Draining),
    /// The session will end soon.
    Ending(Ending),
    /// Something went wrong.
    Error(Error),
    /// Figures of this session.
    Stats(Stats),
    /// The set-up in force, for dialects that echo it (no native message).
    #[serde(skip)]
    InForce(Setup),
    /// The session is over.
    Ended(Ended),
    /// Answer to `ping`.
    Pong(Ping),
}

/// `started`: the session was admitted.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// This session.
    pub session_id: SessionId,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Who answers.
    pub agent: AgentInfo,
    /// The formats of this link.
    pub audio: AudioFormats,
    /// Single-use; valid until `resume_window` after the link is lost.
    pub resume_token: String,
    /// When the session ends at the latest, in seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// With `resume`: whether the session went on (`true`) or only a snapshot could be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<bool>,
    /// The set-up in force, as far as a client is told: what route, token, hook and client decide and the agent takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<Box<Setup>>,
}

impl fmt::Debug for Started {
    /// All fields but the value of `resume_token`, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started")
            .field("session_id", &self.session_id)
            .field("conversation_id", &self.conversation_id)
            .field("agent", &self.agent)
            .field("audio", &self.audio)
            .field("resume_token", &"[secret]")
            .field("expires_at", &self.expires_at)
            .field("resumed", &self.resumed)
            .field("setup", &self.setup)
            .finish()
    }
}

/// An agent as the client sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentInfo {
    /// Its name in the configuration.
    pub name: AgentName,
    /// Its display table, as configured.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub display: Value,
    /// `echo` only: how late it speaks back, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u32>,
}

/// `transcript` (both ways): what was said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Transcript {
    /// The utterance; the same item again replaces its text.
    pub item: ItemId,
    /// The turn of the agent that it belongs to.
    #[serde(default)]
    pub turn: TurnId,
    /// Who spoke.
    pub role: Role,
    /// What was said; `null` while it is not known yet.
    #[serde(default)]
    pub text: Option<String>,
    /// Whether the text will change no more.
    #[serde(rename = "final", default)]
    pub is_final: bool,
    /// Start within the session, in milliseconds.
    #[serde(default)]
    pub start_ms: u64,
    /// End within the session, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ms: Option<u64>,
    /// Agent items that were interrupted: how much was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<HeardSpan>,
    /// How a text was cut to what was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

/// Heard milliseconds out of spoken ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeardSpan {
    /// Heard.
    pub ms: u64,
    /// Received from the agent.
    pub of_ms: u64,
}

/// How the text of an interrupted item was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// At a word boundary given by the agent's alignment.
    Aligned,
    /// In proportion to the heard share, at a word boundary.
    Estimated,
}

/// `delta`: a piece of a text message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delta {
    /// The message that it belongs to.
    pub message_id: MessageId,
    /// The piece.
    pub text: String,
}

/// `state`: the conversation moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StateChange {
    /// Before.
    pub from: State,
    /// Now.
    pub to: State,
}

/// `speech`: somebody began or stopped speaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Speech {
    /// Who.
    pub who: Role,
    /// What.
    pub event: SpeechEvent,
}

/// Beginning or end of speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpeechEvent {
    /// Began.
    Started,
    /// Stopped.
    Stopped,
}

/// `turn`: precedes the first sample of a turn, and each first sample after a gap; and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Turn {
    /// The turn.
    pub turn: TurnId,
    /// Its generation.
    pub generation: Generation,
    /// The agent's item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemId>,
    /// Beginning or end.
    pub phase: TurnPhase,
    /// Position of the first sample of it, or of the first one after it.
    pub pos: u32,
}

/// Where in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnPhase {
    /// Its audio begins, or goes on after a gap.
    Start,
    /// Its audio is complete.
    End,
}

/// `flush`: discard audio with `pos < valid_from` that was not played, and answer `playout {flush}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Flush {
    /// This flush.
    pub id: FlushId,
    /// The turn that ends by it.
    pub turn: TurnId,
    /// Audio from this position on is valid.
    pub valid_from: u32,
    /// The turn may go on: `heard` follows if it does not, and `turn` `start` if it does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pause: bool,
}

/// `heard`: how much of an interrupted turn the caller heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Heard {
    /// The turn.
    pub turn: TurnId,
    /// Heard, in milliseconds of the agent's audio.
    pub ms: u64,
    /// Received from the agent, in milliseconds.
    pub of_ms: u64,
    /// What the figure rests on.
    pub basis: Basis,
    /// How far it may be off, in milliseconds.
    pub error_ms: u32,
}

/// `agent`: the agent's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentState {
    /// The status.
    pub status: AgentStatus,
    /// The agent meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<AgentName>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When another try is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// `tool_call`: the agent calls a tool of the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCall {
    /// This call.
    pub call_id: CallId,
    /// The tool.
    pub name: String,
    /// Its arguments, JSON text as the agent gave it.
    pub arguments: String,
}

/// `tool`: a tool that the relay runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolStatus {
    /// The call.
    pub call_id: CallId,
    /// The tool.
    pub name: String,
    /// `running`, `done`, `failed`, `timeout` or `cancelled`.
    pub status: String,
}

/// `alert`: something that a human should see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Alert {
    /// A short name.
    pub name: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// Details.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

/// `draining`: the node is going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Draining {
    /// Reconnect after this time (it differs per client, so that not all come at once).
    pub reconnect_after_ms: u64,
    /// The session is ended after this time.
    pub deadline_ms: u64,
}

/// `ending`: the session will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ending {
    /// Why.
    pub reason: CloseReason,
    /// In how many milliseconds.
    pub in_ms: u64,
}

/// `error`: something went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Error {
    /// Which error.
    pub code: ErrorCode,
    /// What happened and how to mend it.
    pub message: String,
    /// Where credentials or admission were refused: why (docs/errors.md lists the reasons).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The field of the client's message that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Whether trying again may help.
    #[serde(default)]
    pub retryable: bool,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// `misdirected`: the base of the HTTP URLs of the node that has the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl Error {
    /// An error that says nothing but what happened, and that trying again does not mend.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        let message = message.into();
        Error { code, message, reason: None, field: None, retryable: false, retry_after_ms: None, url: None }
    }

    /// What happened, for people: with the reason in brackets, if there is one.
    pub fn text(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{}{reason}", self.message)
    }
}

/// `stats`: figures of this session, on request and inside `ended`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Latency that the relay added.
    pub added_ms: AddedMs,
    /// Uplink packets that never came.
    pub lost: u64,
    /// Milliseconds of uplink audio that were made up for lost packets (PLC; FEC does not count).
    pub concealed_ms: u64,
    /// Milliseconds of silence made up for time in which the client sent nothing.
    pub filled_ms: u64,
    /// Milliseconds of agent audio that the caller heard.
    pub heard_ms: u64,
}

/// Added latency per direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AddedMs {
    /// Client to agent.
    pub up: Percentiles,
    /// Agent to client.
    pub down: Percentiles,
}

/// Two percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// `ended`: the last message of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ended {
    /// Why.
    pub reason: CloseReason,
    /// Length of the session.
    pub duration_ms: u64,
    /// Utterances and text messages of both sides.
    pub messages: u64,
    /// Its figures.
    pub stats: Stats,
}
