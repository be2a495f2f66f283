//! What an agent server says, read leniently: a small server may leave out what this side can do without.

use serde::Deserialize;

use crate::agent::closing::closed;
use crate::agent::outbox::reported;
use crate::dialect::native::codec::{self, Fields};
use crate::ids::{CallId, FlushId, ItemId, TurnId};
use crate::message::{
    AgentError, Alert, App, AudioFormats, Delta, Error, FailureClass, Ping, Role, Speech, State, TextMessage, ToolCall,
    TurnPhase, Usage,
};

/// A message of an agent server.
#[derive(Debug)]
pub(super) enum Said {
    Started(StartedIn),
    Agent(StatusIn),
    Turn(TurnIn),
    Flush(FlushIn),
    Transcript(TranscriptIn),
    Delta(Delta),
    Message(TextMessage),
    Typing(TypingIn),
    Speech(Speech),
    State(StateIn),
    ToolCall(ToolCall),
    ToolCancelled(CancelledIn),
    Usage(Usage),
    Alert(Alert),
    App(App),
    Draining(DrainingIn),
    Ending(EndingIn),
    Error(ErrorIn),
    Ended(EndedIn),
    Ping(Ping),
    /// Known, and of no use to a relay.
    Nothing,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct StartedIn {
    pub audio: Option<AudioFormats>,
    #[serde(default)]
    pub agent: InfoIn,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct InfoIn {
    pub delay_ms: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StatusIn {
    pub status: String,
    pub name: Option<String>,
    pub reason: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TurnIn {
    #[serde(default)]
    pub turn: TurnId,
    pub item: Option<ItemId>,
    pub phase: TurnPhase,
    pub pos: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FlushIn {
    pub id: FlushId,
    pub turn: Option<TurnId>,
    pub valid_from: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TranscriptIn {
    pub item: Option<ItemId>,
    #[serde(default)]
    pub turn: TurnId,
    pub role: Role,
    pub text: Option<String>,
    #[serde(rename = "final", default)]
    pub is_final: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct TypingIn {
    pub on: bool,
    pub who: Option<Role>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StateIn {
    pub to: State,
}

#[derive(Debug, Deserialize)]
pub(super) struct CancelledIn {
    pub call_id: CallId,
    #[serde(default)]
    pub status: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct DrainingIn {
    #[serde(default)]
    pub deadline_ms: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct EndingIn {
    #[serde(default)]
    pub in_ms: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct ErrorIn {
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct EndedIn {
    #[serde(default)]
    pub reason: String,
}

/// Reads one text frame; `None` for a type that this version does not know, with the count of unknown fields else.
pub(super) fn read(text: &str) -> Result<Option<(Said, u32)>, Error> {
    let kind = codec::kind(text)?;
    let mut fields = Fields::new(text, &kind);
    let said = match &*kind {
        "started" => Said::Started(fields.read_part()?),
        "agent" => Said::Agent(fields.read_part()?),
        "turn" => Said::Turn(fields.read_part()?),
        "flush" => Said::Flush(fields.read_part()?),
        "transcript" => Said::Transcript(fields.read_part()?),
        "delta" => Said::Delta(fields.read()?),
        "message" => Said::Message(fields.read()?),
        "typing" => Said::Typing(fields.read_part()?),
        "speech" => Said::Speech(fields.read()?),
        "state" => Said::State(fields.read_part()?),
        "tool_call" => Said::ToolCall(fields.read()?),
        "tool" => Said::ToolCancelled(fields.read_part()?),
        "usage" => Said::Usage(fields.read_usage()?),
        "alert" => Said::Alert(fields.read()?),
        "app" => Said::App(fields.read()?),
        "draining" => Said::Draining(fields.read_part()?),
        "ending" => Said::Ending(fields.read_part()?),
        "error" => Said::Error(fields.read_part()?),
        "ended" => Said::Ended(fields.read_part()?),
        "ping" => Said::Ping(fields.read()?),
        "pong" | "heard" | "stats" => Said::Nothing,
        _ => return Ok(None),
    };
    Ok(Some((said, fields.ignored)))
}

/// The class of an error that an agent server reported by its `code` (`docs/errors.md`).
pub(super) fn class_of_code(code: &str) -> FailureClass {
    match code {
        "unauthorized" | "forbidden" => FailureClass::Auth,
        "rate_limited" | "overloaded" => FailureClass::Limit,
        "agent_unavailable" | "misdirected" => FailureClass::Unreachable,
        "resume_failed" => FailureClass::Expired,
        "bad_message" | "bad_audio" | "bad_format" | "not_found" | "invalid_transition" | "not_permitted"
        | "unsupported" => FailureClass::BadRequest,
        _ => FailureClass::Internal,
    }
}

/// The failure of a server that said `ended`, by what it gave as the reason.
pub(super) fn failure_of_reason(reason: &str) -> Option<AgentError> {
    let class = match reason {
        "client_lost" | "draining" => FailureClass::Lost,
        "agent_failed" => FailureClass::Unreachable,
        "max_duration" | "token_expired" => FailureClass::Expired,
        "limit" | "budget" | "overload" => FailureClass::Limit,
        "bug" => FailureClass::Internal,
        _ => return None,
    };
    Some(reported(class, reason, "the agent ended the session"))
}

/// The failure of a server that closed the socket with this code (`docs/protocol.md`, close codes).
pub(super) fn failure_of_close(code: u16, reason: &str, started: bool) -> Option<AgentError> {
    let class = match code {
        1000 if started => return None,
        1002 | 1003 | 1007 | 1009 | 1010 | 4400 | 4404 => FailureClass::BadRequest,
        1008 | 4401 => FailureClass::Auth,
        1011 | 4500 => FailureClass::Internal,
        1013 | 4429 => FailureClass::Limit,
        4408 => FailureClass::Expired,
        1000 => FailureClass::Protocol,
        _ => FailureClass::Lost,
    };
    Some(closed(class, code, reason))
}
