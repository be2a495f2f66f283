//! Audio files as byte slices: WAV, and Opus in Ogg (RFC 7845).

use std::borrow::Cow;
use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use hound::SampleFormat;
use ogg::{OggReadError, PacketReader, PacketWriteEndInfo, PacketWriter};

use crate::media::opus::OpusDecoder;
use crate::media::packet::Packet;
use crate::media::pcm::downmix;
use crate::media::resample::Resampler;
use crate::media::transcode::MediaError;

/// Rate of positions in Ogg Opus, in Hz (RFC 7845 section 4).
const OGG_CLOCK: u32 = 48_000;
/// Longest clip, in seconds: some bytes of Opus can stand for much more audio than they should cost memory.
const LONGEST: u64 = 3600;
/// Packets on one Ogg page: a second of 20 ms each.
const PACKETS_PER_PAGE: usize = 50;
const CONVERT: &str = "convert it with `ffmpeg -i FILE -ac 1 -ar 24000 out.wav`";

/// A piece of mono audio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// Samples per second, in Hz.
    pub rate: u32,
    /// The samples.
    pub samples: Vec<i16>,
}

impl Clip {
    /// Reads a WAV file (any bit depth, one or two channels) or an Ogg Opus file (given at 48 kHz); two channels are
    /// averaged.
    ///
    /// # Errors
    /// If it is neither or damaged; the message says how to convert it.
    pub fn parse(bytes: &[u8]) -> Result<Clip, MediaError> {
        match bytes {
            [b'R', b'I', b'F', b'F', ..] => from_wav(bytes),
            [b'O', b'g', b'g', b'S', ..] => OggOpus::parse(bytes)?.decode(),
            _ => Err(MediaError::File(format!(
                "neither a WAV (RIFF) nor an Ogg Opus (OggS) file: it begins with {:02x?}; {CONVERT}",
                &bytes[..bytes.len().min(4)]
            ))),
        }
    }

    /// The clip as a WAV file: PCM16, mono.
    pub fn to_wav(&self) -> Vec<u8> {
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        let data = 2 * self.samples.len();
        let mut wav = Vec::with_capacity(44 + data);
        wav.extend(b"RIFF");
        wav.extend(size(36 + data));
        wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
        wav.extend(self.rate.to_le_bytes());
        wav.extend((2 * self.rate).to_le_bytes());
        wav.extend(b"\x02\0\x10\0data");
        wav.extend(size(data));
        wav.extend(self.samples.iter().flat_map(|sample| sample.to_le_bytes()));
        wav
    }

    /// The clip at another rate, neither delayed nor longer.
    ///
    /// # Errors
    /// If there is no conversion between the two rates.
    pub fn resampled(&self, rate: u32) -> Result<Clip, MediaError> {
        if rate == self.rate {
            return Ok(self.clone());
        }
        let mut resampler = Resampler::new(self.rate, rate)?;
        let mut samples = Vec::new();
        resampler.process(&self.samples, &mut samples);
        resampler.flush(&mut samples);
        samples.drain(..resampler.delay_samples().min(samples.len()));
        Ok(Clip { rate, samples })
    }

    /// How long it takes to play.
    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.samples.len() as u64 * 1_000_000 / u64::from(self.rate.max(1)))
    }
}

fn from_wav(bytes: &[u8]) -> Result<Clip, MediaError> {
    let wrong =
        |why: &dyn std::fmt::Display| MediaError::File(format!("not a WAV file that can be read: {why}; {CONVERT}"));
    let mut reader = hound::WavReader::new(Cursor::new(with_true_length(bytes))).map_err(|error| wrong(&error))?;
    let spec = reader.spec();
    if !matches!(spec.channels, 1 | 2) {
        return Err(wrong(&format_args!("it has {} channels, 1 or 2 are possible", spec.channels)));
    }
    if spec.sample_rate == 0 {
        return Err(wrong(&"its rate is 0 Hz"));
    }
    let read: Result<Vec<i16>, hound::Error> = match (spec.sample_format, spec.bits_per_sample) {
        (SampleFormat::Float, _) => {
            reader.samples::<f32>().map(|sample| Ok((sample? * 32_768.0).round() as i16)).collect()
        }
        (SampleFormat::Int, 16) => reader.samples::<i16>().collect(),
        (SampleFormat::Int, bits) => {
            let to_16 = move |sample: i32| if bits < 16 { sample << (16 - bits) } else { sample >> (bits - 16) } as i16;
            reader.samples::<i32>().map(|sample| Ok(to_16(sample?))).collect()
        }
    };
    let mut samples = read.map_err(|error| wrong(&error))?;
    if spec.channels == 2 {
        samples = samples.as_chunks::<2>().0.iter().map(|&[left, right]| downmix(left, right)).collect();
    }
    Ok(Clip { rate: spec.sample_rate, samples })
}

/// The file with the length that its sound really has: a program that writes to a pipe does not know it beforehand and
/// claims more.
fn with_true_length(bytes: &[u8]) -> Cow<'_, [u8]> {
    let field = |at: usize| bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).map(u32::from_le_bytes);
    let mut at = 12;
    let mut frame = 1;
    while let Some(length) = field(at + 4) {
        let length = length as usize;
        let there = bytes.len() - at - 8;
        match &bytes[at..at + 4] {
            b"data" if length <= there => break,
            b"data" => {
                let whole = there - there % frame;
                let mut repaired = bytes[..at + 8 + whole].to_vec();
                repaired[at + 4..at + 8].copy_from_slice(&(whole as u32).to_le_bytes());
                return Cow::Owned(repaired);
            }
            // The bytes of one sample of all channels.
            b"fmt " => frame = bytes.get(at + 20).map_or(1, |&block_align| usize::from(block_align).max(1)),
            _ => {}
        }
        at += 8 + length.saturating_add(length % 2).min(there);
    }
    Cow::Borrowed(bytes)
}

/// An Opus stream in Ogg (RFC 7845), mono or stereo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OggOpus {
    /// Channels of the original, 1 or 2.
    pub channels: u8,
    /// Samples at 48 kHz to discard at the beginning: the look-ahead of the encoder.
    pub pre_skip: u16,
    /// Rate of the original in Hz, for information; 0 if not known.
    pub input_rate: u32,
    /// Gain to apply, in 1/256 dB.
    pub gain: i16,
    /// The packets.
    pub packets: Vec<Bytes>,
    /// Samples at 48 kHz from the first packet to the end, `pre_skip` included; `None` if all of the last packet counts.
    pub end: Option<u64>,
}

impl OggOpus {
    /// A mono stream of `packets` whose encoder looked `lookahead` ahead.
    pub fn new(packets: Vec<Bytes>, lookahead: Duration) -> OggOpus {
        let pre_skip = (lookahead.as_micros() * u128::from(OGG_CLOCK)).div_ceil(1_000_000);
        let pre_skip = u16::try_from(pre_skip).unwrap_or(u16::MAX);
        OggOpus { channels: 1, pre_skip, input_rate: 0, gain: 0, packets, end: None }
    }

    /// Just the Opus packets of an Ogg Opus file.
    ///
    /// # Errors
    /// As for [`OggOpus::parse`].
    pub fn packets(bytes: &[u8]) -> Result<Vec<Bytes>, MediaError> {
        OggOpus::parse(bytes).map(|stream| stream.packets)
    }

    /// Reads the first logical stream of a file, which has to be Opus; others are left out.
    ///
    /// # Errors
    /// If it is damaged or holds something else than Opus with one or two channels.
    pub fn parse(bytes: &[u8]) -> Result<OggOpus, MediaError> {
        let mut reader = PacketReader::new(Cursor::new(bytes));
        let head = reader.read_packet_expected().map_err(damaged)?;
        let serial = head.stream_serial();
        let mut stream = opus_head(&head.data)?;
        let mut tags_seen = false;
        let mut last_granule = None;
        let mut ticks = 0;
        while let Some(packet) = reader.read_packet().map_err(damaged)? {
            if packet.stream_serial() != serial {
                continue;
            }
            if !tags_seen {
                if !packet.data.starts_with(b"OpusTags") {
                    return Err(not_opus("its second packet is not `OpusTags` (RFC 7845 section 5.2)"));
                }
                tags_seen = true;
                continue;
            }
            last_granule = Some(packet.absgp_page()).filter(|&granule| granule != u64::MAX).or(last_granule);
            let number = stream.packets.len() + 1;
            let length = Packet::parse(&packet.data).map(|packet| u64::from(packet.ticks()));
            ticks += length.ok_or_else(|| not_opus(&format!("packet {number} is not an Opus packet")))?;
            if ticks > LONGEST * u64::from(OGG_CLOCK) {
                return Err(MediaError::File(format!("longer than {LONGEST} s; use a shorter file")));
            }
            stream.packets.push(packet.data.into());
        }
        // A file that begins in the middle of a broadcast counts from elsewhere: its last page trims nothing then.
        stream.end = last_granule.filter(|&end| end < ticks);
        Ok(stream)
    }

    /// The stream as an Ogg file, with `serial` to name it.
    pub fn to_bytes(&self, serial: u32) -> Vec<u8> {
        let mut head = b"OpusHead\x01".to_vec();
        head.push(self.channels);
        head.extend(self.pre_skip.to_le_bytes());
        head.extend(self.input_rate.to_le_bytes());
        head.extend(self.gain.to_le_bytes());
        head.push(0);
        let vendor = b"antiphon";
        let mut tags = b"OpusTags".to_vec();
        tags.extend((vendor.len() as u32).to_le_bytes());
        tags.extend(vendor);
        tags.extend([0; 4]);

        let mut file = Vec::new();
        let mut writer = PacketWriter::new(&mut file);
        let mut write = |packet: Cow<'_, [u8]>, end: PacketWriteEndInfo, granule: u64| {
            let done = writer.write_packet(packet.into_owned(), serial, end, granule);
            debug_assert!(done.is_ok(), "a Vec takes all bytes");
        };
        write(head.into(), PacketWriteEndInfo::EndPage, 0);
        write(tags.into(), PacketWriteEndInfo::EndPage, 0);
        let mut granule = 0;
        for (n, packet) in self.packets.iter().enumerate() {
            granule += Packet::parse(packet).map_or(0, |packet| u64::from(packet.ticks()));
            let (end, at) = match n + 1 {
                last if last == self.packets.len() => (PacketWriteEndInfo::EndStream, self.end.unwrap_or(granule)),
                n if n % PACKETS_PER_PAGE == 0 => (PacketWriteEndInfo::EndPage, granule),
                _ => (PacketWriteEndInfo::NormalPacket, granule),
            };
            write(packet.as_ref().into(), end, at);
        }
        file
    }

    /// Decodes the stream at 48 kHz, with what precedes and follows it cut off (RFC 7845 sections 4.2 and 4.4).
    ///
    /// # Errors
    /// If a packet is damaged.
    pub fn decode(&self) -> Result<Clip, MediaError> {
        let mut decoder = OpusDecoder::new(OGG_CLOCK)?;
        decoder.set_gain(self.gain)?;
        let mut samples = Vec::new();
        for (n, packet) in self.packets.iter().enumerate() {
            decoder
                .decode(packet, &mut samples)
                .map_err(|error| MediaError::File(format!("packet {} is damaged: {error}", n + 1)))?;
        }
        if let Some(end) = self.end {
            samples.truncate(usize::try_from(end).unwrap_or(usize::MAX));
        }
        samples.drain(..usize::from(self.pre_skip).min(samples.len()));
        Ok(Clip { rate: OGG_CLOCK, samples })
    }
}

/// Reads `OpusHead` (RFC 7845 section 5.1).
fn opus_head(head: &[u8]) -> Result<OggOpus, MediaError> {
    let Some(fields) = head.strip_prefix(b"OpusHead") else {
        return Err(not_opus("its first packet is not `OpusHead` (RFC 7845 section 5.1)"));
    };
    let [version, channels, skip_low, skip_high, r0, r1, r2, r3, gain_low, gain_high, family, ..] = *fields else {
        return Err(not_opus("its `OpusHead` is cut short"));
    };
    if version >> 4 != 0 {
        return Err(not_opus(&format!("its version is {version}, below 16 is possible")));
    }
    if family != 0 || !matches!(channels, 1 | 2) {
        return Err(not_opus(&format!("it has {channels} channels (mapping family {family}), 1 or 2 are possible")));
    }
    Ok(OggOpus {
        channels,
        pre_skip: u16::from_le_bytes([skip_low, skip_high]),
        input_rate: u32::from_le_bytes([r0, r1, r2, r3]),
        gain: i16::from_le_bytes([gain_low, gain_high]),
        packets: Vec::new(),
        end: None,
    })
}

fn not_opus(why: &str) -> MediaError {
    MediaError::File(format!("not an Ogg Opus file that can be read: {why}; {CONVERT}"))
}

fn damaged(error: OggReadError) -> MediaError {
    MediaError::File(match error {
        OggReadError::ReadError(error) => format!("the Ogg file is cut short: {error}; copy it anew"),
        error => format!("the Ogg file is damaged: {error}; copy it anew"),
    })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::media::fixture::{correlation, sine, speech};
    use crate::media::format::Format;
    use crate::media::transcode::Encoder;
    use crate::route::plan::OpusSettings;

    fn ogg(pcm: &[i16]) -> OggOpus {
        let mut encoder = Encoder::new(Format::OPUS, 48_000, &OpusSettings::default()).unwrap();
        let mut buffer = BytesMut::new();
        let packets = pcm.chunks_exact(960).map(|frame| encoder.encode(frame, &mut buffer).unwrap()).collect();
        OggOpus::new(packets, encoder.delay())
    }

    fn wav(spec: hound::WavSpec, write: impl FnOnce(&mut hound::WavWriter<&mut Cursor<Vec<u8>>>)) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
        write(&mut writer);
        writer.finalize().unwrap();
        file.into_inner()
    }

    fn spec(channels: u16, bits_per_sample: u16, sample_format: SampleFormat) -> hound::WavSpec {
        hound::WavSpec { channels, sample_rate: 22_050, bits_per_sample, sample_format }
    }

    #[test]
    fn a_clip_reads_back_as_it_was_written() {
        let clip = Clip { rate: 16_000, samples: vec![0, 1, -1, i16::MAX, i16::MIN] };
        assert_eq!(Clip::parse(&clip.to_wav()).unwrap(), clip);
        assert_eq!(Clip { rate: 24_000, samples: vec![0; 480] }.duration(), Duration::from_millis(20));
        let empty = Clip { rate: 8_000, samples: Vec::new() };
        assert_eq!(Clip::parse(&empty.to_wav()).unwrap(), empty);
    }

    #[test]
    fn stereo_and_other_depths_become_mono_16_bit() {
        let stereo = wav(spec(2, 16, SampleFormat::Int), |wav| {
            [100i16, 300, -5, -7].into_iter().for_each(|sample| wav.write_sample(sample).unwrap());
        });
        assert_eq!(Clip::parse(&stereo).unwrap(), Clip { rate: 22_050, samples: vec![200, -6] });
        let deep = wav(spec(1, 24, SampleFormat::Int), |wav| {
            [256_000i32, -256_000].into_iter().for_each(|sample| wav.write_sample(sample).unwrap());
        });
        assert_eq!(Clip::parse(&deep).unwrap().samples, [1000, -1000]);
        let float = wav(spec(1, 32, SampleFormat::Float), |wav| {
            [0.5f32, -2.0].into_iter().for_each(|sample| wav.write_sample(sample).unwrap());
        });
        assert_eq!(Clip::parse(&float).unwrap().samples, [16_384, i16::MIN]);
    }

    #[test]
    fn a_wav_file_written_to_a_pipe_is_read_to_its_end() {
        let clip = Clip { rate: 22_050, samples: vec![1, 2, 3] };
        for claimed in [0x7fff_f000u32, 0xffff_ffff, 8] {
            let mut file = clip.to_wav();
            file[40..44].copy_from_slice(&claimed.to_le_bytes());
            assert_eq!(Clip::parse(&file).unwrap(), clip, "{claimed:#x}");
            file.push(9);
            assert_eq!(Clip::parse(&file).unwrap().samples[..3], clip.samples, "{claimed:#x} with half a sample");
        }
    }

    #[test]
    fn what_is_no_audio_file_is_refused_with_a_way_out() {
        let mut surround = wav(spec(6, 16, SampleFormat::Int), |_| ());
        for (bytes, says) in [
            (&b"ID3\x04mp3"[..], "begins with [49, 44, 33, 04]"),
            (b"", "neither"),
            (b"RIFF", "WAV"),
            (b"RIFF\x08\0\0\0WAVEdata", "WAV"),
            (&surround, "6 channels"),
        ] {
            let error = Clip::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("ffmpeg"), "{error}");
        }
        surround.truncate(30);
        Clip::parse(&surround).unwrap_err();
    }

    #[test]
    fn an_ogg_opus_file_reads_back_as_it_was_written() {
        let stream = ogg(&speech(48_000, 48_000 * 3));
        assert_eq!(stream.pre_skip, 312);
        let file = stream.to_bytes(7);
        assert_eq!(OggOpus::parse(&file).unwrap(), stream);
        assert_eq!(OggOpus::packets(&file).unwrap(), stream.packets);
        let clip = Clip::parse(&file).unwrap();
        assert_eq!((clip.rate, clip.samples.len()), (48_000, 48_000 * 3 - 312));
        let (likeness, delay) = correlation(&speech(48_000, 24_000), &clip.samples, 100);
        assert!(likeness > 0.85 && delay <= 30, "{likeness} at {delay}: the look-ahead is cut off");
    }

    #[test]
    fn the_last_page_and_the_gain_of_an_ogg_opus_file_are_obeyed() {
        let whole = ogg(&speech(48_000, 48_000));
        let loud = |gain: i16| -> f64 {
            let stream = OggOpus { gain, end: Some(40_000), ..whole.clone() };
            let clip = Clip::parse(&stream.to_bytes(1)).unwrap();
            assert_eq!(clip.samples.len(), 40_000 - 312);
            clip.samples.iter().map(|&sample| f64::from(sample).powi(2)).sum()
        };
        let decibels = 10.0 * (loud(-6 * 256) / loud(0)).log10();
        assert!((decibels + 6.0).abs() < 0.1, "{decibels} dB");
    }

    #[test]
    fn a_damaged_ogg_file_is_refused_with_the_place() {
        let stream = ogg(&speech(48_000, 48_000));
        let file = stream.to_bytes(1);
        let error = |bytes: &[u8]| Clip::parse(bytes).unwrap_err().to_string();
        let mut flipped = file.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(error(&flipped).contains("damaged"), "{}", error(&flipped));
        assert!(error(&file[..file.len() - 10]).contains("cut short"), "{}", error(&file[..file.len() - 10]));
        let bad = OggOpus { packets: vec![stream.packets[0].clone(), Bytes::from_static(&[3, 0])], ..stream.clone() };
        assert!(error(&bad.to_bytes(1)).contains("packet 2"), "{}", error(&bad.to_bytes(1)));
        let surround = OggOpus { channels: 6, ..stream };
        assert!(error(&surround.to_bytes(1)).contains("6 channels"), "{}", error(&surround.to_bytes(1)));
    }

    #[test]
    fn a_resampled_clip_is_neither_delayed_nor_longer() {
        let clip = Clip { rate: 22_050, samples: speech(22_050, 22_050) };
        for rate in [8_000, 16_000, 24_000, 44_100, 48_000] {
            let other = clip.resampled(rate).unwrap();
            assert_eq!((other.rate, other.samples.len()), (rate, rate as usize));
            let (likeness, delay) = correlation(&speech(rate, rate as usize), &other.samples, 10);
            assert!(likeness > 0.9 && delay <= 3, "{rate} Hz: {likeness} at {delay}");
        }
        assert_eq!(clip.resampled(22_050).unwrap(), clip);
        assert!(clip.resampled(1).is_err());
        let tiny = Clip { rate: 24_000, samples: sine(100.0, 24_000, 3) };
        assert_eq!(tiny.resampled(16_000).unwrap().samples.len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_file_makes_it_panic(
            at in prop::collection::vec((0usize..600, any::<u8>()), 0..12),
            keep in 0usize..700,
            kind in 0u8..2,
        ) {
            let mut file = match kind {
                0 => Clip { rate: 8_000, samples: vec![5; 300] }.to_wav(),
                _ => OggOpus::new(vec![Bytes::from_static(&[0xf8, 0xff, 0xfe]); 60], Duration::ZERO).to_bytes(3),
            };
            for (at, byte) in at {
                if let Some(slot) = file.get_mut(at) {
                    *slot = byte;
                }
            }
            file.truncate(keep);
            let _ = Clip::parse(&file);
        }

        #[test]
        fn no_packet_in_a_file_makes_it_panic(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..4),
            head in prop::collection::vec(any::<u8>(), 0..14),
            end in any::<u64>(),
        ) {
            let _ = opus_head(&[&b"OpusHead"[..], &head].concat());
            let packets = packets.into_iter().map(Bytes::from).collect();
            let stream = OggOpus { end: Some(end), ..OggOpus::new(packets, Duration::ZERO) };
            let _ = stream.decode();
            let _ = Clip::parse(&stream.to_bytes(1));
        }
    }
}
