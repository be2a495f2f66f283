//! What is known of keys: the numbers they take, which of them this build does not act on, which need a restart, and
//! which key somebody may have meant.

use crate::config::settings::Settings;

/// Numbers outside of these bounds are refused. `*` is any name or list position.
pub const RANGES: &[(&str, f64, f64)] = &[
    ("http.cors_max_age_s", 0.0, 86_400.0),
    ("http.handshake_ms", 100.0, 60_000.0),
    ("http.start_ms", 100.0, 60_000.0),
    ("http.keep_alive_s", 1.0, 3600.0),
    ("http.max_head_bytes", 8192.0, 1_048_576.0),
    ("http.max_headers", 8.0, 1000.0),
    ("http.max_body_bytes", 1024.0, 16_777_216.0),
    ("http.max_connections", 1.0, 1_000_000.0),
    ("http.max_connections_per_address", 1.0, 1_000_000.0),
    ("http.max_handshakes", 1.0, 100_000.0),
    ("http.max_handshakes_per_address", 1.0, 100_000.0),
    ("http.websocket.max_message_bytes", 1024.0, 16_777_216.0),
    ("http.websocket.max_write_bytes", 4096.0, 67_108_864.0),
    ("http.websocket.ping_s", 1.0, 3600.0),
    ("http.websocket.pong_s", 1.0, 600.0),
    ("quic.max_sessions_per_connection", 1.0, 4096.0),
    ("quic.max_handshakes_per_address_s", 1.0, 100_000.0),
    ("quic.retry_above", 0.0, 100_000.0),
    ("quic.keep_alive_s", 1.0, 300.0),
    ("quic.idle_s", 2.0, 3600.0),
    ("runtime.workers", 0.0, 1024.0),
    ("runtime.max_sessions", 1.0, 1_000_000.0),
    ("runtime.drain_s", 0.0, 86_400.0),
    ("runtime.drain_spread_s", 0.0, 3600.0),
    ("runtime.playout_mb", 1.0, 1_048_576.0),
    ("overload.cpu", 0.0, 1.0),
    ("overload.memory", 0.0, 1.0),
    ("overload.files", 0.0, 1.0),
    ("overload.lag_ms", 0.0, 10_000.0),
    ("runtime.limit_keys", 1024.0, 100_000_000.0),
    ("route.*.match.percent", 0.0, 100.0),
    ("route.*.to.*.weight", 0.0, 1_000_000.0),
    ("route.*.taps.*.percent", 0.0, 100.0),
    ("route.*.audio.gap_wait_ms", 0.0, 1000.0),
    ("route.*.audio.stall_ms", 20.0, 5000.0),
    ("route.*.audio.uplink_max_ms", 100.0, 60_000.0),
    ("route.*.audio.preroll_ms", 0.0, 30_000.0),
    ("route.*.audio.send_ahead_ms", 20.0, 5000.0),
    ("route.*.audio.playout_max_s", 1.0, 3600.0),
    ("route.*.audio.heard_wait_ms", 0.0, 5000.0),
    ("route.*.audio.client_bitrate", 6000.0, 510_000.0),
    ("route.*.audio.opus.complexity", 0.0, 10.0),
    ("route.*.audio.opus.bitrate", 6000.0, 510_000.0),
    ("route.*.audio.end_of_speech.level_dbov", -127.0, 0.0),
    ("route.*.audio.end_of_speech.hangover_ms", 0.0, 5000.0),
    ("route.*.barge_in.threshold", 0.05, 0.99),
    ("route.*.barge_in.min_speech_ms", 16.0, 2000.0),
    ("route.*.barge_in.silence_ms", 100.0, 5000.0),
    ("route.*.barge_in.echo_guard_db", -90.0, 0.0),
    ("route.*.barge_in.warmup_ms", 0.0, 30_000.0),
    ("route.*.barge_in.confirm_ms", 50.0, 10_000.0),
    ("route.*.barge_in.resume_ms", 50.0, 5000.0),
    ("route.*.max_s", 1.0, 604_800.0),
    ("route.*.resume_window_s", 0.0, 3600.0),
    ("route.*.agent_ready_ms", 100.0, 60_000.0),
    ("route.*.hedge_ms", 0.0, 60_000.0),
    ("route.*.answer_within_ms", 0.0, 60_000.0),
    ("route.*.when_down.*.keep_s", 1.0, 86_400.0),
    ("route.*.idle.after_s", 0.0, 86_400.0),
    ("route.*.idle.grace_s", 0.0, 3600.0),
    ("route.*.slo.added_p99_ms", 1.0, 60_000.0),
    ("route.*.slo.first_audio_p95_ms", 1.0, 60_000.0),
    ("auth.leeway_s", 0.0, 30.0),
    ("auth.max_token_bytes", 512.0, 8192.0),
    ("auth.max_failures_per_minute", 1.0, 100_000.0),
    ("auth.tokens.expires_s", 1.0, 604_800.0),
    ("auth.tokens.max_expires_s", 10.0, 604_800.0),
    ("auth.jwt.*.refresh_s", 60.0, 86_400.0),
    ("agent.*.delay_ms", 0.0, 2000.0),
    ("agent.*.auth.refresh_s", 1.0, 86_400.0),
    ("agent.*.history", 0.0, 1000.0),
    ("agent.*.connect_timeout_ms", 50.0, 60_000.0),
    ("agent.*.ping_s", 0.0, 3600.0),
    ("agent.*.max_sessions", 1.0, 1_000_000.0),
    ("agent.*.sessions_per_connection", 1.0, 1000.0),
    ("agent.*.session_max_s", 1.0, 86_400.0),
    ("tool.*.timeout_ms", 1.0, 600_000.0),
    ("tool.*.filler.after_ms", 0.0, 60_000.0),
    ("limit.*.burst", 1e-9, 1e12),
    ("limit.*.block_s", 0.0, 86_400.0),
    ("limit.*.prefix_v4", 0.0, 32.0),
    ("limit.*.prefix_v6", 0.0, 128.0),
    ("limit.*.warn_at", 0.0, 1.0),
    ("redis.nodes", 1.0, 1000.0),
    ("webrtc.grace_s", 1.0, 3600.0),
    ("hook.*.timeout_ms", 1.0, 60_000.0),
    ("hook.*.cache_s", 0.0, 86_400.0),
];

/// Keys that are parsed and checked, and that this build does not act on. `*` is any name or list position; a key
/// stands for all below it.
pub const INERT: &[&str] = &["demo", "route.*.slo"];

/// Reads what a key says, in a form that can be compared.
type Read = fn(&Settings) -> String;

/// Keys that a running process does not take over on a reload.
const RESTART: &[(&str, Read)] = &[
    ("node", |s| format!("{:?}", (&s.node.name, &s.node.region, &s.node.url))),
    ("listen.http", |s| s.listen.http.to_string()),
    ("listen.control", |s| s.listen.control.to_string()),
    ("listen.webrtc", |s| format!("{:?}", s.listen.webrtc)),
    ("listen.webrtc_public", |s| format!("{:?}", s.listen.webrtc_public)),
    ("webrtc.certificate", |s| format!("{:?}", s.webrtc.certificate)),
    ("listen.quic", |s| format!("{:?}", s.listen.quic)),
    ("quic", |s| format!("{:?}", s.quic)),
    ("runtime.workers", |s| s.runtime.workers.to_string()),
    ("runtime.playout_mb", |s| s.runtime.playout_bytes.to_string()),
    ("log.format", |s| format!("{:?}", s.log.format)),
    ("log.level", |s| s.log.level.clone()),
    ("log.call_record", |s| s.log.call_record.clone()),
    ("http.tls", |s| s.http.tls.is_some().to_string()),
    ("redis", |s| {
        use secrecy::ExposeSecret;
        let urls: Vec<&str> = s.redis.urls.iter().map(ExposeSecret::expose_secret).collect();
        let password = s.redis.password.as_ref().map(ExposeSecret::expose_secret);
        format!("{:?}", (urls, s.redis.mode, &s.redis.service, &s.redis.username, password, &s.redis.prefix))
    }),
];

/// The keys that differ and that a reload does not take over.
pub fn restart_keys(old: &Settings, new: &Settings) -> Vec<&'static str> {
    RESTART.iter().filter(|(_, read)| read(old) != read(new)).map(|(key, _)| *key).collect()
}

/// Whether a path is what a pattern says, from its first key to its last.
pub fn matches(pattern: &str, path: &[String]) -> bool {
    let mut parts = pattern.split('.');
    path.iter().all(|key| parts.next().is_some_and(|part| part == "*" || part == key)) && parts.next().is_none()
}

/// A path as people write it: list positions are left out.
pub fn shown(path: &[String]) -> String {
    let mut out = String::new();
    for part in path.iter().filter(|part| part.parse::<usize>().is_err()) {
        if !out.is_empty() {
            out.push('.');
        }
        let bare = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        out.push_str(&if bare { part.clone() } else { format!("{part:?}") });
    }
    out
}

/// The candidate that somebody most likely meant, if any is near.
pub fn nearest<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let written = written.to_ascii_lowercase().replace('-', "_");
    let near = candidates.into_iter().filter_map(|candidate| {
        let plain = candidate.to_ascii_lowercase().replace('-', "_");
        let edits = strsim::damerau_levenshtein(&written, &plain);
        let most = (written.chars().count().max(plain.chars().count()) / 3).max(1);
        let extended = plain.starts_with(&format!("{written}_")) || written.starts_with(&format!("{plain}_"));
        (edits <= most || extended).then_some((edits, candidate))
    });
    near.min_by_key(|(edits, _)| *edits).map(|(_, candidate)| candidate)
}

/// The tables in which a key is valid.
pub fn tables_with(key: &str) -> Vec<String> {
    all()
        .into_iter()
        .filter_map(|path| {
            let (table, last) = path.rsplit_once('.')?;
            (last == key).then(|| format!("`{table}`"))
        })
        .collect()
}

/// Every key of the configuration as a dotted path; names that the operator chooses are `NAME`.
pub fn all() -> Vec<String> {
    let schema = schemars::schema_for!(crate::config::raw::Raw);
    let mut out = Vec::new();
    collect(schema.as_value(), schema.as_value(), String::new(), &mut out);
    out.sort();
    out.dedup();
    out
}

fn collect(root: &serde_json::Value, schema: &serde_json::Value, path: String, out: &mut Vec<String>) {
    let Some(table) = schema.as_object() else { return };
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(name) = table.get("$ref").and_then(|text| text.as_str()?.strip_prefix("#/$defs/")) {
        collect(root, &root["$defs"][name], path.clone(), out);
    }
    for (name, inner) in table.get("properties").and_then(|inner| inner.as_object()).into_iter().flatten() {
        out.push(join(name));
        collect(root, inner, join(name), out);
    }
    if let Some(inner) = table.get("additionalProperties").filter(|inner| inner.is_object()) {
        collect(root, inner, join("NAME"), out);
    }
    if let Some(items) = table.get("items") {
        collect(root, items, path.clone(), out);
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        for inner in table.get(choice).and_then(|inner| inner.as_array()).into_iter().flatten() {
            collect(root, inner, path.clone(), out);
        }
    }
}
