//! Interruptions that can be taken back: the voice stops as at any other, but what was not heard is kept.

use super::cut::heard_wait;
use super::{Downlink, DownlinkOutput, OpenTurn, Pending};
use crate::ids::{FlushId, TurnId};
use crate::message::Flush;
use crate::session::Measure;
use crate::session::ledger::Figure;
use crate::time::Micros;

/// The agent's voice is stopped for the moment.
#[derive(Debug)]
pub(super) struct Pause {
    flush: FlushId,
    at: Micros,
    /// Until when the client's answer is awaited.
    pub(super) deadline: Micros,
    /// What had been heard, once that is known.
    figure: Option<Figure>,
    /// It is over as soon as that is known.
    resumes: bool,
}

impl Downlink {
    /// Stops the agent's voice for the moment. Gives the turn that is heard, if there is one and it is not stopped already.
    pub fn pause(&mut self, now: Micros) -> Option<TurnId> {
        self.finish_heard(now);
        let turn = self.turns.front()?.id;
        if let Some(pause) = &mut self.pause {
            // What was to go on has not begun to.
            return std::mem::take(&mut pause.resumes).then_some(turn);
        }
        self.speaker.as_ref()?;
        self.resolve(None, now);
        let (flush, deadline) = self.flush_speaker(true, now);
        for open in &mut self.turns {
            open.generation = self.generation;
        }
        self.pause = Some(Pause { flush, at: now, deadline, figure: None, resumes: false });
        self.check();
        Some(turn)
    }

    /// Whether the agent's voice is stopped for the moment.
    pub fn is_paused(&self) -> bool {
        self.pause.as_ref().is_some_and(|pause| !pause.resumes)
    }

    /// The voice goes on where it was heard last.
    pub fn resume(&mut self) {
        match &mut self.pause {
            Some(pause) if pause.figure.is_none() => pause.resumes = true,
            _ => self.pause = None,
        }
        self.check();
    }

    /// The voice that is stopped goes no further. Gives the turn that is cut. `by_agent`: it has stopped by itself.
    pub(super) fn confirm(&mut self, by_agent: bool, now: Micros) -> Option<TurnId> {
        let pause = self.pause.take()?;
        let turns = self.take_turns(by_agent, now);
        let turn = turns.first().map(|turn| turn.id);
        self.pending = Some(Pending { flush: pause.flush, turns, at: pause.at, deadline: pause.deadline });
        if let Some(figure) = pause.figure {
            self.settle_turns(figure);
        }
        self.check();
        turn
    }

    /// What was heard before the pause is known: playback goes on from there, if it does.
    pub(super) fn settle_pause(&mut self, exact: Option<Figure>, now: Micros) {
        let (Some(pause), Some(speaker)) = (&mut self.pause, &mut self.speaker) else { return };
        if pause.figure.is_some() {
            return;
        }
        let figure = exact.unwrap_or_else(|| speaker.ledger.heard_before_flush());
        pause.figure = Some(figure);
        if exact.is_some() {
            let stop = (now - pause.at).saturating_sub(speaker.ledger.rtt() / 2);
            self.outputs.push_back(DownlinkOutput::Measure(Measure::BargeInStop(stop)));
        }
        if let Some((turn, offset)) = speaker.ledger.at(figure.pos) {
            self.store.rewind(turn, offset);
        }
        speaker.ledger.void_from(figure.pos);
        speaker.ledger.on_flushed(now);
        for turn in &mut self.turns {
            turn.end = turn.end.filter(|&end| end <= figure.pos);
        }
        if pause.resumes {
            self.pause = None;
        }
    }

    /// Whether the client's answer to `flush` tells what was heard before the pause.
    pub(super) fn pauses_by(&self, flush: Option<FlushId>) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.figure.is_none() && flush == Some(pause.flush))
    }

    /// Until when it is awaited what was heard before the pause.
    pub(super) fn pause_deadline(&self) -> Option<Micros> {
        self.pause.as_ref().filter(|pause| pause.figure.is_none()).map(|pause| pause.deadline)
    }

    /// Declares void what is on its way to the client; gives the flush, and until when its answer is awaited.
    pub(super) fn flush_speaker(&mut self, pause: bool, now: Micros) -> (FlushId, Micros) {
        self.generation = self.generation.next();
        let turn = self.turns.front().map(|turn| turn.id).unwrap_or_default();
        let rtt = self.speaker.as_ref().map_or(std::time::Duration::ZERO, |speaker| speaker.ledger.rtt());
        let flush = self.next_flush;
        self.next_flush = flush.next();
        if let Some(speaker) = &mut self.speaker {
            if let Some(framer) = &mut speaker.framer {
                framer.reset();
            }
            let valid_from = speaker.ledger.flush(now) as u32;
            speaker.announced = None;
            speaker.tail_at = now;
            self.outputs.push_back(DownlinkOutput::Flush(Flush { id: flush, turn, valid_from, pause }));
        }
        (flush, now + heard_wait(self.heard_wait, rtt))
    }

    /// Takes all turns out, so that what comes of them later is known as late.
    pub(super) fn take_turns(&mut self, by_agent: bool, now: Micros) -> Vec<OpenTurn> {
        if let Some(newest) = self.turns.back() {
            if newest.speaker == self.agents && !newest.ended && !by_agent && newest.item.is_none() {
                self.stale = Some(now);
            }
            let through = newest.id;
            self.store.discard_through(through);
        }
        let turns: Vec<OpenTurn> = self.turns.drain(..).collect();
        // Of an agent that is gone nothing more comes, and the present one may give the same names.
        let present = turns.iter().filter(|turn| turn.speaker == self.agents);
        for item in present.filter_map(|turn| turn.item.clone()) {
            if self.flushed.len() == super::FLUSHED_ITEMS {
                self.flushed.pop_front();
            }
            self.flushed.push_back(item);
        }
        turns
    }
}
