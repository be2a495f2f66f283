//! When the caller of `antiphon call` speaks, listens and hangs up; sans-IO.

use std::time::Duration;

use crate::message::{ToClient, Turn, TurnPhase};
use crate::time::Micros;

/// How long an agent is given to speak first.
const AGENT_FIRST: Duration = Duration::from_millis(1500);
/// An agent that is not ready after so long is spoken to nevertheless (the relay keeps the beginning).
const READY_WAIT: Duration = Duration::from_secs(5);
/// How long it is listened to before it is interrupted.
const LISTEN: Duration = Duration::from_secs(3);
/// After the speech: silence after which no answer is expected any more.
const NO_ANSWER: Duration = Duration::from_secs(4);
/// After the speech: how long an answer is listened to.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the tail of an echo may come late.
const TAIL: Duration = Duration::from_secs(3);

/// What the microphone takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Microphone {
    /// Nothing is sent.
    Off,
    /// Silence is sent.
    Silence,
    /// The speech.
    Speech,
}

/// The course of a call: an agent that speaks first is listened to for 3 s and then interrupted, any other is spoken to;
/// then its answer is heard to the end. An echo is spoken to at once and heard until its tail is back.
#[derive(Debug, Default)]
pub struct Script {
    started: Option<Micros>,
    echo_delay: Option<Duration>,
    ready: Option<Micros>,
    first_audio: Option<Micros>,
    last_audio: Option<Micros>,
    speech_began: Option<Micros>,
    speech_ended: Option<Micros>,
    answer_began: Option<Micros>,
    answer_complete: bool,
}

impl Script {
    /// A control message came.
    pub fn handle_message(&mut self, message: &ToClient, now: Micros) {
        match message {
            ToClient::Started(started) if self.started.is_none() => {
                self.started = Some(now);
                self.echo_delay = started.agent.delay_ms.map(|ms| Duration::from_millis(ms.into()));
            }
            ToClient::Agent(agent) if agent.status == crate::message::AgentStatus::Ready => {
                self.ready.get_or_insert(now);
            }
            ToClient::Turn(Turn { phase, .. }) if self.speech_ended.is_some() => match phase {
                TurnPhase::Start => _ = self.answer_began.get_or_insert(now),
                TurnPhase::End => self.answer_complete = self.answer_began.is_some(),
            },
            _ => {}
        }
    }

    /// An audio frame came.
    pub fn handle_audio(&mut self, now: Micros) {
        self.first_audio.get_or_insert(now);
        self.last_audio = Some(now);
    }

    /// The last frame of the speech was sent.
    pub fn handle_speech_end(&mut self, now: Micros) {
        self.speech_ended.get_or_insert(now);
    }

    /// The delay that an echo announced.
    pub fn echo_delay(&self) -> Option<Duration> {
        self.echo_delay
    }

    /// What the microphone takes in now.
    pub fn microphone(&mut self, now: Micros) -> Microphone {
        if self.started.is_none() {
            return Microphone::Off;
        }
        if self.speech_ended.is_none() && self.speech_at().is_some_and(|at| at <= now) {
            self.speech_began.get_or_insert(now);
            return Microphone::Speech;
        }
        if self.echo_delay.is_some() { Microphone::Off } else { Microphone::Silence }
    }

    /// When the answer after the speech began, if one has.
    pub fn answer_began(&self) -> Option<Micros> {
        self.answer_began
    }

    fn speech_at(&self) -> Option<Micros> {
        let started = self.started?;
        if self.echo_delay.is_some() {
            return Some(started);
        }
        let ready = self.ready.unwrap_or(started + READY_WAIT);
        match self.first_audio {
            Some(first) if first <= ready + AGENT_FIRST => Some(first + LISTEN),
            _ => Some(ready + AGENT_FIRST),
        }
    }

    /// Whether it is time to hang up. `playing`: sound still leaves the speaker; `echoed`: all that was sent came back.
    pub fn is_over(&self, playing: bool, echoed: bool, now: Micros) -> bool {
        let Some(ended) = self.speech_ended else { return false };
        if let Some(delay) = self.echo_delay {
            return !playing && (echoed || now >= ended + delay + TAIL);
        }
        let quiet_since = self.last_audio.map_or(ended, |last| last.max(ended));
        let answered = self.answer_complete && !playing;
        answered || (!playing && now >= quiet_since + NO_ANSWER) || now >= ended + ANSWER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, TurnId};
    use crate::media::format::Format;
    use crate::message::{AgentInfo, AgentState, AgentStatus, AudioFormats, Started};
    use serde_json::Value;

    fn ms(ms: u64) -> Micros {
        Micros::from_millis(ms)
    }

    fn script(delay_ms: Option<u32>) -> Script {
        let mut script = Script::default();
        let started = Started {
            session_id: "s".into(),
            conversation_id: "c".into(),
            agent: AgentInfo { name: "a".into(), display: Value::Null, delay_ms },
            audio: AudioFormats { uplink: Format::OPUS, downlink: Format::OPUS, flow: None },
            resume_token: String::new(),
            expires_at: None,
            resumed: None,
            setup: None,
        };
        let ready = AgentState { status: AgentStatus::Ready, name: None, reason: None, retry_after_ms: None };
        script.handle_message(&ToClient::Started(started), ms(10));
        script.handle_message(&ToClient::Agent(ready), ms(20));
        script
    }

    fn turn(phase: TurnPhase) -> ToClient {
        ToClient::Turn(Turn { turn: TurnId(2), generation: Generation(0), item: None, phase, pos: 0 })
    }

    #[test]
    fn an_agent_that_speaks_first_is_interrupted_after_3_s_and_its_answer_heard_to_the_end() {
        let mut script = script(None);
        script.handle_audio(ms(100));
        assert_eq!(script.microphone(ms(3099)), Microphone::Silence);
        assert_eq!(script.microphone(ms(3100)), Microphone::Speech);
        script.handle_speech_end(ms(6000));
        assert_eq!(script.microphone(ms(6000)), Microphone::Silence);
        script.handle_message(&turn(TurnPhase::Start), ms(7000));
        assert_eq!(script.answer_began(), Some(ms(7000)));
        script.handle_audio(ms(7000));
        assert!(!script.is_over(true, false, ms(8000)));
        script.handle_message(&turn(TurnPhase::End), ms(9000));
        assert!(!script.is_over(true, false, ms(9000)), "the rest of it still plays");
        assert!(script.is_over(false, false, ms(9100)));
    }

    #[test]
    fn a_silent_agent_is_spoken_to_and_given_time_to_answer() {
        let mut script = script(None);
        assert_eq!(script.microphone(ms(1000)), Microphone::Silence);
        assert_eq!(script.microphone(ms(1520)), Microphone::Speech);
        script.handle_audio(ms(3000));
        assert_eq!(script.microphone(ms(3000)), Microphone::Speech, "speaking is not put off any more");
        script.handle_speech_end(ms(4000));
        assert!(!script.is_over(false, false, ms(7999)));
        assert!(script.is_over(false, false, ms(8000)));
    }

    #[test]
    fn an_echo_is_heard_until_its_tail_is_back() {
        let mut script = script(Some(1000));
        assert_eq!(script.microphone(ms(20)), Microphone::Speech);
        script.handle_speech_end(ms(2000));
        assert_eq!(script.microphone(ms(2000)), Microphone::Off);
        assert!(!script.is_over(false, false, ms(3010)));
        assert!(!script.is_over(true, true, ms(3010)));
        assert!(script.is_over(false, true, ms(3030)));
        assert!(script.is_over(false, false, ms(6000)), "a tail that is lost is not waited for forever");
    }
}
