//! A connection of either kind: streams and datagrams, whether they are QUIC's own or those of a WebTransport session.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::VarInt;

use crate::dialect::native::quic::{self as framing, Flow};
use crate::media::rtp;
use crate::session::Transport;

/// Where application error codes of WebTransport begin among those of HTTP/3 (draft-ietf-webtrans-http3 section 4.4).
const FIRST_CODE: u64 = 0x52e4_a40f_a8db;

/// An open connection. Clones are the same connection.
#[derive(Clone, Debug)]
pub enum Carrier {
    /// Raw QUIC.
    Quic(quinn::Connection),
    /// A WebTransport session, the only one of its HTTP/3 connection.
    WebTransport(Arc<wtransport::Connection>),
}

/// A connection has ended; the code that the peer closed it with, if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Closed(pub Option<u64>);

impl Carrier {
    /// The next bidirectional stream of the peer.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn accept(&self) -> Result<Stream, Closed> {
        match self {
            Carrier::Quic(connection) => match connection.accept_bi().await {
                Ok((send, recv)) => Ok(Stream { send: SendHalf::Quic(send), recv: RecvHalf::Quic(recv) }),
                Err(error) => Err(closed(&error)),
            },
            Carrier::WebTransport(connection) => match connection.accept_bi().await {
                Ok((send, recv)) => {
                    Ok(Stream { send: SendHalf::WebTransport(send), recv: RecvHalf::WebTransport(recv) })
                }
                Err(error) => Err(closed_web(&error)),
            },
        }
    }

    /// Opens a bidirectional stream.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn open(&self) -> Result<Stream, Closed> {
        match self {
            Carrier::Quic(connection) => match connection.open_bi().await {
                Ok((send, recv)) => Ok(Stream { send: SendHalf::Quic(send), recv: RecvHalf::Quic(recv) }),
                Err(error) => Err(closed(&error)),
            },
            Carrier::WebTransport(connection) => {
                let opening = connection.open_bi().await.map_err(|error| closed_web(&error))?;
                let (send, recv) = opening.await.map_err(|_| Closed(None))?;
                Ok(Stream { send: SendHalf::WebTransport(send), recv: RecvHalf::WebTransport(recv) })
            }
        }
    }

    /// The next datagram of the peer.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn datagram(&self) -> Result<Bytes, Closed> {
        match self {
            Carrier::Quic(connection) => connection.read_datagram().await.map_err(|error| closed(&error)),
            Carrier::WebTransport(connection) => match connection.receive_datagram().await {
                Ok(datagram) => Ok(datagram.payload()),
                Err(error) => Err(closed_web(&error)),
            },
        }
    }

    /// By which audio of a flow leaves.
    pub fn outlet(&self, flow: Flow) -> Outlet {
        let session = match self {
            Carrier::Quic(_) => None,
            // A quarter of the stream id that opened the session (RFC 9297 section 2.1).
            Carrier::WebTransport(connection) => Some(connection.session_id().into_u64() / 4),
        };
        Outlet { connection: self.quic().clone(), session, flow }
    }

    /// Ends the connection and all that is on it.
    pub fn close(&self, code: u16, reason: &str) {
        self.quic().close(u32::from(code).into(), reason.as_bytes());
    }

    /// Where the peer is now.
    pub fn remote_address(&self) -> SocketAddr {
        self.quic().remote_address()
    }

    /// Which kind it is.
    pub fn transport(&self) -> Transport {
        match self {
            Carrier::Quic(_) => Transport::Quic,
            Carrier::WebTransport(_) => Transport::Webtransport,
        }
    }

    fn quic(&self) -> &quinn::Connection {
        match self {
            Carrier::Quic(connection) => connection,
            Carrier::WebTransport(connection) => connection.quic_connection(),
        }
    }
}

fn closed(error: &quinn::ConnectionError) -> Closed {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => Closed(Some(close.error_code.into_inner())),
        _ => Closed(None),
    }
}

fn closed_web(error: &wtransport::error::ConnectionError) -> Closed {
    match error {
        wtransport::error::ConnectionError::ApplicationClosed(close) => Closed(Some(close.code().into_inner())),
        _ => Closed(None),
    }
}

/// Sends the datagrams of one flow.
#[derive(Clone, Debug)]
pub struct Outlet {
    connection: quinn::Connection,
    session: Option<u64>,
    flow: Flow,
}

impl Outlet {
    /// The most bytes of coded audio that a datagram holds now; `None` if the peer takes no datagrams. It changes with
    /// the path.
    pub fn room(&self) -> Option<usize> {
        self.connection.max_datagram_size()?.checked_sub(self.overhead()).filter(|&room| room > 0)
    }

    fn overhead(&self) -> usize {
        self.session.map_or(0, framing::varint_len) + framing::datagram_overhead(self.flow)
    }

    /// Sends one packet at once, or not at all; whether it did.
    pub fn send(&self, header: &rtp::Header, payload: &[u8]) -> bool {
        let size = self.overhead() + payload.len();
        // Else the library would throw away an older one, of another session.
        if self.connection.datagram_send_buffer_space() < size {
            return false;
        }
        let mut out = BytesMut::with_capacity(size);
        if let Some(session) = self.session {
            framing::write_varint(&mut out, session);
        }
        framing::write_datagram(&mut out, self.flow, header, payload);
        self.connection.send_datagram(out.freeze()).is_ok()
    }

    /// The smoothed round trip of the path.
    pub fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    /// Packets sent, and of these lost, since the connection was made.
    pub fn losses(&self) -> (u64, u64) {
        let path = self.connection.stats().path;
        (path.sent_packets, path.lost_packets)
    }
}

/// A bidirectional stream.
#[derive(Debug)]
pub struct Stream {
    /// Towards the peer.
    pub send: SendHalf,
    /// From the peer.
    pub recv: RecvHalf,
}

/// The half of a stream that we write.
#[derive(Debug)]
pub enum SendHalf {
    /// Raw QUIC.
    Quic(quinn::SendStream),
    /// WebTransport.
    WebTransport(wtransport::SendStream),
}

/// The half of a stream that we read.
#[derive(Debug)]
pub enum RecvHalf {
    /// Raw QUIC.
    Quic(quinn::RecvStream),
    /// WebTransport.
    WebTransport(wtransport::RecvStream),
}

/// Why a half cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfEnd {
    /// The peer has reset it, or asked to stop, with this code.
    Code(u64),
    /// The connection has ended.
    Lost,
}

impl SendHalf {
    fn quic(&mut self) -> (&mut quinn::SendStream, bool) {
        match self {
            SendHalf::Quic(stream) => (stream, false),
            SendHalf::WebTransport(stream) => (stream.quic_stream_mut(), true),
        }
    }

    /// Writes as much as is taken now.
    ///
    /// # Errors
    /// If nothing can be written any more.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, HalfEnd>> {
        let (stream, web) = self.quic();
        Pin::new(stream).poll_write(cx, bytes).map_err(|error| match error {
            quinn::WriteError::Stopped(code) => HalfEnd::Code(from_wire(code, web)),
            _ => HalfEnd::Lost,
        })
    }

    /// Says that nothing more comes, and waits until the peer has everything, or does not want it.
    pub async fn finish(&mut self) {
        let (stream, _) = self.quic();
        if stream.finish().is_ok() {
            let _ = stream.stopped().await;
        }
    }

    /// Throws away what is on its way.
    pub fn reset(&mut self, code: u16) {
        let (stream, web) = self.quic();
        let _ = stream.reset(to_wire(code, web));
    }
}

impl RecvHalf {
    fn quic(&mut self) -> (&mut quinn::RecvStream, bool) {
        match self {
            RecvHalf::Quic(stream) => (stream, false),
            RecvHalf::WebTransport(stream) => (stream.quic_stream_mut(), true),
        }
    }

    /// Reads what there is; 0 bytes mean that nothing more comes.
    ///
    /// # Errors
    /// If nothing can be read any more.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, HalfEnd>> {
        let (stream, web) = self.quic();
        stream.poll_read(cx, buffer).map_err(|error| match error {
            quinn::ReadError::Reset(code) => HalfEnd::Code(from_wire(code, web)),
            _ => HalfEnd::Lost,
        })
    }

    /// Tells the peer that nothing more is read.
    pub fn stop(&mut self, code: u16) {
        let (stream, web) = self.quic();
        let _ = stream.stop(to_wire(code, web));
    }
}

fn to_wire(code: u16, web: bool) -> VarInt {
    let code = u64::from(code);
    // Every 31st is reserved for greasing.
    let mapped = if web { FIRST_CODE + code + code / 0x1e } else { code };
    VarInt::from_u64(mapped).unwrap_or(VarInt::MAX)
}

fn from_wire(code: VarInt, web: bool) -> u64 {
    let code = code.into_inner();
    match code.checked_sub(FIRST_CODE) {
        Some(shifted) if web => shifted - shifted / 0x1f,
        _ => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_mapped_as_http3_reserves_them() {
        for code in [0, 1, 29, 30, 31, 1000, 1012, 4400, 4500, u16::MAX] {
            assert_eq!(from_wire(to_wire(code, true), true), u64::from(code));
            assert_eq!(to_wire(code, false).into_inner(), u64::from(code));
        }
        assert_eq!(to_wire(0x1d, true).into_inner(), FIRST_CODE + 0x1d);
        assert_eq!(to_wire(0x1e, true).into_inner(), FIRST_CODE + 0x1f, "0x21 * N + 0x21 is skipped");
    }
}
