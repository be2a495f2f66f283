//! One WebRTC peer as a session's link: datagrams in, audio and control messages out, never waiting.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Sleep;

use super::switchboard::{Datagram, Inbound, Seated};
use super::{PeerEvent, PeerTransport, Report};
use crate::agent::Wire;
use crate::message::{AudioIn, AudioOut};
use crate::runtime::clock::Clock;
use crate::runtime::websocket::{PushError, SocketError};
use crate::telemetry::{NodeQueue, Telemetry};
use crate::time::Micros;

/// A peer that sent nothing valid for so long is gone. ICE asks for consent every five seconds at the latest (RFC 7675
/// section 5.1).
const VANISHED: Duration = Duration::from_secs(15);
/// Control messages that wait for the data channel at most, in bytes.
const WAITING_BYTES: usize = 256 << 10;
/// Audio frames that wait for DTLS at most: one second.
const WAITING_FRAMES: usize = 50;
/// How long the last words may take to be acknowledged.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The sockets that a peer's datagrams leave by: its worker's.
#[derive(Clone, Debug, Default)]
pub struct Outlet {
    /// For IPv4 destinations.
    pub v4: Option<Arc<UdpSocket>>,
    /// For IPv6 destinations.
    pub v6: Option<Arc<UdpSocket>>,
}

impl Outlet {
    /// Sends at once; `false` if the socket's buffer is full or there is no such socket.
    pub fn send(&self, datagram: &[u8], to: SocketAddr) -> bool {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        socket.as_ref().is_some_and(|socket| socket.send_to(datagram, to).is_ok())
    }
}

/// What arrived from a peer.
#[derive(Debug)]
pub enum Arrived {
    /// A control message, or the peer's goodbye.
    Wire(Wire),
    /// An audio frame.
    Audio(AudioIn),
    /// Figures of RTCP.
    Report(Report),
    /// Something that means nothing here.
    Ignored,
}

/// Whether control messages can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// The offer had none.
    Absent,
    Opening,
    Open,
}

/// A link over WebRTC.
pub struct PeerLink {
    transport: Box<dyn PeerTransport>,
    seat: Box<dyn Seated>,
    outlet: Outlet,
    clock: Clock,
    telemetry: Telemetry,
    arrived: VecDeque<Arrived>,
    channel: Channel,
    waiting: VecDeque<String>,
    waiting_bytes: usize,
    connected: bool,
    /// Position, marker and payload of frames that wait for DTLS.
    early: VecDeque<(u32, bool, Bytes)>,
    heard_at: Micros,
    deadline: Option<Micros>,
    timer: Pin<Box<Sleep>>,
    armed: Option<Micros>,
}

impl std::fmt::Debug for PeerLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerLink").field("channel", &self.channel).field("connected", &self.connected).finish()
    }
}

impl PeerLink {
    /// A link for a peer whose first STUN request has come. `channel`: its offer had a data channel.
    pub fn new(
        transport: Box<dyn PeerTransport>,
        seat: Box<dyn Seated>,
        outlet: Outlet,
        clock: Clock,
        telemetry: Telemetry,
        channel: bool,
    ) -> PeerLink {
        let now = clock.now();
        PeerLink {
            transport,
            seat,
            outlet,
            clock,
            telemetry,
            arrived: VecDeque::with_capacity(8),
            channel: if channel { Channel::Opening } else { Channel::Absent },
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            connected: false,
            early: VecDeque::new(),
            heard_at: now,
            deadline: Some(now),
            timer: Box::pin(tokio::time::sleep_until(clock.instant(now))),
            armed: None,
        }
    }

    /// The next thing from the peer.
    ///
    /// # Errors
    /// If the peer is gone.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrived, SocketError>> {
        loop {
            if let Some(arrived) = self.arrived.pop_front() {
                return Poll::Ready(Ok(arrived));
            }
            let now = self.clock.now();
            if now - self.heard_at >= VANISHED {
                return Poll::Ready(Err(SocketError::Lost("nothing came from the peer for 15 s".into())));
            }
            if !self.transport.is_alive() {
                return Poll::Ready(Err(SocketError::Lost("the peer connection is closed".into())));
            }
            match self.seat.inbound().poll_recv(cx) {
                Poll::Ready(Some(inbound)) => self.on_inbound(inbound),
                Poll::Ready(None) => return Poll::Ready(Err(SocketError::Lost("no longer reachable".into()))),
                Poll::Pending if !self.poll_timer(cx) => return Poll::Pending,
                Poll::Pending => {
                    let now = self.clock.now();
                    if self.deadline.is_some_and(|deadline| deadline <= now) {
                        self.transport.handle_timeout(self.clock.instant(now).into_std());
                        self.drain(now);
                    }
                }
            }
        }
    }

    /// Arms the timer; whether it is due.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let vanishes = self.heard_at + VANISHED;
        let next = self.deadline.map_or(vanishes, |deadline| deadline.min(vanishes));
        if self.armed != Some(next) {
            self.armed = Some(next);
            self.timer.as_mut().reset(self.clock.instant(next));
        }
        let due = self.timer.as_mut().poll(cx).is_ready();
        if due {
            self.armed = None;
        }
        due
    }

    fn on_inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Datagram(datagram) => self.on_datagram(&datagram),
            Inbound::Hangup => self.arrived.push_back(Arrived::Wire(Wire::Close(1000, String::new()))),
            Inbound::Restart { peer, reply } => {
                let restarted = self.transport.restart(&peer);
                if let Ok(own) = &restarted {
                    self.seat.rename(&own.ufrag);
                    self.heard_at = self.clock.now();
                }
                let _ = reply.send(restarted);
                self.drain(self.clock.now());
            }
        }
    }

    fn on_datagram(&mut self, datagram: &Datagram) {
        let at = self.clock.instant(datagram.at).into_std();
        let now = self.clock.now();
        if is_stun(&datagram.bytes) {
            if !self.transport.accepts(at, datagram.source, datagram.local, &datagram.bytes) {
                return self.telemetry.node().record_dropped(NodeQueue::UnknownPeer);
            }
            self.seat.claim(datagram.source);
            self.heard_at = now;
        }
        self.transport.handle_packet(at, datagram.source, datagram.local, &datagram.bytes);
        self.drain(now);
    }

    fn drain(&mut self, now: Micros) {
        let mut opened = false;
        let Self { transport, outlet, telemetry, arrived, clock, channel, connected, heard_at, .. } = self;
        let deadline = transport.drain(
            clock.instant(now).into_std(),
            &mut |datagram, to| {
                if !outlet.send(datagram, to) {
                    telemetry.node().record_dropped(NodeQueue::PeerWrite);
                }
            },
            &mut |event| match event {
                PeerEvent::Connected => (*connected, opened) = (true, true),
                PeerEvent::Rtp { at, meta, payload } => {
                    *heard_at = now;
                    arrived.push_back(Arrived::Audio(AudioIn { arrival: clock.at(at), rtp: Some(meta), payload }));
                }
                PeerEvent::ChannelOpen => (*channel, opened) = (Channel::Open, true),
                PeerEvent::ChannelClosed => *channel = Channel::Absent,
                PeerEvent::Text(text) => arrived.push_back(Arrived::Wire(Wire::Text(text))),
                PeerEvent::Ignored => arrived.push_back(Arrived::Ignored),
                PeerEvent::Report(report) => arrived.push_back(Arrived::Report(report)),
                PeerEvent::Closed => arrived.push_back(Arrived::Wire(Wire::Close(1000, String::new()))),
            },
        );
        self.deadline = deadline.map(|at| self.clock.at(at));
        if opened {
            self.send_waiting(now);
        }
    }

    /// Sends what waited for DTLS or for the data channel.
    fn send_waiting(&mut self, now: Micros) {
        if self.connected {
            while let Some((pos, marker, payload)) = self.early.pop_front() {
                self.write_rtp(pos, marker, &payload, now);
            }
        }
        while self.channel == Channel::Open
            && let Some(text) = self.waiting.pop_front()
        {
            self.waiting_bytes -= text.len();
            self.transport.write_channel(&text);
        }
        // What is sent now opens nothing more.
        self.drain(now);
    }

    fn write_rtp(&mut self, pos: u32, marker: bool, payload: &[u8], now: Micros) {
        self.transport.write_rtp(self.clock.instant(now).into_std(), pos, marker, payload);
        self.drain(now);
    }

    /// Sends an audio frame: its position is the RTP timestamp.
    pub fn push_audio(&mut self, audio: &AudioOut) {
        if self.connected {
            return self.write_rtp(audio.pos, audio.marker, &audio.payload, self.clock.now());
        }
        if self.early.len() == WAITING_FRAMES {
            self.early.pop_front();
            self.telemetry.node().record_dropped(NodeQueue::PeerWrite);
        }
        self.early.push_back((audio.pos, audio.marker, audio.payload.clone()));
    }

    /// Sends a control message, or keeps it until the data channel is open.
    ///
    /// # Errors
    /// If the peer does not take what it is sent.
    pub fn push_text(&mut self, text: String) -> Result<(), PushError> {
        match self.channel {
            Channel::Absent => Ok(()),
            Channel::Open => {
                if !self.transport.write_channel(&text) {
                    return Err(PushError::Full);
                }
                self.drain(self.clock.now());
                Ok(())
            }
            Channel::Opening if self.waiting_bytes + text.len() > WAITING_BYTES => Err(PushError::Full),
            Channel::Opening => {
                self.waiting_bytes += text.len();
                self.waiting.push_back(text);
                Ok(())
            }
        }
    }

    /// Lets the last words arrive, then says goodbye (DTLS close_notify).
    pub async fn close(mut self) {
        if self.connected && self.transport.is_alive() {
            let drained = std::future::poll_fn(|cx| {
                // What the peer still says is no longer heard.
                let gone = matches!(self.poll_receive(cx), Poll::Ready(Err(_)));
                while !gone && self.arrived.pop_front().is_some() {}
                if gone || self.transport.is_channel_drained() {
                    return Poll::Ready(());
                }
                Poll::Pending
            });
            let _ = tokio::time::timeout(LAST_WORDS, drained).await;
        }
        self.transport.close();
        self.drain(self.clock.now());
    }
}

/// The first two bits of STUN are zero, and its first byte is at most 3 (RFC 7983 section 7).
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= 20 && datagram[0] <= 3 && datagram[4..8] == [0x21, 0x12, 0xA4, 0x42]
}
