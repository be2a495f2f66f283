//! What clients say.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AudioFormats, AudioIn, ContextItem, Role, Setup, State, Transcript};
use crate::ids::{AgentName, CallId, ConversationId, FlushId, MessageId, SessionId, TurnId};

/// The first message of every link: what the client wants.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Start {
    /// The agent asked for; the router decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// A conversation to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<ConversationId>,
    /// Formats of this link; defaults to Opus both ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioFormats>,
    /// Free data for templates (`{context.x}`), at most 2 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Value>,
    /// Free data for the call record and hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Overrides of the set-up, as far as the route's `client_may` allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<Setup>,
    /// A resume token, to go on with a session whose link was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
    /// With `resume`: the last `seq` received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have: Option<u64>,
    /// A token of the caller, for clients that cannot set headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What was said before, oldest first, as far as the route's `client_may` allows `context`. A relay fills it towards
    /// its agent on failover and rollover.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ContextItem>,
    /// The id under which the caller itself knows this session, for logs on both sides. A relay sets it towards its
    /// agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
}

impl fmt::Debug for Start {
    /// All fields but the values of `token` and `resume`, which are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("agent", &self.agent)
            .field("conversation_id", &self.conversation_id)
            .field("audio", &self.audio)
            .field("context", &self.context)
            .field("metadata", &self.metadata)
            .field("setup", &self.setup)
            .field("resume", &self.resume.as_ref().map(|_| "[secret]"))
            .field("have", &self.have)
            .field("token", &self.token.as_ref().map(|_| "[secret]"))
            .field("history", &self.history)
            .field("session_id", &self.session_id)
            .finish()
    }
}

/// What a client says once a session runs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromClient {
    /// An audio frame (not JSON: it has its own carriage).
    #[serde(skip)]
    Audio(AudioIn),
    /// A text message to the agent.
    Message(TextMessage),
    /// The user types, or stopped.
    Typing(Typing),
    /// Stop the agent now.
    Interrupt(Interrupt),
    /// Push-to-talk and manual turns.
    Input(Input),
    /// The microphone was switched.
    Mic(Mic),
    /// A telephone key.
    Dtmf(Dtmf),
    /// What the speaker plays now.
    Playout(Playout),
    /// The client sets the conversation's state, where the dialect allows.
    State(SetState),
    /// Recognised speech of clients that recognise by themselves.
    Transcript(Transcript),
    /// The result of a tool that ran at the client.
    ToolResult(ToolResult),
    /// Consent to recording.
    Consent(Consent),
    /// Application data for the agent.
    App(App),
    /// Change the set-up, field by field.
    Update(Update),
    /// Utterances that the agent should know of, without an answer to them.
    History(History),
    /// Ask for `stats`.
    Stats,
    /// Ask for the set-up in force, now and whenever it changes (of dialects that echo it; no native message).
    #[serde(skip)]
    Describe,
    /// End the session.
    End,
    /// Measure the round trip.
    Ping(Ping),
}

/// `message` (both ways): a text message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TextMessage {
    /// Chosen by the sender.
    pub id: MessageId,
    /// The text.
    pub text: String,
    /// Towards the client: who wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// `history`: utterances that the agent should know of, without an answer to them, as far as the route's `client_may`
/// allows `context`. A relay tells its agent so what was said while another agent spoke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Oldest first, at most 512.
    pub items: Vec<ContextItem>,
}

/// `typing` from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Typing {
    /// Whether the user is typing.
    pub on: bool,
    /// Towards the client: who types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Role>,
}

/// `interrupt`: stop the agent's present turn, or take that back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interrupt {
    /// The turn meant; if it is not the present one, nothing happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// The sample that was leaving the speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<u32>,
    /// How: for good, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<InterruptAction>,
}

/// What `interrupt` does on a route whose interruptions can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InterruptAction {
    /// Stop the agent's voice for the moment. On other routes it is `confirm`.
    Pause,
    /// The turn ends here: what was paused goes no further.
    Confirm,
    /// It was none: what was paused goes on from the heard position.
    Resume,
}

/// `input`: manual turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// What to do.
    pub action: InputAction,
}

/// What `input` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputAction {
    /// The user begins to speak.
    Start,
    /// The user has finished: answer.
    Commit,
    /// Forget what was said since `start`.
    Clear,
}

/// `mic`: the microphone was switched; silence follows while it is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mic {
    /// Whether it is on.
    pub on: bool,
}

/// `dtmf`: telephone keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Dtmf {
    /// Of `0-9 * # A-D`.
    pub digits: String,
}

/// `playout`: what leaves the client's speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Playout {
    /// Position of the sample now leaving the speaker: on ordered carriage samples received on this link (Opus: at
    /// 48 kHz), on RTP the timestamp.
    pub pos: u32,
    /// Received but not yet played, in milliseconds.
    #[serde(default)]
    pub buffered_ms: u32,
    /// The flush that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush: Option<FlushId>,
}

/// `state` from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetState {
    /// The state to enter.
    pub to: State,
}

/// `tool_result`: the outcome of a tool that ran at the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolResult {
    /// The call.
    pub call_id: CallId,
    /// Its output, usually JSON text.
    pub output: String,
    /// Whether it failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
}

/// `consent`: whether the call may be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Consent {
    /// To recording.
    pub recording: Granted,
}

/// An answer to a request for consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Granted {
    /// Yes.
    Granted,
    /// No.
    Refused,
}

/// `app` (both ways): data of the application, passed through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct App {
    /// The application's name for it.
    pub name: String,
    /// The data.
    #[serde(default)]
    pub data: Value,
}

/// `update`: change the set-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Update {
    /// The fields to change.
    pub setup: Setup,
}

/// `ping` and `pong`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ping {
    /// Echoed.
    pub t: u64,
}
