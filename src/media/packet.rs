//! The framing of an Opus packet: table of contents, frame count, redundancy (RFC 6716 sections 3 and 4.2).

/// Longest Opus frame in bytes (RFC 6716 section 3.4, R2).
const MAX_FRAME_BYTES: usize = 1275;
/// Longest Opus packet: 120 ms in ticks of 48 kHz (RFC 6716 section 3.4, R5).
const MAX_PACKET_TICKS: u32 = 5760;

/// Which coder an Opus packet uses (RFC 6716 section 3.1, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Linear prediction only: speech up to 8 kHz of bandwidth.
    Silk,
    /// Linear prediction below 8 kHz, transform above.
    Hybrid,
    /// Transform only.
    Celt,
}

/// A well-formed Opus packet, seen from outside: nothing is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Which coder made it.
    pub mode: Mode,
    /// Whether it carries two channels.
    pub stereo: bool,
    /// Frames in it, 1 to 48.
    pub frames: u32,
    /// Length of each frame in ticks of 48 kHz.
    pub frame_ticks: u32,
    first: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads the framing of `bytes`; `None` if one of the requirements R1 to R7 of RFC 6716 section 3.4 is broken.
    pub fn parse(bytes: &'a [u8]) -> Option<Packet<'a>> {
        let (&toc, rest) = bytes.split_first()?;
        let config = toc >> 3;
        let (mode, frame_ticks) = match config {
            0..=11 => (Mode::Silk, [480, 960, 1920, 2880][usize::from(config % 4)]),
            12..=15 => (Mode::Hybrid, [480, 960][usize::from(config % 2)]),
            _ => (Mode::Celt, [120, 240, 480, 960][usize::from(config % 4)]),
        };
        let (frames, first) = match toc & 3 {
            0 => (1, whole(rest)?),
            1 => (2, equal(rest, 2)?),
            2 => (2, variable(rest, 2)?),
            _ => counted(rest)?,
        };
        if frames * frame_ticks > MAX_PACKET_TICKS {
            return None;
        }
        Some(Packet { mode, stereo: toc & 4 != 0, frames, frame_ticks, first })
    }

    /// Length of the packet in ticks of 48 kHz: 120 (2.5 ms) to 5760 (120 ms).
    pub fn ticks(&self) -> u32 {
        self.frames * self.frame_ticks
    }

    /// Whether the packet carries low bit-rate redundancy (in-band FEC) for the one before it: the LBRR flag of the
    /// SILK header (RFC 6716 sections 4.2.3 and 4.2.4), which follows one VAD flag per 20 ms, for each channel. These
    /// flags are coded with even odds, so they are the top bits of the first byte.
    pub fn has_lbrr(&self) -> bool {
        let (Some(&header), false) = (self.first.first(), self.mode == Mode::Celt) else {
            return false;
        };
        let silk_frames = (self.frame_ticks / 960).max(1);
        let mid = header >> (7 - silk_frames) & 1;
        let side = if self.stereo { header >> (6 - 2 * silk_frames) & 1 } else { 0 };
        mid | side != 0
    }
}

/// Code 0: one frame fills the packet.
fn whole(rest: &[u8]) -> Option<&[u8]> {
    (rest.len() <= MAX_FRAME_BYTES).then_some(rest)
}

/// `count` frames of equal size (codes 1 and 3 with constant bit rate); gives the first.
fn equal(rest: &[u8], count: usize) -> Option<&[u8]> {
    let size = rest.len() / count;
    if !rest.len().is_multiple_of(count) || size > MAX_FRAME_BYTES {
        return None;
    }
    rest.get(..size)
}

/// `count` frames, each but the last with its size in front (codes 2 and 3 with variable bit rate); gives the first.
fn variable(mut rest: &[u8], count: usize) -> Option<&[u8]> {
    let mut sized = 0;
    let mut first_size = None;
    for _ in 1..count {
        let size;
        (size, rest) = frame_size(rest)?;
        sized += size;
        first_size.get_or_insert(size);
    }
    let last = rest.len().checked_sub(sized)?;
    if last > MAX_FRAME_BYTES {
        return None;
    }
    rest.get(..first_size.unwrap_or(last))
}

/// Code 3: a frame count, then optional padding (RFC 6716 section 3.2.5).
fn counted(rest: &[u8]) -> Option<(u32, &[u8])> {
    let (&header, mut rest) = rest.split_first()?;
    let count = header & 0x3f;
    if count == 0 {
        return None;
    }
    if header & 0x40 != 0 {
        let mut padding = 0;
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            padding += if byte == 255 { 254 } else { usize::from(byte) };
            if byte != 255 {
                break;
            }
        }
        rest = rest.get(..rest.len().checked_sub(padding)?)?;
    }
    let frames = usize::from(count);
    let first = if header & 0x80 != 0 { variable(rest, frames) } else { equal(rest, frames) };
    Some((u32::from(count), first?))
}

/// One frame size (RFC 6716 section 3.2.1): one byte, or two from 252 on.
fn frame_size(rest: &[u8]) -> Option<(usize, &[u8])> {
    match *rest {
        [low @ 0..=251, ..] => Some((usize::from(low), &rest[1..])),
        [low, high, ..] => Some((usize::from(low) + 4 * usize::from(high), &rest[2..])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packet_lengths_follow_table_2_of_rfc_6716() {
        let ticks = |bytes: &[u8]| Packet::parse(bytes).map(|packet| packet.ticks());
        assert_eq!(ticks(&[0xf8, 0xff, 0xfe]), Some(960), "CELT fullband, 20 ms");
        assert_eq!(ticks(&[9 << 3]), Some(960), "an empty frame is one that was not sent");
        assert_eq!(ticks(&[3 << 3, 1]), Some(2880), "SILK, 60 ms");
        assert_eq!(ticks(&[16 << 3 | 1, 1, 2]), Some(240), "two of 2.5 ms");
        assert_eq!(ticks(&[31 << 3 | 3, 6, 0, 0, 0, 0, 0, 0]), Some(5760), "six of 20 ms");
    }

    #[test]
    fn a_broken_packet_has_no_length() {
        let none = |bytes: &[u8]| assert_eq!(Packet::parse(bytes), None, "{bytes:?}");
        none(&[]);
        none(&[1, 1]);
        none(&[2]);
        none(&[2, 252]);
        none(&[2, 5, 1]);
        none(&[3]);
        none(&[3, 0]);
        none(&[31 << 3 | 3, 7, 0, 0, 0, 0, 0, 0, 0]);
        none(&[3, 0x41, 255, 255]);
        none(&vec![0; 1277]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn any_bytes_are_judged_as_libopus_judges_them(
            toc in any::<u8>(),
            head in prop::collection::vec(prop_oneof![0u8..8, any::<u8>(), Just(0x41), Just(0xc2), Just(255)], 0..8),
            tail in prop::collection::vec(any::<u8>(), 0..1400),
        ) {
            let bytes = [vec![toc], head, tail].concat();
            let packet = Packet::parse(&bytes);
            let reference = opus::packet::parse(&bytes).ok();
            prop_assert_eq!(packet.is_some(), reference.is_some());
            if let (Some(packet), Some(reference)) = (packet, reference) {
                prop_assert_eq!(packet.frames as usize, reference.frames.len());
                prop_assert_eq!(packet.first, reference.frames[0]);
                let samples = opus::packet::get_nb_samples(&bytes, 48_000).unwrap();
                prop_assert_eq!(packet.ticks() as usize, samples);
                packet.has_lbrr();
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(packet) = Packet::parse(&bytes) {
                packet.has_lbrr();
            }
        }
    }
}
