//! What a session's agent is reached over.

use std::task::{Context, Poll};

use super::quic::QuicSession;
use crate::agent::Wire;
use crate::runtime::websocket::{PushError, Received, SocketError, WebSocket};

/// Datagrams that found no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// On their way from the agent.
    pub read: u64,
    /// On their way to it.
    pub written: u64,
}

/// A WebSocket of its own, or a session on a shared QUIC connection.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one per connection to an agent")]
pub enum Socket {
    /// RFC 6455.
    WebSocket(WebSocket),
    /// Control messages on a stream, RTP packets in datagrams.
    Quic(QuicSession),
}

impl Socket {
    /// The next message.
    ///
    /// # Errors
    /// If the connection is gone or the peer broke the protocol; nothing more can be received then.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, SocketError>> {
        match self {
            Socket::WebSocket(socket) => socket.poll_receive(cx),
            Socket::Quic(session) => session.poll_receive(cx).map_ok(Received::Wire),
        }
    }

    /// Queues one message.
    ///
    /// # Errors
    /// If the bound is reached or the socket is closing; the message is dropped then.
    pub fn try_push(&mut self, wire: Wire) -> Result<(), PushError> {
        match self {
            Socket::WebSocket(socket) => socket.try_push(wire),
            Socket::Quic(session) => session.try_push(wire),
        }
    }

    /// Bytes queued and not yet taken by the operating system; none where what does not fit is dropped.
    pub fn backlog(&self) -> usize {
        match self {
            Socket::WebSocket(socket) => socket.backlog(),
            Socket::Quic(_) => 0,
        }
    }

    /// Hands everything queued over; pending while the peer does not read.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        match self {
            Socket::WebSocket(socket) => socket.poll_flush(cx),
            Socket::Quic(session) => session.poll_flush(cx),
        }
    }

    /// What was dropped since the last call.
    pub fn take_dropped(&mut self) -> Dropped {
        match self {
            Socket::WebSocket(_) => Dropped::default(),
            Socket::Quic(session) => session.take_dropped(),
        }
    }

    /// Sends what is queued and says goodbye; ends by itself within two seconds.
    pub async fn close(self, code: u16, reason: &str) {
        match self {
            Socket::WebSocket(socket) => socket.close(code, reason).await,
            Socket::Quic(session) => session.close().await,
        }
    }
}
