//! Handing frames over at the pace of the ear.

use super::framer::{Frame, Next};
use super::{Downlink, DownlinkOutput};
use crate::message::{AudioOut, Turn, TurnPhase};
use crate::session::ledger::Credit;
use crate::session::{Measure, Queue};
use crate::time::Micros;

/// The wait in the store is measured at the first frame of a turn and at positions that are multiples of this.
const WAIT_EVERY: u32 = 4_800;

impl Downlink {
    fn wake_at(&mut self, at: Micros) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    pub(super) fn hand_over(&mut self, now: Micros) {
        let (Some(speaker), Some(store)) = (&mut self.speaker, &mut self.store) else { return };
        let Some(framer) = &mut speaker.framer else { return };
        let Some(turn) = self.turns.iter().find(|turn| turn.end.is_none()) else { return };
        let has_audio = store.next_turn().is_some() || framer.holds(turn.id);
        if !has_audio {
            self.end_turn();
            return;
        }
        let due = match speaker.ledger.credit(framer.frame_ticks(), self.send_ahead, now) {
            Credit::Due(due) => due,
            Credit::At(at) => return self.wake_at(at),
            Credit::Blocked => return,
        };
        let turns = &self.turns;
        let ended = |id| turns.iter().find(|turn| turn.id == id).is_none_or(|turn| turn.ended);
        if store.next_turn() != Some(turn.id) && !framer.holds(turn.id) {
            return self.end_turn();
        }
        match framer.next(store, ended, now) {
            Next::Frame(frame) => self.send(frame, due, now),
            Next::Partial(at) => self.wake_at(at),
            Next::Empty => self.end_turn(),
            Next::Bad(span) => self.dropped(Queue::Playout, span),
        }
    }

    fn send(&mut self, frame: Frame, due: Micros, now: Micros) {
        let Some(speaker) = &mut self.speaker else { return };
        let Some(turn) = self.turns.iter_mut().find(|turn| turn.id == frame.turn) else { return };
        let pos = speaker.ledger.handed() as u32;
        let first = speaker.announced != Some(frame.turn);
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
        speaker.ledger.hand_over(frame.ticks.into(), frame.turn, frame.start, now);
        let opening = !std::mem::replace(&mut turn.sent, true);
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
