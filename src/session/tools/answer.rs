//! What an agent learns of a tool that was run by HTTP.

use crate::message::FailureClass;
use crate::session::event::{ToolAnswer, ToolOutcome};

/// Of the body of a refusal (status 4xx), so much is told, in bytes.
const MAX_REFUSAL: usize = 4 << 10;

/// The output for the agent, and how the call ended. Where the tool is, and what a broken one printed, is not told: an
/// agent may say it aloud.
pub fn read(answer: &ToolAnswer) -> (String, ToolOutcome) {
    match answer {
        ToolAnswer::Answered { status: 200..=299, body } => match std::str::from_utf8(body) {
            Ok(text) => (text.to_owned(), ToolOutcome::Ok),
            Err(_) => failed("the tool's answer is no text"),
        },
        // What was wrong with the call: the agent may mend it.
        ToolAnswer::Answered { status: status @ (400..=407 | 409..=428 | 430..=499), body } => {
            let text = std::str::from_utf8(body).ok().filter(|text| text.len() <= MAX_REFUSAL);
            match text.map(str::trim).filter(|text| !text.is_empty()) {
                Some(text) => failed(text),
                None => failed(&format!("the tool refused the call (status {status})")),
            }
        }
        ToolAnswer::Answered { status, .. } => failed(&format!("the tool failed (status {status})")),
        ToolAnswer::Failed(FailureClass::Timeout) => timed_out(),
        ToolAnswer::Failed(FailureClass::Protocol) => failed("the tool's answer cannot be used"),
        ToolAnswer::Failed(_) => failed("the tool cannot be reached"),
    }
}

/// A tool did not answer in its time.
pub fn timed_out() -> (String, ToolOutcome) {
    ("the tool did not answer in time; whether it did its work is not known".to_owned(), ToolOutcome::Timeout)
}

fn failed(text: &str) -> (String, ToolOutcome) {
    (text.to_owned(), ToolOutcome::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &[u8]) -> (String, ToolOutcome) {
        read(&ToolAnswer::Answered { status, body: bytes::Bytes::copy_from_slice(body) })
    }

    #[test]
    fn what_succeeds_is_told_as_it_is_and_what_the_tool_refuses_with_its_reason() {
        assert_eq!(answered(200, b"{\"a\":1}"), ("{\"a\":1}".into(), ToolOutcome::Ok));
        assert_eq!(answered(204, b""), (String::new(), ToolOutcome::Ok));
        assert_eq!(answered(422, b" no such order \n"), ("no such order".into(), ToolOutcome::Error));
        assert_eq!(answered(404, b"").0, "the tool refused the call (status 404)");
        assert_eq!(answered(404, &[b'x'; MAX_REFUSAL + 1]).0, "the tool refused the call (status 404)");
    }

    #[test]
    fn nothing_of_a_broken_tool_reaches_the_agent_but_that_it_is_broken() {
        for status in [301, 408, 429, 500, 503, 100] {
            let (told, outcome) = answered(status, b"Traceback: /srv/secret");
            assert_eq!((told, outcome), (format!("the tool failed (status {status})"), ToolOutcome::Error));
        }
        assert_eq!(answered(200, b"\xff\xfe").1, ToolOutcome::Error);
        assert_eq!(read(&ToolAnswer::Failed(FailureClass::Timeout)).1, ToolOutcome::Timeout);
        for class in [FailureClass::Unreachable, FailureClass::Protocol, FailureClass::Lost] {
            assert_eq!(read(&ToolAnswer::Failed(class)).1, ToolOutcome::Error);
        }
    }
}
