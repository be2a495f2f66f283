//! The client's side of a driver.

use std::task::{Context, Poll};

use crate::agent::Wire;
use crate::dialect::{Dialect, Heard};
use crate::ids::{LinkId, Seq};
use crate::message::{Error, ErrorCode, FromClient, ToClient};
use crate::runtime::line::{Incoming, Line};
use crate::runtime::peer::Report;
use crate::runtime::registry::NewLink;
use crate::runtime::websocket::{PushError, SocketError};
use crate::session::{Direction, LinkChange, Measure};
use crate::telemetry::NodeQueue;
use crate::time::Micros;

use super::acks::Acks;
use super::{Driver, Happened, Surroundings, TURN_BYTES, TURN_MESSAGES};

/// One link of the session.
pub(super) struct Link {
    pub(super) id: LinkId,
    /// Where there are pings.
    pub(super) acks: Option<Acks>,
    /// Audio frames that are pushed and not flushed: from when their added latency counts.
    pub(super) unflushed: Vec<Micros>,
    line: Line,
    dialect: Box<dyn Dialect>,
    admission: Box<dyn Send>,
}

impl Link {
    pub(super) fn new(id: LinkId, new: NewLink, around: &Surroundings, now: Micros) -> Link {
        Link {
            id,
            acks: new.line.has_pings().then(|| Acks::new(around.ping, around.pong, now)),
            unflushed: Vec::with_capacity(16),
            line: new.line,
            dialect: new.dialect,
            admission: new.admission,
        }
    }

    /// When it wants to be polled though nothing has come.
    pub(super) fn deadline(&self) -> Option<Micros> {
        let acks = self.acks.as_ref().and_then(Acks::next);
        acks.into_iter().chain(self.line.deadline()).min()
    }

    pub(super) fn poll_flush(&mut self, now: Micros, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.line.poll_flush(now, cx)
    }

    /// Tells the client why, and gives its admission back when it knows.
    pub(super) async fn close(self, code: u16, reason: &'static str) {
        let admission = self.admission;
        self.line.close(code, reason).await;
        drop(admission);
    }
}

impl Driver {
    pub(super) fn poll_links(&mut self, cx: &mut Context<'_>) {
        let mut index = 0;
        while let Some(link) = self.links.get(index) {
            let id = link.id;
            self.poll_link(id, cx);
            if self.links.get(index).is_some_and(|link| link.id == id) {
                index += 1;
            }
        }
    }

    fn poll_link(&mut self, id: LinkId, cx: &mut Context<'_>) {
        let (mut bytes, mut messages) = (0, 0);
        let mut now = self.turn.at;
        while bytes < TURN_BYTES && messages < TURN_MESSAGES {
            // What a client says may end its own link, or the session.
            let Some(link) = self.links.iter_mut().find(|link| link.id == id) else { return };
            if self.finished.is_some() {
                return;
            }
            match link.line.poll_receive(now, cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(received)) => {
                    bytes += received.size();
                    messages += 1;
                    self.session.on_bytes(received.size(), now);
                    self.on_received(id, received, now);
                    now = self.around.clock.now();
                }
                Poll::Ready(Err(error)) => {
                    self.lose_link(id, error, now);
                    return;
                }
            }
        }
        self.turn.again = true;
    }

    fn on_received(&mut self, id: LinkId, received: Incoming, now: Micros) {
        let Some(link) = self.links.iter_mut().find(|link| link.id == id) else { return };
        match received {
            Incoming::Nothing => {}
            Incoming::Ignored => self.around.metrics.record(&Measure::Ignored),
            Incoming::Audio(audio) => {
                self.session.on_client(id, FromClient::Audio(audio), now);
                self.drain(now);
            }
            Incoming::Report(report) => self.on_report(id, report, now),
            Incoming::Pong(payload) => {
                let Some(ack) = link.acks.as_mut().and_then(|acks| acks.on_pong(&payload, now)) else { return };
                self.session.on_link(id, LinkChange::RoundTrip(ack.round_trip), now);
                self.drain(now);
                self.session.on_link(id, LinkChange::Acked { pos: ack.pos }, now);
                self.drain(now);
            }
            Incoming::Wire(wire) => {
                let closed = matches!(wire, Wire::Close(..));
                let heard = link.dialect.handle_wire(wire, now);
                let answered = link.line.push_answers(link.dialect.as_mut());
                for _ in 0..link.dialect.take_ignored_fields() {
                    self.around.metrics.record(&Measure::Ignored);
                }
                if let Some(heard) = heard {
                    self.on_heard(id, heard, now);
                }
                self.hear_rest(id, now);
                self.check_pushed(id, answered);
                if closed && self.finished.is_none() {
                    self.end_link(id, 1000, "", now);
                }
            }
        }
    }

    /// What else the last frame of the client means.
    pub(super) fn hear_rest(&mut self, id: LinkId, now: Micros) {
        while let Some(link) = self.links.iter_mut().find(|link| link.id == id)
            && self.finished.is_none()
            && let Some(heard) = link.dialect.take_heard()
        {
            self.on_heard(id, heard, now);
        }
    }

    /// RTCP has told how the link does.
    fn on_report(&mut self, id: LinkId, report: Report, now: Micros) {
        if let Some(jitter) = report.jitter {
            self.around.metrics.record(&Measure::Jitter { direction: Direction::Up, jitter });
        }
        if let Some(jitter) = report.peer_jitter {
            self.around.metrics.record(&Measure::Jitter { direction: Direction::Down, jitter });
        }
        if let Some(round_trip) = report.round_trip {
            self.around.metrics.record(&Measure::RoundTrip(round_trip));
            self.session.on_link(id, LinkChange::RoundTrip(round_trip), now);
            self.drain(now);
        }
        if let Some(share) = report.lost_by_peer {
            self.session.on_link(id, LinkChange::Loss { share }, now);
            self.drain(now);
        }
    }

    fn on_heard(&mut self, id: LinkId, heard: Heard, now: Micros) {
        match heard {
            Heard::Message(message) => {
                self.session.on_client(id, message, now);
                self.drain(now);
            }
            Heard::Unknown(_) => self.around.metrics.record(&Measure::Ignored),
            Heard::Start(_) => {
                let error = Error {
                    field: Some("type".into()),
                    ..Error::new(ErrorCode::BadMessage, "this link has started already")
                };
                self.on_heard(id, Heard::Malformed { error, fatal: false }, now);
            }
            Heard::Malformed { error, fatal } => {
                let code = error.code;
                self.session.on_refused(id, error, now);
                self.drain(now);
                if fatal {
                    self.end_link(id, code.close_code(), "the client's message is not understood", now);
                }
            }
        }
    }

    /// The link broke, or the client broke the WebSocket protocol and is told so.
    fn lose_link(&mut self, id: LinkId, error: SocketError, now: Micros) {
        match error {
            SocketError::Lost(_) => {
                drop(self.take_link(id));
                self.drain(now);
            }
            SocketError::Violation(message) => {
                let code = ErrorCode::BadMessage;
                self.session.on_refused(id, Error::new(code, message), now);
                self.drain(now);
                self.end_link(id, code.close_code(), "the WebSocket protocol or a bound was broken", now);
            }
        }
    }

    /// Closes a link that the session did not want closed.
    fn end_link(&mut self, id: LinkId, code: u16, reason: &'static str, now: Micros) {
        if let Some(link) = self.take_link(id) {
            self.closing.spawn(link.close(code, reason));
            self.drain(now);
        }
    }

    /// Takes away a link that is lost; the session is told at the next drain.
    pub(super) fn take_link(&mut self, id: LinkId) -> Option<Link> {
        let index = self.links.iter().position(|link| link.id == id)?;
        let link = self.links.remove(index);
        self.happened.push_back(if link.dialect.can_resume() { Happened::LinkLost(id) } else { Happened::Gone });
        Some(link)
    }

    /// Closes a link that the session no longer wants.
    pub(super) fn detach(&mut self, id: LinkId, code: u16, reason: &'static str) {
        if let Some(index) = self.links.iter().position(|link| link.id == id) {
            let link = self.links.remove(index);
            self.closing.spawn(link.close(code, reason));
        }
    }

    pub(super) fn send_to_client(&mut self, id: LinkId, seq: Option<Seq>, message: &ToClient) {
        let Some(link) = self.links.iter_mut().find(|link| link.id == id) else { return };
        let Some(mut pushed) = link.line.try_push(link.dialect.as_mut(), seq, message) else { return };
        if let ToClient::Audio(audio) = message
            && pushed.is_ok()
        {
            if let Some(acks) = &mut link.acks {
                acks.on_audio(audio.pos.wrapping_add(audio.ticks));
            }
            link.unflushed.push(self.turn.counts_from(audio.ready));
        }
        if pushed.is_ok()
            && let Some(ping) = link.acks.as_mut().and_then(|acks| acks.take_ping_along(self.turn.at))
        {
            pushed = link.line.try_ping(ping);
        }
        self.check_pushed(id, pushed);
    }

    /// Gives a link up that takes nothing more.
    fn check_pushed(&mut self, id: LinkId, pushed: Result<(), PushError>) {
        match pushed {
            Ok(()) => {}
            Err(PushError::Broken) => {
                // If the client closes, its close frame still has to be answered.
                if let Some(link) = self.take_link(id) {
                    self.closing.spawn(link.close(1000, ""));
                }
            }
            Err(PushError::Full) => {
                // It does not read: the session may go on over another link.
                self.drop_counted(NodeQueue::ClientWrite);
                if let Some(link) = self.take_link(id) {
                    self.closing.spawn(link.close(1013, "the client does not read"));
                }
            }
        }
    }

    /// Sends the pings that are due, and gives up links that answered none; whether there was such a link.
    pub(super) fn keep_alive(&mut self, now: Micros) -> bool {
        let mut lost = None;
        for link in &mut self.links {
            let Some(acks) = &mut link.acks else { continue };
            if acks.is_lost(now) {
                lost = Some(link.id);
            } else if let Some(ping) = acks.take_ping(now) {
                // If it cannot be pushed, it is never answered.
                let _ = link.line.try_ping(ping);
            }
        }
        if let Some(link) = lost.and_then(|id| self.take_link(id)) {
            self.closing.spawn(link.close(4408, "no answer to a ping"));
        }
        lost.is_some()
    }
}
