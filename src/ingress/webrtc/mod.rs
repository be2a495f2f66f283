//! WebRTC: signalling over HTTP, and one port for all calls: UDP, and TCP for those whom UDP does not reach.
//!
//! The answer to an offer is parked under its ICE user name. The worker that gets the peer's first valid STUN request
//! takes it, and runs the session from then on.

mod ahead;
mod certificate;
mod denied;
mod first_words;
mod offer;
mod realtime;
pub(super) mod signalling;
mod socket;
mod tcp;
mod turn;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use self::ahead::Deciding;
use super::admit::{Claim, Planned};
use super::gate::Waiting;
use crate::config::settings::Settings;
use crate::dialect::Dialect;
use crate::runtime::node::Node;
use crate::runtime::peer::PeerTransport;
use crate::runtime::peer::engine::Engine;
use crate::runtime::peer::link::Outlet;
use crate::runtime::peer::switchboard::Switchboard;
use crate::runtime::sockets::{self, ListenError};
use crate::session::LinkInfo;
use crate::telemetry::NodeQueue;

/// How long an answer waits for its peer.
const PARKED_FOR: Duration = Duration::from_secs(15);
/// How often answers that nobody came for are dropped.
const SWEEP: Duration = Duration::from_secs(5);

/// Why there is no WebRTC.
#[derive(Debug, thiserror::Error)]
pub enum WebrtcError {
    /// The port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate cannot be had.
    #[error("{0}")]
    Certificate(#[from] io::Error),
}

/// WebRTC of one process.
#[derive(Debug)]
pub struct Webrtc {
    engine: Engine,
    board: Arc<Switchboard<Parked>>,
    bound: SocketAddr,
    /// What the sessions of each worker send by.
    outlets: Vec<Outlet>,
}

/// The sockets of one worker.
#[derive(Debug)]
struct Sockets(Vec<UdpSocket>);

/// WebRTC that has its port and does not receive yet.
#[derive(Debug)]
pub struct Prepared {
    webrtc: Arc<Webrtc>,
    sockets: Vec<Sockets>,
    listeners: Vec<TcpListener>,
}

/// An answer that waits for its peer.
struct Parked {
    peer: Box<dyn PeerTransport>,
    dialect: Box<dyn Dialect>,
    channel: bool,
    purpose: Purpose,
    link: LinkInfo,
    /// Counts it for its address.
    waiting: Waiting,
}

/// What a peer comes for.
enum Purpose {
    /// A session of its own.
    Start(Box<Planned>),
    /// One of its own, if that is decided.
    Decide(Deciding),
    /// The session that it has a right to.
    Resume(Claim),
}

/// Takes the port of `listen.webrtc` for `workers` workers; `None` if it is off.
///
/// # Errors
/// If the port or the certificate cannot be had.
pub fn prepare(settings: &Settings, workers: usize) -> Result<Option<Prepared>, WebrtcError> {
    let Some(address) = settings.listen.webrtc else { return Ok(None) };
    let Ports { bound, families, listeners } = take_ports(address, workers)?;
    let mut of_workers: Vec<Sockets> = (0..workers).map(|_| Sockets(Vec::new())).collect();
    for family in families {
        for (of_worker, socket) in of_workers.iter_mut().zip(family) {
            of_worker.0.push(socket);
        }
    }
    let outlets = of_workers.iter().map(|of_worker| Outlet::new(&of_worker.0)).collect::<io::Result<_>>()?;
    let certificate = certificate::load(settings.webrtc.certificate.as_deref())?;
    let announced = announced(&settings.listen.webrtc_public, bound);
    let webrtc = Webrtc { engine: Engine::new(certificate, announced), board: Arc::default(), bound, outlets };
    Ok(Some(Prepared { webrtc: Arc::new(webrtc), sockets: of_workers, listeners }))
}

/// One port number in both protocols, and in both families where all addresses are asked for.
struct Ports {
    bound: SocketAddr,
    families: Vec<Vec<UdpSocket>>,
    listeners: Vec<TcpListener>,
}

/// Any free number is good where none is given: it must be free in both protocols.
const ATTEMPTS: usize = 16;

fn take_ports(address: SocketAddr, workers: usize) -> Result<Ports, ListenError> {
    for _ in 1..ATTEMPTS {
        match try_take_ports(address, workers) {
            Err(ListenError::Taken { .. }) if address.port() == 0 => {}
            result => return result,
        }
    }
    try_take_ports(address, workers)
}

fn try_take_ports(address: SocketAddr, workers: usize) -> Result<Ports, ListenError> {
    let first = sockets::datagrams("webrtc", address, workers)?;
    let bound = first.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(address);
    let mut addresses = vec![bound];
    let mut families = vec![first];
    if bound.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        let other = SocketAddr::from((Ipv4Addr::UNSPECIFIED, bound.port()));
        families.push(sockets::datagrams("webrtc", other, workers)?);
        addresses.push(other);
    }
    let listeners = addresses.into_iter().map(|address| sockets::stream_listener("webrtc", address));
    let listeners = listeners.collect::<Result<_, _>>()?;
    Ok(Ports { bound, families, listeners })
}

/// The addresses that clients are told: the configured ones, else the bound one, else those that packets leave by.
fn announced(public: &[IpAddr], bound: SocketAddr) -> Vec<SocketAddr> {
    let mut addresses: Vec<IpAddr> = public.to_vec();
    if addresses.is_empty() {
        addresses = match bound.ip() {
            ip if !ip.is_unspecified() => vec![ip],
            IpAddr::V4(_) => leaving_by(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))).into_iter().collect(),
            IpAddr::V6(_) => {
                let far = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), "2001:db8::1".parse().unwrap_or(bound.ip())];
                far.into_iter().filter_map(leaving_by).collect()
            }
        };
    }
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    addresses.into_iter().map(|ip| SocketAddr::new(ip, bound.port())).collect()
}

/// The address that packets to `far` would leave by; none is sent.
fn leaving_by(far: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

impl Prepared {
    /// The address really bound.
    pub fn bound(&self) -> SocketAddr {
        self.webrtc.bound
    }

    /// Begins to receive on every worker; gives what accepts connections, to be run as long as the process lives.
    ///
    /// # Errors
    /// If a worker takes no job, or a socket is unusable.
    pub fn start(self, node: &Arc<Node>) -> io::Result<(Arc<Webrtc>, Vec<Accepting>)> {
        for (worker, sockets) in node.workers.iter().zip(self.sockets) {
            socket::start(node, &self.webrtc, worker, sockets.0)?;
        }
        let accepting = |listener| -> Accepting { Box::pin(tcp::accept(node.clone(), self.webrtc.clone(), listener)) };
        let accepting = self.listeners.into_iter().map(accepting).collect();
        Ok((self.webrtc, accepting))
    }
}

/// An accept loop; it ends only by an error.
pub type Accepting = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

impl Webrtc {
    /// Drops answers that nobody came for, for as long as the process lives.
    pub async fn sweep(self: Arc<Self>, node: Arc<Node>) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            for _ in 0..self.board.expire(node.clock.now()) {
                node.telemetry.node().record_dropped(NodeQueue::Parked);
            }
        }
    }
}
