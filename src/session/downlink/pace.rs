//! Handing over: the next frame when it is due, silence behind the last one, and the end of a turn.

use std::time::Duration;

use super::framer::{self, Next};
use super::{Downlink, DownlinkOutput, OWN};
use crate::message::{AudioOut, Turn, TurnPhase};
use crate::session::ledger::{Credit, RTP_EARLY};
use crate::session::{Carriage, Measure, Queue};
use crate::time::Micros;

/// The wait in the store is measured at the first frame of a turn and at positions that are multiples of this.
const WAIT_EVERY: u32 = 4_800;
/// Frames of silence that a voice on RTP ends with.
const TAIL_FRAMES: u8 = 2;
/// An agent of which no more audio than this waits speaks about as fast as it is played.
const LIVE: Duration = Duration::from_millis(60);
/// They may go out so much before their time: timers wake on whole milliseconds.
const TAIL_EARLY: Duration = Duration::from_millis(1);

impl Downlink {
    pub(super) fn hand_over(&mut self, now: Micros) {
        if self.pause.is_some() {
            return self.hand_over_silence(true, now);
        }
        self.follow_format();
        let Some(speaker) = &mut self.speaker else { return };
        let (Some(framer), store) = (&mut speaker.framer, &mut self.store) else { return };
        let Some(turn) = self.turns.iter().find(|turn| turn.end.is_none()) else {
            return self.hand_over_silence(true, now);
        };
        let has_audio = store.next_turn().is_some() || framer.holds(turn.id);
        if !has_audio {
            let ended = turn.ended;
            self.end_turn();
            return self.hand_over_silence(ended, now);
        }
        let live = store.depth() <= LIVE;
        let due = match speaker.ledger.credit(framer.frame_ticks(), self.send_ahead, live, now) {
            Credit::Due(due) => due,
            Credit::At(at) => return self.wake_at(at),
            Credit::Blocked => return,
        };
        let turns = &self.turns;
        let ended = |id| turns.iter().find(|turn| turn.id == id).is_none_or(|turn| turn.ended);
        if store.next_turn() != Some(turn.id) && !framer.holds(turn.id) {
            return self.end_turn();
        }
        if let Some(complexity) = framer.limit_complexity(self.load.max_complexity()) {
            self.outputs.push_back(DownlinkOutput::Measure(Measure::EncoderComplexity(complexity)));
        }
        match framer.next(store, ended, now) {
            Next::Frame(frame) => self.send(frame, due, now),
            Next::Partial(at) => self.wake_at(at),
            Next::Empty => self.end_turn(),
            Next::Bad(span) => self.dropped(Queue::Playout, span),
        }
    }

    /// Ends a voice on RTP: a receiver that just gets no more packets conceals for over 100 ms. `ended`: nothing more
    /// will come, else it may only be late.
    fn hand_over_silence(&mut self, ended: bool, now: Micros) {
        let Some(speaker) = &mut self.speaker else { return };
        let Some(framer) = speaker.framer.as_mut().filter(|_| speaker.tail > 0) else { return };
        let at = if ended { speaker.tail_at } else { speaker.tail_at + framer::PARTIAL_WAIT };
        if now + TAIL_EARLY < at {
            return self.wake_at(at);
        }
        speaker.ledger.run_on(now);
        let pos = speaker.ledger.handed() as u32;
        let (payload, ticks) = framer.silence();
        speaker.ledger.pass(ticks.into(), now);
        speaker.tail -= 1;
        speaker.tail_at = if ended { at.max(now.before(framer::FRAME)) } else { now } + framer::FRAME;
        let ready = at.max(now.before(TAIL_EARLY));
        let silence = AudioOut { pos, ticks, marker: false, ready, payload };
        self.outputs.push_back(DownlinkOutput::Silence(silence));
    }

    fn send(&mut self, frame: framer::Frame, due: Micros, now: Micros) {
        let Some(speaker) = &mut self.speaker else { return };
        let Some(turn) = self.turns.iter_mut().find(|turn| turn.id == frame.turn) else { return };
        let another = speaker.announced != Some(frame.turn);
        // A frame of the same voice that only comes late is no pause: the receiver's jitter buffer makes up for it, and
        // does so once.
        let paused = (another || speaker.tail < TAIL_FRAMES) && speaker.ledger.run_on(now);
        let pos = speaker.ledger.handed() as u32;
        let first = paused || another;
        if first {
            speaker.announced = Some(frame.turn);
            self.outputs.push_back(DownlinkOutput::Turn(Turn {
                turn: turn.id,
                generation: turn.generation,
                item: turn.item.clone(),
                phase: TurnPhase::Start,
                pos,
            }));
        }
        if let Some(level) = frame.level {
            speaker.audible.on_frame(speaker.ledger.handed(), frame.ticks.into(), level);
        }
        speaker.ledger.hand_over(frame.ticks.into(), frame.turn, frame.start, now);
        // What goes out well before its time has waited for nothing but the frame before it.
        let due = if due > now + RTP_EARLY { speaker.sent_at } else { due };
        speaker.sent_at = now;
        if speaker.carriage == Carriage::Rtp {
            speaker.tail = TAIL_FRAMES;
            speaker.tail_at = speaker.ledger.dry_at().max(now + speaker.ledger.span(frame.ticks.into()));
        }
        let opening = !std::mem::replace(&mut turn.sent, true) && turn.speaker != OWN;
        let ready = frame.arrival.max(due);
        if opening || pos.is_multiple_of(WAIT_EVERY) {
            self.outputs.push_back(DownlinkOutput::Measure(Measure::PlayoutWait(ready - frame.arrival)));
        }
        let audio = AudioOut { pos, ticks: frame.ticks, marker: first, ready, payload: frame.payload };
        self.outputs.push_back(DownlinkOutput::Audio(audio, opening));
    }

    /// Tells the client that the playing turn is complete, if it is.
    fn end_turn(&mut self) {
        let Some(speaker) = &mut self.speaker else { return };
        let Some(turn) = self.turns.iter_mut().find(|turn| turn.end.is_none()) else { return };
        if !turn.ended {
            return;
        }
        let pos = speaker.ledger.handed();
        turn.end = Some(pos);
        self.outputs.push_back(DownlinkOutput::Turn(Turn {
            turn: turn.id,
            generation: turn.generation,
            item: turn.item.clone(),
            phase: TurnPhase::End,
            pos: pos as u32,
        }));
    }
}
