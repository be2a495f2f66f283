//! Tool calls: each runs at most once in a session, whatever becomes of the agent that waits for its result.
//!
//! A call outlives its agent. The agent that takes over is told of the result; if it makes the same call (same tool,
//! same arguments) by itself, that one is answered by the call that runs or has run already.

pub mod answer;

use std::time::Duration;

use serde_json::Value;

use crate::ids::{CallId, TurnId, UpstreamId};
use crate::message::{ContextItem, Role, ToolCall, ToolResult};
use crate::session::event::{ToolOutcome, ToolRunner};
use crate::session::record::ToolEntry;
use crate::time::Micros;

/// Tool calls that may run at once.
pub const MAX_RUNNING: usize = 64;
/// Results kept for an agent that takes over; the oldest go first.
const MAX_RESULTS: usize = 32;
/// Calls that the record names one by one.
const MAX_ENTRIES: usize = 200;

/// How a call is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// By whom.
    pub runner: ToolRunner,
    /// The tool's place in [`Plan::tools`](crate::route::plan::Plan::tools); `None` if it is not configured.
    pub tool: Option<usize>,
    /// How long its result is waited for; `None`: for ever.
    pub timeout: Option<Duration>,
    /// Something is played to the caller if it takes so long.
    pub filler: Option<Duration>,
}

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
    manner: Manner,
    began: Micros,
    deadline: Option<Micros>,
    filler_at: Option<Micros>,
    /// Its place in the record.
    entry: usize,
}

impl Call {
    fn is_same(&self, call: &ToolCall) -> bool {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
        self.name == call.name
            && (self.arguments == call.arguments
                || parsed(&self.arguments).is_some_and(|ours| Some(ours) == parsed(&call.arguments)))
    }

    fn is_running(&self) -> bool {
        self.result.is_none()
    }
}

/// What becomes of a call that an agent makes.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Run it: the call as whoever runs it shall know it, and its number in the session, from 1.
    Run(ToolCall, u32),
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
}

/// A call that is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled {
    /// As whoever ran it knows it.
    pub call_id: CallId,
    /// The tool.
    pub name: String,
    /// How it was run.
    pub manner: Manner,
    /// From the call to its end.
    pub took: Duration,
    /// Where its result goes; `None` if it was taken back.
    pub delivery: Option<Delivery>,
}

/// What a call is due for.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// It takes long: the caller may be told so.
    Filler {
        /// The call.
        call_id: CallId,
        /// The tool's place in the plan.
        tool: usize,
    },
    /// Its time is over.
    TimedOut(CallId),
}

/// The tool calls of one session.
#[derive(Debug, Default)]
pub struct Tools {
    calls: Vec<Call>,
    made: u32,
    entries: Vec<ToolEntry>,
}

impl Tools {
    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.running() == 0
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.calls.iter().filter(|call| call.is_running()).count()
    }

    /// Whether this call runs, and is run by `runner`.
    pub fn is_run_by(&self, id: &CallId, runner: ToolRunner) -> bool {
        self.calls.iter().any(|call| call.id == *id && call.is_running() && call.manner.runner == runner)
    }

    /// For the call record, oldest first.
    pub fn entries(&self) -> &[ToolEntry] {
        &self.entries
    }

    /// Whether the caller waits for what comes of a call: it runs, or its result was not spoken of yet.
    pub fn is_awaited(&self) -> bool {
        self.calls.iter().any(|call| call.is_running() || call.answer.is_none())
    }

    /// An agent makes a call; `at` is when, since the session began.
    pub fn on_call(
        &mut self,
        upstream: UpstreamId,
        call: ToolCall,
        manner: Manner,
        (at, now): (Duration, Micros),
    ) -> Verdict {
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
        let full = self.running() == MAX_RUNNING;
        let entry = self.entries.len();
        if entry < MAX_ENTRIES {
            self.entries.push(ToolEntry {
                name: call.name.clone(),
                by: manner.runner,
                at_ms: at.as_millis() as u64,
                took_ms: None,
                result: if full { ToolOutcome::Refused } else { ToolOutcome::Unfinished },
            });
        }
        if full {
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
            manner,
            began: now,
            deadline: manner.timeout.map(|timeout| now + timeout),
            filler_at: manner.filler.map(|after| now + after),
            entry,
        });
        Verdict::Run(ToolCall { call_id: id, name: call.name, arguments: call.arguments }, self.made)
    }

    /// A call has run, or never will; `None` if no such call waits.
    pub fn on_result(&mut self, result: ToolResult, outcome: ToolOutcome, now: Micros) -> Option<Settled> {
        let call = self.calls.iter_mut().find(|call| call.id == result.call_id && call.is_running())?;
        call.result = Some((result.output.clone(), result.is_error));
        let mut settled = settle(call, &mut self.entries, outcome, now);
        settled.delivery = Some(match &call.waits {
            Some((upstream, id)) => Delivery::Answer(*upstream, ToolResult { call_id: id.clone(), ..result }),
            None => Delivery::Tell(told(call)),
        });
        self.forget_oldest();
        Some(settled)
    }

    /// An agent no longer wants the results of these calls; gives those that still ran.
    pub fn on_cancelled(&mut self, upstream: UpstreamId, calls: &[CallId], now: Micros) -> Vec<Settled> {
        let meant = |call: &mut Call| {
            let waits = call.waits.as_ref().is_some_and(|(by, id)| *by == upstream && calls.contains(id));
            waits && call.is_running()
        };
        let cancelled: Vec<Call> = self.calls.extract_if(.., meant).collect();
        let settled = cancelled.iter().map(|call| settle(call, &mut self.entries, ToolOutcome::Cancelled, now));
        settled.collect()
    }

    /// When [`Tools::take_due`] has something to give.
    pub fn deadline(&self) -> Option<Micros> {
        let running = self.calls.iter().filter(|call| call.is_running());
        running.flat_map(|call| [call.deadline, call.filler_at]).flatten().min()
    }

    /// What is due now, once each.
    pub fn take_due(&mut self, now: Micros) -> Option<Due> {
        let is_due = |at: &mut Micros| *at <= now;
        let mut running = self.calls.iter_mut().filter(|call| call.is_running());
        running.find_map(|call| {
            if call.deadline.take_if(is_due).is_some() {
                call.filler_at = None;
                return Some(Due::TimedOut(call.id.clone()));
            }
            call.filler_at.take_if(is_due)?;
            call.manner.tool.map(|tool| Due::Filler { call_id: call.id.clone(), tool })
        })
    }

    /// The caller cannot be told now that a call takes long: later.
    pub fn put_filler_off(&mut self, id: &CallId, until: Micros) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.id == *id && call.is_running()) {
            call.filler_at = Some(until);
        }
    }

    /// An agent is gone: nobody waits for its results any more.
    pub fn on_gone(&mut self, upstream: UpstreamId) {
        for call in &mut self.calls {
            call.waits.take_if(|(by, _)| *by == upstream);
        }
    }

    /// An agent begins a turn.
    pub fn on_turn(&mut self, turn: TurnId) {
        for call in self.calls.iter_mut().filter(|call| !call.is_running() && call.answer.is_none()) {
            call.answer = Some(turn);
        }
    }

    /// A turn was heard to its end: the results that it rests on are part of what was said.
    pub fn on_played(&mut self, turn: TurnId) {
        self.calls.retain(|call| call.answer != Some(turn));
    }

    /// Results whose answer nobody has heard yet, for an agent that takes over.
    pub fn context(&self) -> impl Iterator<Item = ContextItem> {
        self.calls.iter().filter(|call| !call.is_running()).map(told)
    }

    fn forget_oldest(&mut self) {
        if self.calls.len() - self.running() > MAX_RESULTS
            && let Some(oldest) = self.calls.iter().position(|call| !call.is_running())
        {
            self.calls.remove(oldest);
        }
    }
}

/// Writes down how a call ended.
fn settle(call: &Call, entries: &mut [ToolEntry], outcome: ToolOutcome, now: Micros) -> Settled {
    let took = now - call.began;
    if let Some(entry) = entries.get_mut(call.entry) {
        entry.took_ms = Some(took.as_millis() as u64);
        entry.result = outcome;
    }
    Settled { call_id: call.id.clone(), name: call.name.clone(), manner: call.manner, took, delivery: None }
}

/// A result in words, for an agent that did not make the call.
fn told(call: &Call) -> ContextItem {
    let (output, is_error) = call.result.clone().unwrap_or_default();
    let how = if is_error { "failed" } else { "returned" };
    let text = format!("(The tool {} was called with {} and {how}: {output})", call.name, call.arguments);
    ContextItem { role: Role::Agent, text }
}

#[cfg(test)]
mod tests;
