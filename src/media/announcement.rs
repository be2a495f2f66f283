//! What the relay says by itself: an audio file as it is handed to the playout.

use std::time::Duration;

use bytes::Bytes;

use crate::media::clip::{Clip, OggOpus};
use crate::media::format::Format;
use crate::media::transcode::{MediaError, payload_ticks};

/// The apology that comes with antiphon (`assets/README.md`).
const APOLOGY: &[u8] = include_bytes!("../../assets/apology.ogg");
/// Its request for a moment's patience.
const MOMENT: &[u8] = include_bytes!("../../assets/moment.ogg");
/// A rate that every codec of a client has or converts well.
const COMMON_RATE: u32 = 24_000;
/// Length of one run of PCM.
const RUN: Duration = Duration::from_millis(100);

/// An audio file in pieces that can be played: Ogg Opus packet by packet, WAV as PCM16 at the file's own rate (24 kHz
/// where that is no rate of ours).
#[derive(Clone, PartialEq)]
pub struct Announcement {
    format: Format,
    runs: Vec<Bytes>,
    length: Duration,
}

impl Announcement {
    /// Reads the bytes of a WAV or Ogg Opus file.
    ///
    /// # Errors
    /// If it is neither or damaged; the message says how to convert it.
    pub fn parse(file: &[u8]) -> Result<Announcement, MediaError> {
        let (format, runs) = if file.starts_with(b"OggS") { opus(file)? } else { pcm(file)? };
        let ticks: u64 = runs.iter().filter_map(|run| payload_ticks(&format, run)).map(u64::from).sum();
        Ok(Announcement { format, runs, length: format.ticks_to_time(ticks) })
    }

    /// "Nobody can speak with you right now": what a `clip` agent without a file says.
    ///
    /// # Errors
    /// None but those of a damaged build.
    pub fn apology() -> Result<Announcement, MediaError> {
        Announcement::parse(APOLOGY)
    }

    /// "One moment, please."
    ///
    /// # Errors
    /// None but those of a damaged build.
    pub fn moment() -> Result<Announcement, MediaError> {
        Announcement::parse(MOMENT)
    }

    /// The format of its pieces.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its pieces, in order.
    pub fn runs(&self) -> &[Bytes] {
        &self.runs
    }

    /// How long it takes.
    pub fn length(&self) -> Duration {
        self.length
    }
}

impl std::fmt::Debug for Announcement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Announcement({}, {:?})", self.format, self.length)
    }
}

fn opus(file: &[u8]) -> Result<(Format, Vec<Bytes>), MediaError> {
    OggOpus::packets(file).map(|packets| (Format::OPUS, packets))
}

fn pcm(file: &[u8]) -> Result<(Format, Vec<Bytes>), MediaError> {
    let clip = Clip::parse(file)?;
    let possible = Format::pcm16(clip.rate).check().is_ok();
    let clip = if possible { clip } else { clip.resampled(COMMON_RATE)? };
    let format = Format::pcm16(clip.rate);
    let bytes = Bytes::from_iter(clip.samples.iter().flat_map(|sample| sample.to_le_bytes()));
    let run = format.time_to_ticks(RUN) as usize * 2;
    let slices = (0..bytes.len()).step_by(run).map(|at| bytes.slice(at..bytes.len().min(at + run)));
    Ok((format, slices.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(rate: u32, samples: usize) -> Vec<u8> {
        Clip { rate, samples: (0..samples).map(|n| n as i16).collect() }.to_wav()
    }

    #[test]
    fn a_wav_file_keeps_its_rate_and_its_samples() {
        let announcement = Announcement::parse(&wav(16_000, 4000)).unwrap();
        assert_eq!((announcement.format(), announcement.length()), (Format::pcm16(16_000), Duration::from_millis(250)));
        let samples: Vec<u8> = (0..4000).flat_map(|n| (n as i16).to_le_bytes()).collect();
        assert_eq!(announcement.runs().concat(), samples);
    }

    #[test]
    fn an_odd_rate_is_converted() {
        let announcement = Announcement::parse(&wav(11_025, 11_025)).unwrap();
        assert_eq!((announcement.format(), announcement.length()), (Format::pcm16(24_000), Duration::from_secs(1)));
    }

    #[test]
    fn what_comes_with_antiphon_is_opus_of_the_length_that_it_should_have() {
        let (apology, moment) = (Announcement::apology().unwrap(), Announcement::moment().unwrap());
        assert_eq!((apology.format(), moment.format()), (Format::OPUS, Format::OPUS));
        assert!((3..8).contains(&apology.length().as_secs()), "{apology:?}");
        assert!((1000..2000).contains(&moment.length().as_millis()), "{moment:?}");
    }

    #[test]
    fn what_is_no_audio_file_is_refused() {
        assert!(Announcement::parse(b"<html>").is_err() && Announcement::parse(b"OggS\0").is_err());
    }
}
