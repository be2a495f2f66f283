//! Error codes and reasons, each with its close code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Another node has the session.
    Misdirected,
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
            ErrorCode::Misdirected => 4421,
            ErrorCode::RateLimited => 4429,
            ErrorCode::Overloaded | ErrorCode::AgentUnavailable | ErrorCode::AgentError => 1013,
            ErrorCode::Internal => 4500,
        }
    }
}
