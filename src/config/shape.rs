//! Values that can be written in more than one way.

use std::fmt;
use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::config::limits::RawRate;
use crate::config::raw::{RawChoice, RawTarget};
use crate::config::vendor::{RawAuthMode, RawVendorAuth};

/// One value, or a list of them.
#[derive(Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Shape<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(serde::de::value::StrDeserializer::new(text)).map(|one| OneOrMany(vec![one]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany)
            }
        }
        deserializer.deserialize_any(Shape(PhantomData))
    }
}

impl<'de> Deserialize<'de> for RawTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = RawTarget;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an agent, \"requested\", or a list like [{ agent = \"a\", weight = 9 }]")
            }
            fn visit_str<E>(self, text: &str) -> Result<RawTarget, E> {
                Ok(RawTarget::Name(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<RawTarget, A::Error> {
                let choices: Vec<NameOrChoice> = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                Ok(RawTarget::Choices(choices.into_iter().map(|choice| choice.0).collect()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawTarget, A::Error> {
                let choice = RawChoice::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawTarget::Choices(vec![choice]))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

struct NameOrChoice(RawChoice);

impl<'de> Deserialize<'de> for NameOrChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = NameOrChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an agent, or a table like { agent = \"a\", weight = 9, label = \"A\" }")
            }
            fn visit_str<E>(self, text: &str) -> Result<NameOrChoice, E> {
                Ok(NameOrChoice(RawChoice { agent: Some(text.to_owned()), ..RawChoice::default() }))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NameOrChoice, A::Error> {
                RawChoice::deserialize(MapAccessDeserializer::new(map)).map(NameOrChoice)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

impl<'de> Deserialize<'de> for RawVendorAuth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            token_command: OneOrMany<String>,
            refresh_s: Option<u64>,
        }
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = RawVendorAuth;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "\"bearer\", \"api-key\", or a table like { token_command = [\"program\"], refresh_s = 1800 }",
                )
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawVendorAuth, E> {
                RawAuthMode::deserialize(serde::de::value::StrDeserializer::new(text)).map(RawVendorAuth::Mode)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawVendorAuth, A::Error> {
                let Table { token_command, refresh_s } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawVendorAuth::Command { token_command, refresh_s })
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

impl<'de> Deserialize<'de> for RawRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl Visitor<'_> for Shape {
            type Value = RawRate;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate like \"600/60s\", or a number: how many at once")
            }
            fn visit_str<E>(self, text: &str) -> Result<RawRate, E> {
                Ok(RawRate(text.to_owned()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<RawRate, E> {
                Ok(RawRate(number.to_string()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<RawRate, E> {
                Ok(RawRate(number.to_string()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<RawRate, E> {
                Ok(RawRate(number.to_string()))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}
