//! The UDP sockets of one worker: batched receive, and who gets which datagram.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::Bytes;
use quinn_udp::{RecvMeta, UdpSocketState};
use str0m::ice::StunMessage;
use tokio::io::Interest;
use tokio::sync::mpsc::error::TrySendError;

use super::{Parked, Purpose, Webrtc};
use crate::dialect::native::Native;
use crate::ingress::admit;
use crate::message::CloseReason;
use crate::runtime::line::Line;
use crate::runtime::node::Node;
use crate::runtime::peer::link::{Outlet, PeerLink, is_stun};
use crate::runtime::peer::switchboard::{Datagram, Inbound, Lookup, Place, Route};
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
    let mut outlet = Outlet::default();
    for socket in &sockets {
        let shared = Some(Arc::new(socket.try_clone()?));
        if socket.local_addr()?.is_ipv4() { outlet.v4 = shared } else { outlet.v6 = shared }
    }
    for socket in sockets {
        let ipv4 = socket.local_addr()?.is_ipv4();
        // ICE knows us by an announced address, whatever address of ours a datagram was sent to.
        let told = webrtc.engine.announced().iter().find(|address| address.is_ipv4() == ipv4);
        let receiver = Receiver {
            node: node.clone(),
            webrtc: webrtc.clone(),
            worker: worker.clone(),
            outlet: outlet.clone(),
            local: told.copied().unwrap_or(webrtc.bound),
            known: HashMap::new(),
            version: 0,
        };
        let job = async move {
            if let Err(error) = receiver.run(socket).await {
                tracing::error!(%error, "a WebRTC socket cannot be used");
            }
        };
        worker.try_run(Box::pin(job)).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Receives from one socket.
struct Receiver {
    node: Arc<Node>,
    webrtc: Arc<Webrtc>,
    worker: Arc<Worker>,
    outlet: Outlet,
    local: SocketAddr,
    /// Who sends from where; made anew whenever the switchboard changes.
    known: HashMap<SocketAddr, Route>,
    version: u64,
}

impl Receiver {
    async fn run(mut self, socket: UdpSocket) -> io::Result<()> {
        let state = UdpSocketState::new((&socket).into())?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let mut buffers: Vec<Vec<u8>> = (0..BATCH).map(|_| vec![0; RUN_BYTES]).collect();
        let mut metas = [RecvMeta::default(); BATCH];
        let stopping = self.node.stopping.clone();
        loop {
            let receive = socket.async_io(Interest::READABLE, || {
                let mut slices = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer));
                let mut slices: [IoSliceMut<'_>; BATCH] =
                    std::array::from_fn(|_| slices.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
                state.recv((&socket).into(), &mut slices, &mut metas)
            });
            let received = tokio::select! {
                received = receive => received,
                () = stopping.cancelled() => return Ok(()),
            };
            // An error tells of one datagram that could not be delivered, not of the socket.
            let Ok(count) = received else { continue };
            let now = self.node.clock.now();
            for (meta, buffer) in metas.iter().zip(&buffers).take(count) {
                let at = meta.timestamp.map_or(now, |stamp| self.node.clock.at_stamp(stamp, now));
                for bytes in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    self.on_datagram(bytes, meta.addr, at);
                }
            }
        }
    }

    fn on_datagram(&mut self, bytes: &[u8], source: SocketAddr, at: Micros) {
        let route = if is_stun(bytes) { self.route_of_stun(bytes, source, at) } else { self.route_of(source) };
        let Some(route) = route else { return self.drop_counted(NodeQueue::UnknownPeer) };
        if route.worker != self.worker.index {
            self.node.telemetry.node().record_forwarded();
        }
        let datagram = Datagram { at, source, local: self.local, bytes: Bytes::copy_from_slice(bytes) };
        if let Err(TrySendError::Full(_)) = route.try_send(Inbound::Datagram(datagram)) {
            self.drop_counted(NodeQueue::PeerInbox);
        }
    }

    fn drop_counted(&self, queue: NodeQueue) {
        self.node.telemetry.node().record_dropped(queue);
    }

    /// Only addresses that have proved themselves by STUN are known: nobody else's DTLS or SRTP gets further.
    fn route_of(&mut self, source: SocketAddr) -> Option<Route> {
        let version = self.webrtc.board.version();
        if self.version != version {
            self.version = version;
            self.known.clear();
        }
        if let Some(route) = self.known.get(&source) {
            return Some(route.clone());
        }
        let route = self.webrtc.board.find(&source)?;
        self.known.insert(source, route.clone());
        Some(route)
    }

    /// The user name of a request wins over its source: ports are used again by other peers.
    fn route_of_stun(&mut self, bytes: &[u8], source: SocketAddr, at: Micros) -> Option<Route> {
        let message = StunMessage::parse(bytes).ok()?;
        if !message.is_binding_request() {
            return self.route_of(source);
        }
        let (ufrag, _) = message.split_username()?;
        let instant = self.node.clock.instant(at).into_std();
        let local = self.local;
        match self.webrtc.board.look_up(ufrag, |parked| parked.peer.accepts(instant, source, local, bytes)) {
            Lookup::Peer(route) => Some(route),
            Lookup::Waiting => {
                let (parked, place) = self.webrtc.board.take(ufrag, source, self.worker.index)?;
                let route = place.route().clone();
                self.begin(parked, place);
                Some(route)
            }
            Lookup::Nobody => None,
        }
    }

    /// The peer of an answer is there: its session runs on this worker.
    fn begin(&self, parked: Parked, place: Place<Parked>) {
        let (node, worker, outlet) = (self.node.clone(), self.worker.clone(), self.outlet.clone());
        let job = async move {
            let Parked { peer, format, channel, purpose, link } = parked;
            let (clock, telemetry) = (node.clock, node.telemetry.clone());
            let peer = PeerLink::new(peer, Box::new(place), outlet, clock, telemetry, channel);
            let link = NewLink {
                line: Line::Peer(Box::new(peer)),
                dialect: Box::new(Native::started(format)),
                info: link,
                worker: worker.index,
                admission: Box::new(()),
            };
            match purpose {
                Purpose::Start(planned) => admit::begin(&node, &worker, *planned).run(&node, link).await,
                Purpose::Resume(token) => {
                    if let Err((link, refused)) = admit::resume(&node, &token, Box::new(link)) {
                        node.telemetry.node().record_refusal(refused.refusal);
                        link.line.close(CloseReason::Policy.code(), refused.refusal.label()).await;
                    }
                }
            }
        };
        if self.worker.try_run(Box::pin(job)).is_err() {
            self.node.telemetry.node().record_refusal(Refusal::Overload);
        }
    }
}
