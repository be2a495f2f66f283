//! The first message of a conversation, and which fields of a set-up it can carry.

use serde_json::{Value, json};

use crate::message::{AgentStart, Greeting, Setup, TurnDetection};

/// `conversation_initiation_client_data`, without the operator's own fields; and the fields that it cannot carry.
pub(super) fn opening(start: &AgentStart) -> (Value, Vec<String>) {
    let Setup { instructions, voice, language, model, greeting, transcribe, turns, tools } = &start.setup;
    let mut message = json!({ "type": "conversation_initiation_client_data" });
    let mut missing = Vec::new();
    let config = |field: &str| format!("/conversation_config_override/{field}");
    let mut set = |field: &str, value: &str| set(&mut message, &config(field), value.into());
    let texts = [
        ("agent/prompt/prompt", instructions),
        ("agent/prompt/llm", model),
        ("agent/language", language),
        ("tts/voice_id", voice),
    ];
    for (field, text) in texts {
        if let Some(text) = text {
            set(field, text);
        }
    }
    match greeting {
        _ if !start.greet => set("agent/first_message", ""),
        Some(Greeting::Say(text)) => set("agent/first_message", text),
        // What a prompt asks for is said when the agent is ready.
        Some(Greeting::None | Greeting::Prompt(_)) => set("agent/first_message", ""),
        Some(Greeting::Clip(_)) => missing.push("greeting".to_owned()),
        Some(Greeting::Agent) | None => {}
    }
    if *transcribe == Some(false) {
        missing.push("transcribe".to_owned());
    }
    if turns.is_some_and(|turns| turns.detect != TurnDetection::Server) {
        missing.push("turns".to_owned());
    }
    if tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        missing.push("tools".to_owned());
    }
    (message, missing)
}

/// Sets a field at a path of tables, which are made.
fn set(message: &mut Value, path: &str, value: Value) {
    let place = path.split('/').skip(1).fold(message, |table, key| &mut table[key]);
    *place = value;
}

/// The neutral fields that a refusal of overrides is about: those that it names, else all that were sent.
pub(super) fn refused(message: &str, sent: &Value) -> Vec<String> {
    const FIELDS: [(&str, &str, &str); 5] = [
        ("prompt", "/conversation_config_override/agent/prompt/prompt", "instructions"),
        ("first_message", "/conversation_config_override/agent/first_message", "greeting"),
        ("language", "/conversation_config_override/agent/language", "language"),
        ("llm", "/conversation_config_override/agent/prompt/llm", "model"),
        ("voice", "/conversation_config_override/tts/voice_id", "voice"),
    ];
    let sent = FIELDS.iter().filter(|(_, path, _)| sent.pointer(path).is_some());
    let named: Vec<String> =
        sent.clone().filter(|(word, _, _)| message.contains(word)).map(|(_, _, field)| (*field).to_owned()).collect();
    if named.is_empty() { sent.map(|(_, _, field)| (*field).to_owned()).collect() } else { named }
}
