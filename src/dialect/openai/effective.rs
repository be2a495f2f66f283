//! The session as a client of the Realtime wire sees it: what is in force, and what it asks to be changed.

use serde_json::{Value, json};

use crate::agent::openai::opening::{format_of, wire_format};
use crate::message::{AudioFormats, Setup, Tool, ToolDefinition, TurnDetection, Turns};

/// Set-up fields, and where each stands in a session.
const PLACES: [(&str, &[&str]); 6] = [
    ("instructions", &["instructions"]),
    ("voice", &["audio", "output", "voice"]),
    ("language", &["audio", "input", "transcription"]),
    ("transcribe", &["audio", "input", "transcription"]),
    ("turns", &["audio", "input", "turn_detection"]),
    ("tools", &["tools"]),
];

/// A session as it is before anybody asked for anything.
pub fn session(id: &str, model: &str, audio: AudioFormats) -> Value {
    json!({
        "type": "realtime", "object": "realtime.session", "id": id, "model": model, "output_modalities": ["audio"],
        "instructions": "", "tools": [], "tool_choice": "auto", "max_output_tokens": "inf", "tracing": null,
        "audio": {
            "input": {
                "format": wire_format(audio.uplink), "transcription": null, "noise_reduction": null,
                "turn_detection": {
                    "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500,
                    "create_response": true, "interrupt_response": true, "idle_timeout_ms": null,
                },
            },
            "output": {"format": wire_format(audio.downlink), "voice": "default", "speed": 1.0},
        },
    })
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

/// Takes what was asked for into the session, but for the set-up fields that were refused, the formats, which are
/// those of the link, and everything that this relay does not pass on.
pub fn take(session: &mut Value, asked: &Value, refused: &[String]) {
    for (field, place) in PLACES {
        let refused = refused.iter().any(|refused| refused == field);
        let value = place.iter().try_fold(asked, |value, part| value.get(part));
        if let Some(value) = value.filter(|_| !refused) {
            let slot = place.iter().fold(&mut *session, |value, part| &mut value[*part]);
            *slot = value.clone();
            if field == "turns" && slot.is_object() {
                // Whatever agent is behind: it answers and stops by itself.
                (slot["create_response"], slot["interrupt_response"]) = (true.into(), true.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::format::Format;

    #[test]
    fn the_echo_has_what_was_taken_and_nothing_that_was_refused() {
        let pcm = Format::pcm16(24_000);
        let audio = AudioFormats { uplink: pcm, downlink: pcm, flow: None };
        let mut told = session("sess_1", "m", audio);
        let asked = json!({
            "instructions": "Be rude.", "tools": [{"type": "function", "name": "look"}, {"type": "mcp"}],
            "audio": {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": {"type": "semantic_vad", "interrupt_response": false}},
                "output": {"voice": "cedar"}},
        });
        assert_eq!(formats(&asked, audio), Ok(AudioFormats { uplink: Format::PCMU, ..audio }));
        assert_eq!(
            formats(&json!({"audio": {"output": {"format": {"type": "audio/ogg"}}}}), audio),
            Err("session.audio.output.format")
        );
        let setup = setup(&asked);
        assert_eq!(setup.set_fields(), ["instructions", "voice", "turns", "tools"]);
        assert_eq!(
            setup.tools.as_ref().map(|tools| tools.iter().map(|tool| tool.name()).collect()),
            Some(vec!["look"])
        );
        take(&mut told, &asked, &["instructions".into()]);
        assert_eq!((&told["instructions"], &told["audio"]["output"]["voice"]), (&json!(""), &json!("cedar")));
        assert_eq!(told["audio"]["input"]["turn_detection"]["interrupt_response"], true);
        assert_eq!(told["audio"]["input"]["format"]["type"], "audio/pcm");
    }
}
