//! Tools that agents call: at the client, by a signed POST, or built in.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::settings::ToolRun;
use crate::config::vendor::END_CALL;
use crate::ids::{CallId, UpstreamId};
use crate::message::{ContextItem, ErrorCode, TextMessage, ToAgent, ToClient, Tool, ToolCall, ToolResult, ToolStatus};
use crate::session::clients::merge;
use crate::session::event::{Measure, Output, ToolAnswer, ToolOutcome, ToolPost, ToolRunner};
use crate::session::tools::{Delivery, Due, Manner, Settled, Verdict, answer};
use crate::session::{Session, error};
use crate::time::Micros;

/// While somebody speaks, whether it is time for a filler is asked again so often.
const FILLER_RETRY: Duration = Duration::from_millis(200);
/// What an agent is asked that learns of a result which the agent before it waited for.
const BY_RESULT: &str = "Go on with the conversation by this result.";
/// A tool that nobody configured: it is the client's, and takes its time.
const UNKNOWN: Manner = Manner { runner: ToolRunner::Client, tool: None, timeout: None, filler: None };

impl Session {
    /// An agent calls a tool.
    pub(super) fn call_tool(&mut self, upstream: UpstreamId, call: ToolCall, now: Micros) {
        self.touch(now);
        let (call_id, name) = (call.call_id.clone(), call.name.clone());
        let manner = self.manner(&name);
        match self.tools.on_call(upstream, call, manner, (now - self.began, now)) {
            Verdict::Run(call, number) => self.run_tool(call, number, manner, now),
            Verdict::Wait => {}
            Verdict::Answer(result) => self.tell(ToAgent::ToolResult(result)),
            Verdict::Full => {
                let measure = Measure::Tool { tool: manner.tool, outcome: ToolOutcome::Refused, took: Duration::ZERO };
                self.outputs.push_back(Output::Measure(measure));
                let output = "too many tool calls at once".into();
                self.tell(ToAgent::ToolResult(ToolResult { call_id, output, is_error: true }));
            }
        }
    }

    /// Who runs a tool. The relay runs only what the set-up in force gives to the agent: a name that an agent makes up,
    /// or that somebody made it say, runs nothing.
    fn manner(&self, name: &str) -> Manner {
        let Some(active) = self.upstreams.active() else { return UNKNOWN };
        let setup = merge(&self.plan.rungs[active.rung].setup, &self.setup);
        match setup.tools.iter().flatten().find(|tool| tool.name() == name) {
            Some(Tool::Named(_)) => {}
            Some(Tool::Defined(_)) | None => return UNKNOWN,
        }
        let Some((place, (_, tool))) = self.plan.tools.iter().enumerate().find(|(_, (known, _))| *known == name) else {
            let built_in = Manner { runner: ToolRunner::Relay, ..UNKNOWN };
            return if name == END_CALL { built_in } else { UNKNOWN };
        };
        let (runner, timeout) = match &tool.run {
            ToolRun::Client { timeout } => (ToolRunner::Client, *timeout),
            ToolRun::Http { timeout, .. } => (ToolRunner::Http, *timeout),
        };
        let filler = tool.filler.as_ref().map(|filler| filler.after);
        Manner { runner, tool: Some(place), timeout: Some(timeout), filler }
    }

    fn run_tool(&mut self, call: ToolCall, number: u32, manner: Manner, now: Micros) {
        match manner.runner {
            ToolRunner::Client => self.say(ToClient::ToolCall(call)),
            ToolRunner::Http => self.post_tool(call, number, manner, now),
            ToolRunner::Relay => {
                let result = ToolResult { call_id: call.call_id, output: String::new(), is_error: false };
                self.settle_tool(result, ToolOutcome::Ok, now);
                self.agent_hangs_up(now);
            }
        }
    }

    fn post_tool(&mut self, call: ToolCall, number: u32, manner: Manner, now: Micros) {
        let ToolCall { call_id, name, arguments } = call;
        let given = if arguments.trim().is_empty() { "{}" } else { &arguments };
        let Ok(parsed) = serde_json::from_str::<Value>(given) else {
            let output = "the arguments are no JSON; the tool was not called".into();
            let result = ToolResult { call_id, output, is_error: true };
            return self.settle_tool(result, ToolOutcome::Error, now);
        };
        let body = json!({
            "call_id": call_id,
            "name": name,
            "arguments": parsed,
            "session_id": self.id,
            "conversation_id": self.conversation_id,
            "route": self.plan.route,
            "agent": self.upstreams.active().map(|active| self.plan.rungs[active.rung].name()),
            "tenant": self.plan.tenant,
            "user": self.plan.user,
            "metadata": self.metadata,
        });
        let key = format!("{}-{number}", self.id);
        self.say_tool(&call_id, &name, "running");
        let (Some(tool), body) = (manner.tool, body.to_string().into()) else { return };
        self.outputs.push_back(Output::RunTool(ToolPost { call_id, tool, key, body }));
    }

    /// What came of a call that the runtime made for [`Output::RunTool`].
    pub fn on_tool(&mut self, call: &CallId, answer: &ToolAnswer, now: Micros) {
        if self.closed || !self.tools.is_run_by(call, ToolRunner::Http) {
            return;
        }
        let (output, outcome) = answer::read(answer);
        let result = ToolResult { call_id: call.clone(), output, is_error: outcome != ToolOutcome::Ok };
        self.settle_tool(result, outcome, now);
        self.check_invariants();
    }

    /// A client tells what came of a call that it runs.
    pub(super) fn take_client_result(&mut self, result: ToolResult, now: Micros) {
        if self.tools.is_run_by(&result.call_id, ToolRunner::Client) {
            let outcome = if result.is_error { ToolOutcome::Error } else { ToolOutcome::Ok };
            return self.settle_tool(result, outcome, now);
        }
        let text = format!("no tool call `{}` waits for a result of yours", result.call_id);
        let mut error = error(ErrorCode::NotFound, text);
        error.field = Some("call_id".into());
        self.say(ToClient::Error(error));
    }

    /// A tool has run: the agent that waits for it, or the one that took its place, learns what came of it.
    fn settle_tool(&mut self, result: ToolResult, outcome: ToolOutcome, now: Micros) {
        self.touch(now);
        let Some(settled) = self.tools.on_result(result, outcome, now) else { return };
        self.note_settled(&settled, outcome);
        match settled.delivery {
            // Whoever hangs up is told nothing more.
            _ if settled.manner.runner == ToolRunner::Relay => {}
            Some(Delivery::Answer(upstream, result)) => {
                self.outputs.push_back(Output::ToAgent { upstream, message: ToAgent::ToolResult(result) });
                self.await_answer(now);
            }
            Some(Delivery::Tell(item)) => self.tell_result(item, now),
            None => {}
        }
    }

    /// Tells the present agent of a result that the agent before it waited for; the caller still does.
    fn tell_result(&mut self, item: ContextItem, now: Micros) {
        if !self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.text) {
            return self.tell(ToAgent::History(vec![item]));
        }
        let text = format!("{} {BY_RESULT}", item.text);
        self.tell(ToAgent::Message(TextMessage { id: "tool".into(), text, role: None }));
        self.await_answer(now);
    }

    /// An agent no longer wants some results.
    pub(super) fn cancel_tools(&mut self, upstream: UpstreamId, calls: &[CallId], now: Micros) {
        for settled in self.tools.on_cancelled(upstream, calls, now) {
            self.abort_tool(&settled);
            self.note_settled(&settled, ToolOutcome::Cancelled);
            if settled.manner.runner == ToolRunner::Client {
                self.say_tool(&settled.call_id, &settled.name, ToolOutcome::Cancelled.status());
            }
        }
    }

    /// Tools that take long, or too long.
    pub(super) fn tools_due(&mut self, now: Micros) {
        while let Some(due) = self.tools.take_due(now) {
            match due {
                Due::Filler { call_id, tool } => self.fill_tool(&call_id, tool, now),
                Due::TimedOut(call_id) => self.time_tool_out(call_id, now),
            }
        }
    }

    /// A tool takes long: the caller hears something, if nobody speaks.
    fn fill_tool(&mut self, call_id: &CallId, tool: usize, now: Micros) {
        if self.downlink.is_busy() || self.voiced_since.is_some() {
            return self.tools.put_filler_off(call_id, now + FILLER_RETRY);
        }
        if let Some(filler) = self.plan.tools.values().nth(tool).and_then(|tool| tool.filler.clone()) {
            self.downlink.announce(&filler.clip, now);
        }
    }

    fn time_tool_out(&mut self, call_id: CallId, now: Micros) {
        let (output, outcome) = answer::timed_out();
        let by_client = self.tools.is_run_by(&call_id, ToolRunner::Client);
        if !by_client {
            self.outputs.push_back(Output::AbortTool { call_id: call_id.clone() });
        }
        self.settle_tool(ToolResult { call_id, output, is_error: true }, outcome, now);
    }

    fn abort_tool(&mut self, settled: &Settled) {
        if settled.manner.runner == ToolRunner::Http {
            self.outputs.push_back(Output::AbortTool { call_id: settled.call_id.clone() });
        }
    }

    fn note_settled(&mut self, settled: &Settled, outcome: ToolOutcome) {
        let Settled { call_id, name, manner, took, .. } = settled;
        self.outputs.push_back(Output::Measure(Measure::Tool { tool: manner.tool, outcome, took: *took }));
        if manner.runner != ToolRunner::Client || outcome == ToolOutcome::Timeout {
            self.say_tool(call_id, name, outcome.status());
        }
    }

    fn say_tool(&mut self, call_id: &CallId, name: &str, status: &str) {
        let status = status.to_owned();
        self.say(ToClient::Tool(ToolStatus { call_id: call_id.clone(), name: name.to_owned(), status }));
    }
}
