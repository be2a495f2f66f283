//! QUIC and WebTransport: one UDP port, an endpoint for each worker, many sessions on a connection.

mod connection;
mod session;
mod turnstile;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt};
use tokio::task::JoinSet;

use self::turnstile::{Judgement, Turnstile};
use super::gate::Gate;
use crate::config::settings::{QuicSettings, Settings};
use crate::dialect::native::quic::ALPN;
use crate::message::CloseReason;
use crate::runtime::node::Node;
use crate::runtime::quic::congestion::ForCalls;
use crate::runtime::quic::ids::ConnectionIds;
use crate::runtime::quic::socket::{Arrivals, Rings, WorkerSocket};
use crate::runtime::sockets::{self, ListenError};
use crate::runtime::tls;
use crate::runtime::worker::Worker;
use crate::telemetry::Refusal;

/// The application protocol of HTTP/3, for WebTransport.
const H3: &[u8] = b"h3";
/// Unread bytes of one stream.
const STREAM_WINDOW: u32 = 16 << 10;
/// Streams of one session: control, audio, and the next audio while the last one ends.
const SESSION_STREAMS: u32 = 4;
/// One-way streams of the client: HTTP/3 needs three, and browsers open others to see whether they are ignored.
const UNI_STREAMS: u32 = 8;
/// Bytes of datagrams that wait for each session, in either direction.
const SESSION_DATAGRAMS: usize = 2 << 10;
/// At least so much for a connection.
const CONNECTION_DATAGRAMS: usize = 64 << 10;
/// Handshakes that wait for the accept loop of an endpoint.
const MAX_INCOMING: usize = 1024;
/// What each of them may hold before it is accepted, in bytes.
const INCOMING_BYTES: u64 = 16 << 10;
/// How long goodbyes may take at the end.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// The sockets of `listen.quic`, which do not receive yet.
#[derive(Debug)]
pub struct Prepared {
    bound: SocketAddr,
    /// One family of addresses each: a socket for each worker.
    families: Vec<Vec<UdpSocket>>,
}

/// Takes the port of `listen.quic` for `workers` workers; `None` if it is off.
///
/// # Errors
/// If the port cannot be had.
pub fn prepare(settings: &Settings, workers: usize) -> Result<Option<Prepared>, ListenError> {
    let Some(address) = settings.listen.quic else { return Ok(None) };
    let first = sockets::datagrams("quic", address, workers)?;
    let bound = first.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(address);
    let mut families = vec![first];
    if bound.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        let other = SocketAddr::from((Ipv4Addr::UNSPECIFIED, bound.port()));
        families.push(sockets::datagrams("quic", other, workers)?);
    }
    Ok(Some(Prepared { bound, families }))
}

impl Prepared {
    /// The address really bound.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Begins to receive on every worker.
    ///
    /// # Errors
    /// If TLS cannot be set up, or a worker takes no job.
    pub fn start(self, node: &Arc<Node>) -> io::Result<()> {
        let settings = node.in_force.load().settings.quic.clone();
        let tls = tls::quic_server_config(node.certificates.clone(), &[ALPN, H3]).map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(Arc::new(transport(&settings)))
            .migration(true)
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES * MAX_INCOMING as u64);
        let turnstile = Arc::new(Turnstile::new(settings.max_handshakes_per_address_s));
        let gate = Arc::new(Gate::default());
        let count = node.workers.len();
        for sockets in self.families {
            let ids = Arc::new(ConnectionIds::new(rand::random(), count));
            let (rings, arrivals) = Rings::new(ids.clone(), count, node.telemetry.clone());
            for ((worker, socket), arrivals) in node.workers.iter().zip(sockets).zip(arrivals) {
                let listener = Listener {
                    node: node.clone(),
                    worker: worker.clone(),
                    settings: settings.clone(),
                    config: config.clone(),
                    ids: ids.clone(),
                    turnstile: turnstile.clone(),
                    gate: gate.clone(),
                };
                let rings = rings.clone();
                let job = async move {
                    if let Err(error) = listener.run(socket, rings, arrivals).await {
                        tracing::error!(%error, "a QUIC socket cannot be used");
                    }
                };
                worker.try_run(Box::pin(job)).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}

/// The bounds of a connection: per session, times the sessions allowed.
fn transport(settings: &QuicSettings) -> TransportConfig {
    let sessions = settings.max_sessions_per_connection;
    let datagrams = (SESSION_DATAGRAMS * sessions as usize).max(CONNECTION_DATAGRAMS);
    let mut transport = TransportConfig::default();
    transport
        // One more for the request that opens a WebTransport session.
        .max_concurrent_bidi_streams(VarInt::from_u32(SESSION_STREAMS * sessions + 1))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        // A session that is slow to read holds two full streams back, and nobody else's.
        .receive_window(VarInt::from_u32(2 * STREAM_WINDOW * sessions.max(4)))
        .send_window(u64::from(2 * STREAM_WINDOW * sessions.max(4)))
        .datagram_receive_buffer_size(Some(datagrams))
        .datagram_send_buffer_size(datagrams)
        .keep_alive_interval(Some(settings.keep_alive))
        .max_idle_timeout(settings.idle.try_into().ok())
        .congestion_controller_factory(ForCalls::new(sessions));
    transport
}

/// The endpoint of one worker.
struct Listener {
    node: Arc<Node>,
    worker: Arc<Worker>,
    settings: QuicSettings,
    config: ServerConfig,
    ids: Arc<ConnectionIds>,
    turnstile: Arc<Turnstile>,
    gate: Arc<Gate>,
}

impl Listener {
    async fn run(self, socket: UdpSocket, rings: Rings, arrivals: Arrivals) -> io::Result<()> {
        let runtime: Arc<dyn quinn::Runtime> = Arc::new(quinn::TokioRuntime);
        let socket = WorkerSocket::new(socket, self.worker.index, rings, arrivals)?;
        let mut config = EndpointConfig::default();
        let (ids, index) = (self.ids.clone(), self.worker.index);
        config.cid_generator(move || ids.generator(index));
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(self.config.clone()), socket, runtime)?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                incoming = endpoint.accept() => match incoming {
                    Some(incoming) => self.on_incoming(incoming, &mut connections),
                    None => return Ok(()),
                },
                Some(ended) = connections.join_next() => if let Err(error) = ended && error.is_panic() {
                    tracing::error!("a defect ended a QUIC connection; others are untouched");
                },
                () = self.node.stopping.cancelled() => break,
            }
        }
        endpoint.close(u32::from(CloseReason::Draining.code()).into(), CloseReason::Draining.label().as_bytes());
        let _ = tokio::time::timeout(CLOSE_DEADLINE, endpoint.wait_idle()).await;
        Ok(())
    }

    /// A client begins a handshake: it may have to prove its address first, or be turned away.
    fn on_incoming(&self, incoming: quinn::Incoming, connections: &mut JoinSet<()>) {
        let refused = |incoming: quinn::Incoming, refusal| {
            self.node.telemetry.node().record_refusal(refusal);
            incoming.refuse();
        };
        let peer = incoming.remote_address();
        let accepted = self.node.clock.now();
        if self.node.is_draining() {
            return refused(incoming, Refusal::Draining);
        }
        let in_force = self.node.in_force.load();
        let caps = &in_force.settings.http;
        let pressed = self.gate.shaking(self.worker.index) >= self.settings.retry_above;
        match self.turnstile.judge(peer.ip(), incoming.remote_address_validated(), pressed, accepted) {
            // A Retry is smaller than what it answers, and costs no memory.
            Judgement::Prove if incoming.may_retry() => {
                let _ = incoming.retry();
                return;
            }
            Judgement::Enter => {}
            Judgement::Prove | Judgement::Refuse => return refused(incoming, Refusal::Address),
        }
        let admitted = self.gate.connect(peer.ip(), caps).and_then(|connected| {
            let handshake = self.gate.shake(self.worker.index, peer.ip(), caps)?;
            Ok((connected, handshake))
        });
        match admitted {
            Err(refusal) => refused(incoming, refusal),
            Ok((connected, handshake)) => {
                let admission =
                    (connected, self.worker.count_connection(), self.node.telemetry.node().connection("quic"));
                let arriving = connection::Arriving {
                    node: self.node.clone(),
                    worker: self.worker.clone(),
                    settings: self.settings.clone(),
                    accepted,
                    handshake,
                };
                connections.spawn(async move {
                    arriving.serve(incoming).await;
                    drop(admission);
                });
            }
        }
    }
}
