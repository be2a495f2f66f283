//! Connections to taps. They come last in a turn, when everything that the call needs has been handed over.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::ids::UpstreamId;
use crate::message::ToAgent;
use crate::session::{TapEvent, UpstreamRole};

use super::{Driver, Happened, TURN_BYTES, TURN_MESSAGES, upstream};

/// What a tap may say in one turn, in bytes and messages. One that has more to say is heard again after a rest, so that
/// none can keep a worker busy; what it sends meanwhile waits in the kernel, and then at its own end.
const TAP_BYTES: usize = 32 << 10;
const TAP_MESSAGES: usize = 8;
const REST: Duration = Duration::from_millis(50);
/// Bytes that may wait to be written to a tap: the rest stays in its queue, which loses the oldest.
const ROOM: usize = 16 << 10;

impl Driver {
    pub(super) fn poll_taps(&mut self, cx: &mut Context<'_>) {
        if self.plan.taps.is_empty() || self.finished.is_some() {
            return;
        }
        let now = self.around.clock.now();
        self.session.serve_taps(now);
        self.drain(now);
        let mut index = 0;
        while let Some(upstream) = self.upstreams.get(index) {
            let (id, role) = (upstream.id, upstream.role);
            if role == UpstreamRole::Tap {
                self.poll_connection(id, cx);
                self.feed_tap(id, cx);
            }
            if self.upstreams.get(index).is_some_and(|upstream| upstream.id == id) {
                index += 1;
            }
        }
        // What taps had to say to clients.
        self.flush(cx);
    }

    fn feed_tap(&mut self, id: UpstreamId, cx: &mut Context<'_>) {
        let now = self.around.clock.now();
        while let Some(upstream) = self.upstreams.iter().find(|upstream| upstream.id == id)
            && upstream.has_room(ROOM)
            && let Some(audio) = self.session.next_for_tap(id, now)
        {
            self.send_to_agent(id, ToAgent::Audio(audio), now);
            self.drain(now);
        }
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
        if let Poll::Ready(Err(error)) = upstream.poll_flush(cx) {
            self.happened.push_back(Happened::Upstream(id, upstream::lost(error)));
            self.drain(now);
        }
    }

    /// How much an upstream may say in this turn, in bytes and messages; nothing while it rests.
    pub(super) fn turn_limits(&mut self, id: UpstreamId) -> Option<(usize, usize)> {
        let now = self.around.clock.now();
        let upstream = self.upstreams.iter_mut().find(|upstream| upstream.id == id)?;
        upstream.rests_until.take_if(|at| *at <= now);
        match upstream.role {
            UpstreamRole::Tap if upstream.rests_until.is_some() => None,
            UpstreamRole::Tap => Some((TAP_BYTES, TAP_MESSAGES)),
            UpstreamRole::Active | UpstreamRole::Standby => Some((TURN_BYTES, TURN_MESSAGES)),
        }
    }

    /// An upstream may have more to say than it was allowed in this turn.
    pub(super) fn hear_more_of(&mut self, id: UpstreamId) {
        let now = self.around.clock.now();
        match self.upstreams.iter_mut().find(|upstream| upstream.id == id && upstream.role == UpstreamRole::Tap) {
            Some(tap) => tap.rests_until = Some(now + REST),
            None => self.turn.again = true,
        }
    }

    pub(super) fn note_tap(&self, tap: usize, event: TapEvent) {
        let Some(planned) = self.plan.taps.get(tap) else { return };
        let agent = planned.rung.name();
        self.around.metrics.record_tap(agent, event);
        match event {
            TapEvent::Lost => tracing::warn!(%agent, "a tap was lost; it is dialled again after a pause"),
            TapEvent::Alert => tracing::info!(%agent, "a tap raised an alert"),
            TapEvent::Ready | TapEvent::Transcript | TapEvent::App => {}
        }
    }
}
