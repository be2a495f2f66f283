//! What every error code and close reason means, and what to do about it: the source of `docs/errors.md`.

use std::fmt::Write;

use crate::auth::Denied;
use crate::message::{CloseReason, ErrorCode, FailureClass};

impl ErrorCode {
    /// Every code, in the order of the documentation.
    pub const ALL: [ErrorCode; 16] = [
        ErrorCode::BadMessage,
        ErrorCode::BadAudio,
        ErrorCode::BadFormat,
        ErrorCode::Unauthorized,
        ErrorCode::Forbidden,
        ErrorCode::NotFound,
        ErrorCode::ResumeFailed,
        ErrorCode::Misdirected,
        ErrorCode::InvalidTransition,
        ErrorCode::NotPermitted,
        ErrorCode::RateLimited,
        ErrorCode::Overloaded,
        ErrorCode::AgentError,
        ErrorCode::AgentUnavailable,
        ErrorCode::Unsupported,
        ErrorCode::Internal,
    ];

    /// The name on the wire and the metric label.
    pub const fn label(self) -> &'static str {
        match self {
            ErrorCode::BadMessage => "bad_message",
            ErrorCode::BadAudio => "bad_audio",
            ErrorCode::BadFormat => "bad_format",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotFound => "not_found",
            ErrorCode::ResumeFailed => "resume_failed",
            ErrorCode::Misdirected => "misdirected",
            ErrorCode::InvalidTransition => "invalid_transition",
            ErrorCode::NotPermitted => "not_permitted",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::AgentError => "agent_error",
            ErrorCode::AgentUnavailable => "agent_unavailable",
            ErrorCode::Unsupported => "unsupported",
            ErrorCode::Internal => "internal",
        }
    }

    /// Whether the same thing may work later, unchanged.
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            ErrorCode::Misdirected
                | ErrorCode::RateLimited
                | ErrorCode::Overloaded
                | ErrorCode::AgentError
                | ErrorCode::AgentUnavailable
                | ErrorCode::Internal
        )
    }

    /// What has happened.
    pub const fn meaning(self) -> &'static str {
        match self {
            ErrorCode::BadMessage => {
                "A control message is not JSON, lacks a field, has a wrong value in one, or breaks a limit."
            }
            ErrorCode::BadAudio => "An audio frame cannot be decoded, is empty, too long, or ends within a sample.",
            ErrorCode::BadFormat => "`start.audio` names a codec, rate or channel count that cannot be served.",
            ErrorCode::Unauthorized => "There are no credentials, or they are wrong or too old.",
            ErrorCode::Forbidden => "The caller is known, but may not do this.",
            ErrorCode::NotFound => "No route, agent or conversation matches.",
            ErrorCode::ResumeFailed => "The resume token is unknown, already used, or its window has passed.",
            ErrorCode::Misdirected => "The session that is to be resumed is on another node.",
            ErrorCode::InvalidTransition => "`state` asks for a change that the state table does not allow.",
            ErrorCode::NotPermitted => "The route does not let clients set this field.",
            ErrorCode::RateLimited => "A declared limit was reached.",
            ErrorCode::Overloaded => "The node has no room for another session.",
            ErrorCode::AgentError => "The agent reported an error; the session goes on if it can.",
            ErrorCode::AgentUnavailable => "No agent of the route can be reached now.",
            ErrorCode::Unsupported => "The agent of this session cannot do what was asked.",
            ErrorCode::Internal => "A defect of antiphon.",
        }
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            ErrorCode::BadMessage => {
                "Correct the field that `field` names; `message` shows a right one. `docs/protocol.schema.json` checks \
                 messages before they are sent."
            }
            ErrorCode::BadAudio => {
                "Send one Opus packet, or at most 250 ms of whole samples, per binary frame, in the format that \
                 `started.audio.in` names."
            }
            ErrorCode::BadFormat => {
                "Take one of the values that `message` lists, or leave `audio` out: Opus at 48 kHz, mono, both ways."
            }
            ErrorCode::Unauthorized => "Get a new token and connect again.",
            ErrorCode::Forbidden => "Use credentials that may; the operator's route and token claims decide.",
            ErrorCode::NotFound => "Check `agent` and `conversation_id`; `antiphon route explain` shows what matches.",
            ErrorCode::ResumeFailed => "Start a new session with a plain `start`; pass `conversation_id` to go on.",
            ErrorCode::Misdirected => {
                "Resume there: `url` is the base of that node's HTTP URLs; ask it for `/v1/endpoints`."
            }
            ErrorCode::InvalidTransition => "Look at the last `state`; only its neighbours can be entered.",
            ErrorCode::NotPermitted => {
                "Leave the field out, or ask the operator to list it in the route's `client_may`."
            }
            ErrorCode::RateLimited => "Wait `retry_after_ms`, then go on more slowly.",
            ErrorCode::Overloaded => {
                "Wait `retry_after_ms` with jitter, then connect again, to another node if there is one."
            }
            ErrorCode::AgentError => "Go on, or repeat the last message; `message` has the agent's own words.",
            ErrorCode::AgentUnavailable => "Wait `retry_after_ms`, then connect again; `agent` tells when it is back.",
            ErrorCode::Unsupported => "Leave it out for this agent.",
            ErrorCode::Internal => "Connect again; report it with the session id if it comes back.",
        }
    }
}

impl CloseReason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [CloseReason; 14] = [
        CloseReason::ClientHangup,
        CloseReason::ClientLost,
        CloseReason::AgentHangup,
        CloseReason::AgentFailed,
        CloseReason::MaxDuration,
        CloseReason::Idle,
        CloseReason::TokenExpired,
        CloseReason::Limit,
        CloseReason::Budget,
        CloseReason::Policy,
        CloseReason::Operator,
        CloseReason::Draining,
        CloseReason::Overload,
        CloseReason::Bug,
    ];

    /// Whether a new session may work at once or a little later, unchanged.
    pub const fn retryable(self) -> bool {
        match self {
            CloseReason::ClientLost
            | CloseReason::AgentFailed
            | CloseReason::Draining
            | CloseReason::Overload
            | CloseReason::Bug => true,
            CloseReason::ClientHangup
            | CloseReason::AgentHangup
            | CloseReason::MaxDuration
            | CloseReason::Idle
            | CloseReason::TokenExpired
            | CloseReason::Limit
            | CloseReason::Budget
            | CloseReason::Policy
            | CloseReason::Operator => false,
        }
    }

    /// What has happened.
    pub const fn meaning(self) -> &'static str {
        match self {
            CloseReason::ClientHangup => "The client ended the session: `end`, or a close with code 1000.",
            CloseReason::ClientLost => "The client's link was lost and no other resumed it within the resume window.",
            CloseReason::AgentHangup => "The agent ended the conversation.",
            CloseReason::AgentFailed => "No agent of the route could be reached or kept.",
            CloseReason::MaxDuration => "The route's `max_s` was reached.",
            CloseReason::Idle => "Neither side spoke for the route's idle time.",
            CloseReason::TokenExpired => "The caller's token ran out.",
            CloseReason::Limit => "A declared limit was reached.",
            CloseReason::Budget => "A cost budget was used up.",
            CloseReason::Policy => "A policy ended it: the pre-call hook, or a safety rule.",
            CloseReason::Operator => "An operator ended it.",
            CloseReason::Draining => "The node is shutting down.",
            CloseReason::Overload => "The node has no room.",
            CloseReason::Bug => "A defect of antiphon ended this one session.",
        }
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            CloseReason::ClientHangup | CloseReason::AgentHangup => "Nothing: this is a normal end.",
            CloseReason::ClientLost => "Connect again with a plain `start`; resume sooner next time.",
            CloseReason::AgentFailed => "Connect again later.",
            CloseReason::MaxDuration => "Start a new session; `ending` came before.",
            CloseReason::Idle => "Start a new session when the user is back; `ending` came before.",
            CloseReason::TokenExpired => "Get a new token and start a new session.",
            CloseReason::Limit => "Wait, then start a new session.",
            CloseReason::Budget => "Ask the operator.",
            CloseReason::Policy | CloseReason::Operator => {
                "Do not start again by itself; show the user that it is over."
            }
            CloseReason::Draining => "Connect again after `draining.reconnect_after_ms`; another node will answer.",
            CloseReason::Overload => "Connect again after a pause with jitter.",
            CloseReason::Bug => "Connect again; report it with the session id if it comes back.",
        }
    }
}

/// The Markdown text of `docs/errors.md`.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    for code in ErrorCode::ALL {
        section(&mut page, code.label(), code.close_code(), code.retryable(), code.meaning(), code.remedy());
    }
    page.push_str(DENIED_HEAD);
    for why in Denied::ALL {
        let (code, close) = (why.code().label(), why.code().close_code());
        let retry = if why.code().retryable() { "yes" } else { "no" };
        let (label, meaning, remedy) = (why.label(), why.meaning(), why.remedy());
        let _ = write!(
            page,
            "\n### `{label}`\n\n{meaning}\n\n- Error code: `{code}`, close code {close}\n- Try again: {retry}\n- What to \
             do: {remedy}\n"
        );
    }
    page.push_str(REASONS_HEAD);
    for reason in CloseReason::ALL {
        section(&mut page, reason.label(), reason.code(), reason.retryable(), reason.meaning(), reason.remedy());
    }
    page.push_str(FAILURES_HEAD);
    for class in FailureClass::ALL {
        let retry = if class.retryable() { "yes" } else { "no" };
        let (label, meaning, remedy) = (class.label(), class.meaning(), class.remedy());
        let _ = write!(page, "\n### `{label}`\n\n{meaning}\n\n- Try again: {retry}\n- What to do: {remedy}\n");
    }
    page
}

impl FailureClass {
    /// Every class, in the order of the documentation.
    pub const ALL: [FailureClass; 12] = [
        FailureClass::Unreachable,
        FailureClass::Timeout,
        FailureClass::Auth,
        FailureClass::Limit,
        FailureClass::Expired,
        FailureClass::Protocol,
        FailureClass::Internal,
        FailureClass::BadRequest,
        FailureClass::Lost,
        FailureClass::Stalled,
        FailureClass::Full,
        FailureClass::Suspended,
    ];

    /// Whether the same dial may succeed later, unchanged.
    pub const fn retryable(self) -> bool {
        !matches!(self, FailureClass::Auth | FailureClass::Protocol | FailureClass::BadRequest)
    }

    /// What has happened.
    pub const fn meaning(self) -> &'static str {
        match self {
            FailureClass::Unreachable => {
                "No connection to the agent could be made: its name, TCP, TLS, or HTTP 502 or 503."
            }
            FailureClass::Timeout => "The agent did not answer in time, or found that nothing came from here.",
            FailureClass::Auth => "The agent refused the key (HTTP 401 or 403, or a close that says so).",
            FailureClass::Limit => {
                "A rate, quota or number of calls at the agent was reached (HTTP 402 or 429, or a close that says so)."
            }
            FailureClass::Expired => "The longest time that one session may last at the agent was over.",
            FailureClass::Protocol => "The agent broke its own protocol, or announced a format that cannot be served.",
            FailureClass::Internal => "The agent reported a fault of its own (HTTP 500, close code 1011).",
            FailureClass::BadRequest => {
                "The agent refused what it was sent: a wrong id, address, model or set-up field."
            }
            FailureClass::Lost => {
                "The connection to the agent was lost in the middle of a call, or a ping was not answered."
            }
            FailureClass::Stalled => "The agent gave no sign of an answer within the route's `answer_within_ms`.",
            FailureClass::Full => "The agent's `max_sessions` calls are all in use on this node: it was not dialled.",
            FailureClass::Suspended => {
                "The agent failed again and again and is left alone for a while: it was not dialled."
            }
        }
    }

    /// What the operator can do.
    pub const fn remedy(self) -> &'static str {
        match self {
            FailureClass::Unreachable => {
                "Check `url` and the way there; `antiphon check --dial` tries it. `fallback` of the route bridges it."
            }
            FailureClass::Timeout => {
                "Look at the vendor's status; `connect_timeout_ms` and the route's `agent_ready_ms` say how long is waited."
            }
            FailureClass::Auth => "Put a valid key where `antiphon check --dial` points.",
            FailureClass::Limit => "Raise the limit at the vendor, set `max_sessions` below it, or name a `fallback`.",
            FailureClass::Expired => {
                "Nothing, if the route has a `fallback` or the agent is renewed in time; else set `max_s` below it."
            }
            FailureClass::Protocol => {
                "Report it with the message: the vendor has changed something, or `kind` is not what answers there."
            }
            FailureClass::Internal => "Look at the vendor's status; name a `fallback`.",
            FailureClass::BadRequest => {
                "Correct the field that the message names: `agent_id`, `model`, `setup` or `vendor`."
            }
            FailureClass::Lost => "Nothing, if it is rare; name a `fallback`.",
            FailureClass::Stalled => {
                "Look at the vendor's status and at `antiphon_first_audio_seconds`; `answer_within_ms` may be too short."
            }
            FailureClass::Full => "Raise `max_sessions`, or put more agents into the route's `to`.",
            FailureClass::Suspended => {
                "Look at `antiphon_upstream_failures_total` for why it failed; it is tried again by itself."
            }
        }
    }
}

fn section(page: &mut String, label: &str, code: u16, retryable: bool, meaning: &str, remedy: &str) {
    let retry = if retryable { "yes" } else { "no" };
    let _ = write!(
        page,
        "\n### `{label}`\n\n{meaning}\n\n- Try again: {retry}\n- Close code: {code}\n- What to do: {remedy}\n"
    );
}

const HEAD: &str = "\
# Errors of `antiphon.v1`

Every error says what is wrong, where, and how to mend it. This page is written from the code
(`src/dialect/native/errors.rs`); a test fails when the two differ.

- `error {code, message, reason?, field?, retryable, retry_after_ms?}` tells of one thing that went wrong. The session goes on,
  unless the error refuses or ends the link; then the link is closed with the close code below.
- `ended {reason, …}` is the last message of a session; its `reason` is one of the second list.
- \"Try again\" means: the same thing may work later, unchanged. `retry_after_ms`, where present, says when.
- New codes and reasons may be added; treat an unknown code as `internal`, and an unknown reason by its close code.

## Error codes (`error.code`)
";

const FAILURES_HEAD: &str = "
## Failures of agents (`agent.reason`)

Why an agent could not be reached or kept: `agent {status: \"down\" | \"fallback\", reason}`, the call record and the label
`class` of `antiphon_upstream_failures_total`. The route's `fallback` is tried next, whatever the class.
";

const DENIED_HEAD: &str = "
## Reasons of a refusal (`error.reason`)

Why a caller was not let in: beside `code` in `error`, as `reason` of problem details over HTTP (with the status of the
code: 401, 403, 429 or 503), in the close frame of a WebSocket, and as the label of `antiphon_callers_denied_total`. Nothing
was dialled, and a token that may be used once was not used up, except for `token_used` itself.
";

const REASONS_HEAD: &str = "
## Close reasons (`ended.reason`)
";
