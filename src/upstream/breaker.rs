//! Circuit breakers: an agent that fails again and again is left alone for a while, so that calls go to the next one at
//! once and the agent is not buried under attempts.
//!
//! One breaker per agent and node, fed by one outcome per conversation's attempt, which covers the dial, TLS, the first
//! message of the protocol and the first sign of an answer. Closed: every conversation may try. After five failures in a
//! row it opens: nobody tries until its pause is over; then one conversation probes (half-open). If the probe gets
//! ready the breaker closes on probation: a single failure before the first answer opens it again. A failed probe
//! doubles the pause, up to 30 s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::ids::AgentName;
use crate::time::Micros;

/// Attempts in a row that fail before the breaker opens.
const FAILURES: u32 = 5;
/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A probe that tells nothing for so long is given up; another conversation may probe.
const PROBE: Duration = Duration::from_secs(30);

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Every conversation may try.
    Closed,
    /// One conversation tries, the others may not.
    HalfOpen,
    /// Nobody may try.
    Open,
}

/// The breaker of one agent.
#[derive(Debug, Default)]
struct Breaker {
    /// Failures in a row.
    failures: u32,
    /// Open until then; the pause doubles with each failed probe.
    open_until: Option<Micros>,
    pause: Duration,
    /// Since when a probe is under way.
    probing: Option<Micros>,
}

impl Breaker {
    fn state(&self, now: Micros) -> BreakerState {
        match self.open_until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Whether a conversation may try, and whether as the probe.
    fn admit(&mut self, now: Micros) -> Option<bool> {
        match self.state(now) {
            BreakerState::Closed => Some(false),
            BreakerState::Open => None,
            BreakerState::HalfOpen if self.probing.is_some_and(|since| now - since < PROBE) => None,
            BreakerState::HalfOpen => {
                self.probing = Some(now);
                Some(true)
            }
        }
    }

    /// The agent is ready, and has not answered yet.
    fn ready(&mut self, probe: bool) {
        if probe {
            self.failures = FAILURES - 1;
            (self.open_until, self.probing) = (None, None);
        }
    }

    fn succeed(&mut self) {
        *self = Breaker::default();
    }

    /// `chance` in `[0, 1)` spreads the ends of the pauses of several nodes.
    fn fail(&mut self, probe: bool, chance: f64, now: Micros) {
        self.failures = self.failures.saturating_add(1);
        // What was under way when the breaker opened says nothing new.
        let opens = if self.open_until.is_some() { probe } else { self.failures >= FAILURES };
        if opens {
            self.pause = if self.pause.is_zero() { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
            self.open_until = Some(now + self.pause.mul_f64(0.5 + chance / 2.0));
        }
        if probe {
            self.probing = None;
        }
    }
}

/// The breakers of a node. Touched once per attempt and once per outcome, never per frame.
#[derive(Debug, Default)]
pub struct Breakers {
    agents: Mutex<HashMap<AgentName, Breaker>>,
}

impl Breakers {
    fn with<T>(&self, agent: &AgentName, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        act(agents.entry(agent.clone()).or_default())
    }

    /// Lets a conversation try an agent, unless its breaker is open.
    pub fn attempt(self: &Arc<Self>, agent: &AgentName, now: Micros) -> Option<Attempt> {
        let probe = self.with(agent, |breaker| breaker.admit(now))?;
        Some(Attempt { breakers: self.clone(), agent: agent.clone(), probe, is_ready: false, settled: false })
    }

    /// How an agent's breaker stands.
    pub fn state(&self, agent: &AgentName, now: Micros) -> BreakerState {
        self.with(agent, |breaker| breaker.state(now))
    }
}

/// One conversation's try of an agent. Dropped without an outcome it tells nothing: the caller hung up before.
#[derive(Debug)]
pub struct Attempt {
    breakers: Arc<Breakers>,
    agent: AgentName,
    probe: bool,
    is_ready: bool,
    settled: bool,
}

impl Attempt {
    /// The agent is ready; gives whether it was not before.
    pub fn ready(&mut self) -> bool {
        if std::mem::replace(&mut self.is_ready, true) {
            return false;
        }
        let probe = std::mem::take(&mut self.probe);
        self.breakers.with(&self.agent, |breaker| breaker.ready(probe));
        true
    }

    /// Whether the agent was ready.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The agent answers.
    pub fn succeed(mut self) {
        self.settled = true;
        self.breakers.with(&self.agent, Breaker::succeed);
    }

    /// The agent did not get ready, or did not answer. `chance` in `[0, 1)`.
    pub fn fail(mut self, chance: f64, now: Micros) {
        self.settled = true;
        self.breakers.with(&self.agent, |breaker| breaker.fail(self.probe, chance, now));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.probe && !self.settled {
            self.breakers.with(&self.agent, |breaker| breaker.probing = None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Micros {
        Micros::from_millis(1_000 + ms)
    }

    fn opened() -> (Arc<Breakers>, AgentName) {
        let (breakers, agent) = (Arc::new(Breakers::default()), AgentName::from("a"));
        for _ in 0..FAILURES {
            breakers.attempt(&agent, at(0)).unwrap().fail(0.0, at(0));
        }
        (breakers, agent)
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let (breakers, agent) = (Arc::new(Breakers::default()), AgentName::from("a"));
        for round in 0..20 {
            breakers.attempt(&agent, at(round)).unwrap().fail(0.0, at(round));
            breakers.attempt(&agent, at(round)).unwrap().succeed();
        }
        assert_eq!(breakers.state(&agent, at(20)), BreakerState::Closed);
        let (breakers, agent) = opened();
        assert_eq!(breakers.state(&agent, at(1)), BreakerState::Open);
        assert!(breakers.attempt(&agent, at(400)).is_none());
        assert!(breakers.attempt(&"other".into(), at(1)).is_some(), "another agent has a breaker of its own");
    }

    #[test]
    fn after_the_pause_one_probe_passes_and_its_success_closes_it() {
        let (breakers, agent) = opened();
        let probe = breakers.attempt(&agent, at(600)).expect("the pause is over");
        assert!(breakers.attempt(&agent, at(600)).is_none(), "one probe at a time");
        probe.succeed();
        assert_eq!(breakers.state(&agent, at(600)), BreakerState::Closed);
    }

    #[test]
    fn an_agent_that_gets_ready_and_never_answers_opens_it_and_a_probe_that_does_the_same_opens_it_again() {
        let (breakers, agent) = (Arc::new(Breakers::default()), AgentName::from("a"));
        for _ in 0..FAILURES {
            let mut attempt = breakers.attempt(&agent, at(0)).expect("it is closed");
            attempt.ready();
            attempt.fail(0.0, at(0));
        }
        assert_eq!(breakers.state(&agent, at(1)), BreakerState::Open);
        let mut probe = breakers.attempt(&agent, at(501)).expect("the pause is over");
        probe.ready();
        assert_eq!(breakers.state(&agent, at(501)), BreakerState::Closed);
        probe.fail(0.0, at(600));
        assert_eq!(breakers.state(&agent, at(1_599)), BreakerState::Open, "the pause has doubled");
        let mut probe = breakers.attempt(&agent, at(1_601)).expect("the pause is over");
        probe.ready();
        probe.succeed();
        breakers.attempt(&agent, at(1_602)).unwrap().fail(0.0, at(1_602));
        assert_eq!(breakers.state(&agent, at(1_602)), BreakerState::Closed, "one failure is none");
    }

    #[test]
    fn each_failed_probe_doubles_the_pause_up_to_its_bound() {
        let (breakers, agent) = opened();
        let (mut now, mut probes) = (0, 0);
        while now < 600_000 {
            if let Some(probe) = breakers.attempt(&agent, at(now)) {
                probe.fail(0.999, at(now));
                probes += 1;
            }
            now += 10;
        }
        // 1 + 2 + 4 + 8 + 16 s, then one each 30 s.
        assert!((23..=26).contains(&probes), "{probes}");
    }

    #[test]
    fn a_caller_who_hangs_up_during_the_probe_lets_another_one_probe() {
        let (breakers, agent) = opened();
        drop(breakers.attempt(&agent, at(600)).unwrap());
        assert!(breakers.attempt(&agent, at(601)).is_some());
    }

    #[test]
    fn attempts_that_were_under_way_do_not_lengthen_the_pause() {
        let (breakers, agent) = (Arc::new(Breakers::default()), AgentName::from("a"));
        let under_way: Vec<_> = (0..100).map(|_| breakers.attempt(&agent, at(0)).unwrap()).collect();
        for attempt in under_way {
            attempt.fail(0.0, at(100));
        }
        assert!(breakers.attempt(&agent, at(100 + 501)).is_some());
    }
}
