//! The framing of `antiphon.v1` on QUIC and WebTransport: streams, control messages, datagrams. Sans-IO, for both sides.
//!
//! Integers are variable-length (RFC 9000 section 16). Only the client opens streams, all bidirectional. Its half of a
//! stream begins with a [`Prelude`]; the relay's half has none. Then come frames, each with its length in front: JSON
//! on a control stream, RTP packets on an audio stream. A datagram is a flow and one RTP packet.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::dialect::native::codec::MAX_CONTROL_BYTES;
use crate::media::rtp;

/// The application protocol (RFC 7301) of raw QUIC.
pub const ALPN: &[u8] = b"antiphon/1";
/// The longest RTP packet on an audio stream, in bytes: 250 ms of PCM at 48 kHz in stereo, and some room.
pub const MAX_AUDIO_BYTES: usize = 64 * 1024;
/// The largest integer on the wire (RFC 9000 section 16).
pub const MAX_VARINT: u64 = (1 << 62) - 1;
/// The most bytes that [`Prelude::write`] and the front of a frame take each.
pub const MAX_OVERHEAD: usize = 16;

/// Names both directions of a session's audio on its connection; chosen by the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow(u64);

impl Flow {
    /// `None` if the number is larger than [`MAX_VARINT`].
    pub const fn new(number: u64) -> Option<Flow> {
        if number <= MAX_VARINT { Some(Flow(number)) } else { None }
    }

    /// As a number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// 0: control messages.
    Control,
    /// 1: RTP packets.
    Audio,
}

/// The beginning of the client's half of a stream: what it carries, and for which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelude {
    /// What it carries.
    pub kind: StreamKind,
    /// Whose.
    pub flow: Flow,
}

/// Why bytes are not understood. On a stream nothing after them can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A stream of a type that does not exist.
    #[error("a stream begins with 0 (control) or 1 (audio), then the flow; this one begins with {0}")]
    UnknownStream(u64),
    /// A frame without content.
    #[error("a frame has length 0; send nothing instead")]
    Empty,
    /// A frame that is too long.
    #[error("a {what} has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// What it would have been.
        what: &'static str,
        /// The announced length.
        len: u64,
        /// The bound.
        max: usize,
    },
    /// A control message that is no text.
    #[error("a control message is UTF-8 text; this one is not from byte {0} on")]
    NotUtf8(usize),
    /// A stream or a datagram that ends too early.
    #[error("the {0} ends inside a frame")]
    Truncated(&'static str),
    /// An audio frame that is no RTP packet.
    #[error(transparent)]
    Rtp(#[from] rtp::RtpError),
}

/// Bytes of `value` as a variable-length integer: 1, 2, 4 or 8.
pub const fn varint_len(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// Writes a variable-length integer in as few bytes as it takes. Values above [`MAX_VARINT`], which there are none of in
/// this protocol, are written as that.
pub fn write_varint(out: &mut impl BufMut, value: u64) {
    match varint_len(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(0x4000 | value as u16),
        4 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xC000_0000_0000_0000 | value.min(MAX_VARINT)),
    }
}

/// Reads a variable-length integer from the front of `bytes`, in any of its lengths: the value and how many bytes it
/// took. `None` if it is not there in full.
pub fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1 << (first >> 6);
    let rest = bytes.get(1..len)?;
    let value = rest.iter().fold(u64::from(first & 0x3F), |value, &byte| value << 8 | u64::from(byte));
    Some((value, len))
}

impl Prelude {
    /// Writes it.
    pub fn write(&self, out: &mut impl BufMut) {
        let kind = match self.kind {
            StreamKind::Control => 0,
            StreamKind::Audio => 1,
        };
        write_varint(out, kind);
        write_varint(out, self.flow.0);
    }

    /// Reads it from the front of `bytes`, and how many bytes it took; `None` if it is not there in full.
    ///
    /// # Errors
    /// If there is no such type of stream.
    pub fn read(bytes: &[u8]) -> Result<Option<(Prelude, usize)>, FramingError> {
        let Some((kind, first)) = read_varint(bytes) else { return Ok(None) };
        let kind = match kind {
            0 => StreamKind::Control,
            1 => StreamKind::Audio,
            unknown => return Err(FramingError::UnknownStream(unknown)),
        };
        let flow = read_varint(&bytes[first..]);
        Ok(flow.map(|(flow, second)| (Prelude { kind, flow: Flow(flow) }, first + second)))
    }
}

/// Writes one control message, JSON of at most [`MAX_CONTROL_BYTES`], as a frame of a control stream.
pub fn write_control(out: &mut impl BufMut, json: &str) {
    write_varint(out, json.len() as u64);
    out.put_slice(json.as_bytes());
}

/// Writes one RTP packet of at most [`MAX_AUDIO_BYTES`] as a frame of an audio stream.
pub fn write_audio(out: &mut impl BufMut, header: &rtp::Header, payload: &[u8]) {
    write_varint(out, (rtp::HEADER_BYTES + payload.len()) as u64);
    header.write(out);
    out.put_slice(payload);
}

/// Bytes of a datagram beside its payload.
pub const fn datagram_overhead(flow: Flow) -> usize {
    varint_len(flow.0) + rtp::HEADER_BYTES
}

/// Writes one datagram: the flow and an RTP packet.
pub fn write_datagram(out: &mut impl BufMut, flow: Flow, header: &rtp::Header, payload: &[u8]) {
    write_varint(out, flow.0);
    header.write(out);
    out.put_slice(payload);
}

/// Takes the flow off a datagram; what is left is for [`rtp::Packet::parse`], by whoever has this flow.
///
/// # Errors
/// If there is no whole flow.
pub fn read_flow(mut datagram: Bytes) -> Result<(Flow, Bytes), FramingError> {
    let (flow, len) = read_varint(&datagram).ok_or(FramingError::Truncated("datagram"))?;
    datagram.advance(len);
    Ok((Flow(flow), datagram))
}

/// One thing from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A control message: JSON that nobody has looked at.
    Control(String),
    /// An RTP packet.
    Audio(rtp::Packet),
}

/// Takes the frames of one half of a stream apart, however its bytes come.
#[derive(Clone, Debug)]
pub struct Decoder {
    kind: StreamKind,
    buffer: BytesMut,
    failed: Option<FramingError>,
}

impl Decoder {
    /// For the frames of a stream, behind the prelude if there is one.
    pub fn new(kind: StreamKind) -> Decoder {
        Decoder { kind, buffer: BytesMut::new(), failed: None }
    }

    /// Takes what has come. Poll until there is no more frame before the next bytes: then what is kept is less than one
    /// frame, so its bound is the longest frame and one read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next frame; `None` until more has come.
    ///
    /// # Errors
    /// If the stream is not understood, and the same again from then on.
    pub fn poll(&mut self) -> Result<Option<Frame>, FramingError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.read().inspect_err(|&error| {
            self.failed = Some(error);
            self.buffer = BytesMut::new();
        })
    }

    fn read(&mut self) -> Result<Option<Frame>, FramingError> {
        let Some((len, front)) = read_varint(&self.buffer) else { return Ok(None) };
        let (what, max) = match self.kind {
            StreamKind::Control => ("control message", MAX_CONTROL_BYTES),
            StreamKind::Audio => ("RTP packet", MAX_AUDIO_BYTES),
        };
        let size = match usize::try_from(len) {
            Ok(0) => return Err(FramingError::Empty),
            Ok(size) if size <= max => size,
            _ => return Err(FramingError::TooLong { what, len, max }),
        };
        if self.buffer.len() < front + size {
            return Ok(None);
        }
        self.buffer.advance(front);
        let content = self.buffer.split_to(size);
        Ok(Some(match self.kind {
            StreamKind::Control => Frame::Control(
                std::str::from_utf8(&content).map_err(|error| FramingError::NotUtf8(error.valid_up_to()))?.to_owned(),
            ),
            StreamKind::Audio => Frame::Audio(rtp::Packet::parse(&content.freeze())?),
        }))
    }

    /// Bytes of a frame that is not complete.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// If that was inside a frame.
    pub fn finish(&self) -> Result<(), FramingError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FramingError::Truncated("stream")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_those_of_rfc_9000_appendix_a_1() {
        let samples: [(&[u8], u64); 5] = [
            (&[0xC2, 0x19, 0x7C, 0x5E, 0xFF, 0x14, 0xE8, 0x8C], 151_288_809_941_952_652),
            (&[0x9D, 0x7F, 0x3E, 0x7D], 494_878_333),
            (&[0x7B, 0xBD], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in samples {
            assert_eq!(read_varint(bytes), Some((value, bytes.len())));
            assert_eq!(read_varint(&bytes[..bytes.len() - 1]), None);
        }
        let mut out = Vec::new();
        write_varint(&mut out, 15_293);
        assert_eq!(out, [0x7B, 0xBD]);
    }

    #[test]
    fn a_call_has_these_bytes() {
        let flow = Flow::new(5).unwrap();
        let mut stream = Vec::new();
        Prelude { kind: StreamKind::Control, flow }.write(&mut stream);
        write_control(&mut stream, r#"{"type":"start"}"#);
        assert_eq!(stream, b"\x00\x05\x10{\"type\":\"start\"}");
        let header = rtp::Header { marker: true, payload_type: 111, seq: 1, timestamp: 960, ssrc: 7 };
        let mut datagram = Vec::new();
        write_datagram(&mut datagram, flow, &header, &[0xF8, 0xFF, 0xFE]);
        assert_eq!(datagram, [5, 0x80, 0xEF, 0, 1, 0, 0, 3, 0xC0, 0, 0, 0, 7, 0xF8, 0xFF, 0xFE]);
        let (read, rest) = read_flow(datagram.clone().into()).unwrap();
        assert_eq!((read, rtp::Packet::parse(&rest).unwrap().header), (flow, header));
        let mut audio = Vec::new();
        Prelude { kind: StreamKind::Audio, flow }.write(&mut audio);
        write_audio(&mut audio, &header, &[0xF8, 0xFF, 0xFE]);
        assert_eq!(audio[..3], [1, 5, 15]);
        assert_eq!(audio[3..], datagram[1..]);
    }

    #[test]
    fn what_is_wrong_is_named_and_stays_wrong() {
        assert_eq!(Prelude::read(&[2, 0]), Err(FramingError::UnknownStream(2)));
        assert_eq!(read_flow(Bytes::new()), Err(FramingError::Truncated("datagram")));
        let fails = |kind, bytes: &[u8]| {
            let mut decoder = Decoder::new(kind);
            decoder.push(bytes);
            let error = decoder.poll().unwrap_err();
            decoder.push(b"\x02{}");
            assert_eq!(decoder.poll(), Err(error));
            assert_eq!(decoder.pending(), 0);
            error
        };
        assert_eq!(fails(StreamKind::Control, &[0]), FramingError::Empty);
        assert_eq!(fails(StreamKind::Control, &[2, b'"', 0xFF]), FramingError::NotUtf8(1));
        let max = MAX_CONTROL_BYTES;
        let too_long = FramingError::TooLong { what: "control message", len: 65_537, max };
        assert_eq!(fails(StreamKind::Control, &[0x80, 1, 0, 1]), too_long, "before its content has come");
        assert!(matches!(fails(StreamKind::Audio, &[1, 0]), FramingError::Rtp(_)));
        let mut decoder = Decoder::new(StreamKind::Control);
        decoder.push(&[2, b'{']);
        assert_eq!((decoder.poll(), decoder.finish()), (Ok(None), Err(FramingError::Truncated("stream"))));
    }

    proptest! {
        #[test]
        fn integers_are_read_back(value in 0..=MAX_VARINT) {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            prop_assert_eq!(read_varint(&out), Some((value, varint_len(value))));
            prop_assert_eq!(out.len(), varint_len(value));
        }

        #[test]
        fn frames_are_read_back_however_their_bytes_come(
            messages in prop::collection::vec("\\{[a-zµ]{0,300}\\}", 0..8),
            flow in 0..=MAX_VARINT,
            cuts in prop::collection::vec(1usize..200, 1..50),
        ) {
            let mut bytes = Vec::new();
            let prelude = Prelude { kind: StreamKind::Control, flow: Flow(flow) };
            prelude.write(&mut bytes);
            for message in &messages {
                write_control(&mut bytes, message);
            }
            let (read, front) = Prelude::read(&bytes).unwrap().unwrap();
            prop_assert_eq!(read, prelude);
            let (mut decoder, mut rest, mut cuts) = (Decoder::new(read.kind), &bytes[front..], cuts.iter().cycle());
            let mut got = Vec::new();
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                decoder.push(now);
                rest = later;
                while let Some(frame) = decoder.poll().unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(decoder.finish(), Ok(()));
            prop_assert_eq!(got, messages.into_iter().map(Frame::Control).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), audio: bool) {
            let _ = Prelude::read(&bytes);
            let mut decoder = Decoder::new(if audio { StreamKind::Audio } else { StreamKind::Control });
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.poll() {}
            if let Ok((_, rest)) = read_flow(bytes.into()) {
                let _ = rtp::Packet::parse(&rest);
            }
        }
    }
}
