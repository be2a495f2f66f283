//! Audio frames on their way.

use bytes::Bytes;

use crate::ids::ItemId;
use crate::time::Micros;

/// RTP header facts of an uplink packet (RFC 3550 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpMeta {
    /// Sequence number, extended past 16 bits.
    pub seq: u64,
    /// Media timestamp in ticks of the format's clock, wrapping.
    pub timestamp: u32,
    /// Marker bit: first packet of a talk spurt.
    pub marker: bool,
    /// RFC 6464 audio level in -dBov (0 loudest, 127 silent), if the extension was there.
    pub level: Option<u8>,
}

/// One audio frame from a client, in its link's uplink format.
#[derive(Clone, Debug)]
pub struct AudioIn {
    /// When its last byte arrived.
    pub arrival: Micros,
    /// RTP header facts; `None` on ordered carriage.
    pub rtp: Option<RtpMeta>,
    /// The coded audio.
    pub payload: Bytes,
}

/// One audio frame to a client, in its link's downlink format.
#[derive(Clone, Debug)]
pub struct AudioOut {
    /// Position of its first sample: ticks of the format's clock, on this link.
    pub pos: u32,
    /// Length in ticks of the format's clock.
    pub ticks: u32,
    /// First frame of a talk spurt (the RTP marker bit).
    pub marker: bool,
    /// When the last byte that this frame was made of arrived, or when it became due if that was later: added
    /// latency counts from here.
    pub ready: Micros,
    /// The coded audio.
    pub payload: Bytes,
}

/// A run of audio from an agent, of any length, in its announced downlink format.
#[derive(Clone, Debug)]
pub struct AgentAudio {
    /// When its last byte arrived.
    pub arrival: Micros,
    /// The agent's item that it belongs to, where the agent tells.
    pub item: Option<ItemId>,
    /// RTP header facts where the agent speaks RTP; a gap is loss.
    pub rtp: Option<RtpMeta>,
    /// The coded audio; for Opus exactly one packet.
    pub payload: Bytes,
}

/// One audio frame to an agent, in its announced uplink format.
#[derive(Clone, Debug)]
pub struct AgentAudioOut {
    /// Position of its first sample since the upstream was ready, in ticks of the format's clock.
    pub pos: u64,
    /// Length in ticks of the format's clock.
    pub ticks: u32,
    /// When the last byte that this frame was made of arrived.
    pub ready: Micros,
    /// Whether it is made up: silence for time in which the client sent nothing.
    pub filled: bool,
    /// The coded audio.
    pub payload: Bytes,
}
