//! Agents of vendors that die, fall silent or grow too old in a call: another one goes on with what was said, whatever
//! its wire is. Each vendor is once the one that dies and once the one that takes over.

use std::time::{Duration, Instant};

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::Format;
use serde_json::{Value, json};

use crate::Vendor;
use crate::harness::Daemon;
use crate::person::Person;

/// A kind of agent, and more of its configuration.
#[derive(Clone, Copy)]
struct Row {
    kind: VendorKind,
    more: &'static str,
}

/// Each is followed by the next one.
const RING: [Row; 8] = [
    Row { kind: VendorKind::Openai, more: "" },
    Row { kind: VendorKind::Elevenlabs, more: "agent_id = \"a\"\n" },
    Row { kind: VendorKind::Deepgram, more: "" },
    Row { kind: VendorKind::Gemini, more: "" },
    Row { kind: VendorKind::Pipecat, more: "" },
    Row { kind: VendorKind::Chat, more: "" },
    Row { kind: VendorKind::Live, more: "" },
    Row { kind: VendorKind::Pipecat, more: "protocol = \"rtvi\"\n" },
];

/// From the moment in which the failure is known to the next agent's first audio.
const MOST: Duration = Duration::from_secs(1);

fn table(name: &str, row: Row, url: &str) -> String {
    format!(
        "[agent.{name}]\nkind = \"{}\"\nurl = \"{url}\"\napi_key = \"${{env:TEST_KEY}}\"\n{}",
        row.kind.label(),
        row.more
    )
}

async fn daemon(route: &str, agents: &[(&str, Row, &Vendor)]) -> Daemon {
    let agents: String = agents.iter().map(|(name, row, vendor)| table(name, *row, &vendor.url)).collect();
    let config = format!("[[route]]\nname = \"all\"\n{route}{agents}");
    Daemon::start_with(Some(&config), &[("TEST_KEY", "secret")]).await
}

/// What the vendor was told, as text.
fn told(vendor: &Vendor, kind: VendorKind) -> String {
    let lines: Vec<Value> = match kind {
        VendorKind::Openai => vendor.heard("conversation.item.create"),
        VendorKind::Elevenlabs => vendor.heard("contextual_update"),
        VendorKind::Deepgram => vendor.heard("Settings"),
        VendorKind::Gemini => vendor.logged("/event", "message"),
        // Its frames may be binary.
        VendorKind::Pipecat => vendor.logged("/event", "text"),
        VendorKind::Live => [vendor.heard("session.start"), vendor.heard("session.commentary.append")].concat(),
        _ => vendor.logged("/event", "request"),
    };
    lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

/// That it was asked to go on, and not to greet.
fn assert_goes_on(vendor: &Vendor, kind: VendorKind) {
    let asked = match kind {
        VendorKind::Openai => vendor.heard("response.create"),
        VendorKind::Elevenlabs => {
            let opening = vendor.heard("conversation_initiation_client_data");
            assert_eq!(opening[0]["conversation_config_override"]["agent"]["first_message"], "", "it would greet");
            vendor.heard("user_message")
        }
        VendorKind::Deepgram => {
            assert!(vendor.heard("Settings")[0]["agent"]["greeting"].is_null(), "it would greet");
            vendor.heard("InjectUserMessage")
        }
        VendorKind::Gemini => vendor.logged("/event", "message"),
        VendorKind::Pipecat => vendor.logged("/event", "text"),
        VendorKind::Live => vendor.heard("session.commentary.append"),
        _ => vendor.logged("/event", "request"),
    };
    let asked: Vec<String> = asked.iter().map(Value::to_string).collect();
    let times = asked.iter().filter(|asked| asked.contains("Do not greet again")).count();
    assert!(times >= 1, "{}: {asked:?}", kind.label());
}

fn statuses(person: &Person) -> Vec<String> {
    person.said("agent").iter().filter_map(|agent| agent["status"].as_str()).map(str::to_owned).collect()
}

/// Turns that have begun since the message at `from`.
fn turns_since(person: &Person, from: usize) -> usize {
    let starts = |message: &&Value| message["type"] == "turn" && message["phase"] == "start";
    person.messages[from..].iter().filter(starts).count()
}

async fn write(person: &mut Person, id: &str, text: &str) {
    person.say(json!({ "type": "message", "id": id, "text": text })).await;
}

/// Speaks as fast as it is heard, so that a death in mid-answer is heard as one.
fn live(script: Script) -> Script {
    Script { pace: Some(1.0), answer_s: Some(4.0), ..script }
}

async fn one_dies_and_the_next_goes_on(dying: Row, next: Row) {
    let name = format!("{} dies, {} takes over", dying.kind.label(), next.kind.label());
    let close = (dying.kind != VendorKind::Chat).then_some(1500);
    let first = Vendor::start(dying.kind, None, live(Script { close_at_ms: close, ..Script::default() })).await;
    let second = Vendor::start(next.kind, None, live(Script::default())).await;
    let route = "to = \"first\"\nfallback = \"second\"\n";
    let daemon = daemon(route, &[("first", dying, &first), ("second", next, &second)]).await;
    let mut person = Person::call(&daemon, "first", Format::pcm16(16_000)).await;
    person.until("the first agent", |person| statuses(person).contains(&"ready".to_owned())).await;
    write(&mut person, "m1", "Tell me slowly how it began.").await;
    if dying.kind == VendorKind::Chat {
        person.until("some of the answer", |person| person.said("delta").len() >= 2).await;
        first.kill();
    }
    person.until("the failure", |person| statuses(person).iter().filter(|s| *s == "connecting").count() == 2).await;
    let (failed, from) = (Instant::now(), person.messages.len());
    match next.kind {
        VendorKind::Chat => person.until("the next one's text", |person| !person.said("message").is_empty()).await,
        _ => person.until("the next one's voice", |person| turns_since(person, from) == 1).await,
    }
    let took = failed.elapsed();
    assert!(took < MOST, "{name}: {took:?}");
    assert_eq!(statuses(&person).last().unwrap(), "fallback", "{name}");
    let said = told(&second, next.kind);
    assert!(said.contains("Tell me slowly how it began."), "{name}: {said}");
    let words = match (dying.kind, first.logged("/event", "speaking").pop()) {
        (VendorKind::Chat, _) | (_, None) => "you wrote:".to_owned(),
        (_, Some(answer)) => answer["text"]
            .as_str()
            .unwrap_or_default()
            .split_inclusive(' ')
            .take(3)
            .collect::<String>()
            .trim()
            .to_owned(),
    };
    // What a chat model has begun to write and not ended is no part of the conversation.
    assert!(said.contains(&words) || dying.kind == VendorKind::Chat, "{name}: {said}");
    // What a chat model has not answered to its end is asked anew.
    if dying.kind != VendorKind::Chat {
        assert_goes_on(&second, next.kind);
    }
    let spoken = || second.logged("/event", "speaking").len();
    let (written, before) = (person.said("message").len(), spoken());
    write(&mut person, "m2", "And then?").await;
    if next.kind == VendorKind::Chat {
        person.until("an answer to the next question", |person| person.said("message").len() > written).await;
    } else {
        // It may cut off the answer before, of which it then is the rest.
        person.until("the next question at the next one", |_| spoken() > before).await;
        let received = person.received_ms();
        person.until("an answer to the next question", |person| person.received_ms() > received + 200.0).await;
    }
    assert!(person.said("error").is_empty() && person.said("ended").is_empty(), "{name}: {:?}", person.messages);
    let hidden = person.said("transcript").iter().all(|line| !line["text"].to_string().contains("Do not greet"));
    assert!(hidden, "{name}: what it was asked for is no part of the conversation");
    write_end(&mut person).await;
    let record = daemon.call_record().await;
    assert_eq!((&record["failovers"], &record["dials"]), (&json!(1), &json!(2)), "{name}: {record}");
    let reason = record["agents"][0]["ended"].as_str().unwrap_or_default().split(':').next().unwrap_or_default();
    let labels = format!("agent=\"second\",reason=\"{reason}\"");
    assert!(daemon.metric("antiphon_fallbacks_total", &labels).await >= 1.0, "{name}: {record}");
}

async fn write_end(person: &mut Person) {
    person.say(json!({ "type": "end" })).await;
    person.until("the end", |_| false).await;
    assert_eq!(person.said("ended")[0]["reason"], "client_hangup");
}

#[tokio::test]
async fn whoever_dies_in_mid_answer_is_followed_by_whoever_comes_next_within_a_second() {
    let pairs: Vec<_> = (0..RING.len()).map(|at| (RING[at], RING[(at + 1) % RING.len()])).collect();
    // Two at a time: callers that come too late prove nothing.
    for pairs in pairs.chunks(2) {
        let calls = pairs.iter().map(|(dying, next)| one_dies_and_the_next_goes_on(*dying, *next));
        futures_util::future::join_all(calls).await;
    }
}

#[tokio::test]
async fn whoever_refuses_the_call_costs_no_greeting_and_no_message() {
    for (at, row) in RING.into_iter().enumerate().filter(|(_, row)| row.kind != VendorKind::Chat) {
        let next = RING[(at + 2) % RING.len()];
        let first = Vendor::start(row.kind, None, Script { refuse: Some(503), ..Script::default() }).await;
        let second = Vendor::start(next.kind, None, live(Script::default())).await;
        let daemon =
            daemon("to = \"first\"\nfallback = \"second\"\n", &[("first", row, &first), ("second", next, &second)])
                .await;
        let mut person = Person::call(&daemon, "first", Format::pcm16(16_000)).await;
        write(&mut person, "m1", "Are you there?").await;
        let asked = || {
            let more = [second.heard("InjectUserMessage"), second.heard("user_message")].concat();
            more.iter().map(Value::to_string).fold(told(&second, next.kind), |all, line| all + &line)
        };
        person.until("the message at the next one", |_| asked().contains("Are you there?")).await;
        person.until("an answer", |p| turns_since(p, 0) >= 1 || !p.said("message").is_empty()).await;
        let asked = asked();
        assert_eq!(asked.matches("Are you there?").count(), 1, "{}: {asked}", next.kind.label());
        assert!(!asked.contains("Do not greet"), "{}: {asked}", next.kind.label());
        write_end(&mut person).await;
    }
}

#[tokio::test]
async fn whoever_falls_silent_is_given_up_in_the_routes_time() {
    let rows = RING.into_iter().filter(|row| row.kind != VendorKind::Chat);
    let calls = rows.map(|row| async move {
        let first = Vendor::start(row.kind, None, Script { silent: true, ..Script::default() }).await;
        let next = RING[0];
        let second = Vendor::start(next.kind, None, live(Script::default())).await;
        let route = "to = \"first\"\nfallback = \"second\"\nanswer_within_ms = 800\n";
        let daemon = daemon(route, &[("first", row, &first), ("second", next, &second)]).await;
        let mut person = Person::call(&daemon, "first", Format::pcm16(16_000)).await;
        person.until("the first agent", |person| statuses(person).contains(&"ready".to_owned())).await;
        write(&mut person, "m1", "Are you there?").await;
        person.until("an answer", |person| turns_since(person, 0) >= 1).await;
        write_end(&mut person).await;
        let record = daemon.call_record().await;
        assert_eq!((&record["stalls"], &record["failovers"]), (&json!(1), &json!(1)), "{}: {record}", row.kind.label());
        assert!(daemon.metric("antiphon_upstream_failures_total", "agent=\"first\",class=\"stalled\"").await >= 1.0);
        assert!(daemon.metric("antiphon_upstream_attempts_total", "result=\"unanswered\"").await >= 1.0);
    });
    futures_util::future::join_all(calls).await;
}

/// A conversation without a pause over several sessions of the same vendor, each of which ends after 5 s.
async fn talks_on_over_the_cap(row: Row) {
    let name = row.kind.label();
    // A whole answer comes at once, and is heard for some two seconds.
    let plays = Script { pace: Some(0.0), answer_s: Some(1.5), expire_s: Some(6.0), ..Script::default() };
    let plays = Script { go_away_s: (row.kind == VendorKind::Gemini).then_some(4.0), ..plays };
    let vendor = Vendor::start(row.kind, None, plays).await;
    let agent = Row { more: Box::leak(format!("{}session_max_s = 5\n", row.more).into_boxed_str()), ..row };
    let daemon = daemon("to = \"first\"\n", &[("first", agent, &vendor)]).await;
    let format = Format::pcm16(16_000);
    let mut person = Person::call(&daemon, "first", format).await;
    person.until("the agent", |person| statuses(person).contains(&"ready".to_owned())).await;
    write(&mut person, "q0", "Question 0?").await;
    person.until("the first answer", |person| person.played_ms() > 0.0).await;
    let began = Instant::now();
    let (mut asked, mut stalled) = (1, Duration::ZERO);
    let mut last = Instant::now();
    while began.elapsed() < Duration::from_secs(13) {
        let until = Instant::now() + Duration::from_millis(20);
        person.until("time", |_| Instant::now() >= until).await;
        // What this machine itself was late counts for nobody.
        stalled += last.elapsed().saturating_sub(Duration::from_millis(60));
        last = Instant::now();
        // The next answer is there before the one before has been heard.
        if person.buffered_ms() < 900.0 && person.said("turn").iter().filter(|t| t["phase"] == "start").count() >= asked
        {
            write(&mut person, &format!("q{asked}"), &format!("Question {asked}?")).await;
            asked += 1;
        }
    }
    let (elapsed, played) = (began.elapsed(), Duration::from_secs_f64(person.played_ms() / 1000.0));
    let gap = elapsed.saturating_sub(played).saturating_sub(stalled);
    let rollovers = daemon.metric("antiphon_rollovers_total", "agent=\"first\"").await;
    assert!(rollovers >= 2.0, "{name}: {rollovers} rollovers");
    assert!(gap <= Duration::from_millis(60), "{name}: silent for {gap:?} of {elapsed:?}, {rollovers} rollovers");
    assert!(person.said("error").is_empty(), "{name}: {:?}", person.said("error"));
    write_end(&mut person).await;
    // Every question was answered once, and no session but the first one began the conversation.
    let answers = person.said("turn").iter().filter(|turn| turn["phase"] == "start").count();
    assert!(answers.abs_diff(asked) <= 1, "{name}: {answers} answers to {asked} questions");
    let record = daemon.call_record().await;
    assert_eq!(record["rollovers"], json!(rollovers as u64), "{name}: {record}");
    assert_eq!((&record["failovers"], &record["down_ms"]), (&json!(0), &json!(0)), "{name}: {record}");
}

#[tokio::test]
async fn sessions_that_end_after_five_seconds_are_followed_without_a_gap_in_a_conversation_without_a_pause() {
    let rows = [VendorKind::Openai, VendorKind::Deepgram, VendorKind::Gemini];
    futures_util::future::join_all(rows.map(|kind| talks_on_over_the_cap(Row { kind, more: "" }))).await;
}
