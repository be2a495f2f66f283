//! What is refused, and what the client is told.

use crate::agent::Wire;
use crate::dialect::native::Native;
use crate::dialect::{Dialect, Heard};
use crate::message::{Error, ErrorCode, FromClient};
use crate::time::Micros;

fn hear(dialect: &mut Native, text: &str) -> Heard {
    dialect.handle_wire(Wire::Text(text.to_owned()), Micros(0)).unwrap()
}

fn started(start: &str) -> Native {
    let mut dialect = Native::new();
    assert!(matches!(hear(&mut dialect, start), Heard::Start(_)));
    dialect
}

/// The error that a running session's client gets for this text, which must not end the link.
fn refusal(text: &str) -> Error {
    match hear(&mut started(r#"{"type":"start"}"#), text) {
        Heard::Malformed { error, fatal: false } => error,
        other => panic!("{text} was heard as {other:?}"),
    }
}

fn first_refusal(text: &str) -> Error {
    match hear(&mut Native::new(), text) {
        Heard::Malformed { error, fatal: true } => error,
        other => panic!("{text} was heard as {other:?}"),
    }
}

#[test]
fn a_wrong_field_is_named_with_what_is_wrong_and_a_right_message() {
    let error = refusal(r#"{"type":"playout","pos":"far","buffered_ms":1}"#);
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadMessage, Some("pos")));
    for part in ["`pos` in `playout`", "\"far\"", "u32", r#"{"type":"playout","pos":72000"#] {
        assert!(error.message.contains(part), "{part} is not in: {}", error.message);
    }
}

#[test]
fn a_missing_field_is_named() {
    assert_eq!(refusal(r#"{"type":"mic"}"#).field.as_deref(), Some("on"));
    assert_eq!(refusal(r#"{"type":"update","setup":{"turns":{}}}"#).field.as_deref(), Some("setup.turns.detect"));
    let start = r#"{"type":"start","audio":{"in":{"codec":"opus","rate":48000},"out":{"codec":"pcm16"}}}"#;
    assert_eq!(first_refusal(start).field.as_deref(), Some("audio.out.rate"));
}

#[test]
fn a_wrong_value_deep_in_a_message_is_named() {
    let start = r#"{"type":"start","audio":{"in":{"codec":"mp3","rate":48000},"out":{"codec":"opus","rate":48000}}}"#;
    let error = first_refusal(start);
    assert_eq!(error.field.as_deref(), Some("audio.in.codec"));
    assert!(error.message.contains("pcm16"), "{}", error.message);
    let tools = r#"{"type":"update","setup":{"tools":["a",5]}}"#;
    assert_eq!(refusal(tools).field.as_deref(), Some("setup.tools[1]"));
}

#[test]
fn a_format_that_cannot_be_served_is_refused_with_those_that_can() {
    let format = |way: &str, format: &str| {
        let other = if way == "in" { "out" } else { "in" };
        format!(r#"{{"type":"start","audio":{{"{way}":{format},"{other}":{{"codec":"opus","rate":48000}}}}}}"#)
    };
    let error = first_refusal(&format("in", r#"{"codec":"opus","rate":44100}"#));
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadFormat, Some("audio.in.rate")));
    assert!(error.message.contains("44100") && error.message.contains("48000"), "{}", error.message);
    let stereo = r#"{"codec":"pcm16","rate":48000,"channels":2}"#;
    started(&format("in", stereo));
    let error = first_refusal(&format("out", stereo));
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadFormat, Some("audio.out.channels")));
    let error = first_refusal(&format("in", r#"{"codec":"pcmu","rate":8000,"channels":2}"#));
    assert_eq!(error.field.as_deref(), Some("audio.in.channels"));
}

#[test]
fn a_link_whose_first_message_is_not_start_ends() {
    for text in [r#"{"type":"ping","t":1}"#, r#"{"type":"later"}"#, "hello", "[]", r#"{"t":1}"#, ""] {
        first_refusal(text);
    }
    let frame = Native::new().handle_wire(Wire::Binary(vec![1, 2, 3].into()), Micros(0));
    assert!(matches!(frame, Some(Heard::Malformed { fatal: true, .. })));
}

#[test]
fn a_second_start_is_refused_and_the_link_goes_on() {
    let error = refusal(r#"{"type":"start"}"#);
    assert!(error.message.contains("once"), "{}", error.message);
}

#[test]
fn a_control_message_beyond_64_kib_ends_the_link() {
    let text = format!(r#"{{"type":"app","name":"x","data":"{}"}}"#, "y".repeat(64 * 1024));
    let heard = hear(&mut started(r#"{"type":"start"}"#), &text);
    assert!(matches!(heard, Heard::Malformed { fatal: true, .. }), "{heard:?}");
}

#[test]
fn text_that_is_not_json_is_refused_with_its_place() {
    let error = refusal("{\"type\":\"ping\",\n\"t\":}");
    assert!(error.message.contains("line 2"), "{}", error.message);
    assert_eq!(refusal(r#"{"type":7}"#).field.as_deref(), Some("type"));
}

#[test]
fn limits_are_held_to_the_byte() {
    let text = |len: usize| format!(r#"{{"type":"message","id":"m","text":"{}"}}"#, "x".repeat(len));
    let id = |len: usize| format!(r#"{{"type":"message","id":"{}","text":""}}"#, "ü".repeat(len));
    let keys = |len: usize| format!(r#"{{"type":"dtmf","digits":"{}"}}"#, "1".repeat(len));
    let running = || started(r#"{"type":"start"}"#);
    for (right, wrong, field) in
        [(text(16_384), text(16_385), "text"), (id(128), id(129), "id"), (keys(64), keys(65), "digits")]
    {
        assert!(matches!(hear(&mut running(), &right), Heard::Message(_)));
        assert_eq!(refusal(&wrong).field.as_deref(), Some(field));
    }
    let data = |field: &str, len: usize| format!(r#"{{"type":"start","{field}":"{}"}}"#, "x".repeat(len - 2));
    for (field, most) in [("context", 2048), ("metadata", 8192)] {
        started(&data(field, most));
        assert_eq!(first_refusal(&data(field, most + 1)).field.as_deref(), Some(field));
    }
    assert_eq!(refusal(r#"{"type":"app","name":""}"#).field.as_deref(), Some("name"));
    assert_eq!(refusal(r#"{"type":"dtmf","digits":"12e"}"#).field.as_deref(), Some("digits"));
}

#[test]
fn an_audio_frame_is_whole_samples_of_at_most_250_ms() {
    let start = r#"{"type":"start","audio":{"in":{"codec":"pcm16","rate":16000},"out":{"codec":"opus","rate":48000}}}"#;
    let mut dialect = started(start);
    let mut frame = |len: usize| dialect.handle_wire(Wire::Binary(vec![0; len].into()), Micros(0)).unwrap();
    assert!(matches!(frame(8000), Heard::Message(FromClient::Audio(_))));
    for len in [0, 641, 8002] {
        match frame(len) {
            Heard::Malformed { error, fatal: false } => assert_eq!(error.code, ErrorCode::BadAudio),
            other => panic!("{len} bytes were heard as {other:?}"),
        }
    }
    assert!(matches!(frame(70_000), Heard::Malformed { fatal: true, .. }));
}

#[test]
fn unknown_types_and_fields_are_ignored_and_counted() {
    let mut dialect = started(r#"{"type":"start","mood":"good","setup":{"voice":"a","pitch":3},"seq":1}"#);
    assert_eq!(dialect.take_ignored_fields(), 2);
    assert!(matches!(hear(&mut dialect, r#"{"type":"wave","hand":"left"}"#), Heard::Unknown(kind) if kind == "wave"));
    let playout = hear(&mut dialect, r#"{"type":"playout","pos":1,"speaker":"left"}"#);
    assert!(matches!(playout, Heard::Message(FromClient::Playout(_))));
    assert_eq!(dialect.take_ignored_fields(), 1);
    assert_eq!(dialect.take_ignored_fields(), 0);
}

#[test]
fn a_normal_closure_is_a_hang_up_and_any_other_is_not() {
    let mut dialect = started(r#"{"type":"start"}"#);
    let mut close = |code| dialect.handle_wire(Wire::Close(code, String::new()), Micros(0));
    assert!(close(1001).is_none() && close(1006).is_none());
    assert!(matches!(close(1000), Some(Heard::Message(FromClient::End))));
    assert!(Native::new().handle_wire(Wire::Close(1000, String::new()), Micros(0)).is_none());
}

#[test]
fn tokens_are_never_repeated_in_an_error_or_in_debug_output() {
    let error = first_refusal(r#"{"type":"start","token":[4711]}"#);
    assert_eq!(error.field.as_deref(), Some("token"));
    let Heard::Start(start) = hear(&mut Native::new(), r#"{"type":"start","token":"hush","resume":"psst"}"#) else {
        panic!("not a start")
    };
    let shown = format!("{start:?} {}", error.message);
    assert!(!shown.contains("hush") && !shown.contains("psst") && !shown.contains("4711"), "{shown}");
}
