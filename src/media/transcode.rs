//! From any format to mono PCM and back.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::media::format::{Codec, Format, FormatError};
use crate::media::g711::Law;
use crate::media::opus::{self, OpusDecoder, OpusEncoder, make_room};
use crate::media::packet::Packet;
use crate::media::pcm;
use crate::media::resample::Resampler;
use crate::route::plan::OpusSettings;

/// Why audio cannot be decoded or encoded.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The payload is not what its format says.
    #[error("{0}")]
    Payload(String),
    /// The codec library refused.
    #[error("opus: {0}")]
    Codec(String),
    /// A file is not what it should be.
    #[error("{0}")]
    File(String),
    /// The format is impossible.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// No conversion between these rates.
    #[error("no conversion from {from} Hz to {to} Hz; use one of 8000, 12000, 16000, 22050, 24000, 44100, 48000 Hz")]
    Rate {
        /// The rate of the samples, in Hz.
        from: u32,
        /// The rate asked for, in Hz.
        to: u32,
    },
}

/// Whether `a` and `b` are the same on the wire, so that frames pass through untouched: equal, or both Opus (its
/// packets do not depend on the rate of either end).
pub fn same_wire(a: &Format, b: &Format) -> bool {
    a == b || (a.codec == Codec::Opus && b.codec == Codec::Opus)
}

/// The rate in Hz at which to work between two formats, so that no or only one resampler is needed: the rate of the
/// side that is not Opus, else the agent's.
pub fn working_rate(client: &Format, agent: &Format) -> u32 {
    if agent.codec == Codec::Opus && client.codec != Codec::Opus { client.rate } else { agent.rate }
}

/// Length of a payload in ticks of the format's clock, without decoding it; `None` if it is malformed.
pub fn payload_ticks(format: &Format, payload: &[u8]) -> Option<u32> {
    match format.bytes_per_sample() {
        None => Packet::parse(payload).map(|packet| packet.ticks()),
        Some(bytes) if bytes > 0 && payload.len().is_multiple_of(bytes) => u32::try_from(payload.len() / bytes).ok(),
        Some(_) => None,
    }
}

/// Whether an Opus packet carries in-band FEC (LBRR) for its predecessor.
pub fn has_lbrr(packet: &[u8]) -> bool {
    Packet::parse(packet).is_some_and(|packet| packet.has_lbrr())
}

/// The rate at which libopus works when samples at `rate` are wanted: that rate where it can, else the format's.
fn opus_rate(format: &Format, rate: u32) -> u32 {
    if opus::RATES.contains(&rate) { rate } else { format.rate }
}

#[derive(Debug)]
enum Source {
    Opus(OpusDecoder),
    Pcm { channels: u8 },
    G711(Law),
}

/// Decodes one format to mono 16-bit samples at one rate.
///
/// Where a rate is converted (never for Opus at a rate that libopus knows), a payload may give some samples less or
/// more than its length says, as [`Resampler`] works in blocks; the sum is right.
#[derive(Debug)]
pub struct Decoder {
    source: Source,
    source_rate: u32,
    resampler: Option<Resampler>,
    staging: Vec<i16>,
}

impl Decoder {
    /// A decoder from `from` to mono samples at `rate` Hz.
    ///
    /// # Errors
    /// If the format or the rate is not possible.
    pub fn new(from: Format, rate: u32) -> Result<Decoder, MediaError> {
        from.check()?;
        let (source, source_rate) = match from.codec {
            Codec::Opus => {
                let source_rate = opus_rate(&from, rate);
                (Source::Opus(OpusDecoder::new(source_rate)?), source_rate)
            }
            Codec::Pcm16 => (Source::Pcm { channels: from.channels }, from.rate),
            Codec::Pcmu => (Source::G711(Law::Mu), from.rate),
            Codec::Pcma => (Source::G711(Law::A), from.rate),
        };
        let resampler = (source_rate != rate).then(|| Resampler::new(source_rate, rate)).transpose()?;
        Ok(Decoder { source, source_rate, resampler, staging: Vec::new() })
    }

    /// Appends the samples of one payload to `pcm`.
    ///
    /// # Errors
    /// If the payload is malformed; nothing is appended then.
    pub fn decode(&mut self, payload: &[u8], pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        self.through_resampler(pcm, |source, pcm| source.decode(payload, pcm))
    }

    /// Appends `span` of audio lost before `successor`, from the redundancy (LBRR) in it; what that does not cover is
    /// concealed. The successor itself is decoded afterwards, by [`Decoder::decode`].
    ///
    /// # Errors
    /// As for [`Decoder::decode`].
    pub fn recover(&mut self, successor: &[u8], span: Duration, pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        let samples = samples_in(span, self.source_rate);
        self.through_resampler(pcm, |source, pcm| match source {
            Source::Opus(decoder) => decoder.recover(successor, samples, pcm),
            Source::Pcm { .. } | Source::G711(_) => {
                source.conceal(samples, pcm);
                Ok(())
            }
        })
    }

    /// Appends `span` of audio made up for a loss: PLC for Opus, silence for the others. The caller bounds `span`.
    pub fn conceal(&mut self, span: Duration, pcm: &mut Vec<i16>) {
        let samples = samples_in(span, self.source_rate);
        let done: Result<(), std::convert::Infallible> = self.through_resampler(pcm, |source, pcm| {
            source.conceal(samples, pcm);
            Ok(())
        });
        let Ok(()) = done;
    }

    /// Appends what the resampler still holds, at the end of a stream, and forgets the past.
    pub fn flush(&mut self, pcm: &mut Vec<i16>) {
        if let Some(resampler) = &mut self.resampler {
            resampler.flush(pcm);
        }
        self.reset();
    }

    /// Forgets the past.
    pub fn reset(&mut self) {
        if let Source::Opus(decoder) = &mut self.source {
            decoder.reset();
        }
        if let Some(resampler) = &mut self.resampler {
            resampler.reset();
        }
    }

    /// Delay of the resampler; zero without one. The codec's own delay is counted at its encoder.
    pub fn delay(&self) -> Duration {
        self.resampler.as_ref().map_or(Duration::ZERO, Resampler::delay)
    }

    fn through_resampler<E>(
        &mut self,
        pcm: &mut Vec<i16>,
        produce: impl FnOnce(&mut Source, &mut Vec<i16>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(resampler) = &mut self.resampler else {
            return produce(&mut self.source, pcm);
        };
        self.staging.clear();
        produce(&mut self.source, &mut self.staging)?;
        resampler.process(&self.staging, pcm);
        Ok(())
    }
}

impl Source {
    fn decode(&mut self, payload: &[u8], pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        match self {
            Source::Opus(decoder) => return decoder.decode(payload, pcm),
            Source::Pcm { channels } => {
                let bytes = 2 * usize::from(*channels);
                if !payload.len().is_multiple_of(bytes) {
                    return Err(uneven(payload.len(), bytes));
                }
                pcm::decode(payload, *channels, pcm);
            }
            Source::G711(law) => law.decode(payload, pcm),
        }
        Ok(())
    }

    fn conceal(&mut self, samples: usize, pcm: &mut Vec<i16>) {
        match self {
            Source::Opus(decoder) => decoder.conceal(samples, pcm),
            Source::Pcm { .. } | Source::G711(_) => pcm.resize(pcm.len() + samples, 0),
        }
    }
}

#[cold]
fn uneven(length: usize, bytes: usize) -> MediaError {
    MediaError::Payload(format!(
        "{length} bytes are not a whole number of PCM16 samples of {bytes} bytes; send whole samples in each frame"
    ))
}

fn samples_in(span: Duration, rate: u32) -> usize {
    (span.as_micros() as u64).saturating_mul(u64::from(rate)).div_euclid(1_000_000) as usize
}

#[derive(Debug)]
enum Sink {
    Opus(OpusEncoder),
    Pcm { channels: u8 },
    G711(Law),
}

/// Encodes mono 16-bit samples at one rate to a format.
#[derive(Debug)]
pub struct Encoder {
    sink: Sink,
    resampler: Option<Resampler>,
    staging: Vec<i16>,
}

impl Encoder {
    /// An encoder from mono samples at `rate` Hz to `to`. With two channels both get the same; Opus stays mono, which
    /// every decoder takes.
    ///
    /// # Errors
    /// If the format or the rate is not possible.
    pub fn new(to: Format, rate: u32, opus: &OpusSettings) -> Result<Encoder, MediaError> {
        to.check()?;
        let (sink, sink_rate) = match to.codec {
            Codec::Opus => {
                let sink_rate = opus_rate(&to, rate);
                (Sink::Opus(OpusEncoder::new(sink_rate, opus)?), sink_rate)
            }
            Codec::Pcm16 => (Sink::Pcm { channels: to.channels }, to.rate),
            Codec::Pcmu => (Sink::G711(Law::Mu), to.rate),
            Codec::Pcma => (Sink::G711(Law::A), to.rate),
        };
        let resampler = (sink_rate != rate).then(|| Resampler::new(rate, sink_rate)).transpose()?;
        Ok(Encoder { sink, resampler, staging: Vec::new() })
    }

    /// Encodes one frame; for Opus `pcm` must be 2.5, 5, 10, 20, 40 or 60 ms long (at 44.1 kHz 10, 20, 40 or 60 ms, at
    /// 22.05 kHz 20, 40 or 60 ms). `buffer` is reused: once the frames given earlier are dropped, nothing is allocated.
    /// What is in it is discarded.
    ///
    /// Where a rate is converted to PCM or G.711, the frame may hold some samples less or more than `pcm`, as
    /// [`Resampler`] works in blocks; the sum is right.
    ///
    /// # Errors
    /// If the length is not possible.
    pub fn encode(&mut self, pcm: &[i16], buffer: &mut BytesMut) -> Result<Bytes, MediaError> {
        let Some(resampler) = &mut self.resampler else {
            return self.sink.encode(pcm, buffer);
        };
        if matches!(self.sink, Sink::Opus(_)) && !pcm.len().is_multiple_of(resampler.block()) {
            return Err(not_whole_blocks(pcm.len(), resampler.block()));
        }
        self.staging.clear();
        resampler.process(pcm, &mut self.staging);
        self.sink.encode(&self.staging, buffer)
    }

    /// What the resampler still holds, at the end of a stream, and forgets the past. Empty without one, and for Opus,
    /// where the caller pads the last frame and adds a silent one.
    pub fn flush(&mut self, buffer: &mut BytesMut) -> Bytes {
        self.staging.clear();
        if let (Some(resampler), false) = (&mut self.resampler, matches!(self.sink, Sink::Opus(_))) {
            resampler.flush(&mut self.staging);
        }
        let tail = self.sink.encode(&self.staging, buffer);
        self.reset();
        tail.unwrap_or_default()
    }

    /// Forgets the past, so that nothing of it leaks into what comes.
    pub fn reset(&mut self) {
        if let Sink::Opus(encoder) = &mut self.sink {
            encoder.reset();
        }
        if let Some(resampler) = &mut self.resampler {
            resampler.reset();
        }
    }

    /// Encoder complexity, 0 to 10 (load governor); ignored by other codecs.
    pub fn set_complexity(&mut self, complexity: u8) {
        if let Sink::Opus(encoder) = &mut self.sink {
            encoder.set_complexity(complexity);
        }
    }

    /// The loss that the peer reports, in percent: decides the FEC share.
    pub fn set_expected_loss(&mut self, percent: u8) {
        if let Sink::Opus(encoder) = &mut self.sink {
            encoder.set_expected_loss(percent);
        }
    }

    /// Bits per second of Opus; ignored by other codecs.
    pub fn set_bitrate(&mut self, bitrate: u32) {
        if let Sink::Opus(encoder) = &mut self.sink {
            encoder.set_bitrate(bitrate);
        }
    }

    /// Delay of the coder, resampler and look-ahead together.
    pub fn delay(&self) -> Duration {
        let coder = match &self.sink {
            Sink::Opus(encoder) => encoder.lookahead(),
            Sink::Pcm { .. } | Sink::G711(_) => Duration::ZERO,
        };
        coder + self.resampler.as_ref().map_or(Duration::ZERO, Resampler::delay)
    }
}

impl Sink {
    fn encode(&mut self, pcm: &[i16], buffer: &mut BytesMut) -> Result<Bytes, MediaError> {
        match self {
            Sink::Opus(encoder) => return encoder.encode(pcm, buffer),
            Sink::Pcm { channels } => {
                make_room(buffer, pcm.len() * 2 * usize::from(*channels));
                pcm::encode(pcm, *channels, buffer);
            }
            Sink::G711(law) => {
                make_room(buffer, pcm.len());
                law.encode(pcm, buffer);
            }
        }
        Ok(buffer.split().freeze())
    }
}

#[cold]
fn not_whole_blocks(samples: usize, block: usize) -> MediaError {
    MediaError::Payload(format!(
        "{samples} samples are no frame that can be converted for Opus; give a multiple of {block} samples that is 10, \
         20, 40 or 60 ms long"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::fixture::{correlation, sine, speech};
    use crate::route::plan::OpusBandwidth;

    const FRAME: Duration = Duration::from_millis(20);
    const PLAIN: OpusSettings = OpusSettings {
        complexity: 1,
        bitrate: 48_000,
        application: crate::route::plan::OpusApplication::Voip,
        max_bandwidth: OpusBandwidth::Wide,
        fec: false,
        dtx: false,
    };

    fn encode(to: Format, rate: u32, settings: &OpusSettings, loss: u8, pcm: &[i16]) -> Vec<Bytes> {
        let mut encoder = Encoder::new(to, rate, settings).unwrap();
        encoder.set_expected_loss(loss);
        let mut buffer = BytesMut::new();
        pcm.chunks_exact(rate as usize / 50).map(|frame| encoder.encode(frame, &mut buffer).unwrap()).collect()
    }

    fn decode(from: Format, rate: u32, frames: &[Bytes]) -> Vec<i16> {
        let mut decoder = Decoder::new(from, rate).unwrap();
        let mut pcm = Vec::new();
        frames.iter().for_each(|frame| decoder.decode(frame, &mut pcm).unwrap());
        pcm
    }

    #[test]
    fn opus_passes_through_to_opus_whatever_the_rates() {
        let opus_16k = Format { rate: 16_000, channels: 2, ..Format::OPUS };
        assert!(same_wire(&Format::OPUS, &opus_16k));
        assert!(same_wire(&Format::PCMU, &Format::PCMU));
        assert!(!same_wire(&Format::PCMU, &Format::PCMA));
        assert!(!same_wire(&Format::pcm16(16_000), &Format::pcm16(24_000)));
        assert!(!same_wire(&Format::OPUS, &Format::pcm16(48_000)));
    }

    #[test]
    fn the_working_rate_spares_a_resampler() {
        let pcm = Format::pcm16(24_000);
        assert_eq!(working_rate(&Format::OPUS, &pcm), 24_000);
        assert_eq!(working_rate(&pcm, &Format::OPUS), 24_000);
        assert_eq!(working_rate(&Format::PCMU, &Format::OPUS), 8_000);
        assert_eq!(working_rate(&Format::PCMU, &pcm), 24_000);
        assert_eq!(working_rate(&Format::OPUS, &Format { rate: 16_000, ..Format::OPUS }), 16_000);
    }

    #[test]
    fn payloads_have_the_length_that_their_format_says() {
        assert_eq!(payload_ticks(&Format::OPUS, &[0xf8, 0xff, 0xfe]), Some(960));
        assert_eq!(payload_ticks(&Format { rate: 16_000, ..Format::OPUS }, &[0xf8, 0xff, 0xfe]), Some(960));
        assert_eq!(payload_ticks(&Format::OPUS, &[]), None);
        assert_eq!(payload_ticks(&Format::pcm16(24_000), &[0; 960]), Some(480));
        assert_eq!(payload_ticks(&Format::pcm16(24_000), &[0; 961]), None);
        assert_eq!(payload_ticks(&Format { channels: 2, ..Format::pcm16(24_000) }, &[0; 960]), Some(240));
        assert_eq!(payload_ticks(&Format::PCMA, &[0; 160]), Some(160));
    }

    #[test]
    fn speech_survives_opus_at_every_rate() {
        for encode_rate in opus::RATES {
            for decode_rate in opus::RATES {
                let pcm = speech(encode_rate, encode_rate as usize / 2);
                let heard = decode(Format::OPUS, decode_rate, &encode(Format::OPUS, encode_rate, &PLAIN, 0, &pcm));
                assert_eq!(heard.len(), decode_rate as usize / 2);
                let original = speech(decode_rate, decode_rate as usize / 4);
                let (likeness, delay) = correlation(&original, &heard, decode_rate as usize / 80);
                assert!(likeness > 0.88, "{encode_rate} to {decode_rate}: {likeness} at {delay}");
            }
        }
    }

    #[test]
    fn the_delay_of_the_opus_encoder_is_the_one_it_reports() {
        let encoder = Encoder::new(Format::OPUS, 24_000, &PLAIN).unwrap();
        let pcm = speech(24_000, 24_000);
        let heard = decode(Format::OPUS, 24_000, &encode(Format::OPUS, 24_000, &PLAIN, 0, &pcm));
        let (likeness, delay) = correlation(&pcm, &heard, 480);
        let reported = samples_in(encoder.delay(), 24_000);
        assert!(likeness > 0.95, "{likeness}");
        assert!(delay.abs_diff(reported) <= 12, "{delay} samples, reported {reported}");
    }

    #[test]
    fn pcm_and_g711_survive_a_round_trip() {
        let pcm = speech(8_000, 8_000);
        for (format, least) in [(Format::pcm16(8_000), 1.0), (Format::PCMU, 0.999), (Format::PCMA, 0.999)] {
            let heard = decode(format, 8_000, &encode(format, 8_000, &PLAIN, 0, &pcm));
            assert_eq!(heard.len(), pcm.len());
            let (likeness, _) = correlation(&pcm, &heard, 0);
            assert!(likeness >= least - 1e-9, "{format}: {likeness}");
        }
        let stereo = Format { channels: 2, ..Format::pcm16(8_000) };
        assert_eq!(decode(stereo, 8_000, &encode(stereo, 8_000, &PLAIN, 0, &pcm)), pcm);
    }

    #[test]
    fn every_format_reaches_every_rate() {
        let rates = [8_000, 12_000, 16_000, 22_050, 24_000, 44_100, 48_000];
        let formats = rates.map(Format::pcm16).into_iter().chain([Format::OPUS, Format::PCMU]);
        for format in formats {
            for rate in rates {
                let pcm = sine(440.0, rate, rate as usize);
                let coded = encode(format, rate, &PLAIN, 0, &pcm);
                let heard = decode(format, rate, &coded);
                let frame = rate as usize / 50;
                assert!(heard.len() + 3 * frame > pcm.len(), "{format} at {rate} Hz: {} samples", heard.len());
                let middle = |pcm: &[i16]| pcm[frame * 10..frame * 40].to_vec();
                let (likeness, _) = correlation(&middle(&pcm), &heard[frame * 10..], rate as usize / 440 + 1);
                assert!(likeness > 0.97, "{format} at {rate} Hz: {likeness}");
            }
        }
    }

    #[test]
    fn opus_encodes_whole_frames_from_44_1_khz() {
        let pcm = speech(44_100, 44_100);
        let coded = encode(Format::OPUS, 44_100, &PLAIN, 0, &pcm);
        assert_eq!(coded.len(), 50);
        assert!(coded.iter().all(|packet| payload_ticks(&Format::OPUS, packet) == Some(960)));
        let mut encoder = Encoder::new(Format::OPUS, 44_100, &PLAIN).unwrap();
        let error = encoder.encode(&pcm[..440], &mut BytesMut::new()).unwrap_err().to_string();
        assert!(error.contains("440"), "{error}");
    }

    #[test]
    fn fec_is_there_only_when_switched_on() {
        let pcm = speech(24_000, 48_000);
        let fec = OpusSettings { fec: true, ..PLAIN };
        let count = |settings: &OpusSettings, loss: u8| {
            encode(Format::OPUS, 24_000, settings, loss, &pcm).iter().filter(|packet| has_lbrr(packet)).count()
        };
        // One of seven syllables is silent, and silence carries no redundancy.
        assert!(count(&fec, 20) > 70, "{} of 100", count(&fec, 20));
        assert_eq!(count(&PLAIN, 20), 0);
        assert_eq!(count(&fec, 0), 0);
    }

    #[test]
    fn fec_is_seen_in_frames_of_any_length_and_mode() {
        let pcm = speech(48_000, 96_000);
        for (max_bandwidth, bitrate) in [(OpusBandwidth::Wide, 48_000), (OpusBandwidth::Full, 40_000)] {
            for ms in [10, 20, 40, 60] {
                let share = |fec: bool| {
                    let settings = OpusSettings { fec, max_bandwidth, bitrate, ..PLAIN };
                    let mut encoder = Encoder::new(Format::OPUS, 48_000, &settings).unwrap();
                    encoder.set_expected_loss(20);
                    let frames = pcm.chunks_exact(48 * ms);
                    let total = frames.len();
                    let mut buffer = BytesMut::new();
                    let with_fec =
                        frames.filter(|frame| has_lbrr(&encoder.encode(frame, &mut buffer).unwrap())).count();
                    with_fec as f64 / total as f64
                };
                assert!(share(true) > 0.6, "{max_bandwidth:?}, {ms} ms: {}", share(true));
                assert_eq!(share(false), 0.0, "{max_bandwidth:?}, {ms} ms");
            }
        }
    }

    #[test]
    fn redundancy_brings_back_the_lost_frame() {
        let pcm = speech(16_000, 16_000);
        let packets = encode(Format::OPUS, 16_000, &OpusSettings { fec: true, bitrate: 64_000, ..PLAIN }, 20, &pcm);
        let whole = decode(Format::OPUS, 16_000, &packets);
        let (mut recovered, mut concealed) = (Vec::new(), Vec::new());
        let lost: Vec<usize> = (3..packets.len() - 1).step_by(4).filter(|&n| has_lbrr(&packets[n + 1])).collect();
        assert!(lost.len() > 6, "{lost:?}");
        for (out, with_fec) in [(&mut recovered, true), (&mut concealed, false)] {
            let mut decoder = Decoder::new(Format::OPUS, 16_000).unwrap();
            for (n, packet) in packets.iter().enumerate() {
                match (lost.contains(&n), with_fec) {
                    (false, _) => decoder.decode(packet, out).unwrap(),
                    (true, true) => decoder.recover(&packets[n + 1], FRAME, out).unwrap(),
                    (true, false) => decoder.conceal(FRAME, out),
                }
            }
            assert_eq!(out.len(), whole.len());
        }
        let likeness = |heard: &[i16]| -> f64 {
            let span = |n: &usize, pcm: &[i16]| pcm[n * 320..(n + 1) * 320].to_vec();
            let join = |pcm: &[i16]| lost.iter().flat_map(|n| span(n, pcm)).collect::<Vec<i16>>();
            correlation(&join(&whole), &join(heard), 0).0
        };
        assert!(likeness(&recovered) > 0.9, "{}", likeness(&recovered));
        assert!(likeness(&recovered) > likeness(&concealed), "{}", likeness(&concealed));
    }

    #[test]
    fn concealment_and_recovery_are_as_long_as_asked() {
        let packets = encode(Format::OPUS, 16_000, &OpusSettings { fec: true, ..PLAIN }, 20, &speech(16_000, 16_000));
        for rate in opus::RATES {
            let mut decoder = Decoder::new(Format::OPUS, rate).unwrap();
            decoder.decode(&packets[0], &mut Vec::new()).unwrap();
            for ms in [1, 2, 5, 10, 19, 20, 40, 60, 100, 120, 130, 500, 3000] {
                let (span, expected) = (Duration::from_millis(ms), rate as usize * ms as usize / 1000);
                let mut pcm = vec![7];
                decoder.conceal(span, &mut pcm);
                assert_eq!(pcm.len(), 1 + expected, "{ms} ms concealed at {rate} Hz");
                decoder.recover(&packets[2], span, &mut pcm).unwrap();
                assert_eq!(pcm.len(), 1 + 2 * expected, "{ms} ms recovered at {rate} Hz");
                assert_eq!(pcm[0], 7);
            }
        }
        let mut pcm = Vec::new();
        let mut decoder = Decoder::new(Format::pcm16(24_000), 24_000).unwrap();
        decoder.conceal(FRAME, &mut pcm);
        decoder.recover(&[0; 960], FRAME, &mut pcm).unwrap();
        assert_eq!(pcm, [0; 960], "without PLC a loss is silence");
    }

    #[test]
    fn stereo_opus_decodes_to_mono() {
        let mut encoder = ::opus::Encoder::new(48_000, ::opus::Channels::Stereo, ::opus::Application::Audio).unwrap();
        encoder.set_force_channels(Some(::opus::Channels::Stereo)).unwrap();
        encoder.set_bitrate(::opus::Bitrate::Bits(128_000)).unwrap();
        let left = sine(440.0, 48_000, 48_000);
        let both: Vec<i16> = left.iter().flat_map(|&sample| [sample, 0]).collect();
        let packets: Vec<Bytes> =
            both.chunks(1920).map(|frame| encoder.encode_vec(frame, 4000).unwrap().into()).collect();
        assert!(Packet::parse(&packets[0]).unwrap().stereo);
        let heard = decode(Format { channels: 2, ..Format::OPUS }, 24_000, &packets);
        assert_eq!(heard.len(), 24_000);
        let mean: Vec<i16> = sine(440.0, 24_000, 24_000).iter().map(|sample| sample / 2).collect();
        let (likeness, delay) = correlation(&mean[2400..12_000], &heard[2400..], 480);
        assert!(likeness > 0.99, "{likeness}");
        let error = mean[2400..].iter().zip(&heard[2400 + delay..]).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(error < 1_000, "{error}: the mean of both channels");
    }

    #[test]
    fn a_malformed_packet_is_refused_and_the_decoder_goes_on() {
        let packets = encode(Format::OPUS, 24_000, &PLAIN, 0, &speech(24_000, 24_000));
        let clean = decode(Format::OPUS, 24_000, &packets);
        let mut decoder = Decoder::new(Format::OPUS, 24_000).unwrap();
        let mut pcm = Vec::new();
        for packet in &packets {
            let before = pcm.len();
            for bad in [&[][..], &[3, 0], &[2, 252], &vec![0; 1277], &[0xff; 9]] {
                let error = decoder.decode(bad, &mut pcm).unwrap_err().to_string();
                assert!(error.contains("not an Opus packet"), "{error}");
                decoder.recover(bad, FRAME, &mut pcm).unwrap_err();
            }
            assert_eq!(pcm.len(), before);
            decoder.decode(packet, &mut pcm).unwrap();
        }
        assert_eq!(pcm, clean);
        let error = Decoder::new(Format::pcm16(24_000), 24_000).unwrap().decode(&[0; 3], &mut pcm).unwrap_err();
        assert!(error.to_string().contains("3 bytes"), "{error}");
    }

    #[test]
    fn a_reset_encoder_is_as_good_as_new() {
        for settings in [
            PLAIN,
            OpusSettings { fec: true, dtx: true, ..PLAIN },
            OpusSettings { max_bandwidth: OpusBandwidth::Full, complexity: 9, bitrate: 96_000, ..PLAIN },
        ] {
            for rate in [16_000, 24_000, 44_100, 48_000] {
                let pcm = speech(rate, rate as usize);
                let fresh = encode(Format::OPUS, rate, &settings, 10, &pcm);
                let mut encoder = Encoder::new(Format::OPUS, rate, &settings).unwrap();
                encoder.set_expected_loss(10);
                let mut buffer = BytesMut::new();
                for frame in pcm[rate as usize / 3..].chunks_exact(rate as usize / 50) {
                    encoder.encode(frame, &mut buffer).unwrap();
                }
                encoder.reset();
                for (n, frame) in pcm.chunks_exact(rate as usize / 50).enumerate() {
                    assert_eq!(encoder.encode(frame, &mut buffer).unwrap(), fresh[n], "frame {n} at {rate} Hz");
                }
            }
        }
    }

    #[test]
    fn an_impossible_frame_is_refused_with_the_possible_ones() {
        let mut encoder = Encoder::new(Format::OPUS, 24_000, &PLAIN).unwrap();
        let mut buffer = BytesMut::new();
        for samples in [0, 1, 480 + 1, 720, 24_000] {
            let error = encoder.encode(&vec![0; samples], &mut buffer).unwrap_err().to_string();
            assert!(error.contains("480 samples (20 ms)"), "{error}");
        }
        for samples in [60, 120, 240, 480, 960, 1440] {
            let packet = encoder.encode(&vec![0; samples], &mut buffer).unwrap();
            assert_eq!(payload_ticks(&Format::OPUS, &packet), Some(2 * samples as u32));
        }
    }

    #[test]
    fn dtx_makes_silence_small() {
        let settings = OpusSettings { dtx: true, ..PLAIN };
        let silence = encode(Format::OPUS, 24_000, &settings, 0, &[0; 48_000]);
        let small = silence.iter().filter(|packet| packet.len() <= 2).count();
        assert!(small > 70, "{small} of 100");
    }

    #[test]
    fn the_bandwidth_limit_is_obeyed() {
        let pcm = speech(48_000, 48_000);
        let configs = |max_bandwidth| -> Vec<u8> {
            let settings = OpusSettings { max_bandwidth, ..PLAIN };
            encode(Format::OPUS, 48_000, &settings, 0, &pcm).iter().map(|packet| packet[0] >> 3).collect()
        };
        assert!(configs(OpusBandwidth::Narrow).iter().all(|config| matches!(config, 0..4 | 16..20)));
        assert!(configs(OpusBandwidth::Wide).iter().all(|config| matches!(config, 0..12 | 16..24)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_bytes_make_a_decoder_panic(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
        ) {
            for format in [Format::OPUS, Format::pcm16(24_000), Format::PCMA] {
                let mut decoder = Decoder::new(format, 24_000).unwrap();
                let mut pcm = Vec::new();
                for payload in &payloads {
                    pcm.clear();
                    let ticks = payload_ticks(&format, payload);
                    has_lbrr(payload);
                    let decoded = decoder.decode(payload, &mut pcm).is_ok();
                    prop_assert!(!decoded || ticks.is_some());
                    if decoded && format.codec == Codec::Opus {
                        prop_assert_eq!(pcm.len() as u32, ticks.unwrap_or(0) / 2);
                    }
                    pcm.clear();
                    if decoder.recover(payload, FRAME, &mut pcm).is_ok() && format.rate != 8_000 {
                        prop_assert_eq!(pcm.len(), 480);
                    }
                }
            }
        }
    }
}
