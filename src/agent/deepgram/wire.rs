//! What a Deepgram voice agent says in text frames.

use serde::Deserialize;

use crate::media::format::{Codec, Format};
use crate::message::FailureClass;

/// One message of the service.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Said {
    Welcome,
    SettingsApplied,
    ConversationText {
        role: String,
        content: String,
    },
    UserStartedSpeaking,
    AgentThinking,
    AgentStartedSpeaking,
    AgentAudioDone,
    FunctionCallRequest {
        functions: Vec<Function>,
    },
    FunctionCallCancelled {
        functions: Vec<CancelledFunction>,
    },
    InjectionRefused {
        #[serde(default)]
        message: String,
    },
    FrustrationDetected,
    Error(Trouble),
    Warning(Trouble),
    /// The same as `ConversationText`, or what the service ran by itself.
    History,
    FunctionCallResponse,
    PromptUpdated,
    SpeakUpdated,
    LatencyReport,
    /// Of no use to a relay, or unknown.
    #[serde(other)]
    Unknown,
}

/// A function that the model calls.
#[derive(Debug, Deserialize)]
pub(super) struct Function {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub arguments: String,
    /// Whether this side is to run it; else the service does.
    #[serde(default)]
    pub client_side: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct CancelledFunction {
    pub id: String,
}

/// An error or a warning.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Trouble {
    pub code: String,
    pub description: String,
}

/// The `encoding` of a format; `None` if the service has none that needs no container.
pub(super) const fn encoding(format: &Format) -> Option<&'static str> {
    match format.codec {
        Codec::Pcm16 => Some("linear16"),
        Codec::Pcmu => Some("mulaw"),
        Codec::Pcma => Some("alaw"),
        Codec::Opus => None,
    }
}

/// The class of an `Error` by its code and description.
pub(super) fn class_of(code: &str, words: &str) -> FailureClass {
    let text = format!("{code} {words}").to_ascii_uppercase();
    let says = |any: &[&str]| any.iter().any(|word| text.contains(word));
    if says(&["AUTH", "CREDENTIAL", "FORBIDDEN", "PERMISSION"]) {
        FailureClass::Auth
    } else if says(&["RATE_LIMIT", "RATE LIMIT", "TOO_MANY", "TOO MANY", "QUOTA", "CREDITS", "BALANCE", "CONCURREN"]) {
        FailureClass::Limit
    } else if says(&["SESSION_LIMIT", "SESSION_TIMEOUT", "MAX_DURATION", "MAXIMUM SESSION"]) {
        FailureClass::Expired
    } else if says(&["CLIENT_MESSAGE_TIMEOUT"]) {
        FailureClass::Timeout
    } else if says(&["UNPARSABLE", "INVALID", "BAD_REQUEST", "UNSUPPORTED", "NOT_FOUND"]) {
        FailureClass::BadRequest
    } else {
        FailureClass::Internal
    }
}

/// The class of a close frame.
pub(super) fn class_of_close(code: u16, reason: &str) -> FailureClass {
    match (class_of("", reason), code) {
        (FailureClass::Internal, 1008) => FailureClass::BadRequest,
        (FailureClass::Internal, 1011) if reason.to_ascii_uppercase().contains("NET-0001") => FailureClass::Timeout,
        (FailureClass::Internal, 1011) => FailureClass::Internal,
        (FailureClass::Internal, 1002 | 1003 | 1007 | 1009 | 1010) => FailureClass::BadRequest,
        (FailureClass::Internal, 1013) => FailureClass::Limit,
        (FailureClass::Internal, 1000) => FailureClass::Protocol,
        (FailureClass::Internal, _) => FailureClass::Lost,
        (class, _) => class,
    }
}
