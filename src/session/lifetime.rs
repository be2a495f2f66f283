//! How a session ends: by its timers, by the operator, by either side.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::message::{
    AddedMs, AgentError, CloseReason, Draining, Ended, Ending, FailureClass, Percentiles, State, Stats, ToAgent,
    ToClient,
};
use crate::session::event::Output;
use crate::session::load::Load;
use crate::session::record::{CallRecord, Codecs};
use crate::session::{Session, Timer, account};
use crate::time::Micros;

/// The warning before the end comes so long before, or a tenth of the time.
const MAX_NOTICE: Duration = Duration::from_secs(30);

/// How long a session may last, and why no longer: the route's `max_s` (zero: for ever), or the caller's token.
pub(super) fn longest(max: Duration, token: Option<Duration>) -> Option<(Duration, CloseReason)> {
    let route = (!max.is_zero()).then_some((max, CloseReason::MaxDuration));
    let token = token.map(|left| (left, CloseReason::TokenExpired));
    route.into_iter().chain(token).min_by_key(|(span, _)| *span)
}

impl Session {
    pub(super) fn start_timers(&mut self, now: Micros) {
        if let Some((max, _)) = self.longest {
            self.timers.set(Timer::MaxWarning, now + (max - MAX_NOTICE.min(max / 10)));
            self.timers.set(Timer::Max, now + max);
        }
        self.touch(now);
    }

    /// Somebody spoke or acted: the idle time begins anew.
    pub(super) fn touch(&mut self, now: Micros) {
        self.touched = now;
        self.timers.clear(Timer::IdleGrace);
        self.look_for_idle(now);
    }

    /// The idle time may be shortened while it runs, so it is looked at several times.
    fn look_for_idle(&mut self, now: Micros) {
        let after = self.plan.policy.idle.after;
        if !after.is_zero() && !self.closed {
            self.timers.set(Timer::Idle, (now + Load::earliest_idle(after)).min(self.touched + after));
        }
    }

    pub(super) fn handle_timer(&mut self, timer: Timer, now: Micros) {
        match timer {
            Timer::AgentReady => {
                let waited = self.plan.policy.agent_ready.as_millis();
                let message = format!("the agent was not ready within {waited} ms");
                let error = AgentError { class: FailureClass::Timeout, code: None, message };
                self.lose_upstream(error, now);
            }
            Timer::MaxWarning => {
                let left = self.timers.deadline(Timer::Max).map_or(Duration::ZERO, |at| at - now);
                self.say_ending(self.end_of_time(), left);
            }
            Timer::Max => self.close(self.end_of_time(), now),
            Timer::Idle if self.is_occupied() => self.touch(now),
            Timer::Idle if now < self.touched + self.load.idle_after(self.plan.policy.idle.after) => {
                self.look_for_idle(now);
            }
            Timer::Idle => {
                let grace = self.plan.policy.idle.grace;
                self.timers.set(Timer::IdleGrace, now + grace);
                self.say_ending(CloseReason::Idle, grace);
                if let Some(prompt) = self.plan.policy.idle.prompt.clone() {
                    self.downlink.announce(&prompt, now);
                }
            }
            Timer::IdleGrace => self.close(CloseReason::Idle, now),
            Timer::Resume => self.close(CloseReason::ClientLost, now),
            Timer::Drain => self.close(CloseReason::Draining, now),
            Timer::Goodbye => self.close(self.farewell, now),
            Timer::Hedge => self.hedge(now),
            Timer::Answer => {
                let waited = self.plan.policy.answer_within.as_millis();
                let message = format!("the agent gave no sign of an answer within {waited} ms");
                let error = AgentError { class: FailureClass::Stalled, code: None, message };
                self.lose_upstream(error, now);
            }
            Timer::StandbyReady => self.standby_is_late(now),
            Timer::Redial => self.redial_due(now),
            Timer::Keep => self.take_next_step(now),
            Timer::Rollover => self.rollover_due(now),
            Timer::RolloverBy => self.rollover_by(now),
            Timer::CallerSilent => self.caller_silent(now),
            Timer::Pause => self.judge_pause(now),
        }
    }

    fn end_of_time(&self) -> CloseReason {
        self.longest.map_or(CloseReason::MaxDuration, |(_, reason)| reason)
    }

    /// A running tool, an answer that is still being played, or the wait for an agent stops the idle clock.
    fn is_occupied(&self) -> bool {
        let waits = self.ladder.down().is_some() && self.upstreams.active().is_none();
        !self.tools.is_empty() || self.downlink.is_busy() || waits
    }

    pub(super) fn say_ending(&mut self, reason: CloseReason, left: Duration) {
        self.say(ToClient::Ending(Ending { reason, in_ms: left.as_millis() as u64 }));
    }

    pub(super) fn drain(&mut self, reconnect_after: Duration, deadline: Duration, now: Micros) {
        self.timers.set(Timer::Drain, now + deadline);
        self.say(ToClient::Draining(Draining {
            reconnect_after_ms: reconnect_after.as_millis() as u64,
            deadline_ms: deadline.as_millis() as u64,
        }));
    }

    /// Ends the session: both sides are told, the record is written.
    pub(super) fn close(&mut self, reason: CloseReason, now: Micros) {
        if self.closed {
            return;
        }
        self.downlink.settle(now);
        while let Some(output) = self.downlink.take_queued() {
            self.handle_downlink(output, now);
        }
        self.move_to(State::Ended);
        self.say(ToClient::Ended(Ended {
            reason,
            duration_ms: now.since(self.began).as_millis() as u64,
            messages: self.transcript.len(),
            stats: self.stats(),
        }));
        self.settle_cost(now);
        self.closed = true;
        if let Some(since) = self.ladder.down().map(|down| down.since) {
            self.count_down(now - since, false);
        }
        let record = Box::new(self.record(reason, now));
        self.close_taps();
        if let Some(active) = self.upstreams.on_gone(None, now) {
            if active.capabilities.is_some() {
                self.outputs.push_back(Output::ToAgent { upstream: active.id, message: ToAgent::End });
            }
            self.outputs.push_back(Output::Hangup { upstream: active.id, failed: false });
        }
        if let Some((link, _)) = self.links.detach() {
            self.outputs.push_back(Output::Detach { link, code: reason.code(), reason: reason.label() });
        }
        self.outputs.push_back(Output::Close { reason, record });
    }

    /// Figures of this session so far.
    pub(super) fn stats(&self) -> Stats {
        let (lost, concealed, filled) = self.uplink.totals();
        let percentiles = |histogram: &Histogram<u32>| Percentiles {
            p50: histogram.value_at_quantile(0.5) as f64 / 1000.0,
            p99: histogram.value_at_quantile(0.99) as f64 / 1000.0,
        };
        let [up, down] = &self.added;
        Stats {
            added_ms: AddedMs { up: percentiles(up), down: percentiles(down) },
            lost,
            concealed_ms: concealed.as_millis() as u64,
            filled_ms: filled.as_millis() as u64,
            heard_ms: self.downlink.heard().as_millis() as u64,
        }
    }

    fn record(&self, reason: CloseReason, now: Micros) -> CallRecord {
        let ms = |span: Duration| span.as_millis() as u64;
        let link = self.links.attached().map(|(_, info)| info).or(self.links.last());
        let mut agents = self.upstreams.entries(now);
        let rung = |name: &str| self.plan.rungs.iter().find(|rung| rung.name().as_str() == name);
        let cost = account::price(&mut agents, |name| rung(name).map(|rung| &*rung.agent));
        let mut usage = BTreeMap::new();
        for (unit, amount) in agents.iter().flat_map(|entry| &entry.usage) {
            *usage.entry(unit.clone()).or_default() += amount;
        }
        CallRecord {
            session_id: self.id.clone(),
            conversation_id: self.conversation_id.clone(),
            route: self.plan.route.clone(),
            label: self.plan.label.as_deref().map(str::to_owned),
            transport: link.map(|info| info.transport),
            codecs: link.map(|info| Codecs { uplink: info.audio.uplink, downlink: info.audio.downlink }),
            agents,
            reason,
            duration_ms: ms(now - self.began),
            talk_ms: ms(self.totals.talk),
            agent_audio_sent_ms: ms(self.totals.sent),
            agent_audio_heard_ms: ms(self.downlink.heard()),
            turns: self.totals.turns,
            interruptions: self.totals.interruptions,
            barge_in: self.totals.barge_in,
            messages: self.transcript.len(),
            agent_ready_ms: self.totals.agent_ready_ms,
            first_audio_ms: self.totals.first_audio_ms.clone(),
            stats: self.stats(),
            tools: self.tools.entries().to_vec(),
            taps: self.taps.entries(),
            alerts: self.taps.alerts().to_vec(),
            dials: self.totals.dials,
            failovers: self.totals.failovers,
            rollovers: self.totals.rollovers,
            stalls: self.totals.stalls,
            down_ms: ms(self.totals.down),
            down_steps: self.totals.down_steps.clone(),
            resumes: self.totals.resumes,
            not_applied: self.totals.not_applied.clone(),
            usage,
            cost,
            consent: self.totals.consent,
            metadata: self.metadata.clone(),
        }
    }
}
