//! Pipecat's frames (`frames.proto`, package `pipecat`): one protobuf message per binary WebSocket frame.

use bytes::Bytes;
use prost::{Message, Oneof};

/// One message.
#[derive(Clone, PartialEq, Message)]
pub struct Frame {
    /// What it is.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
    pub frame: Option<Kind>,
}

/// The kinds of frames.
#[derive(Clone, PartialEq, Oneof)]
pub enum Kind {
    /// Text of the agent.
    #[prost(message, tag = "1")]
    Text(TextFrame),
    /// Audio, either way.
    #[prost(message, tag = "2")]
    Audio(AudioRawFrame),
    /// Words of the caller.
    #[prost(message, tag = "3")]
    Transcription(TranscriptionFrame),
    /// An RTVI message.
    #[prost(message, tag = "4")]
    Message(MessageFrame),
    /// The agent has stopped, or is to stop.
    #[prost(message, tag = "5")]
    Interruption(InterruptionFrame),
}

/// Text.
#[derive(Clone, PartialEq, Message)]
pub struct TextFrame {
    /// Of the sender.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Of the sender.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The text.
    #[prost(string, tag = "3")]
    pub text: String,
}

/// Audio: PCM16, little-endian.
#[derive(Clone, PartialEq, Message)]
pub struct AudioRawFrame {
    /// Of the sender.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Of the sender.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The samples.
    #[prost(bytes = "bytes", tag = "3")]
    pub audio: Bytes,
    /// In Hz.
    #[prost(uint32, tag = "4")]
    pub sample_rate: u32,
    /// Interleaved if there are several.
    #[prost(uint32, tag = "5")]
    pub num_channels: u32,
    /// Presentation time in nanoseconds.
    #[prost(uint64, optional, tag = "6")]
    pub pts: Option<u64>,
}

/// Words of the caller.
#[derive(Clone, PartialEq, Message)]
pub struct TranscriptionFrame {
    /// Of the sender.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Of the sender.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The words.
    #[prost(string, tag = "3")]
    pub text: String,
    /// Who spoke.
    #[prost(string, tag = "4")]
    pub user_id: String,
    /// When (ISO 8601).
    #[prost(string, tag = "5")]
    pub timestamp: String,
}

/// An RTVI message.
#[derive(Clone, PartialEq, Message)]
pub struct MessageFrame {
    /// JSON.
    #[prost(string, tag = "1")]
    pub data: String,
}

/// Stop.
#[derive(Clone, PartialEq, Message)]
pub struct InterruptionFrame {
    /// Of the sender.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Of the sender.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// A frame as bytes.
pub fn encode(kind: Kind) -> Bytes {
    Frame { frame: Some(kind) }.encode_to_vec().into()
}

/// A frame with mono audio as bytes.
pub fn encode_audio(audio: Bytes, sample_rate: u32) -> Bytes {
    encode(Kind::Audio(AudioRawFrame { audio, sample_rate, num_channels: 1, ..AudioRawFrame::default() }))
}

/// Reads a frame.
///
/// # Errors
/// What is wrong with it.
pub fn decode(payload: Bytes) -> Result<Option<Kind>, String> {
    Frame::decode(payload).map(|frame| frame.frame).map_err(|error| error.to_string())
}
