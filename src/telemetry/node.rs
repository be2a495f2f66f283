//! The metrics of the process and its workers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, Histogram};

use super::names;
use super::overload::OverloadMetrics;
use super::registry::Registry;
use crate::session::Transport;

/// Why a connection was ended before a session started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Too many connections in all.
    Connections,
    /// Too many connections of one address.
    Address,
    /// Too many handshakes at once.
    Handshakes,
    /// Too many handshakes at once of one address.
    AddressHandshakes,
    /// A deadline of the handshake passed.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// Not a request that is served here.
    BadRequest,
    /// The `Origin` is not on the list.
    Origin,
    /// No or wrong credentials.
    Auth,
    /// No route or agent for it.
    NoRoute,
    /// Another node has the session.
    OtherNode,
    /// A limit was reached.
    Limit,
    /// The node drains.
    Draining,
    /// The node has no room.
    Overload,
    /// The client went away.
    Gone,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Refusal; 15] = [
        Refusal::Connections,
        Refusal::Address,
        Refusal::Handshakes,
        Refusal::AddressHandshakes,
        Refusal::Timeout,
        Refusal::Tls,
        Refusal::BadRequest,
        Refusal::Origin,
        Refusal::Auth,
        Refusal::NoRoute,
        Refusal::OtherNode,
        Refusal::Limit,
        Refusal::Draining,
        Refusal::Overload,
        Refusal::Gone,
    ];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Refusal::Connections => "connections",
            Refusal::Address => "address",
            Refusal::Handshakes => "handshakes",
            Refusal::AddressHandshakes => "address_handshakes",
            Refusal::Timeout => "timeout",
            Refusal::Tls => "tls",
            Refusal::BadRequest => "bad_request",
            Refusal::Origin => "origin",
            Refusal::Auth => "auth",
            Refusal::NoRoute => "no_route",
            Refusal::OtherNode => "other_node",
            Refusal::Limit => "limit",
            Refusal::Draining => "draining",
            Refusal::Overload => "overload",
            Refusal::Gone => "gone",
        }
    }
}

/// The bounded queues of the node that hold something other than a session's audio. The table of all queues is in the
/// crate documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeQueue {
    /// Accepted sockets on their way to a worker.
    Handover,
    /// Commands and resumed links on their way to a session.
    Mailbox,
    /// Bytes on their way to a client.
    ClientWrite,
    /// Datagrams on their way from an agent to a session.
    AgentRead,
    /// Bytes on their way to an agent.
    AgentWrite,
    /// Text messages that wait for an agent.
    KeptMessages,
    /// Tool calls whose result is awaited.
    ToolCalls,
    /// Call records on their way to their file or the log.
    CallRecords,
    /// Log lines on their way to standard error.
    Log,
    /// Datagrams on their way to a WebRTC session.
    PeerInbox,
    /// Datagrams on their way to a WebRTC peer.
    PeerWrite,
    /// WebRTC answers that wait for their peer.
    Parked,
    /// Datagrams that belong to no WebRTC session.
    UnknownPeer,
    /// Packets on their way to the worker of their QUIC connection.
    QuicForward,
    /// Audio packets on their way to a session on QUIC.
    QuicInbox,
    /// Audio packets on their way to a client on QUIC.
    QuicWrite,
    /// Datagrams on a QUIC connection that belong to none of its sessions.
    UnknownFlow,
    /// Cells of limits that wait to be reported to the cluster.
    LimitReports,
    /// What is asked of the cluster.
    ClusterRequests,
}

impl NodeQueue {
    /// Every queue.
    pub const ALL: [NodeQueue; 19] = [
        NodeQueue::Handover,
        NodeQueue::Mailbox,
        NodeQueue::ClientWrite,
        NodeQueue::AgentRead,
        NodeQueue::AgentWrite,
        NodeQueue::KeptMessages,
        NodeQueue::ToolCalls,
        NodeQueue::CallRecords,
        NodeQueue::Log,
        NodeQueue::PeerInbox,
        NodeQueue::PeerWrite,
        NodeQueue::Parked,
        NodeQueue::UnknownPeer,
        NodeQueue::QuicForward,
        NodeQueue::QuicInbox,
        NodeQueue::QuicWrite,
        NodeQueue::UnknownFlow,
        NodeQueue::LimitReports,
        NodeQueue::ClusterRequests,
    ];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            NodeQueue::Handover => "handover",
            NodeQueue::Mailbox => "mailbox",
            NodeQueue::ClientWrite => "client_write",
            NodeQueue::AgentRead => "agent_read",
            NodeQueue::AgentWrite => "agent_write",
            NodeQueue::KeptMessages => "kept_messages",
            NodeQueue::ToolCalls => "tool_calls",
            NodeQueue::CallRecords => "call_records",
            NodeQueue::Log => "log",
            NodeQueue::PeerInbox => "peer_inbox",
            NodeQueue::PeerWrite => "peer_write",
            NodeQueue::Parked => "parked",
            NodeQueue::UnknownPeer => "unknown_peer",
            NodeQueue::QuicForward => "quic_forward",
            NodeQueue::QuicInbox => "quic_inbox",
            NodeQueue::QuicWrite => "quic_write",
            NodeQueue::UnknownFlow => "unknown_flow",
            NodeQueue::LimitReports => "limit_reports",
            NodeQueue::ClusterRequests => "cluster_requests",
        }
    }
}

/// How an attempt to resume a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResumeOutcome {
    /// The link arrived on the session's own worker.
    SameWorker,
    /// The link arrived on another worker and is polled across.
    OtherWorker,
    /// Another node has the session: the client was told, or served through here.
    OtherNode,
    /// The token was unknown, used, too old or of another principal.
    Refused,
}

impl ResumeOutcome {
    /// Every outcome.
    pub const ALL: [ResumeOutcome; 4] =
        [ResumeOutcome::SameWorker, ResumeOutcome::OtherWorker, ResumeOutcome::OtherNode, ResumeOutcome::Refused];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            ResumeOutcome::SameWorker => "same_worker",
            ResumeOutcome::OtherWorker => "other_worker",
            ResumeOutcome::OtherNode => "other_node",
            ResumeOutcome::Refused => "refused",
        }
    }
}

const TRANSPORTS: [Transport; 4] = [Transport::Websocket, Transport::Webrtc, Transport::Quic, Transport::Webtransport];

/// The metrics of the process; see [`super::Telemetry::node`].
pub struct NodeMetrics {
    registry: Arc<Registry>,
    workers: Mutex<HashMap<usize, WorkerMetrics>>,
    refused: [Counter; Refusal::ALL.len()],
    dropped: [Counter; NodeQueue::ALL.len()],
    resumes: [Counter; ResumeOutcome::ALL.len()],
    holds_overdue: Counter,
    forwarded: Counter,
    draining: Gauge,
    reloads_taken: Counter,
    reloads_refused: Counter,
    reload_successful: Gauge,
    reload_success_timestamp: Gauge,
    log_suppressed: Counter,
    call_records_failed: Counter,
}

impl std::fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeMetrics").finish_non_exhaustive()
    }
}

impl NodeMetrics {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let build = [env!("CARGO_PKG_VERSION"), option_env!("ANTIPHON_REVISION").unwrap_or("")];
        registry.gauge(&names::BUILD_INFO, &build).set(1.0);
        Self {
            workers: Mutex::default(),
            refused: Refusal::ALL.map(|reason| registry.counter(&names::HANDSHAKES_REFUSED, &[reason.label()])),
            dropped: NodeQueue::ALL.map(|queue| registry.counter(&names::QUEUE_DROPPED, &[queue.label()])),
            resumes: ResumeOutcome::ALL.map(|outcome| registry.counter(&names::RESUMES, &[outcome.label()])),
            holds_overdue: registry.counter(&names::HOLDS_OVERDUE, &[]),
            forwarded: registry.counter(&names::DATAGRAMS_FORWARDED, &[]),
            draining: registry.gauge(&names::DRAINING, &[]),
            reloads_taken: registry.counter(&names::CONFIG_RELOADS, &["taken"]),
            reloads_refused: registry.counter(&names::CONFIG_RELOADS, &["refused"]),
            reload_successful: registry.gauge(&names::CONFIG_LAST_RELOAD_SUCCESSFUL, &[]),
            reload_success_timestamp: registry.gauge(&names::CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP, &[]),
            log_suppressed: registry.counter(&names::LOG_LINES_SUPPRESSED, &[]),
            call_records_failed: registry.counter(&names::CALL_RECORDS_FAILED, &[]),
            registry,
        }
    }

    /// The metrics of a worker, numbered from 0; resolve once, when it starts.
    pub fn worker(&self, index: usize) -> WorkerMetrics {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.entry(index).or_insert_with(|| WorkerMetrics::new(&self.registry, index)).clone()
    }

    /// The metrics of the overload watch.
    pub fn overload(&self) -> OverloadMetrics {
        OverloadMetrics::new(&self.registry)
    }

    /// A connection was accepted by a listener (`http`, `control`); it counts as open until the value is dropped.
    pub fn connection(&self, listener: &'static str) -> OpenConnection {
        self.registry.counter(&names::CONNECTIONS_ACCEPTED, &[listener]).increment(1);
        OpenConnection(RaisedGauge::raise(self.registry.gauge(&names::CONNECTIONS, &[listener])))
    }

    /// A connection was ended before a session started.
    pub fn record_refusal(&self, reason: Refusal) {
        self.refused[reason as usize].increment(1);
    }

    /// Something was dropped or refused at a full queue.
    pub fn record_dropped(&self, queue: NodeQueue) {
        self.dropped[queue as usize].increment(1);
    }

    /// The counter behind [`NodeMetrics::record_dropped`], for owners of a queue.
    pub fn dropped(&self, queue: NodeQueue) -> Counter {
        self.dropped[queue as usize].clone()
    }

    /// A session was held at the gate of its worker for as long as it may be, and was not let through.
    pub fn record_overdue_hold(&self) {
        self.holds_overdue.increment(1);
    }

    /// A datagram reached a worker that does not run its session and was handed on.
    pub fn record_forwarded(&self) {
        self.forwarded.increment(1);
    }

    /// An attempt to resume a session.
    pub fn record_resume(&self, outcome: ResumeOutcome) {
        self.resumes[outcome as usize].increment(1);
    }

    /// Whether the node drains.
    pub fn set_draining(&self, draining: bool) {
        self.draining.set(if draining { 1.0 } else { 0.0 });
    }

    /// A configuration was loaded, at the start or by a reload; `hash` is of the configuration without its secrets.
    pub fn record_config_taken(&self, hash: &str, at: SystemTime) {
        self.reloads_taken.increment(1);
        self.reload_successful.set(1.0);
        self.reload_success_timestamp.set(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        self.registry.set_config_hash(hash);
    }

    /// A changed configuration was refused; the older one stays in force.
    pub fn record_config_refused(&self) {
        self.reloads_refused.increment(1);
        self.reload_successful.set(0.0);
    }

    /// Log lines that were suppressed as repeats.
    pub fn record_log_suppressed(&self, lines: u64) {
        self.log_suppressed.increment(lines);
    }

    /// The counter of call records that could not be written.
    pub fn call_records_failed(&self) -> Counter {
        self.call_records_failed.clone()
    }
}

/// The metrics of one worker; cheap to clone.
#[derive(Clone)]
pub struct WorkerMetrics {
    lag: Histogram,
    active: [Gauge; TRANSPORTS.len()],
}

impl std::fmt::Debug for WorkerMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerMetrics").finish_non_exhaustive()
    }
}

impl WorkerMetrics {
    fn new(registry: &Registry, index: usize) -> Self {
        let worker = index.to_string();
        Self {
            lag: registry.histogram(&names::WORKER_LAG, &[&worker]),
            active: TRANSPORTS.map(|transport| registry.gauge(&names::SESSIONS_ACTIVE, &[&worker, transport.label()])),
        }
    }

    /// How late the worker ran its own timer.
    pub fn record_lag(&self, lag: Duration) {
        self.lag.record(lag.as_secs_f64());
    }

    /// A session runs on this worker until the value is dropped, however it ends.
    pub fn session(&self, transport: Transport) -> ActiveSession {
        let slot = match transport {
            Transport::Websocket => 0,
            Transport::Webrtc => 1,
            Transport::Quic => 2,
            Transport::Webtransport => 3,
        };
        ActiveSession(RaisedGauge::raise(self.active[slot].clone()))
    }
}

/// A gauge that is one higher while this lives.
struct RaisedGauge(Gauge);

impl RaisedGauge {
    fn raise(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for RaisedGauge {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Counts as an active session of a worker while it lives.
#[must_use = "the session counts as ended when this is dropped"]
pub struct ActiveSession(#[expect(dead_code, reason = "held for its drop")] RaisedGauge);

/// Counts as an open connection of a listener while it lives.
#[must_use = "the connection counts as closed when this is dropped"]
pub struct OpenConnection(#[expect(dead_code, reason = "held for its drop")] RaisedGauge);

impl std::fmt::Debug for ActiveSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ActiveSession")
    }
}

impl std::fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenConnection")
    }
}
