//! Nodes of one cluster in one process: what decides, without sockets to clients.

use std::sync::Arc;
use std::time::Duration;

use antiphon::cluster::Cluster;
use antiphon::config::settings::{LimitKey, LimitSettings, LimitUnit, OnReach, RedisMode, RedisSettings, Settings};
use antiphon::limit::{Address, Ask, Grant, Limiter, Limits, Refusal, Subject};
use antiphon::runtime::clock::Clock;
use antiphon::telemetry::Telemetry;
use antiphon::time::Micros;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::harness::PATIENCE;

/// One node.
pub struct Node {
    pub cluster: Arc<Cluster>,
    pub limiter: Arc<Limiter>,
    pub telemetry: Telemetry,
    limits: Limits,
    clock: Clock,
    stopping: CancellationToken,
}

/// `[redis]` of a node.
pub fn redis(mode: RedisMode, urls: &[String]) -> RedisSettings {
    RedisSettings {
        urls: urls.iter().map(|url| url.clone().into()).collect(),
        mode,
        service: "antiphon".into(),
        prefix: "antiphon".into(),
        nodes: 1,
        ..RedisSettings::default()
    }
}

/// A limit per user.
pub fn limit(unit: LimitUnit, amount: f64, per: Option<Duration>, burst: Option<f64>) -> LimitSettings {
    LimitSettings {
        key: vec![LimitKey::User],
        unit,
        amount,
        per,
        burst,
        block: Duration::ZERO,
        prefixes: (32, 64),
        warn_at: None,
        on_reach: OnReach::default(),
    }
}

impl Node {
    /// A node with these limits, all in one set; it has not met Redis yet.
    pub fn new(redis: &RedisSettings, declared: &[(&str, LimitSettings)]) -> Node {
        let mut settings = Settings { redis: redis.clone(), ..Settings::default() };
        for (name, limit) in declared {
            settings.limits.insert((*name).to_owned(), limit.clone());
        }
        let names = declared.iter().map(|(name, _)| (*name).to_owned()).collect();
        settings.limit_sets.insert("set".to_owned(), names);
        let (limiter, clock, telemetry) = (Arc::new(Limiter::new(100_000)), Clock::start(), Telemetry::new());
        let (cluster, keeper) = Cluster::new(&settings, limiter.clone(), clock, telemetry.cluster());
        let stopping = CancellationToken::new();
        if let Some(keeper) = keeper {
            tokio::spawn(keeper.run(stopping.clone()));
        }
        let limits = Limits::new(&settings, None);
        Node { cluster: Arc::new(cluster), limiter, telemetry, limits, clock, stopping }
    }

    /// As [`Node::new`], several, and all know each other.
    pub async fn several(count: usize, redis: &RedisSettings, declared: &[(&str, LimitSettings)]) -> Vec<Node> {
        let nodes: Vec<Node> = (0..count).map(|_| Node::new(redis, declared)).collect();
        for node in &nodes {
            node.until(|node| node.is_well() && node.cluster.status().unwrap().peers.len() == count).await;
        }
        nodes
    }

    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// What a user's call is counted by here.
    pub fn ask(&self, user: &str) -> Ask {
        let subject = Subject { user: Some(user), tenant: None, address: Address::V4(1), route: "r", agent: "a" };
        self.limits.of(&["set".to_owned()], &subject, &self.limiter, self.now())
    }

    /// As [`Node::ask`], and what others have spent of it is known.
    pub async fn met(&self, user: &str) -> Ask {
        let ask = self.ask(user);
        self.cluster.introduce(&ask).await;
        ask
    }

    /// Admits a session, as a node does.
    pub async fn admit(&self, user: &str) -> Result<Grant, Refusal> {
        let ask = self.ask(user);
        let told = self.cluster.introduce(&ask).await;
        ask.take(told, self.now())
    }

    /// Whether leases are handed out.
    pub fn is_well(&self) -> bool {
        self.cluster.status().unwrap().trouble.is_none()
    }

    /// Waits until something holds of it.
    pub async fn until(&self, holds: impl Fn(&Node) -> bool) {
        let holding = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, holding).await.unwrap_or_else(|_| panic!("it never holds: {:?}", self.cluster.status()));
    }

    /// The sum of all series of a metric whose labels contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.telemetry.render();
        let series = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        });
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Ends it without a word to anyone.
    pub fn die(&self) {
        self.stopping.cancel();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
