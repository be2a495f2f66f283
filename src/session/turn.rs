//! Whose turn it is: how the caller interrupts the agent, how an interruption is taken back, and what the relay's own
//! ear finds.
//!
//! Whoever finds the interruption (the agent, the client, the ear), it goes one way: the flush is the first thing that
//! the client gets, then the agent is told to stop, and once it is known what was heard, the agent's memory and the
//! transcript are cut to it. On a reversible route the ear and a client that asks for it only *pause* the voice: the
//! flush is the same, but the agent is told nothing until it is confirmed, and if it is not, the voice goes on from
//! where it was heard last.

use std::time::Duration;

use crate::media::level::SILENT;
use crate::media::voice::VoiceWindow;
use crate::message::{
    Input, InputAction, Interrupt, InterruptAction, SpeechEvent, State, ToAgent, ToClient, TurnDetection,
};
use crate::session::clients::merge;
use crate::session::ear::{AgentSound, Ear, Found};
use crate::session::event::{Measure, Output};
use crate::session::record::MAX_FIRST_AUDIO;
use crate::session::{Session, Timer, means};
use crate::time::Micros;

/// A pause that the client asked for and does not settle is taken back after this.
const UNSETTLED: Duration = Duration::from_secs(3);

/// Who finds that the caller interrupts the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interrupter {
    /// The agent's own detection.
    Agent,
    /// The client.
    Client,
    /// The relay's detection of voice.
    Relay,
}

impl Interrupter {
    /// All of them.
    pub const ALL: [Interrupter; 3] = [Interrupter::Agent, Interrupter::Client, Interrupter::Relay];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Interrupter::Agent => "agent",
            Interrupter::Client => "client",
            Interrupter::Relay => "relay",
        }
    }
}

/// What is known of the turn that is being taken.
#[derive(Debug, Default)]
pub struct TurnTaking {
    /// There where the relay's detection of voice is asked for.
    ear: Option<Ear>,
    /// The relay tells the agent when the caller's turn begins and ends.
    decides: bool,
    /// The caller's turn has begun by what the ear found.
    open: bool,
    /// The agent's voice is stopped for the moment, by whom.
    paused: Option<Interrupter>,
}

impl TurnTaking {
    /// Whether the relay's ear tells of the caller's speech.
    pub fn listens(&self) -> bool {
        self.ear.is_some()
    }

    /// Whether the agent's voice is stopped for the moment.
    #[cfg(any(test, debug_assertions))]
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Whether the relay tells the agent of the caller's turns, so that what the agent finds by itself does not count.
    pub fn decides(&self) -> bool {
        self.decides
    }
}

impl Session {
    /// Takes the ear into use or out of it, as the route and the set-up in force want it.
    pub(super) fn fit_ear(&mut self) {
        let rung = self.upstreams.active().map_or(0, |active| active.rung);
        let setup = merge(&self.plan.rungs[rung].setup, &self.setup);
        let decides = setup.turns.is_some_and(|turns| turns.detect == TurnDetection::Relay);
        let policy = &self.plan.policy;
        let listens = decides || policy.barge_in.relay;
        self.turn.decides = decides;
        if listens && self.turn.ear.is_none() {
            self.turn.ear = Some(Ear::new(&policy.barge_in, policy.speech_threshold_dbov));
        } else if !listens {
            self.turn.ear = None;
            self.timers.clear(Timer::CallerSilent);
        }
        self.uplink.detect_voice(listens);
        self.downlink.measure_levels(listens);
    }

    /// The first audio of an answer is handed over.
    pub(super) fn answer_heard(&mut self, now: Micros) {
        let spoke = self.unanswered.take().or_else(|| self.voiced_since.and(self.uplink.last_voiced()));
        let Some(since) = spoke else { return };
        let took = now - since;
        if self.totals.first_audio_ms.len() < MAX_FIRST_AUDIO {
            self.totals.first_audio_ms.push(took.as_millis() as u64);
        }
        self.outputs.push_back(Output::Measure(Measure::FirstAudio(took)));
    }

    /// The client interrupts, or takes it back.
    pub(super) fn client_interrupts(&mut self, interrupt: Interrupt, now: Micros) {
        if !means(interrupt.turn, self.downlink.present_turn()) {
            return;
        }
        if let Some(pos) = interrupt.pos.filter(|_| self.turn.paused.is_none()) {
            self.downlink.on_report(crate::message::Playout { pos, buffered_ms: 0, flush: None }, now);
        }
        let reversible = self.plan.policy.barge_in.reversible.is_some();
        match interrupt.action {
            Some(InterruptAction::Pause) if reversible => {
                self.pause(Interrupter::Client, now);
                if self.turn.paused == Some(Interrupter::Client) {
                    self.timers.set(Timer::Pause, now + UNSETTLED);
                }
            }
            Some(InterruptAction::Resume) => self.take_back(now),
            Some(InterruptAction::Pause | InterruptAction::Confirm) | None => self.barge_in(Interrupter::Client, now),
        }
    }

    /// Stops the agent's voice because the caller interrupts. The flush goes out before anything else.
    pub(super) fn barge_in(&mut self, by: Interrupter, now: Micros) {
        let by_agent = by == Interrupter::Agent;
        let answers = self.downlink.has_answer();
        let Some(turn) = self.downlink.interrupt(by_agent, now) else { return self.forget_pause() };
        self.say_flush();
        if !by_agent && answers {
            self.tell(ToAgent::Cancel(turn));
        }
        let paused = self.end_pause(true);
        self.settle_downlink(now);
        self.totals.interruptions += 1;
        let by = paused.unwrap_or(by);
        self.totals.barge_in.count(by);
        self.awaited = false;
        self.outputs.push_back(Output::Measure(Measure::Interruption { by }));
        self.move_to(State::Listening);
        self.touch(now);
    }

    /// Stops the agent's voice for the moment, if it speaks.
    fn pause(&mut self, by: Interrupter, now: Micros) {
        if self.downlink.pause(now).is_none() {
            return;
        }
        self.say_flush();
        self.turn.paused = Some(by);
        self.totals.barge_in.paused += 1;
        self.settle_downlink(now);
        self.move_to(State::Listening);
        self.touch(now);
    }

    /// The interruption was none: the agent's voice goes on where it was heard last.
    pub(super) fn take_back(&mut self, now: Micros) {
        if self.end_pause(false).is_none() {
            return;
        }
        self.totals.barge_in.resumed += 1;
        self.downlink.resume();
        if let Some(ear) = &mut self.turn.ear {
            ear.forget();
        }
        self.move_to(if self.downlink.is_busy() { State::Speaking } else { State::WaitingForUser });
        self.touch(now);
    }

    /// The pause, if there is one, is over; who began it.
    fn end_pause(&mut self, confirmed: bool) -> Option<Interrupter> {
        let by = self.turn.paused.take()?;
        self.timers.clear(Timer::Pause);
        self.outputs.push_back(Output::Measure(Measure::PauseEnded { confirmed }));
        Some(by)
    }

    /// There is no pause any more: its link is gone, and playback goes on over the next one, or nothing is left of it.
    pub(super) fn forget_pause(&mut self) {
        if !self.downlink.is_paused() && self.end_pause(false).is_some() {
            self.totals.barge_in.resumed += 1;
        }
    }

    /// Says the flush before everything that waits to be said.
    fn say_flush(&mut self) {
        let Some(flush) = self.downlink.take_flush() else { return };
        let queued = self.outputs.len();
        self.say(ToClient::Flush(flush));
        self.outputs.rotate_left(queued);
    }

    /// Takes up what the downlink has found meanwhile.
    pub(super) fn settle_downlink(&mut self, now: Micros) {
        while let Some(output) = self.downlink.take_queued() {
            self.handle_downlink(output, now);
        }
    }

    /// The relay's detection of voice has judged a stretch of the caller's audio.
    pub(super) fn hear_voice(&mut self, window: VoiceWindow, at: Micros, now: Micros) {
        let Some(ear) = &mut self.turn.ear else { return };
        let (level, first) = self.downlink.audible(now);
        let warmup = self.plan.policy.barge_in.warmup;
        let warming_up = level < SILENT && first.is_some_and(|first| now - first < warmup);
        let found = ear.on_window(window, at, AgentSound { level, warming_up });
        self.heed(found, now);
        self.judge_pause(now);
    }

    /// Nothing was heard of the caller for a while.
    pub(super) fn caller_silent(&mut self, now: Micros) {
        let found = self.turn.ear.as_mut().and_then(|ear| ear.on_deadline(now));
        self.heed(found, now);
    }

    fn heed(&mut self, found: Option<Found>, now: Micros) {
        match found {
            Some(Found::Started(_)) => self.caller_starts(now),
            Some(Found::Stopped(_)) => self.caller_stops(now),
            Some(Found::Ignored(why)) => {
                self.totals.barge_in.ignore(why);
                self.outputs.push_back(Output::Measure(Measure::BargeInIgnored(why)));
            }
            None => {}
        }
        match self.turn.ear.as_ref().and_then(Ear::deadline) {
            Some(at) => self.timers.set(Timer::CallerSilent, at),
            None => self.timers.clear(Timer::CallerSilent),
        }
    }

    fn caller_starts(&mut self, now: Micros) {
        if self.downlink.is_busy() {
            if self.plan.policy.barge_in.reversible.is_some() {
                self.pause(Interrupter::Relay, now);
            } else {
                self.barge_in(Interrupter::Relay, now);
            }
        }
        if self.turn.paused.is_none() {
            self.open_turn(now);
        }
    }

    /// The caller's turn begins, as the relay finds.
    fn open_turn(&mut self, now: Micros) {
        if !self.tells_speech() || std::mem::replace(&mut self.turn.open, true) {
            return;
        }
        self.user_speaks(SpeechEvent::Started, now);
        self.tell_input(InputAction::Start);
    }

    fn caller_stops(&mut self, now: Micros) {
        if std::mem::take(&mut self.turn.open) {
            self.user_speaks(SpeechEvent::Stopped, now);
            self.tell_input(InputAction::Commit);
        }
    }

    /// Whether client and agent learn of the caller's speech from the ear.
    fn tells_speech(&self) -> bool {
        let told_by_agent = self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.server_vad);
        self.turn.decides || !told_by_agent
    }

    fn tell_input(&mut self, action: InputAction) {
        let manual = self.upstreams.ready().is_some_and(|(_, capabilities)| capabilities.manual_turns);
        if self.turn.decides && manual {
            self.tell(ToAgent::Input(Input { action }));
        }
    }

    /// Settles a pause that the ear began: the caller goes on, or was silent for long enough.
    pub(super) fn judge_pause(&mut self, now: Micros) {
        let (Some(by), Some(reversible)) = (self.turn.paused, self.plan.policy.barge_in.reversible) else { return };
        if by == Interrupter::Client {
            if self.timers.deadline(Timer::Pause).is_none() {
                self.take_back(now);
            }
            return;
        }
        let Some((since, last)) = self.turn.ear.as_ref().and_then(Ear::speaking) else { return self.take_back(now) };
        if now - last >= reversible.resume {
            self.take_back(now);
        } else if last - since >= reversible.confirm {
            self.barge_in(Interrupter::Relay, now);
            self.open_turn(now);
        } else {
            self.timers.set(Timer::Pause, last + reversible.resume);
        }
    }
}
