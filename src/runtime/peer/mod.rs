//! WebRTC peers: the seam behind which the engine sits, and what joins it with sockets and sessions.

pub mod engine;
pub mod link;
pub mod stream;
pub mod switchboard;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::media::format::Format;
use crate::message::RtpMeta;

/// What packets travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One datagram each.
    Udp,
    /// Frames of RFC 4571.
    Tcp,
}

/// Between which addresses a packet travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// In what.
    pub protocol: Protocol,
    /// The peer's address.
    pub peer: SocketAddr,
    /// Ours: one of the candidates.
    pub local: SocketAddr,
}

/// One WebRTC peer, sans-IO: datagrams and time go in, datagrams and [`PeerEvent`]s come out. One mutation, then
/// [`PeerTransport::poll`] until it is idle; only a packet of audio may be written before that, where one was told.
pub trait PeerTransport: Send {
    /// Whether a datagram is this peer's: a STUN request by its integrity (RFC 8445 section 7.3), all else by its
    /// source.
    fn accepts(&self, at: Instant, path: Path, datagram: &[u8]) -> bool;

    /// Whether a STUN request that it accepts says that the peer sends by this path from now on (RFC 8445 section 7.1.2,
    /// USE-CANDIDATE).
    fn is_nomination(&self, datagram: &[u8]) -> bool;

    /// Takes a datagram that arrived at `at`. What cannot be understood is ignored.
    fn handle_packet(&mut self, at: Instant, path: Path, datagram: &[u8]);

    /// Time has passed.
    fn handle_timeout(&mut self, now: Instant);

    /// Gives everything that is to be sent, up to the next thing that is to be told.
    fn poll(&mut self, now: Instant, send: &mut dyn FnMut(&[u8], Protocol, SocketAddr)) -> PeerOutput;

    /// Sends one RTP packet of the negotiated payload type; sequence numbers are its own.
    fn write_rtp(&mut self, now: Instant, timestamp: u32, marker: bool, payload: &[u8]);

    /// Sends text on the data channel; `false` if it cannot take it now.
    fn write_channel(&mut self, text: &str) -> bool;

    /// Whether everything written to the data channel has been acknowledged.
    fn is_channel_drained(&mut self) -> bool;

    /// Restarts ICE with the peer's new credentials (RFC 8445 section 9) and gives ours.
    ///
    /// # Errors
    /// If the peer's credentials cannot be used.
    fn restart(&mut self, peer: &Credentials) -> Result<Credentials, PeerError>;

    /// Says goodbye: RTCP BYE and DTLS close_notify are sent by the next poll. `false`: not yet, because the way for
    /// messages is just being set up.
    fn close(&mut self) -> bool;

    /// Ends without a goodbye.
    fn disconnect(&mut self);

    /// Whether it can still send and receive.
    fn is_alive(&self) -> bool;
}

/// ICE credentials of one side (RFC 8445 section 5.3).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name fragment.
    pub ufrag: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// Why an offer or a restart is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It is no SDP, or it lacks something.
    #[error("the SDP offer cannot be used: {0}")]
    Sdp(String),
    /// There is no audio in it that can be served.
    #[error("the SDP offer has no audio that is served here; offer Opus, PCMU or PCMA")]
    NoAudio,
    /// The engine failed.
    #[error("the WebRTC engine failed: {0}")]
    Engine(String),
}

/// What a peer has, beside what it sends.
#[derive(Debug)]
pub enum PeerOutput {
    /// It tells something, and may tell or send more.
    Event(PeerEvent),
    /// It has nothing until something happens or this instant has come, when [`PeerTransport::handle_timeout`] is called.
    Idle(Option<Instant>),
}

/// What a peer tells.
#[derive(Debug)]
pub enum PeerEvent {
    /// DTLS is up: media and data can flow.
    Connected,
    /// An RTP packet of the negotiated payload type.
    Rtp {
        /// When it arrived.
        at: Instant,
        /// Its header.
        meta: RtpMeta,
        /// The coded audio.
        payload: Bytes,
    },
    /// The data channel is open.
    ChannelOpen,
    /// The data channel was closed by the peer.
    ChannelClosed,
    /// A control message.
    Text(String),
    /// Something on a data channel that means nothing here.
    Ignored,
    /// From an RTCP report.
    Report(Report),
    /// The peer has said goodbye.
    Closed,
}

/// What RTCP reports tell about both directions (RFC 3550 section 6.4).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Round trip.
    pub round_trip: Option<Duration>,
    /// Share of our packets that the peer lost since its last report, 0 to 1.
    pub lost_by_peer: Option<f32>,
    /// Interarrival jitter that the peer sees.
    pub peer_jitter: Option<Duration>,
    /// Interarrival jitter of its packets here.
    pub jitter: Option<Duration>,
}

/// What a route wants of a peer's audio beyond the answer that every peer gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Lost packets are asked for again (generic NACK, RFC 4585 section 6.2.1), if the peer has offered that.
    pub nack: bool,
    /// The peer is asked to send nothing while nobody speaks (`usedtx`, RFC 7587 section 6.1).
    pub dtx: bool,
    /// Opus bits per second that the peer is asked to send at most (`maxaveragebitrate`, RFC 7587 section 6.1); browsers
    /// send as much.
    pub bitrate: Option<u32>,
}

/// What was agreed in offer and answer.
#[derive(Clone, Debug)]
pub struct Negotiated {
    /// The SDP answer.
    pub answer: String,
    /// The audio format, the same both ways.
    pub format: Format,
    /// Whether a data channel was offered.
    pub channel: bool,
    /// Our ICE credentials.
    pub credentials: Credentials,
}
