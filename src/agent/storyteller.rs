//! `storyteller`: tells an embedded spoken story, stops while the caller speaks, and goes on with the next sentence.
//!
//! It needs no key and no network, and behaves like a vendor's agent: it sends a sentence at once, far faster than real
//! time, as a turn and item of its own, with transcript and word times; it hears the caller by itself; and it is told
//! how much of each sentence was heard. So an interruption and its exact figure can be seen in the first minute.

mod story;
pub(crate) mod voice;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::agent::{Agent, AgentOutput, Capabilities};
use crate::ids::{ItemId, MessageId};
use crate::media::format::Format;
use crate::message::{
    AgentAudio, AgentPlayout, AgentStart, AgentTranscript, FromAgent, Greeting, Ready, Role, SpeechEvent, TextMessage,
    ToAgent, Truncate, Words,
};
use crate::time::Micros;
use story::{STORY, Sentence};
use voice::VoiceDetector;

/// What it hears.
pub const UPLINK: Format = Format::pcm16(16_000);
/// What it speaks.
pub const DOWNLINK: Format = Format::OPUS;
/// Between two sentences.
const PAUSE: Duration = Duration::from_millis(400);
/// From the end of the caller's speech to the next sentence.
const ANSWER: Duration = Duration::from_millis(300);
/// After the caller's client stopped it without a word being spoken.
const STOPPED: Duration = Duration::from_millis(1500);

/// What it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not started, or the conversation is over.
    Silent,
    /// A sentence is sent and, as far as is known, played until this instant.
    Telling(Micros),
    /// The next sentence begins at this instant.
    Pausing(Micros),
    /// The caller speaks.
    Listening,
    /// The caller is to speak: the story is told, or the set-up says that it waits.
    Waiting,
}

/// Tells a story.
#[derive(Debug)]
pub struct Storyteller {
    seed: u64,
    phase: Phase,
    /// The sentence to tell next.
    next: usize,
    /// Sentences told so far, for item ids.
    told: u64,
    item: Option<ItemId>,
    /// Audio sent so far.
    sent: Duration,
    events: VecDeque<FromAgent>,
    detector: VoiceDetector,
    last_truncate: Option<Truncate>,
}

impl Storyteller {
    /// A storyteller whose item ids carry `seed`, so that they differ between sessions.
    pub fn new(seed: u64) -> Storyteller {
        Storyteller {
            seed,
            phase: Phase::Silent,
            next: 0,
            told: 0,
            item: None,
            sent: Duration::ZERO,
            events: VecDeque::new(),
            detector: VoiceDetector::default(),
            last_truncate: None,
        }
    }

    /// The latest interruption that it was told of.
    pub fn last_truncate(&self) -> Option<&Truncate> {
        self.last_truncate.as_ref()
    }

    /// The sentences of the story: what is said, and the speech as Opus packets of 20 ms.
    pub fn sentences() -> impl ExactSizeIterator<Item = (&'static str, &'static [Bytes])> {
        STORY.iter().map(|sentence| (sentence.text.as_str(), sentence.packets.as_slice()))
    }

    fn on_start(&mut self, start: AgentStart, now: Micros) {
        self.events.push_back(FromAgent::Ready(Ready { uplink: UPLINK, downlink: DOWNLINK, delay: None }));
        let caller_first = start.setup.greeting == Some(Greeting::None);
        let mut not_applied = start.setup.set_fields();
        not_applied.retain(|field| !(field == "greeting" && caller_first));
        if !not_applied.is_empty() {
            self.events.push_back(FromAgent::NotApplied(not_applied));
        }
        self.phase = if caller_first { Phase::Waiting } else { Phase::Pausing(now) };
    }

    fn tell(&mut self, now: Micros) {
        let sentence: &Sentence = &STORY[self.next];
        self.told += 1;
        let item = ItemId::from(format!("story-{:x}-{}", self.seed, self.told));
        self.events.push_back(FromAgent::TurnStarted(Some(item.clone())));
        self.events.push_back(FromAgent::Transcript(AgentTranscript {
            item: Some(item.clone()),
            role: Role::Agent,
            text: sentence.text.clone(),
            append: false,
            is_final: true,
        }));
        let words = sentence.words.clone();
        self.events.push_back(FromAgent::Words(Words { item: Some(item.clone()), words }));
        self.events.extend(sentence.packets.iter().map(|payload| {
            FromAgent::Audio(AgentAudio { arrival: now, item: Some(item.clone()), rtp: None, payload: payload.clone() })
        }));
        self.events.push_back(FromAgent::TurnEnded);
        self.item = Some(item);
        self.phase = Phase::Telling(now + sentence.duration());
        self.next += 1;
    }

    /// Stops the present sentence, if there is one: what is not sent yet never is.
    fn stop(&mut self, then: Phase) {
        self.events.retain(|event| !matches!(event, FromAgent::Audio(_) | FromAgent::TurnEnded));
        self.phase = then;
    }

    fn on_speech(&mut self, event: SpeechEvent, now: Micros) {
        match event {
            SpeechEvent::Started => {
                let speaking = matches!(self.phase, Phase::Telling(_));
                self.stop(Phase::Listening);
                // What stops the voice goes first.
                if speaking {
                    self.events.push_back(FromAgent::Interrupted);
                }
                self.events.push_back(FromAgent::Speech(event));
            }
            SpeechEvent::Stopped => {
                self.events.push_back(FromAgent::Speech(event));
                self.events.push_back(FromAgent::Thinking);
                if self.next == STORY.len() {
                    self.next = 0;
                }
                self.phase = Phase::Pausing(now + ANSWER);
            }
        }
    }

    fn on_playout(&mut self, playout: AgentPlayout, now: Micros) {
        if matches!(self.phase, Phase::Telling(_)) {
            self.phase = Phase::Telling(now + self.sent.saturating_sub(playout.played));
        }
    }

    fn on_message(&mut self, message: &TextMessage) {
        let id = MessageId::from(format!("{}-answer", message.id));
        let text = if matches!(self.phase, Phase::Telling(_) | Phase::Pausing(_)) {
            "Thank you, I have read it. Now listen: the story goes on."
        } else {
            "Thank you, I have read it. Speak to me, and I will tell the story."
        };
        self.events.push_back(FromAgent::Message(TextMessage { id, text: text.to_owned(), role: Some(Role::Agent) }));
    }

    fn advance(&mut self, now: Micros) {
        match self.phase {
            Phase::Telling(end) if end <= now && self.next == STORY.len() => self.phase = Phase::Waiting,
            Phase::Telling(end) if end <= now => self.phase = Phase::Pausing(end + PAUSE),
            Phase::Pausing(end) if end <= now => self.tell(now),
            _ => {}
        }
    }
}

impl Agent for Storyteller {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            continuous: true,
            server_vad: true,
            truncation: true,
            playout: true,
            text: true,
            ..Capabilities::default()
        }
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, now: Micros) {
        match message {
            ToAgent::Start(start) => self.on_start(start, now),
            ToAgent::Audio(frame) if self.phase != Phase::Silent => {
                if let Some(event) = self.detector.on_pcm16(&frame.payload) {
                    self.on_speech(event, now);
                }
            }
            ToAgent::Message(message) => self.on_message(&message),
            ToAgent::Playout(playout) => self.on_playout(playout, now),
            ToAgent::Cancel(_) if matches!(self.phase, Phase::Telling(_)) => self.stop(Phase::Pausing(now + STOPPED)),
            ToAgent::Truncate(truncate) => {
                if truncate.item == self.item && matches!(self.phase, Phase::Telling(_)) {
                    self.stop(Phase::Pausing(now + STOPPED));
                }
                self.last_truncate = Some(truncate);
            }
            ToAgent::End => {
                self.events.clear();
                self.phase = Phase::Silent;
            }
            _ => {}
        }
    }

    fn handle_deadline(&mut self, now: Micros) {
        self.advance(now);
    }

    fn poll(&mut self, now: Micros) -> AgentOutput {
        if self.events.is_empty() {
            self.advance(now);
        }
        match self.events.pop_front() {
            Some(event) => {
                if matches!(event, FromAgent::Audio(_)) {
                    self.sent += story::PACKET;
                }
                AgentOutput::Event(event)
            }
            None => AgentOutput::Idle {
                deadline: match self.phase {
                    Phase::Telling(at) | Phase::Pausing(at) => Some(at),
                    Phase::Silent | Phase::Listening | Phase::Waiting => None,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests;
