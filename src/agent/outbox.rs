//! What an agent protocol has to say, to its wire and to the session, in order.

use std::collections::VecDeque;

use serde_json::Value;

use crate::agent::{AgentOutput, Wire};
use crate::dialect::native::codec;
use crate::message::{AgentEnd, AgentError, FailureClass, FromAgent, FromClient};
use crate::time::Micros;

/// Longest text of an error that is passed on, in bytes.
const ERROR_BYTES: usize = 512;
/// Longest code of an error that is passed on, in bytes.
const CODE_BYTES: usize = 64;

/// What one input has caused, in order: the driver polls it empty after each. The conversation ends in it at most once.
#[derive(Debug)]
pub(crate) struct Outbox {
    outputs: VecDeque<AgentOutput>,
    /// Fields of the set-up that the vendor has refused.
    refused: Vec<String>,
    ended: bool,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox { outputs: VecDeque::with_capacity(8), refused: Vec::new(), ended: false }
    }
}

impl Outbox {
    /// Says a JSON message on the wire.
    pub(crate) fn say(&mut self, message: &Value) {
        self.send(Wire::Text(message.to_string()));
    }

    /// Says a message of `antiphon.v1` on the wire, if it is one.
    pub(crate) fn say_native(&mut self, message: &FromClient) {
        if let Some(text) = codec::encode_from_client(message) {
            self.send(Wire::Text(text));
        }
    }

    pub(crate) fn send(&mut self, wire: Wire) {
        self.push(AgentOutput::Wire(wire));
    }

    /// Sends a frame of audio whose added latency counts from `ready`.
    pub(crate) fn send_audio(&mut self, wire: Wire, ready: Micros) {
        self.push(AgentOutput::Audio { wire, ready });
    }

    /// Tells the session.
    pub(crate) fn tell(&mut self, event: FromAgent) {
        self.push(AgentOutput::Event(event));
    }

    /// Tells the session of an error after which the conversation goes on.
    pub(crate) fn tell_error<'a>(&mut self, class: FailureClass, code: impl Into<Option<&'a str>>, message: &str) {
        self.tell(FromAgent::Error(reported(class, code, message)));
    }

    /// Tells the session of `fields` of a set-up that the vendor does not apply, if there are any.
    pub(crate) fn not_apply(&mut self, fields: Vec<String>) {
        if !fields.is_empty() {
            self.tell(FromAgent::NotApplied(fields));
        }
    }

    /// The same for a vendor that refuses fields one by one: with those refused before, unless all are known.
    pub(crate) fn refuse(&mut self, fields: Vec<String>) {
        let known = self.refused.len();
        for field in fields {
            if !self.refused.contains(&field) {
                self.refused.push(field);
            }
        }
        if self.refused.len() > known {
            self.tell(FromAgent::NotApplied(self.refused.clone()));
        }
    }

    /// The conversation is over, with or without a failure. What ends it first counts.
    pub(crate) fn end(&mut self, failure: Option<AgentError>) {
        if !std::mem::replace(&mut self.ended, true) {
            self.tell(FromAgent::Ended(AgentEnd { failure }));
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whatever has no method of its own.
    pub(crate) fn push(&mut self, output: AgentOutput) {
        self.outputs.push_back(output);
    }

    /// The next output; without one, idle until `deadline`.
    pub(crate) fn poll(&mut self, deadline: Option<Micros>) -> AgentOutput {
        self.outputs.pop_front().unwrap_or(AgentOutput::Idle { deadline })
    }
}

/// An error in the vendor's words, as long as is passed on.
pub(crate) fn reported<'a>(class: FailureClass, code: impl Into<Option<&'a str>>, message: &str) -> AgentError {
    let code = code.into().filter(|code| !code.is_empty()).map(|code| codec::shortened(code, CODE_BYTES));
    AgentError { class, code, message: codec::shortened(message, ERROR_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(out: &mut Outbox) -> Vec<FromAgent> {
        std::iter::from_fn(|| match out.poll(None) {
            AgentOutput::Event(event) => Some(event),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn a_conversation_ends_once_for_its_first_reason() {
        let mut out = Outbox::default();
        let failure = reported(FailureClass::Internal, "broken", "it broke");
        out.end(Some(failure.clone()));
        out.end(None);
        assert!(out.has_ended());
        let told = events(&mut out);
        assert!(matches!(&told[..], [FromAgent::Ended(end)] if end.failure.as_ref() == Some(&failure)), "{told:?}");
    }

    #[test]
    fn a_field_that_is_refused_is_told_once_with_those_before() {
        let mut out = Outbox::default();
        let fields = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for told in [&["voice"][..], &["voice"], &[], &["tools", "voice"]] {
            out.refuse(fields(told));
        }
        let told = events(&mut out);
        let [FromAgent::NotApplied(first), FromAgent::NotApplied(second)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((first, second), (&fields(&["voice"]), &fields(&["voice", "tools"])));
    }

    #[test]
    fn an_error_is_passed_on_no_longer_than_anybody_reads() {
        let error = reported(FailureClass::Internal, "c".repeat(100).as_str(), &"ä".repeat(1_000));
        assert!(error.message.len() <= ERROR_BYTES + '…'.len_utf8(), "{}", error.message.len());
        assert!(error.code.is_some_and(|code| code.len() <= CODE_BYTES + '…'.len_utf8()));
        assert_eq!(reported(FailureClass::Internal, "", "no code").code, None);
    }
}
