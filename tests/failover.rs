//! Agents that refuse or die, over real sockets.

mod harness;
#[path = "failover/taps.rs"]
mod taps;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::agent::AgentServer;
use harness::{Caller, Daemon, Heard};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// An agent that answers no call, and counts the tries.
struct DeadAgent {
    url: String,
    tries: Arc<AtomicUsize>,
}

impl DeadAgent {
    /// It closes every connection at once.
    async fn refusing() -> DeadAgent {
        DeadAgent::bind(false).await
    }

    /// It accepts and never says a word.
    async fn silent() -> DeadAgent {
        DeadAgent::bind(true).await
    }

    async fn bind(holds: bool) -> DeadAgent {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                counted.fetch_add(1, Relaxed);
                held.extend(holds.then_some(connection));
            }
        });
        DeadAgent { url, tries }
    }

    fn tries(&self) -> usize {
        self.tries.load(Relaxed)
    }
}

/// The most probes that an open breaker may have let through: one each 0.5 s at the soonest, with pauses that double.
fn probes(since: Instant) -> usize {
    1 + (since.elapsed().as_secs_f64() / 0.5) as usize
}

/// Twenty milliseconds of PCM16 at 24 kHz whose samples all are `value`.
fn frame(value: i16) -> bytes::Bytes {
    value.to_le_bytes().repeat(480).into()
}

#[tokio::test]
async fn a_pool_member_that_refuses_is_left_alone_and_every_call_gets_another_one() {
    let bad = DeadAgent::refusing().await;
    let config = format!(
        "[agent.bad]\nkind = \"websocket\"\nurl = \"{}\"\n[agent.one]\nkind = \"echo\"\n\
         [agent.two]\nkind = \"echo\"\n[[route]]\nname = \"pool\"\nsticky = \"session\"\nto = [\"bad\", \"one\", \"two\"]\n",
        bad.url
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let began = Instant::now();
    for _ in 0..200 {
        let mut caller = Caller::connect(&daemon).await;
        caller.say(json!({ "type": "start" })).await;
        while !matches!(caller.hear_type("agent").await["status"].as_str(), Some("ready" | "fallback")) {}
        caller.say(json!({ "type": "end" })).await;
        caller.hear_out().await;
    }
    // Five open the breaker.
    let tried = bad.tries();
    assert!((5..=5 + probes(began)).contains(&tried), "{tried} tries in {:?}", began.elapsed());
    assert!(tried <= 20, "{tried} tries of about 67 calls that chose it");
    assert!(daemon.metric("antiphon_upstream_attempts_total", "result=\"refused\"").await >= 40.0);
    assert!(daemon.metric("antiphon_breaker_state", "agent=\"bad\"").await >= 1.0);
}

#[tokio::test]
async fn two_hundred_calls_at_once_ask_a_dead_agent_no_more_often_than_there_are_calls_and_then_only_by_probes() {
    let bad = DeadAgent::refusing().await;
    let well = AgentServer::bind().await.echo();
    let agents = [("bad", bad.url.as_str()), ("well", well.url.as_str())];
    let config = config("to = \"bad\"\nfallback = \"well\"", &agents);
    // All from one address, and all connected before the first one starts, however busy this makes the machine.
    let bounds = "[http]\nmax_handshakes = 1000\nmax_handshakes_per_address = 1000\nstart_ms = 60000";
    let config = format!("{bounds}\n[overload]\nenabled = false\n{config}");
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let began = Instant::now();
    let crowd = || async {
        let mut calls = Vec::new();
        for _ in 0..200 {
            calls.push(Caller::connect(&daemon).await);
        }
        for caller in &mut calls {
            caller.say(json!({ "type": "start" })).await;
        }
        futures_util::future::join_all(calls.iter_mut().map(|caller| hear_status(caller, "fallback"))).await;
        calls
    };
    let first = crowd().await;
    // What was under way when the breaker opened, once for each call; nobody asks twice while another agent is well.
    let stormed = bad.tries();
    assert!((5..=200 + probes(began)).contains(&stormed), "{stormed} tries of 200 calls");
    let opened = Instant::now();
    let second = crowd().await;
    let probed = bad.tries() - stormed;
    assert!(probed <= probes(opened), "{probed} tries while the breaker is open, in {:?}", opened.elapsed());
    assert!(daemon.metric("antiphon_breaker_state", "agent=\"bad\"").await >= 1.0);
    let refused = daemon.metric("antiphon_upstream_attempts_total", "agent=\"bad\",result=\"refused\"").await as usize;
    assert!(refused >= 400 - stormed - probed, "{refused} calls were spared the try");
    drop((first, second));
}

#[tokio::test]
async fn when_the_agent_dies_in_mid_answer_the_next_one_is_heard_within_a_second_and_knows_what_was_said() {
    let (first, second) = (AgentServer::bind().await, AgentServer::bind().await);
    let config = format!(
        "[agent.first]\nkind = \"websocket\"\nurl = \"{}\"\n[agent.second]\nkind = \"websocket\"\nurl = \"{}\"\n\
         [[route]]\nname = \"r\"\nto = \"first\"\nfallback = \"second\"\n",
        first.url(),
        second.url()
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let mut caller = Caller::connect(&daemon).await;
    let pcm = json!({ "codec": "pcm16", "rate": 24000 });
    caller.say(json!({ "type": "start", "audio": { "in": pcm, "out": pcm } })).await;
    let mut agent = first.accept().await;
    agent.begin().await;
    agent
        .say(json!({ "type": "transcript", "item": "u1", "turn": 0, "role": "user", "text": "tell me", "final": true,
                      "start_ms": 0 }))
        .await;
    agent.say(json!({ "type": "turn", "turn": 1, "generation": 0, "phase": "start", "pos": 0 })).await;
    agent
        .say(
            json!({ "type": "transcript", "item": "a1", "turn": 1, "role": "agent", "text": "once upon", "final": false,
                      "start_ms": 0 }),
        )
        .await;
    for _ in 0..5 {
        agent.speak(frame(1)).await;
    }
    while !matches!(caller.hear().await, Heard::Audio(_)) {}
    let died = Instant::now();
    drop(agent);
    let mut agent = second.accept().await;
    let start = agent.begin().await;
    assert_eq!(
        start["history"],
        json!([{ "role": "user", "text": "tell me" }, { "role": "agent", "text": "once upon" }])
    );
    let prompt = start["setup"]["greeting"]["prompt"].as_str().unwrap_or_default();
    assert!(prompt.contains("Do not greet"), "{start}");
    for _ in 0..5 {
        agent.speak(frame(2)).await;
    }
    let heard_at = loop {
        if let Heard::Audio(audio) = caller.hear().await
            && audio[..2] == 2i16.to_le_bytes()
        {
            break died.elapsed();
        }
    };
    assert!(heard_at < Duration::from_secs(1), "{heard_at:?}");
    caller.say(json!({ "type": "end" })).await;
    let (messages, code) = caller.hear_out().await;
    assert_eq!(code, 1000, "the call was the same one all the time: {messages:?}");
    let record = daemon.call_record().await;
    assert_eq!(record["agents"].as_array().map(Vec::len), Some(2), "{record}");
}

/// A route to these agents, each of them `antiphon.v1` over WebSocket at its address.
fn config(route: &str, agents: &[(&str, &str)]) -> String {
    let agent = |(name, url): &(&str, &str)| format!("[agent.{name}]\nkind = \"websocket\"\nurl = \"{url}\"\n");
    format!("[[route]]\nname = \"r\"\nsticky = \"session\"\n{route}\n{}", agents.iter().map(agent).collect::<String>())
}

async fn start(daemon: &Daemon) -> Caller {
    let mut caller = Caller::connect(daemon).await;
    let pcm = json!({ "codec": "pcm16", "rate": 24000 });
    caller.say(json!({ "type": "start", "audio": { "in": pcm, "out": pcm } })).await;
    caller
}

async fn hear_status(caller: &mut Caller, status: &str) -> Value {
    loop {
        let agent = caller.hear_type("agent").await;
        if agent["status"] == status {
            return agent;
        }
    }
}

#[tokio::test]
async fn what_is_written_while_all_agents_are_down_is_answered_by_the_one_that_is_back() {
    let server = AgentServer::bind().await;
    let (url, address) = (server.url(), server.address());
    let daemon =
        Daemon::start_with(Some(&config("to = \"only\"\nwhen_down = [\"keep\"]", &[("only", &url)])), &[]).await;
    let mut caller = start(&daemon).await;
    let mut agent = server.accept().await;
    agent.begin().await;
    hear_status(&mut caller, "ready").await;
    agent.say(json!({ "type": "message", "id": "a1", "text": "Good morning." })).await;
    caller.hear_type("message").await;
    drop((agent, server));
    let down = hear_status(&mut caller, "down").await;
    assert!(down["reason"].is_string(), "{down}");
    caller.say(json!({ "type": "message", "id": "m1", "text": "Are you there?" })).await;
    caller.say(json!({ "type": "message", "id": "m2", "text": "Hello?" })).await;
    let retry = caller.hear_type("agent").await;
    assert!(retry["retry_after_ms"].is_u64(), "{retry}");
    let server = AgentServer::bind_at(&address).await;
    let mut agent = server.accept().await;
    let start = agent.begin().await;
    assert_eq!(start["history"], json!([{ "role": "agent", "text": "Good morning." }]), "{start}");
    for text in ["Are you there?", "Hello?"] {
        assert_eq!(agent.hear_type("message").await["text"], text);
    }
    agent.say(json!({ "type": "message", "id": "a2", "text": "I am back." })).await;
    assert_eq!(caller.hear_type("message").await["text"], "I am back.");
    caller.say(json!({ "type": "end" })).await;
    caller.hear_out().await;
    let record = daemon.call_record().await;
    assert_eq!((&record["reason"], &record["down_steps"]), (&json!("client_hangup"), &json!(["keep"])), "{record}");
    assert!(record["down_ms"].as_u64() > Some(0), "{record}");
    assert!(daemon.metric("antiphon_agents_down_seconds_count", "outcome=\"recovered\"").await >= 1.0);
    assert!(daemon.metric("antiphon_down_steps_total", "step=\"keep\"").await >= 1.0);
}

#[tokio::test]
async fn when_nobody_can_be_reached_the_caller_hears_the_apology_and_the_call_ends() {
    let nobody = AgentServer::bind().await.url();
    let route = "to = \"a\"\nfallback = \"b\"\nwhen_down = [\"clip\", \"end\"]";
    let daemon = Daemon::start_with(Some(&config(route, &[("a", &nobody), ("b", &nobody)])), &[]).await;
    let mut caller = start(&daemon).await;
    let (mut samples, mut loudest) = (0, 0);
    let ended = loop {
        match caller.hear().await {
            Heard::Audio(audio) => {
                samples += audio.len() / 2;
                let levels = audio.chunks_exact(2).map(|s| i16::from_le_bytes([s[0], s[1]]).unsigned_abs());
                loudest = loudest.max(levels.max().unwrap_or_default());
            }
            Heard::Control(message) if message["type"] == "ended" => break message,
            Heard::Control(_) => {}
            end => panic!("{end:?}"),
        }
    };
    assert_eq!(ended["reason"], "agent_failed");
    let apology = antiphon::media::announcement::Announcement::apology().unwrap().length();
    let heard = Duration::from_millis(samples as u64 / 24);
    assert!(heard.abs_diff(apology) < Duration::from_millis(100) && loudest > 3_000, "{heard:?}, {loudest}");
}

#[tokio::test]
async fn text_goes_to_another_agent_until_the_one_that_speaks_is_back() {
    let (voice, writer) = (AgentServer::bind().await, AgentServer::bind().await);
    let address = voice.address();
    let agents = [("voice", &*voice.url()), ("writer", &*writer.url())];
    let route = "to = \"voice\"\nwhen_down = [{ text = \"writer\" }]";
    let daemon = Daemon::start_with(Some(&config(route, &agents)), &[]).await;
    let mut caller = start(&daemon).await;
    let mut agent = voice.accept().await;
    agent.begin().await;
    agent.say(json!({ "type": "message", "id": "a1", "text": "Good morning." })).await;
    caller.hear_type("message").await;
    drop((agent, voice));
    let mut pen = writer.accept().await;
    assert_eq!(pen.begin().await["history"], json!([{ "role": "agent", "text": "Good morning." }]));
    hear_status(&mut caller, "text").await;
    caller.say(json!({ "type": "message", "id": "m1", "text": "Can you read this?" })).await;
    assert_eq!(pen.hear_type("message").await["text"], "Can you read this?");
    pen.say(json!({ "type": "message", "id": "w1", "text": "I can." })).await;
    assert_eq!(caller.hear_type("message").await["text"], "I can.");
    let voice = AgentServer::bind_at(&address).await;
    let mut agent = voice.accept().await;
    let written = json!([
        { "role": "agent", "text": "Good morning." },
        { "role": "user", "text": "Can you read this?" },
        { "role": "agent", "text": "I can." },
    ]);
    assert_eq!(agent.begin().await["history"], written);
    hear_status(&mut caller, "ready").await;
    agent.speak(frame(7)).await;
    while !matches!(caller.hear().await, Heard::Audio(audio) if audio[..2] == 7i16.to_le_bytes()) {}
    caller.say(json!({ "type": "end" })).await;
    caller.hear_out().await;
    let record = daemon.call_record().await;
    assert_eq!((&record["reason"], &record["down_steps"]), (&json!("client_hangup"), &json!(["text"])), "{record}");
}

#[tokio::test]
async fn an_agent_that_reports_an_error_of_fail_on_while_the_caller_waits_is_followed_and_after_others_it_stays() {
    let (first, second) = (AgentServer::bind().await, AgentServer::bind().await);
    let agents = [("first", &*first.url()), ("second", &*second.url())];
    let route = "to = \"first\"\nfallback = \"second\"\nfail_on = [\"limit\"]";
    let daemon = Daemon::start_with(Some(&config(route, &agents)), &[]).await;
    let mut caller = start(&daemon).await;
    let mut agent = first.accept().await;
    agent.begin().await;
    caller.say(json!({ "type": "message", "id": "m1", "text": "Hello?" })).await;
    agent.hear_type("message").await;
    agent.say(json!({ "type": "error", "code": "unsupported", "message": "What is that?" })).await;
    caller.hear_type("error").await;
    agent.say(json!({ "type": "error", "code": "rate_limited", "message": "No more tokens." })).await;
    let mut agent = second.accept().await;
    agent.begin().await;
    assert_eq!(agent.hear_type("message").await["text"], "Hello?");
    hear_status(&mut caller, "fallback").await;
    assert!(daemon.metric("antiphon_fallbacks_total", "reason=\"limit\"").await >= 1.0);
}

#[tokio::test]
async fn agents_that_never_answer_cost_a_call_one_hedge_delay_each_until_they_are_left_alone() {
    let (first, second) = (DeadAgent::silent().await, DeadAgent::silent().await);
    let echo = AgentServer::bind().await.echo();
    let route = "to = [\"first\"]\nfallback = [\"second\", \"well\"]\nhedge_ms = 200";
    let agents = [("first", first.url.as_str()), ("second", second.url.as_str()), ("well", echo.url.as_str())];
    let daemon = Daemon::start_with(Some(&config(route, &agents)), &[]).await;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let began = Instant::now();
        let mut caller = start(&daemon).await;
        hear_status(&mut caller, "fallback").await;
        waits.push(began.elapsed());
        caller.say(json!({ "type": "end" })).await;
        caller.hear_out().await;
    }
    // Two dead agents, and time for a machine that is busy with other things.
    assert!(waits.iter().all(|wait| *wait < Duration::from_millis(2 * 200 + 1500)), "{waits:?}");
    assert!(waits.iter().min().unwrap() < &Duration::from_millis(200), "their breakers are open: {waits:?}");
    for tries in [first.tries(), second.tries()] {
        assert!((5..=8).contains(&tries), "{tries} tries of 12 calls");
    }
}

#[tokio::test]
async fn an_agent_whose_places_are_all_taken_leaves_the_call_to_the_next_of_the_pool() {
    // Agents of one server and key share the places of an account.
    let (first, second) = (AgentServer::bind().await.echo(), AgentServer::bind().await.echo());
    let text = config("to = [\"one\", \"two\"]", &[("one", &first.url), ("two", &second.url)]);
    let config = text.replace("url =", "max_sessions = 1\nurl =");
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let mut callers = Vec::new();
    let mut names = Vec::new();
    for _ in 0..2 {
        let mut caller = start(&daemon).await;
        loop {
            let agent = caller.hear_type("agent").await;
            if ["ready", "fallback"].contains(&agent["status"].as_str().unwrap()) {
                names.push(agent["name"].as_str().unwrap().to_owned());
                break;
            }
        }
        callers.push(caller);
    }
    names.sort();
    assert_eq!(names, ["one", "two"]);
    let mut third = start(&daemon).await;
    assert_eq!(hear_status(&mut third, "down").await["reason"], "full");
    // Both refused the third caller; the second may have asked the taken one first.
    let full = daemon.metric("antiphon_upstream_failures_total", "class=\"full\"").await;
    assert!((2.0..=3.0).contains(&full), "{full}");
}

#[tokio::test]
async fn a_server_that_died_without_a_word_is_found_out_by_a_ping() {
    let (first, second) = (AgentServer::bind().await, AgentServer::bind().await);
    let text = config("to = \"first\"\nfallback = \"second\"", &[("first", &first.url()), ("second", &second.url())]);
    let daemon = Daemon::start_with(Some(&text.replacen("url =", "ping_s = 1\nurl =", 1)), &[]).await;
    let mut caller = start(&daemon).await;
    let mut agent = first.accept().await;
    agent.begin().await;
    hear_status(&mut caller, "ready").await;
    // The socket stays open, and nobody reads it.
    second.accept().await.begin().await;
    assert_eq!(hear_status(&mut caller, "fallback").await["name"], "second");
    drop(agent);
    assert!(daemon.metric("antiphon_fallbacks_total", "agent=\"second\",reason=\"lost\"").await >= 1.0);
}

#[tokio::test]
async fn a_call_without_a_pause_goes_on_over_sessions_that_end_after_five_seconds() {
    let echo = AgentServer::bind().await.echo();
    let text = config("to = \"echo\"", &[("echo", &echo.url)]) + "session_max_s = 5\n";
    let daemon = Daemon::start_with(Some(&text), &[]).await;
    let mut caller = start(&daemon).await;
    hear_status(&mut caller, "ready").await;
    // Every frame is another one: what comes back tells what is missing and what came twice.
    let (mut ticks, mut sent, mut back) = (tokio::time::interval(Duration::from_millis(20)), 1i16, Vec::new());
    while sent <= 700 {
        tokio::select! {
            _ = ticks.tick() => {
                caller.speak(frame(sent)).await;
                sent += 1;
            }
            heard = caller.hear() => match heard {
                Heard::Audio(audio) => back.extend(audio.chunks_exact(2).map(|s| i16::from_le_bytes([s[0], s[1]]))),
                Heard::Control(message) => assert_ne!(message["type"], "ended", "{message}"),
                end => panic!("{end:?}"),
            }
        }
    }
    caller.say(json!({ "type": "end" })).await;
    let rollovers = daemon.metric("antiphon_rollovers_total", "agent=\"echo\"").await;
    assert!(rollovers >= 2.0, "{rollovers}");
    // While a busy machine sends nothing, silence is made up for the agent.
    let silence = back.extract_if(.., |sample| *sample == 0).count() as f64 / 24_000.0;
    let filled = daemon.metric("antiphon_filled_seconds_total", "").await;
    assert!(silence <= filled + 0.001, "{silence} s of silence, {filled} s made up");
    assert!(back.is_sorted(), "something came again later");
    let longest = back.chunk_by(|a, b| a == b).map(<[i16]>::len).max().unwrap_or_default();
    assert!(longest <= 480, "a frame came twice: {longest} samples of it");
    back.dedup();
    let gaps: Vec<_> = back.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|missing| *missing > 0).collect();
    assert!(gaps.iter().all(|missing| *missing <= 3), "gaps in frames of 20 ms: {gaps:?}");
    assert!(gaps.len() as f64 <= rollovers, "{gaps:?} at {rollovers} rollovers");
}
