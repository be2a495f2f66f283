//! What clients say, and links that come and go.

use std::time::Duration;

use crate::ids::LinkId;
use crate::message::{
    AgentInfo, AgentState, CloseReason, ErrorCode, FromClient, History, Input, InputAction, Playout, SetState, Setup,
    SpeechEvent, Started, State, StateChange, TextMessage, ToAgent, ToClient, Transcript as Line, Update,
};
use crate::message::{AgentTranscript, Granted, Role};
use crate::route::plan::ClientMay;
use crate::session::event::{Carriage, LinkInfo, Measure, Output, Transport};
use crate::session::turn::Interrupter;
use crate::session::{MAX_WAITING_MESSAGES, Session, Timer, error, in_force, unsupported};
use crate::time::Micros;

/// Utterances kept that the client told of; the oldest go first.
const MAX_HISTORY: usize = 512;
/// Transcript lines in the snapshot for a client that has lost touch.
const SNAPSHOT_LINES: usize = 50;

impl Session {
    pub(super) fn handle_client(&mut self, message: FromClient, now: Micros) {
        let Some(message) = self.admit(message, now) else { return };
        if self.closed {
            return;
        }
        match message {
            FromClient::Audio(audio) => {
                self.taps.on_caller(&audio);
                self.uplink.on_audio(audio, now);
            }
            FromClient::Message(message) => self.take_message(message, now),
            FromClient::Typing(typing) => self.tell(ToAgent::Typing(typing)),
            FromClient::Interrupt(interrupt) => self.client_interrupts(interrupt, now),
            FromClient::Input(input) => self.take_input(input, now),
            FromClient::Mic(mic) => {
                self.taps.on_mic(mic.on);
                self.uplink.on_mic(mic.on, now);
            }
            FromClient::Dtmf(dtmf) => {
                self.touch(now);
                self.tell(ToAgent::Dtmf(dtmf));
            }
            FromClient::Playout(playout) => self.take_report(playout, now),
            FromClient::State(state) => self.take_state(state, now),
            FromClient::Transcript(line) => self.take_transcript(line, now),
            FromClient::ToolResult(result) => self.take_client_result(result, now),
            FromClient::Consent(consent) => self.totals.consent = Some(consent.recording == Granted::Granted),
            FromClient::App(app) => self.tell(ToAgent::App(app)),
            FromClient::Update(update) => self.take_update(update),
            FromClient::History(history) => self.take_history(history),
            FromClient::Stats => self.say(ToClient::Stats(self.stats())),
            FromClient::Describe => self.describe(),
            FromClient::End => self.close(CloseReason::ClientHangup, now),
            FromClient::Ping(ping) => self.say(ToClient::Pong(ping)),
        }
    }

    fn take_message(&mut self, message: TextMessage, now: Micros) {
        self.touch(now);
        let ready = self.upstreams.ready();
        if ready.is_none() && self.waiting.len() >= MAX_WAITING_MESSAGES {
            return self.refuse_message();
        }
        self.transcript.on_message(Role::User, message.text.clone(), now);
        match ready {
            Some((_, capabilities)) if !capabilities.text => self.say(ToClient::Error(unsupported("text messages"))),
            Some(_) => self.tell_message(message, now),
            None => self.waiting.push_back(message),
        }
    }

    /// Enough messages wait for an agent.
    pub(super) fn refuse_message(&mut self) {
        let mut error = error(ErrorCode::AgentUnavailable, "no agent is ready, and enough messages wait for it");
        error.retryable = true;
        error.field = Some("id".into());
        self.say(ToClient::Error(error));
        self.outputs.push_back(Output::Measure(Measure::MessageNotKept));
    }

    fn take_input(&mut self, input: Input, now: Micros) {
        self.touch(now);
        let manual = self.upstreams.ready().is_none_or(|(_, capabilities)| capabilities.manual_turns);
        if !manual {
            return self.say(ToClient::Error(unsupported("manual turns")));
        }
        match input.action {
            InputAction::Start => {
                self.barge_in(Interrupter::Client, now);
                self.user_speaks(SpeechEvent::Started, now);
            }
            InputAction::Commit => self.user_speaks(SpeechEvent::Stopped, now),
            InputAction::Clear => {}
        }
        self.tell(ToAgent::Input(input));
    }

    fn take_report(&mut self, playout: Playout, now: Micros) {
        let Some(played) = self.downlink.on_report(playout, now) else { return };
        if self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.playout) {
            self.tell(ToAgent::Playout(played));
        }
    }

    fn take_state(&mut self, state: SetState, now: Micros) {
        if state.to == State::Ended {
            return self.close(CloseReason::ClientHangup, now);
        }
        match self.conversation.enter(state.to) {
            Ok(from) => self.say(ToClient::State(StateChange { from, to: state.to })),
            Err(from) => {
                let text = format!("a conversation in state `{from:?}` cannot enter `{:?}`", state.to).to_lowercase();
                let mut error = error(ErrorCode::InvalidTransition, text);
                error.field = Some("to".into());
                self.say(ToClient::Error(error));
            }
        }
    }

    fn take_transcript(&mut self, line: Line, now: Micros) {
        self.touch(now);
        let Some(text) = line.text else { return };
        let is_final = line.is_final;
        let said = AgentTranscript { item: Some(line.item.clone()), role: Role::User, text, append: false, is_final };
        let told = self.transcript.on_text(said, None, now);
        let message =
            TextMessage { id: line.item.as_str().into(), text: told.text.clone().unwrap_or_default(), role: None };
        self.say(ToClient::Transcript(told));
        if is_final && self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.text) {
            self.tell(ToAgent::Message(message));
        }
    }

    fn take_update(&mut self, update: Update) {
        let (allowed, refused) = permitted(update.setup, self.plan.policy.client_may);
        for field in refused {
            self.refuse_field(field);
        }
        if allowed != Setup::default() {
            self.setup = merge(&self.setup, &allowed);
            self.fit_ear();
            self.update_in_force(&allowed);
            self.tell(ToAgent::Update(allowed));
        }
    }

    fn take_history(&mut self, history: History) {
        if !self.plan.policy.client_may.context {
            return self.refuse("context", "items".into());
        }
        self.history.extend(history.items.iter().cloned());
        let forgotten = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..forgotten);
        self.tell(ToAgent::History(history.items));
    }

    pub(super) fn refuse_field(&mut self, field: &'static str) {
        self.refuse(field, format!("setup.{field}"));
    }

    /// What the route does not let clients set; `at` is the message's field.
    fn refuse(&mut self, field: &'static str, at: String) {
        let text = format!("the route does not let clients set `{field}`; list it in `client_may`");
        let mut error = error(ErrorCode::NotPermitted, text);
        error.field = Some(at);
        self.outputs.push_back(Output::Measure(Measure::Refused));
        self.say(ToClient::Error(error));
    }

    /// The first link, or the next one of a resumed session.
    pub(super) fn attach(&mut self, info: LinkInfo, now: Micros) {
        self.lose_speaker(now);
        let have = info.have;
        let (link, old) = self.links.attach(info.clone());
        if let Some(link) = old {
            self.outputs.push_back(Output::Detach { link, code: 4409, reason: "taken over by a newer link" });
        }
        self.timers.clear(Timer::Resume);
        self.totals.resumes += 1;
        self.open_link(link, info, Some(have), now);
        self.touch(now);
    }

    /// Takes a link into use. `resumed`: it is not the first one, and what the client has.
    pub(super) fn open_link(&mut self, link: LinkId, info: LinkInfo, resumed: Option<Option<u64>>, now: Micros) {
        let acks = info.transport == Transport::Websocket && info.carriage == Carriage::Ordered;
        self.taps.on_link(Some(&info));
        self.uplink.set_link(Some((info.audio.uplink, info.carriage)), now);
        let spoken = self.downlink.attach(info.audio.downlink, info.carriage, acks, now);
        if info.transport != Transport::Webrtc {
            self.downlink.on_own_player();
        }
        let have = resumed.flatten();
        let missed: Option<Vec<_>> = have.and_then(|have| Some(self.links.missed(have)?.collect()));
        let complete = resumed.is_some().then_some(missed.is_some());
        let started = ToClient::Started(self.started(&info, complete));
        self.outputs.push_back(Output::ToClient { link, seq: None, message: started });
        match missed {
            Some(missed) => {
                for (seq, message) in missed {
                    self.outputs.push_back(Output::ToClient { link, seq: Some(seq), message });
                }
            }
            None if resumed.is_some() => self.say_snapshot(link),
            None => {}
        }
        if let Err(reason) = spoken {
            self.say(ToClient::Error(error(ErrorCode::BadFormat, reason.to_string())));
        }
    }

    fn started(&self, link: &LinkInfo, resumed: Option<bool>) -> Started {
        let rung = self.upstreams.active().map_or(0, |active| active.rung);
        let rung = &self.plan.rungs[rung];
        let agent = &rung.agent;
        Started {
            session_id: self.id.clone(),
            conversation_id: self.conversation_id.clone(),
            agent: AgentInfo {
                name: agent.name.clone(),
                display: agent.display.clone(),
                delay_ms: agent.announced_delay().map(|delay| delay.as_millis() as u32),
            },
            audio: link.audio,
            resume_token: link.resume_token.clone(),
            expires_at: self.expires_at,
            resumed,
            setup: in_force::told(rung, &self.setup),
        }
    }

    fn say_snapshot(&mut self, link: LinkId) {
        let state = self.conversation.state();
        let mut snapshot = vec![ToClient::State(StateChange { from: state, to: state })];
        let status = AgentState { status: self.status(), name: None, reason: None, retry_after_ms: None };
        snapshot.push(ToClient::Agent(status));
        let lines: Vec<Line> = self.transcript.lines().collect();
        let skip = lines.len().saturating_sub(SNAPSHOT_LINES);
        snapshot.extend(lines.into_iter().skip(skip).map(ToClient::Transcript));
        self.outputs.extend(snapshot.into_iter().map(|message| Output::ToClient { link, seq: None, message }));
    }

    /// The attached link is gone without goodbye.
    pub(super) fn lose_link(&mut self, now: Micros) {
        self.lose_speaker(now);
        self.links.detach();
        let window = self.plan.policy.resume_window;
        if window == Duration::ZERO {
            return self.close(CloseReason::ClientLost, now);
        }
        self.timers.set(Timer::Resume, now + window);
    }

    fn lose_speaker(&mut self, now: Micros) {
        self.taps.on_link(None);
        self.uplink.set_link(None, now);
        self.downlink.detach(now);
        self.forget_pause();
        self.settle_downlink(now);
    }
}

/// The fields of a client's set-up that the route lets it decide, and the names of the others.
pub(super) fn permitted(asked: Setup, may: ClientMay) -> (Setup, Vec<&'static str>) {
    let mut refused = Vec::new();
    let mut allowed = Setup::default();
    macro_rules! take {
        ($($field:ident: $may:expr),*) => {$(
            if asked.$field.is_some() {
                if $may { allowed.$field = asked.$field } else { refused.push(stringify!($field)) }
            }
        )*};
    }
    take!(
        instructions: may.instructions, voice: may.voice, language: may.language, model: may.model,
        greeting: may.instructions, transcribe: may.turns, turns: may.turns, tools: may.tools
    );
    (allowed, refused)
}

/// `over` on top of `base`, field by field.
pub(super) fn merge(base: &Setup, over: &Setup) -> Setup {
    let over = over.clone();
    let base = base.clone();
    Setup {
        instructions: over.instructions.or(base.instructions),
        voice: over.voice.or(base.voice),
        language: over.language.or(base.language),
        model: over.model.or(base.model),
        greeting: over.greeting.or(base.greeting),
        transcribe: over.transcribe.or(base.transcribe),
        turns: over.turns.or(base.turns),
        tools: over.tools.or(base.tools),
    }
}
