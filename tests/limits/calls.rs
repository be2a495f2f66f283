//! Limits as callers meet them, on real nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon::config::settings::{LimitUnit, RedisMode, Settings};
use antiphon::ingress;
use antiphon::runtime::admission::keyring::Keyrings;
use antiphon::runtime::clock::Clock;
use antiphon::runtime::node::{InForce, Node};
use antiphon::runtime::worker::Workers;
use antiphon::telemetry::{CallRecordSink, CallRecordTarget, Telemetry};
use antiphon::upstream::exchange::Exchanges;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::agent::AgentServer;
use crate::harness::peer::Peer;
use crate::harness::redis::{Cut, RedisServer};
use crate::harness::{Caller, Daemon, Heard, PATIENCE, ask, echo_call, echo_call_at, get, header};
use crate::nodes::limit;

/// A node's configuration with one route, `r`, under these limits; each counts by address.
fn config(redis: Option<&str>, limits: &[(&str, &str)], agents: &str) -> String {
    let redis = redis.map_or(String::new(), |url| format!("[redis]\nurl = \"{url}\"\nnodes = 2\n"));
    let declared: String =
        limits.iter().map(|(name, keys)| format!("[limit.{name}]\nkey = [\"ip\"]\n{keys}\n")).collect();
    let names: Vec<&str> = limits.iter().map(|(name, _)| *name).collect();
    format!(
        "{redis}{declared}[limits.all]\nuse = {names:?}\n{agents}\n\
         [[route]]\nname = \"r\"\nto = \"requested\"\nlimits = [\"all\"]\n"
    )
}

/// Nodes that share a Redis, and know each other.
async fn nodes(count: usize, server: &RedisServer, limits: &[(&str, &str)], agents: &str) -> Vec<Daemon> {
    let text = config(Some(&server.url()), limits, agents);
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Daemon::start_with(Some(&text), &[]).await);
    }
    for node in &nodes {
        while node.metric("antiphon_cluster_nodes", "").await < count as f64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    nodes
}

/// How a start went: `started`, or the error and the close code.
async fn start(daemon: &Daemon, agent: &str) -> Result<Caller, (Value, u16)> {
    let mut caller = Caller::connect(daemon).await;
    caller.say(json!({ "type": "start", "agent": agent })).await;
    loop {
        match caller.hear().await {
            Heard::Control(message) if message["type"] == "started" => return Ok(caller),
            Heard::Control(message) if message["type"] == "error" => {
                let (_, code) = caller.hear_out().await;
                return Err((message, code));
            }
            Heard::Control(_) | Heard::Audio(_) => {}
            end => panic!("neither started nor refused: {end:?}"),
        }
    }
}

#[tokio::test]
async fn one_call_at_once_is_one_call_on_all_nodes() {
    let server = RedisServer::start(&[]).await;
    let nodes = nodes(2, &server, &[("calls", "unit = \"sessions\"\nrate = 1")], "").await;
    let mut first = start(&nodes[0], "echo").await.unwrap_or_else(|refused| panic!("{refused:?}"));
    let listed = async || serde_json::from_str::<Value>(&get(nodes[1].control, "/cluster").await.2).unwrap();
    let begun = Instant::now();
    while listed().await["sessions"].as_array().unwrap().len() != 1 {
        assert!(begun.elapsed() < Duration::from_secs(5), "{}", listed().await);
    }
    assert_eq!(listed().await["nodes"].as_array().unwrap().len(), 2);
    for node in &nodes {
        let (error, code) = start(node, "echo").await.err().expect("there is one already");
        assert_eq!(
            (error["code"].as_str(), error["retryable"].as_bool(), code),
            (Some("rate_limited"), Some(true), 4429)
        );
        assert!(error["retry_after_ms"].as_u64().unwrap() > 0);
        assert!(error["message"].as_str().unwrap().contains("`calls` of 1 sessions at once"), "{error}");
    }
    first.say(json!({ "type": "end" })).await;
    first.hear_out().await;
    let begun = Instant::now();
    while start(&nodes[1], "echo").await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the seat is not given back");
    }
    while nodes[1].metric("antiphon_limit_refused_total", "limit=\"calls\",unit=\"sessions\"").await < 1.0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(nodes[1].log().contains("rate_limit_exceeded"));
}

#[tokio::test]
async fn an_agents_account_has_max_sessions_over_all_nodes() {
    let (server, agent) = (RedisServer::start(&[]).await, AgentServer::bind().await.echo());
    let agents = format!("[agent.other]\nkind = \"websocket\"\nurl = \"{}\"\nmax_sessions = 1\n", agent.url);
    let nodes = nodes(2, &server, &[("calls", "unit = \"sessions\"\nrate = 100")], &agents).await;
    let (mut first, _) = Caller::call(&nodes[0], "other").await;
    while first.hear_type("agent").await["status"] != "ready" {}
    let (mut second, _) = Caller::call(&nodes[1], "other").await;
    let (messages, code) = second.hear_out().await;
    assert_eq!(code, 1013, "{messages:?}");
    assert!(messages.iter().any(|message| message.to_string().contains("has `max_sessions` calls")), "{messages:?}");
    first.say(json!({ "type": "end" })).await;
    first.hear_out().await;
    let begun = Instant::now();
    loop {
        let (mut third, _) = Caller::call(&nodes[1], "other").await;
        let status = third.hear_type("agent").await;
        if status["status"] == "connecting" && third.hear_type("agent").await["status"] == "ready" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "the seat is not given back");
    }
}

#[tokio::test]
async fn messages_and_audio_beyond_a_limit_are_refused_and_the_call_goes_on() {
    let limits = [
        ("words", "unit = \"messages\"\nrate = \"3/600s\""),
        ("chunks", "unit = \"audio_frames\"\nrate = \"50/600s\"\nblock_s = 30"),
    ];
    let daemon = Daemon::start_with(Some(&config(None, &limits, "")), &[]).await;
    let (mut caller, _) = Caller::call(&daemon, "echo").await;
    for number in 0..4 {
        caller.say(json!({ "type": "message", "id": number.to_string(), "text": "hello" })).await;
    }
    let error = loop {
        let error = caller.hear_type("error").await;
        if error["code"] == "rate_limited" {
            break error;
        }
        assert_eq!(error["code"], "unsupported", "echo takes no text");
    };
    assert!((199_000..=200_000).contains(&error["retry_after_ms"].as_u64().unwrap()), "{error}");
    for _ in 0..80 {
        caller.speak(Bytes::from(vec![7; 640])).await;
    }
    let error = caller.hear_type("error").await;
    assert!(error["message"].as_str().unwrap().contains("`chunks` of 50 audio frames in 60"), "{error}");
    assert_eq!(error["retry_after_ms"], 30_000);
    let mut heard = 0;
    caller.say(json!({ "type": "ping", "t": 1 })).await;
    while heard < 50 * 640 {
        match caller.hear().await {
            Heard::Audio(bytes) => heard += bytes.iter().filter(|byte| **byte == 7).count(),
            Heard::Control(message) => assert_ne!(message["type"], "error", "once a second is enough"),
            end => panic!("{end:?}"),
        }
    }
    caller.say(json!({ "type": "end" })).await;
    let (messages, code) = caller.hear_out().await;
    assert_eq!((messages.last().unwrap()["reason"].as_str(), code), (Some("client_hangup"), 1000));
}

#[tokio::test]
async fn answers_over_http_have_the_headers_of_rate_limits() {
    let limits = [
        ("links", "unit = \"connections\"\nrate = \"1/60s\"\nblock_s = 60"),
        ("calls", "unit = \"sessions\"\nrate = 3"),
    ];
    let daemon = Daemon::start_with(Some(&config(None, &limits, "")), &[]).await;
    let offer = || async { json!({ "sdp": Peer::offer().await.5, "start": { "agent": "echo" } }).to_string() };
    let json = ["content-type: application/json"];
    let (status, head, body) = ask(daemon.http, "POST", "/v1/session/webrtc", &json, &offer().await).await;
    assert_eq!(status, 201, "{body}");
    // One of one is taken, of three at once two are left.
    assert_eq!(header(&head, "ratelimit"), Some("\"links\";r=0;t=60, \"calls\";r=2"));
    let policies = "\"links\";q=1;w=60, \"calls\";q=3;qu=\"concurrent-requests\"";
    assert_eq!(header(&head, "ratelimit-policy"), Some(policies));
    let (status, head, body) = ask(daemon.http, "POST", "/v1/session/webrtc", &json, &offer().await).await;
    assert_eq!(status, 429, "{body}");
    assert_eq!(header(&head, "retry-after"), Some("60"));
    assert_eq!(header(&head, "ratelimit-policy"), Some("\"links\";q=1;w=60"));
    assert_eq!(header(&head, "ratelimit"), Some("\"links\";r=0;t=60"));
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["code"], "rate_limited");
    let (path, sdp) = ("/v1/realtime/calls?model=echo", ["content-type: application/sdp"]);
    let (status, head, body) = ask(daemon.http, "POST", path, &sdp, &Peer::offer().await.5).await;
    assert_eq!((status, header(&head, "ratelimit-policy")), (429, Some("\"links\";q=1;w=60")), "{head}");
    assert!(header(&head, "retry-after").is_some_and(|after| after.parse::<u64>().unwrap() <= 60), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["error"]["type"], "rate_limit_error");
    let (error, code) = start(&daemon, "echo").await.err().expect("links of all transports count together");
    assert_eq!((error["code"].as_str(), code), (Some("rate_limited"), 4429));
}

#[tokio::test]
async fn a_budget_ends_a_call_when_the_agent_has_spoken_out() {
    let limits = [("money", "unit = \"cost\"\nrate = \"1/1d\"\nwarn_at = 0.5")];
    let server = AgentServer::bind().await;
    let agents = format!(
        "[agent.dear]\nkind = \"websocket\"\nurl = \"{}\"\nprice = {{ currency = \"USD\", tokens = 0.01 }}\n",
        server.url()
    );
    let daemon = Daemon::start_with(Some(&config(None, &limits, &agents)), &[]).await;
    let (mut caller, _) = Caller::call(&daemon, "dear").await;
    let mut agent = server.accept().await;
    agent.begin().await;
    agent.say(json!({ "type": "usage", "turn": 1, "tokens": 60 })).await;
    let alert = caller.hear_type("alert").await;
    assert_eq!(alert["data"], json!({ "limit": "money", "used": 0.6 }));
    agent.say(json!({ "type": "usage", "turn": 1, "tokens": 60 })).await;
    let ending = caller.hear_type("ending").await;
    assert_eq!(ending["reason"], "budget");
    let (messages, code) = caller.hear_out().await;
    assert_eq!((messages.last().unwrap()["reason"].as_str(), code), (Some("budget"), 4429));
    let (error, _) = start(&daemon, "dear").await.err().expect("nothing is left");
    assert!(error["retry_after_ms"].as_u64().unwrap() > 3_600_000, "{error}");
}

#[tokio::test]
async fn a_node_says_that_it_goes_on_alone_and_that_it_does_no_more() {
    let server = RedisServer::start(&[]).await;
    let node = &nodes(1, &server, &[("calls", "unit = \"sessions\"\nrate = 10")], "").await[0];
    let (status, _, body) = get(node.control, "/readyz?verbose").await;
    assert_eq!((status, body.contains("[+]redis ok")), (200, true), "{body}");
    server.signal("STOP");
    let degraded = loop {
        let (status, _, body) = get(node.control, "/readyz?verbose").await;
        assert_eq!(status, 200, "it takes calls");
        if let Some(line) = body.lines().find(|line| line.starts_with("[+]redis degraded")) {
            break line.to_owned();
        }
    };
    assert!(degraded.ends_with("limits go on with this node's share, 1 of 2"), "{degraded}");
    assert_eq!(node.metric("antiphon_redis_up", "").await, 0.0);
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(start(node, "echo").await.unwrap_or_else(|refused| panic!("{refused:?}")));
    }
    assert!(start(node, "echo").await.is_err(), "5 is half of 10");
    server.signal("CONT");
    while node.metric("antiphon_redis_up", "").await < 1.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lines = |word: &str| node.log().lines().filter(|line| line.contains(word)).count();
    assert_eq!(lines("Redis cannot be used"), 1, "{}", node.log());
    let (_, _, body) = get(node.control, "/readyz?verbose").await;
    assert!(body.contains("[+]redis ok"), "{body}");
}

/// Two nodes that say where they are, and a call on the first whose link is lost; gives its resume token.
async fn lost_call(server: &RedisServer, elsewhere: &str) -> (Vec<Daemon>, String) {
    let text = format!("{}[node]\nelsewhere = \"{elsewhere}\"\n", config(Some(&server.url()), &[LINKS], ""));
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
        let own = [("ANTIPHON_LISTEN__HTTP", listen.as_str()), ("ANTIPHON_NODE__URL", url.as_str())];
        nodes.push(Daemon::start_with(Some(&text), &own).await);
    }
    for node in &nodes {
        while node.metric("antiphon_cluster_nodes", "").await < 2.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let (caller, started) = Caller::call(&nodes[0], "echo").await;
    drop(caller);
    (nodes, started["resume_token"].as_str().unwrap().to_owned())
}

const LINKS: (&str, &str) = ("links", "unit = \"connections\"\nrate = \"1000/60s\"");

#[tokio::test]
async fn a_client_that_resumes_on_another_node_is_told_where_its_session_is() {
    let server = RedisServer::start(&[]).await;
    let (nodes, token) = lost_call(&server, "redirect").await;
    let format = json!({ "codec": "pcm16", "rate": 16000 });
    let start = json!({ "type": "start", "resume": token, "have": 0, "audio": { "in": format, "out": format } });
    let mut caller = Caller::connect(&nodes[1]).await;
    caller.say(start.clone()).await;
    let error = caller.hear_type("error").await;
    let url = format!("http://{}", nodes[0].http);
    assert_eq!((error["code"].as_str(), error["url"].as_str()), (Some("misdirected"), Some(url.as_str())), "{error}");
    assert_eq!(caller.hear_out().await.1, 4421);
    let offer = json!({ "sdp": Peer::offer().await.5, "start": { "resume": token } }).to_string();
    let json = ["content-type: application/json"];
    let (status, _, body) = ask(nodes[1].http, "POST", "/v1/session/webrtc", &json, &offer).await;
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["url"].as_str()), (421, Some(url.as_str())));
    let mut caller = Caller::connect(&nodes[0]).await;
    caller.say(start).await;
    assert_eq!(caller.hear_type("started").await["resumed"], true);
}

#[tokio::test]
async fn a_client_that_resumes_on_another_node_is_served_through_it_where_that_is_wanted() {
    let server = RedisServer::start(&[]).await;
    let (nodes, token) = lost_call(&server, "forward").await;
    let format = json!({ "codec": "pcm16", "rate": 16000 });
    let mut caller = Caller::connect(&nodes[1]).await;
    caller.say(json!({ "type": "start", "resume": token, "have": 0, "audio": { "in": format, "out": format } })).await;
    assert_eq!(caller.hear_type("started").await["resumed"], true);
    for _ in 0..30 {
        caller.speak(Bytes::from(vec![7; 640])).await;
    }
    let mut heard = 0;
    while heard < 20 * 640 {
        if let Heard::Audio(bytes) = caller.hear().await {
            heard += bytes.iter().filter(|byte| **byte == 7).count();
        }
    }
    assert_eq!(nodes[1].metric("antiphon_resumes_total", "other_node").await, 1.0);
    caller.say(json!({ "type": "end" })).await;
    let (messages, code) = caller.hear_out().await;
    assert_eq!((messages.last().unwrap()["reason"].as_str(), code), (Some("client_hangup"), 1000));
    while nodes[0].metric("antiphon_sessions_active", "").await > 0.0 {}
}

#[tokio::test]
async fn what_a_dead_node_said_of_itself_and_its_sessions_is_forgotten() {
    let server = RedisServer::start(&[]).await;
    let mut nodes = nodes(2, &server, &[LINKS], "").await;
    let _kept = start(&nodes[0], "echo").await.unwrap_or_else(|refused| panic!("{refused:?}"));
    let _lost = start(&nodes[1], "echo").await.unwrap_or_else(|refused| panic!("{refused:?}"));
    let control = nodes[0].control;
    let listed = async || serde_json::from_str::<Value>(&get(control, "/cluster").await.2).unwrap();
    let count = async |key: &str| listed().await[key].as_array().unwrap().len();
    let begun = Instant::now();
    while (count("nodes").await, count("sessions").await) != (2, 2) {
        assert!(begun.elapsed() < PATIENCE, "{}", listed().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    nodes[1].signal("KILL");
    drop(nodes.pop());
    let begun = Instant::now();
    while (count("nodes").await, count("sessions").await) != (1, 1) {
        assert!(begun.elapsed() < PATIENCE, "{}", listed().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Redis itself keeps nothing of it either.
    let begun = Instant::now();
    while server.say(&["keys", "antiphon:node:*:sessions"]).lines().count() != 1 {
        assert!(begun.elapsed() < PATIENCE, "its sessions never expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// ---------------------------------------------------------------------------------------------------------- chaos

/// Calls at once; what a debug build of daemon and clients bears beside other tests.
const CALLS: usize = if cfg!(debug_assertions) { 20 } else { 100 };
/// How long each state of Redis is looked at.
const WINDOW: Duration = Duration::from_secs(3);

/// Bucket counts of the added latency, by upper bound.
async fn added(daemon: &Daemon) -> Vec<(f64, f64)> {
    let (_, _, text) = get(daemon.control, "/metrics").await;
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("antiphon_added_latency_seconds_bucket")) {
        let bound = line.split("le=\"").nth(1).unwrap().split('"').next().unwrap();
        let bound: f64 = bound.parse().unwrap_or(f64::INFINITY);
        let count: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        match sums.iter_mut().find(|(other, _)| *other == bound) {
            Some((_, sum)) => *sum += count,
            None => sums.push((bound, count)),
        }
    }
    sums
}

/// The 99th percentile of what was added in a window, in milliseconds.
async fn p99_within(daemon: &Daemon, length: Duration) -> f64 {
    let before = added(daemon).await;
    tokio::time::sleep(length).await;
    let after = added(daemon).await;
    let counts: Vec<(f64, f64)> = after
        .iter()
        .map(|(bound, count)| (*bound, count - before.iter().find(|(b, _)| b == bound).map_or(0.0, |(_, c)| *c)))
        .collect();
    let all = counts.iter().map(|(_, count)| *count).fold(0.0, f64::max);
    assert!(all > 0.0, "nothing flows");
    counts.iter().find(|(_, count)| *count >= 0.99 * all).map_or(f64::INFINITY, |(bound, _)| bound * 1000.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_flow_as_before_while_redis_is_frozen_killed_or_cut_off() {
    let mut server = RedisServer::start(&[]).await;
    let cut = Cut::before(server.port).await;
    let limits =
        [("chunks", "unit = \"audio_frames\"\nrate = \"10000000/60s\""), ("calls", "unit = \"sessions\"\nrate = 1000")];
    let text = config(Some(&cut.url()), &limits, "");
    // So many calls at once, from one address, may be more than this machine can bear: that is not what is looked at.
    let variables = [("ANTIPHON_OVERLOAD__ENABLED", "false"), ("ANTIPHON_HTTP__MAX_HANDSHAKES_PER_ADDRESS", "1000")];
    let daemon = Daemon::start_with(Some(&text), &variables).await;
    let well = async |up: f64| {
        let begun = Instant::now();
        while daemon.metric("antiphon_redis_up", "").await != up {
            assert!(begun.elapsed() < Duration::from_secs(10), "redis_up never is {up}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    well(1.0).await;
    let length = WINDOW * 6 + Duration::from_secs(6);
    let calls = futures_util::future::join_all((0..CALLS).map(|_| echo_call(&daemon, length)));
    let chaos = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (mut calm, mut rough) = (Vec::new(), Vec::new());
        for number in 0..3 {
            calm.push(p99_within(&daemon, WINDOW).await);
            match number {
                0 => server.signal("STOP"),
                1 => server.kill(),
                _ => cut.cut(),
            }
            rough.push(p99_within(&daemon, WINDOW).await);
            match number {
                0 => server.signal("CONT"),
                1 => server.restart().await,
                _ => cut.mend(),
            }
            let back = Instant::now();
            well(1.0).await;
            assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
        }
        (calm, rough)
    };
    let (reports, (calm, rough)) = tokio::join!(calls, chaos);
    println!("{CALLS} calls, added p99 in ms, calm {calm:?}, frozen, killed and cut off {rough:?}");
    assert!(reports.iter().all(|report| report.wrong == 0), "{reports:?}");
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (calm, rough) = (median(calm), median(rough));
    assert!(rough <= (2.0 * calm).max(calm + 2.0), "calm {calm} ms, rough {rough} ms");
    assert_eq!(daemon.metric("antiphon_limit_unleased_total", "").await, 0.0);
    assert!(daemon.metric("antiphon_redis_troubles_total", "").await >= 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_flow_as_before_while_the_control_plane_stands_still() {
    let server = RedisServer::start(&[]).await;
    let redis = crate::nodes::redis(RedisMode::Single, &[server.url()]);
    let mut settings = Settings { redis, ..Settings::default() };
    // Leases of five seconds: they end while nobody can renew them.
    let frames = limit(LimitUnit::AudioFrames, 5000.0, Some(Duration::from_secs(60)), None);
    settings.limits.insert("chunks".into(), frames);
    settings.limit_sets.insert("all".into(), vec!["chunks".into()]);
    let rule = Arc::make_mut(&mut settings.routes[0]);
    rule.limits = vec!["all".into()];
    let (told, address) = tokio::sync::oneshot::channel();
    let (block, mut blocked) = tokio::sync::mpsc::channel::<Duration>(1);
    let control = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let clock = Clock::start();
        let workers = Workers::start(1, clock).unwrap();
        let telemetry = Telemetry::new();
        let records = CallRecordSink::open(CallRecordTarget::Log, &telemetry).unwrap();
        let exchanges = Exchanges::on(runtime.handle().clone());
        let keyrings = Keyrings::new(exchanges.clone(), telemetry.clone());
        let in_force = InForce::new(settings, &keyrings).unwrap();
        let all = workers.all().to_vec();
        let node = Arc::new(Node::new(clock, in_force, telemetry, all, records, exchanges, keyrings).unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        told.send(listener.local_addr().unwrap()).unwrap();
        runtime.block_on(async move {
            tokio::spawn(node.take_keeper().unwrap().run(node.stopping.clone()));
            tokio::spawn(ingress::accept::accept(node.clone(), None, listener));
            while let Some(length) = blocked.recv().await {
                std::thread::sleep(length);
            }
            node.stopping.cancel();
            workers.stop().cancel();
        });
    });
    let address = address.await.unwrap();
    let length = Duration::from_secs(13);
    let calls = futures_util::future::join_all((0..5).map(|_| echo_call_at(address, "echo", length)));
    let blocking = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        block.send(Duration::from_secs(10)).await.unwrap();
    };
    let (reports, ()) = tokio::join!(calls, blocking);
    println!("latest echoes {:?}", reports.iter().map(|report| report.latest).collect::<Vec<_>>());
    assert!(reports.iter().all(|report| report.wrong == 0), "{reports:?}");
    drop(block);
    control.join().unwrap();
}
