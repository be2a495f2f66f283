//! One WebRTC peer as a session's link: datagrams in, audio and control messages out, never waiting.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use quinn_udp::{Transmit, UdpSocketState};
use tokio::time::Sleep;

use super::stream::StreamOutlet;
use super::switchboard::{Datagram, Inbound, Seated};
use super::{PeerEvent, PeerTransport, Protocol, Report};
use crate::agent::Wire;
use crate::message::{AudioIn, AudioOut};
use crate::runtime::clock::Clock;
use crate::runtime::websocket::{PushError, SocketError};
use crate::telemetry::{NodeQueue, Telemetry};
use crate::time::Micros;

/// Control messages that wait for the data channel at most, in bytes.
const WAITING_BYTES: usize = 256 << 10;
/// Audio frames that wait for DTLS at most: one second.
const WAITING_FRAMES: usize = 50;
/// How long the last words may take to be acknowledged.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Ways to a peer that are kept at once; the oldest go first.
const MAX_WAYS: usize = 8;

/// The sockets that a peer's datagrams leave by: its worker's.
#[derive(Clone, Debug, Default)]
pub struct Outlet {
    v4: Option<Arc<Exit>>,
    v6: Option<Arc<Exit>>,
}

#[derive(Debug)]
struct Exit {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Outlet {
    /// An outlet by these sockets, one of each family at most.
    ///
    /// # Errors
    /// If a socket is unusable.
    pub fn new(sockets: &[UdpSocket]) -> io::Result<Outlet> {
        let mut outlet = Outlet::default();
        for socket in sockets {
            let socket = socket.try_clone()?;
            let state = UdpSocketState::new((&socket).into())?;
            let ipv4 = socket.local_addr()?.is_ipv4();
            let exit = Some(Arc::new(Exit { socket, state }));
            if ipv4 { outlet.v4 = exit } else { outlet.v6 = exit }
        }
        Ok(outlet)
    }

    /// Sends at once, from this address of ours if it is told; `false` if the socket's buffer is full or there is no
    /// such socket.
    pub fn send(&self, datagram: &[u8], to: SocketAddr, from: Option<IpAddr>) -> bool {
        let exit = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let Some(exit) = exit else { return false };
        if from.is_none() {
            return exit.socket.send_to(datagram, to).is_ok();
        }
        let transmit = Transmit { destination: to, ecn: None, contents: datagram, segment_size: None, src_ip: from };
        exit.state.try_send((&exit.socket).into(), &transmit).is_ok()
    }
}

/// How to answer a packet.
#[derive(Clone, Debug)]
pub enum Way {
    /// By the worker's socket.
    Udp {
        /// From this address of ours, where there are several.
        from: Option<IpAddr>,
    },
    /// On the connection that it came on.
    Tcp(StreamOutlet),
}

impl Way {
    fn protocol(&self) -> Protocol {
        match self {
            Way::Udp { .. } => Protocol::Udp,
            Way::Tcp(_) => Protocol::Tcp,
        }
    }
}

/// How to reach each of a peer's addresses that has proved itself by STUN.
#[derive(Debug, Default)]
struct Ways {
    known: Vec<(SocketAddr, Way)>,
    /// Where the peer sends from by its own last word. The engine stays with the path before as long as that may still
    /// be alive; but a client that has moved on does not come back.
    nominated: Option<(Protocol, SocketAddr)>,
}

impl Ways {
    fn find(&self, protocol: Protocol, peer: SocketAddr) -> Option<&Way> {
        let known = self.known.iter().find(|(address, way)| *address == peer && way.protocol() == protocol);
        known.map(|(_, way)| way)
    }

    fn learn(&mut self, peer: SocketAddr, way: &Way) {
        let protocol = way.protocol();
        match self.known.iter_mut().find(|(address, known)| *address == peer && known.protocol() == protocol) {
            Some((_, known)) => known.clone_from(way),
            None => {
                if self.known.len() == MAX_WAYS {
                    self.known.remove(0);
                }
                self.known.push((peer, way.clone()));
            }
        }
    }

    fn send(&self, outlet: &Outlet, datagram: &[u8], protocol: Protocol, to: SocketAddr) -> bool {
        let (protocol, to) = match self.nominated {
            Some(nominated) if !is_stun(datagram) => nominated,
            _ => (protocol, to),
        };
        match (protocol, self.find(protocol, to)) {
            (Protocol::Udp, Some(&Way::Udp { from })) => outlet.send(datagram, to, from),
            (Protocol::Udp, _) => outlet.send(datagram, to, None),
            (Protocol::Tcp, Some(Way::Tcp(stream))) => stream.send(datagram),
            (Protocol::Tcp, _) => false,
        }
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
    ways: Ways,
    clock: Clock,
    telemetry: Telemetry,
    /// A peer that sent nothing valid for so long is gone.
    grace: Duration,
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
    /// A link for a peer whose first STUN request has come. `channel`: its offer had a data channel. It counts as gone
    /// when nothing valid came for `grace`; ICE asks for consent every five seconds (RFC 7675 section 5.1).
    pub fn new(
        transport: Box<dyn PeerTransport>,
        seat: Box<dyn Seated>,
        outlet: Outlet,
        clock: Clock,
        telemetry: Telemetry,
        channel: bool,
        grace: Duration,
    ) -> PeerLink {
        let now = clock.now();
        PeerLink {
            transport,
            seat,
            outlet,
            ways: Ways::default(),
            clock,
            telemetry,
            grace,
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
            if now - self.heard_at >= self.grace {
                let why = format!("nothing came from the peer for {} s", self.grace.as_secs());
                return Poll::Ready(Err(SocketError::Lost(why)));
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
        let vanishes = self.heard_at + self.grace;
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
        let Datagram { path, way, bytes, .. } = datagram;
        if is_stun(bytes) {
            if !self.transport.accepts(at, *path, bytes) {
                return self.telemetry.node().record_dropped(NodeQueue::UnknownPeer);
            }
            self.ways.learn(path.peer, way);
            if self.transport.is_nomination(bytes) {
                self.ways.nominated = Some((path.protocol, path.peer));
            }
            if path.protocol == Protocol::Udp {
                self.seat.claim(path.peer);
            }
            self.heard_at = now;
        } else if path.protocol == Protocol::Tcp && self.ways.find(path.protocol, path.peer).is_none() {
            // Of datagrams none come this far whose source has not proved itself.
            return self.telemetry.node().record_dropped(NodeQueue::UnknownPeer);
        }
        self.transport.handle_packet(at, *path, bytes);
        self.drain(now);
    }

    fn drain(&mut self, now: Micros) {
        let mut opened = false;
        let Self { transport, outlet, ways, telemetry, arrived, clock, channel, connected, heard_at, .. } = self;
        let deadline = transport.drain(
            clock.instant(now).into_std(),
            &mut |datagram, protocol, to| {
                if !ways.send(outlet, datagram, protocol, to) {
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
