//! `setup`, the first message, and which fields of a set-up it can carry.

use serde_json::{Map, Value, json};

use crate::agent::native::merge;
use crate::agent::setup::SetupRow;
use crate::config::vendor::VendorAgent;
use crate::message::{AgentStart, ContextItem, Greeting, Role, Setup, TurnDetection};

/// Spoken with if nobody says otherwise.
const MODEL: &str = "models/gemini-2.5-flash-native-audio-preview-12-2025";

/// What each field of a set-up becomes, below `setup`.
pub const SETUP: &[SetupRow] = &[
    ("instructions", Some("systemInstruction")),
    ("voice", Some("generationConfig.speechConfig.voiceConfig.prebuiltVoiceConfig.voiceName")),
    ("language", Some("generationConfig.speechConfig.languageCode")),
    ("model", Some("model")),
    ("greeting", Some("a first `realtimeInput.text` that asks for it")),
    ("transcribe", Some("inputAudioTranscription")),
    ("turns", Some("realtimeInputConfig.automaticActivityDetection")),
    ("tools", Some("tools[0].functionDeclarations")),
];

/// The opening of a conversation.
#[derive(Debug)]
pub(super) struct Opening {
    /// The message.
    pub message: Value,
    /// Fields of the set-up that it cannot carry.
    pub missing: Vec<String>,
    /// The client says when the caller speaks.
    pub manual: Option<TurnDetection>,
}

/// `setup`, the operator's own fields merged into it. With `handle` an earlier session goes on.
pub(super) fn opening(settings: &VendorAgent, start: &AgentStart, vendor: &Value, handle: Option<&str>) -> Opening {
    let Setup { instructions, voice, language, model, greeting, transcribe, turns, tools } = &start.setup;
    let mut missing = Vec::new();
    let mut speech = Map::new();
    if let Some(voice) = voice {
        speech.insert("voiceConfig".into(), json!({ "prebuiltVoiceConfig": { "voiceName": voice } }));
    }
    if let Some(language) = language {
        speech.insert("languageCode".into(), language.as_str().into());
    }
    let mut generation = json!({ "responseModalities": ["AUDIO"] });
    if !speech.is_empty() {
        generation["speechConfig"] = Value::Object(speech);
    }
    let mut setup = json!({
        "model": model.as_ref().map_or_else(|| MODEL.to_owned(), |model| resource(model)),
        "generationConfig": generation,
        "outputAudioTranscription": {},
        "sessionResumption": handle.map_or_else(|| json!({}), |handle| json!({ "handle": handle })),
    });
    if let Some(text) = instructions {
        setup["systemInstruction"] = json!({ "parts": [{ "text": text }] });
    }
    if *transcribe != Some(false) {
        setup["inputAudioTranscription"] = json!({});
    }
    let detect = turns.map(|turns| turns.detect);
    let manual = detect.filter(|detect| matches!(detect, TurnDetection::Manual | TurnDetection::Relay));
    match detect {
        Some(TurnDetection::Manual | TurnDetection::Relay) => {
            setup["realtimeInputConfig"] = json!({ "automaticActivityDetection": { "disabled": true } });
        }
        Some(TurnDetection::Semantic) => missing.push("turns".to_owned()),
        Some(TurnDetection::Server) | None => {}
    }
    let functions: Vec<Value> = settings.tools(&start.setup).into_iter().map(function).collect();
    if functions.len() < tools.as_ref().map_or(0, Vec::len) {
        missing.push("tools".to_owned());
    }
    if !functions.is_empty() {
        setup["tools"] = json!([{ "functionDeclarations": functions }]);
    }
    if matches!(greeting, Some(Greeting::Clip(_))) && start.greet {
        missing.push("greeting".to_owned());
    }
    if !start.context.is_empty() && handle.is_none() {
        setup["historyConfig"] = json!({ "initialHistoryInClientContent": true });
    }
    if vendor.is_object() {
        merge(&mut setup, vendor);
    }
    Opening { message: json!({ "setup": setup }), missing, manual }
}

fn function(tool: crate::message::ToolDefinition) -> Value {
    let mut function = json!({ "name": tool.name, "description": tool.description });
    if !tool.parameters.is_null() {
        function["parametersJsonSchema"] = tool.parameters;
    }
    function
}

/// The resource name of a model.
fn resource(model: &str) -> String {
    if model.contains('/') { model.to_owned() } else { format!("models/{model}") }
}

/// What was said (`clientContent`); it asks for no answer. `complete` ends the history that the set-up announced; later
/// on it would ask for an answer.
pub(super) fn history(context: &[ContextItem], complete: bool) -> Value {
    let turn = |item: &ContextItem| {
        let role = if item.role == Role::User { "user" } else { "model" };
        json!({ "role": role, "parts": [{ "text": item.text }] })
    };
    let turns: Vec<Value> = context.iter().map(turn).collect();
    json!({ "clientContent": { "turns": turns, "turnComplete": complete } })
}

/// What makes the agent speak first.
pub(super) fn greeting(start: &AgentStart) -> Option<String> {
    match start.setup.greeting.as_ref().filter(|_| start.greet)? {
        Greeting::Say(text) => {
            Some(format!("(The call begins. Greet the caller with exactly these words and nothing else: {text})"))
        }
        Greeting::Prompt(prompt) => Some(prompt.clone()),
        Greeting::Clip(_) | Greeting::Agent | Greeting::None => None,
    }
}
