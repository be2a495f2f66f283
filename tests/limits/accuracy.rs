//! Three nodes and one limit: together they let through what the limit says.

use std::time::{Duration, Instant};

use antiphon::config::settings::{LimitUnit, RedisMode};
use antiphon::limit::{Ask, Meters};

use crate::harness::redis::{RedisCluster, RedisServer, Sentinels};
use crate::nodes::{Node, limit, redis};

/// 1,000 in 60 s, 20 times as fast.
const RATE: f64 = 1000.0 / 3.0;
const BURST: f64 = 100.0;
/// At most what may come at once.
const LEASE: f64 = BURST;
/// 600 s, 20 times as fast.
const LENGTH: Duration = Duration::from_secs(30);
/// Requests in a millisecond: three times what is let through.
const OFFERED: usize = 1;

/// Which node gets a request.
type Split = (&'static str, fn(request: usize, after: Duration) -> usize);

const SPLITS: [Split; 4] = [
    ("1:0:0", |_, _| 0),
    ("1:1:1", |request, _| request % 3),
    ("8:1:1", |request, _| (request % 10).saturating_sub(7)),
    ("moving", |_, after| (after.as_millis() / 500 % 3) as usize),
];

/// Offers requests at a constant rate and holds what was let through against the limit, for all splits at once; `meanwhile`
/// is told how long that has gone on. Returns how long the nodes were without Redis.
async fn holds_the_limit(mode: RedisMode, urls: &[String], mut meanwhile: impl FnMut(Duration)) -> Duration {
    let limits =
        [("requests", limit(LimitUnit::Messages, RATE * 60.0, Some(60 * Duration::from_secs(1)), Some(BURST)))];
    let nodes = Node::several(3, &redis(mode, urls), &limits).await;
    let mut users: Vec<Vec<Meters>> = Vec::new();
    for (name, _) in SPLITS {
        let mut of_nodes = Vec::new();
        for node in &nodes {
            of_nodes.push(node.met(name).await.meters);
        }
        users.push(of_nodes);
    }
    let (begun, mut sent, mut taken) = (Instant::now(), 0, [0_u32; SPLITS.len()]);
    let (mut alone, mut last) = (Duration::ZERO, Duration::ZERO);
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    while begun.elapsed() < LENGTH {
        ticks.tick().await;
        let after = begun.elapsed();
        if !nodes.iter().all(Node::is_well) {
            alone += after - last;
        }
        last = after;
        meanwhile(after);
        while sent < after.as_millis() as usize * OFFERED {
            for (split, (_, node_of)) in SPLITS.iter().enumerate() {
                let node = node_of(sent, after);
                taken[split] += u32::from(users[split][node].take_message(nodes[node].now()).is_ok());
            }
            sent += 1;
        }
    }
    let exact = BURST + RATE * begun.elapsed().as_secs_f64();
    // Alone, each node has a third: what one gets that the others do not ask for is lost, and what it had left it has again.
    // The clock runs 20 times as fast and Redis does not, so this weighs as much more than it would.
    let (less, more) =
        (RATE * alone.as_secs_f64() * 2.0 / 3.0, if alone.is_zero() { 0.0 } else { BURST + 3.0 * LEASE });
    for ((name, _), taken) in SPLITS.iter().zip(taken) {
        let taken = f64::from(taken);
        let error = (taken / exact - 1.0) * 100.0;
        println!("{mode:?} {name}: {taken} of {exact:.0} exact, {error:+.2} %; {alone:.1?} without Redis");
        let bounds = 0.98 * exact - less..=1.02 * exact + more;
        assert!(bounds.contains(&taken), "{mode:?} {name}: {taken} of {exact:.0}, {error:+.2} %, bounds {bounds:?}");
    }
    alone
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_let_through_what_the_limit_says_however_requests_are_spread() {
    let (single, sentinels, cluster) = tokio::join!(RedisServer::start(&[]), Sentinels::start(), RedisCluster::start());
    let (single_url, sentinel_urls, cluster_urls) = ([single.url()], sentinels.urls(), cluster.urls());
    let alone = tokio::join!(
        holds_the_limit(RedisMode::Single, &single_url, |_| ()),
        holds_the_limit(RedisMode::Sentinel, &sentinel_urls, |_| ()),
        holds_the_limit(RedisMode::Cluster, &cluster_urls, |_| ()),
    );
    println!("without Redis: {alone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_costs_no_more_than_the_share_of_those_who_ask_for_nothing() {
    let mut sentinels = Sentinels::start().await;
    let urls = sentinels.urls();
    let mut primary = Some(&mut sentinels.servers[0]);
    let alone = holds_the_limit(RedisMode::Sentinel, &urls, |after| {
        if after > LENGTH / 3
            && let Some(primary) = primary.take()
        {
            primary.kill();
        }
    });
    assert!(alone.await > Duration::ZERO, "the failover was not noticed");
}

/// Ten requests each millisecond for a second, against a limit of 1,000/60 s.
async fn bounds_a_rush(mode: RedisMode, urls: &[String]) {
    let limits = [("requests", limit(LimitUnit::Messages, 1000.0, Some(Duration::from_secs(60)), Some(BURST)))];
    let nodes = Node::several(3, &redis(mode, urls), &limits).await;
    let mut asks: Vec<Ask> = Vec::new();
    for node in &nodes {
        asks.push(node.met("ann").await);
    }
    let (begun, mut taken) = (Instant::now(), 0);
    for tenth in 0..1000_u64 {
        tokio::time::sleep_until(tokio::time::Instant::from_std(begun + Duration::from_millis(tenth))).await;
        for request in 0..10 {
            let node = request % 3;
            taken += u32::from(asks[node].meters.take_message(nodes[node].now()).is_ok());
        }
    }
    let exact = BURST + 1000.0 / 60.0 * begun.elapsed().as_secs_f64();
    let lease = 0.05 * 1000.0;
    println!("{mode:?}: {taken} of {exact:.0} exact, a lease is {lease}");
    assert!((f64::from(taken) - exact).abs() <= 3.0 * lease, "{mode:?}: {taken} of {exact:.0}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_in_a_second_exceed_the_limit_by_no_more_than_the_leases() {
    let (single, sentinels, cluster) = tokio::join!(RedisServer::start(&[]), Sentinels::start(), RedisCluster::start());
    bounds_a_rush(RedisMode::Single, &[single.url()]).await;
    bounds_a_rush(RedisMode::Sentinel, &sentinels.urls()).await;
    bounds_a_rush(RedisMode::Cluster, &cluster.urls()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handful_of_messages_at_once_is_let_through_and_one_more_is_not() {
    let server = RedisServer::start(&[]).await;
    let limits = [("five", limit(LimitUnit::Messages, 5.0, Some(Duration::from_secs(600)), None))];
    let nodes = Node::several(2, &redis(RedisMode::Single, &[server.url()]), &limits).await;
    let first = nodes[0].met("ann").await;
    let commands = nodes[0].metric("antiphon_redis_commands_total", "");
    let taken = (0..9).filter(|_| first.meters.take_message(nodes[0].now()).is_ok()).count();
    assert_eq!(taken, 5);
    // What was spent there is known here, when it was told.
    let told = |node: &Node| {
        let waiting = node.metric("antiphon_redis_waiting_reports", "") + node.metric("antiphon_redis_in_flight", "");
        node.metric("antiphon_redis_commands_total", "") > commands && waiting == 0.0
    };
    nodes[0].until(told).await;
    let second = nodes[1].met("ann").await;
    assert!(second.meters.take_message(nodes[1].now()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_are_shared_by_all_nodes_and_those_of_a_dead_node_are_freed() {
    let server = RedisServer::start(&[]).await;
    let limits = [("three", limit(LimitUnit::Sessions, 3.0, None, None))];
    let mut nodes = Node::several(3, &redis(RedisMode::Single, &[server.url()]), &limits).await;
    let mut grants = Vec::new();
    for node in &nodes {
        grants.push(node.admit("ann").await.expect("each node gets one"));
    }
    for node in &nodes {
        assert!(node.admit("ann").await.is_err(), "there are three, over all nodes");
    }
    // What is given back on one node can be taken on another.
    drop(grants.pop());
    let (node, begun) = (&nodes[0], Instant::now());
    let again = loop {
        if let Ok(grant) = node.admit("ann").await {
            break grant;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "it is not given back");
    };
    // A node that is killed gives nothing back: its seat is free when its term is over.
    let dead = nodes.remove(1);
    dead.die();
    std::mem::forget(grants.pop());
    let (node, begun) = (&nodes[1], Instant::now());
    let freed = loop {
        if let Ok(grant) = node.admit("ann").await {
            break grant;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "a dead node keeps its seat");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    println!("freed after {:.1} s", begun.elapsed().as_secs_f64());
    drop((again, freed));
}
