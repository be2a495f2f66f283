//! `[limit.NAME]` and `[limits.NAME]`, from raw to checked.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::checker::Checker;
use crate::config::shape::OneOrMany;

/// `[limit.NAME]` as it is written.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawLimit {
    pub key: OneOrMany<LimitKey>,
    pub unit: Option<LimitUnit>,
    pub rate: Option<RawRate>,
    pub burst: Option<f64>,
    pub block_s: Option<u64>,
    pub prefix_v4: Option<u8>,
    pub prefix_v6: Option<u8>,
    pub warn_at: Option<f64>,
    pub on_reach: Option<OnReach>,
}

/// `600/60s`, or a plain number: how many at once.
#[derive(Serialize, JsonSchema)]
#[serde(transparent)]
pub struct RawRate(pub String);

/// `[limits.NAME]` as it is written.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawLimitSet {
    #[serde(rename = "use")]
    pub uses: OneOrMany<String>,
}

/// `[limit.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitSettings {
    /// Counted per each different combination of these.
    pub key: Vec<LimitKey>,
    /// What is counted.
    pub unit: LimitUnit,
    /// Amount per [`LimitSettings::per`]; for `sessions` and `connections` without `per`, how many at once.
    pub amount: f64,
    /// The span; `None`: at once.
    pub per: Option<Duration>,
    /// How much may come at once; the amount if absent.
    pub burst: Option<f64>,
    /// How long everything is refused after the limit was hit.
    pub block: Duration,
    /// How many bits of an IPv4 and of an IPv6 address count.
    pub prefixes: (u8, u8),
    /// `cost` only: a warning when this share is used, 0 to 1.
    pub warn_at: Option<f64>,
    /// `cost` only: what happens when everything is used.
    pub on_reach: OnReach,
}

/// What a limit is counted per.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitKey {
    /// The user; whoever has none is counted by address.
    User,
    /// The tenant.
    Tenant,
    /// The client's address.
    Ip,
    /// The route.
    Route,
    /// The agent.
    Agent,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitUnit {
    /// Links.
    Connections,
    /// Sessions.
    Sessions,
    /// Audio frames from the client.
    AudioFrames,
    /// Seconds of audio from the client.
    AudioSeconds,
    /// Text messages from the client.
    Messages,
    /// Bytes from the client.
    Bytes,
    /// Money, by the agent's `price`.
    Cost,
}

impl LimitUnit {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            LimitUnit::Connections => "connections",
            LimitUnit::Sessions => "sessions",
            LimitUnit::AudioFrames => "audio_frames",
            LimitUnit::AudioSeconds => "audio_seconds",
            LimitUnit::Messages => "messages",
            LimitUnit::Bytes => "bytes",
            LimitUnit::Cost => "cost",
        }
    }
}

/// What happens when a budget is used up. New sessions are refused, unless it says `warn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnReach {
    /// The session ends when the agent has spoken out.
    #[default]
    EndAtTurn,
    /// The session ends at once.
    End,
    /// Nothing but the warning.
    Warn,
}

/// How much of an address counts where nobody says otherwise: whoever has an IPv6 address has the 2^64 others of its
/// network (RFC 4291 section 2.5.1).
const PREFIXES: (u8, u8) = (32, 64);

pub fn limit(name: &str, raw: &RawLimit, check: &mut Checker<'_>) -> Option<LimitSettings> {
    let rate_at = ["limit", name, "rate"];
    if raw.unit.is_none() {
        let help = "one of connections sessions audio_frames audio_seconds messages bytes cost";
        check.missing(&["limit", name], "unit", help);
    }
    let Some(rate) = &raw.rate else {
        check.missing(&["limit", name], "rate", "add `rate = \"600/60s\"`, or a number: how many at once");
        return None;
    };
    let Some((amount, per)) = parse_rate(&rate.0) else {
        let help = "write it like \"600/60s\", \"5/1m\" or \"100/1h\", or a number: how many at once".to_owned();
        check.wrong(&rate_at, format!("`{}` is not a rate", rate.0), help);
        return None;
    };
    let unit = raw.unit?;
    if per.is_none() && !matches!(unit, LimitUnit::Connections | LimitUnit::Sessions) {
        let help = format!("add a span, as in \"{}/60s\"", rate.0);
        check.wrong(&rate_at, "only connections and sessions can be limited at once", help);
        return None;
    }
    if per.is_none() && (amount.fract() != 0.0 || amount > f64::from(u32::MAX)) {
        check.wrong(&rate_at, format!("`{}` is no number of {}", rate.0, unit.label()), None);
        return None;
    }
    let without_span = [("burst", raw.burst.is_some()), ("block_s", raw.block_s.is_some())];
    for (key, _) in without_span.into_iter().filter(|(_, set)| *set && per.is_none()) {
        check.wrong_key(&["limit", name, key], format!("`{key}` needs a rate with a span"), None);
    }
    let of_money = [("warn_at", raw.warn_at.is_some()), ("on_reach", raw.on_reach.is_some())];
    for (key, _) in of_money.into_iter().filter(|(_, set)| *set && unit != LimitUnit::Cost) {
        check.wrong_key(&["limit", name, key], format!("`{key}` needs `unit = \"cost\"`"), None);
    }
    Some(LimitSettings {
        key: raw.key.0.clone(),
        unit,
        amount,
        per,
        burst: raw.burst,
        block: Duration::from_secs(raw.block_s.unwrap_or(0)),
        prefixes: (raw.prefix_v4.unwrap_or(PREFIXES.0), raw.prefix_v6.unwrap_or(PREFIXES.1)),
        warn_at: raw.warn_at,
        on_reach: raw.on_reach.unwrap_or_default(),
    })
}

/// `600/60s` or `5`.
fn parse_rate(text: &str) -> Option<(f64, Option<Duration>)> {
    let (amount, span) = text.split_once('/').map_or((text, None), |(amount, span)| (amount, Some(span)));
    let amount: f64 = amount.trim().parse().ok().filter(|amount: &f64| (1e-9..=1e12).contains(amount))?;
    let Some(span) = span.map(str::trim) else { return Some((amount, None)) };
    let digits = span.len() - span.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = span.split_at(digits);
    let number: u64 = if number.is_empty() { 1 } else { number.parse().ok()? };
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let seconds = number.checked_mul(seconds).filter(|seconds| (1..=31_622_400).contains(seconds))?;
    Some((amount, Some(Duration::from_secs(seconds))))
}

pub fn limit_set(
    name: &str,
    raw: &RawLimitSet,
    limits: &BTreeMap<String, RawLimit>,
    check: &mut Checker<'_>,
) -> Vec<String> {
    let OneOrMany(uses) = &raw.uses;
    if uses.is_empty() {
        check.missing(&["limits", name], "use", "add `use = [\"NAME\"]` with names of `[limit.NAME]`");
    }
    for (index, limit) in uses.iter().enumerate().filter(|(_, limit)| !limits.contains_key(*limit)) {
        let at = ["limits", name, "use", &index.to_string()];
        check.dangling(&at, "limit", limit, limits.keys().map(String::as_str));
    }
    uses.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_amounts_per_span() {
        assert_eq!(parse_rate("600/60s"), Some((600.0, Some(Duration::from_secs(60)))));
        assert_eq!(parse_rate("2.5/h"), Some((2.5, Some(Duration::from_secs(3600)))));
        assert_eq!(parse_rate("5"), Some((5.0, None)));
        for bad in ["", "0/60s", "-1/60s", "5/", "5/60", "5/0s", "x/60s", "5/60y", "inf/1s", "1/99999999999999999999s"]
        {
            assert_eq!(parse_rate(bad), None, "{bad}");
        }
    }
}
