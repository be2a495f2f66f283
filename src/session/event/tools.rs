//! Tool calls as the runtime runs them.

use bytes::Bytes;
use serde::Serialize;

use crate::ids::CallId;
use crate::message::FailureClass;

/// A tool call that is run by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolPost {
    /// The call, for the answer.
    pub call_id: CallId,
    /// The tool's place in [`Plan::tools`](crate::route::plan::Plan::tools).
    pub tool: usize,
    /// Names this call among all calls of all sessions: `Idempotency-Key`.
    pub key: String,
    /// JSON.
    pub body: Bytes,
}

/// What came of a tool call that was run by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolAnswer {
    /// An answer, whatever its status.
    Answered {
        /// HTTP status.
        status: u16,
        /// The answer's body.
        body: Bytes,
    },
    /// There is none.
    Failed(FailureClass),
}

/// Who runs a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolRunner {
    /// The client.
    Client,
    /// The relay, by a signed POST.
    Http,
    /// The relay itself.
    Relay,
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolOutcome {
    /// It gave a result.
    Ok,
    /// It failed.
    Error,
    /// It did not answer in its time.
    Timeout,
    /// The agent took it back.
    Cancelled,
    /// Too many ran already.
    Refused,
    /// The call ended before.
    Unfinished,
}

impl ToolOutcome {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            ToolOutcome::Ok => "ok",
            ToolOutcome::Error => "error",
            ToolOutcome::Timeout => "timeout",
            ToolOutcome::Cancelled => "cancelled",
            ToolOutcome::Refused => "refused",
            ToolOutcome::Unfinished => "unfinished",
        }
    }

    /// What clients are told of a tool that the relay runs.
    pub const fn status(self) -> &'static str {
        match self {
            ToolOutcome::Ok => "done",
            ToolOutcome::Timeout => "timeout",
            ToolOutcome::Cancelled => "cancelled",
            ToolOutcome::Error | ToolOutcome::Refused | ToolOutcome::Unfinished => "failed",
        }
    }
}
