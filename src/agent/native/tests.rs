use std::collections::BTreeMap;

use bytes::BytesMut;
use serde_json::json;

use super::*;
use crate::config::settings::{AgentKind, AgentSettings, QuicAgent, WebsocketProtocol};
use crate::dialect::native::{Native, codec};
use crate::dialect::{Dialect, Heard as Said};
use crate::ids::{CallId, Generation, ItemId, Seq, TurnId};
use crate::media::rtp::Header;
use crate::message::*;

const RATE: u32 = 24_000;
/// Whether an event is the right one.
type Expected = fn(&FromAgent) -> bool;

const T0: Micros = Micros(1_000_000);

fn settings(protocol: WebsocketProtocol) -> WebsocketAgent {
    WebsocketAgent {
        url: "ws://127.0.0.1:9/agent".parse().unwrap(),
        headers: Vec::new(),
        protocol,
        uplink: Format::pcm16(16_000),
        downlink: Format::pcm16(RATE),
        connect_timeout: Duration::from_secs(5),
        authorities: None,
    }
}

fn agent_start() -> AgentStart {
    AgentStart {
        setup: Setup { instructions: Some("Be kind.".into()), ..Setup::default() },
        context: Vec::new(),
        session_id: "s-1".into(),
        conversation_id: "c-7".into(),
        client_context: Some(json!({"first_name": "Ada"})),
        metadata: Some(json!({"ticket": 1})),
        greet: true,
        client: None,
    }
}

fn connected() -> NativeAgent {
    let mut agent = NativeAgent::new(&settings(WebsocketProtocol::Native), Value::Null);
    agent.handle_open(T0);
    agent.handle_session(ToAgent::Start(agent_start()), T0);
    texts(&mut agent);
    agent
}

fn ready() -> NativeAgent {
    let mut agent = connected();
    assert!(matches!(heard(&mut agent, r#"{"type":"started"}"#)[..], [FromAgent::Ready(_)]));
    agent
}

/// What the agent has put on the wire; it must have said nothing to the session.
fn texts(agent: &mut NativeAgent) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        match agent.poll(T0) {
            AgentOutput::Wire(Wire::Text(text)) => texts.push(text),
            AgentOutput::Idle { .. } => return texts,
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// What the session hears; nothing may have gone to the wire.
fn events(agent: &mut NativeAgent) -> Vec<FromAgent> {
    let mut events = Vec::new();
    loop {
        match agent.poll(T0) {
            AgentOutput::Event(event) => events.push(event),
            AgentOutput::Idle { .. } => return events,
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn heard(agent: &mut NativeAgent, text: &str) -> Vec<FromAgent> {
    agent.handle_wire(Wire::Text(text.to_owned()), T0);
    events(agent)
}

fn audio(agent: &mut NativeAgent, ms: usize) -> Vec<FromAgent> {
    agent.handle_wire(Wire::Binary(vec![0; ms * RATE as usize / 1000 * 2].into()), T0);
    events(agent)
}

fn said(agent: &mut NativeAgent, message: ToAgent) -> Vec<String> {
    agent.handle_session(message, T0);
    texts(agent)
}

fn truncate(item: Option<&str>, heard_ms: u64) -> ToAgent {
    ToAgent::Truncate(Truncate {
        turn: TurnId(99),
        item: item.map(ItemId::from),
        heard: Duration::from_millis(heard_ms),
        of: Duration::from_secs(2),
        basis: Basis::Reported,
        error: Duration::ZERO,
    })
}

fn playout(played_ms: u64, flush: Option<u32>) -> ToAgent {
    ToAgent::Playout(AgentPlayout {
        played: Duration::from_millis(played_ms),
        buffered: Duration::from_millis(30),
        flush: flush.map(FlushId),
    })
}

#[test]
fn a_server_is_asked_for_manual_turns_where_the_relay_decides_on_them() {
    let mut agent = NativeAgent::new(&settings(WebsocketProtocol::Native), Value::Null);
    let mut start = agent_start();
    start.setup.turns = serde_json::from_value(json!({"detect": "relay"})).unwrap();
    let opening: Value = serde_json::from_str(&said(&mut agent, ToAgent::Start(start))[0]).unwrap();
    assert_eq!(opening["setup"]["turns"], json!({"detect": "manual"}));
}

#[test]
fn the_opening_carries_formats_setup_history_and_the_vendor_table() {
    let vendor = json!({"metadata": {"tier": "gold"}, "setup": {"mood": "calm"}});
    let mut agent = NativeAgent::new(&settings(WebsocketProtocol::Native), vendor);
    let context = vec![ContextItem { role: Role::User, text: "Hello?".into() }];
    let start = AgentStart { context, greet: false, ..agent_start() };
    let opening: Value = serde_json::from_str(&said(&mut agent, ToAgent::Start(start))[0]).unwrap();
    assert_eq!(
        opening,
        json!({
            "type": "start",
            "conversation_id": "c-7",
            "session_id": "s-1",
            "audio": {
                "in": {"codec": "pcm16", "rate": 16000, "channels": 1},
                "out": {"codec": "pcm16", "rate": 24000, "channels": 1},
            },
            "context": {"first_name": "Ada"},
            "metadata": {"ticket": 1, "tier": "gold"},
            "setup": {"instructions": "Be kind.", "greeting": "none", "mood": "calm"},
            "history": [{"role": "user", "text": "Hello?"}],
        })
    );
}

#[test]
fn a_long_history_loses_its_oldest_part_so_that_the_start_fits() {
    let context: Vec<ContextItem> =
        (0..100).map(|n| ContextItem { role: Role::Agent, text: format!("{n} {}", "x".repeat(2000)) }).collect();
    let mut agent = NativeAgent::new(&settings(WebsocketProtocol::Native), Value::Null);
    let opening = said(&mut agent, ToAgent::Start(AgentStart { context, ..agent_start() })).remove(0);
    assert!(opening.len() <= codec::MAX_CONTROL_BYTES && opening.len() > 50_000, "{}", opening.len());
    let opening: Value = serde_json::from_str(&opening).unwrap();
    let last = opening["history"].as_array().unwrap().last().unwrap();
    assert!(last["text"].as_str().unwrap().starts_with("99 "));
}

#[test]
fn started_makes_it_ready_with_the_servers_formats_or_the_asked_ones() {
    let mut agent = connected();
    let events = heard(&mut agent, r#"{"type":"started","agent":{"name":"x","delay_ms":250}}"#);
    let [FromAgent::Ready(ready)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((ready.uplink, ready.downlink), (Format::pcm16(16_000), Format::pcm16(RATE)));
    assert_eq!(ready.delay, Some(Duration::from_millis(250)));

    let audio = r#"{"in":{"codec":"opus","rate":48000},"out":{"codec":"pcmu","rate":8000}}"#;
    let events = heard(&mut connected(), &format!(r#"{{"type":"started","audio":{audio}}}"#));
    let [FromAgent::Ready(ready)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((ready.uplink, ready.downlink), (Format::OPUS, Format::PCMU));

    let audio = r#"{"in":{"codec":"opus","rate":44100},"out":{"codec":"pcmu","rate":8000}}"#;
    let events = heard(&mut connected(), &format!(r#"{{"type":"started","audio":{audio}}}"#));
    let [FromAgent::Ended(AgentEnd { failure: Some(failure) })] = &events[..] else { panic!("{events:?}") };
    assert_eq!(failure.class, FailureClass::Protocol);
}

#[test]
fn turns_begin_once_and_repeat_after_a_gap_without_an_event() {
    let mut agent = ready();
    let start = r#"{"type":"turn","turn":3,"item":"a-1","phase":"start"}"#;
    assert!(matches!(&heard(&mut agent, start)[..], [FromAgent::TurnStarted(Some(item))] if item.as_str() == "a-1"));
    let events = audio(&mut agent, 20);
    let [FromAgent::Audio(frame)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((frame.item.as_ref().map(|item| item.as_str()), frame.arrival), (Some("a-1"), T0));
    assert!(heard(&mut agent, start).is_empty());
    let end = r#"{"type":"turn","turn":3,"phase":"end"}"#;
    assert!(matches!(heard(&mut agent, end)[..], [FromAgent::TurnEnded]));
    assert!(heard(&mut agent, end).is_empty());
}

#[test]
fn a_turn_without_an_item_gets_one_that_its_text_shares() {
    let mut agent = ready();
    let events = heard(&mut agent, r#"{"type":"turn","turn":3,"phase":"start"}"#);
    assert!(matches!(&events[..], [FromAgent::TurnStarted(Some(item))] if item.as_str() == "turn-3"));
    let mut item_of = |text: &str| match &heard(&mut agent, text)[..] {
        [FromAgent::Transcript(transcript)] => transcript.item.as_ref().map(ToString::to_string),
        other => panic!("{other:?}"),
    };
    let text = |item: &str, role: &str| {
        format!(r#"{{"type":"transcript","turn":3,"item":"{item}","role":"{role}","text":"x"}}"#)
    };
    assert_eq!(item_of(&text("i-8", "agent")).as_deref(), Some("turn-3"));
    assert_eq!(item_of(&text("i-9", "agent")).as_deref(), Some("i-9"));
    assert_eq!(item_of(&text("i-8", "agent")).as_deref(), Some("turn-3"));
    assert_eq!(item_of(&text("i-8", "user")).as_deref(), Some("i-8"));
}

#[test]
fn an_answer_that_goes_on_after_a_flush_is_a_new_one() {
    let mut agent = ready();
    let start = r#"{"type":"turn","turn":3,"item":"a-1","phase":"start"}"#;
    heard(&mut agent, start);
    audio(&mut agent, 20);
    let events = heard(&mut agent, r#"{"type":"flush","id":1,"turn":3,"valid_from":480}"#);
    assert!(matches!(events[..], [FromAgent::Interrupted, FromAgent::TurnEnded]));
    assert!(matches!(heard(&mut agent, start)[..], [FromAgent::TurnStarted(None)]));
    let events = audio(&mut agent, 20);
    assert!(matches!(&events[..], [FromAgent::Audio(audio)] if audio.item.is_none()), "{events:?}");
    assert_eq!(said(&mut agent, ToAgent::Cancel(TurnId(2))), [r#"{"type":"interrupt","turn":3}"#]);
}

#[test]
fn an_interruption_by_the_caller_names_the_servers_turn_and_the_heard_position() {
    let mut agent = ready();
    audio(&mut agent, 100);
    heard(&mut agent, r#"{"type":"turn","turn":7,"item":"a-2","phase":"start","pos":2400}"#);
    audio(&mut agent, 400);
    assert_eq!(said(&mut agent, ToAgent::Cancel(TurnId(2))), [r#"{"type":"interrupt","turn":7}"#]);
    assert_eq!(said(&mut agent, truncate(Some("a-2"), 50)), [r#"{"type":"interrupt","turn":7,"pos":3600}"#]);
    assert!(said(&mut agent, truncate(Some("unknown"), 50)).is_empty());
}

#[test]
fn an_interruption_without_turns_counts_from_where_the_audio_began() {
    let mut agent = ready();
    audio(&mut agent, 100);
    assert_eq!(said(&mut agent, truncate(None, 50)), [r#"{"type":"interrupt","pos":1200}"#]);
    agent.handle_wire(Wire::Text(r#"{"type":"flush","id":1}"#.into()), T0);
    assert!(matches!(agent.poll(T0), AgentOutput::Event(FromAgent::Interrupted)));
    assert!(matches!(agent.poll(T0), AgentOutput::Event(FromAgent::TurnEnded)));
    assert_eq!(texts(&mut agent), [r#"{"type":"playout","pos":1200,"buffered_ms":0,"flush":1}"#]);
}

#[test]
fn a_flush_is_answered_with_the_figure_that_the_session_finds() {
    let mut agent = ready();
    heard(&mut agent, r#"{"type":"turn","turn":1,"phase":"start"}"#);
    audio(&mut agent, 400);
    assert_eq!(said(&mut agent, playout(20, None)), [r#"{"type":"playout","pos":480,"buffered_ms":30}"#]);
    assert!(matches!(heard(&mut agent, r#"{"type":"flush","id":5,"turn":1}"#)[..], [FromAgent::Interrupted, _]));
    assert_eq!(said(&mut agent, playout(60, None)), [r#"{"type":"playout","pos":1440,"buffered_ms":30}"#]);
    assert_eq!(said(&mut agent, playout(80, Some(9))), [r#"{"type":"playout","pos":1920,"buffered_ms":30,"flush":5}"#]);
    assert!(matches!(agent.poll(T0), AgentOutput::Idle { deadline: None }));
}

#[test]
fn a_truncation_answers_the_flush_too_whichever_comes_first() {
    let turn = r#"{"type":"turn","turn":1,"item":"a","phase":"start"}"#;
    let mut agent = ready();
    heard(&mut agent, turn);
    audio(&mut agent, 400);
    heard(&mut agent, r#"{"type":"flush","id":5,"turn":1}"#);
    assert_eq!(
        said(&mut agent, truncate(Some("a"), 100)),
        [r#"{"type":"playout","pos":2400,"buffered_ms":0,"flush":5}"#]
    );

    let mut agent = ready();
    heard(&mut agent, turn);
    audio(&mut agent, 400);
    assert_eq!(said(&mut agent, truncate(Some("a"), 100)), [r#"{"type":"interrupt","turn":1,"pos":2400}"#]);
    agent.handle_wire(Wire::Text(r#"{"type":"flush","id":6,"turn":1}"#.into()), T0);
    assert!(matches!(agent.poll(T0), AgentOutput::Event(FromAgent::Interrupted)));
    assert!(matches!(agent.poll(T0), AgentOutput::Event(FromAgent::TurnEnded)));
    assert_eq!(texts(&mut agent), [r#"{"type":"playout","pos":2400,"buffered_ms":0,"flush":6}"#]);
}

#[test]
fn a_flush_without_a_figure_is_answered_with_the_last_known_one_in_time() {
    let mut agent = ready();
    audio(&mut agent, 400);
    said(&mut agent, playout(40, None));
    heard(&mut agent, r#"{"type":"flush","id":5}"#);
    let AgentOutput::Idle { deadline: Some(deadline) } = agent.poll(T0) else { panic!("no deadline") };
    agent.handle_deadline(T0);
    assert!(texts(&mut agent).is_empty());
    agent.handle_deadline(deadline);
    assert_eq!(texts(&mut agent), [r#"{"type":"playout","pos":960,"buffered_ms":0,"flush":5}"#]);
    assert!(deadline.since(T0) <= Duration::from_millis(500));
}

#[test]
fn positions_are_exact_to_the_sample_and_wrap() {
    for (format, ticks) in [(Format::OPUS, 960_001u64), (Format::pcm16(44_100), 12_345_677), (Format::PCMU, 1)] {
        assert_eq!(super::ticks(&format, format.ticks_to_time(ticks)), ticks, "{format}");
    }
    let mut agent = ready();
    let day = Duration::from_secs(2 * 24 * 3600);
    let played = AgentPlayout { played: day, buffered: Duration::ZERO, flush: None };
    let pos = (day.as_secs() * u64::from(RATE)) as u32;
    let expected = format!(r#"{{"type":"playout","pos":{pos},"buffered_ms":0}}"#);
    assert_eq!(said(&mut agent, ToAgent::Playout(played)), [expected]);
}

#[test]
fn audio_to_the_agent_keeps_its_bytes_and_its_instant() {
    let mut agent = ready();
    let payload = Bytes::from_static(&[1, 2, 3, 4]);
    let frame = AgentAudioOut { pos: 0, ticks: 2, ready: Micros(77), filled: false, payload: payload.clone() };
    agent.handle_session(ToAgent::Audio(frame), T0);
    let AgentOutput::Audio { wire: Wire::Binary(sent), ready } = agent.poll(T0) else { panic!("no audio") };
    assert_eq!((sent.as_ptr(), ready), (payload.as_ptr(), Micros(77)));
}

#[test]
fn audio_that_is_not_the_format_is_dropped_and_told_once() {
    let mut agent = ready();
    agent.handle_wire(Wire::Binary(vec![0; 3].into()), T0);
    agent.handle_wire(Wire::Binary(vec![0; 5].into()), T0);
    let events = events(&mut agent);
    let [FromAgent::Error(error)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((error.class, error.code.as_deref()), (FailureClass::Protocol, Some("bad_audio")));
    assert!(matches!(audio(&mut agent, 20)[..], [FromAgent::Audio(_)]));
}

#[test]
fn audio_that_waits_behind_a_gap_when_the_session_ends_is_not_told_after_the_end() {
    let settings = QuicAgent {
        url: "quic://127.0.0.1:9".parse().unwrap(),
        uplink: Format::OPUS,
        downlink: Format::OPUS,
        connect_timeout: Duration::from_secs(5),
        authorities: None,
        sessions_per_connection: 1,
    };
    let mut agent = NativeAgent::over_quic(&settings, Value::Null, 7);
    agent.handle_open(T0);
    said(&mut agent, ToAgent::Start(agent_start()));
    heard(&mut agent, r#"{"type":"started"}"#);
    let mut told = heard(&mut agent, r#"{"type":"turn","turn":1,"phase":"start","pos":960}"#);
    let mut packet = |seq: u16| {
        let header = Header { marker: false, payload_type: 111, seq, timestamp: u32::from(seq) * 960, ssrc: 9 };
        let mut bytes = BytesMut::new();
        header.write(&mut bytes);
        bytes.extend_from_slice(&[0xf8, 1, 2, 3]);
        agent.handle_wire(Wire::Binary(bytes.freeze()), T0);
        events(&mut agent)
    };
    told.extend(packet(1));
    assert!(matches!(told[..], [FromAgent::TurnStarted(_), FromAgent::Audio(_)]), "{told:?}");
    assert!(packet(3).is_empty(), "it waits for the second");
    agent.handle_wire(Wire::Close(1006, String::new()), T0);
    assert!(matches!(events(&mut agent)[..], [FromAgent::Ended(_)]));
    agent.handle_deadline(T0 + Duration::from_secs(10));
    assert!(events(&mut agent).is_empty());
}

#[test]
fn whatever_an_antiphon_says_is_understood() {
    let error = Error { retryable: true, ..Error::new(ErrorCode::RateLimited, "slower") };
    let transcript = Transcript {
        item: "u-1".into(),
        turn: TurnId(0),
        role: Role::User,
        text: Some("Hi".into()),
        is_final: true,
        start_ms: 0,
        end_ms: None,
        heard: None,
        cut: None,
    };
    let text = TextMessage { id: "m".into(), text: "Hi".into(), role: None };
    let call = ToolCall { call_id: "k".into(), name: "f".into(), arguments: "{}".into() };
    let cancelled = ToolStatus { call_id: "k".into(), name: "f".into(), status: "cancelled".into() };
    let usage = Usage { turn: TurnId(1), amounts: BTreeMap::from([("minutes".to_owned(), 0.5)]) };
    let processing = StateChange { from: State::Listening, to: State::Processing };
    let down = AgentState { status: AgentStatus::Down, name: None, reason: Some("gone".into()), retry_after_ms: None };
    let cases: Vec<(ToClient, Expected)> = vec![
        (ToClient::Transcript(transcript), |e| matches!(e, FromAgent::Transcript(t) if t.is_final && t.text == "Hi")),
        (ToClient::Delta(Delta { message_id: "m".into(), text: "H".into() }), |e| matches!(e, FromAgent::Delta(_))),
        (ToClient::Message(text), |e| matches!(e, FromAgent::Message(_))),
        (ToClient::Typing(Typing { on: true, who: Some(Role::Agent) }), |e| matches!(e, FromAgent::Typing(true))),
        (ToClient::Speech(Speech { who: Role::User, event: SpeechEvent::Started }), |e| {
            matches!(e, FromAgent::Speech(SpeechEvent::Started))
        }),
        (ToClient::State(processing), |e| matches!(e, FromAgent::Thinking)),
        (ToClient::ToolCall(call), |e| matches!(e, FromAgent::ToolCall(_))),
        (ToClient::Tool(cancelled), |e| matches!(e, FromAgent::ToolCancelled(c) if c == &[CallId::from("k")])),
        (ToClient::Usage(usage), |e| matches!(e, FromAgent::Usage(u) if u.amounts["minutes"] == 0.5)),
        (ToClient::App(App { name: "a".into(), data: Value::Null }), |e| matches!(e, FromAgent::App(_))),
        (ToClient::Alert(Alert { name: "a".into(), severity: "info".into(), data: Value::Null }), |e| {
            matches!(e, FromAgent::Alert(_))
        }),
        (ToClient::Agent(down), |e| matches!(e, FromAgent::Error(e) if e.class == FailureClass::Unreachable)),
        (
            ToClient::Draining(Draining { reconnect_after_ms: 1, deadline_ms: 30 }),
            |e| matches!(e, FromAgent::GoAway(span) if *span == Duration::from_millis(30)),
        ),
        (ToClient::Ending(Ending { reason: CloseReason::Idle, in_ms: 15 }), |e| matches!(e, FromAgent::GoAway(_))),
        (ToClient::Error(error), |e| matches!(e, FromAgent::Error(e) if e.class == FailureClass::Limit)),
    ];
    let mut server = Native::new();
    let mut agent = ready();
    for (message, expected) in cases {
        let Some(Wire::Text(text)) = server.encode(Some(Seq(1)), &message) else { panic!("{message:?} has no text") };
        let events = heard(&mut agent, &text);
        assert!(matches!(&events[..], [event] if expected(event)), "{text} was heard as {events:?}");
    }
    assert_eq!(agent.ignored(), 0);
}

#[test]
fn whatever_a_session_says_is_understood_by_an_antiphon() {
    let text = TextMessage { id: "m".into(), text: "Hi".into(), role: None };
    let result = ToolResult { call_id: "k".into(), output: "{}".into(), is_error: true };
    let mut server = Native::new();
    let mut agent = NativeAgent::new(&settings(WebsocketProtocol::Native), Value::Null);
    for (message, kind) in [
        (ToAgent::Start(agent_start()), "Start"),
        (ToAgent::Message(text), "Message"),
        (ToAgent::Typing(Typing { on: true, who: None }), "Typing"),
        (ToAgent::Input(Input { action: InputAction::Commit }), "Input"),
        (ToAgent::Dtmf(Dtmf { digits: "1".into() }), "Dtmf"),
        (ToAgent::Cancel(TurnId(1)), "Interrupt"),
        (ToAgent::ToolResult(result), "ToolResult"),
        (ToAgent::App(App { name: "a".into(), data: json!(1) }), "App"),
        (ToAgent::Update(Setup::default()), "Update"),
        (ToAgent::History(vec![ContextItem { role: Role::User, text: "Hi".into() }]), "History"),
        (playout(20, None), "Playout"),
        (ToAgent::End, "End"),
    ] {
        for text in said(&mut agent, message) {
            match server.handle_wire(Wire::Text(text), T0) {
                Some(Said::Start(start)) => assert_eq!((kind, start.session_id), ("Start", Some("s-1".into()))),
                Some(Said::Message(heard)) => assert!(format!("{heard:?}").starts_with(kind), "{kind}: {heard:?}"),
                other => panic!("{kind} was heard as {other:?}"),
            }
        }
    }
    assert_eq!(server.take_ignored_fields(), 0);
}

#[test]
fn the_end_has_a_class_when_it_is_not_a_normal_one() {
    let class_of = |wire: Wire, mut agent: NativeAgent| {
        agent.handle_wire(wire, T0);
        match &events(&mut agent)[..] {
            [FromAgent::Ended(end)] => end.failure.as_ref().map(|failure| failure.class),
            other => panic!("{other:?}"),
        }
    };
    let ended = |reason: &str| Wire::Text(format!(r#"{{"type":"ended","reason":"{reason}"}}"#));
    assert_eq!(class_of(ended("agent_hangup"), ready()), None);
    assert_eq!(class_of(ended("later_reason"), ready()), None);
    assert_eq!(class_of(ended("max_duration"), ready()), Some(FailureClass::Expired));
    assert_eq!(class_of(ended("overload"), ready()), Some(FailureClass::Limit));
    let close = |code: u16| Wire::Close(code, String::new());
    assert_eq!(class_of(close(1000), ready()), None);
    assert_eq!(class_of(close(1000), connected()), Some(FailureClass::Protocol));
    assert_eq!(class_of(close(4401), connected()), Some(FailureClass::Auth));
    assert_eq!(class_of(close(1006), ready()), Some(FailureClass::Lost));
}

#[test]
fn nothing_follows_the_end() {
    let mut agent = ready();
    heard(&mut agent, r#"{"type":"ended"}"#);
    assert!(audio(&mut agent, 20).is_empty());
    agent.handle_wire(Wire::Close(1006, String::new()), T0);
    assert!(events(&mut agent).is_empty());
}

#[test]
fn a_newer_server_is_understood_as_far_as_it_goes() {
    let mut agent = ready();
    assert!(heard(&mut agent, r#"{"type":"hologram","x":1}"#).is_empty());
    assert!(heard(&mut agent, r#"{"type":"agent","status":"dreaming"}"#).is_empty());
    let events = heard(&mut agent, r#"{"type":"error","code":"too_hot","message":"ouch"}"#);
    assert!(matches!(&events[..], [FromAgent::Error(error)] if error.class == FailureClass::Internal));
    assert_eq!(agent.ignored(), 2);
    let events = heard(&mut agent, r#"{"type":"speech","who":"user"}"#);
    assert!(matches!(&events[..], [FromAgent::Error(error)] if error.class == FailureClass::Protocol));
    agent.handle_wire(Wire::Text(r#"{"type":"ping","t":9}"#.into()), T0);
    assert_eq!(texts(&mut agent), [r#"{"type":"pong","t":9}"#]);
}

#[test]
fn build_makes_websocket_agents_and_explains_what_it_cannot_make() {
    let build = |kind: AgentKind| crate::agent::build(&AgentSettings::example(kind), &Setup::default(), 1);
    let agent = build(AgentKind::Websocket(settings(WebsocketProtocol::Native))).unwrap();
    assert_eq!(agent.endpoint().unwrap().subprotocols, ["antiphon.v1"]);
    assert!(agent.capabilities().playout);
    let plain = WebsocketProtocol::Plain { start: true };
    let agent = build(AgentKind::Websocket(settings(plain))).unwrap();
    assert!(agent.endpoint().unwrap().subprotocols.is_empty());

    let http = WebsocketAgent { url: "http://x/".parse().unwrap(), ..settings(plain) };
    let odd = WebsocketAgent { uplink: Format::pcm16(11_025), ..settings(plain) };
    for (kind, part) in [
        (AgentKind::Websocket(http), "http"),
        (AgentKind::Websocket(odd), "11025"),
        (AgentKind::NotBuilt { kind: "gemini".into() }, "gemini"),
    ] {
        let Err(error) = build(kind) else { panic!("{part} was built") };
        assert!(error.to_string().contains("jung") && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn generations_of_the_server_do_not_matter() {
    let mut agent = ready();
    let turn = Turn { turn: TurnId(1), generation: Generation(8), item: None, phase: TurnPhase::Start, pos: 0 };
    let text = codec::encode_to_client(None, &ToClient::Turn(turn)).unwrap();
    assert!(matches!(heard(&mut agent, &text)[..], [FromAgent::TurnStarted(_)]));
}
