//! The neutral vocabulary: what a session says to and hears from its client and its agent.
//!
//! Every dialect and every agent protocol maps its wire onto these types; a session knows no other words. The control
//! messages serialise as `antiphon.v1` JSON (`docs/protocol.md`), because the native protocol *is* this vocabulary.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{AgentName, CallId, ConversationId, FlushId, Generation, ItemId, MessageId, SessionId, TurnId};
use crate::media::format::Format;
use crate::time::Micros;

// ---------------------------------------------------------------------------------------------------------- audio

/// RTP header facts of an uplink packet (RFC 3550 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpMeta {
    /// Sequence number, extended past 16 bits.
    pub seq: u64,
    /// Media timestamp in ticks of the format's clock, wrapping.
    pub timestamp: u32,
    /// Marker bit: first packet of a talk spurt.
    pub marker: bool,
    /// RFC 6464 audio level in -dBov (0 loudest, 127 silent), if the extension was there.
    pub level: Option<u8>,
}

/// One audio frame from a client, in its link's uplink format.
#[derive(Clone, Debug)]
pub struct AudioIn {
    /// When its last byte arrived.
    pub arrival: Micros,
    /// RTP header facts; `None` on ordered carriage.
    pub rtp: Option<RtpMeta>,
    /// The coded audio.
    pub payload: Bytes,
}

/// One audio frame to a client, in its link's downlink format.
#[derive(Clone, Debug)]
pub struct AudioOut {
    /// Position of its first sample: ticks of the format's clock, on this link.
    pub pos: u32,
    /// Length in ticks of the format's clock.
    pub ticks: u32,
    /// First frame of a talk spurt (the RTP marker bit).
    pub marker: bool,
    /// When the last byte that this frame was made of arrived, or when it became due if that was later: added
    /// latency counts from here.
    pub ready: Micros,
    /// The coded audio.
    pub payload: Bytes,
}

/// A run of audio from an agent, of any length, in its announced downlink format.
#[derive(Clone, Debug)]
pub struct AgentAudio {
    /// When its last byte arrived.
    pub arrival: Micros,
    /// The agent's item that it belongs to, where the agent tells.
    pub item: Option<ItemId>,
    /// RTP header facts where the agent speaks RTP; a gap is loss.
    pub rtp: Option<RtpMeta>,
    /// The coded audio; for Opus exactly one packet.
    pub payload: Bytes,
}

/// One audio frame to an agent, in its announced uplink format.
#[derive(Clone, Debug)]
pub struct AgentAudioOut {
    /// Position of its first sample since the upstream was ready, in ticks of the format's clock.
    pub pos: u64,
    /// Length in ticks of the format's clock.
    pub ticks: u32,
    /// When the last byte that this frame was made of arrived.
    pub ready: Micros,
    /// Whether it is made up: silence for time in which the client sent nothing.
    pub filled: bool,
    /// The coded audio.
    pub payload: Bytes,
}

// ------------------------------------------------------------------------------------------------- shared pieces

/// The two formats of a link, as the client sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AudioFormats {
    /// Client to relay.
    #[serde(rename = "in")]
    pub uplink: Format,
    /// Relay to client.
    #[serde(rename = "out")]
    pub downlink: Format,
    /// QUIC and WebTransport: the flow id of this session's audio, chosen by the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<u64>,
}

/// Who speaks or acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The caller.
    User,
    /// The agent.
    Agent,
}

/// The states of a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing has been said yet.
    #[default]
    Idle,
    /// The caller speaks, or may.
    Listening,
    /// The agent prepares an answer.
    Processing,
    /// The agent speaks.
    Speaking,
    /// The agent has spoken and waits for the caller.
    WaitingForUser,
    /// Something went wrong; the conversation may go on.
    Error,
    /// Over.
    Ended,
}

/// The neutral set-up of an agent. Absent fields keep the agent's own default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// System prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The vendor's name of a voice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voice: Option<String>,
    /// BCP 47 language tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The vendor's name of a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How the conversation is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub greeting: Option<Greeting>,
    /// Whether the agent transcribes the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcribe: Option<bool>,
    /// Who decides that the caller has finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<Turns>,
    /// Names of tools that the agent may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
}

/// Who decides that the caller has finished speaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// The detector.
    pub detect: TurnDetection,
}

/// Kinds of turn detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnDetection {
    /// The agent's voice activity detection.
    Server,
    /// The agent's detection by meaning.
    Semantic,
    /// The relay's own voice activity detection.
    Relay,
    /// The client says so (`input`).
    Manual,
}

/// How a conversation is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Greeting {
    /// Spoken by the agent, word for word.
    Say(String),
    /// Made up by the agent from this prompt.
    Prompt(String),
    /// An audio file, played by the relay.
    Clip(String),
    /// As the agent does by itself.
    Agent,
    /// None: the caller speaks first.
    None,
}

/// What a figure of heard audio rests on, from exact to estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The client's own report of what left its speaker.
    Reported,
    /// Receipt acknowledged by the client's transport library; playback assumed in real time since.
    Acked,
    /// A mark in the audio, echoed by the player.
    Marked,
    /// The relay's own pacing; nothing came back.
    Paced,
}

/// The status of the agent behind a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// Being dialled.
    Connecting,
    /// Ready to talk.
    Ready,
    /// Another agent has taken over.
    Fallback,
    /// No agent is available now.
    Down,
}

/// Why a session ended: a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The client ended it.
    ClientHangup,
    /// The client vanished and did not resume.
    ClientLost,
    /// The agent ended it.
    AgentHangup,
    /// No agent could be reached or kept.
    AgentFailed,
    /// The route's `max_s` was reached.
    MaxDuration,
    /// Neither side spoke for the route's idle time.
    Idle,
    /// The caller's token ran out.
    TokenExpired,
    /// A limit was reached.
    Limit,
    /// A cost budget was used up.
    Budget,
    /// A policy (admission hook, safety) ended it.
    Policy,
    /// An operator ended it.
    Operator,
    /// The node is shutting down.
    Draining,
    /// The node has no room.
    Overload,
    /// A defect of antiphon.
    Bug,
}

/// Error codes of the native protocol. `docs/errors.md` explains each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The message is not what the protocol allows.
    BadMessage,
    /// The audio cannot be decoded or has an unexpected size.
    BadAudio,
    /// An audio format that cannot be served.
    BadFormat,
    /// No or wrong credentials.
    Unauthorized,
    /// Known, but not allowed.
    Forbidden,
    /// No such route, agent or conversation.
    NotFound,
    /// The resume token is unknown, used or too old.
    ResumeFailed,
    /// A state change that the state table does not allow.
    InvalidTransition,
    /// A field that the route does not let clients set.
    NotPermitted,
    /// A limit was reached.
    RateLimited,
    /// The node has no room.
    Overloaded,
    /// The agent reported an error.
    AgentError,
    /// The agent cannot be reached.
    AgentUnavailable,
    /// The agent cannot do what was asked.
    Unsupported,
    /// A defect of antiphon.
    Internal,
}

// ------------------------------------------------------------------------------------------------ client to relay

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
    /// Ask for `stats`.
    Stats,
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

/// `typing` from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Typing {
    /// Whether the user is typing.
    pub on: bool,
    /// Towards the client: who types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Role>,
}

/// `interrupt`: stop the agent's present turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interrupt {
    /// The turn meant; if it is not the present one, nothing happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// The sample that was leaving the speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<u32>,
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

// ------------------------------------------------------------------------------------------------ relay to client

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

/// `usage`: what a turn used, as the agent reported it; absent is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// The turn.
    #[serde(default)]
    pub turn: TurnId,
    /// Amount per unit (`input_audio_tokens`, `output_text_tokens`, `minutes`, …).
    #[serde(flatten)]
    pub amounts: std::collections::BTreeMap<String, f64>,
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
    /// The field of the client's message that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Whether trying again may help.
    #[serde(default)]
    pub retryable: bool,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
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

// ----------------------------------------------------------------------------------------------- agent and session

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

impl CloseReason {
    /// The WebSocket close code, and the QUIC application code, that a link is closed with.
    pub const fn code(self) -> u16 {
        match self {
            CloseReason::ClientHangup | CloseReason::AgentHangup | CloseReason::MaxDuration => 1000,
            CloseReason::Operator | CloseReason::Policy | CloseReason::ClientLost => 1000,
            CloseReason::Draining => 1012,
            CloseReason::Overload | CloseReason::AgentFailed => 1013,
            CloseReason::TokenExpired => 4401,
            CloseReason::Idle => 4408,
            CloseReason::Limit | CloseReason::Budget => 4429,
            CloseReason::Bug => 4500,
        }
    }

    /// The metric label and the call record's `reason`.
    pub const fn label(self) -> &'static str {
        match self {
            CloseReason::ClientHangup => "client_hangup",
            CloseReason::ClientLost => "client_lost",
            CloseReason::AgentHangup => "agent_hangup",
            CloseReason::AgentFailed => "agent_failed",
            CloseReason::MaxDuration => "max_duration",
            CloseReason::Idle => "idle",
            CloseReason::TokenExpired => "token_expired",
            CloseReason::Limit => "limit",
            CloseReason::Budget => "budget",
            CloseReason::Policy => "policy",
            CloseReason::Operator => "operator",
            CloseReason::Draining => "draining",
            CloseReason::Overload => "overload",
            CloseReason::Bug => "bug",
        }
    }
}

impl ErrorCode {
    /// The close code of a link that is refused or ended because of this error.
    pub const fn close_code(self) -> u16 {
        match self {
            ErrorCode::BadMessage | ErrorCode::BadAudio | ErrorCode::BadFormat => 4400,
            ErrorCode::InvalidTransition | ErrorCode::NotPermitted | ErrorCode::Unsupported => 4400,
            ErrorCode::Unauthorized | ErrorCode::Forbidden => 4401,
            ErrorCode::NotFound | ErrorCode::ResumeFailed => 4404,
            ErrorCode::RateLimited => 4429,
            ErrorCode::Overloaded | ErrorCode::AgentUnavailable | ErrorCode::AgentError => 1013,
            ErrorCode::Internal => 4500,
        }
    }
}
