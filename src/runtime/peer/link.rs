//! One WebRTC peer as a session's link: datagrams in, audio and control messages out, never waiting.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use quinn_udp::{Transmit, UdpSocketState};
use tokio::time::sleep_until;

use super::stream::StreamOutlet;
use super::switchboard::{Datagram, Inbound, Seated};
use super::{PeerEvent, PeerOutput, PeerTransport, Protocol, Report};
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
    /// Whether the transport may have something to send or to tell.
    restless: bool,
    /// Whether a packet was written to it since it last had nothing.
    written: bool,
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
    /// When the transport wants to be called.
    timeout: Option<Micros>,
    /// When it was polled last; for the transport time never runs backwards.
    now: Micros,
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
            restless: true,
            written: false,
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
            timeout: None,
            now,
        }
    }

    /// When to call [`PeerLink::poll_receive`] though nothing has come; valid after it was pending.
    pub fn deadline(&self) -> Micros {
        let vanishes = self.heard_at + self.grace;
        self.timeout.map_or(vanishes, |timeout| timeout.min(vanishes))
    }

    /// Whether control messages can be sent and heard.
    pub fn is_channel_open(&self) -> bool {
        self.channel == Channel::Open
    }

    /// Whether there will be control messages.
    pub fn has_channel(&self) -> bool {
        self.channel != Channel::Absent
    }

    /// Things that arrived and are for somebody who takes this link over.
    pub fn put_back(&mut self, things: Vec<Arrived>) {
        for thing in things.into_iter().rev() {
            self.arrived.push_front(thing);
        }
    }

    /// The next thing from the peer.
    ///
    /// # Errors
    /// If the peer is gone.
    pub fn poll_receive(&mut self, now: Micros, cx: &mut Context<'_>) -> Poll<Result<Arrived, SocketError>> {
        self.now = self.now.max(now);
        loop {
            if let Some(arrived) = self.next_arrived() {
                return Poll::Ready(Ok(arrived));
            }
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
                Poll::Pending if self.timeout.is_none_or(|timeout| timeout > now) => return Poll::Pending,
                Poll::Pending => {
                    self.transport.handle_timeout(self.clock.instant(now).into_std());
                    self.restless = true;
                }
            }
        }
    }

    /// The next thing from the peer, or `None` as soon as nothing more has come and `done` says so. For whoever has no
    /// timer of its own that minds the [`PeerLink::deadline`].
    ///
    /// # Errors
    /// If the peer is gone.
    pub async fn receive_until(
        &mut self,
        mut done: impl FnMut(&mut PeerLink) -> bool,
    ) -> Result<Option<Arrived>, SocketError> {
        let mut timer = pin!(sleep_until(self.clock.instant(self.deadline())));
        poll_fn(|cx| {
            loop {
                match self.poll_receive(self.clock.now(), cx) {
                    Poll::Ready(arrived) => return Poll::Ready(arrived.map(Some)),
                    Poll::Pending if done(self) => return Poll::Ready(Ok(None)),
                    Poll::Pending => timer.as_mut().reset(self.clock.instant(self.deadline())),
                }
                ready!(timer.as_mut().poll(cx));
            }
        })
        .await
    }

    /// What the transport has to tell; what it has to send meanwhile is sent.
    fn next_arrived(&mut self) -> Option<Arrived> {
        while self.restless && self.arrived.is_empty() {
            self.advance();
        }
        self.arrived.pop_front()
    }

    /// Has the transport send and tell everything.
    fn drain(&mut self) {
        while self.restless {
            self.advance();
        }
    }

    fn advance(&mut self) {
        let Self { transport, outlet, ways, telemetry, .. } = self;
        let output = transport.poll(self.clock.instant(self.now).into_std(), &mut |datagram, protocol, to| {
            if !ways.send(outlet, datagram, protocol, to) {
                telemetry.node().record_dropped(NodeQueue::PeerWrite);
            }
        });
        match output {
            PeerOutput::Event(event) => self.on_event(event),
            PeerOutput::Idle(timeout) => {
                self.timeout = timeout.map(|at| self.clock.at(at));
                (self.restless, self.written) = (false, false);
                self.send_waiting();
            }
        }
    }

    fn on_event(&mut self, event: PeerEvent) {
        let arrived = match event {
            PeerEvent::Connected => return self.connected = true,
            PeerEvent::ChannelOpen => return self.channel = Channel::Open,
            PeerEvent::ChannelClosed => return self.channel = Channel::Absent,
            PeerEvent::Rtp { at, meta, payload } => {
                self.heard_at = self.now;
                Arrived::Audio(AudioIn { arrival: self.clock.at(at), rtp: Some(meta), payload })
            }
            PeerEvent::Text(text) => Arrived::Wire(Wire::Text(text)),
            PeerEvent::Ignored => Arrived::Ignored,
            PeerEvent::Report(report) => Arrived::Report(report),
            PeerEvent::Closed => Arrived::Wire(Wire::Close(1000, String::new())),
        };
        self.arrived.push_back(arrived);
    }

    /// Sends one thing of what waited for DTLS or for the data channel.
    fn send_waiting(&mut self) {
        if self.connected
            && let Some((pos, marker, payload)) = self.early.pop_front()
        {
            self.write_rtp(pos, marker, &payload);
        } else if self.channel == Channel::Open
            && let Some(text) = self.waiting.pop_front()
        {
            self.waiting_bytes -= text.len();
            self.transport.write_channel(&text);
            self.restless = true;
        }
    }

    fn on_inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Datagram(datagram) => self.on_datagram(&datagram),
            Inbound::Hangup => self.arrived.push_back(Arrived::Wire(Wire::Close(1000, String::new()))),
            Inbound::Restart { peer, reply } => {
                let restarted = self.transport.restart(&peer);
                if let Ok(own) = &restarted {
                    self.seat.rename(&own.ufrag);
                    self.heard_at = self.now;
                }
                let _ = reply.send(restarted);
                self.restless = true;
            }
        }
    }

    fn on_datagram(&mut self, datagram: &Datagram) {
        let at = self.clock.instant(datagram.at).into_std();
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
            self.heard_at = self.now;
        } else if path.protocol == Protocol::Tcp && self.ways.find(path.protocol, path.peer).is_none() {
            // Of datagrams none come this far whose source has not proved itself.
            return self.telemetry.node().record_dropped(NodeQueue::UnknownPeer);
        }
        self.transport.handle_packet(at, *path, bytes);
        self.restless = true;
    }

    fn write_rtp(&mut self, pos: u32, marker: bool, payload: &[u8]) {
        self.transport.write_rtp(self.clock.instant(self.now).into_std(), pos, marker, payload);
        (self.restless, self.written) = (true, true);
    }

    /// Takes an audio frame: its position is the RTP timestamp. It is sent by the next poll or flush.
    pub fn push_audio(&mut self, audio: &AudioOut) {
        if self.connected {
            if self.written {
                self.drain();
            }
            return self.write_rtp(audio.pos, audio.marker, &audio.payload);
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
                self.drain();
                if !self.transport.write_channel(&text) {
                    return Err(PushError::Full);
                }
                self.restless = true;
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

    /// Hands what was pushed to the socket.
    pub fn poll_flush(&mut self, now: Micros, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.now = self.now.max(now);
        self.drain();
        if !self.arrived.is_empty() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// Lets the last words arrive, then says goodbye (DTLS close_notify).
    pub async fn close(mut self) {
        if self.connected && self.transport.is_alive() {
            let _ = tokio::time::timeout(LAST_WORDS, self.say_goodbye()).await;
        }
        if !self.transport.close() {
            self.transport.disconnect();
        }
        self.restless = true;
        self.drain();
    }

    /// Closes once the peer has acknowledged everything, and goodbye can be said. What it still says is no longer heard.
    async fn say_goodbye(&mut self) {
        let over = |peer: &mut PeerLink| peer.transport.is_channel_drained() && peer.transport.close();
        while let Ok(Some(_)) = self.receive_until(over).await {}
    }
}

/// The first two bits of STUN are zero, and its first byte is at most 3 (RFC 7983 section 7).
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= 20 && datagram[0] <= 3 && datagram[4..8] == [0x21, 0x12, 0xA4, 0x42]
}
