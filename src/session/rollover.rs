//! Make before break: a fresh upstream of the same agent takes over before the present one reaches its end.
//!
//! A rollover begins when the agent says that it will close, or when its session comes near its longest time. A second
//! upstream is dialled and told of the conversation so far. It takes over at the next turn boundary (nobody speaks, no
//! tool runs), at the latest when the time is over, and learns first what was said meanwhile.

use std::time::Duration;

use crate::ids::UpstreamId;
use crate::message::{AgentError, AgentStatus, FailureClass, FromAgent, State, ToAgent};
use crate::route::pick;
use crate::session::event::{Measure, Output, UpstreamChange};
use crate::session::upstreams::Active;
use crate::session::{Session, Timer};
use crate::time::Micros;

/// A rollover begins so long before the end of the agent's session at most, or a fifth of its longest time.
const LEAD: Duration = Duration::from_secs(60);
/// The change is made so long before the end at the latest, or a quarter of the time that is left.
const MARGIN: Duration = Duration::from_secs(2);

/// How long before the end of a session that lasts at most `longest` its rollover begins.
fn lead(longest: Duration) -> Duration {
    LEAD.min(longest / 5)
}

impl Session {
    /// The agent in use is ready: when its session has to be followed by another one.
    pub(super) fn plan_rollover(&mut self, now: Micros) {
        self.timers.clear(Timer::Rollover);
        self.timers.clear(Timer::RolloverBy);
        self.rollover_pauses.reset();
        let Some(active) = self.upstreams.active() else { return };
        if let Some(longest) = self.longest(active) {
            let begin = active.dialled + (longest - lead(longest));
            self.timers.set(Timer::Rollover, begin.max(now));
        }
    }

    /// How long a session with an agent lasts at most.
    fn longest(&self, active: &Active) -> Option<Duration> {
        let known = active.capabilities.and_then(|capabilities| capabilities.longest);
        self.plan.rungs[active.rung].agent.session_max.or(known)
    }

    /// The end of the agent's session is near.
    pub(super) fn begin_rollover(&mut self, left: Duration, now: Micros) {
        if self.ladder.down().is_some() {
            return; // One that is better is being dialled.
        }
        let by = now + left.saturating_sub(MARGIN.min(left / 4));
        let by = self.timers.deadline(Timer::RolloverBy).map_or(by, |before| before.min(by));
        self.timers.set(Timer::RolloverBy, by);
        self.dial_standby(now);
    }

    /// The time for a rollover has come, or for another attempt at it.
    pub(super) fn rollover_due(&mut self, now: Micros) {
        if self.timers.deadline(Timer::RolloverBy).is_some() {
            return self.dial_standby(now);
        }
        let longest = self.upstreams.active().and_then(|active| self.longest(active));
        self.begin_rollover(longest.map_or(LEAD, lead), now);
    }

    fn dial_standby(&mut self, now: Micros) {
        if let Some(active) = self.upstreams.active() {
            self.dial_beside(active.rung, now);
        }
    }

    /// The upstream that is to take over changed.
    pub(super) fn on_standby_change(&mut self, upstream: UpstreamId, change: UpstreamChange, now: Micros) {
        match change {
            UpstreamChange::Connected(capabilities) => self.open_upstream(upstream, capabilities, now),
            UpstreamChange::Failed(error) => self.lose_standby(Some(error), now),
        }
    }

    /// The upstream that is to take over says something. It has not been asked anything yet.
    pub(super) fn handle_standby(&mut self, message: FromAgent, now: Micros) {
        match message {
            FromAgent::Ready(ready) => {
                self.upstreams.on_standby_ready(ready, now);
                self.timers.clear(Timer::StandbyReady);
                if self.ladder.down().is_some() {
                    self.on_back(now);
                }
            }
            FromAgent::NotApplied(fields) => self.totals.on_not_applied(fields),
            FromAgent::Ended(end) => self.lose_standby(end.failure, now),
            _ => {}
        }
    }

    /// The upstream that is to take over did not get ready in time.
    pub(super) fn standby_is_late(&mut self, now: Micros) {
        let waited = self.plan.policy.agent_ready.as_millis();
        let message = format!("the agent was not ready within {waited} ms");
        self.lose_standby(Some(AgentError { class: FailureClass::Timeout, code: None, message }), now);
    }

    /// The upstream that was to take over is not needed.
    pub(super) fn drop_standby(&mut self) {
        self.timers.clear(Timer::StandbyReady);
        if let Some(standby) = self.upstreams.take_standby() {
            self.outputs.push_back(Output::Hangup { upstream: standby.id, failed: false });
        }
    }

    fn lose_standby(&mut self, why: Option<AgentError>, now: Micros) {
        let Some(gone) = self.upstreams.take_standby() else { return };
        self.timers.clear(Timer::StandbyReady);
        self.outputs.push_back(Output::Hangup { upstream: gone.id, failed: true });
        if let Some(error) = why {
            self.outputs.push_back(Output::Measure(Measure::UpstreamFailed { rung: gone.rung, class: error.class }));
        }
        let same = self.upstreams.active().is_some_and(|active| active.rung == gone.rung);
        if same {
            let tries = self.rollover_pauses.tries().to_string();
            let pause = self.rollover_pauses.next(pick::point(self.id.as_str(), "rollover", &tries));
            return self.timers.set(Timer::Rollover, now + pause);
        }
        self.ladder.leave_out(gone.rung);
        if self.ladder.down().is_some() {
            self.redial(now);
        } else {
            self.hedge(now);
        }
    }

    /// Lets the fresh upstream take over if it is ready and the moment is right; whether it did.
    pub(super) fn roll_over(&mut self, now: Micros) -> bool {
        if self.upstreams.standby().is_none_or(|standby| standby.ready.is_none()) {
            return false;
        }
        let by = self.timers.deadline(Timer::RolloverBy);
        let late = by.is_none_or(|by| by <= now) || self.upstreams.active().is_none();
        if !late && !self.is_between_turns() {
            return false;
        }
        self.take_over(now);
        true
    }

    /// The moment has come whether it is right or not.
    pub(super) fn rollover_by(&mut self, now: Micros) {
        if !self.roll_over(now) && self.upstreams.standby().is_none() {
            self.dial_standby(now);
        }
    }

    fn is_between_turns(&self) -> bool {
        let quiet = matches!(self.conversation.state(), State::Idle | State::WaitingForUser | State::Listening);
        quiet && !self.awaited && self.voiced_since.is_none() && self.tools.is_empty() && !self.downlink.is_busy()
    }

    /// What stands by talks with the caller from now on.
    fn take_over(&mut self, now: Micros) {
        let Some(rung) = self.upstreams.standby().map(|standby| standby.rung) else { return };
        let name = self.plan.rungs[rung].name().clone();
        let down = self.ladder.down().is_some();
        let again = !down && self.upstreams.last_rung() == Some(rung);
        let why = match (down, again) {
            (true, _) => "an agent is back",
            (false, true) => "rollover",
            (false, false) => "slower than the next",
        };
        self.take_back_messages();
        if let Some(before) = self.upstreams.promote(name.as_str(), why, self.began, now) {
            self.tools.on_gone(before.id);
            self.downlink.on_turn_ended();
            self.outputs.push_back(Output::ToAgent { upstream: before.id, message: ToAgent::End });
            self.outputs.push_back(Output::Hangup { upstream: before.id, failed: why == "slower than the next" });
        }
        let Some(id) = self.upstreams.active().map(|active| active.id) else { return };
        self.agent_begins(rung);
        self.outputs.push_back(Output::Promote { upstream: id });
        let told = self.upstreams.active().map(|active| active.told.clone()).unwrap_or_default();
        self.count_replayed(&told);
        if again {
            self.failover = None;
            self.count_rollover();
        } else if !down {
            self.failover.get_or_insert("slow");
        }
        self.timers.clear(Timer::RolloverBy);
        self.timers.clear(Timer::StandbyReady);
        match self.upstreams.take_ready() {
            Some(ready) => {
                self.agent_ready(ready, now);
                self.ask_to_go_on();
            }
            None => {
                self.timers.set(Timer::AgentReady, now + self.plan.policy.agent_ready);
                self.say_status(AgentStatus::Connecting, None);
            }
        }
    }

    /// The conversation goes on over a fresh connection to the same agent.
    pub(super) fn count_rollover(&mut self) {
        self.totals.rollovers += 1;
        self.outputs.push_back(Output::Measure(Measure::Rollover));
    }

    /// What was said since the agent was told of the conversation.
    pub(super) fn tell_missed(&mut self) {
        let Some(active) = self.upstreams.active() else { return };
        let so_far = self.conversation_so_far();
        let same = so_far.iter().zip(&active.told).take_while(|(now, then)| now == then).count();
        let missed = so_far[same..].to_vec();
        let upstream = active.id;
        if !missed.is_empty() && active.capabilities.is_some_and(|capabilities| capabilities.context) {
            self.count_replayed(&missed);
            self.outputs.push_back(Output::ToAgent { upstream, message: ToAgent::History(missed) });
        }
    }

    /// The upstream in use died while another one was being prepared: that one takes over, ready or not.
    pub(super) fn adopt_standby(&mut self, now: Micros) -> bool {
        let adopts = self.upstreams.standby().is_some();
        self.take_over(now);
        adopts
    }
}
