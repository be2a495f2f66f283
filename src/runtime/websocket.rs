//! A WebSocket (RFC 6455) with bounded buffers that a driver polls: push, flush once, never wait.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::agent::Wire;
use crate::runtime::stream::Stream;

/// How long a socket that is being closed may take to send what is left and to take the peer's answer.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How much a peer may still send after it was told that the socket closes.
const CLOSE_DISCARD_BYTES: usize = 16 << 20;
/// What the library gathers before it writes without being told to flush.
const WRITE_BYTES: usize = 16 << 10;
/// What is kept free in the write buffer for the last words (an error and the close frame).
const LAST_WORDS_BYTES: usize = 80 << 10;

/// Bounds of one socket, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of one received message, and of each of its frames.
    pub message: usize,
    /// Of what is pushed and not yet taken by the operating system.
    pub backlog: usize,
    /// Of one read.
    pub read: usize,
}

impl Bounds {
    /// Towards clients: 64 KiB messages, 256 KiB waiting.
    pub const CLIENT: Bounds = Bounds { message: 64 << 10, backlog: 256 << 10, read: 4 << 10 };
    /// Towards agents, which send bursts: 256 KiB messages, 256 KiB waiting.
    pub const AGENT: Bounds = Bounds { message: 256 << 10, backlog: 256 << 10, read: 32 << 10 };

    /// The library's settings for these bounds; compression is never offered.
    pub fn config(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(self.read)
            // Everything that is pushed in a turn goes out in one write, when the turn ends.
            .write_buffer_size(WRITE_BYTES)
            .max_write_buffer_size(self.backlog + LAST_WORDS_BYTES)
            .max_message_size(Some(self.message))
            .max_frame_size(Some(self.message))
    }
}

/// What arrived.
#[derive(Debug)]
pub enum Received {
    /// A frame, or the peer's close frame (1005: without a code).
    Wire(Wire),
    /// The peer's answer to a ping.
    Pong(Bytes),
    /// A ping, answered already.
    Ping,
}

impl Received {
    /// Payload bytes, for the bound of one turn.
    pub fn len(&self) -> usize {
        match self {
            Received::Wire(Wire::Text(text)) => text.len(),
            Received::Wire(Wire::Binary(bytes)) | Received::Pong(bytes) => bytes.len(),
            Received::Wire(Wire::Close(_, reason)) => reason.len(),
            Received::Ping => 0,
        }
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a socket can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The connection ended or broke.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The peer broke the WebSocket protocol or a bound; it can still be told so.
    #[error("{0}")]
    Violation(String),
}

/// Why nothing more can be pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The peer does not read: the bound is reached.
    Full,
    /// The socket is closing or broken.
    Broken,
}

/// One WebSocket and what waits to be written to it.
#[derive(Debug)]
pub struct WebSocket {
    inner: WebSocketStream<Stream>,
    bounds: Bounds,
    /// Bytes pushed since the connection was made, as they count in [`Stream::written`].
    pushed: u64,
    unflushed: bool,
}

impl WebSocket {
    /// The server's side of a connection that was upgraded; `read` is what was read beyond the request.
    pub async fn accept(stream: Stream, read: Bytes, bounds: Bounds) -> WebSocket {
        let inner =
            WebSocketStream::from_partially_read(stream, read.into(), Role::Server, Some(bounds.config())).await;
        WebSocket::new(inner, bounds)
    }

    /// A socket after its handshake.
    pub fn new(inner: WebSocketStream<Stream>, bounds: Bounds) -> WebSocket {
        let pushed = inner.get_ref().written();
        WebSocket { inner, bounds, pushed, unflushed: false }
    }

    /// The next message.
    ///
    /// # Errors
    /// If the connection is gone or the peer broke the protocol; nothing more can be received then.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, SocketError>> {
        loop {
            let message = match std::task::ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                None => return Poll::Ready(Err(SocketError::Lost("closed".into()))),
                Some(Err(error)) => return Poll::Ready(Err(SocketError::from_library(error))),
                Some(Ok(message)) => message,
            };
            return Poll::Ready(Ok(match message {
                Message::Text(text) => Received::Wire(Wire::Text(text.as_str().to_owned())),
                Message::Binary(bytes) => Received::Wire(Wire::Binary(bytes)),
                Message::Pong(bytes) => Received::Pong(bytes),
                Message::Ping(_) => Received::Ping,
                Message::Close(frame) => {
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.as_str().to_owned()));
                    Received::Wire(Wire::Close(code, reason))
                }
                Message::Frame(_) => continue,
            }));
        }
    }

    /// Bytes pushed and not yet taken by the operating system.
    pub fn backlog(&self) -> usize {
        self.pushed.saturating_sub(self.inner.get_ref().written()) as usize
    }

    /// Queues one message behind what was queued before.
    ///
    /// # Errors
    /// If the bound is reached or the socket is closing; the message is dropped then.
    pub fn try_push(&mut self, wire: Wire) -> Result<(), PushError> {
        let message = match wire {
            Wire::Text(text) => Message::Text(text.into()),
            Wire::Binary(bytes) => Message::Binary(bytes),
            Wire::Close(code, reason) => return self.push(close_message(code, &reason)),
        };
        if self.backlog() + message.len() > self.bounds.backlog {
            return Err(PushError::Full);
        }
        self.push(message)
    }

    /// Queues a ping (RFC 6455 section 5.5.2); the peer's library answers with the same `payload`.
    ///
    /// # Errors
    /// As for [`WebSocket::try_push`].
    pub fn try_ping(&mut self, payload: Bytes) -> Result<(), PushError> {
        if self.backlog() + payload.len() > self.bounds.backlog {
            return Err(PushError::Full);
        }
        self.push(Message::Ping(payload))
    }

    fn push(&mut self, message: Message) -> Result<(), PushError> {
        // Headers are 2, 4 or 10 bytes, and a mask of 4 towards servers; an estimate that is a little high is mended
        // whenever everything was taken.
        let size = message.len() + 8;
        match Pin::new(&mut self.inner).start_send(message) {
            Ok(()) => {
                self.pushed += size as u64;
                self.unflushed = true;
                Ok(())
            }
            Err(Error::WriteBufferFull(_)) => Err(PushError::Full),
            Err(_) => Err(PushError::Broken),
        }
    }

    /// Hands everything pushed to the operating system; pending while the peer does not read.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let flushed = std::task::ready!(Pin::new(&mut self.inner).poll_flush(cx));
        self.unflushed = false;
        self.pushed = self.inner.get_ref().written();
        Poll::Ready(flushed.map_err(SocketError::from_library))
    }

    /// Sends what is queued and a close frame, then waits for the peer to read it: closing with unread input would
    /// reset the connection, and the peer would never see why. Ends by itself within two seconds.
    pub async fn close(mut self, code: u16, reason: &str) {
        let _ = self.push(close_message(code, reason));
        let _ = tokio::time::timeout(CLOSE_DEADLINE, self.finish()).await;
    }

    async fn finish(&mut self) {
        if std::future::poll_fn(|cx| self.poll_flush(cx)).await.is_err() {
            return;
        }
        let stream = self.inner.get_mut();
        if stream.shutdown().await.is_err() {
            return;
        }
        let (mut discarded, mut buffer) = (0, [0; 4096]);
        while discarded < CLOSE_DISCARD_BYTES {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => discarded += count,
            }
        }
    }
}

/// A close frame; the reason is cut to what fits (RFC 6455 section 5.5).
fn close_message(code: u16, reason: &str) -> Message {
    let code = if code == 1005 || code == 1006 { 1000 } else { code };
    let end = (0..=reason.len().min(123)).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
    Message::Close(Some(CloseFrame { code: code.into(), reason: reason[..end].into() }))
}

impl SocketError {
    fn from_library(error: Error) -> SocketError {
        match error {
            Error::Protocol(tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
                SocketError::Lost("the connection ended without a close frame".into())
            }
            Error::Capacity(error) => SocketError::Violation(error.to_string()),
            Error::Protocol(error) => SocketError::Violation(error.to_string()),
            Error::Utf8(error) => SocketError::Violation(format!("a text frame is not UTF-8: {error}")),
            error => SocketError::Lost(error.to_string()),
        }
    }
}
