//! Tool calls: each runs at most once in a session, whatever becomes of the agent that waits for its result.
//!
//! A call outlives its agent. The agent that takes over is told of the result; if it makes the same call (same tool,
//! same arguments) by itself, that one is answered by the call that runs or has run already.

use serde_json::Value;

use crate::ids::{CallId, TurnId, UpstreamId};
use crate::message::{ContextItem, Role, ToolCall, ToolResult};

/// Tool calls that may run at once.
pub const MAX_RUNNING: usize = 64;
/// Results kept for an agent that takes over; the oldest go first.
const MAX_RESULTS: usize = 32;

/// One call.
#[derive(Debug)]
struct Call {
    /// As whoever runs it knows it.
    id: CallId,
    name: String,
    arguments: String,
    /// Who made it.
    maker: UpstreamId,
    /// Who waits for the result, and the id that it knows the call by; `None` once that agent is gone.
    waits: Option<(UpstreamId, CallId)>,
    result: Option<(String, bool)>,
    /// The turn that followed the result.
    answer: Option<TurnId>,
}

impl Call {
    fn is_same(&self, call: &ToolCall) -> bool {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
        self.name == call.name
            && (self.arguments == call.arguments
                || parsed(&self.arguments).is_some_and(|ours| Some(ours) == parsed(&call.arguments)))
    }
}

/// What becomes of a call that an agent makes.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Run it.
    Run(ToolCall),
    /// Nothing to do: it runs already, or it came twice.
    Wait,
    /// It has run already.
    Answer(ToolResult),
    /// Too many run.
    Full,
}

/// Where a result goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To the agent that waits for it.
    Answer(UpstreamId, ToolResult),
    /// Whoever waited is gone: what the present agent should know.
    Tell(ContextItem),
    /// No such call waits.
    Unknown,
}

/// The tool calls of one session.
#[derive(Debug, Default)]
pub struct Tools {
    calls: Vec<Call>,
    made: u32,
}

impl Tools {
    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.running() == 0
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.calls.iter().filter(|call| call.result.is_none()).count()
    }

    /// An agent makes a call.
    pub fn on_call(&mut self, upstream: UpstreamId, call: ToolCall) -> Verdict {
        let same_id = |known: &Call| known.maker == upstream && known.id == call.call_id;
        let waited_for =
            |known: &Call| known.waits.as_ref().is_some_and(|(by, id)| *by == upstream && *id == call.call_id);
        if self.calls.iter().any(|known| same_id(known) || waited_for(known)) {
            return Verdict::Wait;
        }
        let inherited = |known: &&mut Call| known.maker != upstream && known.waits.is_none() && known.is_same(&call);
        if let Some(known) = self.calls.iter_mut().find(inherited) {
            known.waits = Some((upstream, call.call_id.clone()));
            return match known.result.clone() {
                Some((output, is_error)) => Verdict::Answer(ToolResult { call_id: call.call_id, output, is_error }),
                None => Verdict::Wait,
            };
        }
        if self.running() == MAX_RUNNING {
            return Verdict::Full;
        }
        self.made += 1;
        let taken = self.calls.iter().any(|known| known.id == call.call_id);
        let id = if taken { CallId::from(format!("{}.{}", call.call_id, self.made)) } else { call.call_id.clone() };
        self.calls.push(Call {
            id: id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
            maker: upstream,
            waits: Some((upstream, call.call_id)),
            result: None,
            answer: None,
        });
        Verdict::Run(ToolCall { call_id: id, name: call.name, arguments: call.arguments })
    }

    /// A call has run.
    pub fn on_result(&mut self, result: ToolResult) -> Delivery {
        let running = |call: &&mut Call| call.id == result.call_id && call.result.is_none();
        let Some(call) = self.calls.iter_mut().find(running) else { return Delivery::Unknown };
        call.result = Some((result.output.clone(), result.is_error));
        let delivery = match &call.waits {
            Some((upstream, id)) => Delivery::Answer(*upstream, ToolResult { call_id: id.clone(), ..result }),
            None => Delivery::Tell(told(call)),
        };
        self.forget_oldest();
        delivery
    }

    /// An agent no longer wants the results of these calls; gives those that still ran, as whoever runs them knows them.
    pub fn on_cancelled(&mut self, upstream: UpstreamId, calls: &[CallId]) -> Vec<ToolCall> {
        let meant = |call: &mut Call| {
            let waits = call.waits.as_ref().is_some_and(|(by, id)| *by == upstream && calls.contains(id));
            waits && call.result.is_none()
        };
        let cancelled = self.calls.extract_if(.., meant);
        cancelled.map(|call| ToolCall { call_id: call.id, name: call.name, arguments: call.arguments }).collect()
    }

    /// An agent is gone: nobody waits for its results any more.
    pub fn on_gone(&mut self, upstream: UpstreamId) {
        for call in &mut self.calls {
            call.waits.take_if(|(by, _)| *by == upstream);
        }
    }

    /// An agent begins a turn.
    pub fn on_turn(&mut self, turn: TurnId) {
        for call in self.calls.iter_mut().filter(|call| call.result.is_some() && call.answer.is_none()) {
            call.answer = Some(turn);
        }
    }

    /// A turn was heard to its end: the results that it rests on are part of what was said.
    pub fn on_played(&mut self, turn: TurnId) {
        self.calls.retain(|call| call.answer != Some(turn));
    }

    /// Results whose answer nobody has heard yet, for an agent that takes over.
    pub fn context(&self) -> impl Iterator<Item = ContextItem> {
        self.calls.iter().filter(|call| call.result.is_some()).map(told)
    }

    fn forget_oldest(&mut self) {
        if self.calls.len() - self.running() > MAX_RESULTS
            && let Some(oldest) = self.calls.iter().position(|call| call.result.is_some())
        {
            self.calls.remove(oldest);
        }
    }
}

/// A result in words, for an agent that did not make the call.
fn told(call: &Call) -> ContextItem {
    let (output, is_error) = call.result.clone().unwrap_or_default();
    let how = if is_error { "failed" } else { "returned" };
    let text = format!("(The tool {} was called with {} and {how}: {output})", call.name, call.arguments);
    ContextItem { role: Role::Agent, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: UpstreamId = UpstreamId(0);
    const SECOND: UpstreamId = UpstreamId(1);

    fn call(id: &str, arguments: &str) -> ToolCall {
        ToolCall { call_id: id.into(), name: "look_up".into(), arguments: arguments.into() }
    }

    fn result(id: &str) -> ToolResult {
        ToolResult { call_id: id.into(), output: "42".into(), is_error: false }
    }

    #[test]
    fn a_result_goes_to_the_agent_that_waits_for_it() {
        let mut tools = Tools::default();
        assert_eq!(tools.on_call(FIRST, call("c", "{}")), Verdict::Run(call("c", "{}")));
        assert_eq!(tools.on_call(FIRST, call("c", "{}")), Verdict::Wait, "it came twice");
        assert_eq!(tools.on_result(result("c")), Delivery::Answer(FIRST, result("c")));
        assert_eq!(tools.on_result(result("c")), Delivery::Unknown, "it is answered once");
        assert_eq!(
            tools.on_call(FIRST, call("d", "{}")),
            Verdict::Run(call("d", "{}")),
            "the same agent may ask again"
        );
    }

    #[test]
    fn the_agent_that_takes_over_gets_the_result_and_its_own_same_call_does_not_run_again() {
        let mut tools = Tools::default();
        tools.on_call(FIRST, call("c", r#"{"a":1,"b":2}"#));
        tools.on_gone(FIRST);
        assert_eq!(tools.on_call(SECOND, call("x", r#"{ "b": 2, "a": 1 }"#)), Verdict::Wait);
        assert_eq!(tools.on_result(result("c")), Delivery::Answer(SECOND, result("x")));
    }

    #[test]
    fn a_result_that_nobody_waits_for_is_told_and_answers_a_later_call() {
        let mut tools = Tools::default();
        tools.on_call(FIRST, call("c", "{}"));
        tools.on_gone(FIRST);
        let Delivery::Tell(item) = tools.on_result(result("c")) else { panic!("nobody waits") };
        assert!(item.text.contains("look_up") && item.text.contains("42"), "{}", item.text);
        assert_eq!(tools.context().collect::<Vec<_>>(), [item]);
        assert_eq!(tools.on_call(SECOND, call("x", "{}")), Verdict::Answer(result("x")));
    }

    #[test]
    fn other_arguments_or_an_id_that_is_taken_are_another_call() {
        let mut tools = Tools::default();
        tools.on_call(FIRST, call("c", "{}"));
        tools.on_gone(FIRST);
        let Verdict::Run(run) = tools.on_call(SECOND, call("c", r#"{"a":1}"#)) else { panic!("it is another call") };
        assert_ne!(run.call_id, CallId::from("c"));
        let answer = ToolResult { call_id: run.call_id, ..result("") };
        assert_eq!(tools.on_result(answer), Delivery::Answer(SECOND, result("c")));
    }

    #[test]
    fn a_result_is_kept_until_the_answer_to_it_was_heard() {
        let mut tools = Tools::default();
        tools.on_call(FIRST, call("c", "{}"));
        tools.on_turn(TurnId(1));
        tools.on_result(result("c"));
        tools.on_played(TurnId(1));
        assert_eq!(tools.context().count(), 1, "what was said before the result is not the answer");
        tools.on_turn(TurnId(2));
        assert_eq!(tools.context().count(), 1, "the answer was not heard yet");
        tools.on_played(TurnId(2));
        assert_eq!(tools.context().count(), 0);
    }

    #[test]
    fn a_call_that_is_no_longer_wanted_is_forgotten() {
        let mut tools = Tools::default();
        tools.on_call(FIRST, call("c", "{}"));
        assert_eq!(tools.on_cancelled(FIRST, &["c".into(), "d".into()]), [call("c", "{}")]);
        assert_eq!(tools.on_result(result("c")), Delivery::Unknown);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut tools = Tools::default();
        for index in 0..1000 {
            let id = format!("c{index}");
            tools.on_call(FIRST, call(&id, "{}"));
            tools.on_result(result(&id));
        }
        assert_eq!(tools.context().count(), MAX_RESULTS);
        let runs =
            (0..100).filter(|index| matches!(tools.on_call(FIRST, call(&format!("r{index}"), "{}")), Verdict::Run(_)));
        assert_eq!(runs.count(), MAX_RUNNING);
    }
}
