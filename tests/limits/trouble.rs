//! Redis is killed, frozen, cut off, full, slow, or wants another password: limits go on, and nobody waits for it.

use std::time::{Duration, Instant};

use antiphon::auth::{Denied, SingleUse};
use antiphon::cluster::{SharedUses, Trouble};
use antiphon::config::settings::{LimitUnit, RedisMode};
use antiphon::runtime::admission::uses::Uses;

use crate::harness::redis::{Cut, RedisServer, Sentinels};
use crate::nodes::{Node, limit, redis};

/// An admission is answered within this, whatever Redis does; the machine's own delays beside it.
const ADMISSION: Duration = Duration::from_millis(25);

/// How long Redis stands still.
const FREEZE: Duration = Duration::from_secs(30);

/// Meets new users for a while, as admissions do, and gives how long each took.
async fn admissions(node: &Node, label: &str, count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for n in 0..count {
        let begun = Instant::now();
        drop(node.admit(&format!("{label}-{n}")).await);
        took.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort();
    took
}

fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

/// Two nodes with a rate and a number at once.
async fn pair(url: &str) -> Vec<Node> {
    let limits = [
        ("messages", limit(LimitUnit::Messages, 600.0, Some(Duration::from_secs(600)), None)),
        ("sessions", limit(LimitUnit::Sessions, 10.0, None, None)),
    ];
    Node::several(2, &redis(RedisMode::Single, &[url.to_owned()]), &limits).await
}

/// While Redis is gone: admissions are quick, each node goes on with its share, and nothing piles up.
async fn goes_on_alone(nodes: &[Node], label: &str, trouble: &[Trouble]) {
    let node = &nodes[0];
    let took = admissions(node, label, 150).await;
    println!("{label}: admissions p50 {:?}, p99 {:?}", took[took.len() / 2], p99(&took));
    assert!(p99(&took) < ADMISSION, "{label}: {:?}", p99(&took));
    for node in nodes {
        node.until(|node| !node.is_well()).await;
        let told = node.cluster.status().unwrap().trouble.unwrap();
        assert!(trouble.contains(&told), "{label}: {told:?}");
    }
    let ask = node.met("crowd").await;
    let taken = (0..1000).filter(|_| ask.meters.take_message(node.now()).is_ok()).count();
    assert!((300..=301).contains(&taken), "{label}: {taken} is no half of 600");
    let grants = (0..20).filter_map(|_| ask.take(true, node.now()).ok()).collect::<Vec<_>>();
    assert_eq!(grants.len(), 5, "{label}: half of 10");
    // What was under way is answered or given up; then only a beat is tried.
    node.until(|node| node.metric("antiphon_redis_in_flight", "") <= 1.0).await;
    assert!(node.limiter.reports() < 100, "{label}: reports are taken up");
}

/// Redis is back: within two seconds both nodes are well, and one knows what the other has spent meanwhile.
async fn converges(nodes: &[Node], back: Instant, label: &str) {
    for node in nodes {
        node.until(Node::is_well).await;
    }
    let other = &nodes[1];
    loop {
        let ask = other.met("crowd").await;
        // 300 of 600 were taken on the other node. A cell is brought up to date when something is taken.
        let _ = ask.meters.take_message(other.now());
        let left = ask.meters.messages_left(other.now()).unwrap();
        if left < 305.0 {
            break;
        }
        assert!(back.elapsed() < Duration::from_secs(5), "{label}: {left} are left");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = back.elapsed();
    println!("{label}: converged in {took:?}");
    assert!(took < Duration::from_secs(2), "{label}: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_frozen_for_half_a_minute_costs_twenty_milliseconds_once_and_leaves_nothing_behind() {
    let server = RedisServer::start(&[]).await;
    let nodes = pair(&server.url()).await;
    server.signal("STOP");
    goes_on_alone(&nodes, "frozen", &[Trouble::Late, Trouble::Unreachable]).await;
    let waited = nodes[0].metric("antiphon_redis_waits_total", "timeout");
    assert!(waited <= 2.0, "{waited} admissions waited in vain");
    // Long enough for anything to pile up that would, while new callers come and old ones go on.
    let ask = nodes[0].met("crowd").await;
    let (begun, mut came) = (Instant::now(), 0_u32);
    while begun.elapsed() < FREEZE {
        drop(nodes[0].admit(&format!("late-{came}")).await);
        came += 1;
        let _ = ask.meters.take_message(nodes[0].now());
        tokio::time::sleep(Duration::from_millis(100)).await;
        let queue = |name: &str| nodes[0].metric(name, "");
        assert!(queue("antiphon_redis_in_flight") <= 1.0, "only a beat is tried");
        // One report waits for each cell that was spent from, another where it became urgent; and the crowd's is the only
        // one, beside those of the callers who were asking when Redis stopped.
        let waiting = queue("antiphon_redis_waiting_reports");
        assert!(waiting <= 6.0, "{waiting} reports wait after {:?}", begun.elapsed());
        assert!(nodes[0].limiter.reports() <= 2, "reports are taken up");
        let claims = queue("antiphon_redis_claims");
        assert!(claims <= 4.0, "{claims} cells are kept of which nothing is taken");
    }
    let waited = nodes[0].metric("antiphon_redis_waits_total", "timeout");
    assert!(waited <= 2.0, "{waited} of {came} waited in vain, in half a minute");
    server.signal("CONT");
    converges(&nodes, Instant::now(), "frozen").await;
    assert!(server.say(&["info", "clients"]).contains("connected_clients:"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_is_gone_on_without_and_comes_back_empty() {
    let mut server = RedisServer::start(&[]).await;
    let nodes = pair(&server.url()).await;
    server.kill();
    goes_on_alone(&nodes, "killed", &[Trouble::Unreachable, Trouble::Late]).await;
    server.restart().await;
    converges(&nodes, Instant::now(), "killed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_cut_off_is_gone_on_without() {
    let server = RedisServer::start(&[]).await;
    let way = Cut::before(server.port).await;
    let nodes = pair(&way.url()).await;
    way.cut();
    goes_on_alone(&nodes, "cut off", &[Trouble::Late, Trouble::Unreachable]).await;
    way.mend();
    converges(&nodes, Instant::now(), "cut off").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_redis_is_gone_on_without_until_it_is_prompt_again() {
    let server = RedisServer::start(&[]).await;
    let way = Cut::before(server.port).await;
    let nodes = pair(&way.url()).await;
    // Both ways together: later than a command may be, and earlier than a connection is given up.
    way.slow(Duration::from_millis(100));
    goes_on_alone(&nodes, "slow", &[Trouble::Late, Trouble::Unreachable]).await;
    let waited = nodes[0].metric("antiphon_redis_waits_total", "timeout");
    assert!(waited <= 2.0, "{waited} admissions waited in vain");
    way.slow(Duration::ZERO);
    converges(&nodes, Instant::now(), "slow").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_too_slow_for_an_admission_is_waited_for_once() {
    let server = RedisServer::start(&[]).await;
    let way = Cut::before(server.port).await;
    let nodes = pair(&way.url()).await;
    // An answer comes after 30 ms: in time for a lease.
    way.slow(Duration::from_millis(15));
    let took = admissions(&nodes[0], "sluggish", 100).await;
    assert!(p99(&took) < ADMISSION, "{:?}", p99(&took));
    let waited = nodes[0].metric("antiphon_redis_waits_total", "timeout");
    assert!((1.0..=2.0).contains(&waited), "{waited} admissions waited in vain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_is_told_as_full() {
    let server = RedisServer::start(&[]).await;
    let nodes = pair(&server.url()).await;
    server.say(&["config", "set", "maxmemory-policy", "noeviction"]);
    server.say(&["config", "set", "maxmemory", "1"]);
    for node in &nodes {
        node.until(|node| !node.is_well()).await;
    }
    goes_on_alone(&nodes, "full", &[Trouble::Full]).await;
    server.say(&["config", "set", "maxmemory", "0"]);
    converges(&nodes, Instant::now(), "full").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_as_such_and_can_be_mended() {
    let server = RedisServer::start(&["--requirepass", "right"]).await;
    let limits = [("messages", limit(LimitUnit::Messages, 600.0, Some(Duration::from_secs(600)), None))];
    let settings = redis(RedisMode::Single, &[server.url()]);
    let node = Node::new(&settings, &limits);
    node.until(|node| node.cluster.status().unwrap().trouble == Some(Trouble::Auth)).await;
    let mut wrong = settings.clone();
    wrong.password = Some("wrong".to_owned().into());
    let node = Node::new(&wrong, &limits);
    node.until(|node| node.cluster.status().unwrap().trouble == Some(Trouble::Auth)).await;
    assert_eq!(admissions(&node, "locked out", 20).await.iter().filter(|took| **took > ADMISSION).count(), 0);
    let mut right = settings;
    right.password = Some("right".to_owned().into());
    let node = Node::new(&right, &limits);
    node.until(Node::is_well).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_followed() {
    let mut sentinels = Sentinels::start().await;
    let limits = [
        ("messages", limit(LimitUnit::Messages, 600.0, Some(Duration::from_secs(600)), None)),
        ("sessions", limit(LimitUnit::Sessions, 10.0, None, None)),
    ];
    let nodes = Node::several(2, &redis(RedisMode::Sentinel, &sentinels.urls()), &limits).await;
    sentinels.servers[0].kill();
    goes_on_alone(&nodes, "failover", &[Trouble::Unreachable, Trouble::Late, Trouble::NotReady]).await;
    let promoted = async {
        while !sentinels.servers[1].say(&["role"]).starts_with("master") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), promoted).await.expect("no failover");
    converges(&nodes, Instant::now(), "failover").await;
}

/// A port at which nobody is ever answered, as that of a host that is gone: whoever wants in waits behind a full queue.
fn hole() -> (String, Vec<socket2::Socket>) {
    let (local, soon) = (std::net::SocketAddr::from(([127, 0, 0, 1], 0)), Duration::from_millis(100));
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = socket();
    listener.bind(&local.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    loop {
        let caller = socket();
        if caller.connect_timeout(&address, soon).is_err() {
            return (format!("redis://{}", address.as_socket().unwrap()), held);
        }
        held.push(caller);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_whose_host_is_gone_holds_nobody_up() {
    let sentinels = Sentinels::start().await;
    let (gone, _held) = hole();
    let urls: Vec<String> = [gone].into_iter().chain(sentinels.urls()).collect();
    let limits = [("messages", limit(LimitUnit::Messages, 600.0, Some(Duration::from_secs(600)), None))];
    let node = Node::new(&redis(RedisMode::Sentinel, &urls), &limits);
    node.until(Node::is_well).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_used_once_is_used_once_on_all_nodes() {
    let server = RedisServer::start(&[]).await;
    let nodes = pair(&server.url()).await;
    let uses: Vec<SharedUses> = nodes.iter().map(|node| SharedUses::new(node.cluster.clone())).collect();
    let token = |id: &str| SingleUse { id: id.into(), until: 160 };
    assert_eq!(uses[0].take(&token("a"), 100).await, Ok(()));
    assert_eq!(uses[1].take(&token("a"), 100).await, Err(Denied::Used), "another node was first");
    server.signal("STOP");
    for node in &nodes {
        let _ = admissions(node, "warm", 2).await;
        node.until(|node| !node.is_well()).await;
    }
    assert_eq!(uses[0].take(&token("b"), 100).await, Ok(()));
    assert_eq!(uses[0].take(&token("b"), 100).await, Err(Denied::Used), "this node remembers by itself");
    server.signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_knows_where_a_session_is_until_it_or_its_node_is_gone() {
    let server = RedisServer::start(&[]).await;
    let nodes = pair(&server.url()).await;
    let _first = nodes[0].cluster.enter("s1", "c1");
    let second = nodes[0].cluster.enter("s2", "c1");
    let begun = Instant::now();
    let place = loop {
        if let Some(place) = nodes[1].cluster.find_session("s2").await {
            break place;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "it is not told");
    };
    assert_eq!((place.node.as_str(), place.conversation.as_str()), (nodes[0].cluster.id(), "c1"));
    drop(second);
    let begun = Instant::now();
    while nodes[1].cluster.find_session("s2").await.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(5), "it stays");
    }
    assert!(nodes[1].cluster.find_conversation("c1").await.is_some(), "another session goes on with it");
    assert_eq!(nodes[1].cluster.sessions().await.unwrap().len(), 1);
    nodes[0].die();
    let begun = Instant::now();
    while nodes[1].cluster.find_session("s1").await.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a dead node keeps its sessions");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
