//! The caller's speech, frame by frame.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::media::format::Format;
use crate::media::transcode::{Encoder, MediaError};
use crate::route::plan::OpusSettings;

/// Length of each frame.
pub const FRAME: Duration = Duration::from_millis(20);
/// A frame whose mean amplitude is below this is silence (about -45 dBov).
const QUIET: u64 = 120;

/// Speech, then silence for as long as it is asked for, encoded in one format.
#[derive(Debug)]
pub struct MicrophoneSource {
    speech: Vec<i16>,
    /// Samples taken.
    at: usize,
    frame: Vec<i16>,
    encoder: Encoder,
    buffer: BytesMut,
}

impl MicrophoneSource {
    /// A microphone that takes in `speech`, mono samples at `rate` Hz, and sends `format`. `rate` must be one that the
    /// format has, so that frames stay 20 ms long.
    ///
    /// # Errors
    /// If the format is not possible.
    pub fn new(speech: Vec<i16>, rate: u32, format: Format) -> Result<MicrophoneSource, MediaError> {
        let settings = OpusSettings { complexity: 9, ..OpusSettings::default() };
        let encoder = Encoder::new(format, rate, &settings)?;
        let frame = vec![0; (u64::from(rate) * FRAME.as_millis() as u64 / 1000) as usize];
        Ok(MicrophoneSource { speech, at: 0, frame, encoder, buffer: BytesMut::new() })
    }

    /// Frames of the speech, the last one padded with silence.
    pub fn frames(&self) -> usize {
        self.speech.len().div_ceil(self.frame.len())
    }

    /// Silence at the end of the speech.
    pub fn trailing_silence(&self) -> Duration {
        let loud =
            |frame: &[i16]| frame.iter().map(|s| u64::from(s.unsigned_abs())).sum::<u64>() > QUIET * frame.len() as u64;
        let frames = self.speech.chunks(self.frame.len());
        FRAME * frames.rev().take_while(|frame| !loud(frame)).count() as u32
    }

    /// The next frame of the speech; `None` after its end.
    ///
    /// # Errors
    /// If the encoder refuses.
    pub fn speech(&mut self) -> Result<Option<Bytes>, MediaError> {
        let left = &self.speech[self.at..];
        if left.is_empty() {
            return Ok(None);
        }
        let taken = left.len().min(self.frame.len());
        self.frame[..taken].copy_from_slice(&left[..taken]);
        self.frame[taken..].fill(0);
        self.at += taken;
        self.encoder.encode(&self.frame, &mut self.buffer).map(Some)
    }

    /// A frame of silence.
    ///
    /// # Errors
    /// If the encoder refuses.
    pub fn silence(&mut self) -> Result<Bytes, MediaError> {
        self.frame.fill(0);
        self.encoder.encode(&self.frame, &mut self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_is_padded_and_then_only_silence_follows() {
        let mut source = MicrophoneSource::new(vec![1000; 500], 24_000, Format::pcm16(24_000)).expect("format");
        assert_eq!(source.frames(), 2);
        let first = source.speech().expect("encodes").expect("speech");
        assert_eq!((first.len(), &first[..2]), (960, &1000i16.to_le_bytes()[..]));
        let second = source.speech().expect("encodes").expect("speech");
        assert_eq!((&second[38..40], &second[40..42]), (&1000i16.to_le_bytes()[..], &[0u8, 0][..]));
        assert!(source.speech().expect("encodes").is_none());
        assert!(source.silence().expect("encodes").iter().all(|byte| *byte == 0));
    }

    #[test]
    fn silence_at_the_end_is_found() {
        let mut speech = vec![3000; 960];
        speech.extend([0; 2400]);
        let source = MicrophoneSource::new(speech, 24_000, Format::OPUS).expect("format");
        assert_eq!(source.trailing_silence(), Duration::from_millis(100));
    }
}
