//! The agent's side: its continuous time, and how far that is ahead of the caller's.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::media::format::{Codec, Format};
use crate::message::AgentAudioOut;
use crate::session::uplink::UplinkOutput;
use crate::time::Micros;

/// Length of the frames that agents get.
pub(super) const FRAME: Duration = Duration::from_millis(20);
/// Silence that is never shortened: agents find the end of speech by it.
pub(super) const KEPT_SILENCE: Duration = Duration::from_secs(1);
/// Surplus from which on the caller's own silence is shortened; less may be jitter.
const REPAY_FROM: i64 = 100_000;
/// What was made up longer ago and has not become surplus was real silence.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// Clocks differ by at most one part in so many.
const MAX_DRIFT: u32 = 1000;
/// Coded silence of 20 ms for any Opus decoder: CELT, fullband, mono.
const OPUS_SILENCE: &[u8] = &[0xf8, 0xff, 0xfe];

/// What the agent has been given, and when it should have been.
#[derive(Debug)]
pub(super) struct AgentLine {
    format: Format,
    continuous: bool,
    silence: Bytes,
    frame_ticks: u32,
    /// Ticks handed over since the agent was ready.
    pos: u64,
    /// Audio that waits to fill a frame.
    pending: Duration,
    /// The instant in microseconds at which agent time was zero, on the caller's side.
    anchor: i64,
    /// Surplus or arrears at most, in microseconds.
    most: i64,
    /// Silence in a row.
    silence_run: Duration,
    /// Made up since the last packet.
    filled: Duration,
    repaying: bool,
    /// Made up since agent time was last not ahead: surplus comes from it.
    unpaid: Duration,
    last_filled: Micros,
    /// Left out because clocks drift.
    drift_repaid: Duration,
    /// When this began.
    since: Micros,
}

impl AgentLine {
    /// The line to an agent that is ready at `now` and hears `format`.
    pub fn new(format: Format, continuous: bool, most: Duration, now: Micros) -> AgentLine {
        AgentLine {
            format,
            continuous,
            silence: silence(&format, FRAME),
            frame_ticks: format.time_to_ticks(FRAME) as u32,
            pos: 0,
            pending: Duration::ZERO,
            anchor: signed(now),
            most: most.as_micros() as i64,
            silence_run: Duration::ZERO,
            filled: Duration::ZERO,
            repaying: false,
            unpaid: Duration::ZERO,
            last_filled: now,
            drift_repaid: Duration::ZERO,
            since: now,
        }
    }

    /// What the agent hears.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether silence is made up.
    pub fn is_continuous(&self) -> bool {
        self.continuous
    }

    /// Whether the agent has been given nothing yet.
    pub fn is_untouched(&self) -> bool {
        self.pos == 0 && self.pending.is_zero()
    }

    /// A frame of silence.
    pub fn silence(&self) -> Bytes {
        self.silence.clone()
    }

    /// Length of a frame in ticks.
    pub fn frame_ticks(&self) -> u32 {
        self.frame_ticks
    }

    /// Time handed over, what waits to fill a frame included.
    pub fn sent(&self) -> Duration {
        self.format.ticks_to_time(self.pos) + self.pending
    }

    /// Hands a frame over.
    pub fn emit(&mut self, frame: (Bytes, u32), ready: Micros, filled: bool, out: &mut VecDeque<UplinkOutput>) {
        let (payload, ticks) = frame;
        out.push_back(UplinkOutput::Audio(AgentAudioOut { pos: self.pos, ticks, ready, filled, payload }));
        self.pos += u64::from(ticks);
    }

    /// What waits to fill a frame now.
    pub fn set_pending(&mut self, pending: Duration) {
        self.pending = pending;
    }

    /// From now on agent time is where it should be at `at`.
    pub fn anchor_at(&mut self, at: Micros) {
        self.anchor = signed(at) - self.sent().as_micros() as i64;
    }

    /// How far agent time is ahead of the caller's, in microseconds; negative if it is behind.
    pub fn ahead(&self, now: Micros) -> i64 {
        self.sent().as_micros() as i64 - (signed(now) - self.anchor)
    }

    /// Forgives surplus and arrears beyond the bound: nobody is made to pay for them later.
    pub fn bound(&mut self, now: Micros) {
        let ahead = self.ahead(now);
        self.anchor -= ahead - ahead.clamp(-self.most, self.most);
    }

    /// Silence that is owed at `now`: as far as agent time is behind, and what is never shortened.
    pub fn owed(&self, now: Micros) -> Duration {
        let behind = Duration::from_micros(u64::try_from(-self.ahead(now)).unwrap_or(0));
        behind.max(KEPT_SILENCE.saturating_sub(self.silence_run))
    }

    /// Frames of silence to make up at one tick: two while agent time is behind by more than one; none while it is
    /// ahead, unless the caller has only just stopped speaking.
    pub fn fill_due(&self, now: Micros) -> u32 {
        let ahead = self.ahead(now);
        let behind = -ahead / FRAME.as_micros() as i64;
        let least = i64::from(ahead >= REPAY_FROM && self.silence_run < KEPT_SILENCE);
        behind.clamp(least, 2) as u32
    }

    /// Silence has been made up at `at`.
    pub fn on_filled(&mut self, span: Duration, at: Micros) {
        self.last_filled = self.last_filled.max(at);
        self.filled += span;
        self.unpaid += span;
        self.silence_run += span;
    }

    /// Takes from what was made up since the last packet at most `span`; that much needs no concealment.
    pub fn take_filled(&mut self, span: Duration) -> Duration {
        let taken = span.min(self.filled);
        self.filled -= taken;
        taken
    }

    /// The caller sent audio of length `span`, quiet or not. Gives whether it is left out, to repay surplus: only as
    /// much as was made up or as clocks may drift, so a caller who sends faster than real time loses nothing.
    pub fn on_packet(&mut self, span: Duration, quiet: bool, now: Micros) -> bool {
        self.filled = Duration::ZERO;
        let ahead = self.ahead(now);
        if ahead <= 0 && now - self.last_filled >= SETTLED_AFTER {
            self.unpaid = Duration::ZERO;
        }
        self.repaying = self.continuous && ahead >= if self.repaying { 1 } else { REPAY_FROM };
        if !quiet {
            self.silence_run = Duration::ZERO;
            return false;
        }
        if self.repaying && self.silence_run >= KEPT_SILENCE && self.pay(span, now) {
            return true;
        }
        self.silence_run += span;
        false
    }

    fn pay(&mut self, span: Duration, now: Micros) -> bool {
        if let Some(unpaid) = self.unpaid.checked_sub(span) {
            self.unpaid = unpaid;
            return true;
        }
        let drifted = (now - self.since) / MAX_DRIFT;
        let pays = self.drift_repaid + span <= drifted;
        if pays {
            self.drift_repaid += span;
        }
        pays
    }

    /// Panics if the state contradicts itself.
    pub fn check_invariants(&self) {
        debug_assert!(self.pending < FRAME, "a whole frame never waits");
    }
}

/// Silence of length `span`; for Opus always 20 ms.
fn silence(format: &Format, span: Duration) -> Bytes {
    let bytes = format.bytes_in(span).unwrap_or(0);
    match format.codec {
        Codec::Opus => Bytes::from_static(OPUS_SILENCE),
        Codec::Pcm16 => Bytes::from(vec![0; bytes]),
        Codec::Pcmu => Bytes::from(vec![0xff; bytes]),
        Codec::Pcma => Bytes::from(vec![0xd5; bytes]),
    }
}

fn signed(at: Micros) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}
