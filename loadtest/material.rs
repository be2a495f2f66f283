//! What is said: recorded speech, cut into frames of 20 ms, coded beforehand.

use std::time::Duration;

use antiphon::media::clip::Clip;
use antiphon::media::format::Format;
use antiphon::media::transcode::{Encoder, MediaError};
use antiphon::route::plan::OpusSettings;
use bytes::{Bytes, BytesMut};

use crate::machine::thread_cpu;

/// Length of a frame.
pub const FRAME: Duration = Duration::from_millis(20);
/// The agents' format.
pub const AGENT: Format = Format::pcm16(24_000);
const CALLER_VOICE: &[u8] = include_bytes!("../assets/speech.ogg");
const AGENT_VOICE: &[u8] = include_bytes!("../assets/story.ogg");

/// A voice as it goes over one wire, played in a loop.
#[derive(Clone, Debug)]
pub struct Voice {
    /// How it is coded.
    pub format: Format,
    frames: Vec<Bytes>,
}

impl Voice {
    /// What the callers say, in `format`.
    ///
    /// # Errors
    /// If `format` cannot be served.
    pub fn caller(format: Format) -> Result<Voice, MediaError> {
        Voice::new(CALLER_VOICE, format)
    }

    /// What the agents say, in `format`.
    ///
    /// # Errors
    /// If `format` cannot be served.
    pub fn agent(format: Format) -> Result<Voice, MediaError> {
        Voice::new(AGENT_VOICE, format)
    }

    fn new(recording: &[u8], format: Format) -> Result<Voice, MediaError> {
        let clip = Clip::parse(recording)?.resampled(format.rate)?;
        let mut encoder = Encoder::new(format, format.rate, &OpusSettings::default())?;
        let mut buffer = BytesMut::new();
        let samples = format.rate as usize / 50;
        let frames = clip.samples.chunks_exact(samples).map(|frame| encoder.encode(frame, &mut buffer));
        Ok(Voice { format, frames: frames.collect::<Result<_, _>>()? })
    }

    /// The `n`th frame of the `call`th call; each call begins elsewhere.
    pub fn frame(&self, call: usize, n: u64) -> Bytes {
        let at = (call as u64 * 37 + n) % self.frames.len() as u64;
        self.frames[at as usize].clone()
    }

    /// Ticks of the format's clock in a frame.
    pub fn ticks(&self) -> u64 {
        self.format.time_to_ticks(FRAME)
    }
}

/// What libopus alone costs: the callers' packets decoded and the agents' frames encoded, each call with codecs of its
/// own, in the order in which the swarm sends them.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Libopus {
    /// CPU time of one frame decoded, in microseconds.
    pub decode_us: f64,
    /// CPU time of one frame encoded, in microseconds.
    pub encode_us: f64,
}

impl Libopus {
    /// Measures `frames` frames of each of `calls` calls, on the core on which this thread runs.
    ///
    /// # Errors
    /// If libopus refuses a setting.
    pub fn measure(calls: usize, frames: u64, caller: &Voice, agent: &Voice) -> Result<Libopus, opus::Error> {
        let mut decoders =
            (0..calls).map(|_| opus::Decoder::new(AGENT.rate, opus::Channels::Mono)).collect::<Result<Vec<_>, _>>()?;
        let mut encoders = (0..calls).map(|_| encoder()).collect::<Result<Vec<_>, _>>()?;
        let pcm: Vec<Vec<i16>> = agent.frames.iter().map(|frame| samples(frame)).collect();
        let (mut heard, mut packet) = ([0; 2880], [0; 1276]);
        let (mut decoding, mut encoding) = (Duration::ZERO, Duration::ZERO);
        // The first frames warm up caches and the encoders' own adaptation, and do not count.
        let warm_up = frames / 10;
        for n in 0..warm_up + frames {
            let begun = thread_cpu();
            for (call, decoder) in decoders.iter_mut().enumerate() {
                decoder.decode(&caller.frame(call, n), &mut heard, false)?;
            }
            let decoded = thread_cpu();
            for (call, encoder) in encoders.iter_mut().enumerate() {
                encoder.encode(&pcm[(call * 37 + n as usize) % pcm.len()], &mut packet)?;
            }
            if n >= warm_up {
                decoding += decoded - begun;
                encoding += thread_cpu() - decoded;
            }
        }
        let per_frame = |spent: Duration| spent.as_secs_f64() * 1e6 / (frames as f64 * calls as f64);
        Ok(Libopus { decode_us: per_frame(decoding), encode_us: per_frame(encoding) })
    }

    /// What is left when two measurements are averaged.
    pub fn mean(self, other: Libopus) -> Libopus {
        Libopus {
            decode_us: f64::midpoint(self.decode_us, other.decode_us),
            encode_us: f64::midpoint(self.encode_us, other.encode_us),
        }
    }
}

/// libopus as the daemon sets it up by default.
///
/// # Errors
/// If libopus refuses a setting.
pub fn encoder() -> Result<opus::Encoder, opus::Error> {
    let settings = OpusSettings::default();
    let mut encoder = opus::Encoder::new(AGENT.rate, opus::Channels::Mono, opus::Application::Voip)?;
    encoder.set_complexity(settings.complexity.into())?;
    encoder.set_bitrate(opus::Bitrate::Bits(settings.bitrate as i32))?;
    encoder.set_max_bandwidth(opus::Bandwidth::Wideband)?;
    Ok(encoder)
}

/// PCM16 little-endian as samples.
pub fn samples(bytes: &[u8]) -> Vec<i16> {
    bytes.as_chunks::<2>().0.iter().map(|&pair| i16::from_le_bytes(pair)).collect()
}

#[cfg(test)]
mod tests {
    use antiphon::media::transcode::Decoder;

    use super::*;

    #[test]
    fn both_voices_are_speech_and_not_silence() {
        let agent = Voice::agent(AGENT).unwrap();
        assert!(agent.frames.len() > 250 && agent.frames.iter().all(|frame| frame.len() == 960));
        let loud = agent.frames.iter().filter(|frame| samples(frame).iter().any(|sample| sample.abs() > 1000)).count();
        assert!(loud * 2 > agent.frames.len(), "{loud} of {} frames are voiced", agent.frames.len());
        let caller = Voice::caller(Format::OPUS).unwrap();
        let mut decoder = Decoder::new(Format::OPUS, 24_000).unwrap();
        let mut pcm = Vec::new();
        for n in 0..caller.frames.len() as u64 {
            decoder.decode(&caller.frame(0, n), &mut pcm).unwrap();
        }
        assert_eq!(pcm.len(), caller.frames.len() * 480);
    }
}
