//! What an ElevenLabs conversation says, read from its JSON.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::agent::audio_json::{self, Text};
use crate::media::format::{Format, FormatError};
use crate::message::Word;

/// One message of the service.
pub(super) enum Said {
    /// The conversation has begun; both formats as the service names them.
    Metadata { uplink: String, downlink: String },
    /// Audio of an answer.
    Audio { event: u64, payload: Bytes, words: Vec<Word> },
    /// What the caller said; `is_final` or tentative.
    UserTranscript { text: String, is_final: bool },
    /// What the agent says.
    Response { event: u64, text: String },
    /// A piece of a written answer; `None`: its first or last, empty one.
    Part { event: u64, text: String },
    /// What was left of an answer that was interrupted, as the service sees it.
    Correction { event: u64, text: String },
    /// Audio up to this event is void.
    Interruption { event: u64 },
    /// To be answered.
    Ping { event: Value },
    /// A tool of the client.
    ToolCall { name: String, call: String, arguments: String },
    /// A tool that ran at the service.
    ToolResponse { name: String },
    /// The agent writes, or stopped.
    Typing(bool),
    /// Something went wrong.
    Error(ErrorEvent),
    /// Something that a human should see.
    Guardrail(Value),
    /// Of no use to a relay, or unknown.
    Nothing,
}

/// `error`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorEvent {
    /// The close code that it would be.
    pub code: u16,
    /// Its name.
    pub error_type: Option<String>,
    /// In words.
    pub message: Option<String>,
    /// More of them.
    pub reason: Option<String>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    audio_event: Option<AudioEvent<'a>>,
}

#[derive(Deserialize)]
struct AudioEvent<'a> {
    #[serde(borrow)]
    audio_base_64: Text<'a>,
    #[serde(deserialize_with = "number")]
    event_id: u64,
    #[serde(default)]
    alignment: Option<Alignment>,
}

/// When each character is spoken, within the audio of the same message.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Alignment {
    chars: Vec<String>,
    char_start_times_ms: Vec<f64>,
    char_durations_ms: Vec<f64>,
}

#[derive(Deserialize)]
struct Payload<T> {
    #[serde(
        alias = "conversation_initiation_metadata_event",
        alias = "user_transcription_event",
        alias = "tentative_user_transcription_event",
        alias = "agent_response_event",
        alias = "agent_response_correction_event",
        alias = "text_response_part",
        alias = "interruption_event",
        alias = "ping_event",
        alias = "client_tool_call",
        alias = "agent_tool_response",
        alias = "agent_typing_event",
        alias = "error_event"
    )]
    event: T,
}

#[derive(Deserialize)]
struct Metadata {
    agent_output_audio_format: String,
    user_input_audio_format: String,
}

#[derive(Deserialize)]
struct UserTranscript {
    user_transcript: String,
}

#[derive(Deserialize)]
struct Response {
    agent_response: String,
    #[serde(default, deserialize_with = "number")]
    event_id: u64,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
    #[serde(default, deserialize_with = "number")]
    event_id: u64,
}

#[derive(Deserialize)]
struct Correction {
    corrected_agent_response: String,
    #[serde(default, deserialize_with = "number")]
    event_id: u64,
}

#[derive(Deserialize)]
struct Interruption {
    #[serde(deserialize_with = "number")]
    event_id: u64,
}

#[derive(Deserialize)]
struct Ping {
    event_id: Value,
}

#[derive(Deserialize)]
struct ToolCall {
    tool_name: String,
    tool_call_id: String,
    #[serde(default)]
    parameters: Value,
}

#[derive(Deserialize)]
struct ToolResponse {
    tool_name: String,
}

#[derive(Deserialize)]
struct AgentTyping {
    is_typing: bool,
}

/// Event ids are whole numbers, in JSON a number or its text.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<'a> {
        Number(u64),
        Text(#[serde(borrow)] Cow<'a, str>),
    }
    match Either::deserialize(from)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// Reads one text frame.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(text: &str) -> Result<Said, String> {
    let frame: Frame<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let (Some(audio), "audio") = (frame.audio_event, &*frame.kind) {
        let payload = audio_json::decode(&audio.audio_base_64.0).ok_or("`audio_base_64` is not base64")?;
        let words = audio.alignment.map(words).unwrap_or_default();
        return Ok(Said::Audio { event: audio.event_id, payload, words });
    }
    fn event<'a, T: Deserialize<'a>>(text: &'a str, kind: &str) -> Result<T, String> {
        let payload: Payload<T> = serde_json::from_str(text).map_err(|error| format!("`{kind}`: {error}"))?;
        Ok(payload.event)
    }
    Ok(match &*frame.kind {
        kind @ "conversation_initiation_metadata" => {
            let Metadata { agent_output_audio_format, user_input_audio_format } = event(text, kind)?;
            Said::Metadata { uplink: user_input_audio_format, downlink: agent_output_audio_format }
        }
        kind @ ("user_transcript" | "tentative_user_transcript") => {
            let UserTranscript { user_transcript } = event(text, kind)?;
            Said::UserTranscript { text: user_transcript, is_final: kind == "user_transcript" }
        }
        kind @ "agent_response" => {
            let Response { agent_response, event_id } = event(text, kind)?;
            Said::Response { event: event_id, text: agent_response }
        }
        kind @ "agent_chat_response_part" => {
            let Part { text, event_id } = event(text, kind)?;
            Said::Part { event: event_id, text }
        }
        kind @ "agent_response_correction" => {
            let Correction { corrected_agent_response, event_id } = event(text, kind)?;
            Said::Correction { event: event_id, text: corrected_agent_response }
        }
        kind @ "interruption" => Said::Interruption { event: event::<Interruption>(text, kind)?.event_id },
        kind @ "ping" => Said::Ping { event: event::<Ping>(text, kind)?.event_id },
        kind @ "client_tool_call" => {
            let ToolCall { tool_name, tool_call_id, parameters } = event(text, kind)?;
            Said::ToolCall { name: tool_name, call: tool_call_id, arguments: parameters.to_string() }
        }
        kind @ "agent_tool_response" => Said::ToolResponse { name: event::<ToolResponse>(text, kind)?.tool_name },
        kind @ "agent_typing" => Said::Typing(event::<AgentTyping>(text, kind)?.is_typing),
        kind @ "error" => Said::Error(event(text, kind)?),
        "guardrail_triggered" => Said::Guardrail(serde_json::from_str(text).unwrap_or_default()),
        _ => Said::Nothing,
    })
}

/// Runs of characters up to and with white space, each with its time.
fn words(alignment: Alignment) -> Vec<Word> {
    let Alignment { chars, char_start_times_ms, char_durations_ms } = alignment;
    let ms = |ms: f64| Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
    let mut words: Vec<Word> = Vec::new();
    let mut open = false;
    for ((char, start), length) in chars.into_iter().zip(char_start_times_ms).zip(char_durations_ms) {
        let blank = char.chars().all(char::is_whitespace);
        let end = ms(start + length);
        match words.last_mut().filter(|_| open || blank) {
            Some(word) => {
                word.text.push_str(&char);
                if !blank {
                    word.end = end;
                }
            }
            None => words.push(Word { text: char, start: ms(start), end }),
        }
        open = !blank;
    }
    words
}

/// A format as the service names it (`pcm_16000`, `ulaw_8000`).
///
/// # Errors
/// Why it cannot be served.
pub(super) fn format(name: &str) -> Result<Format, FormatError> {
    let wrong = || FormatError::Text(name.to_owned());
    let (codec, rate) = name.split_once('_').ok_or_else(wrong)?;
    let rate: u32 = rate.parse().map_err(|_| wrong())?;
    let format = match codec {
        "pcm" => Format::pcm16(rate),
        "ulaw" => Format { rate, ..Format::PCMU },
        "alaw" => Format { rate, ..Format::PCMA },
        _ => return Err(wrong()),
    };
    format.check().map(|()| format)
}
