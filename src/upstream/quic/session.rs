//! One session on a connection: its control stream, its datagrams, and a stream for audio that no datagram holds.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};

use super::connection::Place;
use crate::agent::Wire;
use crate::dialect::native::quic::{
    Decoder, Frame, FramingError, MAX_OVERHEAD, Prelude, StreamKind, varint_len, write_control, write_varint,
};
use crate::media::rtp;
use crate::runtime::websocket::{PushError, SocketError};
use crate::upstream::socket::Dropped;

/// What waits to be written to a stream at most, in bytes.
const BACKLOG: usize = 256 << 10;
/// Bytes of one read.
const READ: usize = 4 << 10;
/// How long the last words may take to arrive.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// The code of a hang-up.
const HANG_UP: VarInt = VarInt::from_u32(1000);

/// A session with an agent, as the driver sees it: text messages are control messages, binary ones RTP packets.
#[derive(Debug)]
pub struct QuicSession {
    place: Place,
    control: Half,
    /// Where audio goes that no datagram holds.
    audio: Audio,
    ended: bool,
    /// Packets that the connection had no room for.
    unsent: u64,
}

#[derive(Debug)]
enum Audio {
    Datagrams,
    Opening,
    Stream(Half),
}

/// A stream with what was not written and not understood yet.
#[derive(Debug)]
struct Half {
    send: SendStream,
    receive: RecvStream,
    decoder: Decoder,
    out: BytesMut,
    finished: bool,
}

impl Half {
    fn new(kind: StreamKind, place: &Place, send: SendStream, receive: RecvStream) -> Half {
        let mut out = BytesMut::with_capacity(READ);
        Prelude { kind, flow: place.flow }.write(&mut out);
        Half { send, receive, decoder: Decoder::new(kind), out, finished: false }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while !self.out.is_empty() {
            let written = std::task::ready!(Pin::new(&mut self.send).poll_write(cx, &self.out))?;
            let _ = self.out.split_to(written);
        }
        Poll::Ready(Ok(()))
    }

    /// The next frame; `None` when the agent has ended its half.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Broken>> {
        loop {
            if let Some(frame) = self.decoder.poll().map_err(Broken::Framing)? {
                return Poll::Ready(Ok(Some(frame)));
            }
            if self.finished {
                return Poll::Pending;
            }
            let mut buffer = [0; READ];
            let read = std::task::ready!(self.receive.poll_read(cx, &mut buffer)).map_err(Broken::Read)?;
            if read == 0 {
                self.finished = true;
                return Poll::Ready(Ok(None));
            }
            self.decoder.push(&buffer[..read]);
        }
    }
}

enum Broken {
    Framing(FramingError),
    Read(ReadError),
}

impl QuicSession {
    pub(super) fn new(place: Place, send: SendStream, receive: RecvStream) -> QuicSession {
        let control = Half::new(StreamKind::Control, &place, send, receive);
        let datagrams = place.shared.connection.max_datagram_size().is_some();
        let audio = if datagrams { Audio::Datagrams } else { Audio::Opening };
        QuicSession { place, control, audio, ended: false, unsent: 0 }
    }

    /// The next message.
    ///
    /// # Errors
    /// If the connection is gone or the agent broke the protocol; nothing more can be received then.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wire, SocketError>> {
        // What is said of audio stands before it.
        match self.control.poll_frame(cx) {
            Poll::Ready(Ok(Some(Frame::Control(text)))) => return Poll::Ready(Ok(Wire::Text(text))),
            Poll::Ready(Ok(Some(Frame::Audio(_)))) | Poll::Pending => {}
            Poll::Ready(Ok(None)) => return Poll::Ready(self.end(cx)),
            Poll::Ready(Err(broken)) => return Poll::Ready(self.broken(broken)),
        }
        if let Audio::Stream(half) = &mut self.audio {
            match half.poll_frame(cx) {
                Poll::Ready(Ok(Some(Frame::Audio(packet)))) => return Poll::Ready(Ok(Wire::Binary(to_bytes(&packet)))),
                // The agent throws away what was on its way; the next stream brings what is new.
                Poll::Ready(Ok(None)) | Poll::Ready(Err(Broken::Read(ReadError::Reset(_)))) => {
                    self.audio = Audio::Opening;
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(self.broken(broken)),
                Poll::Ready(Ok(Some(Frame::Control(_)))) | Poll::Pending => {}
            }
        }
        self.place.inbox.poll_pop(cx).map(|packet| Ok(Wire::Binary(packet)))
    }

    /// The agent has ended its half of the control stream: the session is over.
    fn end(&mut self, cx: &mut Context<'_>) -> Result<Wire, SocketError> {
        if std::mem::replace(&mut self.ended, true) {
            return Err(SocketError::Lost("the agent has ended the session".into()));
        }
        let stopped = std::pin::pin!(self.control.send.stopped());
        let code = match stopped.poll(cx) {
            Poll::Ready(Ok(Some(code))) => u16::try_from(code.into_inner()).unwrap_or(1000),
            _ => 1000,
        };
        Ok(Wire::Close(code, String::new()))
    }

    fn broken(&mut self, broken: Broken) -> Result<Wire, SocketError> {
        match broken {
            Broken::Framing(error) => Err(SocketError::Violation(error.to_string())),
            Broken::Read(ReadError::Reset(code)) if !self.ended => {
                self.ended = true;
                Ok(Wire::Close(u16::try_from(code.into_inner()).unwrap_or(1000), String::new()))
            }
            Broken::Read(ReadError::ConnectionLost(error)) => Err(lost(&error)),
            Broken::Read(error) => Err(SocketError::Lost(error.to_string())),
        }
    }

    /// Queues a control message, or sends an RTP packet at once.
    ///
    /// # Errors
    /// If the bound is reached; the message is dropped then.
    pub fn try_push(&mut self, wire: Wire) -> Result<(), PushError> {
        match wire {
            Wire::Text(text) => {
                if self.control.out.len() + text.len() + MAX_OVERHEAD > BACKLOG {
                    return Err(PushError::Full);
                }
                write_control(&mut self.control.out, &text);
                Ok(())
            }
            Wire::Binary(packet) => self.push_packet(&packet),
            Wire::Close(..) => Ok(()),
        }
    }

    fn push_packet(&mut self, packet: &Bytes) -> Result<(), PushError> {
        if let Audio::Stream(half) = &mut self.audio {
            if half.out.len() + packet.len() + MAX_OVERHEAD > BACKLOG {
                return Err(PushError::Full);
            }
            write_varint(&mut half.out, packet.len() as u64);
            half.out.put_slice(packet);
            return Ok(());
        }
        let (connection, flow) = (&self.place.shared.connection, self.place.flow.number());
        let size = varint_len(flow) + packet.len();
        match connection.max_datagram_size() {
            Some(room) if size <= room => {
                // Else the library would throw away an older one, of another session.
                if connection.datagram_send_buffer_space() < size {
                    self.unsent += 1;
                    return Ok(());
                }
                let mut datagram = BytesMut::with_capacity(size);
                write_varint(&mut datagram, flow);
                datagram.put_slice(packet);
                // If the connection is lost, its streams tell.
                let _ = connection.send_datagram(datagram.freeze());
            }
            // This one is lost, as a datagram may be; those after it go by the stream.
            _ => self.audio = Audio::Opening,
        }
        Ok(())
    }

    /// Hands over what is queued; pending while the agent does not read.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        if matches!(self.audio, Audio::Opening) && !self.ended {
            self.poll_open_audio(cx);
        }
        let written = self.control.poll_write(cx);
        if let Audio::Stream(half) = &mut self.audio
            && let Poll::Ready(Err(WriteError::Stopped(_))) = half.poll_write(cx)
        {
            self.audio = Audio::Opening;
        }
        written.map(|written| match written {
            // The agent's last words say why.
            Ok(()) | Err(WriteError::Stopped(_)) => Ok(()),
            Err(WriteError::ConnectionLost(error)) => Err(lost(&error)),
            Err(error) => Err(SocketError::Lost(error.to_string())),
        })
    }

    fn poll_open_audio(&mut self, cx: &mut Context<'_>) {
        let opening = std::pin::pin!(self.place.shared.connection.open_bi());
        if let Poll::Ready(Ok((send, receive))) = opening.poll(cx) {
            self.audio = Audio::Stream(Half::new(StreamKind::Audio, &self.place, send, receive));
        }
    }

    /// Packets that found no room since the last call.
    pub fn take_dropped(&mut self) -> Dropped {
        Dropped { read: self.place.inbox.take_dropped(), written: std::mem::take(&mut self.unsent) }
    }

    /// Sends what is queued and ends the control stream; ends by itself within two seconds.
    pub async fn close(mut self) {
        let ending = async {
            if std::future::poll_fn(|cx| self.control.poll_write(cx)).await.is_ok()
                && self.control.send.finish().is_ok()
            {
                let _ = self.control.send.stopped().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_DEADLINE, ending).await;
        let _ = self.control.receive.stop(HANG_UP);
    }
}

fn to_bytes(packet: &rtp::Packet) -> Bytes {
    let mut bytes = BytesMut::with_capacity(rtp::HEADER_BYTES + packet.payload.len());
    packet.header.write(&mut bytes);
    bytes.put_slice(&packet.payload);
    bytes.freeze()
}

fn lost(error: &ConnectionError) -> SocketError {
    SocketError::Lost(format!("the connection to the agent is lost: {error}"))
}
