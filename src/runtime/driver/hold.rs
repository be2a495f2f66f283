//! Turns of a session that is held at the gate of its worker.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::runtime::gate::Ticket;
use crate::time::Micros;

use super::Driver;

/// The longest hold: one frame. Where a worker is behind for longer, both directions bear it alike.
const LONGEST: Duration = Duration::from_millis(20);

/// A place at the gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    ticket: Ticket,
    since: Micros,
}

impl Driver {
    /// Since when this session has been held at the gate, if it is or was until now.
    pub(super) fn held_since(&mut self, cx: &Context<'_>) -> Option<Micros> {
        let hold = match self.held {
            Some(hold) => hold,
            None => Hold { ticket: self.around.gate.ticket(self.turn.wait, cx.waker())?, since: self.turn.at },
        };
        let over = self.around.gate.lets(hold.ticket) || self.turn.at - hold.since >= LONGEST;
        self.held = Some(hold).filter(|_| !over);
        Some(hold.since)
    }

    /// A turn for what callers say alone.
    pub(super) fn poll_callers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_links(cx);
        self.flush(cx);
        if self.finished.is_some() {
            return Poll::Ready(());
        }
        if self.turn.again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
