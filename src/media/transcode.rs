//! From any format to mono PCM and back.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::media::format::Format;
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
}

/// Whether `a` and `b` are the same on the wire, so that frames pass through untouched: equal, or both Opus (its
/// packets do not depend on the rate of either end).
pub fn same_wire(a: &Format, b: &Format) -> bool {
    todo!("{a} {b}")
}

/// The rate in Hz at which to work between two formats, so that no or only one resampler is needed: the rate of the
/// side that is not Opus, else the agent's.
pub fn working_rate(client: &Format, agent: &Format) -> u32 {
    todo!("{client} {agent}")
}

/// Length of a payload in ticks of the format's clock, without decoding it; `None` if it is malformed.
pub fn payload_ticks(format: &Format, payload: &[u8]) -> Option<u32> {
    todo!("{format} {payload:?}")
}

/// Decodes one format to mono 16-bit samples at one rate.
#[derive(Debug)]
pub struct Decoder {}

#[allow(unused_variables, clippy::todo, reason = "being written")]
impl Decoder {
    /// A decoder from `from` to mono samples at `rate` Hz.
    ///
    /// # Errors
    /// If the format or the rate is not possible.
    pub fn new(from: Format, rate: u32) -> Result<Decoder, MediaError> {
        todo!()
    }
    /// Appends the samples of one payload to `pcm`.
    ///
    /// # Errors
    /// If the payload is malformed; nothing is appended then.
    pub fn decode(&mut self, payload: &[u8], pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        todo!()
    }
    /// Appends `span` of audio lost before `successor`, from the redundancy (LBRR) in it.
    ///
    /// # Errors
    /// As for [`Decoder::decode`].
    pub fn recover(&mut self, successor: &[u8], span: Duration, pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        todo!()
    }
    /// Appends `span` of audio made up for a loss: PLC for Opus, silence for the others.
    pub fn conceal(&mut self, span: Duration, pcm: &mut Vec<i16>) {
        todo!()
    }
}

/// Whether an Opus packet carries in-band FEC (LBRR) for its predecessor.
pub fn has_lbrr(packet: &[u8]) -> bool {
    todo!("{packet:?}")
}

/// Encodes mono 16-bit samples at one rate to a format.
#[derive(Debug)]
pub struct Encoder {}

#[allow(unused_variables, clippy::todo, reason = "being written")]
impl Encoder {
    /// An encoder from mono samples at `rate` Hz to `to`.
    ///
    /// # Errors
    /// If the format or the rate is not possible.
    pub fn new(to: Format, rate: u32, opus: &OpusSettings) -> Result<Encoder, MediaError> {
        todo!()
    }
    /// Encodes one frame; for Opus `pcm` must be 2.5, 5, 10, 20, 40 or 60 ms long. `buffer` is reused: once the frames
    /// given earlier are dropped, nothing is allocated.
    ///
    /// # Errors
    /// If the length is not possible.
    pub fn encode(&mut self, pcm: &[i16], buffer: &mut BytesMut) -> Result<Bytes, MediaError> {
        todo!()
    }
    /// Forgets the past, so that nothing of it leaks into what comes.
    pub fn reset(&mut self) {
        todo!()
    }
    /// Encoder complexity, 0 to 10 (load governor); ignored by other codecs.
    pub fn set_complexity(&mut self, complexity: u8) {
        todo!()
    }
    /// The loss that the peer reports, in percent: decides the FEC share.
    pub fn set_expected_loss(&mut self, percent: u8) {
        todo!()
    }
    /// Delay of the coder, resampler and look-ahead together.
    pub fn delay(&self) -> Duration {
        todo!()
    }
}
