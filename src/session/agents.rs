//! What agents say, and upstreams that come and go.

use crate::agent::Capabilities;
use crate::ids::{TurnId, UpstreamId};
use crate::message::{
    AgentError, AgentStart, AgentState, AgentStatus, Alert, CloseReason, ContextItem, Error, ErrorCode, FromAgent,
    Greeting, Heard, Ready, Role, Speech, SpeechEvent, State, TextMessage, ToAgent, ToClient, Truncate, Typing, Usage,
};
use crate::session::clients::merge;
use crate::session::downlink::Cut;
use crate::session::event::{Measure, Output, Queue, UpstreamRole};
use crate::session::turn::Interrupter;
use crate::session::{MAX_WAITING_MESSAGES, NO_AGENT, Session, Timer};
use crate::time::Micros;

/// What an agent is asked to begin with when it takes over while the caller waits for an answer.
const GO_ON: &str = "Go on with this conversation where it stopped: answer what the caller said last, or finish what you \
                     were saying. Do not greet again and do not mention an interruption.";
/// Agent audio that is kept playing after the agent has hung up, at most.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(60);

impl Session {
    pub(super) fn handle_agent(&mut self, upstream: UpstreamId, message: FromAgent, now: Micros) {
        self.watch_answer(&message);
        match message {
            FromAgent::Ready(ready) => self.agent_ready(ready, now),
            FromAgent::Audio(audio) => self.downlink.on_audio(audio, now),
            FromAgent::TurnStarted(item) => {
                self.downlink.on_turn_started(item);
                self.prepare_answer();
            }
            FromAgent::TurnEnded => self.downlink.on_turn_ended(),
            FromAgent::Interrupted => self.barge_in(Interrupter::Agent, now),
            FromAgent::Transcript(text) => {
                self.touch(now);
                // Turns that have begun are taken up first, so that texts find them.
                self.settle_downlink(now);
                let turn = self.downlink.turn_of(text.item.as_ref());
                let line = self.transcript.on_text(text, turn, now);
                self.say(ToClient::Transcript(line));
            }
            FromAgent::Corrected(correction) => {
                if let Some(line) = self.transcript.on_corrected(&correction.item, correction.text) {
                    self.say(ToClient::Transcript(line));
                }
            }
            FromAgent::Discarded(audio) => {
                let dropped = Measure::Dropped { queue: Queue::Stale, audio };
                self.outputs.push_back(Output::Measure(dropped));
            }
            FromAgent::Words(words) => {
                self.settle_downlink(now);
                let turn = self.downlink.turn_of(words.item.as_ref());
                self.transcript.on_words(words.item, turn, words.words, now);
            }
            FromAgent::Delta(delta) => self.say(ToClient::Delta(delta)),
            FromAgent::Message(mut message) => {
                self.touch(now);
                self.transcript.on_message(Role::Agent, message.text.clone(), now);
                message.role = Some(Role::Agent);
                self.say(ToClient::Message(message));
            }
            FromAgent::Typing(on) => self.say(ToClient::Typing(Typing { on, who: Some(Role::Agent) })),
            FromAgent::Speech(_) if self.turn.decides() => {}
            FromAgent::Speech(event) => self.user_speaks(event, now),
            FromAgent::Thinking => self.prepare_answer(),
            FromAgent::ToolCall(call) => self.call_tool(upstream, call, now),
            FromAgent::ToolCancelled(calls) => self.cancel_tools(upstream, &calls, now),
            FromAgent::Usage(usage) => self.count_usage(usage, now),
            FromAgent::App(app) => self.say(ToClient::App(app)),
            FromAgent::Alert(alert) => self.say(ToClient::Alert(alert)),
            FromAgent::NotApplied(fields) => self.totals.on_not_applied(fields),
            FromAgent::GoAway(left) => self.begin_rollover(left, now),
            FromAgent::Error(error) => self.report_agent_error(error),
            FromAgent::Ended(end) => match end.failure {
                None => self.agent_hangs_up(now),
                Some(_) if self.timers.deadline(Timer::Goodbye).is_some() => self.let_go(now),
                Some(error) => self.lose_upstream(Some(error), now),
            },
        }
    }

    /// Connects to the agent on `rung`.
    pub(super) fn dial(&mut self, rung: usize, now: Micros) {
        let name = self.plan.rungs[rung].name().clone();
        let upstream = self.upstreams.dial(rung, name.as_str(), self.began, now);
        self.timers.set(Timer::AgentReady, now + self.plan.policy.agent_ready);
        if rung + 1 < self.plan.pool && !self.plan.policy.hedge.is_zero() {
            self.timers.set(Timer::Hedge, now + self.plan.policy.hedge);
        }
        self.outputs.push_back(Output::Dial { upstream, rung, role: UpstreamRole::Active });
        self.say_status(AgentStatus::Connecting, None);
    }

    pub(super) fn say_status(&mut self, status: AgentStatus, reason: Option<String>) {
        let name = self.upstreams.active().map(|active| self.plan.rungs[active.rung].name().clone());
        self.say(ToClient::Agent(AgentState { status, name, reason, retry_after_ms: None }));
    }

    /// The socket is open: say what the agent needs to know.
    pub(super) fn open_upstream(&mut self, upstream: UpstreamId, capabilities: Capabilities, now: Micros) {
        let _ = now;
        let standby = self.upstreams.standby().filter(|standby| standby.id == upstream);
        let Some(rung) = standby.or(self.upstreams.active()).map(|one| one.rung) else { return };
        let mut setup = merge(&self.plan.rungs[rung].setup, &self.setup);
        // Nobody was there to greet yet.
        let first = self.totals.agent_ready_ms.is_none() && self.transcript.is_empty();
        let awaited = self.awaited || self.tools.is_awaited();
        let greet = first || (awaited && self.waiting.is_empty());
        if !first {
            setup.greeting = Some(if greet { Greeting::Prompt(GO_ON.to_owned()) } else { Greeting::None });
        }
        let context = self.conversation_so_far();
        self.upstreams.on_connected(upstream, capabilities, context.clone());
        if self.upstreams.is_active(upstream) {
            self.count_replayed(&context);
        }
        let start = AgentStart {
            setup,
            context,
            session_id: self.id.clone(),
            conversation_id: self.conversation_id.clone(),
            client_context: self.context.clone(),
            metadata: self.metadata.clone(),
            greet,
            client: self.links.attached().map(|(_, info)| info.audio),
        };
        self.outputs.push_back(Output::ToAgent { upstream, message: ToAgent::Start(start) });
    }

    /// Keeps account of whether the caller waits for something that the agent says.
    fn watch_answer(&mut self, message: &FromAgent) {
        match message {
            FromAgent::Audio(_) | FromAgent::TurnStarted(_) => {
                self.timers.clear(Timer::Answer);
                self.told.clear();
                self.awaited = !self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.endless);
            }
            FromAgent::Delta(_) | FromAgent::ToolCall(_) => self.timers.clear(Timer::Answer),
            FromAgent::Message(_) | FromAgent::TurnEnded | FromAgent::Interrupted => {
                self.timers.clear(Timer::Answer);
                self.told.clear();
                self.awaited = false;
            }
            _ => {}
        }
    }

    /// The caller has ended and waits for an answer.
    pub(super) fn await_answer(&mut self, now: Micros) {
        self.awaited = true;
        let within = self.plan.policy.answer_within;
        if !within.is_zero() && self.upstreams.ready().is_some() {
            self.timers.set(Timer::Answer, now + within);
        }
    }

    /// Tells the agent a text message, which goes to the next agent if this one dies before it answers.
    pub(super) fn tell_message(&mut self, message: TextMessage, now: Micros) {
        if self.told.len() < MAX_WAITING_MESSAGES {
            self.told.push_back(message.clone());
        }
        self.tell(ToAgent::Message(message));
        self.await_answer(now);
    }

    /// What an agent that joins now has to know.
    pub(super) fn conversation_so_far(&self) -> Vec<ContextItem> {
        let mut spoken = self.transcript.context();
        // These are told as messages when the agent is ready.
        for message in self.waiting.iter().rev() {
            spoken.pop_if(|last| last.role == Role::User && last.text == message.text);
        }
        self.history.iter().cloned().chain(spoken).chain(self.tools.context()).collect()
    }

    pub(super) fn agent_ready(&mut self, ready: Ready, now: Micros) {
        let Some(active) = self.upstreams.active() else { return };
        let (rung, again) = (active.rung, active.ready.is_some());
        let capabilities = active.capabilities.unwrap_or_default();
        let formats = [ready.uplink, ready.downlink];
        if let Some(error) = formats.iter().find_map(|format| format.check().err()) {
            return self.lose_upstream(Some(protocol_error(error.to_string())), now);
        }
        if let Err(reason) = self.downlink.set_agent(ready.downlink, capabilities.endless) {
            return self.lose_upstream(Some(protocol_error(reason.to_string())), now);
        }
        self.forget_pause();
        let uplink = ready.uplink;
        let took = self.upstreams.on_ready(ready, now);
        self.uplink.set_agent(Some((uplink, capabilities.continuous)), now);
        self.fit_ear();
        self.timers.clear(Timer::AgentReady);
        if again {
            return;
        }
        self.timers.clear(Timer::Hedge);
        if self.upstreams.standby().is_some_and(|standby| standby.rung != rung) {
            self.drop_standby();
        }
        self.plan_rollover(now);
        if self.awaited {
            self.await_answer(now);
        }
        if let Some(took) = took {
            self.outputs.push_back(Output::Measure(Measure::UpstreamReady(took)));
        }
        self.open_taps(now);
        if self.totals.agent_ready_ms.is_none() {
            self.totals.agent_ready_ms = Some(now.since(self.began).as_millis() as u64);
        }
        self.tell_missed();
        let status = if rung == 0 { AgentStatus::Ready } else { AgentStatus::Fallback };
        self.say_status(status, None);
        for message in std::mem::take(&mut self.waiting) {
            self.tell_message(message, now);
        }
    }

    /// The agent is gone: the next rung takes over, if there is one.
    pub(super) fn lose_upstream(&mut self, why: Option<AgentError>, now: Micros) {
        let Some(gone) = self.upstreams.on_gone(why.as_ref(), now) else { return };
        for timer in [Timer::AgentReady, Timer::Hedge, Timer::Answer] {
            self.timers.clear(timer);
        }
        for message in std::mem::take(&mut self.told).into_iter().rev() {
            self.waiting.push_front(message);
        }
        self.waiting.truncate(MAX_WAITING_MESSAGES);
        self.outputs.push_back(Output::Hangup { upstream: gone.id });
        self.uplink.set_agent(None, now);
        self.downlink.on_turn_ended();
        self.tools.on_gone(gone.id);
        let reason = why.as_ref().map(|error| error.class.label().to_owned());
        if let Some(error) = &why {
            self.outputs.push_back(Output::Measure(Measure::UpstreamFailed { class: error.class }));
        }
        if self.adopt_standby(now) {
            return;
        }
        let next = gone.rung + 1;
        if next < self.plan.rungs.len() {
            self.outputs.push_back(Output::Measure(Measure::Fallback));
            self.give_notice(now);
            return self.dial(next, now);
        }
        self.say_status(AgentStatus::Down, reason);
        let text = why.map_or_else(|| "the agent is gone".to_owned(), |error| error.message);
        let error =
            Error { retryable: true, retry_after_ms: Some(1000), ..Error::new(ErrorCode::AgentUnavailable, text) };
        self.say(ToClient::Error(error));
        self.close(NO_AGENT, now);
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

    /// The agent has hung up: its last words are played, then the call ends.
    pub(super) fn agent_hangs_up(&mut self, now: Micros) {
        let left = self.downlink.depth();
        self.downlink.on_turn_ended();
        self.uplink.set_agent(None, now);
        if !self.downlink.is_busy() {
            return self.close(CloseReason::AgentHangup, now);
        }
        let patience = left.min(LAST_WORDS) + std::time::Duration::from_secs(1);
        self.timers.set(Timer::Goodbye, now + patience);
    }

    /// The agent that has hung up closes the connection, while its last words are played.
    pub(super) fn let_go(&mut self, now: Micros) {
        if let Some(gone) = self.upstreams.on_gone(None, now) {
            self.outputs.push_back(Output::Hangup { upstream: gone.id });
        }
    }

    fn report_agent_error(&mut self, error: AgentError) {
        let AgentError { code, message, .. } = error;
        let message = code.map_or(message.clone(), |code| format!("{code}: {message}"));
        self.say(ToClient::Error(Error { retryable: true, ..Error::new(ErrorCode::AgentError, message) }));
    }

    /// The caller begins or stops to speak, as the agent or the client tells.
    pub(super) fn user_speaks(&mut self, event: SpeechEvent, now: Micros) {
        self.touch(now);
        self.say(ToClient::Speech(Speech { who: Role::User, event }));
        match event {
            SpeechEvent::Started => {
                self.timers.clear(Timer::Answer);
                let turn = self.downlink.present_turn().unwrap_or_default();
                let line = self.transcript.on_user_started(turn, now);
                self.say(ToClient::Transcript(line));
                if !self.downlink.is_busy() {
                    self.move_to(State::Listening);
                }
            }
            SpeechEvent::Stopped => {
                self.transcript.on_user_stopped(now);
                self.await_answer(now);
                self.prepare_answer();
            }
        }
    }

    /// The caller begins or stops to speak, as the relay itself finds; `at` is the first or last voiced moment.
    pub(super) fn hear_speech(&mut self, event: SpeechEvent, at: Micros, now: Micros) {
        match event {
            SpeechEvent::Started => self.voiced_since = Some(at),
            SpeechEvent::Stopped => {
                if let Some(since) = self.voiced_since.take() {
                    self.totals.talk += at - since;
                    self.unanswered = Some(at);
                }
            }
        }
        let told_by_agent = self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.server_vad);
        if !told_by_agent && !self.turn.listens() {
            self.user_speaks(event, now);
        }
    }

    /// An answer is on its way: nobody waits for the caller now.
    fn prepare_answer(&mut self) {
        if !self.downlink.is_busy() && self.conversation.state() == State::Listening {
            self.move_to(State::Processing);
        }
    }

    /// Everything that the agent has said was heard.
    pub(super) fn end_of_answer(&mut self, now: Micros) {
        if self.conversation.state() == State::Speaking {
            self.move_to(State::WaitingForUser);
        }
        if self.timers.deadline(Timer::Goodbye).is_some() {
            self.close(CloseReason::AgentHangup, now);
        }
        self.end_if_spent(now);
    }

    fn count_usage(&mut self, mut usage: Usage, now: Micros) {
        usage.turn = self.downlink.present_turn().unwrap_or_default();
        let used: Vec<(String, f64)> = usage.amounts.iter().map(|(unit, amount)| (unit.clone(), *amount)).collect();
        self.upstreams.on_usage(&usage);
        self.say(ToClient::Usage(usage));
        self.charge(used.iter().map(|(unit, amount)| (unit.as_str(), *amount)), now);
    }

    /// An agent that took over was told what was said before.
    pub(super) fn count_replayed(&mut self, told: &[ContextItem]) {
        let chars = self.upstreams.on_replayed(told);
        if chars > 0 {
            self.outputs.push_back(Output::Measure(Measure::Replayed { chars }));
        }
    }

    /// An interrupted turn is settled: client, agent and transcript learn what was heard.
    pub(super) fn tell_cut(&mut self, cut: Cut, now: Micros) {
        let ms = |span: std::time::Duration| span.as_millis() as u64;
        self.say(ToClient::Heard(Heard {
            turn: cut.turn,
            ms: ms(cut.heard),
            of_ms: ms(cut.of),
            basis: cut.figure.basis,
            error_ms: cut.figure.error.as_millis() as u32,
        }));
        if !cut.own && self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.truncation) {
            self.tell(ToAgent::Truncate(Truncate {
                turn: cut.turn,
                item: cut.item.clone(),
                heard: cut.heard,
                of: cut.of,
                basis: cut.figure.basis,
                error: cut.figure.error,
            }));
        }
        let line = self.transcript.on_cut(cut.turn, cut.heard, cut.of, now);
        if let Some(line) = line.filter(|line| line.text.is_some()) {
            self.say(ToClient::Transcript(line));
        }
    }

    /// The store is full: the rest of the turn is refused, as if it were interrupted there.
    pub(super) fn refuse_tail(&mut self, turn: TurnId) {
        self.tell(ToAgent::Cancel(turn));
        self.say(ToClient::Alert(Alert {
            name: "playout_full".into(),
            severity: "warning".into(),
            data: serde_json::json!({ "turn": turn }),
        }));
    }
}

fn protocol_error(message: String) -> AgentError {
    AgentError { class: crate::message::FailureClass::Protocol, code: None, message }
}
