//! A virtual speaker: plays nothing, but behaves towards the relay like a client that plays; sans-IO.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::media::format::Format;
use crate::media::transcode::payload_ticks;
use crate::message::{Flush, FromClient, Playout, ToClient, Turn, TurnPhase};
use crate::time::Micros;

/// Between two reports of what is playing.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// What [`Player::poll`] gives.
#[derive(Debug)]
pub enum PlayerOutput {
    /// To the relay.
    Send(FromClient),
    /// This left the speaker.
    Played(Played),
    /// Nothing to do until something arrives or the deadline passes.
    Idle {
        /// When to poll again.
        deadline: Option<Micros>,
    },
}

/// A frame, or the beginning of one, that left the speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// When its first sample did.
    pub at: Micros,
    /// Position of its first sample, in ticks of the format's clock.
    pub pos: u32,
    /// How much of it was played, in ticks; less than the whole frame if a flush cut it.
    pub ticks: u32,
    /// The whole frame.
    pub payload: Bytes,
}

#[derive(Debug)]
struct Frame {
    start: u64,
    ticks: u32,
    payload: Bytes,
}

/// A speaker that consumes audio in real time and reports as the native protocol asks for: every
/// 100 ms while playing, at once after a flush, and when its buffer runs empty.
///
/// What it keeps is bounded by what the relay sends ahead; a relay that ignores that is cut off at 300 s.
#[derive(Debug)]
pub struct Player {
    format: Format,
    buffer: Duration,
    frames: VecDeque<Frame>,
    /// The position after the last frame: on ordered carriage ticks received, discarded ones included; with RTP its
    /// timestamp, without wrapping.
    received: u64,
    /// Audio before this position is not to be played.
    valid_from: u64,
    /// Since when, and from which position, audio leaves the speaker; `None` while it is silent.
    playing: Option<(Micros, u64)>,
    /// Where it fell silent.
    stopped: u64,
    next_report: Micros,
    reports: VecDeque<Playout>,
    played: VecDeque<Played>,
    in_turn: bool,
    received_frames: u64,
    late: u64,
    underruns: u64,
    flushed: u64,
}

impl Player {
    /// The most audio that is kept.
    pub const MAX_KEPT: Duration = Duration::from_secs(300);

    /// A speaker for `format` that begins to play `buffer` after the first frame came.
    pub fn new(format: Format, buffer: Duration) -> Player {
        Player {
            format,
            buffer,
            frames: VecDeque::new(),
            received: 0,
            valid_from: 0,
            playing: None,
            stopped: 0,
            next_report: Micros::ZERO,
            reports: VecDeque::new(),
            played: VecDeque::new(),
            in_turn: false,
            received_frames: 0,
            late: 0,
            underruns: 0,
            flushed: 0,
        }
    }

    /// A frame arrived; gives the position of its first sample, or `None` if it is malformed.
    pub fn handle_audio(&mut self, payload: Bytes, now: Micros) -> Option<u32> {
        let ticks = payload_ticks(&self.format, &payload)?;
        self.advance(now);
        self.received_frames += 1;
        let start = self.received;
        self.received += u64::from(ticks);
        if start < self.valid_from || self.buffered_ticks(now) > self.format.time_to_ticks(Self::MAX_KEPT) {
            self.flushed += u64::from(ticks);
            return Some(start as u32);
        }
        if self.playing.is_none() {
            let begin = now + self.buffer;
            self.playing = Some((begin, start));
            self.next_report = begin;
        }
        self.frames.push_back(Frame { start, ticks, payload });
        Some(start as u32)
    }

    /// As [`Player::handle_audio`], for a frame with an RTP timestamp: what is missing before it stays silent, and what
    /// comes too late is discarded.
    pub fn handle_rtp(&mut self, payload: Bytes, timestamp: u32, now: Micros) -> Option<u32> {
        let ahead = timestamp.wrapping_sub(self.received as u32) as i32;
        if self.received_frames == 0 {
            self.received = timestamp.into();
        } else if ahead < 0 {
            self.late += 1;
            return None;
        } else {
            self.received += u64::from(ahead.unsigned_abs());
        }
        self.handle_audio(payload, now)
    }

    /// A control message arrived; those that do not concern a speaker change nothing.
    pub fn handle_message(&mut self, message: &ToClient, now: Micros) {
        self.advance(now);
        match message {
            ToClient::Flush(flush) => self.on_flush(*flush, now),
            ToClient::Turn(Turn { phase, .. }) => self.in_turn = *phase == TurnPhase::Start,
            _ => {}
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Micros) -> PlayerOutput {
        self.advance(now);
        if let Some(played) = self.played.pop_front() {
            return PlayerOutput::Played(played);
        }
        if let Some(report) = self.reports.pop_front() {
            return PlayerOutput::Send(FromClient::Playout(report));
        }
        let end = self.end_of_buffer();
        PlayerOutput::Idle { deadline: end.map(|end| end.min(self.next_report)) }
    }

    /// The sample now leaving the speaker.
    pub fn position(&self, now: Micros) -> u32 {
        self.play_position(now) as u32
    }

    /// Received and not yet played.
    pub fn buffered(&self, now: Micros) -> Duration {
        self.format.ticks_to_time(self.buffered_ticks(now))
    }

    /// Whether sound leaves the speaker, or is about to.
    pub fn is_playing(&self) -> bool {
        self.playing.is_some()
    }

    /// Frames received.
    pub fn received_frames(&self) -> u64 {
        self.received_frames
    }

    /// Frames that came after their place was taken.
    pub fn late_frames(&self) -> u64 {
        self.late
    }

    /// How often the buffer ran empty within a turn.
    pub fn underruns(&self) -> u64 {
        self.underruns
    }

    /// Received, but discarded at a flush.
    pub fn flushed(&self) -> Duration {
        self.format.ticks_to_time(self.flushed)
    }

    fn play_position(&self, now: Micros) -> u64 {
        match self.playing {
            Some((at, from)) => (from + self.format.time_to_ticks(now.since(at))).min(self.received),
            None => self.stopped,
        }
    }

    fn buffered_ticks(&self, now: Micros) -> u64 {
        self.frames
            .back()
            .map_or(0, |last| (last.start + u64::from(last.ticks)).saturating_sub(self.play_position(now)))
    }

    /// When `pos` leaves the speaker, if it goes on playing.
    fn time_of(&self, (at, from): (Micros, u64), pos: u64) -> Micros {
        let micros = (pos - from) * 1_000_000;
        at + Duration::from_micros(micros.div_ceil(u64::from(self.format.clock())))
    }

    fn end_of_buffer(&self) -> Option<Micros> {
        let last = self.frames.back()?;
        self.playing.map(|anchor| self.time_of(anchor, last.start + u64::from(last.ticks)))
    }

    /// Lets time pass: frames are played, reports fall due, the buffer may run empty.
    fn advance(&mut self, now: Micros) {
        let Some(anchor) = self.playing else { return };
        while let Some((start, ticks)) = self.frames.front().map(|front| (front.start, front.ticks)) {
            let end = start + u64::from(ticks);
            let ended_at = self.time_of(anchor, end);
            self.report_until(now.min(ended_at.before(Duration::from_micros(1))));
            if ended_at > now {
                break;
            }
            let at = self.time_of(anchor, start);
            if let Some(Frame { payload, .. }) = self.frames.pop_front() {
                self.played.push_back(Played { at, pos: start as u32, ticks, payload });
            }
            if self.frames.is_empty() {
                self.fall_silent(end);
                self.reports.push_back(Playout { pos: end as u32, buffered_ms: 0, flush: None });
                self.underruns += u64::from(self.in_turn);
            }
        }
    }

    /// Makes the reports that fell due until `now`; late ones are not made up for.
    fn report_until(&mut self, now: Micros) {
        if self.next_report > now {
            return;
        }
        let late = now.since(self.next_report).as_micros() / REPORT_EVERY.as_micros();
        let due = self.next_report + REPORT_EVERY * late as u32;
        self.next_report = due + REPORT_EVERY;
        let report = self.report(due, None);
        self.reports.push_back(report);
    }

    fn report(&self, now: Micros, flush: Option<crate::ids::FlushId>) -> Playout {
        Playout { pos: self.position(now), buffered_ms: self.buffered(now).as_millis() as u32, flush }
    }

    fn fall_silent(&mut self, pos: u64) {
        self.playing = None;
        self.stopped = pos;
    }

    fn on_flush(&mut self, flush: Flush, now: Micros) {
        let pos = self.play_position(now);
        let ahead = i64::from(flush.valid_from.wrapping_sub(self.received as u32) as i32);
        self.valid_from = self.valid_from.max(self.received.saturating_add_signed(ahead));
        let buffered = self.buffered_ticks(now);
        self.cut_current_frame(pos);
        while self.frames.front().is_some_and(|frame| frame.start < self.valid_from) {
            self.frames.pop_front();
        }
        let left: u64 = self.frames.iter().map(|frame| u64::from(frame.ticks)).sum();
        self.flushed += buffered.saturating_sub(left);
        match self.frames.front() {
            Some(next) => self.playing = Some((now, next.start)),
            None => self.fall_silent(pos),
        }
        let buffered_ms = self.format.ticks_to_time(left).as_millis() as u32;
        self.reports.push_back(Playout { pos: pos as u32, buffered_ms, flush: Some(flush.id) });
        self.in_turn = false;
    }

    /// Records how much of the frame that is playing was heard, if the flush discards it.
    fn cut_current_frame(&mut self, pos: u64) {
        let (Some(anchor), Some(front)) = (self.playing, self.frames.front()) else { return };
        if front.start < self.valid_from && front.start < pos {
            let (at, ticks) = (self.time_of(anchor, front.start), (pos - front.start) as u32);
            self.played.push_back(Played { at, pos: front.start as u32, ticks, payload: front.payload.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{FlushId, Generation, TurnId};

    const FORMAT: Format = Format::pcm16(24_000);

    fn ms(ms: u64) -> Micros {
        Micros::from_millis(ms)
    }

    /// 20 ms of audio.
    fn frame() -> Bytes {
        Bytes::from(vec![0; 960])
    }

    fn ticks(ms: u32) -> u32 {
        ms * 24
    }

    fn flush(valid_from: u32) -> ToClient {
        ToClient::Flush(Flush { id: FlushId(3), turn: TurnId(1), valid_from, pause: false })
    }

    /// Runs the player until `end`, each deadline in its turn.
    fn run(player: &mut Player, from: Micros, end: Micros) -> (Vec<(Micros, Playout)>, Vec<Played>) {
        let (mut now, mut reports, mut played) = (from, Vec::new(), Vec::new());
        loop {
            match player.poll(now) {
                PlayerOutput::Send(FromClient::Playout(report)) => reports.push((now, report)),
                PlayerOutput::Send(other) => panic!("{other:?}"),
                PlayerOutput::Played(span) => played.push(span),
                PlayerOutput::Idle { deadline: Some(at) } if at <= end => now = at,
                PlayerOutput::Idle { .. } => return (reports, played),
            }
        }
    }

    #[test]
    fn it_reports_every_100_ms_and_when_it_runs_empty() {
        let mut player = Player::new(FORMAT, Duration::ZERO);
        for _ in 0..15 {
            player.handle_audio(frame(), ms(50));
        }
        let (reports, played) = run(&mut player, ms(50), ms(1000));
        let seen: Vec<_> = reports.iter().map(|(at, r)| (at.0 / 1000, r.pos, r.buffered_ms)).collect();
        // The first report leaves as playing begins, with what had arrived by then.
        assert_eq!(seen, [(50, 0, 20), (150, ticks(100), 200), (250, ticks(200), 100), (350, ticks(300), 0)]);
        assert_eq!(played.len(), 15);
        assert_eq!(played[14].at, ms(330));
        assert!(!player.is_playing());
    }

    #[test]
    fn playing_starts_after_the_buffer_time_and_goes_on_from_the_next_sample_after_silence() {
        let mut player = Player::new(FORMAT, Duration::from_millis(60));
        player.handle_audio(frame(), ms(0));
        let (reports, played) = run(&mut player, ms(0), ms(500));
        assert_eq!(played[0].at, ms(60));
        assert_eq!(reports.last().map(|(at, r)| (*at, r.pos)), Some((ms(80), ticks(20))));
        assert_eq!(player.handle_audio(frame(), ms(600)), Some(ticks(20)));
        let (reports, played) = run(&mut player, ms(600), ms(900));
        assert_eq!((played[0].at, played[0].pos), (ms(660), ticks(20)));
        assert_eq!(reports.last().map(|(_, r)| r.pos), Some(ticks(40)));
    }

    #[test]
    fn a_flush_is_answered_at_once_with_the_sample_that_was_leaving_the_speaker() {
        let mut player = Player::new(FORMAT, Duration::ZERO);
        for _ in 0..50 {
            player.handle_audio(frame(), ms(0));
        }
        run(&mut player, ms(0), ms(333));
        player.handle_message(&flush(ticks(1000)), ms(333));
        let (reports, played) = run(&mut player, ms(333), ms(333));
        let answer = Playout { pos: ticks(333), buffered_ms: 0, flush: Some(FlushId(3)) };
        assert_eq!(reports, [(ms(333), answer)]);
        assert_eq!(played.last().map(|p| (p.pos, p.ticks)), Some((ticks(320), ticks(13))));
        assert_eq!(player.flushed(), Duration::from_millis(667));
        assert!(!player.is_playing());

        player.handle_audio(frame(), ms(400));
        let (_, played) = run(&mut player, ms(400), ms(500));
        assert_eq!((played[0].at, played[0].pos), (ms(400), ticks(1000)), "positions count what was discarded");
    }

    #[test]
    fn audio_from_the_valid_position_on_survives_a_flush() {
        let mut player = Player::new(FORMAT, Duration::ZERO);
        for _ in 0..10 {
            player.handle_audio(frame(), ms(0));
        }
        run(&mut player, ms(0), ms(30));
        player.handle_message(&flush(ticks(160)), ms(30));
        let (_, played) = run(&mut player, ms(30), ms(200));
        let after: Vec<_> = played.iter().map(|p| (p.at, p.pos)).filter(|(at, _)| *at >= ms(30)).collect();
        assert_eq!(after, [(ms(30), ticks(160)), (ms(50), ticks(180))]);
        player.handle_message(&flush(ticks(220)), ms(200));
        player.handle_audio(frame(), ms(210));
        let (reports, played) = run(&mut player, ms(210), ms(300));
        assert!(played.is_empty(), "it came before the valid position");
        assert_eq!(reports.len(), 1);
    }

    #[test]
    fn positions_wrap_with_the_wire() {
        let mut player = Player::new(FORMAT, Duration::ZERO);
        player.received = u64::from(u32::MAX) - 100;
        player.handle_audio(frame(), ms(0));
        player.handle_message(&flush(379), ms(10));
        let (reports, _) = run(&mut player, ms(10), ms(10));
        assert_eq!(reports.last().map(|(_, r)| r.pos), Some((u32::MAX - 100).wrapping_add(240)));
        assert_eq!(player.handle_audio(frame(), ms(20)), Some(379));
        let (_, played) = run(&mut player, ms(20), ms(100));
        assert_eq!(played.last().map(|p| p.pos), Some(379));
    }

    #[test]
    fn with_rtp_what_is_missing_stays_silent_and_what_is_late_is_discarded() {
        let mut player = Player::new(FORMAT, Duration::ZERO);
        let first = u32::MAX - 100;
        let at = |ms: u32| first.wrapping_add(ticks(ms));
        assert_eq!(player.handle_rtp(frame(), first, ms(0)), Some(first));
        assert_eq!(player.handle_rtp(frame(), at(40), ms(0)), Some(at(40)), "20 ms are missing");
        assert_eq!(player.handle_rtp(frame(), at(20), ms(0)), None);
        assert_eq!(player.late_frames(), 1);
        let (reports, played) = run(&mut player, ms(0), ms(100));
        let seen: Vec<_> = played.iter().map(|span| (span.at, span.pos)).collect();
        assert_eq!(seen, [(ms(0), first), (ms(40), at(40))]);
        assert_eq!(reports.last().map(|(when, report)| (*when, report.pos)), Some((ms(60), at(60))));
    }

    #[test]
    fn running_empty_counts_only_within_a_turn() {
        let turn =
            |phase| ToClient::Turn(Turn { turn: TurnId(1), generation: Generation(0), item: None, phase, pos: 0 });
        let mut player = Player::new(FORMAT, Duration::ZERO);
        player.handle_message(&turn(TurnPhase::Start), ms(0));
        player.handle_audio(frame(), ms(0));
        run(&mut player, ms(0), ms(100));
        assert_eq!(player.underruns(), 1);
        player.handle_audio(frame(), ms(100));
        player.handle_message(&turn(TurnPhase::End), ms(101));
        run(&mut player, ms(101), ms(200));
        assert_eq!(player.underruns(), 1);
    }
}
