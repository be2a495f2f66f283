//! What an OpenAI Realtime session is told at its start and when the set-up changes.

use serde_json::{Map, Value, json};

use crate::agent::setup::SetupRow;
use crate::media::format::{Codec, Format};
use crate::message::{ContextItem, Role, Setup, ToolDefinition, TurnDetection};

/// Neutral field to wire field.
pub const SETUP: &[SetupRow] = &[
    ("instructions", Some("session.instructions")),
    ("voice", Some("session.audio.output.voice")),
    ("language", Some("session.audio.input.transcription.language")),
    ("model", Some("?model=")),
    ("greeting", Some("response.create")),
    ("transcribe", Some("session.audio.input.transcription")),
    ("turns", Some("session.audio.input.turn_detection")),
    ("tools", Some("session.tools")),
];

/// The model that transcribes the caller where `vendor` names no other.
const TRANSCRIBER: &str = "gpt-4o-mini-transcribe";

/// A format as the wire names it; `None` if it has no name there.
pub fn wire_format(format: Format) -> Option<Value> {
    match format.codec {
        Codec::Pcm16 if format.rate == 24_000 => Some(json!({"type": "audio/pcm", "rate": 24_000})),
        Codec::Pcmu => Some(json!({"type": "audio/pcmu"})),
        Codec::Pcma => Some(json!({"type": "audio/pcma"})),
        _ => None,
    }
}

/// A format that the wire names.
pub fn format_of(wire: &Value) -> Option<Format> {
    match wire["type"].as_str()? {
        "audio/pcm" => Some(Format::pcm16(wire["rate"].as_u64().map_or(24_000, |rate| rate as u32))),
        "audio/pcmu" => Some(Format::PCMU),
        "audio/pcma" => Some(Format::PCMA),
        _ => None,
    }
}

/// The fields of a set-up as fields of a session.
pub fn session_fields(setup: &Setup, tools: &[ToolDefinition]) -> Value {
    let mut session = json!({"type": "realtime"});
    if let Some(instructions) = &setup.instructions {
        session["instructions"] = instructions.as_str().into();
    }
    if let Some(voice) = &setup.voice {
        session["audio"]["output"]["voice"] = voice.as_str().into();
    }
    match (setup.transcribe, &setup.language) {
        (Some(false), _) => session["audio"]["input"]["transcription"] = Value::Null,
        (Some(true), None) => session["audio"]["input"]["transcription"] = json!({"model": TRANSCRIBER}),
        (_, Some(language)) => {
            // The wire takes ISO 639-1 only.
            let language = language.split('-').next().unwrap_or_default();
            session["audio"]["input"]["transcription"] = json!({"model": TRANSCRIBER, "language": language});
        }
        (None, None) => {}
    }
    if let Some(turns) = setup.turns {
        let automatic = |kind: &str| json!({"type": kind, "create_response": true, "interrupt_response": true});
        session["audio"]["input"]["turn_detection"] = match turns.detect {
            TurnDetection::Server => automatic("server_vad"),
            TurnDetection::Semantic => automatic("semantic_vad"),
            TurnDetection::Manual | TurnDetection::Relay => Value::Null,
        };
    }
    if setup.tools.is_some() {
        session["tools"] = tools
            .iter()
            .map(|tool| {
                json!({
                    "type": "function", "name": tool.name, "description": tool.description,
                    "parameters": if tool.parameters.is_null() { json!({"type": "object"}) } else { tool.parameters.clone() },
                })
            })
            .collect();
    }
    session
}

/// The first `session.update`: formats, set-up, and `vendor` over all of it.
pub fn session(uplink: Format, downlink: Format, setup: &Setup, tools: &[ToolDefinition], vendor: &Value) -> Value {
    let mut session = session_fields(setup, tools);
    session["output_modalities"] = json!(["audio"]);
    session["audio"]["input"]["format"] = wire_format(uplink).unwrap_or_default();
    session["audio"]["output"]["format"] = wire_format(downlink).unwrap_or_default();
    merge(&mut session, vendor);
    session
}

/// `over` on top of `base`: tables are merged, everything else is replaced.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Object(Map::new())), value);
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over.clone(),
    }
}

/// An utterance of the past as an item of the conversation.
pub fn context_item(item: &ContextItem) -> Value {
    let (role, kind) = match item.role {
        Role::User => ("user", "input_text"),
        Role::Agent => ("assistant", "output_text"),
    };
    json!({
        "type": "conversation.item.create",
        "item": {"type": "message", "role": role, "content": [{"type": kind, "text": item.text}]},
    })
}
