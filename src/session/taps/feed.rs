//! What one tap hears: what was said waits as it came, and is worked on when the tap takes it.
//!
//! So one that takes nothing costs no decoding, and one that comes late gets what waits for it a little at a time: the
//! worker's other calls never wait behind two seconds of audio.

use std::collections::VecDeque;
use std::time::Duration;

use crate::media::format::Format;
use crate::media::transcode::payload_ticks;
use crate::message::{AgentAudioOut, AudioIn};
use crate::route::plan::Policy;
use crate::session::event::{Carriage, Measure};
use crate::session::uplink::{Uplink, UplinkOutput};
use crate::time::Micros;

/// Audio that waits for a tap at most.
pub(super) const QUEUE: Duration = Duration::from_secs(2);
/// Things that wait at most, however short they are.
const MAX_KEPT: usize = 4096;
/// So many are worked on before a rest.
const BURST: u32 = 3;
/// The rest after a burst, counted from its beginning.
const REST: Duration = Duration::from_millis(10);

/// Something that one side did.
#[derive(Debug)]
pub(super) enum Heard {
    /// Where audio comes from now.
    Link(Option<(Format, Carriage)>),
    /// The microphone was switched.
    Mic(bool),
    /// Somebody said something.
    Audio(AudioIn),
}

/// What waits, since when, and its length.
#[derive(Debug)]
struct Kept {
    heard: Heard,
    at: Micros,
    span: Duration,
}

/// What one tap hears.
#[derive(Debug)]
pub(super) struct Feed {
    /// It lives in the time of what is worked on, which is behind the present while something waits.
    uplink: Uplink,
    clock: Micros,
    /// The format of what is said now.
    link: Option<Format>,
    /// What the tap wants to hear, while it is ready.
    format: Option<Format>,
    /// What waits to be worked on, and how much audio that is.
    kept: VecDeque<Kept>,
    unworked: Duration,
    /// What is ready for the tap, and how much audio that is.
    ready: VecDeque<AgentAudioOut>,
    held: Duration,
    /// Audio that is kept while the tap is not there.
    preroll: Duration,
    /// How much was worked on since the last rest, and when the next one is over.
    burst: (u32, Micros),
    /// Work waits for that.
    again_at: Option<Micros>,
    /// Since when something waits and nothing was taken.
    waits: Option<Micros>,
    /// Dropped since the last [`Feed::run`].
    dropped: Duration,
}

impl Feed {
    /// Nobody listens yet.
    pub fn new(policy: &Policy, now: Micros) -> Feed {
        Feed {
            uplink: Uplink::new(policy, now),
            clock: now,
            link: None,
            format: None,
            kept: VecDeque::new(),
            unworked: Duration::ZERO,
            ready: VecDeque::new(),
            held: Duration::ZERO,
            preroll: policy.preroll.min(QUEUE),
            burst: (0, now),
            again_at: None,
            waits: None,
            dropped: Duration::ZERO,
        }
    }

    /// Who listens now, and whether silence is made up for it.
    pub fn set_agent(&mut self, agent: Option<(Format, bool)>, now: Micros) {
        self.ready.clear();
        self.held = Duration::ZERO;
        self.format = agent.map(|(format, _)| format);
        self.clock = self.clock.max(self.kept.front().map_or(now, |kept| kept.at));
        self.uplink.set_agent(agent, self.clock);
        self.collect();
        self.again_at = None;
        self.waits = self.waiting().then_some(now);
    }

    /// One side did something.
    pub fn hear(&mut self, heard: Heard, now: Micros) {
        let (at, span) = match &heard {
            Heard::Link(link) => {
                self.link = link.map(|(format, _)| format);
                (now, Duration::ZERO)
            }
            Heard::Mic(_) => (now, Duration::ZERO),
            Heard::Audio(audio) => {
                let Some(link) = self.link else { return };
                let ticks = payload_ticks(&link, &audio.payload).unwrap_or(0);
                (audio.arrival, link.ticks_to_time(ticks.into()))
            }
        };
        self.unworked += span;
        self.kept.push_back(Kept { heard, at, span });
        if self.format.is_some() {
            self.waits.get_or_insert(now);
        }
        self.trim();
    }

    /// Does what is due while nothing waits; gives how much audio was dropped since the last call.
    pub fn run(&mut self, now: Micros) -> Duration {
        self.again_at.take_if(|at| *at <= now);
        if self.kept.is_empty() {
            self.run_to(now);
            self.collect();
            if !self.ready.is_empty() {
                self.waits.get_or_insert(now);
            }
        }
        self.trim();
        std::mem::take(&mut self.dropped)
    }

    /// When to run again.
    pub fn deadline(&self) -> Option<Micros> {
        if self.kept.is_empty() { self.uplink.deadline() } else { self.again_at }
    }

    /// Since when something waits and nothing was taken.
    pub fn waits_since(&self) -> Option<Micros> {
        self.waits
    }

    /// The next frame for a tap that takes it.
    pub fn pop(&mut self, now: Micros) -> Option<AgentAudioOut> {
        while self.ready.is_empty() && self.work(now) {}
        let frame = self.ready.pop_front()?;
        self.held = self.held.saturating_sub(self.span(&frame));
        self.waits = self.waiting().then_some(now);
        Some(frame)
    }

    /// Works on what has waited longest; `false` if nothing may be done now.
    fn work(&mut self, now: Micros) -> bool {
        if self.format.is_none() || self.kept.is_empty() {
            return false;
        }
        let (done, rested) = &mut self.burst;
        if *rested <= now {
            (*done, *rested) = (0, now + REST);
        } else if *done >= BURST {
            self.again_at = Some(*rested);
            return false;
        }
        *done += 1;
        self.pass_on();
        true
    }

    /// Passes on what has waited longest, at the time when it was said.
    fn pass_on(&mut self) {
        let Some(Kept { heard, at, span }) = self.kept.pop_front() else { return };
        self.unworked -= span;
        self.run_to(at);
        let at = self.clock;
        match heard {
            Heard::Link(link) => self.uplink.set_link(link, at),
            Heard::Mic(on) => self.uplink.on_mic(on, at),
            Heard::Audio(audio) => self.uplink.on_audio(audio, at),
        }
        self.collect();
    }

    fn run_to(&mut self, at: Micros) {
        self.clock = self.clock.max(at);
        if self.uplink.deadline().is_some_and(|due| due <= self.clock) {
            self.uplink.on_deadline(self.clock);
        }
    }

    fn collect(&mut self) {
        while let Some(output) = self.uplink.poll() {
            match output {
                UplinkOutput::Audio(frame) => {
                    self.held += self.span(&frame);
                    self.ready.push_back(frame);
                }
                UplinkOutput::Measure(Measure::Dropped { audio, .. }) => self.dropped += audio,
                // The call itself counts, hears and reports the same.
                UplinkOutput::Measure(_)
                | UplinkOutput::Speech(..)
                | UplinkOutput::Voice(..)
                | UplinkOutput::BadAudio(_) => {}
            }
        }
    }

    /// Drops the oldest beyond the bound.
    fn trim(&mut self) {
        let most = if self.format.is_some() { QUEUE } else { self.preroll };
        while self.held + self.unworked > most || self.kept.len() > MAX_KEPT {
            if let Some(oldest) = self.ready.pop_front() {
                let span = self.span(&oldest);
                self.held = self.held.saturating_sub(span);
                self.dropped += span;
            } else if matches!(self.kept.front(), Some(Kept { heard: Heard::Audio(_), .. })) {
                let span = self.kept.pop_front().map_or(Duration::ZERO, |oldest| oldest.span);
                self.unworked -= span;
                self.dropped += span;
            } else {
                self.pass_on();
            }
        }
    }

    fn waiting(&self) -> bool {
        !(self.ready.is_empty() && self.kept.is_empty())
    }

    fn span(&self, frame: &AgentAudioOut) -> Duration {
        self.format.map_or(Duration::ZERO, |format| format.ticks_to_time(frame.ticks.into()))
    }
}
