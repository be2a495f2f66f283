//! Opus (RFC 6716) through libopus, which decodes to and encodes from 8, 12, 16, 24 and 48 kHz by itself.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use opus::{Application, Bandwidth, Bitrate, Channels};

use crate::media::packet::Packet;
use crate::media::transcode::MediaError;
use crate::route::plan::{OpusApplication, OpusBandwidth, OpusSettings};

/// Rates at which libopus decodes and encodes, in Hz.
pub const RATES: [u32; 5] = [8_000, 12_000, 16_000, 24_000, 48_000];
/// Longest packet of one frame of up to 20 ms: TOC and 1275 bytes (RFC 6716 section 3.4).
const MAX_SHORT_PACKET: usize = 1276;
/// Room for longer packets, as libopus recommends.
const MAX_PACKET: usize = 4000;
/// Bits per second that libopus takes at most.
const MAX_BITRATE: u32 = 512_000;
/// Frame lengths that may be encoded, in units of 2.5 ms.
const FRAME_UNITS: [usize; 6] = [1, 2, 4, 8, 16, 24];
/// Room taken at once for coded frames, so that a buffer is shared by many.
const BLOCK: usize = 8 * 1024;

impl From<opus::Error> for MediaError {
    fn from(error: opus::Error) -> MediaError {
        MediaError::Codec(error.to_string())
    }
}

/// Decodes Opus packets of one or two channels to mono.
#[derive(Debug)]
pub struct OpusDecoder {
    inner: opus::Decoder,
    rate: u32,
}

impl OpusDecoder {
    /// A decoder to `rate` Hz, one of [`RATES`].
    ///
    /// # Errors
    /// If libopus refuses the rate.
    pub fn new(rate: u32) -> Result<OpusDecoder, MediaError> {
        Ok(OpusDecoder { inner: opus::Decoder::new(rate, Channels::Mono)?, rate })
    }

    /// Appends the samples of one packet to `pcm`; libopus mixes two channels down.
    ///
    /// # Errors
    /// If the packet is malformed; nothing is appended then.
    pub fn decode(&mut self, payload: &[u8], pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        let samples = self.samples_of(payload)?;
        self.append(payload, samples, false, pcm)
    }

    /// Appends `samples` lost before `successor`: its redundancy covers the last of them, concealment those before.
    ///
    /// # Errors
    /// If the packet is malformed; nothing is appended then.
    pub fn recover(&mut self, successor: &[u8], samples: usize, pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        let covered = self.samples_of(successor)?;
        let start = pcm.len();
        self.conceal(samples.saturating_sub(covered), pcm);
        let recovered = pcm.len();
        let rest = samples.min(covered);
        if rest == 0 {
            return Ok(());
        }
        let done = self.append(successor, covered, true, pcm);
        match done {
            Ok(()) => drop(pcm.drain(recovered..recovered + covered - rest)),
            Err(_) => pcm.truncate(start),
        }
        done
    }

    /// Appends `samples` made up by packet loss concealment (RFC 6716 section 4.4), which fades out by itself.
    pub fn conceal(&mut self, samples: usize, pcm: &mut Vec<i16>) {
        let unit = self.rate as usize / 400;
        let end = pcm.len() + samples;
        while pcm.len() < end {
            let wanted = (end - pcm.len()).div_ceil(unit).min(8) * unit;
            if self.append(&[], wanted, false, pcm).is_err() {
                pcm.resize(end, 0);
            }
        }
        pcm.truncate(end);
    }

    /// Amplifies what is decoded from now on, by `gain` in 1/256 dB.
    ///
    /// # Errors
    /// If libopus refuses.
    pub fn set_gain(&mut self, gain: i16) -> Result<(), MediaError> {
        Ok(self.inner.set_gain(i32::from(gain))?)
    }

    /// Forgets the past.
    pub fn reset(&mut self) {
        let done = self.inner.reset_state();
        debug_assert!(done.is_ok(), "libopus resets any decoder");
    }

    fn samples_of(&self, payload: &[u8]) -> Result<usize, MediaError> {
        let packet = Packet::parse(payload).ok_or_else(|| malformed(payload))?;
        Ok((packet.ticks() * (self.rate / 1000) / 48) as usize)
    }

    fn append(&mut self, payload: &[u8], samples: usize, fec: bool, pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        let start = pcm.len();
        pcm.resize(start + samples, 0);
        match self.inner.decode(payload, &mut pcm[start..], fec) {
            Ok(decoded) => pcm.truncate(start + decoded),
            Err(error) => {
                pcm.truncate(start);
                return Err(error.into());
            }
        }
        Ok(())
    }
}

#[cold]
fn malformed(payload: &[u8]) -> MediaError {
    let head = &payload[..payload.len().min(4)];
    MediaError::Payload(format!(
        "{} bytes beginning {head:02x?} are not an Opus packet (RFC 6716 section 3.4); send one whole packet per frame",
        payload.len()
    ))
}

/// Encodes mono samples to Opus packets.
#[derive(Debug)]
pub struct OpusEncoder {
    inner: opus::Encoder,
    rate: u32,
    lookahead: Duration,
}

impl OpusEncoder {
    /// An encoder from `rate` Hz, one of [`RATES`].
    ///
    /// # Errors
    /// If libopus refuses the rate or a setting.
    pub fn new(rate: u32, settings: &OpusSettings) -> Result<OpusEncoder, MediaError> {
        let application = match settings.application {
            OpusApplication::Voip => Application::Voip,
            OpusApplication::Audio => Application::Audio,
            OpusApplication::LowDelay => Application::LowDelay,
        };
        let bandwidth = match settings.max_bandwidth {
            OpusBandwidth::Narrow => Bandwidth::Narrowband,
            OpusBandwidth::Wide => Bandwidth::Wideband,
            OpusBandwidth::SuperWide => Bandwidth::Superwideband,
            OpusBandwidth::Full => Bandwidth::Fullband,
        };
        let mut inner = opus::Encoder::new(rate, Channels::Mono, application)?;
        inner.set_complexity(i32::from(settings.complexity.min(10)))?;
        inner.set_bitrate(Bitrate::Bits(settings.bitrate.min(MAX_BITRATE) as i32))?;
        inner.set_max_bandwidth(bandwidth)?;
        inner.set_inband_fec(settings.fec)?;
        inner.set_dtx(settings.dtx)?;
        let lookahead = inner.get_lookahead()?.max(0) as u64;
        Ok(OpusEncoder { inner, rate, lookahead: Duration::from_micros(lookahead * 1_000_000 / u64::from(rate)) })
    }

    /// Encodes one frame of 2.5, 5, 10, 20, 40 or 60 ms; the packet is split off `buffer`.
    ///
    /// # Errors
    /// If the length is another.
    pub fn encode(&mut self, pcm: &[i16], buffer: &mut BytesMut) -> Result<Bytes, MediaError> {
        let unit = self.rate as usize / 400;
        if !pcm.len().is_multiple_of(unit) || !FRAME_UNITS.contains(&(pcm.len() / unit)) {
            return Err(wrong_length(pcm.len(), self.rate));
        }
        let room = if pcm.len() <= 8 * unit { MAX_SHORT_PACKET } else { MAX_PACKET };
        make_room(buffer, room);
        let bytes = self.inner.encode(pcm, &mut buffer[..])?;
        buffer.truncate(bytes);
        Ok(buffer.split().freeze())
    }

    /// Forgets the past; the settings stay.
    pub fn reset(&mut self) {
        let done = self.inner.reset_state();
        debug_assert!(done.is_ok(), "libopus resets any encoder");
    }

    /// Complexity, 0 to 10; more counts as 10.
    pub fn set_complexity(&mut self, complexity: u8) {
        let done = self.inner.set_complexity(i32::from(complexity.min(10)));
        debug_assert!(done.is_ok(), "0 to 10 is in range");
    }

    /// Expected loss in percent; more than 100 counts as 100.
    pub fn set_expected_loss(&mut self, percent: u8) {
        let done = self.inner.set_packet_loss_perc(i32::from(percent.min(100)));
        debug_assert!(done.is_ok(), "0 to 100 is in range");
    }

    /// Bits per second; more than 512,000 counts as that.
    pub fn set_bitrate(&mut self, bitrate: u32) {
        let done = self.inner.set_bitrate(Bitrate::Bits(bitrate.min(MAX_BITRATE) as i32));
        debug_assert!(done.is_ok(), "libopus takes any bitrate above zero");
    }

    /// Look-ahead: how much later than its sample a sound leaves the decoder.
    pub fn lookahead(&self) -> Duration {
        self.lookahead
    }
}

/// Makes `buffer` hold `bytes` zeros and nothing else. Whole blocks are taken, to be shared by many frames; a block is
/// used from its start again as soon as all frames in it are dropped.
pub(super) fn make_room(buffer: &mut BytesMut, bytes: usize) {
    buffer.clear();
    if !buffer.try_reclaim(bytes.max(BLOCK)) && buffer.capacity() < bytes {
        buffer.reserve(bytes.max(BLOCK));
    }
    buffer.resize(bytes, 0);
}

#[cold]
fn wrong_length(samples: usize, rate: u32) -> MediaError {
    MediaError::Payload(format!(
        "{samples} samples at {rate} Hz are no Opus frame; give 2.5, 5, 10, 20, 40 or 60 ms, such as {} samples (20 ms)",
        rate / 50
    ))
}
