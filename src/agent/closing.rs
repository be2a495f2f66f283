//! What a vendor's close code means.

use crate::message::{AgentEnd, AgentError, FailureClass};

/// The end of a conversation whose WebSocket the vendor has closed (RFC 6455 section 7.4, and its registry): 1000 and
/// 1005 after it was ready are a normal end, everything else a failure.
pub fn end_of_close(code: u16, reason: &str, ready: bool) -> AgentEnd {
    let class = match code {
        1000 | 1005 if ready => return AgentEnd { failure: None },
        1001 | 1012 | 1013 => FailureClass::Unreachable,
        1002 | 1003 | 1007 | 1009 => FailureClass::BadRequest,
        1008 | 3000 | 3003 => FailureClass::Auth,
        1011 => FailureClass::Internal,
        _ => FailureClass::Lost,
    };
    let message = format!("the agent closed the connection: {code} {reason}").trim_end().to_owned();
    AgentEnd { failure: Some(AgentError { class, code: Some(code.to_string()), message }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normal_close_ends_and_any_other_fails_with_its_class() {
        assert_eq!(end_of_close(1000, "bye", true).failure, None);
        let class = |code, ready| end_of_close(code, "why", ready).failure.expect("a failure").class;
        assert_eq!(class(1000, false), FailureClass::Lost);
        assert_eq!(class(1011, true), FailureClass::Internal);
        assert_eq!(class(1008, true), FailureClass::Auth);
        assert_eq!(class(1006, true), FailureClass::Lost);
    }
}
