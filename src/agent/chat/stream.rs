//! A stream of server-sent events (WHATWG HTML section 9.2) with pieces of a completion in them.

use bytes::Bytes;
use serde::Deserialize;

use crate::dialect::native::codec;
use crate::message::Usage;
use crate::message::usage::without;

/// Longest line; what is longer is dropped.
const MAX_LINE: usize = 64 << 10;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    Text(String),
    /// A piece of a tool call: each text is put behind what came before for the same index.
    Call {
        index: usize,
        id: String,
        name: String,
        arguments: String,
    },
    Usage(Usage),
    Error {
        code: String,
        message: String,
    },
    /// All of it was sent.
    Done,
}

/// Bytes into events.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    too_long: bool,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<UsageIn>,
    error: Option<ErrorIn>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: DeltaIn,
}

#[derive(Default, Deserialize)]
struct DeltaIn {
    content: Option<String>,
    tool_calls: Option<Vec<CallIn>>,
}

#[derive(Deserialize)]
struct CallIn {
    #[serde(default)]
    index: usize,
    id: Option<String>,
    function: Option<FunctionIn>,
}

#[derive(Default, Deserialize)]
struct FunctionIn {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct UsageIn {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct ErrorIn {
    #[serde(default)]
    message: String,
    code: Option<serde_json::Value>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Events {
    /// What stands in these bytes and the ones before.
    pub fn read(&mut self, bytes: &Bytes) -> Vec<Event> {
        let mut events = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, whole) = match part {
                [text @ .., b'\n'] => (text, true),
                text => (text, false),
            };
            self.too_long |= self.line.len() + text.len() > MAX_LINE;
            if !self.too_long {
                self.line.extend_from_slice(text);
            }
            if whole {
                if !std::mem::take(&mut self.too_long) {
                    read_line(&self.line, &mut events);
                }
                self.line.clear();
            }
        }
        events
    }
}

/// One line: comments and fields other than `data` are of no use here.
fn read_line(line: &[u8], events: &mut Vec<Event>) {
    let Ok(line) = std::str::from_utf8(line) else { return };
    let Some(data) = line.trim_end_matches('\r').strip_prefix("data:") else { return };
    let data = data.trim();
    if data == "[DONE]" {
        return events.push(Event::Done);
    }
    if !data.starts_with('{') {
        return;
    }
    match serde_json::from_str::<Chunk>(data) {
        Ok(chunk) => read_chunk(chunk, events),
        Err(error) => events.push(Event::Error { code: "bad_event".to_owned(), message: error.to_string() }),
    }
}

fn read_chunk(chunk: Chunk, events: &mut Vec<Event>) {
    if let Some(error) = chunk.error {
        let code = error.code.and_then(|code| match code {
            serde_json::Value::String(text) => Some(text),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        let code = code.or(error.kind).unwrap_or_default();
        return events.push(Event::Error { code, message: codec::shortened(&error.message, 512) });
    }
    if let Some(Choice { delta }) = chunk.choices.into_iter().next() {
        events.extend(delta.content.filter(|text| !text.is_empty()).map(Event::Text));
        for call in delta.tool_calls.into_iter().flatten() {
            let function = call.function.unwrap_or_default();
            events.push(Event::Call {
                index: call.index,
                id: call.id.unwrap_or_default(),
                name: function.name.unwrap_or_default(),
                arguments: function.arguments.unwrap_or_default(),
            });
        }
    }
    events.extend(chunk.usage.and_then(UsageIn::amounts).map(Event::Usage));
}

impl UsageIn {
    /// In the common units; what is not told is left out.
    fn amounts(self) -> Option<Usage> {
        let count = |count: Option<u64>| count.map(|count| count as f64);
        let cached = count(self.prompt_tokens_details.unwrap_or_default().cached_tokens);
        let thought = count(self.completion_tokens_details.unwrap_or_default().reasoning_tokens);
        Usage::of([
            ("input_text_tokens", without(count(self.prompt_tokens), cached)),
            ("cached_text_tokens", cached),
            ("output_text_tokens", without(count(self.completion_tokens), thought)),
            ("reasoning_tokens", thought),
        ])
    }
}
