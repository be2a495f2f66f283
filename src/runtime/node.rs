//! What all connections of a process share.

use std::iter;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Keeper, SharedUses};
use crate::config::settings::Settings;
use crate::limit::{Limiter, Limits};
use crate::media::playout::Budget;
use crate::route::Router;
use crate::runtime::admission::Gatekeeper;
use crate::runtime::admission::allowance::Allowance;
use crate::runtime::admission::hooks::Hooks;
use crate::runtime::admission::keyring::Keyrings;
use crate::runtime::admission::uses::Uses;
use crate::runtime::certificate::{Certificates, Identity};
use crate::runtime::clock::Clock;
use crate::runtime::overload::Overload;
use crate::runtime::registry::Registry;
use crate::runtime::tls::{self, TlsError};
use crate::runtime::worker::Worker;
use crate::telemetry::{CallRecordSink, Telemetry};
use crate::upstream::Dialer;
use crate::upstream::exchange::Exchanges;

const MINUTE: Duration = Duration::from_secs(60);

/// One process.
#[derive(Debug)]
pub struct Node {
    /// Its clock.
    pub clock: Clock,
    /// Its metrics.
    pub telemetry: Telemetry,
    /// Its sessions.
    pub registry: Arc<Registry>,
    /// The cells of all limits.
    pub limiter: Arc<Limiter>,
    /// The other nodes.
    pub cluster: Arc<Cluster>,
    keeper: Mutex<Option<Keeper>>,
    /// Its data plane.
    pub workers: Vec<Arc<Worker>>,
    /// Opens sockets to agents, by worker.
    dialers: Vec<Dialer>,
    /// Talks to services of the operator.
    pub exchanges: Exchanges,
    /// Asks pre-call hooks.
    pub hooks: Hooks,
    /// Which tokens were used that may be used once.
    pub uses: Arc<dyn Uses>,
    /// The key sets of issuers.
    pub keyrings: Keyrings,
    /// What encrypted listeners show.
    pub certificates: Arc<Certificates>,
    /// TLS of the HTTP listener, where a certificate is configured.
    pub https: Arc<ServerConfig>,
    /// Takes call records.
    pub records: CallRecordSink,
    /// The configuration in force; new sessions look at it, live ones keep their plan.
    pub in_force: ArcSwap<InForce>,
    /// Memory for agent audio that waits to be heard, for all sessions.
    pub playout_budget: Arc<Budget>,
    /// What is done about load.
    pub overload: Overload,
    /// The addresses really bound.
    pub bound: OnceLock<Bound>,
    /// Cancelled when connections without a session must end.
    pub stopping: CancellationToken,
    /// Set when all sessions must end at once.
    pub halt: Arc<AtomicBool>,
    draining: AtomicBool,
}

/// The configuration and what was made of it.
#[derive(Debug)]
pub struct InForce {
    /// As it was read.
    pub settings: Settings,
    /// Its routes.
    pub router: Router,
    /// Whom it lets in.
    pub gatekeeper: Gatekeeper,
    /// Wrong credentials by address.
    pub failures: Allowance,
    /// Its limits.
    pub limits: Limits,
    /// The configured certificate.
    pub identity: Option<Arc<Identity>>,
}

/// Listening addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Bound {
    /// HTTP and WebSocket.
    pub http: SocketAddr,
    /// Health and metrics.
    pub control: SocketAddr,
    /// WebRTC (UDP); absent when it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webrtc: Option<SocketAddr>,
    /// QUIC and WebTransport (UDP); absent when they are off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic: Option<SocketAddr>,
}

impl InForce {
    /// Makes the routes and reads the certificate.
    ///
    /// # Errors
    /// If the certificate cannot be used.
    pub fn new(settings: Settings, keyrings: &Keyrings) -> Result<InForce, TlsError> {
        InForce::after(settings, keyrings, None)
    }

    /// As [`InForce::new`]; what limits count goes on from `before`.
    ///
    /// # Errors
    /// If the certificate cannot be used.
    pub fn after(settings: Settings, keyrings: &Keyrings, before: Option<&InForce>) -> Result<InForce, TlsError> {
        let files = settings.http.tls.as_ref();
        let identity = files.map(|files| Identity::from_files(&files.cert, &files.key).map(Arc::new)).transpose()?;
        let router = Router::new(&settings);
        let gatekeeper = Gatekeeper::new(&settings.auth, keyrings);
        let failures = Allowance::new(settings.auth.max_failures_per_minute, MINUTE, MINUTE);
        let limits = Limits::new(&settings, before.map(|before| &before.limits));
        Ok(InForce { settings, router, gatekeeper, failures, limits, identity })
    }
}

impl Node {
    /// A node that has not begun to listen; `exchanges` run where everything but calls does.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        clock: Clock,
        in_force: InForce,
        telemetry: Telemetry,
        workers: Vec<Arc<Worker>>,
        records: CallRecordSink,
        exchanges: Exchanges,
        keyrings: Keyrings,
    ) -> Result<Node, TlsError> {
        let certificates = Certificates::new(in_force.identity.clone(), clock.unix_seconds(Duration::ZERO))?;
        let certificates = Arc::new(certificates);
        let first = Dialer::default().fetching_on(exchanges.runtime().clone());
        let limiter = Arc::new(Limiter::new(in_force.settings.runtime.limit_keys));
        let (cluster, keeper) = Cluster::new(&in_force.settings, limiter.clone(), clock, telemetry.cluster());
        let cluster = Arc::new(cluster);
        Ok(Node {
            https: tls::server_config(certificates.clone())?,
            certificates,
            clock,
            telemetry,
            registry: Arc::default(),
            hooks: Hooks::new(exchanges.clone(), clock),
            uses: Arc::new(SharedUses::new(cluster.clone())),
            exchanges,
            keyrings,
            dialers: iter::successors(Some(first), |first| Some(first.for_another_worker()))
                .take(workers.len())
                .collect(),
            limiter,
            cluster,
            keeper: Mutex::new(keeper),
            overload: Overload::new(workers.len()),
            workers,
            records,
            playout_budget: Arc::new(Budget::new(in_force.settings.runtime.playout_bytes)),
            in_force: ArcSwap::from_pointee(in_force),
            bound: OnceLock::new(),
            stopping: CancellationToken::new(),
            halt: Arc::default(),
            draining: AtomicBool::new(false),
        })
    }

    /// Puts another configuration in force for new connections and sessions.
    pub fn take_over(&self, in_force: InForce) {
        self.certificates.configure(in_force.identity.clone());
        self.limiter.buckets.resize(in_force.settings.runtime.limit_keys);
        self.limiter.seats.resize(in_force.settings.runtime.limit_keys);
        self.in_force.store(Arc::new(in_force));
    }

    /// What keeps the cluster, to be run once; `None` without one.
    pub fn take_keeper(&self) -> Option<Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What opens sockets to agents for the sessions of this worker.
    pub fn dialer(&self, worker: usize) -> Dialer {
        self.dialers.get(worker).cloned().unwrap_or_default()
    }

    /// Whether no new session is taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Takes no new session from now on; `false` if it was so before.
    pub fn begin_draining(&self) -> bool {
        self.telemetry.node().set_draining(true);
        !self.draining.swap(true, Relaxed)
    }

    /// Whether no new session is taken, because all places are taken or because of load.
    pub fn is_full(&self) -> bool {
        self.is_full_with(0)
    }

    /// Whether no new session is taken when `others` come who were promised one.
    pub fn is_full_with(&self, others: usize) -> bool {
        let sessions = self.registry.len() + others;
        let most = self.in_force.load().settings.runtime.max_sessions as usize;
        sessions >= most || self.overload.is_full_with(sessions)
    }

    /// Whether a new connection can only be refused: no session is taken, and none waits for its client to come back.
    pub fn refuses_connections(&self) -> bool {
        self.is_full() && !self.registry.awaits_clients()
    }

    /// How long the least lively worker has answered no probe.
    pub fn longest_silence(&self) -> Duration {
        let now = self.clock.now();
        self.workers.iter().map(|worker| now - worker.pulse.beat_at()).max().unwrap_or_default()
    }
}
