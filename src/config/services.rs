//! Tools and hooks, from raw to checked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::checker::Checker;
use crate::config::raw_services::{RawHook, RawRun, RawTool};
use crate::config::settings::{Filler, HookSettings, ToolRun, ToolSettings};
use crate::config::vendor;
use crate::media::announcement::Announcement;
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
    let filler = raw.filler.as_ref().and_then(|filler| {
        let clip = match &filler.clip {
            Some(file) => check.announcement(&["tool", name, "filler", "clip"], file)?,
            None => Arc::new(Announcement::moment().ok()?),
        };
        Some(Filler { clip, after: Duration::from_millis(filler.after_ms.unwrap_or(1500)) })
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
