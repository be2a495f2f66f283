//! The UDP sockets of one worker: batched receive, and who gets which datagram.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use quinn_udp::{RecvMeta, UdpSocketState};
use str0m::ice::StunMessage;
use tokio::sync::mpsc::error::TrySendError;

use super::ahead::{self, Gone};
use super::{Parked, Purpose, Webrtc, first_words};
use crate::ingress::admit::{self, Refused};
use crate::ingress::call;
use crate::message::CloseReason;
use crate::runtime::datagrams::Datagrams;
use crate::runtime::line::Line;
use crate::runtime::node::Node;
use crate::runtime::peer::link::{Outlet, PeerLink, Way, is_stun};
use crate::runtime::peer::switchboard::{Datagram, Inbound, Lookup, Place, Route};
use crate::runtime::peer::{Path, Protocol};
use crate::runtime::registry::NewLink;
use crate::runtime::worker::Worker;
use crate::telemetry::{NodeQueue, Refusal};
use crate::time::Micros;

/// Datagrams, or runs of them from one sender, that one call to the kernel brings at most.
const BATCH: usize = 16;
/// Room for one run (UDP GRO): a run never exceeds what one datagram could be.
const RUN_BYTES: usize = 64 << 10;

/// Begins to receive on one worker.
pub(super) fn start(
    node: &Arc<Node>,
    webrtc: &Arc<Webrtc>,
    worker: &Arc<Worker>,
    sockets: Vec<UdpSocket>,
) -> io::Result<()> {
    for socket in sockets {
        let bound = socket.local_addr()?;
        let router = Router::new(node, webrtc, worker);
        let receiver = Receiver { router, bound: bound.ip(), known: HashMap::new(), version: 0 };
        let job = async move {
            if let Err(error) = receiver.run(socket).await {
                tracing::error!(%error, "a WebRTC socket cannot be used");
            }
        };
        worker.try_run(Box::pin(job)).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Finds the session of what arrives on a worker, and begins those that were waited for.
pub(super) struct Router {
    pub node: Arc<Node>,
    webrtc: Arc<Webrtc>,
    worker: Arc<Worker>,
}

/// Receives from one socket.
struct Receiver {
    router: Router,
    /// The address of the socket; unspecified, if it takes what is sent to any.
    bound: IpAddr,
    /// Who sends from where; made anew whenever the switchboard changes.
    known: HashMap<SocketAddr, Route>,
    version: u64,
}

impl Receiver {
    async fn run(mut self, socket: UdpSocket) -> io::Result<()> {
        let state = UdpSocketState::new((&socket).into())?;
        let socket = Datagrams::new(socket)?;
        let mut buffers: Vec<Vec<u8>> = (0..BATCH).map(|_| vec![0; RUN_BYTES]).collect();
        let mut metas = [RecvMeta::default(); BATCH];
        let (clock, stopping) = (self.router.node.clock, self.router.node.stopping.clone());
        let mut stopped = std::pin::pin!(stopping.cancelled());
        loop {
            let received = poll_fn(|cx| {
                let received = socket.poll_receive(cx, BATCH, |socket| {
                    let mut slices = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer));
                    let mut slices: [IoSliceMut<'_>; BATCH] =
                        std::array::from_fn(|_| slices.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
                    state.recv(socket.into(), &mut slices, &mut metas)
                });
                match received {
                    Poll::Pending => stopped.as_mut().poll(cx).map(|()| None),
                    Poll::Ready(received) => Poll::Ready(Some(received)),
                }
            });
            let Some(received) = received.await else { return Ok(()) };
            // An error tells of one datagram that could not be delivered, not of the socket.
            let Ok(count) = received else { continue };
            let now = clock.now();
            for (meta, buffer) in metas.iter().zip(&buffers).take(count) {
                let at = meta.timestamp.map_or(now, |stamp| clock.at_stamp(stamp, now));
                for bytes in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    self.on_datagram(bytes, meta, at);
                }
            }
        }
    }

    fn on_datagram(&mut self, bytes: &[u8], meta: &RecvMeta, at: Micros) {
        let source = meta.addr;
        // Where any address of ours is listened on, the answer must leave by the one that was called.
        let to = meta.dst_ip.filter(|_| self.bound.is_unspecified());
        let path = Path { protocol: Protocol::Udp, peer: source, local: self.router.local(source.is_ipv4(), to) };
        let route =
            if is_request(bytes) { self.router.route_of_request(bytes, path, at) } else { self.route_of(source) };
        let Some(route) = route else { return self.router.drop_counted(NodeQueue::UnknownPeer) };
        let bytes = Bytes::copy_from_slice(bytes);
        self.router.hand_over(&route, Datagram { at, path, way: Way::Udp { from: to }, bytes });
    }

    /// Only addresses that have proved themselves by STUN are known: nobody else's DTLS or SRTP gets further.
    fn route_of(&mut self, source: SocketAddr) -> Option<Route> {
        let version = self.router.webrtc.board.version();
        if self.version != version {
            self.version = version;
            self.known.clear();
        }
        if let Some(route) = self.known.get(&source) {
            return Some(route.clone());
        }
        let route = self.router.webrtc.board.find(&source)?;
        self.known.insert(source, route.clone());
        Some(route)
    }
}

/// Whether this looks like a STUN binding request (RFC 8489 section 5).
pub(super) fn is_request(bytes: &[u8]) -> bool {
    is_stun(bytes) && bytes[..2] == [0, 1]
}

impl Router {
    pub fn new(node: &Arc<Node>, webrtc: &Arc<Webrtc>, worker: &Arc<Worker>) -> Router {
        Router { node: node.clone(), webrtc: webrtc.clone(), worker: worker.clone() }
    }

    /// When what is read from a stream now arrived, as far as can be told.
    pub fn now(&self) -> Micros {
        let now = self.node.clock.now();
        now.before(self.worker.pulse.wait_before(now))
    }

    /// The candidate that a packet was sent to. ICE knows us by announced addresses: by the one it was sent to, else by
    /// the first of the family.
    pub fn local(&self, ipv4: bool, to: Option<IpAddr>) -> SocketAddr {
        let announced = self.webrtc.engine.announced();
        let called = announced.iter().find(|address| Some(address.ip()) == to);
        let told = called.or_else(|| announced.iter().find(|address| address.is_ipv4() == ipv4));
        told.copied().unwrap_or(self.webrtc.bound)
    }

    pub fn drop_counted(&self, queue: NodeQueue) {
        self.node.telemetry.node().record_dropped(queue);
    }

    pub fn hand_over(&self, route: &Route, datagram: Datagram) {
        if route.worker != self.worker.index {
            self.node.telemetry.node().record_forwarded();
        }
        if let Err(TrySendError::Full(_)) = route.try_send(Inbound::Datagram(datagram)) {
            self.drop_counted(NodeQueue::PeerInbox);
        }
    }

    /// The user name of a request wins over its source: ports are used again by other peers.
    pub fn route_of_request(&self, bytes: &[u8], path: Path, at: Micros) -> Option<Route> {
        let message = StunMessage::parse(bytes).ok().filter(StunMessage::is_binding_request)?;
        let (ufrag, _) = message.split_username()?;
        let instant = self.node.clock.instant(at).into_std();
        match self.webrtc.board.look_up(ufrag, |parked| parked.peer.accepts(instant, path, bytes)) {
            Lookup::Peer(route) => Some(route),
            Lookup::Waiting => {
                let address = (path.protocol == Protocol::Udp).then_some(path.peer);
                let (parked, place) = self.webrtc.board.take(ufrag, address, self.worker.index)?;
                let route = place.route().clone();
                self.begin(parked, place);
                Some(route)
            }
            Lookup::Nobody => None,
        }
    }

    fn begin(&self, parked: Parked, place: Place<Parked>) {
        let outlet = self.webrtc.outlets.get(self.worker.index).cloned().unwrap_or_default();
        let job = run(self.node.clone(), self.worker.clone(), parked, place, outlet);
        if self.worker.try_run(Box::pin(job)).is_err() {
            self.node.telemetry.node().record_refusal(Refusal::Overload);
        }
    }
}

/// Runs the session of a peer that has come for it.
async fn run(node: Arc<Node>, worker: Arc<Worker>, parked: Parked, place: Place<Parked>, outlet: Outlet) {
    let Parked { peer, mut dialect, channel, purpose, link, waiting } = parked;
    // It has proved its address.
    drop(waiting);
    let (clock, telemetry) = (node.clock, node.telemetry.clone());
    let grace = node.in_force.load().settings.webrtc.grace;
    let mut peer = PeerLink::new(peer, Box::new(place), outlet, clock, telemetry, channel, grace);
    let over = |peer, dialect| NewLink {
        line: Line::Peer(Box::new(peer)),
        dialect,
        info: link,
        worker: worker.index,
        admission: Box::new(()),
    };
    let planned = match purpose {
        Purpose::Resume(claim) => {
            if let Err((link, refused)) = admit::resume(&node, &claim, Box::new(over(peer, dialect))) {
                node.telemetry.node().record_refusal(refused.refusal);
                link.line.close(CloseReason::Policy.code(), refused.refusal.label()).await;
            }
            return;
        }
        Purpose::Start(mut planned) if !dialect.is_started() => {
            let heard = first_words::hear(&mut peer, dialect.as_mut(), clock, &node.telemetry).await;
            heard.map_err(|Gone| Refused::gone()).map(|setup| {
                planned.set_setup(setup);
                planned
            })
        }
        Purpose::Start(planned) => Ok(planned),
        Purpose::Decide(deciding) => ahead::decided(&mut peer, deciding, &node.telemetry).await.map(Box::new),
    };
    let link = over(peer, dialect);
    match planned {
        Ok(planned) => admit::begin(&node, &worker, *planned).run(&node, link).await,
        Err(refused) => call::refuse(&node, link.line, link.dialect, refused).await,
    }
}
