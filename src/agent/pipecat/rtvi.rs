//! RTVI messages (protocol 2), in frames of their own or as JSON on the socket: `{label, type, id, data}`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::agent::audio_json::Text;
use crate::message::Usage;

/// Of every message.
pub const LABEL: &str = "rtvi-ai";
/// The version that this side speaks.
pub const VERSION: &str = "2.2.0";

/// A message as text.
pub fn message(kind: &str, id: &str, data: &Value) -> String {
    json!({ "label": LABEL, "type": kind, "id": id, "data": data }).to_string()
}

/// What a bot says; `data` is read by its type.
#[derive(Debug)]
pub(super) enum Said<'a> {
    BotReady,
    BotStartedSpeaking,
    BotStoppedSpeaking,
    BotInterrupted,
    Thinking,
    Output(Output),
    TtsText(TextData),
    Transcription(TextData),
    UserInput(UserInput),
    UserTranscription(UserInput),
    Call(Call),
    CallStopped(Call),
    Audio(Audio<'a>),
    App {
        name: String,
        data: Value,
    },
    Error(ErrorData),
    Used(Metrics),
    /// Known, and of no use to a relay.
    Nothing,
    Unknown,
}

/// `bot-output`: a segment of what the bot says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Output {
    pub text: String,
    pub will_be_spoken: Option<bool>,
    pub segment_id: Value,
    pub spoken_status: Option<String>,
}

/// `bot-tts-text` and `bot-transcription`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TextData {
    pub text: String,
}

/// `user-input` and `user-transcription`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct UserInput {
    pub text: String,
    pub input_type: Option<String>,
    /// When it was said, as ISO 8601; the only name that an utterance has.
    pub timestamp: String,
    #[serde(rename = "final")]
    pub is_final: bool,
}

/// `llm-function-call-in-progress` and `-stopped`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Call {
    pub tool_call_id: String,
    pub function_name: Option<String>,
    pub arguments: Option<Value>,
}

/// `bot-tts-audio`.
#[derive(Debug, Deserialize)]
pub(super) struct Audio<'a> {
    #[serde(borrow)]
    pub audio: Text<'a>,
    #[serde(alias = "sampleRate")]
    pub sample_rate: u32,
    #[serde(alias = "numChannels", default = "one")]
    pub num_channels: u32,
}

fn one() -> u32 {
    1
}

/// `metrics`: of them, what is billed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metrics {
    tokens: Vec<Tokens>,
    characters: Vec<Characters>,
}

/// Services differ in whether what they count as prompt has what was cached in it, so that it is told as it comes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tokens {
    prompt_tokens: Option<f64>,
    completion_tokens: Option<f64>,
    cache_read_input_tokens: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Characters {
    value: Option<f64>,
}

impl Metrics {
    /// In the common units; `None` if nothing of it is billed.
    pub fn amounts(&self) -> Option<Usage> {
        let sum = |of: fn(&Tokens) -> Option<f64>| self.tokens.iter().filter_map(of).reduce(|a, b| a + b);
        Usage::of([
            ("input_tokens", sum(|tokens| tokens.prompt_tokens)),
            ("cached_tokens", sum(|tokens| tokens.cache_read_input_tokens)),
            ("output_tokens", sum(|tokens| tokens.completion_tokens)),
            ("characters", self.characters.iter().filter_map(|one| one.value).reduce(|a, b| a + b)),
        ])
    }
}

/// `error` and `error-response`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorData {
    pub error: String,
    pub fatal: bool,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    label: Text<'a>,
    #[serde(rename = "type", borrow)]
    kind: Text<'a>,
    #[serde(borrow, default)]
    data: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Custom {
    #[serde(default)]
    t: String,
    #[serde(default)]
    d: Value,
}

/// Reads one message; `None` if it is JSON of another kind.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(text: &str) -> Result<Option<Said<'_>>, String> {
    if !text.trim_start().starts_with('{') {
        return Err("a message is a JSON object".to_owned());
    }
    let Ok(Envelope { label, kind, data }) = serde_json::from_str::<Envelope<'_>>(text) else {
        return match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Ok(None),
            Err(error) => Err(error.to_string()),
        };
    };
    if label.0 != LABEL {
        return Ok(None);
    }
    let data = data.map_or("{}", |data| data.get());
    fn of<'a, T: Deserialize<'a>>(kind: &str, data: &'a str) -> Result<T, String> {
        serde_json::from_str(data).map_err(|error| format!("`data` of {kind}: {error}"))
    }
    let kind = &*kind.0;
    Ok(Some(match kind {
        "bot-ready" => Said::BotReady,
        "bot-started-speaking" => Said::BotStartedSpeaking,
        "bot-stopped-speaking" => Said::BotStoppedSpeaking,
        "bot-interrupted" => Said::BotInterrupted,
        "bot-llm-started" => Said::Thinking,
        "bot-output" => Said::Output(of(kind, data)?),
        "bot-tts-text" => Said::TtsText(of(kind, data)?),
        "bot-transcription" => Said::Transcription(of(kind, data)?),
        "user-input" => Said::UserInput(of(kind, data)?),
        "user-transcription" => Said::UserTranscription(of(kind, data)?),
        "llm-function-call-in-progress" => Said::Call(of(kind, data)?),
        "llm-function-call-stopped" => Said::CallStopped(of(kind, data)?),
        "bot-tts-audio" => Said::Audio(of(kind, data)?),
        "server-message" => Said::App { name: kind.to_owned(), data: of(kind, data)? },
        "server-response" => {
            let Custom { t, d } = of(kind, data)?;
            Said::App { name: t, data: d }
        }
        "error" | "error-response" => Said::Error(of(kind, data)?),
        "metrics" => Said::Used(of(kind, data)?),
        _ if ["bot-", "user-", "vad-user-", "llm-", "system-log", "ui-"]
            .iter()
            .any(|start| kind.starts_with(start)) =>
        {
            Said::Nothing
        }
        _ => Said::Unknown,
    }))
}
