//! How loud the agent is at the caller's ear, so that its echo in the microphone is known for what it is.

use std::collections::VecDeque;
use std::time::Duration;

use super::Downlink;
use crate::media::level::SILENT;
use crate::session::ledger::Ledger;
use crate::time::Micros;

/// An echo comes so long after its sound at the latest, the round trip left aside: two sound cards and a room.
const ECHO_TAIL: Duration = Duration::from_millis(400);
/// Frames whose level is known and that are not heard yet, at most; the oldest go first.
const MAX_FRAMES: usize = 256;
/// Moments that are remembered at most.
const MAX_MOMENTS: usize = 128;

/// Levels of what was handed over, and of what was audible lately.
#[derive(Debug, Default)]
pub(super) struct Audible {
    /// Position, ticks and level (-dBov) of each frame that may still be heard.
    frames: VecDeque<(u64, u64, u8)>,
    /// The loudest level at each moment that was asked for.
    moments: VecDeque<(Micros, u8)>,
    /// Up to where it was asked for.
    asked: u64,
    /// When audio was heard first.
    first: Option<Micros>,
}

impl Audible {
    /// A frame is handed over.
    pub(super) fn on_frame(&mut self, pos: u64, ticks: u64, level: u8) {
        if self.frames.len() == MAX_FRAMES {
            self.frames.pop_front();
        }
        self.frames.push_back((pos, ticks, level));
    }

    /// The loudest level (-dBov) that an echo in the microphone can come from now.
    fn loudest(&mut self, ledger: &Ledger, now: Micros) -> u8 {
        let figure = ledger.audible(now);
        let slack = ledger.ticks(figure.error);
        let (from, to) = (self.asked.min(figure.pos.saturating_sub(slack)), figure.pos + slack);
        let heard = self.frames.iter().filter(|(pos, ticks, _)| pos + ticks > from && *pos < to);
        let level = heard.map(|(_, _, level)| *level).min().unwrap_or(SILENT);
        self.asked = figure.pos;
        if level < SILENT {
            self.first.get_or_insert(now);
        }
        while self.frames.front().is_some_and(|(pos, ticks, _)| pos + ticks + slack <= figure.pos) {
            self.frames.pop_front();
        }
        let tail = ECHO_TAIL + ledger.rtt();
        while self.moments.front().is_some_and(|(at, _)| now - *at > tail) || self.moments.len() == MAX_MOMENTS {
            self.moments.pop_front();
        }
        self.moments.push_back((now, level));
        self.moments.iter().map(|(_, level)| *level).min().unwrap_or(SILENT)
    }
}

impl Downlink {
    /// The loudest level (-dBov) of the agent's audio that an echo in the microphone can come from now, and since when
    /// the caller has heard the agent on this link.
    pub fn audible(&mut self, now: Micros) -> (u8, Option<Micros>) {
        let Some(speaker) = &mut self.speaker else { return (SILENT, None) };
        (speaker.audible.loudest(&speaker.ledger, now), speaker.audible.first)
    }

    /// Whether levels are measured.
    pub fn measure_levels(&mut self, on: bool) {
        self.measures_levels = on;
        if let Some(framer) = self.speaker.as_mut().and_then(|speaker| speaker.framer.as_mut()) {
            framer.measure_levels(on);
        }
    }
}
