//! A client with a virtual speaker.

use std::time::Duration;

use crate::ids::TurnId;
use crate::media::format::Format;
use crate::message::{AudioOut, FromClient, Playout, ToClient, TurnPhase};
use crate::time::Micros;

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct ClientKind {
    /// It reports what its speaker plays.
    pub reports: bool,
    /// It starts to play so long after the first audio of a spurt has arrived.
    pub buffer: Duration,
}

/// A client: it plays what it is sent in real time and knows what it has played.
#[derive(Debug)]
pub struct Client {
    kind: ClientKind,
    format: Format,
    /// Received and played ticks on this link.
    received: u64,
    played: u64,
    /// The speaker starts, or has started, at this instant.
    speaker: Option<Micros>,
    updated: Micros,
    next_report: Option<Micros>,
    /// Start of each turn on this link.
    turns: Vec<(TurnId, u64)>,
    /// Frames that were played whole: position and payload.
    pub frames: Vec<(u64, AudioOut)>,
    /// Everything else that the relay said.
    pub messages: Vec<ToClient>,
    /// The truth at each flush: the turn that was cut and how much of it had left the speaker.
    pub truths: Vec<(TurnId, Duration)>,
    /// Audio ticks received since the relay could have flushed.
    pub received_since_stall: u64,
}

impl Client {
    /// A client on a new link.
    pub fn new(kind: ClientKind, format: Format, now: Micros) -> Client {
        Client {
            kind,
            format,
            received: 0,
            played: 0,
            speaker: None,
            updated: now,
            next_report: None,
            turns: Vec::new(),
            frames: Vec::new(),
            messages: Vec::new(),
            truths: Vec::new(),
            received_since_stall: 0,
        }
    }

    /// Position received so far: what the transport library can acknowledge.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Time played so far.
    pub fn played(&self) -> Duration {
        self.format.ticks_to_time(self.played)
    }

    fn advance(&mut self, now: Micros) {
        if let Some(started) = self.speaker {
            let from = self.updated.max(started);
            if now > from {
                self.played = (self.played + self.format.time_to_ticks(now - from)).min(self.received);
            }
        }
        self.updated = now;
        if self.played == self.received && self.speaker.is_some_and(|started| started <= now) {
            self.speaker = None;
        }
    }

    /// When it has something to do by itself.
    pub fn deadline(&self) -> Option<Micros> {
        if !self.kind.reports {
            return None;
        }
        let started = self.speaker?;
        let dry = started.max(self.updated) + self.format.ticks_to_time(self.received - self.played);
        let next = self.next_report.unwrap_or(started);
        Some(next.min(dry).max(self.updated + Duration::from_micros(100)))
    }

    /// Its own clock: reports while it plays and when it runs dry.
    pub fn on_deadline(&mut self, now: Micros) -> Option<FromClient> {
        let playing = self.speaker.is_some();
        self.advance(now);
        let dry = playing && self.speaker.is_none();
        let due = self.next_report.is_none_or(|at| at <= now);
        if !self.kind.reports || !(dry || due) {
            return None;
        }
        self.next_report = (!dry).then(|| now + Duration::from_millis(100));
        Some(self.report(None))
    }

    fn report(&self, flush: Option<crate::ids::FlushId>) -> FromClient {
        let buffered = self.format.ticks_to_time(self.received - self.played);
        FromClient::Playout(Playout { pos: self.played as u32, buffered_ms: buffered.as_millis() as u32, flush })
    }

    /// The relay says something; the answer, if there is one.
    pub fn on_message(&mut self, message: ToClient, now: Micros) -> Option<FromClient> {
        self.advance(now);
        match message {
            ToClient::Audio(audio) => {
                assert_eq!(audio.pos, self.received as u32, "positions count what was received");
                if self.speaker.is_none() {
                    self.speaker = Some(now + self.kind.buffer);
                    self.next_report = Some(now + self.kind.buffer);
                }
                self.received_since_stall += u64::from(audio.ticks);
                self.frames.push((self.received, audio.clone()));
                self.received += u64::from(audio.ticks);
                None
            }
            ToClient::Flush(flush) => {
                let truth = self.turn_at_flush(flush.turn);
                self.truths.push((flush.turn, truth));
                self.frames.retain(|(pos, _)| *pos < self.played || *pos >= u64::from(flush.valid_from));
                let answer = self.report(Some(flush.id));
                self.played = self.played.max(u64::from(flush.valid_from)).min(self.received);
                self.speaker = None;
                self.messages.push(ToClient::Flush(flush));
                self.kind.reports.then_some(answer)
            }
            ToClient::Turn(turn) => {
                if turn.phase == TurnPhase::Start && !self.turns.iter().any(|(id, _)| *id == turn.turn) {
                    self.turns.push((turn.turn, u64::from(turn.pos)));
                }
                self.messages.push(ToClient::Turn(turn));
                None
            }
            other => {
                self.messages.push(other);
                None
            }
        }
    }

    fn turn_at_flush(&self, turn: TurnId) -> Duration {
        let start = self.turns.iter().find(|(id, _)| *id == turn).map_or(self.played, |(_, pos)| *pos);
        self.format.ticks_to_time(self.played.saturating_sub(start))
    }
}
