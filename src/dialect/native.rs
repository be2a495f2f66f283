//! The native dialect, `antiphon.v1` (`docs/protocol.md`), on ordered carriage: a text frame is one control message,
//! a binary frame is one audio frame without a header.

pub mod codec;
pub mod errors;
pub mod limits;
pub mod quic;
pub mod schema;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

use crate::agent::Wire;
use crate::dialect::{Dialect, Heard};
use crate::ids::Seq;
use crate::media::format::Format;
use crate::message::{AudioFormats, AudioIn, Error, ErrorCode, FromClient, ToClient};
use crate::time::Micros;

use codec::{ClientMessage, Decoded};

/// The WebSocket subprotocol, and the label of the WebRTC data channel.
pub const SUBPROTOCOL: &str = "antiphon.v1";

/// The formats of a link whose `start` names none: Opus at 48 kHz, mono, both ways.
pub const DEFAULT_AUDIO: AudioFormats = AudioFormats { uplink: Format::OPUS, downlink: Format::OPUS, flow: None };

/// The native dialect on one link.
#[derive(Debug, Default)]
pub struct Native {
    /// The client's audio format, once it has said `start`.
    uplink: Option<Format>,
    ignored_fields: u32,
}

impl Native {
    /// A link that has said nothing yet.
    pub fn new() -> Native {
        Native::default()
    }

    /// A link whose `start` came some other way, with audio in `uplink`.
    pub fn started(uplink: Format) -> Native {
        Native { uplink: Some(uplink), ignored_fields: 0 }
    }

    fn handle_text(&mut self, text: &str) -> Heard {
        if text.len() > codec::MAX_CONTROL_BYTES {
            let message = format!("a control message is at most {} bytes of JSON", codec::MAX_CONTROL_BYTES);
            return malformed(codec::bad(None, message), true);
        }
        let first = self.uplink.is_none();
        match codec::decode_from_client(text) {
            Ok(Decoded::Message { message: ClientMessage::Start(mut start), ignored, .. }) => {
                if !first {
                    let message = "`start` comes once on a link; open another link or send `update`".to_owned();
                    return malformed(codec::bad(Some("type".to_owned()), message), false);
                }
                self.ignored_fields += ignored;
                self.uplink = Some(start.audio.get_or_insert(DEFAULT_AUDIO).uplink);
                Heard::Start(start)
            }
            Ok(_) if first => not_started(),
            Ok(Decoded::Message { message: ClientMessage::Other(message), ignored, .. }) => {
                self.ignored_fields += ignored;
                Heard::Message(message)
            }
            Ok(Decoded::Unknown(kind)) => Heard::Unknown(kind),
            Err(error) => malformed(error, first),
        }
    }

    fn handle_audio(&self, payload: Bytes, now: Micros) -> Heard {
        let Some(format) = self.uplink else { return not_started() };
        match check_frame(&format, payload.len()) {
            Ok(()) => Heard::Message(FromClient::Audio(AudioIn { arrival: now, rtp: None, payload })),
            Err(error) => malformed(error, payload.len() > codec::MAX_CONTROL_BYTES),
        }
    }
}

impl Dialect for Native {
    fn handle_wire(&mut self, wire: Wire, now: Micros) -> Option<Heard> {
        match wire {
            Wire::Binary(payload) => Some(self.handle_audio(payload, now)),
            Wire::Text(text) => Some(self.handle_text(&text)),
            // A normal closure (RFC 6455 section 7.4.1) is a hang-up; with any other the session may be resumed.
            Wire::Close(1000, _) if self.uplink.is_some() => Some(Heard::Message(FromClient::End)),
            Wire::Close(..) => None,
        }
    }

    fn encode(&mut self, seq: Option<Seq>, message: &ToClient) -> Option<Wire> {
        match message {
            ToClient::Audio(audio) => Some(Wire::Binary(audio.payload.clone())),
            message => codec::encode_to_client(seq, message).map(Wire::Text),
        }
    }

    fn take_ignored_fields(&mut self) -> u32 {
        std::mem::take(&mut self.ignored_fields)
    }
}

/// Whether a frame of `len` bytes can be one audio frame.
fn check_frame(format: &Format, len: usize) -> Result<(), Error> {
    let why = match (format.bytes_per_sample(), format.bytes_in(Duration::from_millis(limits::MAX_FRAME_MS))) {
        _ if len == 0 => "is empty; send nothing instead".to_owned(),
        _ if len > codec::MAX_CONTROL_BYTES => format!("has {len} bytes; the most is {}", codec::MAX_CONTROL_BYTES),
        (Some(sample), _) if !len.is_multiple_of(sample) => {
            format!("has {len} bytes, which is no multiple of the {sample} bytes of a sample in {format}")
        }
        (_, Some(most)) if len > most => {
            format!("has {len} bytes; at most {} ms ({most} bytes of {format}) are allowed", limits::MAX_FRAME_MS)
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorCode::BadAudio, format!("a binary frame is one audio frame; this one {why}")))
}

fn not_started() -> Heard {
    let message = "the first message must be `start`; the smallest one is {\"type\":\"start\"}".to_owned();
    malformed(codec::bad(Some("type".to_owned()), message), true)
}

fn malformed(error: Error, fatal: bool) -> Heard {
    Heard::Malformed { error, fatal }
}
