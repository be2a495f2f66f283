//! Any input is survived; whatever is written is read back the same.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::golden::FROM_CLIENT;
use crate::agent::Wire;
use crate::dialect::Dialect;
use crate::dialect::native::Native;
use crate::dialect::native::codec::{self, ClientMessage, Decoded};
use crate::ids::{FlushId, Generation, Seq, TurnId};
use crate::media::format::Format;
use crate::message::*;
use crate::time::Micros;

fn id() -> impl Strategy<Value = String> {
    "\\PC{1,128}"
}

fn text() -> impl Strategy<Value = String> {
    ".{0,64}"
}

/// Numbers that survive JSON text exactly.
fn amount() -> impl Strategy<Value = f64> {
    (0u32..4_000_000).prop_map(|quarters| f64::from(quarters) / 4.0)
}

fn data() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let object = btree_map(text(), inner.clone(), 0..4).prop_map(|fields| json!(fields));
        prop_oneof![vec(inner, 0..4).prop_map(Value::from), object]
    })
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::User), Just(Role::Agent)]
}

fn state() -> impl Strategy<Value = State> {
    prop::sample::select(vec![
        State::Idle,
        State::Listening,
        State::Processing,
        State::Speaking,
        State::WaitingForUser,
        State::Error,
        State::Ended,
    ])
}

fn uplink() -> impl Strategy<Value = Format> {
    let stereo = Format { channels: 2, ..Format::OPUS };
    prop::sample::select(vec![Format::OPUS, stereo, Format::PCMU, Format::PCMA, Format::pcm16(44_100)])
}

fn setup() -> impl Strategy<Value = Setup> {
    let greeting = prop_oneof![
        text().prop_map(Greeting::Say),
        text().prop_map(Greeting::Prompt),
        text().prop_map(Greeting::Clip),
        Just(Greeting::Agent),
        Just(Greeting::None),
    ];
    let detect = prop::sample::select(vec![
        TurnDetection::Server,
        TurnDetection::Semantic,
        TurnDetection::Relay,
        TurnDetection::Manual,
    ]);
    let turns = detect.prop_map(|detect| Turns { detect });
    let names = (option::of(text()), option::of(id()), option::of(id()), option::of(id()));
    let rest = (option::of(greeting), option::of(any::<bool>()), option::of(turns), option::of(vec(id(), 0..3)));
    (names, rest).prop_map(|((instructions, voice, language, model), (greeting, transcribe, turns, tools))| Setup {
        instructions,
        voice,
        language,
        model,
        greeting,
        transcribe,
        turns,
        tools: tools.map(|names| names.into_iter().map(Tool::Named).collect()),
    })
}

prop_compose! {
    fn start()(
        names in (option::of(id()), option::of(id()), option::of(id())),
        audio in option::of((uplink(), any::<Option<u64>>())),
        data in (option::of(data()), option::of(data())),
        setup in option::of(setup()),
        secrets in (option::of(text()), option::of(text()), any::<Option<u64>>()),
        history in vec((role(), text()), 0..3),
    ) -> Start {
        Start {
            agent: names.0.map(Into::into),
            conversation_id: names.1.map(Into::into),
            session_id: names.2.map(Into::into),
            audio: audio.map(|(uplink, flow)| AudioFormats { uplink, downlink: Format::OPUS, flow }),
            context: data.0,
            metadata: data.1,
            setup,
            resume: secrets.0,
            token: secrets.1,
            have: secrets.2,
            history: history.into_iter().map(|(role, text)| ContextItem { role, text }).collect(),
        }
    }
}

prop_compose! {
    fn transcript()(
        names in (id(), any::<u32>(), role(), option::of(text()), any::<bool>()),
        span in (any::<u64>(), any::<Option<u64>>()),
        heard in any::<Option<(u64, u64)>>(),
        cut in option::of(prop_oneof![Just(Cut::Aligned), Just(Cut::Estimated)]),
    ) -> Transcript {
        Transcript {
            item: names.0.into(),
            turn: TurnId(names.1),
            role: names.2,
            text: names.3,
            is_final: names.4,
            start_ms: span.0,
            end_ms: span.1,
            heard: heard.map(|(ms, of_ms)| HeardSpan { ms, of_ms }),
            cut,
        }
    }
}

fn interrupt_action() -> impl Strategy<Value = InterruptAction> {
    prop::sample::select(vec![InterruptAction::Pause, InterruptAction::Confirm, InterruptAction::Resume])
}

fn from_client() -> impl Strategy<Value = FromClient> {
    let action = prop::sample::select(vec![InputAction::Start, InputAction::Commit, InputAction::Clear]);
    let recording = prop_oneof![Just(Granted::Granted), Just(Granted::Refused)];
    prop_oneof![
        (id(), text(), option::of(role())).prop_map(|(id, text, role)| FromClient::Message(TextMessage {
            id: id.into(),
            text,
            role
        })),
        (any::<bool>(), option::of(role())).prop_map(|(on, who)| FromClient::Typing(Typing { on, who })),
        (any::<(Option<u32>, Option<u32>)>(), option::of(interrupt_action())).prop_map(|((turn, pos), action)| {
            FromClient::Interrupt(Interrupt { turn: turn.map(TurnId), pos, action })
        }),
        action.prop_map(|action| FromClient::Input(Input { action })),
        any::<bool>().prop_map(|on| FromClient::Mic(Mic { on })),
        "[0-9*#A-D]{1,64}".prop_map(|digits| FromClient::Dtmf(Dtmf { digits })),
        any::<(u32, u32, Option<u32>)>().prop_map(|(pos, buffered_ms, flush)| {
            FromClient::Playout(Playout { pos, buffered_ms, flush: flush.map(FlushId) })
        }),
        state().prop_map(|to| FromClient::State(SetState { to })),
        transcript().prop_map(FromClient::Transcript),
        (id(), text(), any::<bool>()).prop_map(|(call_id, output, is_error)| {
            FromClient::ToolResult(ToolResult { call_id: call_id.into(), output, is_error })
        }),
        recording.prop_map(|recording| FromClient::Consent(Consent { recording })),
        (id(), data()).prop_map(|(name, data)| FromClient::App(App { name, data })),
        setup().prop_map(|setup| FromClient::Update(Update { setup })),
        prop::collection::vec((role(), text()), 0..4).prop_map(|items| FromClient::History(History {
            items: items.into_iter().map(|(role, text)| ContextItem { role, text }).collect()
        })),
        Just(FromClient::Stats),
        Just(FromClient::End),
        any::<u64>().prop_map(|t| FromClient::Ping(Ping { t })),
    ]
}

fn stats() -> impl Strategy<Value = Stats> {
    let percentiles = || (amount(), amount()).prop_map(|(p50, p99)| Percentiles { p50, p99 });
    (percentiles(), percentiles(), any::<(u64, u64, u64, u64)>()).prop_map(|(up, down, counts)| {
        let (lost, concealed_ms, filled_ms, heard_ms) = counts;
        Stats { added_ms: AddedMs { up, down }, lost, concealed_ms, filled_ms, heard_ms }
    })
}

prop_compose! {
    fn started()(
        names in (id(), id(), id()),
        display in data(),
        delay_ms in any::<Option<u32>>(),
        uplink in uplink(),
        resume_token in text(),
        more in any::<(Option<u64>, Option<bool>)>(),
        setup in option::of(setup()),
    ) -> Started {
        Started {
            session_id: names.0.into(),
            conversation_id: names.1.into(),
            agent: AgentInfo { name: names.2.into(), display, delay_ms },
            audio: AudioFormats { uplink, downlink: Format::pcm16(24_000), flow: None },
            resume_token,
            expires_at: more.0,
            resumed: more.1,
            setup: setup.map(Box::new),
        }
    }
}

fn reason() -> impl Strategy<Value = CloseReason> {
    prop::sample::select(CloseReason::ALL.to_vec())
}

fn media_message() -> impl Strategy<Value = ToClient> {
    let basis = prop::sample::select(vec![Basis::Reported, Basis::Acked, Basis::Marked, Basis::Paced]);
    let phase = prop_oneof![Just(TurnPhase::Start), Just(TurnPhase::End)];
    let event = prop_oneof![Just(SpeechEvent::Started), Just(SpeechEvent::Stopped)];
    prop_oneof![
        (role(), event).prop_map(|(who, event)| ToClient::Speech(Speech { who, event })),
        (any::<(u32, u32, u32)>(), option::of(id()), phase).prop_map(|((turn, generation, pos), item, phase)| {
            let (turn, generation) = (TurnId(turn), Generation(generation));
            ToClient::Turn(Turn { turn, generation, item: item.map(Into::into), phase, pos })
        }),
        any::<(u32, u32, u32, bool)>().prop_map(|(id, turn, valid_from, pause)| {
            ToClient::Flush(Flush { id: FlushId(id), turn: TurnId(turn), valid_from, pause })
        }),
        (any::<(u32, u64, u64, u32)>(), basis).prop_map(|((turn, ms, of_ms, error_ms), basis)| {
            ToClient::Heard(Heard { turn: TurnId(turn), ms, of_ms, basis, error_ms })
        }),
        transcript().prop_map(ToClient::Transcript),
        (state(), state()).prop_map(|(from, to)| ToClient::State(StateChange { from, to })),
        stats().prop_map(ToClient::Stats),
    ]
}

fn session_message() -> impl Strategy<Value = ToClient> {
    let status = prop::sample::select(vec![
        AgentStatus::Connecting,
        AgentStatus::Ready,
        AgentStatus::Fallback,
        AgentStatus::Text,
        AgentStatus::Down,
    ]);
    let code = prop::sample::select(ErrorCode::ALL.to_vec());
    prop_oneof![
        started().prop_map(ToClient::Started),
        (status, option::of(id()), option::of(text()), any::<Option<u64>>()).prop_map(
            |(status, name, reason, retry_after_ms)| {
                ToClient::Agent(AgentState { status, name: name.map(Into::into), reason, retry_after_ms })
            }
        ),
        any::<(u64, u64)>().prop_map(|(reconnect_after_ms, deadline_ms)| {
            ToClient::Draining(Draining { reconnect_after_ms, deadline_ms })
        }),
        (reason(), any::<u64>()).prop_map(|(reason, in_ms)| ToClient::Ending(Ending { reason, in_ms })),
        (code, text(), [(); 3].map(|()| option::of(text())), any::<bool>(), any::<Option<u64>>()).prop_map(
            |(code, message, [reason, field, url], retryable, retry_after_ms)| {
                ToClient::Error(Error { code, message, reason, field, retryable, retry_after_ms, url })
            }
        ),
        (reason(), any::<(u64, u64)>(), stats()).prop_map(|(reason, (duration_ms, messages), stats)| {
            ToClient::Ended(Ended { reason, duration_ms, messages, stats })
        }),
        any::<u64>().prop_map(|t| ToClient::Pong(Ping { t })),
    ]
}

fn content_message() -> impl Strategy<Value = ToClient> {
    prop_oneof![
        (id(), text()).prop_map(|(id, text)| ToClient::Delta(Delta { message_id: id.into(), text })),
        (id(), text(), option::of(role())).prop_map(|(id, text, role)| ToClient::Message(TextMessage {
            id: id.into(),
            text,
            role
        })),
        (any::<bool>(), option::of(role())).prop_map(|(on, who)| ToClient::Typing(Typing { on, who })),
        (id(), text(), text()).prop_map(|(call_id, name, arguments)| {
            ToClient::ToolCall(ToolCall { call_id: call_id.into(), name, arguments })
        }),
        (id(), text(), text()).prop_map(|(call_id, name, status)| {
            ToClient::Tool(ToolStatus { call_id: call_id.into(), name, status })
        }),
        (any::<u32>(), btree_map("[a-z]{1,8}_[a-z]{1,8}", amount(), 0..4))
            .prop_map(|(turn, amounts)| ToClient::Usage(Usage { turn: TurnId(turn), amounts })),
        (text(), text(), data()).prop_map(|(name, severity, data)| ToClient::Alert(Alert { name, severity, data })),
        (text(), data()).prop_map(|(name, data)| ToClient::App(App { name, data })),
    ]
}

/// A right message with a few bytes changed, taken out or doubled.
fn damaged() -> impl Strategy<Value = String> {
    let lines: Vec<&'static str> = FROM_CLIENT.lines().collect();
    (prop::sample::select(lines), vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6)).prop_map(
        |(line, changes)| {
            let mut bytes = line.as_bytes().to_vec();
            for (at, byte, how) in changes {
                let at = at.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
                match how {
                    _ if bytes.is_empty() => bytes.push(byte),
                    0 => bytes[at] = byte,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, bytes[at]),
                }
            }
            String::from_utf8_lossy(&bytes).into_owned()
        },
    )
}

fn any_wire() -> impl Strategy<Value = Wire> {
    prop_oneof![
        ".{0,200}".prop_map(Wire::Text),
        damaged().prop_map(Wire::Text),
        vec(any::<u8>(), 0..2000).prop_map(|bytes| Wire::Binary(bytes.into())),
        (any::<u16>(), text()).prop_map(|(code, reason)| Wire::Close(code, reason)),
    ]
}

proptest! {
    #[test]
    fn any_frames_in_any_order_are_survived(begin in any::<bool>(), frames in vec(any_wire(), 1..8)) {
        let mut dialect = Native::new();
        if begin {
            dialect.handle_wire(Wire::Text("{\"type\":\"start\"}".to_owned()), Micros(0));
        }
        for frame in frames {
            dialect.handle_wire(frame, Micros(1));
        }
    }

    #[test]
    fn every_start_is_read_back_as_it_was_written(start in start()) {
        let text = codec::encode_start(&start).unwrap();
        match codec::decode_from_client(&text) {
            Ok(Decoded::Message { message: ClientMessage::Start(read), ignored: 0, .. }) => prop_assert_eq!(read, start),
            other => prop_assert!(false, "{} was read as {:?}", text, other),
        }
    }

    #[test]
    fn every_client_message_is_read_back_as_it_was_written(message in from_client()) {
        let text = codec::encode_from_client(&message).unwrap();
        match codec::decode_from_client(&text) {
            Ok(Decoded::Message { message: ClientMessage::Other(read), ignored: 0, .. }) => {
                prop_assert_eq!(codec::encode_from_client(&read).unwrap(), text);
                prop_assert_eq!(format!("{read:?}"), format!("{message:?}"));
            }
            other => prop_assert!(false, "{} was read as {:?}", text, other),
        }
    }

    #[test]
    fn every_relay_message_is_read_back_as_it_was_written(
        message in prop_oneof![media_message(), session_message(), content_message()],
        number in any::<Option<u64>>(),
    ) {
        let text = codec::encode_to_client(number.map(Seq), &message).unwrap();
        match codec::decode_to_client(&text) {
            Ok(Decoded::Message { message: read, seq, ignored: 0 }) => {
                prop_assert_eq!(seq, number.map(Seq));
                prop_assert_eq!(codec::encode_to_client(seq, &read).unwrap(), text);
                prop_assert_eq!(format!("{read:?}"), format!("{message:?}"));
            }
            other => prop_assert!(false, "{} was read as {:?}", text, other),
        }
    }
}
