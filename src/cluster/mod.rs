//! Several nodes as one, over Redis: leases of limits, who is there, and which node has which session.
//!
//! All of it runs on the control runtime. Calls never wait for it; an admission may, for 20 ms, for what this node has
//! not met before, and nobody does any more once that was in vain.

mod claims;
mod keeper;
mod link;
mod peers;
mod scripts;
mod trouble;
mod uses;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::config::settings::{RedisSettings, Settings};
use crate::limit::{Ask, Key, Limiter, Meter, Rule, Seat, Seats};
use crate::runtime::clock::Clock;
use crate::telemetry::{ClusterMetrics, WaitResult};

pub use keeper::Keeper;
pub use peers::{Peer, Place};
pub use trouble::Trouble;
pub use uses::SharedUses;

/// How long an admission may wait for Redis.
pub const PATIENCE: Duration = Duration::from_millis(20);
/// Requests to the keeper that wait at most.
const REQUESTS: usize = 1024;

/// How the cluster stands.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What is wrong with Redis; `None`: nothing, or there is none.
    pub trouble: Option<Trouble>,
    /// The nodes that live, this one included.
    pub peers: Vec<Peer>,
}

/// What is asked of the keeper.
enum Request {
    /// What others have spent of these, and seats of those.
    Introduce { meters: Vec<Meter>, seats: Vec<(Arc<Seats>, u32)>, told: Arc<Told> },
    /// Whether nobody has used this before.
    Once { key: Key, valid: Duration, reply: oneshot::Sender<bool> },
    /// Where a session or a conversation is.
    Find { session: Option<String>, conversation: Option<String>, reply: oneshot::Sender<Option<Place>> },
    /// Every session of every node.
    List { reply: oneshot::Sender<Option<Vec<Place>>> },
    /// A session has begun here.
    Entered(Place),
    /// A session has ended here.
    Left(Place),
}

/// Tells whoever waits when the last part of what was asked is done: when the last holder drops it.
#[derive(Debug)]
struct Told(Option<oneshot::Sender<()>>);

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            // Whoever waited may have lost patience.
            let _ = reply.send(());
        }
    }
}

/// What the data plane knows of the cluster. Without Redis, everything is answered at once and from here.
#[derive(Debug)]
pub struct Cluster {
    requests: Option<mpsc::Sender<Request>>,
    limiter: Arc<Limiter>,
    clock: Clock,
    /// Nobody waits for Redis while it is known to be late.
    may_wait: Arc<AtomicBool>,
    status: Arc<ArcSwap<Status>>,
    metrics: ClusterMetrics,
    id: Arc<str>,
}

/// Tells the others of a session for as long as it lives.
#[derive(Debug)]
#[must_use = "the session counts as ended when this is dropped"]
pub struct Entered {
    cluster: Arc<Cluster>,
    place: Place,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.cluster.tell(Request::Left(self.place.clone()));
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

impl Cluster {
    /// The cluster of a configuration, and what keeps it, to be run on the control runtime; `None` without Redis.
    pub fn new(
        settings: &Settings,
        limiter: Arc<Limiter>,
        clock: Clock,
        metrics: ClusterMetrics,
    ) -> (Cluster, Option<Keeper>) {
        let redis: &RedisSettings = &settings.redis;
        let id: Arc<str> = format!("{:016x}", rand::random::<u64>()).into();
        let (sender, receiver) = mpsc::channel(REQUESTS);
        let wanted = !redis.urls.is_empty();
        let cluster = Cluster {
            requests: wanted.then_some(sender),
            limiter: limiter.clone(),
            clock,
            may_wait: Arc::default(),
            status: Arc::default(),
            metrics,
            id,
        };
        if !wanted {
            return (cluster, None);
        }
        limiter.shared.regime.set(false, redis.nodes, clock.now());
        let keeper = Keeper::new(settings, &cluster, receiver);
        (cluster, Some(keeper))
    }

    /// This process among the others; another one after each start.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How it stands; `None` without Redis.
    pub fn status(&self) -> Option<Arc<Status>> {
        self.requests.is_some().then(|| self.status.load_full())
    }

    /// A node that lives, by its id.
    pub fn peer(&self, id: &str) -> Option<Peer> {
        self.status.load().peers.iter().find(|peer| peer.id == id).cloned()
    }

    /// Whether it makes sense to wait for Redis.
    fn may_wait(&self) -> bool {
        self.may_wait.load(Relaxed) && self.limiter.shared.regime.rule(self.clock.now()) == Rule::Leased
    }

    /// Gets to know what a call is counted by, where this node has not met it before; returns after 20 ms at the latest.
    /// `false`: it could not, and this node has to decide by its share.
    pub async fn introduce(&self, ask: &Ask) -> bool {
        let Some(requests) = &self.requests else { return true };
        let meters: Vec<Meter> = ask.unknown().cloned().collect();
        let seats: Vec<_> = ask.short(self.clock.now()).map(|counter| (counter.seats.clone(), counter.most)).collect();
        (meters.is_empty() && seats.is_empty()) || self.ask(requests, meters, seats).await
    }

    /// Takes one of `most` seats of what is no declared limit, if one is free here.
    pub fn take_seat(&self, key: Key, most: u32) -> Option<Seat> {
        self.limiter.take_seat(key, most, true, self.clock.now())
    }

    /// As [`Cluster::take_seat`]; asks for one if none is free here, and decides after 20 ms at the latest.
    pub async fn claim_seat(&self, key: Key, most: u32) -> Option<Seat> {
        if let Some(seat) = self.take_seat(key, most) {
            return Some(seat);
        }
        let seats = self.limiter.seats.find(key, self.clock.now());
        let told = self.ask(self.requests.as_ref()?, Vec::new(), vec![(seats, most)]).await;
        self.limiter.take_seat(key, most, told, self.clock.now())
    }

    /// Whether others may have what this node lacks.
    pub fn is_shared(&self) -> bool {
        self.requests.is_some()
    }

    async fn ask(&self, requests: &mpsc::Sender<Request>, meters: Vec<Meter>, seats: Vec<(Arc<Seats>, u32)>) -> bool {
        if !self.may_wait() {
            self.metrics.record_wait(WaitResult::Skipped);
            return false;
        }
        let (reply, answer) = oneshot::channel();
        let told = Arc::new(Told(Some(reply)));
        if requests.try_send(Request::Introduce { meters, seats, told }).is_err() {
            self.metrics.record_wait(WaitResult::Full);
            return false;
        }
        self.wait(answer).await.is_some()
    }

    /// Waits with patience, and tells all others not to, if it was in vain.
    async fn wait<T>(&self, answer: oneshot::Receiver<T>) -> Option<T> {
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => {
                self.metrics.record_wait(WaitResult::Answered);
                Some(answer)
            }
            Ok(Err(_)) => None,
            Err(_) => {
                self.may_wait.store(false, Relaxed);
                self.metrics.record_wait(WaitResult::Timeout);
                None
            }
        }
    }

    /// Whether no other node is known to have used something that may be used once within `valid`.
    async fn first_use(&self, key: Key, valid: Duration) -> bool {
        let Some(requests) = self.requests.as_ref().filter(|_| self.may_wait()) else { return true };
        let (reply, answer) = oneshot::channel();
        if requests.try_send(Request::Once { key, valid, reply }).is_err() {
            self.metrics.record_wait(WaitResult::Full);
            return true;
        }
        self.wait(answer).await.unwrap_or(true)
    }

    /// A session runs on this node until the value is dropped.
    pub fn enter(self: &Arc<Self>, session: &str, conversation: &str) -> Entered {
        let place = Place { node: self.id.to_string(), session: session.into(), conversation: conversation.into() };
        self.tell(Request::Entered(place.clone()));
        Entered { cluster: self.clone(), place }
    }

    fn tell(&self, request: Request) {
        if self.requests.as_ref().is_some_and(|requests| requests.try_send(request).is_err()) {
            self.metrics.record_lost_entry();
        }
    }

    /// Which node has a session; waits for 20 ms at most.
    pub async fn find_session(&self, session: &str) -> Option<Place> {
        self.find(Some(session.into()), None).await
    }

    /// Which node has a conversation; waits for 20 ms at most.
    pub async fn find_conversation(&self, conversation: &str) -> Option<Place> {
        self.find(None, Some(conversation.into())).await
    }

    async fn find(&self, session: Option<String>, conversation: Option<String>) -> Option<Place> {
        let requests = self.requests.as_ref().filter(|_| self.may_wait())?;
        let (reply, answer) = oneshot::channel();
        requests.try_send(Request::Find { session, conversation, reply }).ok()?;
        self.wait(answer).await?
    }

    /// Every session of every node, for the operator; `None` if Redis cannot be asked.
    pub async fn sessions(&self) -> Option<Vec<Place>> {
        let (reply, answer) = oneshot::channel();
        self.requests.as_ref()?.try_send(Request::List { reply }).ok()?;
        timeout(Duration::from_secs(2), answer).await.ok()?.ok()?
    }
}
