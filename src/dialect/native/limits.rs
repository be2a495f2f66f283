//! What a client may send at most, checked once, when a message is read.

use serde_json::Value;

use crate::dialect::native::codec::bad;
use crate::media::format::{Format, FormatError};
use crate::message::{ContextItem, Error, ErrorCode, FromClient, Setup, Start};

/// Longest id and name, in characters.
pub const MAX_ID_CHARS: usize = 128;
/// Longest text message and transcript, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;
/// Largest `context`, in bytes of JSON.
pub const MAX_CONTEXT_BYTES: usize = 2 * 1024;
/// Largest `metadata`, in bytes of JSON.
pub const MAX_METADATA_BYTES: usize = 8 * 1024;
/// Most telephone keys in one `dtmf`.
pub const MAX_DTMF_DIGITS: usize = 64;
/// Most utterances in `start.history`.
pub const MAX_HISTORY_ITEMS: usize = 512;
/// Longest `resume`, in bytes.
pub const MAX_RESUME_BYTES: usize = 8 * 1024;
/// Longest audio frame, in milliseconds, of formats with a fixed size per sample.
pub const MAX_FRAME_MS: u64 = 250;

/// Checks a `start`.
pub(crate) fn check_start(start: &Start) -> Result<(), Error> {
    if let Some(audio) = &start.audio {
        check_format(&audio.uplink, "audio.in", true)?;
        check_format(&audio.downlink, "audio.out", false)?;
    }
    id("agent", start.agent.as_ref().map(|name| name.as_str()))?;
    id("conversation_id", start.conversation_id.as_ref().map(|id| id.as_str()))?;
    id("session_id", start.session_id.as_ref().map(|id| id.as_str()))?;
    json("context", start.context.as_ref(), MAX_CONTEXT_BYTES)?;
    json("metadata", start.metadata.as_ref(), MAX_METADATA_BYTES)?;
    // Of a token admission says whether it is too long.
    bytes("resume", start.resume.as_deref(), MAX_RESUME_BYTES)?;
    utterances("history", &start.history)?;
    start.setup.as_ref().map_or(Ok(()), |setup| check_setup(setup, "setup"))
}

/// Checks any other message of a client.
pub(crate) fn check(message: &FromClient) -> Result<(), Error> {
    match message {
        FromClient::Message(message) => {
            id("id", Some(message.id.as_str()))?;
            bytes("text", Some(&message.text), MAX_TEXT_BYTES)
        }
        FromClient::Transcript(transcript) => {
            id("item", Some(transcript.item.as_str()))?;
            bytes("text", transcript.text.as_deref(), MAX_TEXT_BYTES)
        }
        FromClient::ToolResult(result) => id("call_id", Some(result.call_id.as_str())),
        FromClient::App(app) => id("name", Some(&app.name)),
        FromClient::Update(update) => check_setup(&update.setup, "setup"),
        FromClient::History(history) => utterances("items", &history.items),
        FromClient::Dtmf(dtmf) => digits(&dtmf.digits),
        _ => Ok(()),
    }
}

fn utterances(field: &str, items: &[ContextItem]) -> Result<(), Error> {
    if items.len() > MAX_HISTORY_ITEMS {
        return Err(over(field, items.len(), MAX_HISTORY_ITEMS, "utterances"));
    }
    Ok(())
}

fn check_setup(setup: &Setup, at: &str) -> Result<(), Error> {
    id(&format!("{at}.voice"), setup.voice.as_deref())?;
    id(&format!("{at}.language"), setup.language.as_deref())?;
    id(&format!("{at}.model"), setup.model.as_deref())?;
    for (index, tool) in setup.tools.iter().flatten().enumerate() {
        id(&format!("{at}.tools[{index}]"), Some(tool.name()))?;
    }
    Ok(())
}

fn check_format(format: &Format, at: &str, stereo: bool) -> Result<(), Error> {
    let wrong = |part: &str, why: String| Error {
        field: Some(format!("{at}.{part}")),
        ..Error::new(ErrorCode::BadFormat, format!("`{at}` in `start`: {why}"))
    };
    format.check().map_err(|error| match &error {
        FormatError::Channels { .. } => wrong("channels", error.to_string()),
        _ => wrong("rate", error.to_string()),
    })?;
    if format.channels != 1 && !stereo {
        return Err(wrong("channels", "audio towards the client is mono; use 1 channel".to_owned()));
    }
    Ok(())
}

fn id(field: &str, text: Option<&str>) -> Result<(), Error> {
    let Some(text) = text else { return Ok(()) };
    let chars = text.chars().take(MAX_ID_CHARS + 1).count();
    if chars == 0 || chars > MAX_ID_CHARS {
        let how = if chars == 0 { "is empty" } else { "is too long" };
        return Err(bad(Some(field.to_owned()), format!("`{field}` {how}; use 1 to {MAX_ID_CHARS} characters")));
    }
    Ok(())
}

fn bytes(field: &str, text: Option<&str>, max: usize) -> Result<(), Error> {
    match text.map(str::len) {
        Some(len) if len > max => Err(over(field, len, max, "bytes")),
        _ => Ok(()),
    }
}

fn json(field: &str, value: Option<&Value>, max: usize) -> Result<(), Error> {
    let len = value.map_or(0, |value| serde_json::to_vec(value).map_or(usize::MAX, |text| text.len()));
    if len > max { Err(over(field, len, max, "bytes of JSON")) } else { Ok(()) }
}

fn digits(text: &str) -> Result<(), Error> {
    let field = || Some("digits".to_owned());
    if text.is_empty() || text.len() > MAX_DTMF_DIGITS {
        return Err(bad(field(), format!("`digits` in `dtmf` has {} keys; send 1 to {MAX_DTMF_DIGITS}", text.len())));
    }
    match text.chars().find(|key| !matches!(key, '0'..='9' | '*' | '#' | 'A'..='D')) {
        Some(key) => Err(bad(field(), format!("`digits` in `dtmf` has {key:?}; keys are 0-9 * # A-D"))),
        None => Ok(()),
    }
}

fn over(field: &str, is: usize, max: usize, unit: &str) -> Error {
    bad(Some(field.to_owned()), format!("`{field}` has {is} {unit}; at most {max} are allowed: send less"))
}
