//! The voice of an emulated vendor, coded.

use bytes::{Bytes, BytesMut};

use crate::media::format::{Codec, Format};
use crate::media::transcode::{Decoder, Encoder};
use crate::route::plan::OpusSettings;

/// What digital silence consists of.
pub fn silent_byte(codec: Codec) -> u8 {
    match codec {
        Codec::Pcmu => 0xFF,
        Codec::Pcma => 0xD5,
        _ => 0,
    }
}

/// The story's packets in `format`, as one run.
pub fn coded(packets: &[&Bytes], format: Format) -> Result<Bytes, String> {
    let mut decoder = Decoder::new(Format::OPUS, format.rate).map_err(|error| error.to_string())?;
    let mut encoder = Encoder::new(format, format.rate, &OpusSettings::default()).map_err(|error| error.to_string())?;
    let mut pcm = Vec::new();
    for packet in packets {
        decoder.decode(packet, &mut pcm).map_err(|error| error.to_string())?;
    }
    encoder.encode(&pcm, &mut BytesMut::new()).map_err(|error| error.to_string())
}
