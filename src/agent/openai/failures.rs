//! Errors that the vendor reports: which mean nothing, which are told, which end the session.

use serde_json::Value;

use super::{HARMLESS, OPENING, OpenaiAgent};
use crate::agent::outbox::reported;
use crate::message::FailureClass;

impl OpenaiAgent {
    pub(super) fn handle_error(&mut self, error: &Value) {
        let of = error["event_id"].as_str().unwrap_or_default();
        let message = error["message"].as_str().unwrap_or("the agent reports an error");
        let failure = |class| reported(class, code_of(error), message);
        if code_of(error) == Some("session_expired") {
            return self.out.end(Some(failure(FailureClass::Expired)));
        }
        if !self.ready && of == OPENING {
            return self.out.end(Some(failure(FailureClass::BadRequest)));
        }
        if of.starts_with(HARMLESS) {
            self.ignored += 1;
            return;
        }
        if of.starts_with("antiphon_response") {
            // It has not begun; another one may be running.
            self.busy = code_of(error) == Some("conversation_already_has_active_response");
            if self.busy {
                self.wanted.get_or_insert(Value::Null);
                return;
            }
        }
        self.out.tell_error(class_of(error), code_of(error), message);
    }
}

pub(crate) fn code_of(error: &Value) -> Option<&str> {
    error["code"].as_str().or(error["type"].as_str())
}

/// The class of an error by its code and type.
pub(crate) fn class_of(error: &Value) -> FailureClass {
    match (error["code"].as_str().unwrap_or_default(), error["type"].as_str().unwrap_or_default()) {
        ("session_expired", _) => FailureClass::Expired,
        ("rate_limit_exceeded" | "insufficient_quota", _) | (_, "rate_limit_error" | "tokens") => FailureClass::Limit,
        ("invalid_api_key", _) | (_, "authentication_error") => FailureClass::Auth,
        (_, "invalid_request_error") => FailureClass::BadRequest,
        _ => FailureClass::Internal,
    }
}
