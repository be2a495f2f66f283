//! Turns of a session that is held at the gate of its worker.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::runtime::gate::Place;
use crate::time::Micros;

use super::Driver;

/// The longest hold: one frame. Where a worker is behind for longer, both directions bear it alike.
const LONGEST: Duration = Duration::from_millis(20);

/// A place at the gate.
#[derive(Debug)]
pub(super) struct Hold {
    place: Place,
    since: Micros,
}

impl Driver {
    /// Since when this session has been held at the gate, if it is or was until now.
    pub(super) fn held_since(&mut self, cx: &Context<'_>) -> Option<Micros> {
        let hold = match self.held.take() {
            Some(hold) => hold,
            None => Hold { place: self.around.gate.place(self.turn.wait, cx.waker())?, since: self.turn.at },
        };
        let since = hold.since;
        if hold.place.is_through() {
            return Some(since);
        }
        if self.turn.at - since < LONGEST {
            self.held = Some(hold);
        } else {
            self.around.telemetry.node().record_overdue_hold();
        }
        Some(since)
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
