//! What a Gemini Live server says, and what its closing means.

use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::agent::audio_json::{self, Text};
use crate::message::usage::without;
use crate::message::{FailureClass, Usage};

/// One message of the server (`BidiGenerateContentServerMessage`): one or more of its parts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Said<'a> {
    pub setup_complete: Option<IgnoredAny>,
    #[serde(borrow)]
    pub server_content: Option<Content<'a>>,
    #[serde(borrow)]
    pub tool_call: Option<ToolCalls<'a>>,
    pub tool_call_cancellation: Option<Cancelled>,
    pub usage_metadata: Option<UsageIn>,
    pub go_away: Option<GoAwayIn>,
    pub session_resumption_update: Option<Resumption>,
}

impl Said<'_> {
    /// Whether nothing in it is of use here.
    pub fn is_strange(&self) -> bool {
        self.setup_complete.is_none()
            && self.server_content.is_none()
            && self.tool_call.is_none()
            && self.tool_call_cancellation.is_none()
            && self.usage_metadata.is_none()
            && self.go_away.is_none()
            && self.session_resumption_update.is_none()
    }
}

/// Base64; bytes in protobuf's JSON may be of either alphabet (RFC 4648 sections 4 and 5).
pub(super) fn decode(text: &str) -> Option<bytes::Bytes> {
    audio_json::decode(text).or_else(|| audio_json::decode(&text.replace('-', "+").replace('_', "/")))
}

/// Reads one message.
pub(super) fn read(text: &str) -> Result<Said<'_>, String> {
    if !text.trim_start().starts_with('{') {
        return Err("a message is a JSON object".to_owned()); // An array would be taken for the fields in order.
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Content<'a> {
    #[serde(borrow)]
    pub model_turn: Option<ModelTurn<'a>>,
    #[serde(borrow)]
    pub input_transcription: Option<Piece<'a>>,
    #[serde(borrow)]
    pub output_transcription: Option<Piece<'a>>,
    pub interrupted: bool,
    pub generation_complete: bool,
    pub turn_complete: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ModelTurn<'a> {
    #[serde(borrow)]
    pub parts: Vec<Part<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Part<'a> {
    #[serde(borrow)]
    pub inline_data: Option<Blob<'a>>,
    #[serde(borrow)]
    pub text: Option<Text<'a>>,
    /// The text is the model's thinking and is not for the caller.
    pub thought: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Blob<'a> {
    #[serde(borrow, default)]
    pub mime_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub data: Text<'a>,
}

/// A piece of a transcript, to be put behind what came before.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Piece<'a> {
    #[serde(borrow)]
    pub text: Option<Text<'a>>,
    pub finished: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ToolCalls<'a> {
    #[serde(borrow)]
    pub function_calls: Vec<Function<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Function<'a> {
    #[serde(default)]
    pub id: String,
    pub name: String,
    /// A JSON object, as it stands.
    #[serde(borrow, default)]
    pub args: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Cancelled {
    pub ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GoAwayIn {
    /// `"9.5s"` (JSON form of `google.protobuf.Duration`).
    pub time_left: String,
}

impl GoAwayIn {
    /// The time that is left; none if it does not say.
    pub fn left(&self) -> Duration {
        let seconds = self.time_left.strip_suffix('s').and_then(|text| text.parse().ok());
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Resumption {
    pub new_handle: String,
    pub resumable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct UsageIn {
    prompt_token_count: Option<u64>,
    response_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    prompt_tokens_details: Vec<Modality>,
    cache_tokens_details: Vec<Modality>,
    tool_use_prompt_tokens_details: Vec<Modality>,
    response_tokens_details: Vec<Modality>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Modality {
    modality: String,
    token_count: u64,
}

impl UsageIn {
    /// In the common units; what is not told is left out.
    pub fn amounts(&self) -> Option<Usage> {
        let sum = |details: &[Modality], modality: &str| {
            let mut of_it = details.iter().filter(|part| part.modality == modality).peekable();
            of_it.peek().is_some().then(|| of_it.map(|part| part.token_count as f64).sum::<f64>())
        };
        let both = |modality: &str| {
            let all = [&self.prompt_tokens_details, &self.tool_use_prompt_tokens_details];
            all.into_iter().filter_map(|details| sum(details, modality)).reduce(|a, b| a + b)
        };
        let count = |count: Option<u64>, details: &[Modality]| count.filter(|_| details.is_empty()).map(|n| n as f64);
        let (input, output) = (&self.prompt_tokens_details, &self.response_tokens_details);
        let cached_whole = count(self.cached_content_token_count, &self.cache_tokens_details);
        let (text, audio) = (both("TEXT"), both("AUDIO"));
        let cached_text = sum(&self.cache_tokens_details, "TEXT").or(cached_whole.zip(text).map(|(n, of)| n.min(of)));
        let cached_audio = sum(&self.cache_tokens_details, "AUDIO").or(without(cached_whole, cached_text));
        Usage::of([
            ("input_text_tokens", without(text, cached_text)),
            ("input_audio_tokens", without(audio, cached_audio)),
            ("input_image_tokens", both("IMAGE")),
            ("input_tokens", count(self.prompt_token_count, input)),
            ("cached_text_tokens", cached_text),
            ("cached_audio_tokens", cached_audio),
            ("output_text_tokens", sum(output, "TEXT")),
            ("output_audio_tokens", sum(output, "AUDIO")),
            ("output_tokens", count(self.response_token_count, output)),
            ("reasoning_tokens", self.thoughts_token_count.map(|count| count as f64)),
        ])
    }
}

/// The class of a close frame: the server reports its errors by code and reason.
pub(super) fn class_of_close(code: u16, reason: &str) -> FailureClass {
    let reason = reason.to_ascii_lowercase();
    let says = |any: &[&str]| any.iter().any(|word| reason.contains(word));
    if says(&["api key", "api_key", "unauthenticated", "permission", "credential", "unregistered", "token has"]) {
        FailureClass::Auth
    } else if says(&["quota", "resource_exhausted", "resource has been exhausted", "rate limit", "billing"]) {
        FailureClass::Limit
    } else if says(&["session duration", "deadline", "session expired", "time limit"]) {
        FailureClass::Expired
    } else {
        match code {
            1002 | 1003 | 1007 | 1009 | 1010 => FailureClass::BadRequest,
            // The code for any refusal that has no better one, a wrong model among them.
            1008 => FailureClass::BadRequest,
            1011 => FailureClass::Internal,
            1012 | 1013 => FailureClass::Unreachable,
            1000 => FailureClass::Protocol,
            _ => FailureClass::Lost,
        }
    }
}
