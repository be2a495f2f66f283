//! What one tap hears: a path of its own, and a queue that loses the oldest.

use std::collections::VecDeque;
use std::time::Duration;

use crate::media::format::Format;
use crate::message::{AgentAudioOut, AudioIn};
use crate::route::plan::Policy;
use crate::session::event::{Carriage, Measure};
use crate::session::uplink::{Uplink, UplinkOutput};
use crate::time::Micros;

/// Audio that waits for a tap at most.
pub(super) const QUEUE: Duration = Duration::from_secs(2);

/// What one tap hears.
#[derive(Debug)]
pub(super) struct Feed {
    uplink: Uplink,
    /// What the tap wants to hear, while it is ready.
    format: Option<Format>,
    queue: VecDeque<AgentAudioOut>,
    held: Duration,
    /// Since when something waits and nothing was taken.
    waits: Option<Micros>,
    /// Dropped since the last [`Feed::run`].
    dropped: Duration,
}

impl Feed {
    /// Nobody listens yet.
    pub fn new(policy: &Policy, now: Micros) -> Feed {
        let policy = Policy { preroll: policy.preroll.min(QUEUE), ..policy.clone() };
        Feed {
            uplink: Uplink::new(&policy, now),
            format: None,
            queue: VecDeque::new(),
            held: Duration::ZERO,
            waits: None,
            dropped: Duration::ZERO,
        }
    }

    /// Where audio comes from now.
    pub fn set_link(&mut self, link: Option<(Format, Carriage)>, now: Micros) {
        self.uplink.set_link(link, now);
        self.take(now);
    }

    /// Who listens now, and whether silence is made up for it.
    pub fn set_agent(&mut self, agent: Option<(Format, bool)>, now: Micros) {
        self.take(now);
        self.queue.clear();
        (self.held, self.waits) = (Duration::ZERO, None);
        self.format = agent.map(|(format, _)| format);
        self.uplink.set_agent(agent, now);
        self.take(now);
    }

    /// The microphone was switched.
    pub fn on_mic(&mut self, on: bool, now: Micros) {
        self.uplink.on_mic(on, now);
    }

    /// Somebody said something.
    pub fn on_audio(&mut self, audio: AudioIn, now: Micros) {
        self.uplink.on_audio(audio, now);
        self.take(now);
    }

    /// Does what is due; gives how much audio was dropped since the last call.
    pub fn run(&mut self, now: Micros) -> Duration {
        if self.uplink.deadline().is_some_and(|at| at <= now) {
            self.uplink.on_deadline(now);
        }
        self.take(now);
        std::mem::take(&mut self.dropped)
    }

    /// When to run again.
    pub fn deadline(&self) -> Option<Micros> {
        self.uplink.deadline()
    }

    /// Since when something waits and nothing was taken.
    pub fn waits_since(&self) -> Option<Micros> {
        self.waits
    }

    /// The oldest frame that waits.
    pub fn pop(&mut self, now: Micros) -> Option<AgentAudioOut> {
        let frame = self.queue.pop_front()?;
        self.held = self.held.saturating_sub(self.span(&frame));
        self.waits = (!self.queue.is_empty()).then_some(now);
        Some(frame)
    }

    fn span(&self, frame: &AgentAudioOut) -> Duration {
        self.format.map_or(Duration::ZERO, |format| format.ticks_to_time(frame.ticks.into()))
    }

    fn take(&mut self, now: Micros) {
        while let Some(output) = self.uplink.poll() {
            match output {
                UplinkOutput::Audio(frame) => self.push(frame, now),
                UplinkOutput::Measure(Measure::Dropped { audio, .. }) => self.dropped += audio,
                // The call itself counts, hears and reports the same.
                UplinkOutput::Measure(_)
                | UplinkOutput::Speech(..)
                | UplinkOutput::Voice(..)
                | UplinkOutput::BadAudio(_) => {}
            }
        }
    }

    fn push(&mut self, frame: AgentAudioOut, now: Micros) {
        self.held += self.span(&frame);
        self.queue.push_back(frame);
        self.waits.get_or_insert(now);
        while self.held > QUEUE
            && let Some(oldest) = self.queue.pop_front()
        {
            let span = self.span(&oldest);
            self.held = self.held.saturating_sub(span);
            self.dropped += span;
        }
    }
}
