//! `Settings`, the first message, and which fields of a set-up it can carry.

use serde_json::{Value, json};

use crate::agent::native::merge;
use crate::config::vendor::VendorAgent;
use crate::media::format::{Codec, Format};
use crate::message::{AgentStart, AudioFormats, Greeting, Role, Setup, TurnDetection};

use super::wire::encoding;

/// What listens, thinks and speaks if nobody says otherwise.
const LISTENS: &str = "nova-3";
const THINKS: &str = "gpt-4o-mini";
const SPEAKS: &str = "aura-2-thalia-en";

/// The two formats of a call: those of the configuration, else the client's where audio can pass through untouched.
pub(super) fn formats(settings: &VendorAgent, client: Option<AudioFormats>) -> AudioFormats {
    const USUAL: Format = Format::pcm16(24_000);
    let adopted = |format: Format| {
        let possible = match format.codec {
            Codec::Opus => false,
            Codec::Pcm16 => [8_000, 16_000, 24_000, 48_000].contains(&format.rate) && format.channels == 1,
            Codec::Pcmu | Codec::Pcma => true,
        };
        if possible { format } else { USUAL }
    };
    let of = |own: Option<Format>, client: Option<Format>| {
        own.filter(|own| encoding(own).is_some()).unwrap_or_else(|| client.map_or(USUAL, adopted))
    };
    AudioFormats {
        uplink: of(settings.uplink, client.map(|audio| audio.uplink)),
        downlink: of(settings.downlink, client.map(|audio| audio.downlink)),
        flow: None,
    }
}

/// `Settings`, the operator's own fields merged in; and the fields of the set-up that it cannot carry.
pub(super) fn opening(
    settings: &VendorAgent,
    start: &AgentStart,
    audio: &AudioFormats,
    vendor: &Value,
) -> (Value, Vec<String>) {
    let (agent, mut missing) = agent(settings, start, vendor);
    let mut message = json!({
        "type": "Settings",
        "audio": {
            "input": { "encoding": encoding(&audio.uplink), "sample_rate": audio.uplink.rate },
            "output": {
                "encoding": encoding(&audio.downlink), "sample_rate": audio.downlink.rate, "container": "none",
            },
        },
        "agent": agent,
    });
    if vendor.as_object().is_some_and(|fields| !fields.is_empty()) {
        merge(&mut message, vendor);
    }
    if message["agent"].is_string() {
        // An agent that is kept at the vendor: it has its own settings.
        missing = start.setup.set_fields();
    }
    (message, missing)
}

fn agent(settings: &VendorAgent, start: &AgentStart, vendor: &Value) -> (Value, Vec<String>) {
    let Setup { instructions, voice, language, model, greeting, transcribe, turns, tools } = &start.setup;
    let mut missing = Vec::new();
    let provider = |role: &str, usual: Value| {
        let own = vendor.pointer(&format!("/agent/{role}/provider/type")).is_some();
        json!({ "provider": if own { json!({}) } else { usual } })
    };
    let mut listen = provider("listen", json!({ "type": "deepgram", "model": LISTENS }));
    let mut think = provider("think", json!({ "type": "open_ai", "model": THINKS }));
    let mut speak = provider("speak", json!({ "type": "deepgram", "model": SPEAKS }));
    if let Some(language) = language {
        listen["provider"]["language"] = language.as_str().into();
    }
    if let Some(text) = instructions {
        think["prompt"] = text.as_str().into();
    }
    if let Some(model) = model {
        think["provider"]["model"] = model.as_str().into();
        if think["provider"]["type"].is_string() {
            think["provider"]["type"] = thinks_with(model).into();
        }
    }
    if let Some(voice) = voice {
        let kind = vendor.pointer("/agent/speak/provider/type").and_then(Value::as_str).unwrap_or("deepgram");
        match kind {
            "deepgram" => speak["provider"]["model"] = voice.as_str().into(),
            "open_ai" | "aws_polly" => speak["provider"]["voice"] = voice.as_str().into(),
            _ => missing.push("voice".to_owned()),
        }
    }
    let functions: Vec<Value> = settings
        .tools(&start.setup)
        .into_iter()
        .map(|tool| json!({ "name": tool.name, "description": tool.description, "parameters": tool.parameters }))
        .collect();
    if functions.len() < tools.as_ref().map_or(0, Vec::len) {
        missing.push("tools".to_owned());
    }
    if !functions.is_empty() {
        think["functions"] = functions.into();
    }
    let mut agent = json!({ "listen": listen, "think": think, "speak": speak });
    match greeting {
        Some(Greeting::Say(text)) if start.greet => agent["greeting"] = text.as_str().into(),
        Some(Greeting::Clip(_)) if start.greet => missing.push("greeting".to_owned()),
        _ => {}
    }
    if *transcribe == Some(false) {
        missing.push("transcribe".to_owned());
    }
    if turns.is_some_and(|turns| turns.detect != TurnDetection::Server) {
        missing.push("turns".to_owned());
    }
    if !start.context.is_empty() {
        let role = |role| if role == Role::User { "user" } else { "assistant" };
        let messages: Vec<Value> = start
            .context
            .iter()
            .map(|item| json!({ "type": "History", "role": role(item.role), "content": item.text }))
            .collect();
        agent["context"] = json!({ "messages": messages });
    }
    (agent, missing)
}

/// Whose model it is, by its name.
fn thinks_with(model: &str) -> &'static str {
    if model.starts_with("claude") {
        "anthropic"
    } else if model.starts_with("gemini") {
        "google"
    } else if model.starts_with("openai/") {
        "groq"
    } else {
        "open_ai"
    }
}
