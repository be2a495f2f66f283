//! What agents say, and upstreams that come and go.

use crate::agent::Capabilities;
use crate::ids::{TurnId, UpstreamId};
use crate::message::{
    AgentError, AgentStart, AgentState, AgentStatus, Alert, CloseReason, Error, ErrorCode, FromAgent, Greeting, Heard,
    Ready, Role, Speech, SpeechEvent, State, ToAgent, ToClient, ToolCall, ToolStatus, Truncate, Typing, Usage,
};
use crate::session::clients::merge;
use crate::session::downlink::Cut;
use crate::session::event::{Measure, Output, Queue, UpstreamRole};
use crate::session::{MAX_TOOL_CALLS, NO_AGENT, Session, Timer};
use crate::time::Micros;

/// Agent audio that is kept playing after the agent has hung up, at most.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(60);

impl Session {
    pub(super) fn handle_agent(&mut self, upstream: UpstreamId, message: FromAgent, now: Micros) {
        match message {
            FromAgent::Ready(ready) => self.agent_ready(upstream, ready, now),
            FromAgent::Audio(audio) => self.downlink.on_audio(audio, now),
            FromAgent::TurnStarted(item) => {
                self.downlink.on_turn_started(item);
                self.prepare_answer();
            }
            FromAgent::TurnEnded => self.downlink.on_turn_ended(),
            FromAgent::Interrupted => self.barge_in(true, now),
            FromAgent::Transcript(text) => {
                self.touch(now);
                self.flush_downlink_news(now);
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
                self.flush_downlink_news(now);
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
            FromAgent::Speech(event) => self.user_speaks(event, now),
            FromAgent::Thinking => self.prepare_answer(),
            FromAgent::ToolCall(call) => self.call_tool(call, now),
            FromAgent::ToolCancelled(calls) => {
                for call_id in calls.into_iter().filter(|call| self.tools.contains(call)).collect::<Vec<_>>() {
                    self.tools.remove(&call_id);
                    let status = ToolStatus { call_id, name: String::new(), status: "cancelled".into() };
                    self.say(ToClient::Tool(status));
                }
            }
            FromAgent::Usage(usage) => self.count_usage(usage),
            FromAgent::App(app) => self.say(ToClient::App(app)),
            FromAgent::Alert(alert) => self.say(ToClient::Alert(alert)),
            FromAgent::NotApplied(fields) => self.totals.not_applied = fields,
            FromAgent::GoAway(_) => {}
            FromAgent::Error(error) => self.report_agent_error(error),
            FromAgent::Ended(end) => match end.failure {
                None => self.agent_hangs_up(now),
                Some(error) => self.lose_upstream(Some(error), now),
            },
        }
    }

    /// Connects to the agent on `rung`.
    pub(super) fn dial(&mut self, rung: usize, now: Micros) {
        let name = self.plan.rungs[rung].name().clone();
        let upstream = self.upstreams.dial(rung, name.as_str(), self.began, now);
        self.timers.set(Timer::AgentReady, now + self.plan.policy.agent_ready);
        self.outputs.push_back(Output::Dial { upstream, rung, role: UpstreamRole::Active });
        self.say_status(AgentStatus::Connecting, None);
    }

    fn say_status(&mut self, status: AgentStatus, reason: Option<String>) {
        let name = self.upstreams.active().map(|active| self.plan.rungs[active.rung].name().clone());
        self.say(ToClient::Agent(AgentState { status, name, reason, retry_after_ms: None }));
    }

    /// The socket is open: say what the agent needs to know.
    pub(super) fn open_upstream(&mut self, upstream: UpstreamId, capabilities: Capabilities, now: Micros) {
        let _ = now;
        self.upstreams.on_connected(capabilities);
        let Some(rung) = self.upstreams.active().map(|active| active.rung) else { return };
        let mut setup = merge(&self.plan.rungs[rung].setup, &self.setup);
        let spoken = self.transcript.context();
        let greet = rung == 0 && spoken.is_empty();
        if !greet {
            setup.greeting = Some(Greeting::None);
        }
        let start = AgentStart {
            setup,
            context: self.history.iter().cloned().chain(spoken).collect(),
            session_id: self.id.clone(),
            conversation_id: self.conversation_id.clone(),
            client_context: self.context.clone(),
            metadata: self.metadata.clone(),
            greet,
            client: self.links.attached().map(|(_, info)| info.audio),
        };
        self.outputs.push_back(Output::ToAgent { upstream, message: ToAgent::Start(start) });
    }

    fn agent_ready(&mut self, upstream: UpstreamId, ready: Ready, now: Micros) {
        let Some(active) = self.upstreams.active() else { return };
        let (rung, again) = (active.rung, active.ready.is_some());
        let capabilities = active.capabilities.unwrap_or_default();
        let formats = [ready.uplink, ready.downlink];
        if let Some(error) = formats.iter().find_map(|format| format.check().err()) {
            return self.lose_upstream(Some(protocol_error(error.to_string())), now);
        }
        if let Err(reason) = self.downlink.set_agent(ready.downlink, capabilities.endless, now) {
            return self.lose_upstream(Some(protocol_error(reason.to_string())), now);
        }
        let uplink = ready.uplink;
        let took = self.upstreams.on_ready(ready, now);
        self.uplink.set_agent(Some((uplink, capabilities.continuous)), now);
        self.timers.clear(Timer::AgentReady);
        if again {
            return;
        }
        if let Some(took) = took {
            self.outputs.push_back(Output::Measure(Measure::UpstreamReady(took)));
        }
        if self.totals.agent_ready_ms.is_none() {
            self.totals.agent_ready_ms = Some(now.since(self.began).as_millis() as u64);
        }
        let status = if rung == 0 { AgentStatus::Ready } else { AgentStatus::Fallback };
        self.say_status(status, None);
        for message in std::mem::take(&mut self.waiting) {
            self.outputs.push_back(Output::ToAgent { upstream, message: ToAgent::Message(message) });
        }
    }

    /// The agent is gone: the next rung takes over, if there is one.
    pub(super) fn lose_upstream(&mut self, why: Option<AgentError>, now: Micros) {
        let Some(gone) = self.upstreams.on_gone(why.as_ref()) else { return };
        self.timers.clear(Timer::AgentReady);
        self.outputs.push_back(Output::Hangup { upstream: gone.id });
        self.uplink.set_agent(None, now);
        self.downlink.on_turn_ended();
        self.tools.clear();
        let reason = why.as_ref().map(|error| error.class.label().to_owned());
        if let Some(error) = &why {
            self.outputs.push_back(Output::Measure(Measure::UpstreamFailed { class: error.class }));
        }
        let next = gone.rung + 1;
        if next < self.plan.rungs.len() {
            self.outputs.push_back(Output::Measure(Measure::Fallback));
            return self.dial(next, now);
        }
        self.say_status(AgentStatus::Down, reason);
        let text = why.map_or_else(|| "the agent is gone".to_owned(), |error| error.message);
        let error = Error {
            code: ErrorCode::AgentUnavailable,
            message: text,
            field: None,
            retryable: true,
            retry_after_ms: Some(1000),
        };
        self.say(ToClient::Error(error));
        self.close(NO_AGENT, now);
    }

    /// The agent has hung up: its last words are played, then the call ends.
    fn agent_hangs_up(&mut self, now: Micros) {
        let left = self.downlink.depth();
        self.downlink.on_turn_ended();
        self.uplink.set_agent(None, now);
        if !self.downlink.is_busy() {
            return self.close(CloseReason::AgentHangup, now);
        }
        let patience = left.min(LAST_WORDS) + std::time::Duration::from_secs(1);
        self.timers.set(Timer::Goodbye, now + patience);
    }

    fn report_agent_error(&mut self, error: AgentError) {
        let AgentError { code, message, .. } = error;
        let message = code.map_or(message.clone(), |code| format!("{code}: {message}"));
        self.say(ToClient::Error(Error {
            code: ErrorCode::AgentError,
            message,
            field: None,
            retryable: true,
            retry_after_ms: None,
        }));
    }

    /// The caller begins or stops to speak, as the agent or the client tells.
    pub(super) fn user_speaks(&mut self, event: SpeechEvent, now: Micros) {
        self.touch(now);
        self.say(ToClient::Speech(Speech { who: Role::User, event }));
        match event {
            SpeechEvent::Started => {
                let turn = self.downlink.present_turn().unwrap_or_default();
                let line = self.transcript.on_user_started(turn, now);
                self.say(ToClient::Transcript(line));
                if !self.downlink.is_busy() {
                    self.move_to(State::Listening);
                }
            }
            SpeechEvent::Stopped => {
                self.transcript.on_user_stopped(now);
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
        if !told_by_agent {
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
    }

    fn call_tool(&mut self, call: ToolCall, now: Micros) {
        self.touch(now);
        if self.tools.contains(&call.call_id) {
            return;
        }
        self.totals.tools += 1;
        if self.tools.len() == MAX_TOOL_CALLS {
            let result = crate::message::ToolResult {
                call_id: call.call_id,
                output: "too many tool calls at once".into(),
                is_error: true,
            };
            return self.tell(ToAgent::ToolResult(result));
        }
        self.tools.insert(call.call_id.clone());
        self.say(ToClient::ToolCall(call));
    }

    fn count_usage(&mut self, mut usage: Usage) {
        usage.turn = self.downlink.present_turn().unwrap_or_default();
        for (unit, amount) in &usage.amounts {
            *self.totals.usage.entry(unit.clone()).or_default() += amount;
        }
        self.say(ToClient::Usage(usage));
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
        if self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.truncation) {
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

    /// Takes up turns that have begun, so that texts find them.
    fn flush_downlink_news(&mut self, now: Micros) {
        while let Some(output) = self.downlink.take_queued() {
            self.handle_downlink(output, now);
        }
    }
}

fn protocol_error(message: String) -> AgentError {
    AgentError { class: crate::message::FailureClass::Protocol, code: None, message }
}
