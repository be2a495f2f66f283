//! One message of each type, both directions, byte for byte.

use serde_json::json;

use crate::agent::Wire;
use crate::dialect::native::Native;
use crate::dialect::native::codec::{self, ClientMessage, Decoded};
use crate::dialect::{Dialect, Heard as Said};
use crate::ids::{FlushId, Generation, Seq, TurnId};
use crate::media::format::Format;
use crate::message::*;
use crate::time::Micros;

pub(super) const FROM_CLIENT: &str = include_str!("../../fixtures/native/from_client.jsonl");
pub(super) const TO_CLIENT: &str = include_str!("../../fixtures/native/to_client.jsonl");

const AUDIO: AudioFormats = AudioFormats { uplink: Format::OPUS, downlink: Format::pcm16(24_000), flow: None };

fn start() -> Start {
    Start {
        agent: Some("jung".into()),
        conversation_id: Some("c-7".into()),
        audio: Some(AUDIO),
        context: Some(json!({"first_name": "Ada"})),
        metadata: Some(json!({"ticket": 4711})),
        setup: Some(Setup { voice: Some("cedar".into()), language: Some("en".into()), ..Setup::default() }),
        history: vec![ContextItem { role: Role::User, text: "Hello?".into() }],
        session_id: Some("s-1".into()),
        ..Start::default()
    }
}

/// In the order of the fixture, which begins with `start`.
fn from_client() -> Vec<FromClient> {
    let text = TextMessage { id: "m-1".into(), text: "Where is my order?".into(), role: None };
    let spoken = Transcript {
        item: "u-1".into(),
        turn: TurnId(0),
        role: Role::User,
        text: Some("Where is my order?".into()),
        is_final: true,
        start_ms: 1200,
        end_ms: Some(2600),
        heard: None,
        cut: None,
    };
    let output = r#"{"status":"shipped"}"#.into();
    let brief = Setup { instructions: Some("Be brief.".into()), ..Setup::default() };
    vec![
        FromClient::Message(text),
        FromClient::Typing(Typing { on: true, who: None }),
        FromClient::Interrupt(Interrupt { turn: Some(TurnId(3)), pos: Some(72_000), action: None }),
        FromClient::Input(Input { action: InputAction::Commit }),
        FromClient::Mic(Mic { on: false }),
        FromClient::Dtmf(Dtmf { digits: "42#".into() }),
        FromClient::Playout(Playout { pos: 72_000, buffered_ms: 180, flush: Some(FlushId(2)) }),
        FromClient::State(SetState { to: State::Listening }),
        FromClient::Transcript(spoken),
        FromClient::ToolResult(ToolResult { call_id: "call-1".into(), output, is_error: false }),
        FromClient::Consent(Consent { recording: Granted::Granted }),
        FromClient::App(App { name: "cart".into(), data: json!({"items": 2}) }),
        FromClient::Update(Update { setup: brief }),
        FromClient::History(History { items: vec![ContextItem { role: Role::Agent, text: "Hello.".into() }] }),
        FromClient::Stats,
        FromClient::End,
        FromClient::Ping(Ping { t: 1_718_000_000_000 }),
    ]
}

fn stats() -> Stats {
    let added_ms = AddedMs { up: Percentiles { p50: 0.4, p99: 1.5 }, down: Percentiles { p50: 0.5, p99: 2.0 } };
    Stats { added_ms, lost: 2, concealed_ms: 40, filled_ms: 1200, heard_ms: 9000 }
}

fn started() -> Started {
    let agent = AgentInfo { name: "jung".into(), display: json!({"name": "Dr. Jung"}), delay_ms: None };
    Started {
        session_id: "s-1".into(),
        conversation_id: "c-7".into(),
        agent,
        audio: AUDIO,
        resume_token: "r-9f2c".into(),
        expires_at: Some(1_718_003_600),
        resumed: None,
        setup: None,
    }
}

fn cut_transcript() -> Transcript {
    Transcript {
        item: "a-1".into(),
        turn: TurnId(1),
        role: Role::Agent,
        text: Some("Your order has".into()),
        is_final: true,
        start_ms: 3100,
        end_ms: Some(4000),
        heard: Some(HeardSpan { ms: 900, of_ms: 2400 }),
        cut: Some(Cut::Estimated),
    }
}

/// In the order of the fixture.
fn to_client() -> Vec<(Option<u64>, ToClient)> {
    let turn = TurnId(1);
    let (start, item) = (TurnPhase::Start, Some("a-1".into()));
    let written = TextMessage { id: "m-2".into(), text: "It was shipped.".into(), role: Some(Role::Agent) };
    let call = ToolCall { call_id: "call-1".into(), name: "lookup_order".into(), arguments: r#"{"number":17}"#.into() };
    let tool = ToolStatus { call_id: "call-2".into(), name: "end_call".into(), status: "running".into() };
    let amounts = [("input_audio_tokens".to_owned(), 120.0), ("output_audio_tokens".to_owned(), 310.0)].into();
    let crisis = Alert { name: "crisis".into(), severity: "critical".into(), data: json!({"signals": ["self_harm"]}) };
    let agent = AgentState {
        status: AgentStatus::Fallback,
        name: Some("openai-jung".into()),
        reason: Some("unreachable".into()),
        retry_after_ms: Some(2000),
    };
    let error =
        Error { field: Some("pos".into()), ..Error::new(ErrorCode::BadMessage, "`pos` is missing in `playout`") };
    let ended = Ended { reason: CloseReason::ClientHangup, duration_ms: 61_000, messages: 6, stats: stats() };
    vec![
        (None, ToClient::Started(started())),
        (Some(2), ToClient::Transcript(cut_transcript())),
        (Some(20), ToClient::Delta(Delta { message_id: "m-2".into(), text: "It was ".into() })),
        (Some(3), ToClient::Message(written)),
        (Some(4), ToClient::State(StateChange { from: State::Listening, to: State::Processing })),
        (Some(5), ToClient::Typing(Typing { on: true, who: Some(Role::Agent) })),
        (Some(6), ToClient::Speech(Speech { who: Role::User, event: SpeechEvent::Started })),
        (None, ToClient::Turn(Turn { turn, generation: Generation(0), item, phase: start, pos: 0 })),
        (None, ToClient::Flush(Flush { id: FlushId(1), turn, valid_from: 57_600, pause: false })),
        (Some(9), ToClient::Heard(Heard { turn, ms: 900, of_ms: 2400, basis: Basis::Reported, error_ms: 20 })),
        (Some(10), ToClient::Agent(agent)),
        (Some(11), ToClient::ToolCall(call)),
        (Some(12), ToClient::Tool(tool)),
        (Some(13), ToClient::Usage(Usage { turn, amounts })),
        (Some(14), ToClient::Alert(crisis)),
        (Some(15), ToClient::App(App { name: "card".into(), data: json!({"title": "Order 17"}) })),
        (Some(16), ToClient::Draining(Draining { reconnect_after_ms: 1500, deadline_ms: 30_000 })),
        (Some(17), ToClient::Ending(Ending { reason: CloseReason::Idle, in_ms: 15_000 })),
        (Some(18), ToClient::Error(error)),
        (None, ToClient::Stats(stats())),
        (Some(19), ToClient::Ended(ended)),
        (None, ToClient::Pong(Ping { t: 1_718_000_000_000 })),
    ]
}

#[test]
fn client_messages_are_written_and_read_byte_for_byte() {
    let mut lines = FROM_CLIENT.lines();
    assert_eq!(codec::encode_start(&start()).as_deref(), lines.next());
    let written: Vec<_> = from_client().iter().map(|message| codec::encode_from_client(message).unwrap()).collect();
    assert_eq!(written, lines.collect::<Vec<_>>());

    let mut dialect = Native::new();
    let mut read = Vec::new();
    for line in FROM_CLIENT.lines() {
        read.push(match dialect.handle_wire(Wire::Text(line.to_owned()), Micros(5)) {
            Some(Said::Start(heard)) => {
                assert_eq!(heard, start());
                codec::encode_start(&heard).unwrap()
            }
            Some(Said::Message(message)) => codec::encode_from_client(&message).unwrap(),
            other => panic!("{line} was heard as {other:?}"),
        });
    }
    assert_eq!(read, FROM_CLIENT.lines().collect::<Vec<_>>());
    assert_eq!(dialect.take_ignored_fields(), 0);
}

#[test]
fn relay_messages_are_written_and_read_byte_for_byte() {
    let mut dialect = Native::new();
    let written: Vec<_> = to_client()
        .iter()
        .map(|(seq, message)| match dialect.encode(seq.map(Seq), message) {
            Some(Wire::Text(text)) => text,
            other => panic!("{message:?} was written as {other:?}"),
        })
        .collect();
    assert_eq!(written, TO_CLIENT.lines().collect::<Vec<_>>());

    for line in TO_CLIENT.lines() {
        let Ok(Decoded::Message { message, seq, ignored: 0 }) = codec::decode_to_client(line) else {
            panic!("{line} is not understood in full")
        };
        assert_eq!(codec::encode_to_client(seq, &message).unwrap(), line);
    }
}

#[test]
fn audio_goes_through_untouched_both_ways() {
    let payload = bytes::Bytes::from_static(&[0xf8, 0xff, 0xfe]);
    let mut dialect = Native::new();
    let out = AudioOut { pos: 0, ticks: 960, marker: true, ready: Micros(1), payload: payload.clone() };
    let Some(Wire::Binary(sent)) = dialect.encode(None, &ToClient::Audio(out)) else { panic!("no binary frame") };
    assert_eq!(sent.as_ptr(), payload.as_ptr(), "the payload was copied");

    dialect.handle_wire(Wire::Text(r#"{"type":"start"}"#.into()), Micros(1));
    let Some(Said::Message(FromClient::Audio(audio))) = dialect.handle_wire(Wire::Binary(payload.clone()), Micros(7))
    else {
        panic!("the frame was not heard as audio")
    };
    assert_eq!((audio.arrival, audio.rtp, audio.payload.as_ptr()), (Micros(7), None, payload.as_ptr()));
}

#[test]
fn start_alone_means_opus_both_ways() {
    let Ok(Decoded::Message { message: ClientMessage::Start(read), .. }) =
        codec::decode_from_client("{\"type\":\"start\"}")
    else {
        panic!("not a start")
    };
    assert_eq!(read.audio, None);
    let Some(Said::Start(heard)) = Native::new().handle_wire(Wire::Text("{\"type\":\"start\"}".into()), Micros(0))
    else {
        panic!("not heard as start")
    };
    assert_eq!(heard.audio, Some(AudioFormats { uplink: Format::OPUS, downlink: Format::OPUS, flow: None }));
}
