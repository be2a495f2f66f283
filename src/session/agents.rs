//! What agents say, and upstreams that come and go.

use crate::agent::Capabilities;
use crate::agent::recap::GO_ON;
use crate::ids::{TurnId, UpstreamId};
use crate::message::{
    AgentError, AgentStart, Alert, ContextItem, Error, ErrorCode, FromAgent, Greeting, Heard, Ready, Role, Speech,
    SpeechEvent, State, TextMessage, ToAgent, ToClient, Truncate, Typing, Usage,
};
use crate::session::clients::merge;
use crate::session::downlink::Cut;
use crate::session::event::{Measure, Output, Queue};
use crate::session::turn::Interrupter;
use crate::session::{MAX_WAITING_MESSAGES, Session, Timer};
use crate::time::Micros;

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
            FromAgent::Dropped(audio) => {
                let dropped = Measure::Dropped { queue: Queue::Uplink, audio };
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
            FromAgent::Utterance(item) => self.transcript.on_named(item),
            FromAgent::Thinking => self.prepare_answer(),
            FromAgent::ToolCall(call) => self.call_tool(upstream, call, now),
            FromAgent::ToolCancelled(calls) => self.cancel_tools(upstream, &calls, now),
            FromAgent::Usage(usage) => self.count_usage(usage, now),
            FromAgent::App(app) => self.say(ToClient::App(app)),
            FromAgent::Alert(alert) => self.say(ToClient::Alert(alert)),
            FromAgent::NotApplied(fields) => self.take_not_applied(fields),
            FromAgent::GoAway(left) => self.begin_rollover(left, now),
            FromAgent::Renewed => self.count_rollover(),
            FromAgent::Error(error) if self.awaited && self.plan.policy.fail_on.contains(&error.class) => {
                self.lose_upstream(error, now);
            }
            FromAgent::Error(error) => self.report_agent_error(error),
            FromAgent::Ended(end) => match end.failure {
                None => self.agent_hangs_up(now),
                Some(_) if self.timers.deadline(Timer::Goodbye).is_some() => self.let_go(now),
                Some(error) => self.lose_upstream(error, now),
            },
        }
    }

    /// The socket is open: say what the agent needs to know.
    pub(super) fn open_upstream(&mut self, upstream: UpstreamId, capabilities: Capabilities, now: Micros) {
        let _ = now;
        let standby = self.upstreams.standby().filter(|standby| standby.id == upstream);
        let Some(rung) = standby.or(self.upstreams.active()).map(|one| one.rung) else { return };
        let mut setup = merge(&self.plan.rungs[rung].setup, &self.setup);
        // Nobody was there to greet yet.
        let first = self.totals.agent_ready_ms.is_none() && self.transcript.is_empty();
        // Who stands by while another one talks is not asked for anything before it takes over.
        let covered = self.upstreams.is_standby(upstream) && self.upstreams.ready().is_some();
        let awaited = self.awaited || self.tools.is_awaited();
        let greet = !covered && (first || (awaited && self.waiting.is_empty()));
        if !first {
            setup.greeting = Some(if greet { Greeting::Prompt(GO_ON.to_owned()) } else { Greeting::None });
        }
        let context = self.conversation_so_far();
        self.upstreams.on_connected(upstream, capabilities, context.clone(), greet);
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
                self.ladder.on_answered();
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
            return self.lose_upstream(protocol_error(error.to_string()), now);
        }
        if let Err(reason) = self.downlink.set_agent(ready.downlink, capabilities.endless) {
            return self.lose_upstream(protocol_error(reason.to_string()), now);
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
        self.transcript.on_agent_changed();
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
        if rung < self.plan.regular {
            self.end_down(now);
        }
        let reason = self.failover.take();
        if let Some(reason) = reason {
            self.totals.failovers += 1;
            self.outputs.push_back(Output::Measure(Measure::Failover { reason }));
        }
        self.say_status(self.status(), reason.map(str::to_owned));
        for message in std::mem::take(&mut self.waiting) {
            self.tell_message(message, now);
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
            self.close(self.farewell, now);
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
