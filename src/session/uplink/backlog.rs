//! Client audio that waits, bounded in time; the oldest goes first.

use std::collections::VecDeque;
use std::time::Duration;

use crate::message::AudioIn;

/// Frames kept at most, however short they are.
const MAX_FRAMES: usize = 4096;

/// A frame that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Which link of the session it came over.
    pub link: u32,
    /// Its length in ticks of that link's format.
    pub ticks: u32,
    /// The same as time.
    pub span: Duration,
    /// The frame.
    pub audio: AudioIn,
}

/// Frames in order of arrival, at most `limit` of audio.
#[derive(Debug)]
pub(super) struct Backlog {
    frames: VecDeque<Waiting>,
    held: Duration,
    limit: Duration,
}

impl Backlog {
    /// An empty one that keeps at most `limit` of audio.
    pub fn new(limit: Duration) -> Backlog {
        Backlog { frames: VecDeque::new(), held: Duration::ZERO, limit }
    }

    /// Keeps a frame; gives the audio that was dropped for it.
    pub fn push(&mut self, frame: Waiting) -> Duration {
        self.held += frame.span;
        self.frames.push_back(frame);
        let mut dropped = Duration::ZERO;
        while self.held > self.limit || self.frames.len() > MAX_FRAMES {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.held -= oldest.span;
            dropped += oldest.span;
        }
        self.check_invariants();
        dropped
    }

    /// The oldest frame.
    pub fn pop(&mut self) -> Option<Waiting> {
        let oldest = self.frames.pop_front()?;
        self.held -= oldest.span;
        Some(oldest)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Panics if the state contradicts itself.
    fn check_invariants(&self) {
        debug_assert!(self.held <= self.limit && self.frames.len() <= MAX_FRAMES, "bounded");
        debug_assert_eq!(self.held, self.frames.iter().map(|frame| frame.span).sum::<Duration>(), "held time adds up");
    }
}
