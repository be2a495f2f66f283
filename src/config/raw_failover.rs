//! What a route says about agents that fail, as it stands in the file.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Classes of errors that an agent reports without ending the conversation.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawFailOn {
    Unreachable,
    Timeout,
    Lost,
    Auth,
    Limit,
    Expired,
    Internal,
    Protocol,
    BadRequest,
}

/// One item of `when_down`: a word, or a table with one key.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawDownStep {
    /// `"clip"`, `"keep"` or `"end"`.
    Word(RawDownWord),
    /// With what it needs.
    Table(RawDownTable),
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawDownWord {
    Clip,
    Keep,
    End,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawDownTable {
    pub clip: Option<String>,
    pub text: Option<String>,
    pub keep_s: Option<u64>,
}

impl<'de> Deserialize<'de> for RawDownStep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = RawDownStep;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"clip\", \"keep\", \"end\", or a table like { clip = \"sorry.wav\" }, { text = \"writer\" } or { keep_s = 300 }")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawDownStep, E> {
                RawDownWord::deserialize(serde::de::value::StrDeserializer::new(text)).map(RawDownStep::Word)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawDownStep, A::Error> {
                RawDownTable::deserialize(MapAccessDeserializer::new(map)).map(RawDownStep::Table)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}
