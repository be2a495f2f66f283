//! What comes back about the audio that was handed over.

use std::time::Duration;

use super::Downlink;
use crate::message::{AgentPlayout, Playout as Report};
use crate::time::Micros;

impl Downlink {
    /// The client reports what its speaker plays. Gives what that means in the agent's own audio; nothing while a flush
    /// waits for its figure, as that is told by the [`Cut`](super::Cut).
    pub fn on_report(&mut self, report: Report, now: Micros) -> Option<AgentPlayout> {
        let pauses = self.pauses_by(report.flush);
        let answers = pauses || self.pending.as_ref().is_some_and(|pending| report.flush == Some(pending.flush));
        let speaker = self.speaker.as_mut()?;
        let pos = match answers {
            true => speaker.ledger.on_answer(report.pos, now),
            false => speaker.ledger.on_report(report.pos, now),
        };
        let exact = answers.then(|| speaker.ledger.exact(pos));
        if self.pending.is_some() || self.pause_deadline().is_some() {
            match exact {
                Some(_) if pauses => self.settle_pause(exact, now),
                Some(_) => self.resolve(exact, now),
                None => {}
            }
            self.check();
            return None;
        }
        let speaker = self.speaker.as_mut()?;
        let at = speaker.ledger.at(pos);
        let mut turns = self.turns.iter().filter(|open| open.speaker == self.agents);
        let played = match at.and_then(|(turn, offset)| Some((turns.clone().find(|open| open.id == turn)?, offset))) {
            Some((open, offset)) => open.before + offset.min(open.length()),
            None => turns.next().map_or(self.received, |open| open.before),
        };
        self.check();
        Some(AgentPlayout { played, buffered: self.received.saturating_sub(played), flush: None })
    }

    /// The client's transport library has taken everything before `pos`.
    pub fn on_acked(&mut self, pos: u32, now: Micros) {
        if let Some(speaker) = &mut self.speaker {
            speaker.ledger.on_acked(pos, now);
        }
    }

    /// A measured round trip.
    pub fn on_round_trip(&mut self, rtt: Duration) {
        if let Some(speaker) = &mut self.speaker {
            speaker.ledger.on_round_trip(rtt);
        }
    }

    /// The client reports that it lost this share (0 to 1) of what it was sent since its last report.
    pub fn on_loss(&mut self, share: f32, now: Micros) {
        let before = self.loss.setting();
        self.loss.on_report(share, now);
        let framer = self.speaker.as_mut().and_then(|speaker| speaker.framer.as_mut());
        if let Some(framer) = framer.filter(|_| self.loss.setting() != before) {
            framer.follow(self.loss.setting());
        }
    }
}
