//! Audio formats as values.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How samples are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Opus (RFC 6716), one packet per frame.
    Opus,
    /// Signed 16-bit little-endian linear PCM, interleaved.
    Pcm16,
    /// G.711 µ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
}

/// A codec, its sampling rate in Hz and its channel count.
///
/// Two equal formats need no transcoding. For Opus `rate` is the rate at which libopus decodes or encodes
/// (8, 12, 16, 24 or 48 kHz); the RTP clock is 48 kHz whatever it is (RFC 7587 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Format {
    /// How samples are coded.
    pub codec: Codec,
    /// Samples per second and channel, in Hz.
    pub rate: u32,
    /// Interleaved channels: 1 or 2.
    #[serde(default = "mono")]
    pub channels: u8,
}

fn mono() -> u8 {
    1
}

impl Format {
    /// Opus at 48 kHz, mono: what browsers send.
    pub const OPUS: Format = Format { codec: Codec::Opus, rate: 48_000, channels: 1 };
    /// G.711 µ-law at 8 kHz, mono.
    pub const PCMU: Format = Format { codec: Codec::Pcmu, rate: 8_000, channels: 1 };
    /// G.711 A-law at 8 kHz, mono.
    pub const PCMA: Format = Format { codec: Codec::Pcma, rate: 8_000, channels: 1 };

    /// Mono PCM16 little-endian at `rate` Hz.
    pub const fn pcm16(rate: u32) -> Format {
        Format { codec: Codec::Pcm16, rate, channels: 1 }
    }

    /// Ticks per second of positions and RTP timestamps in this format: 48 kHz for Opus (RFC 7587), else the rate.
    pub const fn clock(&self) -> u32 {
        match self.codec {
            Codec::Opus => 48_000,
            _ => self.rate,
        }
    }

    /// Bytes of `span` in this format, or `None` for Opus, whose packets have no fixed size.
    pub fn bytes_in(&self, span: Duration) -> Option<usize> {
        let samples = (span.as_micros() as u64 * u64::from(self.rate) / 1_000_000) as usize;
        self.bytes_per_sample().map(|bytes| samples * bytes)
    }

    /// Bytes of one sample of all channels, or `None` for Opus.
    pub const fn bytes_per_sample(&self) -> Option<usize> {
        match self.codec {
            Codec::Opus => None,
            Codec::Pcm16 => Some(2 * self.channels as usize),
            Codec::Pcmu | Codec::Pcma => Some(self.channels as usize),
        }
    }

    /// Time that `ticks` of [`Format::clock`] take.
    pub fn ticks_to_time(&self, ticks: u64) -> Duration {
        Duration::from_micros(ticks * 1_000_000 / u64::from(self.clock()))
    }

    /// Ticks of [`Format::clock`] in `span`.
    pub fn time_to_ticks(&self, span: Duration) -> u64 {
        span.as_micros() as u64 * u64::from(self.clock()) / 1_000_000
    }

    /// Whether antiphon can decode and encode this format.
    ///
    /// # Errors
    /// The reason why it cannot, with what is possible instead.
    pub fn check(&self) -> Result<(), FormatError> {
        let rates: &'static [u32] = match self.codec {
            Codec::Opus => &[8_000, 12_000, 16_000, 24_000, 48_000],
            Codec::Pcm16 => &[8_000, 12_000, 16_000, 22_050, 24_000, 44_100, 48_000],
            Codec::Pcmu | Codec::Pcma => &[8_000],
        };
        if !rates.contains(&self.rate) {
            return Err(FormatError::Rate { codec: self.codec, rate: self.rate, possible: rates });
        }
        let stereo_possible = matches!(self.codec, Codec::Opus | Codec::Pcm16);
        if self.channels == 0 || self.channels > 2 || (self.channels == 2 && !stereo_possible) {
            return Err(FormatError::Channels { codec: self.codec, channels: self.channels });
        }
        Ok(())
    }
}

/// Why a format cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The codec has no such rate.
    #[error("{codec} has no rate of {rate} Hz; possible are {possible:?}")]
    Rate {
        /// The codec.
        codec: Codec,
        /// The rate asked for, in Hz.
        rate: u32,
        /// The rates that work, in Hz.
        possible: &'static [u32],
    },
    /// The codec does not come with so many channels.
    #[error("{codec} with {channels} channels is not possible; use 1")]
    Channels {
        /// The codec.
        codec: Codec,
        /// The channels asked for.
        channels: u8,
    },
    /// The text is not `codec`, `codec/rate` or `codec/rate/channels`.
    #[error("`{0}` is not a format; write one like `opus`, `pcm16/24000` or `pcmu`")]
    Text(String),
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::Opus => "opus",
            Codec::Pcm16 => "pcm16",
            Codec::Pcmu => "pcmu",
            Codec::Pcma => "pcma",
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.codec, self.rate)?;
        if self.channels != 1 {
            write!(f, "/{}", self.channels)?;
        }
        Ok(())
    }
}

impl FromStr for Format {
    type Err = FormatError;

    /// Parses `codec`, `codec/rate` or `codec/rate/channels`; the rate defaults to 48 kHz for Opus, 24 kHz for PCM16
    /// and is 8 kHz for G.711.
    fn from_str(text: &str) -> Result<Format, FormatError> {
        let wrong = || FormatError::Text(text.to_owned());
        let mut parts = text.split('/');
        let (codec, rate) = match parts.next().ok_or_else(wrong)? {
            "opus" => (Codec::Opus, 48_000),
            "pcm16" => (Codec::Pcm16, 24_000),
            "pcmu" => (Codec::Pcmu, 8_000),
            "pcma" => (Codec::Pcma, 8_000),
            _ => return Err(wrong()),
        };
        let rate = parts.next().map_or(Ok(rate), |p| p.parse().map_err(|_| wrong()))?;
        let channels = parts.next().map_or(Ok(1), |p| p.parse().map_err(|_| wrong()))?;
        if parts.next().is_some() {
            return Err(wrong());
        }
        let format = Format { codec, rate, channels };
        format.check().map(|()| format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_read_back_as_they_print() {
        for format in [Format::OPUS, Format::pcm16(16_000), Format::PCMA] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("pcm16".parse(), Ok(Format::pcm16(24_000)));
    }

    #[test]
    fn an_impossible_rate_is_refused_with_the_possible_ones() {
        let error = "opus/44100".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("44100") && error.contains("48000"), "{error}");
        assert!("pcmu/8000/2".parse::<Format>().is_err());
    }

    #[test]
    fn opus_counts_at_48_khz_whatever_its_rate() {
        let format = Format { rate: 16_000, ..Format::OPUS };
        assert_eq!(format.time_to_ticks(Duration::from_millis(20)), 960);
        assert_eq!(Format::pcm16(16_000).bytes_in(Duration::from_millis(20)), Some(640));
    }
}
