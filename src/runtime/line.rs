//! What a session's link travels on.

use std::task::{Context, Poll};

use bytes::Bytes;

use crate::agent::Wire;
use crate::dialect::Dialect;
use crate::ids::Seq;
use crate::message::{AudioIn, ToClient};
use crate::runtime::peer::Report;
use crate::runtime::peer::link::{Arrived, PeerLink};
use crate::runtime::quic::link::{Arrived as OnQuic, QuicLink};
use crate::runtime::websocket::{PushError, Received, SocketError, WebSocket};
use crate::time::Micros;

/// A WebSocket, a WebRTC peer, or a flow of a QUIC connection.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one for each session")]
pub enum Line {
    /// A WebSocket: audio and control messages in order.
    WebSocket(WebSocket),
    /// A WebRTC peer: RTP and a data channel.
    Peer(Box<PeerLink>),
    /// A flow of a QUIC or WebTransport connection.
    Quic(Box<QuicLink>),
}

/// What arrived on a line.
#[derive(Debug)]
pub enum Incoming {
    /// A frame, or the end.
    Wire(Wire),
    /// The answer to a ping.
    Pong(Bytes),
    /// An audio frame with its RTP header.
    Audio(AudioIn),
    /// Figures of RTCP.
    Report(Report),
    /// Something that means nothing here.
    Ignored,
    /// Nothing for the session.
    Nothing,
}

impl Incoming {
    /// Payload bytes, for the bound of one turn.
    pub fn size(&self) -> usize {
        match self {
            Incoming::Wire(Wire::Text(text)) => text.len(),
            Incoming::Wire(Wire::Binary(bytes)) | Incoming::Pong(bytes) => bytes.len(),
            Incoming::Wire(Wire::Close(_, reason)) => reason.len(),
            Incoming::Audio(audio) => audio.payload.len(),
            Incoming::Report(_) | Incoming::Ignored | Incoming::Nothing => 0,
        }
    }
}

impl Line {
    /// Whether pings tell what the client has taken; RTCP and QUIC know by themselves.
    pub fn has_pings(&self) -> bool {
        matches!(self, Line::WebSocket(_))
    }

    /// When to poll it though nothing has come; valid after it was pending.
    pub fn deadline(&self) -> Option<Micros> {
        match self {
            Line::WebSocket(_) => None,
            Line::Peer(peer) => Some(peer.deadline()),
            Line::Quic(link) => Some(link.deadline()),
        }
    }

    /// The next thing from the client.
    ///
    /// # Errors
    /// If the line is gone or the client broke its protocol.
    pub fn poll_receive(&mut self, now: Micros, cx: &mut Context<'_>) -> Poll<Result<Incoming, SocketError>> {
        match self {
            Line::WebSocket(socket) => socket.poll_receive(cx).map_ok(|received| match received {
                Received::Wire(wire) => Incoming::Wire(wire),
                Received::Pong(payload) => Incoming::Pong(payload),
                Received::Ping => Incoming::Nothing,
            }),
            Line::Peer(peer) => peer.poll_receive(now, cx).map_ok(|arrived| match arrived {
                Arrived::Wire(wire) => Incoming::Wire(wire),
                Arrived::Audio(audio) => Incoming::Audio(audio),
                Arrived::Report(report) => Incoming::Report(report),
                Arrived::Ignored => Incoming::Ignored,
            }),
            Line::Quic(link) => link.poll_receive(now, cx).map_ok(|arrived| match arrived {
                OnQuic::Wire(wire) => Incoming::Wire(wire),
                OnQuic::Audio(audio) => Incoming::Audio(audio),
                OnQuic::Report(report) => Incoming::Report(report),
                OnQuic::Ignored => Incoming::Ignored,
            }),
        }
    }

    /// Queues a message in the client's language; `None` if that has no word for it.
    pub fn try_push(
        &mut self,
        dialect: &mut dyn Dialect,
        seq: Option<Seq>,
        message: &ToClient,
    ) -> Option<Result<(), PushError>> {
        match (&mut *self, message) {
            (Line::Peer(peer), ToClient::Audio(audio)) => {
                peer.push_audio(audio);
                dialect.on_audio(audio);
                return Some(self.push_answers(dialect));
            }
            (Line::Quic(link), ToClient::Audio(audio)) => {
                link.push_audio(audio);
                return Some(Ok(()));
            }
            (Line::Quic(link), ToClient::Flush(_)) => link.discard_audio(),
            _ => {}
        }
        let first = dialect.encode(seq, message)?;
        Some(self.push_wire(first).and_then(|()| self.push_answers(dialect)))
    }

    /// Queues whatever else the client is told in its language.
    ///
    /// # Errors
    /// As for [`WebSocket::try_push`].
    pub fn push_answers(&mut self, dialect: &mut dyn Dialect) -> Result<(), PushError> {
        while let Some(wire) = dialect.take_wire() {
            self.push_wire(wire)?;
        }
        Ok(())
    }

    fn push_wire(&mut self, wire: Wire) -> Result<(), PushError> {
        match (self, wire) {
            (Line::WebSocket(socket), wire) => socket.try_push(wire),
            (Line::Peer(peer), Wire::Text(text)) => peer.push_text(text),
            (Line::Quic(link), Wire::Text(text)) => link.push_text(&text),
            (Line::Peer(_) | Line::Quic(_), _) => Ok(()),
        }
    }

    /// Queues a ping where there are pings.
    ///
    /// # Errors
    /// As for [`WebSocket::try_ping`].
    pub fn try_ping(&mut self, payload: Bytes) -> Result<(), PushError> {
        match self {
            Line::WebSocket(socket) => socket.try_ping(payload),
            Line::Peer(_) | Line::Quic(_) => Ok(()),
        }
    }

    /// Hands everything queued to the operating system.
    ///
    /// # Errors
    /// If the line is gone.
    pub fn poll_flush(&mut self, now: Micros, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        match self {
            Line::WebSocket(socket) => socket.poll_flush(cx),
            Line::Peer(peer) => peer.poll_flush(now, cx),
            Line::Quic(link) => link.poll_flush(cx),
        }
    }

    /// Sends what is queued and says goodbye; ends by itself within two seconds.
    pub async fn close(self, code: u16, reason: &str) {
        match self {
            Line::WebSocket(socket) => socket.close(code, reason).await,
            Line::Peer(peer) => peer.close().await,
            Line::Quic(link) => link.close(code).await,
        }
    }
}
