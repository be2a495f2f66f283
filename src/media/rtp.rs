//! RTP packets (RFC 3550 section 5.1), as they are carried over QUIC: the fixed header and the payload.

use bytes::{BufMut, Bytes};

use crate::media::format::{Codec, Format};

/// Length of a header without contributing sources or extensions.
pub const HEADER_BYTES: usize = 12;
/// The only version.
const VERSION: u8 = 2;

/// What an RTP header tells here. There is one source per flow, so contributing sources and extensions are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// First packet of a talk spurt.
    pub marker: bool,
    /// 0 to 127; see [`payload_type`].
    pub payload_type: u8,
    /// Counts packets, wrapping.
    pub seq: u16,
    /// Counts ticks of the format's clock, wrapping.
    pub timestamp: u32,
    /// Who sends; another one is a restarted sender.
    pub ssrc: u32,
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its header.
    pub header: Header,
    /// The coded audio, without padding; may be empty.
    pub payload: Bytes,
}

/// Why bytes are no RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtpError {
    /// The header, or what it announces, is longer than the packet.
    #[error("an RTP packet of {len} bytes ends inside {part}")]
    Truncated {
        /// Bytes that there are.
        len: usize,
        /// What is cut off.
        part: &'static str,
    },
    /// The version is not 2.
    #[error("an RTP packet has version {0}, not 2")]
    Version(u8),
    /// The last byte counts the padding, itself included.
    #[error("an RTP packet has {padding} bytes of padding in {len} bytes of payload")]
    Padding {
        /// What the last byte says.
        padding: u8,
        /// Bytes after the header.
        len: usize,
    },
}

impl Packet {
    /// Reads a packet; nothing is copied.
    ///
    /// # Errors
    /// If it is not RTP.
    pub fn parse(bytes: &Bytes) -> Result<Packet, RtpError> {
        let len = bytes.len();
        let cut = |part| RtpError::Truncated { len, part };
        let Some(fixed) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(cut("the header")) };
        let [flags, kind, seq_high, seq_low, t0, t1, t2, t3, s0, s1, s2, s3] = *fixed;
        if flags >> 6 != VERSION {
            return Err(RtpError::Version(flags >> 6));
        }
        let mut start = HEADER_BYTES + 4 * usize::from(flags & 0x0F);
        if flags & 0x10 != 0 {
            let words = bytes.get(start + 2..start + 4).ok_or(cut("the extension"))?;
            start += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
        }
        let mut end = len;
        if start > end {
            return Err(cut("the header"));
        }
        if flags & 0x20 != 0 {
            let padding = if start < end { bytes[end - 1] } else { 0 };
            if padding == 0 || usize::from(padding) > end - start {
                return Err(RtpError::Padding { padding, len: end - start });
            }
            end -= usize::from(padding);
        }
        let header = Header {
            marker: kind & 0x80 != 0,
            payload_type: kind & 0x7F,
            seq: u16::from_be_bytes([seq_high, seq_low]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([s0, s1, s2, s3]),
        };
        Ok(Packet { header, payload: bytes.slice(start..end) })
    }
}

impl Header {
    /// Writes the [`HEADER_BYTES`] of a header without extensions; the payload follows it.
    pub fn write(&self, out: &mut impl BufMut) {
        out.put_u8(VERSION << 6);
        out.put_u8(u8::from(self.marker) << 7 | self.payload_type & 0x7F);
        out.put_u16(self.seq);
        out.put_u32(self.timestamp);
        out.put_u32(self.ssrc);
    }
}

/// The payload type of a format over QUIC: 0 PCMU, 8 PCMA (RFC 3551 section 6), 111 Opus, 96 PCM16 **little-endian**,
/// which is not L16.
pub const fn payload_type(format: &Format) -> u8 {
    match format.codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 8,
        Codec::Pcm16 => 96,
        Codec::Opus => 111,
    }
}

/// Extends sequence numbers past 16 bits: each is taken to be the one nearest to the highest so far (RFC 3550
/// appendix A.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Extender {
    highest: Option<u64>,
}

impl Extender {
    /// The extended number of a packet. The first is in the second cycle, so that packets from before it have one too.
    pub fn extend(&mut self, seq: u16) -> u64 {
        let Some(highest) = self.highest else {
            let first = (1 << 16) + u64::from(seq);
            self.highest = Some(first);
            return first;
        };
        let ahead = seq.wrapping_sub(highest as u16) as i16;
        let extended = highest.saturating_add_signed(i64::from(ahead));
        self.highest = Some(highest.max(extended));
        extended
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_with_everything_in_it_is_read_as_rfc_3550_lays_it_out() {
        let mut bytes = vec![0b1011_0001, 0x80 | 111, 0x12, 0x34, 0, 0, 3, 0xC0, 0xDE, 0xAD, 0xBE, 0xEF];
        bytes.extend([1, 2, 3, 4]);
        bytes.extend([0xBE, 0xDE, 0, 1, 0x10, 0x85, 0, 0]);
        bytes.extend([7, 8, 9]);
        bytes.extend([0, 0, 3]);
        let packet = Packet::parse(&Bytes::from(bytes)).unwrap();
        let header = Header { marker: true, payload_type: 111, seq: 0x1234, timestamp: 960, ssrc: 0xDEAD_BEEF };
        assert_eq!(packet, Packet { header, payload: Bytes::from_static(&[7, 8, 9]) });
    }

    #[test]
    fn what_is_not_rtp_is_refused_with_the_reason() {
        let refused = |bytes: &[u8]| Packet::parse(&Bytes::copy_from_slice(bytes)).unwrap_err();
        let with_flags = |flags: u8| {
            let mut bytes = [0; 13];
            bytes[0] = flags;
            bytes
        };
        assert_eq!(refused(&[0x80; 11]), RtpError::Truncated { len: 11, part: "the header" });
        assert_eq!(refused(&with_flags(0x40)), RtpError::Version(1));
        assert_eq!(refused(&with_flags(0x81)), RtpError::Truncated { len: 13, part: "the header" });
        assert_eq!(refused(&with_flags(0x90)), RtpError::Truncated { len: 13, part: "the extension" });
        assert_eq!(refused(&with_flags(0xA0)), RtpError::Padding { padding: 0, len: 1 });
    }

    #[test]
    fn sequence_numbers_are_extended_over_the_wrap_and_backwards() {
        let mut extender = Extender::default();
        let extended: Vec<u64> = [65_534, 65_535, 0, 65_533, 1].map(|seq| extender.extend(seq)).to_vec();
        assert_eq!(extended, [131_070, 131_071, 131_072, 131_069, 131_073]);
        let mut extender = Extender::default();
        assert!(extender.extend(0) > extender.extend(65_535), "one from before the first");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            marker: bool, payload_type in 0u8..128, seq: u16, timestamp: u32, ssrc: u32,
            payload in prop::collection::vec(any::<u8>(), 0..1500),
        ) {
            let header = Header { marker, payload_type, seq, timestamp, ssrc };
            let mut bytes = BytesMut::new();
            header.write(&mut bytes);
            prop_assert_eq!(bytes.len(), HEADER_BYTES);
            bytes.extend_from_slice(&payload);
            let packet = Packet::parse(&bytes.freeze()).unwrap();
            prop_assert_eq!(packet, Packet { header, payload: payload.into() });
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packet::parse(&bytes.into());
        }
    }
}
