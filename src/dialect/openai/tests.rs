use serde_json::{Value, json};

use super::*;
use crate::ids::Generation;
use crate::message::{AudioOut, Error, ErrorCode, Flush, FromClient, Ping, Speech, SpeechEvent, Turn, TurnPhase};
use crate::message::{Role, ToolCall};

const T0: Micros = Micros(1);

fn told(dialect: &mut Openai) -> Vec<Value> {
    let wires = std::iter::from_fn(|| dialect.take_wire());
    wires
        .map(|wire| if let Wire::Text(text) = wire { serde_json::from_str(&text).unwrap() } else { panic!("{wire:?}") })
        .collect()
}

fn kinds(dialect: &mut Openai) -> Vec<String> {
    told(dialect).iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

fn say(dialect: &mut Openai, message: &ToClient) -> Vec<Value> {
    let first = dialect.encode(None, message);
    let mut all: Vec<Value> = first
        .map(|wire| if let Wire::Text(text) = wire { serde_json::from_str(&text).unwrap() } else { panic!("{wire:?}") })
        .into_iter()
        .collect();
    all.extend(told(dialect));
    all
}

fn hear(dialect: &mut Openai, event: &Value) -> Vec<Heard> {
    let first = dialect.handle_wire(Wire::Text(event.to_string()), T0);
    first.into_iter().chain(std::iter::from_fn(|| dialect.take_heard())).collect()
}

fn turn(phase: TurnPhase, pos: u32) -> ToClient {
    let (turn, generation) = (TurnId(1), Generation(0));
    ToClient::Turn(Turn { turn, generation, item: Some("answer-1".into()), phase, pos })
}

fn audio(pos: u32) -> ToClient {
    let payload = bytes::Bytes::from(vec![1; 960]);
    ToClient::Audio(AudioOut { pos, ticks: 480, marker: false, ready: T0, payload })
}

fn begun() -> Openai {
    let mut dialect = Openai::new("sess_1", Some("voice".into()), None);
    assert_eq!(kinds(&mut dialect), ["session.created"]);
    hear(&mut dialect, &json!({"type": "input_audio_buffer.append", "audio": ""}));
    dialect
}

#[test]
fn the_first_update_starts_the_session_and_its_echo_waits_for_what_the_session_refuses() {
    let mut dialect = Openai::new("sess_1", Some("voice".into()), Some("key".into()));
    told(&mut dialect);
    let update = json!({"type": "session.update", "session": {"instructions": "Be rude.", "audio": {
        "input": {"format": {"type": "audio/pcmu"}}, "output": {"voice": "cedar"}}}});
    let heard = hear(&mut dialect, &update);
    let [Heard::Start(start), Heard::Message(FromClient::Ping(Ping { t }))] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((start.agent.as_ref().unwrap().as_str(), start.token.as_deref()), ("voice", Some("key")));
    assert_eq!(start.audio.unwrap().uplink, Format::PCMU);
    assert_eq!(start.setup.as_ref().unwrap().set_fields(), ["instructions", "voice"]);
    assert!(told(&mut dialect).is_empty());
    let refused = Error { field: Some("setup.instructions".into()), ..Error::new(ErrorCode::NotPermitted, "no") };
    assert!(say(&mut dialect, &ToClient::Error(refused)).is_empty());
    let updated = &say(&mut dialect, &ToClient::Pong(Ping { t: *t }))[0];
    assert_eq!(updated["type"], "session.updated");
    assert_eq!(
        (&updated["session"]["instructions"], &updated["session"]["audio"]["output"]["voice"]),
        (&json!(""), &json!("cedar"))
    );
    assert_eq!(updated["session"]["audio"]["input"]["format"]["type"], "audio/pcmu");
}

#[test]
fn an_answer_has_the_events_of_the_reference_in_their_order() {
    let mut dialect = begun();
    let mut all = say(&mut dialect, &turn(TurnPhase::Start, 0));
    all.extend(say(&mut dialect, &audio(0)));
    all.extend(say(&mut dialect, &turn(TurnPhase::End, 480)));
    let kinds: Vec<&str> = all.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio.delta",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
    );
    assert_eq!(all[4]["delta"].as_str().unwrap().len(), 1280);
    assert_eq!(all[10]["response"]["status"], "completed");
}

#[test]
fn an_interruption_cancels_the_response_and_a_truncation_is_a_position_in_the_audio() {
    let mut dialect = begun();
    say(&mut dialect, &turn(TurnPhase::Start, 4800));
    for n in 0..10 {
        say(&mut dialect, &audio(4800 + n * 480));
    }
    let speech = say(&mut dialect, &ToClient::Speech(Speech { who: Role::User, event: SpeechEvent::Started }));
    assert_eq!(speech[0]["type"], "input_audio_buffer.speech_started");
    let flush = Flush { id: FlushId(7), turn: TurnId(1), valid_from: 9600, pause: false };
    let done = say(&mut dialect, &ToClient::Flush(flush)).pop().unwrap();
    assert_eq!(
        (&done["response"]["status"], &done["response"]["status_details"]["reason"]),
        (&json!("cancelled"), &json!("turn_detected"))
    );
    let cut = |ms: u32| json!({"type": "conversation.item.truncate", "event_id": "mine", "item_id": "answer-1", "content_index": 0, "audio_end_ms": ms});
    assert!(hear(&mut dialect, &cut(202)).is_empty());
    assert_eq!(told(&mut dialect)[0]["error"]["event_id"], "mine");
    let heard = hear(&mut dialect, &cut(150));
    let [Heard::Message(FromClient::Playout(playout))] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((playout.pos, playout.flush), (4800 + 3600, Some(FlushId(7))));
    assert_eq!(kinds(&mut dialect), ["conversation.item.truncated"]);
}

#[test]
fn what_was_written_waits_for_response_create_and_results_do_not() {
    let mut dialect = begun();
    let write = |text: &str| json!({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}});
    assert!(hear(&mut dialect, &write("one")).is_empty());
    assert!(hear(&mut dialect, &write("two")).is_empty());
    let heard = hear(&mut dialect, &json!({"type": "response.create"}));
    assert!(
        matches!(&heard[..], [Heard::Message(FromClient::History(past)), Heard::Message(FromClient::Message(message))]
        if past.items.len() == 1 && message.text == "two"),
        "{heard:?}"
    );
    told(&mut dialect);
    let call = ToolCall { call_id: "c".into(), name: "look".into(), arguments: "{}".into() };
    let done = say(&mut dialect, &ToClient::ToolCall(call)).pop().unwrap();
    assert_eq!(done["response"]["output"][0]["call_id"], "c");
    let result = json!({"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "c", "output": "4"}});
    assert!(matches!(&hear(&mut dialect, &result)[..], [Heard::Message(FromClient::ToolResult(_))]));
    assert!(hear(&mut dialect, &json!({"type": "response.create"})).is_empty());
    assert_eq!(kinds(&mut dialect), ["conversation.item.added", "conversation.item.done"], "no error");
}

#[test]
fn nonsense_is_refused_by_name_and_harms_nothing() {
    let mut dialect = begun();
    for (event, code) in [
        (json!({"type": "response.cancel"}), "response_cancel_not_active"),
        (json!({"type": "session.update"}), "missing_required_parameter"),
        (
            json!({"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/ogg"}}}}}),
            "invalid_value",
        ),
        (json!({"type": "input_audio_buffer.append", "audio": "?"}), "invalid_value"),
        (json!({"type": "mend.everything"}), "invalid_value"),
        (json!([1]), "missing_required_parameter"),
    ] {
        assert!(hear(&mut dialect, &event).is_empty(), "{event}");
        assert_eq!(told(&mut dialect)[0]["error"]["code"], code, "{event}");
    }
    dialect.handle_wire(Wire::Text("{".into()), T0);
    assert_eq!(told(&mut dialect)[0]["error"]["code"], "invalid_json");
}
