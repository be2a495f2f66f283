use serde_json::{Value, json};

use super::*;
use crate::ids::Generation;
use crate::message::{
    AudioOut, Basis, CloseReason, Ended, Error, ErrorCode, Flush, FromClient, Heard as HeardSpan, Role, Speech,
    SpeechEvent,
};
use crate::message::{Setup, Stats, ToolCall, Transcript, Turn, TurnPhase};

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
    assert!(say(&mut dialect, &ToClient::InForce(Setup::default())).is_empty());
    dialect
}

#[test]
fn the_first_update_starts_the_session_and_its_echo_tells_what_is_in_force() {
    let mut dialect = Openai::new("sess_1", Some("voice".into()), Some("key".into()));
    let created = &told(&mut dialect)[0]["session"];
    assert!(created.get("instructions").is_none() && created["audio"]["output"].get("voice").is_none(), "{created}");
    let update = json!({"type": "session.update", "session": {"instructions": "Be rude.", "audio": {
        "input": {"format": {"type": "audio/pcmu"}}, "output": {"voice": "cedar"}}}});
    let heard = hear(&mut dialect, &update);
    let [Heard::Start(start), Heard::Message(FromClient::Describe)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((start.agent.as_ref().unwrap().as_str(), start.token.as_deref()), ("voice", Some("key")));
    assert_eq!(start.audio.unwrap().uplink, Format::PCMU);
    assert_eq!(start.setup.as_ref().unwrap().set_fields(), ["instructions", "voice"]);
    assert!(told(&mut dialect).is_empty());
    let refused = Error { field: Some("setup.instructions".into()), ..Error::new(ErrorCode::NotPermitted, "no") };
    assert!(say(&mut dialect, &ToClient::Error(refused.clone())).is_empty());
    let taken = Setup { voice: Some("cedar".into()), ..Setup::default() };
    let updated = &say(&mut dialect, &ToClient::InForce(taken.clone()))[0];
    assert_eq!(updated["type"], "session.updated");
    assert_eq!(
        (&updated["session"]["instructions"], &updated["session"]["audio"]["output"]["voice"]),
        (&json!(""), &json!("cedar"))
    );
    assert_eq!(updated["session"]["audio"]["input"]["format"]["type"], "audio/pcmu");
    assert!(say(&mut dialect, &ToClient::InForce(taken)).is_empty(), "nothing new");
    let corrected = &say(&mut dialect, &ToClient::InForce(Setup::default()))[0];
    assert_eq!(corrected["type"], "session.updated", "the agent has not taken it");
    assert!(corrected["session"]["audio"]["output"].get("voice").is_none());
    assert_eq!(say(&mut dialect, &ToClient::Error(refused))[0]["type"], "error", "nobody had asked for it");
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
    assert!(speech.is_empty(), "the client would stop its player, and the agent may speak on");
    let flush = Flush { id: FlushId(7), turn: TurnId(1), valid_from: 9600, pause: false };
    let mut told_then = say(&mut dialect, &ToClient::Flush(flush));
    assert_eq!(told_then[0]["type"], "input_audio_buffer.speech_started");
    let done = told_then.pop().unwrap();
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

#[test]
fn items_can_be_asked_for_again_and_stand_behind_one_another() {
    let mut dialect = begun();
    let write = json!({"type": "conversation.item.create", "item": {"id": "mine", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]}});
    hear(&mut dialect, &write);
    told(&mut dialect);
    let mut all = say(&mut dialect, &turn(TurnPhase::Start, 0));
    all.extend(say(&mut dialect, &turn(TurnPhase::End, 0)));
    let placed: Vec<&Value> = all.iter().filter(|event| !event["previous_item_id"].is_null()).collect();
    assert_eq!(placed.len(), 2, "{all:?}");
    assert!(placed.iter().all(|event| event["previous_item_id"] == "mine"));
    let cut = Transcript {
        item: "answer-1".into(),
        turn: TurnId(1),
        role: Role::Agent,
        text: Some("Hello".into()),
        is_final: true,
        start_ms: 0,
        end_ms: None,
        heard: None,
        cut: Some(crate::message::Cut::Estimated),
    };
    assert!(say(&mut dialect, &ToClient::Transcript(cut)).is_empty());
    hear(&mut dialect, &json!({"type": "conversation.item.retrieve", "item_id": "answer-1"}));
    let retrieved = &told(&mut dialect)[0];
    assert_eq!(
        (&retrieved["type"], &retrieved["item"]["content"][0]["transcript"]),
        (&json!("conversation.item.retrieved"), &json!("Hello"))
    );
    hear(&mut dialect, &json!({"type": "conversation.item.retrieve", "item_id": "other"}));
    assert_eq!(told(&mut dialect)[0]["error"]["code"], "item_retrieve_invalid_item_id");
}

fn call() -> Openai {
    let session = json!({"type": "realtime", "model": "voice", "instructions": "Be kind."});
    let (mut dialect, start) = Openai::call("sess_1", Some("other".into()), Some(&session), Format::OPUS);
    assert_eq!((start.agent.unwrap().as_str(), start.audio.unwrap().downlink), ("voice", Format::OPUS));
    assert_eq!(start.setup.unwrap().instructions.as_deref(), Some("Be kind."));
    assert!(told(&mut dialect).is_empty(), "the session speaks first");
    assert!(matches!(dialect.take_heard(), Some(Heard::Message(FromClient::Describe))));
    let created = &say(&mut dialect, &ToClient::InForce(Setup::default()))[0];
    assert_eq!((&created["type"], &created["session"]["model"]), (&json!("session.created"), &json!("voice")));
    dialect
}

#[test]
fn a_call_without_a_session_of_its_own_begins_with_the_first_event() {
    let (mut dialect, start) = Openai::call("sess_1", Some("voice".into()), None, Format::OPUS);
    assert_eq!((start.agent.unwrap().as_str(), start.setup, dialect.is_started()), ("voice", None, false));
    assert_eq!(kinds(&mut dialect), ["session.created"]);
    let formats = json!({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 24000}}}, "instructions": "Hi"});
    let heard = hear(&mut dialect, &json!({"type": "session.update", "session": formats}));
    let [Heard::Start(start), Heard::Message(FromClient::Describe)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(start.setup.as_ref().unwrap().set_fields(), ["instructions"]);
    let updated = &say(&mut dialect, &ToClient::InForce(Setup::default()))[0];
    assert!(updated["session"]["audio"]["input"].get("format").is_none(), "{updated}");
}

fn frame(dialect: &mut Openai) -> Vec<Value> {
    let payload = bytes::Bytes::from_static(&[1]);
    dialect.on_audio(&AudioOut { pos: 0, ticks: 960, marker: false, ready: T0, payload });
    told(dialect)
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[test]
fn a_call_over_webrtc_is_told_what_plays() {
    let mut dialect = call();
    assert!(frame(&mut dialect).is_empty(), "silence is no answer");
    say(&mut dialect, &turn(TurnPhase::Start, 0));
    let started = frame(&mut dialect);
    assert_eq!((names(&started), &started[0]["response_id"]), (vec!["output_audio_buffer.started"], &json!("resp_1")));
    assert!(frame(&mut dialect).is_empty());
    let ended = say(&mut dialect, &turn(TurnPhase::End, 1920));
    assert_eq!(names(&ended)[ended.len() - 2..], ["response.done", "output_audio_buffer.stopped"]);
    assert!(hear(&mut dialect, &json!({"type": "input_audio_buffer.append", "audio": "AAAA"})).is_empty());
    assert_eq!(told(&mut dialect)[0]["error"]["code"], "invalid_value");
}

#[test]
fn a_client_on_webrtc_cancels_and_clears_and_learns_once_what_was_heard() {
    let mut dialect = call();
    say(&mut dialect, &turn(TurnPhase::Start, 0));
    frame(&mut dialect);
    let heard = hear(&mut dialect, &json!({"type": "response.cancel"}));
    assert!(matches!(&heard[..], [Heard::Message(FromClient::Interrupt(_))]), "{heard:?}");
    let flush = Flush { id: FlushId(1), turn: TurnId(1), valid_from: 960, pause: false };
    let mut all = say(&mut dialect, &ToClient::Flush(flush));
    assert!(hear(&mut dialect, &json!({"type": "output_audio_buffer.clear"})).is_empty());
    all.extend(told(&mut dialect));
    let told_names = names(&all);
    assert_eq!(told_names[told_names.len() - 2..], ["response.done", "output_audio_buffer.cleared"], "{told_names:?}");
    assert_eq!(all[all.len() - 2]["response"]["status_details"]["reason"], "client_cancelled");
    let heard = HeardSpan { turn: TurnId(1), ms: 15, of_ms: 400, basis: Basis::Paced, error_ms: 80 };
    let truncated = &say(&mut dialect, &ToClient::Heard(heard))[0];
    assert_eq!(
        (&truncated["type"], &truncated["item_id"], &truncated["audio_end_ms"]),
        (&json!("conversation.item.truncated"), &json!("answer-1"), &json!(15))
    );
}

#[test]
fn push_to_talk_over_webrtc_needs_no_audio_event() {
    let mut dialect = call();
    let manual = Setup {
        turns: Some(crate::message::Turns { detect: crate::message::TurnDetection::Manual }),
        ..Setup::default()
    };
    say(&mut dialect, &ToClient::InForce(manual));
    let begun = hear(&mut dialect, &json!({"type": "input_audio_buffer.clear"}));
    assert!(matches!(&begun[..], [Heard::Message(FromClient::Input(_)), Heard::Message(FromClient::Input(_))]));
    assert_eq!(kinds(&mut dialect), ["input_audio_buffer.cleared"]);
    let committed = hear(&mut dialect, &json!({"type": "input_audio_buffer.commit"}));
    assert!(matches!(&committed[..], [Heard::Message(FromClient::Input(_))]));
}

#[test]
fn what_one_answer_alone_cannot_have_is_refused_by_name() {
    let mut dialect = begun();
    for (field, value) in [("conversation", json!("none")), ("instructions", json!("Say hi")), ("input", json!([]))] {
        assert!(
            hear(&mut dialect, &json!({"type": "response.create", "event_id": "e", "response": {field: value}}))
                .is_empty()
        );
        let error = &told(&mut dialect)[0]["error"];
        assert_eq!((&error["param"], &error["event_id"]), (&json!(format!("response.{field}")), &json!("e")));
    }
    let empty = json!({"type": "response.create", "response": {"conversation": "auto", "metadata": {"a": "b"}}});
    hear(&mut dialect, &empty);
    assert_eq!(told(&mut dialect)[0]["error"]["code"], "nothing_to_answer");
}

#[test]
fn speech_into_an_answer_that_goes_on_is_told_when_the_answer_is_over() {
    let mut dialect = begun();
    say(&mut dialect, &turn(TurnPhase::Start, 0));
    for event in [SpeechEvent::Started, SpeechEvent::Stopped] {
        assert!(say(&mut dialect, &ToClient::Speech(Speech { who: Role::User, event })).is_empty());
    }
    let ended = say(&mut dialect, &turn(TurnPhase::End, 480));
    let kinds = names(&ended);
    let done = kinds.iter().position(|kind| *kind == "response.done").unwrap();
    let after =
        ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed"];
    assert_eq!(kinds[done + 1..done + 4], after);
}

#[test]
fn a_client_that_closes_in_whatever_way_has_hung_up() {
    for code in [1000, 1001, 1005, 1006] {
        let mut dialect = begun();
        let heard = dialect.handle_wire(Wire::Close(code, String::new()), T0);
        assert!(matches!(heard, Some(Heard::Message(FromClient::End))), "{code}: {heard:?}");
        assert!(!dialect.can_resume(), "nobody comes back");
    }
}

#[test]
fn a_tool_call_in_an_answer_is_a_part_of_it_and_cuts_nothing_off() {
    let mut dialect = begun();
    say(&mut dialect, &turn(TurnPhase::Start, 0));
    let call = ToolCall { call_id: "c".into(), name: "look".into(), arguments: "{}".into() };
    let told_of_call = say(&mut dialect, &ToClient::ToolCall(call));
    assert!(!names(&told_of_call).contains(&"response.done"), "{told_of_call:?}");
    assert!(told_of_call.iter().all(|event| event.get("response_id").is_none_or(|id| id == "resp_1")));
    assert_eq!(names(&say(&mut dialect, &audio(0))), ["response.output_audio.delta"], "it is spoken on");
    let done = say(&mut dialect, &turn(TurnPhase::End, 480)).pop().unwrap();
    let kinds: Vec<&Value> = done["response"]["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["message", "function_call"]);
}

#[test]
fn what_was_paused_and_goes_on_is_another_answer() {
    let mut dialect = begun();
    say(&mut dialect, &turn(TurnPhase::Start, 0));
    say(&mut dialect, &audio(0));
    let pause = Flush { id: FlushId(1), turn: TurnId(1), valid_from: 480, pause: true };
    let paused = say(&mut dialect, &ToClient::Flush(pause));
    assert_eq!(names(&paused)[0], "input_audio_buffer.speech_started", "the client's player stops");
    assert_eq!(paused.last().unwrap()["response"]["status"], "cancelled");
    let resumed = say(&mut dialect, &turn(TurnPhase::Start, 480));
    assert_eq!(resumed[0]["response"]["id"], "resp_2");
    let delta = &say(&mut dialect, &audio(480))[0];
    assert_eq!(delta["response_id"], "resp_2");
    assert_ne!(delta["item_id"], "answer-1", "the client has dropped that one");
}

#[test]
fn an_answer_that_the_end_of_the_call_leaves_open_has_failed() {
    let mut dialect = begun();
    say(&mut dialect, &turn(TurnPhase::Start, 0));
    say(&mut dialect, &audio(0));
    let ended = Ended { reason: CloseReason::AgentFailed, duration_ms: 0, messages: 0, stats: Stats::default() };
    let told = say(&mut dialect, &ToClient::Ended(ended.clone()));
    let response = &told.last().unwrap()["response"];
    assert_eq!((&response["status"], &response["id"]), (&json!("failed"), &json!("resp_1")));
    assert_eq!(response["status_details"]["error"]["code"], "agent_failed");
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert!(say(&mut dialect, &ToClient::Ended(ended)).is_empty());
    // So has one of which the rest was still heard after its agent was lost.
    let mut dialect = begun();
    say(&mut dialect, &turn(TurnPhase::Start, 0));
    let lost = say(&mut dialect, &ToClient::Error(Error::new(ErrorCode::AgentUnavailable, "gone")));
    assert_eq!((names(&lost), &lost[0]["error"]["type"]), (vec!["error"], &json!("server_error")));
    assert_eq!(names(&say(&mut dialect, &audio(0))), ["response.output_audio.delta"]);
    let done = say(&mut dialect, &turn(TurnPhase::End, 480)).pop().unwrap();
    assert_eq!(done["response"]["status"], "failed");
}
