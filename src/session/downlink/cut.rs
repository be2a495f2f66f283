//! How turns end: heard to the end, or cut by an interruption or the session's end.

use std::time::Duration;

use super::{Cut, Downlink, DownlinkOutput, OWN, OpenTurn, Pending};
use crate::ids::TurnId;
use crate::message::Basis;
use crate::session::Measure;
use crate::session::ledger::Figure;
use crate::time::Micros;

/// What the answer to a flush may take beyond the round trip.
const ANSWER_SLACK: Duration = Duration::from_millis(60);
/// The longest wait for the answer to a flush.
const MAX_HEARD_WAIT: Duration = Duration::from_secs(1);

/// How long the answer to a flush is awaited: a client that is far away gets the time that it needs.
pub(super) fn heard_wait(least: Duration, rtt: Duration) -> Duration {
    least.max((rtt + ANSWER_SLACK).min(MAX_HEARD_WAIT))
}

impl Downlink {
    /// The session ends: the turns that are open are cut where they are heard now.
    pub fn settle(&mut self, now: Micros) {
        self.settle_pause(None, now);
        self.finish_heard(now);
        self.resolve(None, now);
        let turns: Vec<OpenTurn> = self.turns.drain(..).collect();
        let Some(speaker) = &self.speaker else { return };
        let figure = speaker.ledger.heard(now);
        for turn in turns {
            let heard = self.speaker.as_ref().map_or(Duration::ZERO, |s| s.ledger.heard_of(turn.id, figure.pos));
            let cut = self.cut(turn, heard, figure);
            self.outputs.push_back(DownlinkOutput::Played(cut));
        }
    }

    /// Stops the agent's voice: everything that was not heard is void. `by_agent`: it has stopped by itself, so what
    /// comes without an item id is new. Gives the turn that is cut, if there is one.
    pub fn interrupt(&mut self, by_agent: bool, now: Micros) -> Option<TurnId> {
        if self.pause.is_some() {
            return self.confirm(by_agent, now);
        }
        self.finish_heard(now);
        let audible = self.turns.front()?.id;
        self.resolve(None, now);
        let (flush, deadline) = self.flush_speaker(false, now);
        let turns = self.take_turns(by_agent, now);
        self.pending = Some(Pending { flush, turns, at: now, deadline });
        if self.speaker.is_none() {
            self.resolve(None, now);
        }
        self.check();
        Some(audible)
    }

    /// Settles a pending interruption: with the client's own figure, or with the best estimate.
    pub(super) fn resolve(&mut self, exact: Option<Figure>, now: Micros) {
        let Some(at) = self.pending.as_ref().map(|pending| pending.at) else { return };
        let none = Figure { pos: 0, basis: Basis::Paced, error: Duration::ZERO };
        let figure = match (&self.speaker, exact) {
            (Some(_), Some(figure)) => figure,
            (Some(speaker), None) => speaker.ledger.heard_before_flush(),
            (None, _) => none,
        };
        self.settle_turns(figure);
        let Some(speaker) = &mut self.speaker else { return };
        speaker.ledger.on_flushed(now);
        if exact.is_some() {
            let stop = (now - at).saturating_sub(speaker.ledger.rtt() / 2);
            self.outputs.push_back(DownlinkOutput::Measure(Measure::BargeInStop(stop)));
        }
    }

    /// Ends the turns of an interruption where `figure` says.
    pub(super) fn settle_turns(&mut self, figure: Figure) {
        let Some(pending) = self.pending.take() else { return };
        for turn in pending.turns {
            let heard = self.speaker.as_ref().map_or(Duration::ZERO, |s| s.ledger.heard_of(turn.id, figure.pos));
            let cut = self.cut(turn, heard, figure);
            self.outputs.push_back(DownlinkOutput::Measure(Measure::Heard { basis: figure.basis }));
            self.outputs.push_back(DownlinkOutput::Cut(cut));
        }
    }

    fn cut(&mut self, turn: OpenTurn, heard: Duration, figure: Figure) -> Cut {
        let of = turn.length();
        let heard = heard.min(of);
        self.heard += heard;
        Cut { turn: turn.id, item: turn.item, own: turn.speaker == OWN, heard, of, figure }
    }

    /// Ends the turns that were heard to their end, and forgets audio that was heard.
    pub(super) fn finish_heard(&mut self, now: Micros) {
        if self.pause_deadline().is_some() {
            return;
        }
        let Some(speaker) = &mut self.speaker else { return };
        let figure = speaker.ledger.heard_now(now);
        if let Some((turn, offset)) = speaker.ledger.at(figure.pos) {
            self.store.release(turn, offset);
        }
        if self.pending.is_none() {
            speaker.ledger.forget_before(figure.pos);
        }
        while let Some(end) = self.turns.front().and_then(|turn| turn.end) {
            if figure.pos < end {
                let left = speaker.ledger.span(end - figure.pos).max(Duration::from_millis(1));
                if !speaker.ledger.reports() {
                    self.wake = Some(self.wake.map_or(now + left, |wake| wake.min(now + left)));
                }
                return;
            }
            let Some(turn) = self.turns.pop_front() else { return };
            let of = turn.length();
            self.store.release(turn.id, of);
            self.heard += of;
            self.outputs.push_back(DownlinkOutput::Measure(Measure::Heard { basis: figure.basis }));
            let cut = Cut { turn: turn.id, item: turn.item, own: turn.speaker == OWN, heard: of, of, figure };
            self.outputs.push_back(DownlinkOutput::Played(cut));
        }
    }
}
