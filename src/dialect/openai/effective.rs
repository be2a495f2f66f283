//! The session as a client of the Realtime wire sees it: what is in force, and what it asks to be changed.

use serde_json::{Value, json};

use crate::agent::openai::opening::{format_of, wire_format};
use crate::message::{AudioFormats, Setup, Tool, ToolDefinition, TurnDetection, Turns};

/// What is known of a session before it has begun: an agent's own set-up is not.
pub fn outline(id: &str, model: &str, audio: Option<AudioFormats>) -> Value {
    let mut session = json!({
        "type": "realtime", "object": "realtime.session", "id": id, "model": model, "output_modalities": ["audio"],
        "audio": { "input": {}, "output": {} },
    });
    if let Some(audio) = audio {
        session["audio"]["input"]["format"] = wire_format(audio.uplink).unwrap_or_default();
        session["audio"]["output"]["format"] = wire_format(audio.downlink).unwrap_or_default();
    }
    session
}

/// The whole session with the set-up in force; what this relay neither decides nor knows is left out. `audio`: where it
/// is carried by this wire.
pub fn session(id: &str, model: &str, audio: Option<AudioFormats>, setup: &Setup) -> Value {
    let mut session = outline(id, model, audio);
    session["instructions"] = setup.instructions.as_deref().unwrap_or_default().into();
    session["tools"] = setup.tools.iter().flatten().map(wire_tool).collect();
    session["tracing"] = Value::Null;
    let input = &mut session["audio"]["input"];
    input["noise_reduction"] = Value::Null;
    input["transcription"] = match (&setup.language, setup.transcribe) {
        (Some(language), _) => json!({ "language": language }),
        (None, Some(true)) => json!({}),
        (None, _) => Value::Null,
    };
    // Whatever agent is behind: it answers and stops by itself.
    let automatic = |kind: &str| json!({ "type": kind, "create_response": true, "interrupt_response": true });
    input["turn_detection"] = match setup.turns.map(|turns| turns.detect) {
        Some(TurnDetection::Manual) => Value::Null,
        Some(TurnDetection::Semantic) => automatic("semantic_vad"),
        Some(TurnDetection::Server | TurnDetection::Relay) | None => automatic("server_vad"),
    };
    if let Some(voice) = &setup.voice {
        session["audio"]["output"]["voice"] = voice.as_str().into();
    }
    session
}

/// Whether the client says when its turns end.
pub fn is_manual(setup: &Setup) -> bool {
    setup.turns.is_some_and(|turns| turns.detect == TurnDetection::Manual)
}

fn wire_tool(tool: &Tool) -> Value {
    match tool {
        Tool::Named(name) => json!({ "type": "function", "name": name }),
        Tool::Defined(tool) => json!({
            "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters,
        }),
    }
}

/// The formats that an update asks for, over those in force.
///
/// # Errors
/// The field that names no format of this wire.
pub fn formats(asked: &Value, now: AudioFormats) -> Result<AudioFormats, &'static str> {
    let told = |direction: &str| Some(&asked["audio"][direction]["format"]).filter(|format| !format.is_null());
    let mut audio = now;
    if let Some(format) = told("input") {
        audio.uplink = format_of(format).filter(|format| format.check().is_ok()).ok_or("session.audio.input.format")?;
    }
    if let Some(format) = told("output") {
        audio.downlink =
            format_of(format).filter(|format| format.check().is_ok()).ok_or("session.audio.output.format")?;
    }
    Ok(audio)
}

/// The neutral fields that an update asks to be changed.
pub fn setup(asked: &Value) -> Setup {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let input = &asked["audio"]["input"];
    let turns = input.get("turn_detection").map(|detection| Turns {
        detect: match detection["type"].as_str() {
            None => TurnDetection::Manual,
            Some("semantic_vad") => TurnDetection::Semantic,
            Some(_) => TurnDetection::Server,
        },
    });
    let tools = asked["tools"].as_array().map(|tools| tools.iter().filter_map(tool).collect());
    let voice = &asked["audio"]["output"]["voice"];
    Setup {
        instructions: text(&asked["instructions"]),
        voice: text(voice).or_else(|| text(&voice["id"])),
        language: text(&input["transcription"]["language"]),
        transcribe: input.get("transcription").map(|transcription| !transcription.is_null()),
        turns,
        tools,
        ..Setup::default()
    }
}

fn tool(tool: &Value) -> Option<Tool> {
    let name = tool["name"].as_str().filter(|name| !name.is_empty() && name.len() <= 128)?.to_owned();
    let description = tool["description"].as_str().unwrap_or_default().to_owned();
    (tool["type"] == "function")
        .then(|| Tool::Defined(ToolDefinition { name, description, parameters: tool["parameters"].clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::format::Format;

    #[test]
    fn every_field_of_the_echo_comes_from_what_is_in_force() {
        let pcm = Format::pcm16(24_000);
        let audio = AudioFormats { uplink: Format::PCMU, downlink: pcm, flow: None };
        let asked = json!({
            "instructions": "Be rude.", "model": "other", "output_modalities": ["text"], "tool_choice": "required",
            "max_output_tokens": 5, "tracing": "auto", "speed": 2,
            "tools": [{"type": "function", "name": "look", "description": "Looks", "parameters": {"type": "object"}}, {"type": "mcp"}],
            "audio": {
                "input": {
                    "transcription": {"model": "whisper-1", "language": "de"}, "noise_reduction": {"type": "near_field"},
                    "turn_detection": {"type": "semantic_vad", "eagerness": "low", "interrupt_response": false},
                },
                "output": {"voice": "cedar", "speed": 1.5},
            },
        });
        let setup = setup(&asked);
        assert_eq!(setup.set_fields(), ["instructions", "voice", "language", "transcribe", "turns", "tools"]);
        let told = session("sess_1", "m", Some(audio), &setup);
        assert_eq!(
            told,
            json!({
                "type": "realtime", "object": "realtime.session", "id": "sess_1", "model": "m",
                "output_modalities": ["audio"], "instructions": "Be rude.", "tracing": null,
                "tools": [{"type": "function", "name": "look", "description": "Looks", "parameters": {"type": "object"}}],
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcmu"}, "noise_reduction": null, "transcription": {"language": "de"},
                        "turn_detection": {"type": "semantic_vad", "create_response": true, "interrupt_response": true},
                    },
                    "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "cedar"},
                },
            })
        );
        assert_eq!(self::setup(&told), setup, "what is echoed can be sent again");
    }

    #[test]
    fn null_and_empty_values_clear_and_absent_ones_ask_for_nothing() {
        let cleared = setup(&json!({
            "instructions": "", "tools": [], "audio": {"input": {"turn_detection": null, "transcription": null}},
        }));
        assert_eq!(cleared.set_fields(), ["instructions", "transcribe", "turns", "tools"]);
        let told = session("s", "m", None, &cleared);
        assert_eq!((&told["instructions"], &told["tools"]), (&json!(""), &json!([])));
        assert!(told["audio"]["input"]["turn_detection"].is_null() && is_manual(&cleared));
        assert!(told["audio"]["input"].get("format").is_none(), "audio travels beside this wire");
        assert!(setup(&json!({"type": "realtime"})).set_fields().is_empty());
    }

    #[test]
    fn only_the_formats_of_this_wire_can_be_asked_for() {
        let pcm = Format::pcm16(24_000);
        let audio = AudioFormats { uplink: pcm, downlink: pcm, flow: None };
        let asked = |direction: &str, format: Value| json!({"audio": {direction: {"format": format}}});
        let taken = formats(&asked("input", json!({"type": "audio/pcmu"})), audio);
        assert_eq!(taken, Ok(AudioFormats { uplink: Format::PCMU, ..audio }));
        let refused = formats(&asked("output", json!({"type": "audio/ogg"})), audio);
        assert_eq!(refused, Err("session.audio.output.format"));
    }
}
