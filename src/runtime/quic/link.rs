//! One session's link on a QUIC or WebTransport connection: a control stream, and audio in datagrams or on a stream.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::carrier::{HalfEnd, Outlet, RecvHalf, SendHalf, Stream};
use crate::agent::Wire;
use crate::dialect::native::quic::{self as framing, Decoder, Frame, FramingError, StreamKind};
use crate::media::format::Format;
use crate::media::rtp::{self, Extender};
use crate::message::{AudioFormats, AudioIn, AudioOut, RtpMeta};
use crate::runtime::clock::Clock;
use crate::runtime::peer::Report;
use crate::runtime::websocket::{PushError, SocketError};
use crate::session::Carriage;
use crate::telemetry::{NodeQueue, Telemetry};
use crate::time::Micros;

/// Datagrams and streams waiting for a session at most: more than a second of audio.
pub const INBOX: usize = 64;
/// Audio that waits for an audio stream at most, in bytes: what the session hands ahead, and some more.
const AUDIO_BACKLOG: usize = 64 << 10;
/// Bytes of one read.
const READ_BYTES: usize = 4 << 10;
/// How often the path is looked at.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the last words may take to be acknowledged.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// What a connection hands to one of its sessions.
#[derive(Debug)]
pub enum Inbound {
    /// An RTP packet that came in a datagram.
    Packet {
        /// When it arrived.
        at: Micros,
        /// As it came.
        bytes: Bytes,
    },
    /// The client has opened an audio stream.
    AudioStream {
        /// The stream, behind its prelude.
        stream: Box<Stream>,
        /// What was read beyond the prelude.
        read: Bytes,
    },
}

/// What a link needs beside its streams.
#[derive(Debug)]
pub struct Parts {
    /// The control stream, behind its prelude.
    pub control: Stream,
    /// What was read beyond the prelude.
    pub read: Bytes,
    /// Sends its datagrams.
    pub outlet: Outlet,
    /// What the connection hands to it.
    pub inbound: mpsc::Receiver<Inbound>,
    /// The code that the peer closed the connection with, set before `inbound` ends.
    pub closed: Arc<OnceLock<u64>>,
    /// Codes that mean goodbye.
    pub goodbye: &'static [u64],
    /// The most bytes of control messages that wait.
    pub backlog: usize,
    /// The process's clock.
    pub clock: Clock,
    /// For counters.
    pub telemetry: Telemetry,
    /// Of the packets of this link; random.
    pub ssrc: u32,
}

/// What arrived on a link.
#[derive(Debug)]
pub enum Arrived {
    /// A control message, or the client's goodbye.
    Wire(Wire),
    /// An audio packet.
    Audio(AudioIn),
    /// Figures of the path.
    Report(Report),
    /// Something that means nothing here.
    Ignored,
}

/// A link over QUIC.
pub struct QuicLink {
    control: Stream,
    decoder: Decoder,
    /// Control frames that the connection has not taken yet.
    out: BytesMut,
    outlet: Outlet,
    inbound: mpsc::Receiver<Inbound>,
    /// Taken out of `inbound` and not looked at yet; at most [`INBOX`].
    early: VecDeque<Inbound>,
    audio: Option<AudioStream>,
    /// Audio frames that the audio stream has not taken yet, or that wait for one.
    audio_out: BytesMut,
    formats: AudioFormats,
    on_stream: bool,
    header: rtp::Header,
    source: Source,
    /// Whether audio is looked at before the control stream.
    audio_first: bool,
    control_ended: bool,
    report: Reporting,
    parts: Rest,
}

/// What stays as it was given.
struct Rest {
    closed: Arc<OnceLock<u64>>,
    goodbye: &'static [u64],
    backlog: usize,
    clock: Clock,
    telemetry: Telemetry,
}

struct AudioStream {
    send: Option<SendHalf>,
    recv: Option<RecvHalf>,
    decoder: Decoder,
}

/// The client's packets, in one order: another SSRC goes on where the last one ended.
#[derive(Debug, Default)]
struct Source {
    ssrc: Option<u32>,
    extender: Extender,
    offset: u64,
    highest: u64,
}

impl Source {
    fn place(&mut self, header: &rtp::Header) -> u64 {
        if self.ssrc.is_some_and(|ssrc| ssrc != header.ssrc) {
            self.extender = Extender::default();
            // Far ahead: what follows is a restarted sender.
            self.offset = self.highest + (1 << 16);
        }
        self.ssrc = Some(header.ssrc);
        let seq = self.extender.extend(header.seq) + self.offset;
        self.highest = self.highest.max(seq);
        seq
    }
}

/// What the path was like at the last report.
struct Reporting {
    /// When the next one is due.
    due: Micros,
    sent: u64,
    lost: u64,
}

impl std::fmt::Debug for QuicLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicLink").field("outlet", &self.outlet).field("on_stream", &self.on_stream).finish()
    }
}

impl QuicLink {
    /// A link whose `start` has not come.
    pub fn new(parts: Parts) -> QuicLink {
        let Parts { control, read, outlet, inbound, closed, goodbye, backlog, clock, telemetry, ssrc } = parts;
        let mut decoder = Decoder::new(StreamKind::Control);
        decoder.push(&read);
        let formats = crate::dialect::native::DEFAULT_AUDIO;
        QuicLink {
            control,
            decoder,
            out: BytesMut::new(),
            outlet,
            inbound,
            early: VecDeque::new(),
            audio: None,
            audio_out: BytesMut::new(),
            formats,
            on_stream: false,
            header: rtp::Header { marker: false, payload_type: 0, seq: 0, timestamp: 0, ssrc },
            source: Source::default(),
            audio_first: false,
            control_ended: false,
            report: Reporting { due: clock.now() + REPORT_EVERY, sent: 0, lost: 0 },
            parts: Rest { closed, goodbye, backlog, clock, telemetry },
        }
    }

    /// The formats are known; gives how audio is carried. On a stream if the client has opened one by now, or takes no
    /// datagrams.
    pub fn begin(&mut self, formats: AudioFormats) -> Carriage {
        self.formats = formats;
        self.header.payload_type = rtp::payload_type(&formats.downlink);
        while let Ok(inbound) = self.inbound.try_recv() {
            self.early.push_back(inbound);
        }
        self.on_stream = self.outlet.room().is_none()
            || self.early.iter().any(|inbound| matches!(inbound, Inbound::AudioStream { .. }));
        if self.on_stream { Carriage::Ordered } else { Carriage::Rtp }
    }

    /// The next control message, or the end; audio waits meanwhile.
    ///
    /// # Errors
    /// If the link is gone or the client broke the framing.
    pub fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrived, SocketError>> {
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.decoder.poll().map_err(violation)? {
                Some(Frame::Control(json)) => return Poll::Ready(Ok(Arrived::Wire(Wire::Text(json)))),
                Some(Frame::Audio(_)) => return Poll::Ready(Ok(Arrived::Ignored)),
                None if self.control_ended => return Poll::Pending,
                None => {}
            }
            match std::task::ready!(self.control.recv.poll_read(cx, &mut buffer)) {
                Ok(0) => {
                    self.control_ended = true;
                    self.decoder.finish().map_err(violation)?;
                    return Poll::Ready(Ok(goodbye()));
                }
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(HalfEnd::Code(code)) => return Poll::Ready(self.ended(Some(code))),
                // The connection tells why.
                Err(HalfEnd::Lost) => self.control_ended = true,
            }
        }
    }

    fn ended(&self, code: Option<u64>) -> Result<Arrived, SocketError> {
        match code {
            Some(code) if self.parts.goodbye.contains(&code) => Ok(goodbye()),
            Some(code) => Err(SocketError::Lost(format!("the client has left with code {code}"))),
            None => Err(SocketError::Lost("the connection has ended".into())),
        }
    }

    /// The next thing from the client.
    ///
    /// # Errors
    /// If the link is gone or the client broke the framing.
    pub fn poll_receive(&mut self, now: Micros, cx: &mut Context<'_>) -> Poll<Result<Arrived, SocketError>> {
        self.audio_first = !self.audio_first;
        let arrived = if self.audio_first {
            match self.poll_audio(cx) {
                Poll::Pending => self.poll_control(cx),
                ready => ready,
            }
        } else {
            match self.poll_control(cx) {
                Poll::Pending => self.poll_audio(cx),
                ready => ready,
            }
        };
        if arrived.is_pending() && self.report.due <= now {
            self.report.due = now + REPORT_EVERY;
            return Poll::Ready(Ok(Arrived::Report(self.report())));
        }
        arrived
    }

    /// When to call [`QuicLink::poll_receive`] though nothing has come.
    pub fn deadline(&self) -> Micros {
        self.report.due
    }

    fn report(&mut self) -> Report {
        let (sent, lost) = self.outlet.losses();
        let (newly_sent, newly_lost) = (sent - self.report.sent, lost - self.report.lost);
        (self.report.sent, self.report.lost) = (sent, lost);
        let share = (newly_sent > 0).then(|| (newly_lost as f32 / newly_sent as f32).min(1.0));
        Report { round_trip: Some(self.outlet.round_trip()), lost_by_peer: share, ..Report::default() }
    }

    fn poll_audio(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrived, SocketError>> {
        loop {
            let inbound = match self.early.pop_front() {
                Some(inbound) => Poll::Ready(Some(inbound)),
                None => self.inbound.poll_recv(cx),
            };
            match inbound {
                Poll::Ready(Some(Inbound::Packet { at, bytes })) => {
                    return Poll::Ready(Ok(match rtp::Packet::parse(&bytes) {
                        Ok(packet) => self.take_packet(packet, at),
                        Err(_) => Arrived::Ignored,
                    }));
                }
                Poll::Ready(Some(Inbound::AudioStream { stream, read })) => {
                    let Stream { send, recv } = *stream;
                    self.on_stream = true;
                    let mut decoder = Decoder::new(StreamKind::Audio);
                    decoder.push(&read);
                    self.audio = Some(AudioStream { send: Some(send), recv: Some(recv), decoder });
                }
                Poll::Ready(None) => return Poll::Ready(self.ended(self.parts.closed.get().copied())),
                Poll::Pending => break,
            }
        }
        self.poll_audio_stream(cx)
    }

    fn poll_audio_stream(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrived, SocketError>> {
        let mut buffer = [0; READ_BYTES];
        while let Some(audio) = &mut self.audio {
            match audio.decoder.poll().map_err(violation)? {
                Some(Frame::Audio(packet)) => {
                    let at = self.parts.clock.now();
                    return Poll::Ready(Ok(self.take_packet(packet, at)));
                }
                Some(Frame::Control(_)) => return Poll::Ready(Ok(Arrived::Ignored)),
                None => {}
            }
            let Some(recv) = &mut audio.recv else { return Poll::Pending };
            match std::task::ready!(recv.poll_read(cx, &mut buffer)) {
                Ok(0) => {
                    audio.decoder.finish().map_err(violation)?;
                    audio.recv = None;
                }
                Ok(count) => audio.decoder.push(&buffer[..count]),
                Err(_) => audio.recv = None,
            }
        }
        Poll::Pending
    }

    fn take_packet(&mut self, packet: rtp::Packet, at: Micros) -> Arrived {
        let header = packet.header;
        if header.payload_type != rtp::payload_type(&self.formats.uplink) {
            return Arrived::Ignored;
        }
        let seq = self.source.place(&header);
        let meta = RtpMeta { seq, timestamp: header.timestamp, marker: header.marker, level: None };
        Arrived::Audio(AudioIn { arrival: at, rtp: Some(meta), payload: packet.payload })
    }

    /// Sends an audio frame: its position is the RTP timestamp. What the path does not take is dropped and counted.
    pub fn push_audio(&mut self, audio: &AudioOut) {
        if self.on_stream {
            return self.push_on_stream(audio);
        }
        let format = self.formats.downlink;
        let room = self.outlet.room().unwrap_or(0);
        let len = audio.payload.len();
        if len <= room {
            return self.push_packet(audio.pos, audio.marker, &audio.payload);
        }
        let Some(piece) = piece_bytes(&format, len, room) else {
            return self.parts.telemetry.node().record_dropped(NodeQueue::QuicWrite);
        };
        let (mut pos, mut marker) = (audio.pos, audio.marker);
        for bytes in audio.payload.chunks(piece) {
            self.push_packet(pos, marker, bytes);
            let samples = bytes.len() / format.bytes_per_sample().unwrap_or(1);
            (pos, marker) = (pos.wrapping_add(samples as u32), false);
        }
    }

    fn push_packet(&mut self, timestamp: u32, marker: bool, payload: &[u8]) {
        let header = self.next_header(timestamp, marker);
        if !self.outlet.send(&header, payload) {
            self.parts.telemetry.node().record_dropped(NodeQueue::QuicWrite);
        }
    }

    fn push_on_stream(&mut self, audio: &AudioOut) {
        let size = audio.payload.len() + rtp::HEADER_BYTES + framing::MAX_OVERHEAD;
        if self.audio_out.len() + size > AUDIO_BACKLOG {
            return self.parts.telemetry.node().record_dropped(NodeQueue::QuicWrite);
        }
        let header = self.next_header(audio.pos, audio.marker);
        framing::write_audio(&mut self.audio_out, &header, &audio.payload);
    }

    fn next_header(&mut self, timestamp: u32, marker: bool) -> rtp::Header {
        let header = rtp::Header { timestamp, marker, ..self.header };
        self.header.seq = self.header.seq.wrapping_add(1);
        header
    }

    /// What was handed over and has not left is worth nothing any more: a stream that holds some is given up, and the
    /// client opens the next.
    pub fn discard_audio(&mut self) {
        if self.audio_out.is_empty() {
            return;
        }
        self.audio_out.clear();
        if let Some(mut send) = self.audio.as_mut().and_then(|audio| audio.send.take()) {
            send.reset(0);
        }
    }

    /// Queues a control message.
    ///
    /// # Errors
    /// If the client does not read.
    pub fn push_text(&mut self, text: &str) -> Result<(), PushError> {
        if self.out.len() + text.len() > self.parts.backlog {
            return Err(PushError::Full);
        }
        framing::write_control(&mut self.out, text);
        Ok(())
    }

    /// Hands everything queued to the connection.
    ///
    /// # Errors
    /// If the client does not want to hear more, or the connection is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        if let Some(audio) = &mut self.audio
            && let Some(send) = &mut audio.send
            && let Poll::Ready(Err(_)) = poll_write(send, &mut self.audio_out, cx)
        {
            // The client may open another one.
            audio.send = None;
            self.audio_out.clear();
        }
        poll_write(&mut self.control.send, &mut self.out, cx).map_err(|end| match end {
            HalfEnd::Code(code) => SocketError::Lost(format!("the client does not listen any more, code {code}")),
            HalfEnd::Lost => SocketError::Lost("the connection has ended".into()),
        })
    }

    /// Sends what is queued, ends the control stream and tells the client why with STOP_SENDING.
    pub async fn close(mut self, code: u16) {
        let goodbye = async {
            let flushed = std::future::poll_fn(|cx| poll_write(&mut self.control.send, &mut self.out, cx)).await;
            if !self.control_ended {
                self.control.recv.stop(code);
            }
            if flushed.is_ok() {
                self.control.send.finish().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_DEADLINE, goodbye).await;
        if let Some(AudioStream { send, recv, .. }) = &mut self.audio {
            if let Some(send) = send {
                send.reset(code);
            }
            if let Some(recv) = recv {
                recv.stop(code);
            }
        }
    }
}

/// Writes until nothing is left or nothing more is taken.
fn poll_write(send: &mut SendHalf, out: &mut BytesMut, cx: &mut Context<'_>) -> Poll<Result<(), HalfEnd>> {
    while !out.is_empty() {
        match std::task::ready!(send.poll_write(cx, out)) {
            Ok(count) => out.advance(count),
            Err(end) => return Poll::Ready(Err(end)),
        }
    }
    Poll::Ready(Ok(()))
}

/// Bytes of each packet that a frame of `len` bytes is cut into, whole samples in as few packets as possible: 20 ms that
/// do not fit become 10 ms. `None` if it cannot be cut.
fn piece_bytes(format: &Format, len: usize, room: usize) -> Option<usize> {
    let sample = format.bytes_per_sample()?;
    if room < sample {
        return None;
    }
    let pieces = len.div_ceil(room / sample * sample);
    Some((len / sample).div_ceil(pieces) * sample)
}

fn goodbye() -> Arrived {
    Arrived::Wire(Wire::Close(1000, String::new()))
}

fn violation(error: FramingError) -> SocketError {
    SocketError::Violation(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_a_datagram_does_not_hold_are_cut_at_samples() {
        let of = |rate| Format::pcm16(rate);
        assert_eq!(piece_bytes(&of(48_000), 1920, 1150), Some(960), "20 ms become 10 ms");
        assert_eq!(piece_bytes(&of(44_100), 1764, 1150), Some(882));
        assert_eq!(piece_bytes(&of(48_000), 1920, 500), Some(480));
        assert_eq!(piece_bytes(&Format::PCMU, 160, 100), Some(80));
        assert_eq!(piece_bytes(&Format::OPUS, 1275, 1150), None);
    }

    #[test]
    fn a_restarted_sender_is_far_ahead_of_the_old_one() {
        let mut source = Source::default();
        let header = |ssrc, seq| rtp::Header { marker: false, payload_type: 0, seq, timestamp: 0, ssrc };
        let first = source.place(&header(1, 65_535));
        assert_eq!(source.place(&header(1, 0)), first + 1);
        assert!(source.place(&header(2, 0)) > first + 3000);
    }
}
