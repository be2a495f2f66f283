//! The heard-audio ledger of one link: what was handed over, what came back about it, and so what the caller heard.
//!
//! Positions count ticks of the client's format on this link. They are kept as 64 bit and seen by the client as 32 bit.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::TurnId;
use crate::message::Basis;
use crate::session::Carriage;
use crate::time::Micros;

/// Playback that a client is assumed to start late by when it reports nothing, and how far that may be off.
const SILENT_BUFFER: Duration = Duration::from_millis(150);
/// The jitter buffer of an RTP receiver that reports nothing.
const RTP_BUFFER: Duration = Duration::from_millis(60);
/// One frame: the grain of every figure.
const GRAIN: Duration = Duration::from_millis(20);
/// Frames go out on RTP so much before their time at most: jitter buffers take far more.
pub const RTP_EARLY: Duration = Duration::from_millis(2);
/// So much earlier if the agent speaks live: the two frames of silence behind a voice that was late, and what the agent's
/// own timing varies by, or every other frame would wait for some microseconds. Every jitter buffer takes it.
const LIVE_EARLY: Duration = Duration::from_millis(45);
/// Acknowledgements come at this interval at most.
const ACK_INTERVAL: Duration = Duration::from_millis(100);

/// A run of one turn's audio as it was handed over.
#[derive(Clone, Copy, Debug)]
struct Segment {
    pos: u64,
    ticks: u64,
    turn: TurnId,
    /// Offset of its first tick within the turn.
    start: Duration,
}

/// A figure of what was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// The position heard up to.
    pub pos: u64,
    /// What it rests on.
    pub basis: Basis,
    /// How far it may be off.
    pub error: Duration,
}

/// Where the next frame stands with the credit of an ordered transport or the pace of RTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// It may be handed over; it became due at this instant.
    Due(Micros),
    /// It becomes due at this instant.
    At(Micros),
    /// It becomes due when the client reports or acknowledges.
    Blocked,
}

/// The ledger of one link.
#[derive(Debug)]
pub struct Ledger {
    clock: u32,
    carriage: Carriage,
    /// Whether the client plays by itself, so that it knows which sample leaves its loudspeaker.
    plays_itself: bool,
    handed: u64,
    segments: VecDeque<Segment>,
    /// A speaker that plays as early as it possibly can: it began at `base` with position `base_pos`.
    base: Micros,
    base_pos: u64,
    report: Option<(u64, Micros)>,
    acked: Option<(u64, Micros)>,
    rtt: Duration,
    /// When the credit last grew by something that the client said.
    granted: Micros,
    /// Audio before this position is void.
    valid_from: u64,
    /// A flush that the client has not answered.
    flushing: bool,
    /// The earliest possible speaker of the void audio: from when and from which position it played.
    void: (Micros, u64),
    /// The estimate at the last flush.
    before_flush: Figure,
}

impl Ledger {
    /// The ledger of a new link whose downlink format counts `clock` ticks a second. `acks`: the transport
    /// acknowledges what the client has taken.
    pub fn new(clock: u32, carriage: Carriage, acks: bool, now: Micros) -> Ledger {
        Ledger {
            clock,
            carriage,
            plays_itself: carriage == Carriage::Ordered,
            handed: 0,
            segments: VecDeque::with_capacity(16),
            base: now,
            base_pos: 0,
            report: None,
            acked: acks.then_some((0, now)),
            rtt: Duration::ZERO,
            granted: now,
            valid_from: 0,
            flushing: false,
            void: (now, 0),
            before_flush: Figure { pos: 0, basis: Basis::Paced, error: Duration::ZERO },
        }
    }

    /// The client plays by itself, whatever carries its audio.
    pub fn on_own_player(&mut self) {
        self.plays_itself = true;
    }

    /// Ticks that `span` takes.
    pub fn ticks(&self, span: Duration) -> u64 {
        span.as_micros() as u64 * u64::from(self.clock) / 1_000_000
    }

    /// Time that `ticks` take.
    pub fn span(&self, ticks: u64) -> Duration {
        Duration::from_micros(ticks * 1_000_000 / u64::from(self.clock))
    }

    /// The position of the next frame.
    pub fn handed(&self) -> u64 {
        self.handed
    }

    /// Whether the client has ever reported what it plays.
    pub fn reports(&self) -> bool {
        self.report.is_some()
    }

    /// The measured round trip.
    pub fn rtt(&self) -> Duration {
        self.rtt
    }

    /// A new measurement of the round trip, smoothed.
    pub fn on_round_trip(&mut self, rtt: Duration) {
        self.rtt = if self.rtt.is_zero() { rtt } else { (self.rtt * 7 + rtt) / 8 };
    }

    /// Writes down a frame of `ticks` that was handed over; it holds the turn's audio from `start` on.
    pub fn hand_over(&mut self, ticks: u64, turn: TurnId, start: Duration, now: Micros) {
        if self.is_dry(now) {
            self.base = now;
            self.base_pos = self.handed;
        }
        let pos = self.handed;
        self.handed += ticks;
        if let Some(last) = self.segments.back_mut() {
            let goes_on = last.turn == turn
                && last.start + Duration::from_micros(last.ticks * 1_000_000 / u64::from(self.clock)) == start;
            if goes_on && last.pos + last.ticks == pos {
                last.ticks += ticks;
                return;
            }
        }
        self.segments.push_back(Segment { pos, ticks, turn, start });
    }

    /// RTP time runs on while nothing is sent (RFC 3550 section 5.1): moves the next position to where it belongs
    /// `now`. Whether there was such a pause.
    pub fn run_on(&mut self, now: Micros) -> bool {
        if self.carriage != Carriage::Rtp || self.handed == 0 || !self.is_dry(now) {
            return false;
        }
        let paused = (self.base_pos + self.ticks(now - self.base)).saturating_sub(self.handed);
        self.handed += paused;
        paused > 0
    }

    /// Silence of `ticks` was handed over that belongs to no turn.
    pub fn pass(&mut self, ticks: u64, now: Micros) {
        if self.is_dry(now) {
            self.base = now;
            self.base_pos = self.handed;
        }
        self.handed += ticks;
    }

    /// Whether the earliest possible speaker has run out, so that the pace begins anew.
    fn is_dry(&self, now: Micros) -> bool {
        let slack = match self.carriage {
            Carriage::Ordered => 0,
            Carriage::Rtp => self.ticks(GRAIN),
        };
        self.handed == self.base_pos || self.handed + slack < self.base_pos + self.ticks(now - self.base)
    }

    /// When the earliest possible speaker runs out.
    pub fn dry_at(&self) -> Micros {
        self.base + self.span(self.handed - self.base_pos)
    }

    /// What the earliest possible speaker has played: no honest report lies beyond it. Sound cards run up to a
    /// thousandth fast.
    fn earliest(&self, now: Micros) -> u64 {
        self.played_since(self.base, self.base_pos, now).min(self.handed)
    }

    fn played_since(&self, base: Micros, pos: u64, now: Micros) -> u64 {
        let elapsed = now - base;
        pos + self.ticks(elapsed + elapsed / 1000)
    }

    /// Whether the next frame may be handed over, `send_ahead` of what the caller hears. `live`: hardly any audio waits,
    /// so the agent speaks about as fast as it is played.
    pub fn credit(&self, ticks: u64, send_ahead: Duration, live: bool, now: Micros) -> Credit {
        if self.carriage == Carriage::Rtp {
            // What comes as fast as it is played shall not wait all the time because its first frames were slow.
            let early = if live { LIVE_EARLY } else { RTP_EARLY };
            return match self.paced(self.handed, now) {
                Credit::At(due) if due <= now + early => Credit::Due(due),
                Credit::At(due) => Credit::At(due.before(early)),
                credit => credit,
            };
        }
        if self.flushing {
            return Credit::Blocked;
        }
        if let Some((pos, _)) = self.report {
            let limit = pos.max(self.valid_from) + self.ticks(send_ahead + self.rtt);
            return if self.handed + ticks <= limit { Credit::Due(self.granted) } else { Credit::Blocked };
        }
        if let Some((pos, _)) = self.acked {
            let limit = pos.max(self.valid_from) + self.ticks(send_ahead + self.rtt + 2 * ACK_INTERVAL);
            if self.handed + ticks > limit {
                return Credit::Blocked;
            }
        }
        self.paced((self.handed + ticks).saturating_sub(self.ticks(send_ahead)), now)
    }

    /// Due as soon as the earliest possible speaker has reached `pos`.
    fn paced(&self, pos: u64, now: Micros) -> Credit {
        if self.is_dry(now) || pos <= self.base_pos {
            return Credit::Due(Micros::ZERO);
        }
        let due = self.base + (self.span(pos - self.base_pos) + Duration::from_micros(1));
        if due <= now { Credit::Due(due) } else { Credit::At(due) }
    }

    /// Extends a 32-bit position to the one nearest to what was handed over last.
    fn extend(&self, pos: u32) -> u64 {
        let behind = (self.handed as u32).wrapping_sub(pos) as i32;
        self.handed.saturating_add_signed(-i64::from(behind))
    }

    /// The client says that `pos` leaves its speaker now. A report is believed only as far as it is possible: not
    /// before the last one, not beyond what was handed over, not faster than sound.
    pub fn on_report(&mut self, pos: u32, now: Micros) -> u64 {
        let pos = self.believable(pos, now);
        self.report = Some((pos, now));
        self.granted = now;
        pos
    }

    /// The client answers a flush. One that tells its position at no other time is not waited for to tell it again.
    pub fn on_answer(&mut self, pos: u32, now: Micros) -> u64 {
        if self.reports() { self.on_report(pos, now) } else { self.believable(pos, now) }
    }

    fn believable(&self, pos: u32, now: Micros) -> u64 {
        let last = self.report.map_or(0, |(pos, _)| pos);
        let claimed = self.extend(pos);
        // A flush may take its time to the client, which plays on meanwhile.
        let (void, void_pos) = self.void;
        let possible = match claimed < self.valid_from {
            true => self.played_since(void, void_pos, now).min(self.valid_from),
            false => self.earliest(now),
        };
        claimed.min(possible).max(last).min(self.handed)
    }

    /// The client's transport library has taken everything before `pos`.
    pub fn on_acked(&mut self, pos: u32, now: Micros) {
        let last = self.acked.map_or(0, |(pos, _)| pos);
        self.acked = Some((self.extend(pos).clamp(last, self.handed), now));
        self.granted = now;
    }

    /// Declares void what was handed over and not played; gives the position from which audio is valid.
    pub fn flush(&mut self, now: Micros) -> u64 {
        self.void = (self.base, self.base_pos);
        self.before_flush = self.heard(now);
        self.valid_from = self.handed;
        self.flushing = true;
        self.base = now;
        self.base_pos = self.handed;
        self.handed
    }

    /// The flush was answered, or is no longer waited for: the speaker stands at the first valid position.
    pub fn on_flushed(&mut self, now: Micros) {
        self.flushing = false;
        self.granted = now;
        if let Some((pos, _)) = self.report {
            self.report = Some((pos.max(self.valid_from), now));
        }
    }

    /// What the caller has heard by the time that a message sent `now` arrives.
    pub fn heard(&self, now: Micros) -> Figure {
        if let Some((pos, at)) = self.report {
            let pos = (pos + self.ticks((now - at) + self.rtt)).min(self.earliest(now + self.rtt));
            return Figure { pos, basis: Basis::Reported, error: self.reported_error() + self.rtt / 2 };
        }
        let elapsed = now - self.base;
        let late = |buffer: Duration| (self.base_pos + self.ticks(elapsed.saturating_sub(buffer))).min(self.handed);
        match (self.carriage, self.acked) {
            (Carriage::Rtp, _) => {
                let pos = late(RTP_BUFFER + self.rtt / 2);
                Figure { pos, basis: Basis::Paced, error: RTP_BUFFER + GRAIN + self.rtt / 2 }
            }
            (Carriage::Ordered, Some((acked, _))) => {
                let reach = acked + self.ticks(self.rtt + ACK_INTERVAL);
                let error = SILENT_BUFFER + GRAIN + self.rtt / 2;
                Figure { pos: late(SILENT_BUFFER).min(reach), basis: Basis::Acked, error }
            }
            (Carriage::Ordered, None) => {
                let error = 2 * SILENT_BUFFER + self.rtt / 2;
                Figure { pos: late(SILENT_BUFFER), basis: Basis::Paced, error }
            }
        }
    }

    /// What the caller has heard by now, for ending turns and forgetting audio: reported, or estimated without looking
    /// ahead.
    pub fn heard_now(&self, now: Micros) -> Figure {
        match self.report {
            Some((pos, _)) => Figure { pos, basis: Basis::Reported, error: self.reported_error() },
            None => self.heard(now),
        }
    }

    /// What leaves the client's speaker now, as far as is known.
    pub fn audible(&self, now: Micros) -> Figure {
        let Some((pos, at)) = self.report else { return self.heard(now) };
        // It was the truth when the report set out.
        let pos = (pos + self.ticks(now - at + self.rtt / 2)).min(self.earliest(now + self.rtt));
        Figure { pos, basis: Basis::Reported, error: self.reported_error() + self.rtt / 2 }
    }

    /// Audio from `pos` on that was handed over before the last flush has not been heard and never will be.
    pub fn void_from(&mut self, pos: u64) {
        let valid_from = self.valid_from;
        for segment in self.segments.iter_mut().filter(|segment| segment.pos < valid_from) {
            segment.ticks = segment.ticks.min(pos.saturating_sub(segment.pos));
        }
        self.segments.retain(|segment| segment.ticks > 0);
    }

    /// What had been heard of audio that was flushed at `at`, for want of the client's own word.
    pub fn heard_before_flush(&self) -> Figure {
        self.before_flush
    }

    /// The last position that the client reported, or else the estimate at `now`.
    pub fn last_reported(&self, now: Micros) -> u64 {
        self.heard_now(now).pos
    }

    /// The exact figure after the client's own last word on a flush.
    pub fn exact(&self, pos: u64) -> Figure {
        Figure { pos, basis: Basis::Reported, error: self.reported_error() }
    }

    /// How far a client's own word may be off. Where a WebRTC engine plays, the client knows its position by statistics
    /// of a jitter buffer only: 10 ms of error were found in Chromium, 25 in Firefox.
    fn reported_error(&self) -> Duration {
        if self.plays_itself { GRAIN } else { 2 * GRAIN }
    }

    /// How much of `turn` lies before `pos`: the offset in it that `pos` falls on.
    pub fn heard_of(&self, turn: TurnId, pos: u64) -> Duration {
        let mut heard = Duration::ZERO;
        for segment in self.segments.iter().filter(|segment| segment.turn == turn && segment.pos <= pos) {
            heard = heard.max(segment.start + self.span((pos - segment.pos).min(segment.ticks)));
        }
        heard
    }

    /// The turn that is audible at `pos`, and the offset in it.
    pub fn at(&self, pos: u64) -> Option<(TurnId, Duration)> {
        let last = self.segments.iter().rev().find(|segment| segment.pos <= pos)?;
        Some((last.turn, last.start + self.span((pos - last.pos).min(last.ticks))))
    }

    /// Forgets segments before the one that `pos` is in or behind: it tells what was heard until the next one begins.
    pub fn forget_before(&mut self, pos: u64) {
        while self.segments.get(1).is_some_and(|next| next.pos <= pos) {
            self.segments.pop_front();
        }
    }

    /// Panics if the figures contradict each other.
    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self) {
        assert!(self.base_pos <= self.handed, "the pace is ahead of what was handed over");
        assert!(self.valid_from <= self.handed);
        assert!(self.report.is_none_or(|(pos, _)| pos <= self.handed), "heard more than was handed over");
        assert!(self.acked.is_none_or(|(pos, _)| pos <= self.handed), "acknowledged more than was handed over");
        let mut end = 0;
        for segment in &self.segments {
            assert!(segment.pos >= end, "segments overlap");
            end = segment.pos + segment.ticks;
        }
        assert!(end <= self.handed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 960;
    const AHEAD: Duration = Duration::from_millis(200);

    fn ms(ms: u64) -> Micros {
        Micros::from_millis(1000 + ms)
    }

    fn hand_over_all(ledger: &mut Ledger, turn: u32, offset: &mut u64, now: Micros) -> usize {
        let mut frames = 0;
        while let Credit::Due(_) = ledger.credit(FRAME, AHEAD, false, now) {
            ledger.hand_over(FRAME, TurnId(turn), Duration::from_millis(*offset), now);
            *offset += 20;
            frames += 1;
            assert!(frames < 1000, "credit without end");
            ledger.check_invariants();
        }
        frames
    }

    #[test]
    fn a_silent_client_gets_the_send_ahead_at_once_and_then_real_time() {
        let mut ledger = Ledger::new(48_000, Carriage::Ordered, false, ms(0));
        let mut offset = 0;
        assert_eq!(hand_over_all(&mut ledger, 1, &mut offset, ms(0)), 10);
        let mut frames = 10;
        for t in 1..=1000 {
            frames += hand_over_all(&mut ledger, 1, &mut offset, ms(t));
        }
        assert!((59..=60).contains(&frames), "{frames}");
    }

    #[test]
    fn a_client_that_acknowledges_nothing_gets_no_more_than_the_send_ahead_and_two_intervals() {
        let mut ledger = Ledger::new(48_000, Carriage::Ordered, true, ms(0));
        let mut offset = 0;
        for t in 0..5000 {
            hand_over_all(&mut ledger, 1, &mut offset, ms(t));
        }
        assert_eq!(offset, 400);
        ledger.on_acked(FRAME as u32 * 20, ms(5000));
        assert!(hand_over_all(&mut ledger, 1, &mut offset, ms(5000)) > 0);
    }

    #[test]
    fn a_reporting_client_that_stalls_gets_the_send_ahead_only() {
        let mut ledger = Ledger::new(48_000, Carriage::Ordered, true, ms(0));
        let mut offset = 0;
        hand_over_all(&mut ledger, 1, &mut offset, ms(0));
        ledger.on_report(4_800, ms(100));
        hand_over_all(&mut ledger, 1, &mut offset, ms(100));
        assert_eq!(offset, 300);
        for t in 100..5000 {
            hand_over_all(&mut ledger, 1, &mut offset, ms(t));
        }
        assert_eq!(offset, 300);
    }

    #[test]
    fn a_report_is_believed_only_as_far_as_it_is_possible() {
        let mut ledger = Ledger::new(48_000, Carriage::Ordered, true, ms(0));
        let mut offset = 0;
        hand_over_all(&mut ledger, 1, &mut offset, ms(0));
        assert!(ledger.on_report(9_600, ms(50)) <= 2_404, "sound is not that fast");
        assert_eq!(ledger.on_report(4_000, ms(100)), 4_000);
        assert_eq!(ledger.on_report(1_000, ms(110)), 4_000, "time does not run backwards");
        assert_eq!(ledger.on_report(u32::MAX / 3, ms(9_000)), 9_600, "no more than was handed over");
    }

    #[test]
    fn rtp_is_paced_by_the_frame_without_drift() {
        let mut ledger = Ledger::new(48_000, Carriage::Rtp, false, ms(0));
        let (mut now, mut dues) = (ms(0), Vec::new());
        for i in 0..50 {
            match ledger.credit(FRAME, AHEAD, false, now) {
                Credit::Due(_) => {}
                Credit::At(at) => now = at + Duration::from_micros(700),
                Credit::Blocked => panic!("RTP is never blocked"),
            }
            assert!(matches!(ledger.credit(FRAME, AHEAD, false, now), Credit::Due(_)));
            ledger.hand_over(FRAME, TurnId(1), Duration::from_millis(20 * i), now);
            dues.push(now);
        }
        let took = dues[49] - dues[0];
        assert!(took <= Duration::from_micros(49 * 20_000 + 800), "late wake-ups do not add up: {took:?}");
    }

    #[test]
    fn a_client_that_plays_by_itself_is_exact_on_rtp_too() {
        let mut ledger = Ledger::new(48_000, Carriage::Rtp, false, ms(0));
        assert_eq!(ledger.exact(960).error, 2 * GRAIN);
        ledger.on_own_player();
        assert_eq!(ledger.exact(960).error, GRAIN);
    }

    #[test]
    fn positions_past_32_bits_are_understood() {
        let mut ledger = Ledger::new(48_000, Carriage::Ordered, false, ms(0));
        ledger.handed = (1 << 32) + 4_800;
        ledger.base_pos = (1 << 32) - 9_600;
        assert_eq!(ledger.on_report(100, ms(600)), (1 << 32) + 100);
        assert_eq!(ledger.extend(u32::MAX), (1 << 32) - 1);
    }

    #[test]
    fn what_was_heard_before_a_gap_is_not_forgotten_in_it() {
        let mut ledger = Ledger::new(48_000, Carriage::Rtp, false, ms(0));
        ledger.hand_over(FRAME * 5, TurnId(1), Duration::ZERO, ms(0));
        ledger.run_on(ms(150));
        ledger.hand_over(FRAME, TurnId(1), Duration::from_millis(100), ms(150));
        for pos in [48 * 90, 48 * 120, 48 * 150] {
            ledger.forget_before(pos);
            assert_eq!(ledger.heard_of(TurnId(1), pos), Duration::from_micros((pos * 1000 / 48).min(100_000)));
        }
        ledger.forget_before(48 * 155);
        assert_eq!(ledger.heard_of(TurnId(1), 48 * 155), Duration::from_millis(105));
    }

    #[test]
    fn a_position_is_found_in_its_turn() {
        let mut ledger = Ledger::new(48_000, Carriage::Ordered, false, ms(0));
        ledger.hand_over(FRAME * 5, TurnId(1), Duration::ZERO, ms(0));
        ledger.hand_over(FRAME * 5, TurnId(2), Duration::ZERO, ms(0));
        assert_eq!(ledger.heard_of(TurnId(1), 48 * 30), Duration::from_millis(30));
        assert_eq!(ledger.heard_of(TurnId(2), 48 * 30), Duration::ZERO);
        assert_eq!(ledger.heard_of(TurnId(1), 48 * 130), Duration::from_millis(100));
        assert_eq!(ledger.at(48 * 130), Some((TurnId(2), Duration::from_millis(30))));
    }
}
