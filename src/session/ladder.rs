//! Which agent is next when one fails, and where the call stands while none is there.

use std::time::Duration;

use crate::message::{AgentError, FailureClass};
use crate::route::pick;
use crate::route::plan::Plan;
use crate::time::Micros;

/// The first pause between two tries is at most so long; the bound doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// It grows no further than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An agent that was ready for so long was good.
const STEADY: Duration = Duration::from_secs(30);

/// Pauses between tries, each at random between nothing and a bound that doubles (full jitter), so that calls that lost
/// their agent together do not come back together.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next pause. What is left to chance depends on the session and on what the pause is for.
    pub fn next(&mut self, session: &str, purpose: &str) -> Duration {
        let bound = (FIRST_PAUSE * (1 << self.tries.min(5))).min(LONGEST_PAUSE);
        let chance = pick::point(session, purpose, &self.tries.to_string());
        self.tries = self.tries.saturating_add(1);
        bound.mul_f64(chance)
    }

    /// What was tried has succeeded.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

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
#[derive(Debug, Default)]
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
        self.backoff.next(session, "redial")
    }

    /// An agent is there; gives where the call stood if none was.
    pub fn on_ready(&mut self) -> Option<Down> {
        let down = self.down.take()?;
        self.begin_round();
        self.backoff.reset();
        Some(down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_lie_between_nothing_and_a_bound_that_doubles_up_to_half_a_minute() {
        let mut longest = [Duration::ZERO; 8];
        for session in 0..500 {
            let mut backoff = Backoff::default();
            for pause in &mut longest {
                *pause = (*pause).max(backoff.next(&format!("s{session}"), "redial"));
            }
        }
        for (try_number, longest) in longest.iter().enumerate() {
            let bound = [1, 2, 4, 8, 16, 30, 30, 30][try_number];
            let share = longest.as_secs_f64() / f64::from(bound);
            assert!((0.97..=1.0).contains(&share), "try {try_number}: up to {longest:?}");
        }
        let mut backoff = Backoff::default();
        backoff.next("s", "a");
        backoff.reset();
        assert!(backoff.next("s", "a") <= FIRST_PAUSE);
    }
}
