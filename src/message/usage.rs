//! What agents report as used, in one vocabulary.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::TurnId;

/// `usage`: what was used, as the agent reported it; absent is unknown.
///
/// The common units are [`UNITS`]; each token is counted in one of them only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// The turn.
    #[serde(default)]
    pub turn: TurnId,
    /// Amount per unit (`input_audio_tokens`, `output_text_tokens`, `session_seconds`, …).
    #[serde(flatten)]
    pub amounts: BTreeMap<String, f64>,
}

/// The unit of the conversation that was told again to an agent that took over.
pub const REPLAYED: &str = "replayed_chars";

/// The common units and what they count.
pub const UNITS: [(&str, &str); 18] = [
    ("input_text_tokens", "text that was read, without what was cached"),
    ("input_audio_tokens", "audio that was heard, without what was cached"),
    ("input_image_tokens", "pictures"),
    ("input_tokens", "input that the vendor does not tell apart"),
    ("cached_text_tokens", "text that was read before and is cheaper now"),
    ("cached_audio_tokens", "audio that was heard before and is cheaper now"),
    ("cached_tokens", "the same, where the vendor does not tell apart"),
    ("output_text_tokens", "text that was written"),
    ("output_audio_tokens", "audio that was spoken"),
    ("output_tokens", "output that the vendor does not tell apart"),
    ("reasoning_tokens", "thought that neither text nor audio came of"),
    ("transcription_tokens", "transcription of the caller, where it is billed apart"),
    ("transcription_seconds", "the same by time"),
    ("session_seconds", "the session, as the vendor counts it"),
    ("characters", "text that was spoken by a synthesiser"),
    ("seconds", "as an agent of your own may count"),
    ("minutes", "the same"),
    (REPLAYED, "characters of the conversation told again to an agent that took over; counted by the relay"),
];

impl Usage {
    /// The amounts that are known; `None` if none is.
    pub fn of<'a>(amounts: impl IntoIterator<Item = (&'a str, Option<f64>)>) -> Option<Usage> {
        let known = amounts.into_iter().filter_map(|(unit, amount)| Some((unit.to_owned(), amount?)));
        let amounts: BTreeMap<String, f64> = known.collect();
        (!amounts.is_empty()).then(|| Usage { amounts, ..Usage::default() })
    }
}

/// A common unit of this name; everything else is `other`: names that an agent makes up are no series of a metric.
pub fn common(unit: &str) -> &'static str {
    UNITS.iter().find(|(known, _)| *known == unit).map_or("other", |(known, _)| known)
}

/// Of `all`, what was not cached; `None` if `all` is unknown.
pub fn without(all: Option<f64>, cached: Option<f64>) -> Option<f64> {
    all.map(|all| (all - cached.unwrap_or(0.0)).max(0.0))
}
