//! Which agent is next when one fails, and where the call stands while none is there.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::message::{AgentError, FailureClass};
use crate::route::pick;
use crate::route::plan::Plan;
use crate::time::Micros;

/// An agent that was ready for so long was good.
const STEADY: Duration = Duration::from_secs(30);

/// The pauses before an agent is tried again.
pub(super) const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// No agent is there.
#[derive(Clone, Debug)]
pub struct Down {
    /// Since when.
    pub since: Micros,
    /// Index of the step of `when_down` that is taken.
    pub step: usize,
    /// Why the last agent was lost.
    pub why: AgentError,
}

/// The agents that have failed, and what is left.
#[derive(Debug)]
pub struct Ladder {
    /// By rung: it has failed since an agent was last found good.
    failed: Vec<bool>,
    /// This one was good before it failed: it is tried again after all others.
    again: Option<usize>,
    /// The agent in use has completed an answer.
    answered: bool,
    down: Option<Down>,
    backoff: Backoff,
}

impl Default for Ladder {
    fn default() -> Ladder {
        Ladder { failed: Vec::new(), again: None, answered: false, down: None, backoff: PAUSES }
    }
}

impl Ladder {
    /// The agent in use has completed an answer.
    pub fn on_answered(&mut self) {
        self.answered = true;
    }

    /// The agent on `rung`, which was in use and ready for so long, has failed.
    pub fn on_failed(&mut self, rung: usize, ready_for: Option<Duration>, class: FailureClass) {
        let answered = std::mem::take(&mut self.answered);
        if !answered && ready_for.is_none_or(|span| span < STEADY) {
            return self.leave_out(rung);
        }
        self.failed.clear();
        // Its credentials or our request: the next try would end as this one did.
        let hopeless = matches!(class, FailureClass::Auth | FailureClass::BadRequest);
        self.again = (!hopeless).then_some(rung);
        if hopeless {
            self.leave_out(rung);
        }
    }

    /// This one is not tried again until an agent was found good, or until the next round.
    pub fn leave_out(&mut self, rung: usize) {
        if self.failed.len() <= rung {
            self.failed.resize(rung + 1, false);
        }
        self.failed[rung] = true;
        self.again.take_if(|again| *again == rung);
    }

    /// The best agent that may be tried: in the order of the plan, but one that was good and failed after the others, and
    /// what only plays something last.
    pub fn next(&self, plan: &Plan, may: impl Fn(usize) -> bool) -> Option<usize> {
        let failed = |rung: usize| self.failed.get(rung).copied().unwrap_or(false);
        let left = (0..plan.regular).filter(|&rung| !failed(rung) && may(rung));
        left.min_by_key(|&rung| (plan.rungs[rung].is_clip(), self.again == Some(rung), rung))
    }

    /// No agent is left.
    pub fn go_down(&mut self, why: AgentError, now: Micros) {
        self.down = Some(Down { since: now, step: 0, why });
    }

    /// Where the call stands while no agent is there.
    pub fn down(&self) -> Option<&Down> {
        self.down.as_ref()
    }

    /// The step at `index` is taken.
    pub fn take_step(&mut self, index: usize) {
        if let Some(down) = &mut self.down {
            down.step = index;
        }
    }

    /// All may be tried again.
    pub fn begin_round(&mut self) {
        self.failed.clear();
        self.again = None;
    }

    /// The pause before the next round.
    pub fn pause(&mut self, session: &str) -> Duration {
        let chance = pick::point(session, "redial", &self.backoff.tries().to_string());
        self.backoff.next(chance)
    }

    /// An agent is there; gives where the call stood if none was.
    pub fn on_ready(&mut self) -> Option<Down> {
        let down = self.down.take()?;
        self.begin_round();
        self.backoff.reset();
        Some(down)
    }
}
