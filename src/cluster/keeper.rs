//! The task that keeps the cluster: it reports, renews, claims and beats, and says when Redis cannot be used.
//!
//! It looks at its queues every few milliseconds and starts a bounded number of commands; it never waits for one. A
//! command that is late is a sign of trouble: then limits go on by this node's share, and only a beat is tried until
//! one is answered in time.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::RedisResult;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::claims::{Claims, Wanted};
use super::link::Link;
use super::peers::{Entries, Peer};
use super::trouble::Trouble;
use super::work::{self, Names, Outcome, Purpose, Work};
use super::{Cluster, Request, Status, Told};
use crate::config::settings::{RedisSettings, Settings};
use crate::limit::{Limiter, Meter, REPORT_AFTER, Report};
use crate::runtime::clock::Clock;
use crate::telemetry::ClusterMetrics;

/// How often the queues are looked at.
const TICK: Duration = Duration::from_millis(5);
/// How often this node says that it lives.
const BEAT: Duration = Duration::from_secs(1);
/// How often it tries to, while Redis cannot be used.
const RETRY: Duration = Duration::from_millis(250);
/// Redis is late when a command takes longer.
const LATE: Duration = Duration::from_millis(100);
/// Once somebody has waited in vain, nobody does until a command is answered within this.
const PROMPT: Duration = Duration::from_millis(15);
/// Commands under way at once.
const WINDOW: usize = 256;
/// Cells that wait to be reported; those beyond are reported when they are next spent from.
const BACKLOG: usize = 100_000;

type Connecting = Pin<Box<dyn Future<Output = Result<Link, Trouble>> + Send>>;

/// Keeps the cluster, on the control runtime.
pub struct Keeper {
    settings: RedisSettings,
    own: Peer,
    names: Names,
    limiter: Arc<Limiter>,
    clock: Clock,
    metrics: ClusterMetrics,
    may_wait: Arc<AtomicBool>,
    status: Arc<ArcSwap<Status>>,
    requests: mpsc::Receiver<Request>,
    link: Option<Link>,
    connecting: Option<Connecting>,
    /// When a beat, or a connection, is due.
    beat_at: Instant,
    trouble: Option<Trouble>,
    /// Commands under way, by number.
    purposes: BTreeMap<u64, (Instant, Purpose)>,
    works: FuturesUnordered<Work>,
    next: u64,
    /// Cells that are reported at once, and those that are when their time has come.
    urgent: VecDeque<(Meter, Vec<Arc<Told>>)>,
    later: VecDeque<Meter>,
    claims: Claims,
    entries: Entries,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    pub(super) fn new(settings: &Settings, cluster: &Cluster, requests: mpsc::Receiver<Request>) -> Keeper {
        let own = Peer {
            id: cluster.id.to_string(),
            name: settings.node.name.clone(),
            region: settings.node.region.clone(),
            url: settings.node.url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned()),
            sessions: 0,
        };
        cluster.status.store(Arc::new(Status { trouble: Some(Trouble::Connecting), peers: Vec::new() }));
        Keeper {
            settings: settings.redis.clone(),
            own,
            names: Names { prefix: settings.redis.prefix.clone(), node: cluster.id.clone() },
            limiter: cluster.limiter.clone(),
            clock: cluster.clock,
            metrics: cluster.metrics.clone(),
            may_wait: cluster.may_wait.clone(),
            status: cluster.status.clone(),
            requests,
            link: None,
            connecting: None,
            beat_at: Instant::now(),
            trouble: Some(Trouble::Connecting),
            purposes: BTreeMap::new(),
            works: FuturesUnordered::new(),
            next: 0,
            urgent: VecDeque::new(),
            later: VecDeque::new(),
            claims: Claims::default(),
            entries: Entries::default(),
        }
    }

    /// Keeps the cluster until the process stops.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.on_tick(),
                Some((number, result)) = self.works.next(), if !self.works.is_empty() => self.on_done(number, result),
                Some(request) = self.requests.recv() => self.on_request(request),
                connected = async { self.connecting.as_mut().expect("there is one").await },
                    if self.connecting.is_some() => self.on_connected(connected),
                () = stopping.cancelled() => return,
            }
        }
    }

    fn on_tick(&mut self) {
        self.limiter.shared.regime.beat(self.clock.now());
        self.take_reports();
        let now = Instant::now();
        if self.purposes.first_key_value().is_some_and(|(_, (begun, _))| now - *begun > LATE) {
            self.degrade(Trouble::Late);
        }
        if now >= self.beat_at {
            self.beat_at = now + if self.trouble.is_none() { BEAT } else { RETRY };
            match &self.link {
                Some(link) => self.beat(link.clone()),
                None if self.connecting.is_none() => {
                    let settings = self.settings.clone();
                    self.connecting = Some(Box::pin(async move { Link::connect(&settings).await }));
                }
                None => {}
            }
        }
        if self.trouble.is_none() {
            self.start_works();
        }
        let waiting = self.urgent.len() + self.later.len();
        self.metrics.record_queues(waiting, self.purposes.len(), self.claims.len());
    }

    /// Takes over what cells want reported.
    fn take_reports(&mut self) {
        while let Some(report) = self.limiter.take_report() {
            match report {
                Report::Rate { meter, .. } if self.urgent.len() + self.later.len() >= BACKLOG => {
                    meter.bucket.forget_report();
                    self.metrics.record_lost_report();
                }
                Report::Rate { meter, urgent: true } => self.urgent.push_back((meter, Vec::new())),
                Report::Rate { meter, urgent: false } => self.later.push_back(meter),
                Report::Seats { seats, most } => self.claims.on_change(&seats, most),
            }
        }
    }

    fn start_works(&mut self) {
        let Some(link) = self.link.clone() else { return };
        let now = self.clock.now();
        while self.purposes.len() < WINDOW {
            if let Some((meter, told)) = self.urgent.pop_front() {
                self.spend(&link, meter, told);
            } else if let Some(wanted) = self.claims.next(now) {
                let Wanted { key, used, want, most, told } = wanted;
                let run = work::claim(link.clone(), self.names.clone(), (key, used, want, most));
                self.start(Purpose::Claim { key, _told: told }, run);
            } else if let Some((anew, changes)) = self.entries.take() {
                self.start(Purpose::Publish, work::publish(link.clone(), self.names.clone(), anew, changes));
            } else if self.later.front().is_some_and(|meter| meter.bucket.waited(now) >= REPORT_AFTER) {
                let Some(meter) = self.later.pop_front() else { return };
                self.spend(&link, meter, Vec::new());
            } else {
                return;
            }
        }
    }

    fn spend(&mut self, link: &Link, meter: Meter, told: Vec<Arc<Told>>) {
        // Two reports may have been asked for one after the other: then the first one told it all.
        if told.is_empty() && !meter.bucket.wants_report() {
            return;
        }
        let spent = meter.bucket.take_spent(self.clock.now());
        let run = work::spend(link.clone(), self.names.clone(), meter.clone(), spent);
        self.start(Purpose::Spend { meter, spent, _told: told }, run);
    }

    fn beat(&mut self, link: Link) {
        if self.purposes.values().any(|(_, purpose)| matches!(purpose, Purpose::Beat)) {
            return;
        }
        self.own.sessions = self.entries.len();
        let run = work::beat(link, self.names.clone(), self.own.clone());
        self.start(Purpose::Beat, run);
    }

    fn start(&mut self, purpose: Purpose, run: impl Future<Output = RedisResult<Outcome>> + Send + 'static) {
        let number = self.next;
        self.next += 1;
        self.purposes.insert(number, (Instant::now(), purpose));
        self.works.push(Box::pin(async move { (number, run.await) }));
    }

    fn on_done(&mut self, number: u64, result: RedisResult<Outcome>) {
        let Some((begun, purpose)) = self.purposes.remove(&number) else { return };
        let (took, now) = (begun.elapsed(), self.clock.now());
        self.metrics.record_command(took, result.is_ok());
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::debug!(%error, "Redis did not do what was asked");
                self.fail(purpose);
                return self.degrade(Trouble::of(&error));
            }
        };
        match (purpose, outcome) {
            (Purpose::Spend { meter, .. }, Outcome::Level(level)) => meter.bucket.settle(level, now),
            (Purpose::Claim { key, .. }, Outcome::Held(held)) => self.claims.on_held(key, held, now),
            (Purpose::Beat, Outcome::Peers(peers)) => self.on_beat(peers, took),
            _ => {}
        }
        if took <= PROMPT && self.trouble.is_none() {
            self.may_wait.store(true, Relaxed);
        }
    }

    /// Redis has answered a beat: in time, all is well.
    fn on_beat(&mut self, peers: Vec<Peer>, took: Duration) {
        let nodes = (peers.len() as u32).max(self.settings.nodes);
        self.metrics.record_peers(peers.len());
        let recovered = took <= LATE && self.trouble.take().is_some();
        self.status.store(Arc::new(Status { trouble: self.trouble, peers }));
        if self.trouble.is_some() {
            return;
        }
        self.limiter.shared.regime.set(true, nodes, self.clock.now());
        if recovered {
            self.metrics.record_up(true);
            self.beat_at = Instant::now() + BEAT;
            self.claims.mark_all();
            self.entries.forget_told();
            tracing::info!(
                nodes,
                waiting = self.urgent.len() + self.later.len(),
                "Redis can be used: leases are handed out"
            );
        }
    }

    /// Redis cannot be used.
    fn degrade(&mut self, trouble: Trouble) {
        let news = matches!(self.trouble, None | Some(Trouble::Connecting));
        let nodes = self.limiter.shared.regime.nodes();
        self.limiter.shared.regime.set(false, nodes, self.clock.now());
        self.may_wait.store(false, Relaxed);
        self.trouble = Some(trouble);
        let peers = self.status.load().peers.clone();
        self.status.store(Arc::new(Status { trouble: Some(trouble), peers }));
        if news {
            self.metrics.record_up(false);
            self.metrics.record_trouble(trouble);
            let reason = trouble.label();
            tracing::warn!(reason, nodes, "Redis cannot be used: limits go on with this node's share");
            self.beat_at = self.beat_at.min(Instant::now() + RETRY);
        }
        // Nobody waits any more; whatever was asked is decided here.
        self.claims.let_go();
        self.urgent.iter_mut().for_each(|(_, told)| told.clear());
        let oldest = self.purposes.first_key_value().map(|(_, (begun, _))| begun.elapsed());
        let patient = trouble == Trouble::Late && oldest.is_some_and(|oldest| oldest < 4 * LATE);
        if trouble.needs_another_connection() && !patient && self.link.take().is_some() {
            self.works = FuturesUnordered::new();
            for (_, (_, purpose)) in std::mem::take(&mut self.purposes) {
                self.fail(purpose);
            }
        }
    }

    /// What was asked for may or may not have been done: it is reported again, which may count it twice.
    fn fail(&mut self, purpose: Purpose) {
        match purpose {
            Purpose::Spend { meter, spent, .. } => {
                meter.bucket.restore(spent, self.clock.now());
                if meter.bucket.want_report() {
                    self.urgent.push_back((meter, Vec::new()));
                }
            }
            Purpose::Claim { key, .. } => self.claims.on_failed(key),
            Purpose::Publish => self.entries.forget_told(),
            Purpose::Beat | Purpose::Answer => {}
        }
    }

    fn on_connected(&mut self, connected: Result<Link, Trouble>) {
        self.connecting = None;
        match connected {
            Ok(link) => {
                self.link = Some(link.clone());
                self.beat(link);
            }
            Err(trouble) => self.degrade(trouble),
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Entered(place) => return self.entries.enter(place.session, place.conversation),
            Request::Left(place) => return self.entries.leave(place.session, place.conversation),
            _ => {}
        }
        let (None, Some(link)) = (self.trouble, self.link.clone()) else { return };
        let names = self.names.clone();
        match request {
            Request::Introduce { meters, seats, told } => {
                self.urgent.extend(meters.into_iter().map(|meter| (meter, vec![told.clone()])));
                seats.iter().for_each(|(seats, most)| self.claims.on_ask(seats, *most, told.clone()));
                drop(told);
                self.start_works();
            }
            Request::Once { key, valid, reply } => self.answer(reply, work::first_use(link, names, key, valid)),
            Request::Find { session, conversation, reply } => {
                let found = work::find(link, names, self.nodes(), session, conversation);
                self.answer(reply, found);
            }
            Request::List { reply } => {
                let listed = work::list(link, names, self.nodes());
                self.answer(reply, async move { listed.await.map(Some) });
            }
            Request::Entered(_) | Request::Left(_) => {}
        }
    }

    fn nodes(&self) -> Vec<String> {
        self.status.load().peers.iter().map(|peer| peer.id.clone()).collect()
    }

    fn answer<T: Send + 'static>(
        &mut self,
        reply: tokio::sync::oneshot::Sender<T>,
        run: impl Future<Output = RedisResult<T>> + Send + 'static,
    ) {
        self.start(Purpose::Answer, async move {
            // Whoever asked may have lost patience.
            let _ = reply.send(run.await?);
            Ok(Outcome::Done)
        });
    }
}
