//! What a Live session is told at its start and when the set-up changes.

use serde_json::{Map, Value, json};

use crate::agent::openai::opening::merge;
use crate::agent::setup::SetupRow;
use crate::media::format::{Codec, Format};
use crate::message::{AgentStart, ContextItem, Greeting, Role, Setup, ToolDefinition};

/// Neutral field to wire field.
pub const SETUP: &[SetupRow] = &[
    ("instructions", Some("session.instructions")),
    ("voice", Some("session.audio.output.voice")),
    ("language", None),
    ("model", Some("session.model")),
    ("greeting", Some("session.commentary.append")),
    ("transcribe", Some("always on")),
    ("turns", None),
    ("tools", Some("session.delegation.responses.tools")),
];

/// The model where neither the set-up nor `vendor` names one.
const MODEL: &str = "gpt-live-1";
/// Messages of the past that a session takes at its start.
const INPUT: usize = 128;
/// Longest text of one append: 500 tokens are allowed, of which no language needs more than one for three bytes.
const APPEND_BYTES: usize = 1_200;

/// A format as the wire names it; `None` if it has no name there.
pub fn wire_format(format: Format) -> Option<Value> {
    let name = match format.codec {
        Codec::Pcm16 if matches!(format.rate, 16_000 | 24_000) && format.channels == 1 => "audio/pcm",
        Codec::Pcmu => "audio/pcmu",
        Codec::Pcma => "audio/pcma",
        _ => return None,
    };
    Some(json!({"type": name, "rate": format.rate}))
}

/// The `session` of `session.start`, with `vendor` over all of it.
pub fn session(format: Format, start: &AgentStart, model: Option<&str>, tools: &[Value], vendor: &Value) -> Value {
    let mut session = json!({"model": model.unwrap_or(MODEL)});
    let setup = &start.setup;
    if let Some(instructions) = &setup.instructions {
        session["instructions"] = instructions.as_str().into();
    }
    session["audio"]["format"] = wire_format(format).unwrap_or_default();
    if let Some(voice) = &setup.voice {
        session["audio"]["output"]["voice"] = voice.as_str().into();
    }
    if !start.context.is_empty() {
        let from = start.context.len().saturating_sub(INPUT);
        session["input"] = start.context[from..].iter().map(input_item).collect();
    }
    if !tools.is_empty() {
        session["delegation"]["responses"]["tools"] = tools.into();
    }
    merge(&mut session, vendor);
    session
}

fn input_item(item: &ContextItem) -> Value {
    let (role, kind) = match item.role {
        Role::User => ("user", "input_text"),
        Role::Agent => ("assistant", "output_text"),
    };
    json!({"type": "message", "role": role, "content": [{"type": kind, "text": item.text}]})
}

/// Tools as the model behind a Live session is told of them.
pub fn tools(tools: &[ToolDefinition]) -> Vec<Value> {
    let one = |tool: &ToolDefinition| {
        let parameters = match &tool.parameters {
            Value::Null => json!({"type": "object", "properties": Map::new()}),
            parameters => parameters.clone(),
        };
        json!({"type": "function", "name": tool.name, "description": tool.description, "parameters": parameters})
    };
    tools.iter().map(one).collect()
}

/// What of a set-up has no effect; `backend`: there is a model behind the session that can call tools.
pub fn not_applied(setup: &Setup, backend: bool) -> Vec<String> {
    let delegates = setup.tools.iter().flatten().all(|tool| tool.name() == super::delegations::DELEGATE);
    let missing = [
        ("greeting", matches!(setup.greeting, Some(Greeting::Clip(_)))),
        ("language", setup.language.is_some()),
        ("transcribe", setup.transcribe == Some(false)),
        ("turns", setup.turns.is_some()),
        ("tools", setup.tools.is_some() && !backend && !delegates),
    ];
    missing.iter().filter(|(_, missing)| *missing).map(|(name, _)| (*name).to_owned()).collect()
}

/// What the model is asked to say first.
pub fn greeting(start: &AgentStart) -> Option<String> {
    match start.setup.greeting.as_ref().filter(|_| start.greet)? {
        Greeting::Say(text) => Some(format!("Open the conversation now with exactly these words: {text}")),
        Greeting::Prompt(prompt) => Some(prompt.clone()),
        Greeting::Agent => Some("Open the conversation now: greet the caller.".to_owned()),
        Greeting::Clip(_) | Greeting::None => None,
    }
}

/// An append of `text`, in as many events as it needs: `channel` is `commentary` (to be spoken), `thinking` (to be
/// known) or `instructions`.
pub fn append(channel: &str, delegation: Option<&str>, text: &str) -> Vec<Value> {
    let event = |piece: &str| json!({"type": format!("session.{channel}.append"), "delegation_id": delegation, "content": piece});
    let mut rest = text.trim();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let mut end = rest.len();
        if end > APPEND_BYTES {
            end = rest.floor_char_boundary(APPEND_BYTES);
            end = rest[..end].rfind(char::is_whitespace).filter(|&at| at > 0).unwrap_or(end);
        }
        out.push(event(rest[..end].trim_end()));
        rest = rest[end..].trim_start();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_appended_in_pieces_that_end_at_words_and_lose_none() {
        let text = "Wörter über Wörter ".repeat(200);
        let pieces = append("thinking", None, &text);
        let pieces: Vec<&str> = pieces.iter().map(|event| event["content"].as_str().unwrap_or_default()).collect();
        assert!(pieces.len() > 2 && pieces.iter().all(|piece| piece.len() <= APPEND_BYTES));
        assert_eq!(pieces.join(" "), text.trim());
        let endless = "x".repeat(3_000);
        let pieces = append("commentary", Some("d"), &endless);
        assert_eq!((pieces.len(), &pieces[0]["delegation_id"]), (3, &json!("d")));
        assert!(append("thinking", None, "  ").is_empty());
    }

    #[test]
    fn formats_that_a_session_takes_have_a_name() {
        assert_eq!(wire_format(Format::pcm16(16_000)), Some(json!({"type": "audio/pcm", "rate": 16_000})));
        assert_eq!(wire_format(Format::PCMU), Some(json!({"type": "audio/pcmu", "rate": 8_000})));
        assert_eq!(wire_format(Format::pcm16(8_000)), None);
        assert_eq!(wire_format(Format::OPUS), None);
    }
}
