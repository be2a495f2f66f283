//! The metrics of the cluster: Redis, leases, and what waits for them.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::names;
use super::node::NodeQueue;
use super::registry::Registry;
use crate::cluster::Trouble;

/// How the wait of an admission for Redis ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitResult {
    /// Redis has answered.
    Answered,
    /// It has not, in time.
    Timeout,
    /// Nobody waited, because Redis is known to be late.
    Skipped,
    /// Too many wait already.
    Full,
}

impl WaitResult {
    const ALL: [WaitResult; 4] = [WaitResult::Answered, WaitResult::Timeout, WaitResult::Skipped, WaitResult::Full];

    const fn label(self) -> &'static str {
        match self {
            WaitResult::Answered => "answered",
            WaitResult::Timeout => "timeout",
            WaitResult::Skipped => "skipped",
            WaitResult::Full => "full",
        }
    }
}

/// The metrics of the cluster; cheap to clone.
#[derive(Clone)]
pub struct ClusterMetrics {
    registry: Arc<Registry>,
    up: Gauge,
    troubles: [Counter; Trouble::ALL.len()],
    round_trip: Histogram,
    commands: [Counter; 2],
    waits: [Counter; WaitResult::ALL.len()],
    waiting: Gauge,
    in_flight: Gauge,
    claims: Gauge,
    peers: Gauge,
    lost_reports: Counter,
    lost_requests: Counter,
}

impl std::fmt::Debug for ClusterMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterMetrics").finish_non_exhaustive()
    }
}

impl ClusterMetrics {
    pub(super) fn new(registry: &Arc<Registry>) -> Self {
        Self {
            registry: registry.clone(),
            up: registry.gauge(&names::REDIS_UP, &[]),
            troubles: Trouble::ALL.map(|trouble| registry.counter(&names::REDIS_TROUBLES, &[trouble.label()])),
            round_trip: registry.histogram(&names::REDIS_ROUND_TRIP, &[]),
            commands: ["ok", "failed"].map(|result| registry.counter(&names::REDIS_COMMANDS, &[result])),
            waits: WaitResult::ALL.map(|result| registry.counter(&names::REDIS_WAITS, &[result.label()])),
            waiting: registry.gauge(&names::REDIS_WAITING, &[]),
            in_flight: registry.gauge(&names::REDIS_IN_FLIGHT, &[]),
            claims: registry.gauge(&names::REDIS_CLAIMS, &[]),
            peers: registry.gauge(&names::CLUSTER_NODES, &[]),
            lost_reports: registry.counter(&names::QUEUE_DROPPED, &[NodeQueue::LimitReports.label()]),
            lost_requests: registry.counter(&names::QUEUE_DROPPED, &[NodeQueue::ClusterRequests.label()]),
        }
    }

    /// Whether Redis can be used.
    pub fn record_up(&self, up: bool) {
        self.up.set(if up { 1.0 } else { 0.0 });
    }

    /// Redis cannot be used any more.
    pub fn record_trouble(&self, trouble: Trouble) {
        self.troubles[trouble as usize].increment(1);
    }

    /// A command was answered.
    pub fn record_command(&self, took: Duration, well: bool) {
        self.commands[usize::from(!well)].increment(1);
        if well {
            self.round_trip.record(took.as_secs_f64());
        }
    }

    /// An admission waited for Redis, or did not.
    pub fn record_wait(&self, result: WaitResult) {
        self.waits[result as usize].increment(1);
        if result == WaitResult::Full {
            self.lost_requests.increment(1);
        }
    }

    /// Cells that wait to be reported, commands under way, cells of which seats are held.
    pub fn record_queues(&self, waiting: usize, in_flight: usize, claims: usize) {
        self.waiting.set(waiting as f64);
        self.in_flight.set(in_flight as f64);
        self.claims.set(claims as f64);
    }

    /// Nodes that live.
    pub fn record_peers(&self, peers: usize) {
        self.peers.set(peers as f64);
    }

    /// A report of what was spent found no room; it is tried again.
    pub fn record_lost_report(&self) {
        self.lost_reports.increment(1);
    }

    /// What was refused by a limit so far.
    pub fn record_limit(&self, limit: &str, unit: &str, refused: u64, unleased: u64) {
        self.registry.counter(&names::LIMIT_REFUSED, &[limit, unit]).absolute(refused);
        self.registry.counter(&names::LIMIT_UNLEASED, &[limit, unit]).absolute(unleased);
    }

    /// Cells of a kind that are kept, and those that were given up so far.
    pub fn record_keys(&self, kind: &str, kept: usize, evicted: u64) {
        self.registry.gauge(&names::LIMIT_KEYS, &[kind]).set(kept as f64);
        self.registry.counter(&names::LIMIT_KEYS_EVICTED, &[kind]).absolute(evicted);
    }

    /// A session could not be told to the others.
    pub fn record_lost_entry(&self) {
        self.lost_requests.increment(1);
    }
}
