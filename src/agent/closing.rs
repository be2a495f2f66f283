//! What a close code of a vendor means.

use crate::agent::outbox::reported;
use crate::message::{AgentError, FailureClass};

/// The failure of a conversation whose WebSocket the vendor has closed, in a class that its protocol knows better.
pub(crate) fn closed(class: FailureClass, code: u16, reason: &str) -> AgentError {
    let reason = if reason.is_empty() { "the agent closed the connection" } else { reason };
    reported(class, code.to_string().as_str(), reason)
}

/// The failure of a conversation whose WebSocket was closed, by the usual meaning of the code (RFC 6455 section 7.4, and
/// its registry): 1000 and 1005 after it was ready are a normal end.
pub(crate) fn failure_of_close(code: u16, reason: &str, ready: bool) -> Option<AgentError> {
    let class = match code {
        1000 | 1005 if ready => return None,
        1001 | 1012 | 1013 => FailureClass::Unreachable,
        1002 | 1003 | 1007 | 1009 => FailureClass::BadRequest,
        1008 | 3000 | 3003 => FailureClass::Auth,
        1011 => FailureClass::Internal,
        _ => FailureClass::Lost,
    };
    let message = format!("the agent closed the connection: {code} {reason}");
    Some(reported(class, code.to_string().as_str(), message.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normal_close_ends_and_any_other_fails_with_its_class() {
        assert_eq!(failure_of_close(1000, "bye", true), None);
        let class = |code, ready| failure_of_close(code, "why", ready).expect("a failure").class;
        assert_eq!(class(1000, false), FailureClass::Lost);
        assert_eq!(class(1011, true), FailureClass::Internal);
        assert_eq!(class(1008, true), FailureClass::Auth);
        assert_eq!(class(1006, true), FailureClass::Lost);
    }
}
