//! What is there without any file: the built-in agents, and the values of routes and agents that nobody sets.

use figment::value::{Dict, Value};
use serde_json::{Value as Json, json};

use crate::config::secret::Lookup;
use crate::config::vendor::{self, VendorKind};
use crate::media::format::Format;
use crate::route::plan::{GapMode, Policy};

/// A built-in agent of a vendor, with the variables that switch it on.
pub struct VendorAgent {
    /// Its name, and its kind.
    pub name: &'static str,
    /// What it needs.
    pub variables: &'static [&'static str],
}

/// The vendors' agents that exist by name once their usual variables are set.
pub const VENDORS: [VendorAgent; 4] = [
    VendorAgent { name: "openai", variables: &["OPENAI_API_KEY"] },
    VendorAgent { name: "elevenlabs", variables: &["ELEVENLABS_API_KEY", "ELEVENLABS_AGENT_ID"] },
    VendorAgent { name: "deepgram", variables: &["DEEPGRAM_API_KEY"] },
    VendorAgent { name: "gemini", variables: &["GEMINI_API_KEY"] },
];

/// Agents that need nothing.
pub const LOCAL_AGENTS: [&str; 3] = ["storyteller", "echo", "clip"];

/// The table of a built-in agent, by name.
pub fn agent(name: &str) -> Option<Dict> {
    let table = match name {
        "storyteller" => json!({"kind": "storyteller"}),
        "echo" => json!({"kind": "echo"}),
        "clip" => json!({"kind": "clip"}),
        "openai" => json!({"kind": "openai", "model": "gpt-realtime", "api_key": "${env:OPENAI_API_KEY}"}),
        "elevenlabs" => json!({
            "kind": "elevenlabs", "api_key": "${env:ELEVENLABS_API_KEY}", "agent_id": "${env:ELEVENLABS_AGENT_ID}",
        }),
        "deepgram" => json!({"kind": "deepgram", "api_key": "${env:DEEPGRAM_API_KEY}"}),
        "gemini" => json!({"kind": "gemini", "api_key": "${env:GEMINI_API_KEY}"}),
        _ => return None,
    };
    Some(dict(&table))
}

/// The built-in agents under those that files and variables define: one of the same name is changed by a table
/// without `kind` and `like`, and replaced by one with them. A vendor's is there once its usual variables are set.
pub fn agents(set: &[&Dict], lookup: &dyn Lookup) -> Dict {
    let is_set = |name: &&str| lookup.env(name).is_some_and(|value| !value.is_empty());
    let on = |name: &str| {
        let vendor = VENDORS.iter().find(|vendor| vendor.name == name);
        vendor.is_none_or(|vendor| vendor.variables.iter().all(is_set))
    };
    let mut out = Dict::new();
    for name in LOCAL_AGENTS.into_iter().chain(VENDORS.iter().map(|vendor| vendor.name)) {
        let mut tables = set.iter().filter_map(|layer| layer.get("agent")?.as_dict()?.get(name)?.as_dict()).peekable();
        let mentioned = tables.peek().is_some();
        let replaced = tables.any(|table| table.contains_key("kind") || table.contains_key("like"));
        if !replaced && (mentioned || on(name)) {
            out.extend(agent(name).map(|table| (name.to_owned(), Value::from(table))));
        }
    }
    out
}

/// What an agent of a kind has if nobody says otherwise.
pub fn of_kind(kind: &str) -> Dict {
    match kind {
        "echo" => dict(&json!({"delay_ms": 1000})),
        "websocket" => {
            let format = Format::pcm16(24_000).to_string();
            dict(&json!({
                "protocol": "native", "start": false, "audio_in": format, "audio_out": format,
                "connect_timeout_ms": 5000, "ping_s": 10, "headers": {},
            }))
        }
        "quic" => {
            let format = Format::OPUS.to_string();
            dict(&json!({
                "audio_in": format, "audio_out": format, "connect_timeout_ms": 5000, "sessions_per_connection": 50,
            }))
        }
        other => VendorKind::named(other).map(vendor::defaults).unwrap_or_default(),
    }
}

/// What a route has if nobody says otherwise: [`Policy::default`] in the words of the configuration.
pub fn route() -> Dict {
    let policy = Policy::default();
    let ms = |span: std::time::Duration| span.as_millis() as u64;
    let gap = match policy.gap {
        GapMode::Fast => "fast",
        GapMode::Accurate => "accurate",
    };
    dict(&json!({
        "sticky": "user", "anonymous": false, "token_in_query": false, "client_may": [], "fallback_notice": "none",
        "when_down": ["end"],
        "max_s": policy.max.as_secs(), "resume_window_s": policy.resume_window.as_secs(),
        "agent_ready_ms": ms(policy.agent_ready), "hedge_ms": ms(policy.hedge),
        "answer_within_ms": ms(policy.answer_within),
        "fail_on": policy.fail_on.iter().map(|class| class.label()).collect::<Vec<_>>(),
        "idle": {"after_s": policy.idle.after.as_secs(), "grace_s": policy.idle.grace.as_secs()},
        "audio": {
            "gap": gap, "gap_wait_ms": ms(policy.gap_wait), "stall_ms": ms(policy.stall),
            "uplink_max_ms": ms(policy.uplink_max), "preroll_ms": ms(policy.preroll),
            "send_ahead_ms": ms(policy.send_ahead), "playout_max_s": policy.playout_max.as_secs(),
            "heard_wait_ms": ms(policy.heard_wait), "client_dtx": policy.client_dtx,
            "opus": {
                "complexity": policy.opus.complexity, "bitrate": policy.opus.bitrate,
                "application": policy.opus.application, "max_bandwidth": policy.opus.max_bandwidth,
                "fec": policy.opus.fec, "dtx": policy.opus.dtx,
            },
            "end_of_speech": {
                "level_dbov": policy.speech_threshold_dbov, "hangover_ms": ms(policy.speech_hangover),
            },
        },
    }))
}

/// The route in force when no file names one.
pub fn only_route() -> Dict {
    dict(&json!({"name": "default", "to": "requested"}))
}

/// `base` with every value of `over` in its place; tables are merged.
pub fn overlay(mut base: Dict, over: Dict) -> Dict {
    for (key, value) in over {
        let merged = match (base.remove(&key), value) {
            (Some(Value::Dict(_, inner)), Value::Dict(tag, outer)) => Value::Dict(tag, overlay(inner, outer)),
            (_, value) => value,
        };
        base.insert(key, merged);
    }
    base
}

fn dict(table: &Json) -> Dict {
    match Value::serialize(table) {
        Ok(Value::Dict(_, dict)) => dict,
        _ => Dict::new(),
    }
}
