//! Tools, limits and hooks, from raw to checked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::checker::Checker;
use crate::config::raw_services::{RawHook, RawLimit, RawLimitSet, RawRun, RawTool};
use crate::config::settings::{Filler, HookSettings, LimitSettings, LimitUnit, ToolRun, ToolSettings};
use crate::config::shape::OneOrMany;
use crate::config::vendor;
use crate::message::ToolDefinition;

/// Tools that the relay has by itself.
pub const BUILT_IN_TOOLS: [&str; 1] = [vendor::END_CALL];

/// What agents are told of the tools, by name.
pub fn definitions(tools: &BTreeMap<String, ToolSettings>) -> BTreeMap<String, ToolDefinition> {
    let own = tools.iter().map(|(name, tool)| ToolDefinition {
        name: name.clone(),
        description: tool.description.clone(),
        parameters: tool.parameters.clone(),
    });
    own.chain([vendor::end_call()]).map(|tool| (tool.name.clone(), tool)).collect()
}

pub fn tool(name: &str, raw: &RawTool, check: &mut Checker<'_>) -> Option<ToolSettings> {
    let at = |key| ["tool", name, key];
    if BUILT_IN_TOOLS.contains(&name) {
        check.wrong_key(&["tool", name], format!("the tool `{name}` is built in"), "choose another name".to_owned());
    }
    if raw.description.as_deref().is_none_or(|text| text.trim().is_empty()) {
        check.missing(&["tool", name], "description", "the model chooses a tool by its description");
    }
    let timeout = Duration::from_millis(raw.timeout_ms.unwrap_or(5000));
    let run = match raw.run {
        RawRun::Client => {
            for (key, set) in [("url", raw.url.is_some()), ("secret", raw.secret.is_some())] {
                if set {
                    let help = "add `run = \"http\"`, or take it out".to_owned();
                    check.wrong_key(
                        &at(key),
                        format!("`{key}` has no meaning for a tool that runs at the client"),
                        help,
                    );
                }
            }
            Some(ToolRun::Client { timeout })
        }
        RawRun::Http => http_tool(name, raw, timeout, check),
    };
    let filler = raw.filler.as_ref().and_then(|filler| match &filler.clip {
        Some(clip) => {
            let clip = check.file(&["tool", name, "filler", "clip"], clip)?;
            Some(Filler { clip, after: Duration::from_millis(filler.after_ms.unwrap_or(1500)) })
        }
        None => {
            check.missing(&at("filler"), "clip", "add `clip = \"file.wav\"`");
            None
        }
    });
    let parameters = parameters(name, raw, check);
    Some(ToolSettings { description: raw.description.clone()?, parameters, run: run?, filler })
}

fn http_tool(name: &str, raw: &RawTool, timeout: Duration, check: &mut Checker<'_>) -> Option<ToolRun> {
    let secret = raw.secret.as_ref().and_then(|text| check.secret(&["tool", name, "secret"], text));
    let Some(url) = &raw.url else {
        check.missing(&["tool", name], "url", "a tool with `run = \"http\"` needs the `url` that is called");
        return None;
    };
    Some(ToolRun::Http { url: check.url(&["tool", name, "url"], url, &["https", "http"])?, secret, timeout })
}

/// The JSON Schema of a tool's arguments, from the table or from a file.
fn parameters(name: &str, raw: &RawTool, check: &mut Checker<'_>) -> Value {
    let at = ["tool", name, "parameters_file"];
    let nothing = || json!({"type": "object", "properties": {}});
    match (&raw.parameters, &raw.parameters_file) {
        (Some(_), Some(_)) => {
            check.wrong_key(&at, "`parameters` is given too", "keep one of the two".to_owned());
            nothing()
        }
        (Some(schema), None) => schema.clone(),
        (None, None) => nothing(),
        (None, Some(file)) => {
            let Some(text) = check.content(&at, file) else { return nothing() };
            serde_json::from_str(&text).unwrap_or_else(|error| {
                check.wrong(&at, format!("is not JSON: {error}"), None);
                nothing()
            })
        }
    }
}

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
    }
    if per.is_none() && raw.burst.is_some() {
        check.wrong_key(&["limit", name, "burst"], "`burst` needs a rate with a span", None);
    }
    let block = Duration::from_secs(raw.block_s.unwrap_or(0));
    Some(LimitSettings { key: raw.key.0.clone(), unit, amount, per, burst: raw.burst, block })
}

/// `600/60s` or `5`.
fn parse_rate(text: &str) -> Option<(f64, Option<Duration>)> {
    let (amount, span) = text.split_once('/').map_or((text, None), |(amount, span)| (amount, Some(span)));
    let amount: f64 = amount.trim().parse().ok().filter(|amount: &f64| amount.is_finite() && *amount > 0.0)?;
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

pub fn hook(name: &str, raw: &RawHook, check: &mut Checker<'_>) -> Option<HookSettings> {
    let secret = raw.secret.as_ref().and_then(|text| check.secret(&["hook", name, "secret"], text));
    let Some(url) = &raw.url else {
        check.missing(&["hook", name], "url", "add the `url` that is asked");
        return None;
    };
    Some(HookSettings {
        url: check.url(&["hook", name, "url"], url, &["https", "http"])?,
        secret,
        timeout: Duration::from_millis(raw.timeout_ms.unwrap_or(1000)),
        on_error: raw.on_error,
        cache: Duration::from_secs(raw.cache_s.unwrap_or(0)),
    })
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
