//! Connections that end before the conversation: the next one goes on by the handle that the service gave.

use std::time::Duration;

use super::{Gemini, MARGIN, SETUP_DEADLINE, Stage, wire};
use crate::agent::AgentOutput;
use crate::agent::closing::closed;
use crate::message::{FailureClass, FromAgent};
use crate::time::Micros;

/// Connections in a row that may be lost before an answer is complete; then another agent may try.
const MOST_LOSSES: u8 = 1;

impl Gemini {
    /// The service will close the connection: another one goes on from it, at the end of the present answer.
    pub(super) fn handle_go_away(&mut self, left: Duration, now: Micros) {
        if self.handle.is_none() {
            return self.out.tell(FromAgent::GoAway(left));
        }
        let leave_by = now + left.saturating_sub(MARGIN);
        if self.turns.is_idle() || leave_by <= now {
            self.redial(now);
        } else {
            self.leave_by = Some(leave_by);
        }
    }

    pub(super) fn redial(&mut self, now: Micros) {
        let broken = self.turns.is_open();
        self.broken |= broken;
        let (was_open, line) = self.turns.complete();
        self.close_answer((was_open && !broken, line));
        self.leave_by = None;
        self.stage = Stage::Resuming { by: now + SETUP_DEADLINE, with_handle: self.handle.is_some() };
        self.out.push(AgentOutput::Redial);
    }

    /// The conversation begins anew, with what was said as its history.
    pub(super) fn begin_anew(&mut self, now: Micros) {
        self.handle = None;
        self.calls.clear();
        if let Some(start) = &mut self.start {
            start.greet = false;
            start.context.extend(self.said.take());
        }
        self.redial(now);
    }

    pub(super) fn handle_close(&mut self, code: u16, reason: &str, now: Micros) {
        let class = wire::class_of_close(code, reason);
        let lost = matches!(
            class,
            FailureClass::Lost | FailureClass::Internal | FailureClass::Unreachable | FailureClass::Expired
        );
        match self.stage {
            Stage::Ended => {}
            Stage::Resuming { with_handle: true, .. } => self.begin_anew(now),
            Stage::Ready if self.handle.is_some() && self.leave_by.is_some() => self.redial(now),
            Stage::Ready if self.handle.is_some() && lost && self.losses < MOST_LOSSES => {
                self.losses += 1;
                self.redial(now);
            }
            Stage::Ready if code == 1000 => self.end(None),
            Stage::Opening | Stage::Ready | Stage::Resuming { .. } => {
                self.end(Some(closed(class, code, reason)));
            }
        }
    }
}
