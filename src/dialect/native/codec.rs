//! `antiphon.v1` control messages as JSON text, both ways.
//!
//! A message is an object with `type`; messages of a relay that are kept for a resume also carry `seq`. The `type` is
//! read first, then exactly that message's fields, so that a wrong one can be named.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dialect::native::limits;
use crate::ids::Seq;
use crate::message::{Error, ErrorCode, FromClient, Start, ToClient};

/// Longest control message, in bytes of JSON text.
pub const MAX_CONTROL_BYTES: usize = 64 * 1024;

/// One right message of each type that a client may send, shown to those who send a wrong one.
const EXAMPLES: &str = include_str!("../fixtures/native/from_client.jsonl");

/// Fields of `setup` and of `setup.turns` that this version knows.
const SETUP_FIELDS: [&str; 8] =
    ["instructions", "voice", "language", "model", "greeting", "transcribe", "turns", "tools"];
const TURNS_FIELDS: [&str; 1] = ["detect"];

/// A control message taken apart.
#[derive(Debug)]
pub enum Decoded<T> {
    /// Understood.
    Message {
        /// The message.
        message: T,
        /// Its number, if it has one.
        seq: Option<Seq>,
        /// Fields that were not known and were ignored.
        ignored: u32,
    },
    /// A `type` that this version does not know: ignored and counted.
    Unknown(String),
}

/// A control message of a client.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "moved once")]
pub enum ClientMessage {
    /// The first one of a link.
    Start(Start),
    /// Any other.
    Other(FromClient),
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    seq: Option<Seq>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "start")]
struct Tagged<'a> {
    #[serde(flatten)]
    start: &'a Start,
}

/// The JSON text of a `start`.
pub fn encode_start(start: &Start) -> Option<String> {
    encode(&Tagged { start }, None)
}

/// The JSON text of a client's message; `None` for audio, which is no control message.
pub fn encode_from_client(message: &FromClient) -> Option<String> {
    encode(message, None)
}

/// The JSON text of a relay's message, with its number; `None` for audio, which is no control message.
pub fn encode_to_client(seq: Option<Seq>, message: &ToClient) -> Option<String> {
    encode(message, seq)
}

fn encode<T: Serialize>(message: &T, seq: Option<Seq>) -> Option<String> {
    let mut json = Vec::with_capacity(192);
    serde_json::to_writer(&mut json, message).ok()?;
    if let Some(Seq(seq)) = seq {
        let end = json.pop();
        debug_assert_eq!(end, Some(b'}'), "a control message is an object");
        json.extend_from_slice(b",\"seq\":");
        serde_json::to_writer(&mut json, &seq).ok()?;
        json.push(b'}');
    }
    String::from_utf8(json).ok()
}

/// Takes a client's control message apart and checks its limits.
///
/// # Errors
/// What is wrong, in which field, and what a right message looks like.
pub fn decode_from_client(text: &str) -> Result<Decoded<ClientMessage>, Error> {
    let Head { kind, seq } = head(text)?;
    let mut fields = Fields { hints: true, ..Fields::new(text, &kind) };
    let message = match &*kind {
        "start" => ClientMessage::Start(fields.read_with_setup()?),
        "update" => ClientMessage::Other(FromClient::Update(fields.read_with_setup()?)),
        "history" => ClientMessage::Other(FromClient::History(fields.read()?)),
        "message" => ClientMessage::Other(FromClient::Message(fields.read()?)),
        "typing" => ClientMessage::Other(FromClient::Typing(fields.read()?)),
        "interrupt" => ClientMessage::Other(FromClient::Interrupt(fields.read()?)),
        "input" => ClientMessage::Other(FromClient::Input(fields.read()?)),
        "mic" => ClientMessage::Other(FromClient::Mic(fields.read()?)),
        "dtmf" => ClientMessage::Other(FromClient::Dtmf(fields.read()?)),
        "playout" => ClientMessage::Other(FromClient::Playout(fields.read()?)),
        "state" => ClientMessage::Other(FromClient::State(fields.read()?)),
        "transcript" => ClientMessage::Other(FromClient::Transcript(fields.read()?)),
        "tool_result" => ClientMessage::Other(FromClient::ToolResult(fields.read()?)),
        "consent" => ClientMessage::Other(FromClient::Consent(fields.read()?)),
        "app" => ClientMessage::Other(FromClient::App(fields.read()?)),
        "ping" => ClientMessage::Other(FromClient::Ping(fields.read()?)),
        "stats" => ClientMessage::Other(fields.read::<Nothing>().map(|_| FromClient::Stats)?),
        "end" => ClientMessage::Other(fields.read::<Nothing>().map(|_| FromClient::End)?),
        _ => return Ok(Decoded::Unknown(shortened(&kind, 64))),
    };
    let ignored = fields.ignored;
    match &message {
        ClientMessage::Start(start) => limits::check_start(start)?,
        ClientMessage::Other(other) => limits::check(other)?,
    }
    Ok(Decoded::Message { message, seq, ignored })
}

/// Takes a relay's control message apart, for clients written on this crate.
///
/// # Errors
/// What is wrong, and in which field.
pub fn decode_to_client(text: &str) -> Result<Decoded<ToClient>, Error> {
    let Head { kind, seq } = head(text)?;
    let mut fields = Fields::new(text, &kind);
    let message = match &*kind {
        "started" => ToClient::Started(fields.read()?),
        "transcript" => ToClient::Transcript(fields.read()?),
        "delta" => ToClient::Delta(fields.read()?),
        "message" => ToClient::Message(fields.read()?),
        "state" => ToClient::State(fields.read()?),
        "typing" => ToClient::Typing(fields.read()?),
        "speech" => ToClient::Speech(fields.read()?),
        "turn" => ToClient::Turn(fields.read()?),
        "flush" => ToClient::Flush(fields.read()?),
        "heard" => ToClient::Heard(fields.read()?),
        "agent" => ToClient::Agent(fields.read()?),
        "tool_call" => ToClient::ToolCall(fields.read()?),
        "tool" => ToClient::Tool(fields.read()?),
        "usage" => ToClient::Usage(fields.read_usage()?),
        "alert" => ToClient::Alert(fields.read()?),
        "app" => ToClient::App(fields.read()?),
        "draining" => ToClient::Draining(fields.read()?),
        "ending" => ToClient::Ending(fields.read()?),
        "error" => ToClient::Error(fields.read()?),
        "stats" => ToClient::Stats(fields.read()?),
        "ended" => ToClient::Ended(fields.read()?),
        "pong" => ToClient::Pong(fields.read()?),
        _ => return Ok(Decoded::Unknown(shortened(&kind, 64))),
    };
    Ok(Decoded::Message { message, seq, ignored: fields.ignored })
}

/// A message without fields.
#[derive(Deserialize)]
struct Nothing {}

/// The `type` of a control message, for protocols that read the rest by themselves.
///
/// # Errors
/// If the text is no JSON object with a text `type`.
pub fn kind(text: &str) -> Result<Cow<'_, str>, Error> {
    head(text).map(|head| head.kind)
}

fn head(text: &str) -> Result<Head<'_>, Error> {
    if !text.trim_ascii_start().starts_with('{') {
        let what = "a control message is a JSON object with `type`, such as {\"type\":\"ping\",\"t\":1}";
        return Err(bad(None, what.to_owned()));
    }
    serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            let what = "every control message needs a text field `type`, such as {\"type\":\"ping\",\"t\":1}";
            bad(Some("type".to_owned()), format!("{}; {what}", shortened(&error.to_string(), 200)))
        }
        _ => bad(None, format!("the text frame is not valid JSON: {error}")),
    })
}

/// The fields of one message of a known type.
pub(crate) struct Fields<'a> {
    text: &'a str,
    kind: &'a str,
    /// Fields that were not known so far.
    pub(crate) ignored: u32,
    /// Whether an error shows what a client should have sent.
    hints: bool,
}

impl<'a> Fields<'a> {
    /// The fields of `text`, whose type is `kind`.
    pub(crate) fn new(text: &'a str, kind: &'a str) -> Fields<'a> {
        Fields { text, kind, ignored: 0, hints: false }
    }

    /// The message, each unknown field counted.
    pub(crate) fn read<T: Deserialize<'a>>(&mut self) -> Result<T, Error> {
        let text = self.text;
        self.read_from(&mut serde_json::Deserializer::from_str(text))
    }

    /// Only those fields of the message that `T` has.
    pub(crate) fn read_part<T: Deserialize<'a>>(&mut self) -> Result<T, Error> {
        let before = self.ignored;
        let part = self.read();
        self.ignored = before;
        part
    }

    fn read_from<'de, T, D>(&mut self, source: D) -> Result<T, Error>
    where
        T: Deserialize<'de>,
        D: serde::Deserializer<'de, Error = serde_json::Error>,
    {
        let mut ignored = 0;
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(source, &mut track);
        let read = serde_ignored::deserialize(tracked, |path| ignored += u32::from(!is_envelope(&path)));
        self.ignored += ignored;
        read.map_err(|error: serde_json::Error| self.wrong(&track.path(), &error))
    }

    /// A message with a `setup`, whose type refuses unknown fields (the configuration needs that): they are taken out
    /// first.
    fn read_with_setup<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Error> {
        let mut value: Value = self.read()?;
        if let Some(setup) = value.get_mut("setup").and_then(Value::as_object_mut) {
            self.ignored += keep_only(setup, &SETUP_FIELDS);
            if let Some(turns) = setup.get_mut("turns").and_then(Value::as_object_mut) {
                self.ignored += keep_only(turns, &TURNS_FIELDS);
            }
        }
        self.read_from(value)
    }

    /// `usage`, whose unit names are open: everything beside the envelope that is a number counts.
    pub(crate) fn read_usage<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Error> {
        let mut value: Value = self.read()?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove("type");
            fields.remove("seq");
            let before = fields.len();
            fields.retain(|_, amount| amount.is_number());
            self.ignored += (before - fields.len()) as u32;
        }
        self.read_from(value)
    }

    fn wrong(&self, path: &serde_path_to_error::Path, error: &serde_json::Error) -> Error {
        let reason = error.to_string();
        let mut field = path.to_string();
        if let Some(missing) = reason.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            field = if field == "." { missing.to_owned() } else { format!("{field}.{missing}") };
        }
        let secret = matches!(field.as_str(), "token" | "resume" | "resume_token");
        let reason = if secret { "expected a text".to_owned() } else { shortened(&reason, 240) };
        let field = (field != ".").then(|| shortened(&field, 128));
        let place = field.as_deref().map_or_else(String::new, |field| format!("`{field}` in "));
        let example =
            example(self.kind).filter(|_| self.hints).map_or_else(String::new, |line| format!("; a right one: {line}"));
        bad(field, format!("{place}`{}`: {reason}{example}", self.kind))
    }
}

/// Whether a field belongs to the envelope and not to the message.
fn is_envelope(path: &serde_ignored::Path<'_>) -> bool {
    matches!(path, serde_ignored::Path::Map { parent: serde_ignored::Path::Root, key } if key == "type" || key == "seq")
}

fn keep_only(fields: &mut serde_json::Map<String, Value>, known: &[&str]) -> u32 {
    let before = fields.len();
    fields.retain(|name, _| known.contains(&name.as_str()));
    (before - fields.len()) as u32
}

/// A right message of this type, short enough for an error text.
fn example(kind: &str) -> Option<&'static str> {
    EXAMPLES
        .lines()
        .find(|line| serde_json::from_str::<Head<'_>>(line).is_ok_and(|head| head.kind == kind) && line.len() <= 200)
}

/// A [`ErrorCode::BadMessage`].
pub(crate) fn bad(field: Option<String>, message: String) -> Error {
    Error { field, ..Error::new(ErrorCode::BadMessage, message) }
}

/// At most `max` bytes of `text`, cut at a character.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(max)])
}
