//! Agents that cannot be reached, die or fall silent: the next one takes over with what was said, and when none is left
//! the route says what remains for the caller (`when_down`).

use std::time::Duration;

use crate::agent::recap::GO_ON;
use crate::message::{
    AgentError, AgentState, AgentStatus, CloseReason, Error, ErrorCode, FailureClass, ToAgent, ToClient,
};
use crate::route::plan::DownStep;
use crate::session::event::{Measure, Output, UpstreamRole};
use crate::session::{MAX_WAITING_MESSAGES, Session, Timer};
use crate::time::Micros;

/// Steps kept for the call record.
const MAX_DOWN_STEPS: usize = 100;
/// Audio that is kept playing when no more agent is there, at most.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// An agent that is back waits so long for the end of an answer in writing, at most.
const LAST_LINES: Duration = Duration::from_secs(10);

impl Session {
    /// Connects to the agent on `rung`.
    pub(super) fn dial(&mut self, rung: usize, now: Micros) {
        let name = self.plan.rungs[rung].name().clone();
        let upstream = self.upstreams.dial(rung, name.as_str(), self.began, now);
        self.totals.dials += 1;
        self.timers.set(Timer::AgentReady, now + self.plan.policy.agent_ready);
        self.outputs.push_back(Output::Dial { upstream, rung, role: UpstreamRole::Active });
        self.agent_begins(rung);
        self.say_status(AgentStatus::Connecting, None);
        self.arm_hedge(now);
    }

    /// Connects to the agent on `rung` so that it can take over.
    pub(super) fn dial_beside(&mut self, rung: usize, now: Micros) {
        if self.upstreams.standby().is_some() {
            return;
        }
        let upstream = self.upstreams.dial_standby(rung, now);
        self.totals.dials += 1;
        self.timers.set(Timer::StandbyReady, now + self.plan.policy.agent_ready);
        self.outputs.push_back(Output::Dial { upstream, rung, role: UpstreamRole::Standby });
    }

    pub(super) fn say_status(&mut self, status: AgentStatus, reason: Option<String>) {
        let name = self.upstreams.active().map(|active| self.plan.rungs[active.rung].name().clone());
        self.say(ToClient::Agent(AgentState { status, name, reason, retry_after_ms: None }));
    }

    /// The status of the agent in use.
    pub(super) fn status(&self) -> AgentStatus {
        match (self.upstreams.active(), self.ladder.down()) {
            (Some(active), _) if active.ready.is_none() => AgentStatus::Connecting,
            (Some(active), _) if active.rung >= self.plan.regular => AgentStatus::Text,
            (Some(active), _) if active.rung > 0 => AgentStatus::Fallback,
            (Some(_), _) => AgentStatus::Ready,
            (None, Some(_)) => AgentStatus::Down,
            (None, None) => AgentStatus::Connecting,
        }
    }

    /// The agent that could be dialled beside the one that is slow.
    fn hedge_candidate(&self) -> Option<usize> {
        let slow =
            self.upstreams.active().filter(|active| active.ready.is_none() && self.ladder.down().is_none())?.rung;
        let standby = self.upstreams.standby().map(|standby| standby.rung);
        let may = |rung| {
            rung != slow && standby != Some(rung) && (rung < self.plan.pool || self.plan.rungs[rung].converses())
        };
        self.ladder.next(&self.plan, may)
    }

    fn arm_hedge(&mut self, now: Micros) {
        let hedge = self.plan.policy.hedge;
        if !hedge.is_zero() && self.hedge_candidate().is_some() {
            self.timers.set(Timer::Hedge, now + hedge);
        }
    }

    /// The agent is slow to get ready: the next one is dialled beside it. If that one is slow too, the first is given up,
    /// so that each costs the caller no more than one such delay.
    pub(super) fn hedge(&mut self, now: Micros) {
        let Some(rung) = self.hedge_candidate() else { return };
        if self.upstreams.standby().is_some() {
            let waited = now - self.upstreams.active().map_or(now, |active| active.dialled);
            let message = format!("the agent was not ready within {} ms, and another one may be", waited.as_millis());
            self.lose_upstream(AgentError { class: FailureClass::Timeout, code: None, message }, now);
        }
        self.dial_beside(rung, now);
        self.arm_hedge(now);
    }

    /// The agent is gone: the next one takes over, if there is one.
    pub(super) fn lose_upstream(&mut self, why: AgentError, now: Micros) {
        let Some(gone) = self.upstreams.on_gone(Some(&why), now) else { return };
        for timer in [Timer::AgentReady, Timer::Hedge, Timer::Answer] {
            self.timers.clear(timer);
        }
        self.take_back_messages();
        self.outputs.push_back(Output::Hangup { upstream: gone.id, failed: true });
        self.uplink.set_agent(None, now);
        self.downlink.on_turn_ended();
        self.tools.on_gone(gone.id);
        self.outputs.push_back(Output::Measure(Measure::UpstreamFailed { rung: gone.rung, class: why.class }));
        self.totals.stalls += u32::from(why.class == FailureClass::Stalled);
        if gone.rung >= self.plan.regular {
            let back = self.upstreams.standby().is_some_and(|standby| standby.ready.is_some());
            if !(back && self.adopt_standby(now)) {
                self.take_next_step(now);
            }
            return;
        }
        self.ladder.on_failed(gone.rung, gone.ready_at.map(|at| now - at), why.class);
        self.failover = Some(why.class.label());
        if self.adopt_standby(now) {
            return;
        }
        match self.ladder.next(&self.plan, |_| true) {
            Some(next) => {
                self.give_notice(now);
                self.dial(next, now);
            }
            None => self.go_down(why, now),
        }
    }

    /// What the agent was told and has not begun to answer goes to the next one.
    pub(super) fn take_back_messages(&mut self) {
        for message in std::mem::take(&mut self.told).into_iter().rev() {
            self.waiting.push_front(message);
        }
        while self.waiting.len() > MAX_WAITING_MESSAGES {
            self.waiting.pop_back();
            self.refuse_message();
        }
    }

    /// The caller waits for an answer that was asked of an agent that is gone, and the one that is there does not know.
    pub(super) fn ask_to_go_on(&mut self) {
        let takes = self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.text);
        let asked = self.upstreams.active().is_some_and(|active| active.asked);
        let awaited = self.awaited || self.tools.is_awaited();
        if awaited && takes && !asked && self.waiting.is_empty() && self.told.is_empty() {
            self.tell(ToAgent::Prompt(GO_ON.to_owned()));
        }
    }

    /// Another agent is to take over: the caller is told once, in the route's words, if it has heard one already.
    fn give_notice(&mut self, now: Micros) {
        let notice = self.plan.policy.fallback_notice.clone().filter(|_| self.totals.agent_ready_ms.is_some());
        if let Some(notice) = notice
            && !std::mem::replace(&mut self.noticed, true)
        {
            self.downlink.announce(&notice, now);
        }
    }

    /// No agent is left: what remains for the caller.
    fn go_down(&mut self, why: AgentError, now: Micros) {
        self.failover = None;
        self.say_status(AgentStatus::Down, Some(why.class.label().to_owned()));
        self.ladder.go_down(why, now);
        self.take_step(0, now);
    }

    pub(super) fn take_next_step(&mut self, now: Micros) {
        let next = self.ladder.down().map_or(0, |down| down.step + 1);
        self.take_step(next, now);
    }

    fn take_step(&mut self, mut index: usize, now: Micros) {
        self.timers.clear(Timer::Keep);
        while let Some(step) = self.plan.policy.when_down.get(index).cloned() {
            self.ladder.take_step(index);
            self.outputs.push_back(Output::Measure(Measure::DownStep(step.label())));
            if self.totals.down_steps.len() < MAX_DOWN_STEPS {
                self.totals.down_steps.push(step.label());
            }
            match step {
                DownStep::Announce(said) => self.downlink.announce(&said, now),
                DownStep::Text(agent) => {
                    let named = |rung: &usize| *self.plan.rungs[*rung].name() == agent;
                    if let Some(rung) = (self.plan.regular..self.plan.rungs.len()).find(named) {
                        self.dial(rung, now);
                        return self.plan_redial(now);
                    }
                }
                DownStep::Keep(span) => {
                    self.timers.set(Timer::Keep, now + span);
                    return self.plan_redial(now);
                }
            }
            index += 1;
        }
        self.give_up(now);
    }

    /// The caller is left with nothing: the call ends when what was said has been heard.
    fn give_up(&mut self, now: Micros) {
        self.drop_standby();
        self.timers.clear(Timer::Redial);
        let message = self.ladder.down().map_or_else(String::new, |down| down.why.message.clone());
        let error = Error::new(ErrorCode::AgentUnavailable, message);
        self.say(ToClient::Error(Error { retryable: true, retry_after_ms: Some(1000), ..error }));
        self.part(CloseReason::AgentFailed, now);
    }

    /// Ends the call for this reason once everything that was said has been heard.
    pub(super) fn part(&mut self, reason: CloseReason, now: Micros) {
        if !self.downlink.is_busy() {
            return self.close(reason, now);
        }
        self.farewell = reason;
        let patience = self.downlink.depth().min(LAST_WORDS) + Duration::from_secs(1);
        self.timers.set(Timer::Goodbye, now + patience);
    }

    /// When the agents are tried again.
    fn plan_redial(&mut self, now: Micros) {
        if self.upstreams.standby().is_some() {
            return;
        }
        let pause = self.ladder.pause(self.id.as_str());
        self.timers.set(Timer::Redial, now + pause);
        let keeps = self.upstreams.active().is_none();
        if let Some(down) = self.ladder.down().filter(|_| keeps) {
            let reason = Some(down.why.class.label().to_owned());
            let retry_after_ms = Some(pause.as_millis() as u64);
            self.say(ToClient::Agent(AgentState { status: AgentStatus::Down, name: None, reason, retry_after_ms }));
        }
    }

    /// The pause is over: every agent may be tried once more.
    pub(super) fn redial_due(&mut self, now: Micros) {
        if self.ladder.down().is_some() && self.upstreams.standby().is_none() {
            self.ladder.begin_round();
            self.redial(now);
        }
    }

    /// Tries the next agent of this round.
    pub(super) fn redial(&mut self, now: Micros) {
        match self.ladder.next(&self.plan, |rung| !self.plan.rungs[rung].is_clip()) {
            Some(rung) => self.dial_beside(rung, now),
            None => self.plan_redial(now),
        }
    }

    /// An agent that was dialled again is ready: an answer in writing may come to its end before it takes over.
    pub(super) fn on_back(&mut self, now: Micros) {
        if self.upstreams.active().is_some() && self.awaited {
            self.timers.set(Timer::RolloverBy, now + LAST_LINES);
        }
    }

    /// A regular agent is ready.
    pub(super) fn end_down(&mut self, now: Micros) {
        let Some(down) = self.ladder.on_ready() else { return };
        self.timers.clear(Timer::Redial);
        self.timers.clear(Timer::Keep);
        self.count_down(now - down.since, true);
    }

    /// No agent was there for so long.
    pub(super) fn count_down(&mut self, span: Duration, recovered: bool) {
        self.totals.down += span;
        self.outputs.push_back(Output::Measure(Measure::Down { span, recovered }));
    }

    /// The agent has hung up: its last words are played, then the call ends.
    pub(super) fn agent_hangs_up(&mut self, now: Micros) {
        self.downlink.on_turn_ended();
        self.uplink.set_agent(None, now);
        self.part(CloseReason::AgentHangup, now);
    }

    /// The agent that has hung up closes the connection, while its last words are played.
    pub(super) fn let_go(&mut self, now: Micros) {
        if let Some(gone) = self.upstreams.on_gone(None, now) {
            self.outputs.push_back(Output::Hangup { upstream: gone.id, failed: false });
        }
    }
}
