//! Work that the model hands over: to a Responses model behind the session, whose function calls become tool calls, or
//! to the application, which is asked by one tool named [`DELEGATE`].

use std::collections::{BTreeSet, VecDeque};

use serde_json::{Value, json};

use crate::ids::CallId;
use crate::message::{AgentTranscript, Role, ToolCall, ToolResult};

/// The tool that work for the application becomes a call of.
pub const DELEGATE: &str = "delegate";
/// Runs that are remembered.
const RUNS: usize = 32;
/// Calls that wait for a result.
const CALLS: usize = 128;
/// Of what was said since the last delegation, bytes that are kept: the newest.
const SAID: usize = 8 * 1024;

/// A run of the model behind the session.
#[derive(Debug)]
struct Run {
    key: String,
    waiting: BTreeSet<CallId>,
    called: bool,
    finished: bool,
}

/// Delegations of one session.
#[derive(Debug, Default)]
pub struct Delegations {
    runs: VecDeque<Run>,
    /// Delegations to the application that wait for a result.
    asked: VecDeque<CallId>,
    said: VecDeque<(Role, String)>,
    said_bytes: usize,
}

/// What to do with a tool's result.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is the output of a function; `go_on`: it was the last one that was missing.
    Function {
        /// Whether the run can go on.
        go_on: bool,
    },
    /// It is what came of a delegation with this id.
    Delegation,
    /// Nobody waits for it.
    Unknown,
}

impl Delegations {
    /// Something was said, which the application has to know when work is handed over to it.
    pub fn note(&mut self, line: &AgentTranscript) {
        if line.text.is_empty() {
            return;
        }
        self.said_bytes += line.text.len();
        match self.said.back_mut() {
            Some((role, text)) if *role == line.role => text.push_str(&line.text),
            _ => self.said.push_back((line.role, line.text.clone())),
        }
        while self.said_bytes > SAID {
            let Some((_, oldest)) = self.said.pop_front() else { break };
            self.said_bytes -= oldest.len();
        }
    }

    /// Work is handed over to the application: the call that asks for it.
    pub fn ask(&mut self, id: &str) -> Option<ToolCall> {
        let call_id = CallId::from(id);
        if self.asked.contains(&call_id) {
            return None;
        }
        if self.asked.len() == CALLS {
            self.asked.pop_front();
        }
        self.asked.push_back(call_id.clone());
        self.said_bytes = 0;
        let line = |(role, text): (Role, String)| json!({"role": role, "text": text.trim()});
        let said: Vec<Value> = self.said.drain(..).map(line).collect();
        let arguments = json!({"conversation": said}).to_string();
        Some(ToolCall { call_id, name: DELEGATE.to_owned(), arguments })
    }

    fn run(&mut self, key: &str) -> &mut Run {
        let at = self.runs.iter().position(|run| run.key == key).unwrap_or_else(|| {
            if self.runs.len() == RUNS {
                self.runs.pop_front();
            }
            let key = key.to_owned();
            self.runs.push_back(Run { key, waiting: BTreeSet::new(), called: false, finished: false });
            self.runs.len() - 1
        });
        &mut self.runs[at]
    }

    /// The run of a delegation calls a function: the tool call, unless it was told before.
    pub fn call(&mut self, key: &str, item: &Value) -> Option<ToolCall> {
        let (id, name) = (item["call_id"].as_str()?, item["name"].as_str()?);
        let call_id = CallId::from(id);
        let known = |run: &Run| run.waiting.contains(&call_id);
        if self.runs.iter().any(known) {
            return None;
        }
        let run = self.run(key);
        if run.waiting.len() == CALLS {
            return None;
        }
        (run.called, run.finished) = (true, false);
        run.waiting.insert(call_id.clone());
        let arguments = item["arguments"].as_str().filter(|text| !text.is_empty()).unwrap_or("{}").to_owned();
        Some(ToolCall { call_id, name: name.to_owned(), arguments })
    }

    /// The run of a delegation has ended; whether it can go on, because all its calls were answered meanwhile.
    pub fn finish(&mut self, key: &str) -> bool {
        let run = self.run(key);
        run.finished = true;
        self.goes_on(key)
    }

    fn goes_on(&mut self, key: &str) -> bool {
        let Some(at) = self.runs.iter().position(|run| run.key == key) else { return false };
        let run = &self.runs[at];
        if !run.finished || !run.waiting.is_empty() {
            return false;
        }
        self.runs.remove(at).is_some_and(|run| run.called)
    }

    /// A tool has run.
    pub fn answer(&mut self, result: &ToolResult) -> Answer {
        if let Some(at) = self.asked.iter().position(|id| *id == result.call_id) {
            self.asked.remove(at);
            return Answer::Delegation;
        }
        let run = self.runs.iter_mut().find(|run| run.waiting.contains(&result.call_id));
        let Some(run) = run else { return Answer::Unknown };
        run.waiting.remove(&result.call_id);
        let key = run.key.clone();
        Answer::Function { go_on: self.goes_on(&key) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(id: &str) -> ToolResult {
        ToolResult { call_id: id.into(), output: "4".into(), is_error: false }
    }

    #[test]
    fn a_run_goes_on_once_it_has_ended_and_all_its_calls_are_answered_in_whatever_order() {
        let mut delegations = Delegations::default();
        let call = |id: &str| json!({"call_id": id, "name": "look", "arguments": "{}"});
        assert!(delegations.call("d", &call("a")).is_some() && delegations.call("d", &call("a")).is_none());
        delegations.call("d", &call("b"));
        assert_eq!(delegations.answer(&result("a")), Answer::Function { go_on: false });
        assert!(!delegations.finish("d"));
        assert_eq!(delegations.answer(&result("b")), Answer::Function { go_on: true });
        assert_eq!(delegations.answer(&result("b")), Answer::Unknown);
        delegations.call("e", &call("c"));
        assert_eq!(delegations.answer(&result("c")), Answer::Function { go_on: false }, "it still runs");
        assert!(delegations.finish("e"));
        assert!(!delegations.finish("f"), "it called nothing");
    }

    #[test]
    fn the_application_is_told_what_was_said_since_it_was_asked_last_and_never_more_than_it_can_read() {
        let mut delegations = Delegations::default();
        let line =
            |role, text: &str| AgentTranscript { item: None, role, text: text.into(), append: true, is_final: false };
        delegations.note(&line(Role::User, "Where is"));
        delegations.note(&line(Role::User, " my order?"));
        delegations.note(&line(Role::Agent, "One moment."));
        let call = delegations.ask("d").expect("a call");
        assert_eq!(call.name, DELEGATE);
        let told = json!([{"role": "user", "text": "Where is my order?"}, {"role": "agent", "text": "One moment."}]);
        assert_eq!(serde_json::from_str::<Value>(&call.arguments).expect("JSON")["conversation"], told);
        for n in 0..1_000 {
            delegations.note(&line(if n % 2 == 0 { Role::User } else { Role::Agent }, "some more words of the two"));
        }
        let call = delegations.ask("e").expect("a call");
        assert!(call.arguments.len() < 3 * SAID, "{}", call.arguments.len());
        assert_eq!(delegations.answer(&result("d")), Answer::Delegation);
        assert_eq!(delegations.answer(&result("d")), Answer::Unknown);
    }
}
