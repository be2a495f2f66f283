//! Agents, from raw to checked: `like`, kinds, secrets, set-up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use figment::value::{Dict, Value};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value as Json;

use crate::agent::echo;
use crate::config::checker::{Checker, path};
use crate::config::decode;
use crate::config::defaults;
use crate::config::error::ConfigError;
use crate::config::keys;
use crate::config::layers::{Layers, Spot};
use crate::config::price;
use crate::config::raw::{RawAgent, RawProtocol};
use crate::config::secret;
use crate::config::settings::{AgentKind, AgentSettings, QuicAgent, WebsocketAgent, WebsocketProtocol};
use crate::config::setup;
use crate::config::vendor::{self, VendorKind};
use crate::ids::AgentName;
use crate::media::announcement::Announcement;
use crate::media::format::Format;
use crate::message::{Setup, ToolDefinition};

/// Kinds with the keys that only they have, beside the vendors' kinds.
const OWN_KINDS: [(&str, &[&str]); 5] = [
    ("echo", &["delay_ms"]),
    ("clip", &["file"]),
    ("storyteller", &[]),
    (
        "websocket",
        &[
            "url",
            "headers",
            "api_key",
            "credential",
            "protocol",
            "start",
            "audio_in",
            "audio_out",
            "connect_timeout_ms",
            "ping_s",
            "ca_file",
        ],
    ),
    ("quic", &["url", "ca_file", "audio_in", "audio_out", "connect_timeout_ms", "sessions_per_connection"]),
];

/// Kinds that the configuration knows and whose keys it does not.
pub const OTHER_KINDS: [&str; 2] = ["http", "mux"];

/// Kinds whose keys are known, with the keys that only some kinds have.
fn known_kinds() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    let own = OWN_KINDS.into_iter().map(|(kind, keys)| (kind, keys.to_vec()));
    let vendors = VendorKind::ALL.into_iter();
    own.chain(vendors.map(|kind| (kind.label(), vendor::KEYS.iter().chain(kind.own_keys()).copied().collect())))
}

/// Keys of every kind.
const COMMON_KEYS: [&str; 10] =
    ["kind", "like", "model", "max_sessions", "session_max_s", "zone", "display", "setup", "vendor", "price"];

/// An agent table after inheritance, with the keys that only its kind knows set apart.
pub struct AgentTable {
    pub raw: RawAgent,
    pub options: Dict,
}

/// A checked agent, and what belongs to it.
pub struct CheckedAgent {
    pub settings: AgentSettings,
    pub by_tenant: BTreeMap<String, AgentSettings>,
    pub has_secret: bool,
}

/// What [`inherit`] found.
#[derive(Default)]
pub struct Inherited {
    /// Every agent's table with what it inherits.
    pub agents: Dict,
    /// Who inherits from whom.
    pub like: BTreeMap<String, String>,
    /// Agents whose `like` is wrong.
    pub faulty: BTreeSet<String>,
}

/// Resolves `like`.
pub fn inherit(agents: &Dict, layers: &Layers, errors: &mut Vec<ConfigError>) -> Inherited {
    let mut found = Inherited::default();
    for (name, table) in agents {
        let Value::Dict(tag, own) = table else {
            found.agents.insert(name.clone(), table.clone());
            continue;
        };
        match chain(name, agents, layers) {
            Ok(bases) => {
                found.like.extend(bases.first().map(|(base, _)| (name.clone(), base.clone())));
                let inherited = bases.into_iter().rev().fold(Dict::new(), |base, (_, over)| inherit_one(base, over));
                found.agents.insert(name.clone(), Value::Dict(*tag, inherit_one(inherited, own.clone())));
            }
            Err(error) => {
                errors.extend(error);
                found.faulty.insert(name.clone());
            }
        }
    }
    found
}

/// The agents that an agent inherits from, nearest first. A circle is reported once, by the first of its members.
fn chain(name: &str, agents: &Dict, layers: &Layers) -> Result<Vec<(String, Dict)>, Option<ConfigError>> {
    let mut bases: Vec<(String, Dict)> = Vec::new();
    let mut current = name.to_owned();
    loop {
        let table = bases.last().map(|(_, table)| table).or_else(|| agents.get(name)?.as_dict());
        let Some(base) = table.and_then(|table| table.get("like")?.as_str()).map(str::to_owned) else {
            return Ok(bases);
        };
        let at = path(&["agent", &current, "like"]);
        let circle: Vec<&str> = std::iter::once(name).chain(bases.iter().map(|(seen, _)| seen.as_str())).collect();
        if circle.contains(&base.as_str()) {
            let reports = base == name && circle.iter().all(|member| *member >= name);
            let message = format!("`like` goes in a circle: {} -> {base}", circle.join(" -> "));
            return Err(
                reports.then(|| layers.error(&at, Spot::Value, message, Some("take one `like` out".to_owned())))
            );
        }
        let Some(table) = agents.get(&base).and_then(Value::as_dict).cloned().or_else(|| defaults::agent(&base)) else {
            let near = keys::nearest(&base, agents.keys().map(String::as_str));
            let help = near.map(|near| format!("did you mean `{near}`?"));
            let own = current == name;
            let message = format!("there is no agent `{base}` to be like");
            return Err(own.then(|| layers.error(&at, Spot::Value, message, help)));
        };
        bases.push((base.clone(), table));
        current = base;
    }
}

/// Lays a table over what it inherits; a greeting, and instructions of either form, replace what was there.
fn inherit_one(mut base: Dict, own: Dict) -> Dict {
    base.remove("like");
    if let (Some(Value::Dict(_, base)), Some(own)) = (base.get_mut("setup"), own.get("setup").and_then(Value::as_dict))
    {
        if own.contains_key("greeting") {
            base.remove("greeting");
        }
        if own.contains_key("instructions") || own.contains_key("instructions_file") {
            base.remove("instructions");
            base.remove("instructions_file");
        }
    }
    defaults::overlay(base, own)
}

/// Decodes an agent's table by its kind: unknown keys are errors for kinds that this build serves, and set apart for
/// the others.
pub fn decode(name: &str, table: Dict, layers: &Layers, errors: &mut Vec<ConfigError>) -> Option<AgentTable> {
    let at = path(&["agent", name]);
    let kind = table.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let built = known_kinds().find(|(built, _)| *built == kind);
    let mut table = defaults::overlay(defaults::of_kind(&kind), table);
    let mut options = Dict::new();
    match built {
        Some((_, own)) => {
            let known: Vec<&str> = COMMON_KEYS.into_iter().chain(own).collect();
            let strange: Vec<String> = table.keys().filter(|key| !known.contains(&key.as_str())).cloned().collect();
            for key in strange {
                let mut full = at.clone();
                full.push(key.clone());
                let owner = known_kinds().find(|(_, keys)| keys.contains(&key.as_str()));
                errors.push(match owner {
                    Some((owner, _)) => {
                        let message = format!("`{key}` has no meaning for an agent of kind `{kind}`");
                        layers.error(&full, Spot::Key, message, Some(format!("it belongs to kind `{owner}`")))
                    }
                    None => decode::unknown_key(&key, &known, &full, layers),
                });
                table.remove(&key);
            }
        }
        None if OTHER_KINDS.contains(&kind.as_str()) => {
            let typed = typed_keys();
            let strange: Vec<String> = table.keys().filter(|key| !typed.contains(&key.as_str())).cloned().collect();
            for key in strange {
                let near = keys::nearest(&key, typed.iter().copied())
                    .filter(|near| strsim::damerau_levenshtein(near, &key) <= 1 + usize::from(key.len() > 8));
                if near.is_some() {
                    let full = [at.clone(), vec![key.clone()]].concat();
                    errors.push(decode::unknown_key(&key, &typed, &full, layers));
                    table.remove(&key);
                } else if let Some(value) = table.remove(&key) {
                    options.insert(key, value);
                }
            }
        }
        None => {
            errors.push(wrong_kind(&kind, &at, layers));
            return None;
        }
    }
    let raw = decode::decode::<RawAgent>(&mut Value::from(table), &at, layers, errors)?;
    Some(AgentTable { raw, options })
}

fn typed_keys() -> Vec<&'static str> {
    COMMON_KEYS.into_iter().chain(known_kinds().flat_map(|(_, keys)| keys)).collect()
}

fn wrong_kind(kind: &str, at: &[String], layers: &Layers) -> ConfigError {
    let kinds: Vec<&str> = known_kinds().map(|(kind, _)| kind).chain(OTHER_KINDS).collect();
    let possible = format!("possible: {}", kinds.join(", "));
    if kind.is_empty() {
        let message = format!("`{}` has no `kind`", keys::shown(at));
        return layers.error(at, Spot::Key, message, Some(format!("add `kind`, or `like = \"AGENT\"`; {possible}")));
    }
    let near = keys::nearest(kind, kinds.iter().copied());
    let help = near.map_or(possible, |near| format!("did you mean `{near}`?"));
    let at = [at, &["kind".to_owned()]].concat();
    layers.error(&at, Spot::Value, format!("there is no kind `{kind}`"), Some(help))
}

/// Checks an agent.
pub fn agent(
    name: &str,
    table: &AgentTable,
    tools: &Arc<BTreeMap<String, ToolDefinition>>,
    check: &mut Checker<'_>,
) -> Option<CheckedAgent> {
    let raw = &table.raw;
    let at = |key| ["agent", name, key];
    let api_key = raw.api_key.as_ref().map(|text| check.secret(&at("api_key"), text));
    let kind = kind(name, table, tools, check);
    for (key, value) in [("vendor", &raw.vendor), ("display", &raw.display)] {
        if value.as_ref().is_some_and(holds_secret) {
            let help = "what is sent to a vendor as a secret belongs into `api_key` or `headers`".to_owned();
            check.wrong_key(&at(key), format!("`{key}` must not hold a secret: it is passed on as it stands"), help);
        }
    }
    let tool_names: Vec<&str> = tools.keys().map(String::as_str).collect();
    let setup = setup::setup(&["agent", name, "setup"], &raw.setup, &tool_names, check);
    let credentials = credentials(name, raw, check);
    let settings = AgentSettings {
        name: AgentName::from(name),
        kind: kind?,
        setup: Setup { model: setup.model.clone().or_else(|| raw.model.clone()), ..setup },
        vendor: raw.vendor.clone().unwrap_or(Json::Null),
        display: raw.display.clone().unwrap_or(Json::Null),
        zone: raw.zone.clone(),
        max_sessions: raw.max_sessions,
        session_max: raw.session_max_s.map(Duration::from_secs_f64),
        ping: Duration::from_secs(raw.ping_s.unwrap_or(10)),
        price: price::price(name, raw, check),
    };
    let by_tenant = credentials.into_iter().map(|(tenant, key)| (tenant, with_key(&settings, &key))).collect();
    let settings = match api_key {
        Some(key) => with_key(&settings, &key?),
        None => settings,
    };
    Some(CheckedAgent { settings, by_tenant, has_secret: has_secret(table) })
}

/// What an agent is, and what only that kind needs.
fn kind(
    name: &str,
    table: &AgentTable,
    tools: &Arc<BTreeMap<String, ToolDefinition>>,
    check: &mut Checker<'_>,
) -> Option<AgentKind> {
    let raw = &table.raw;
    let kind = raw.kind.clone().unwrap_or_default();
    if let Some(of_vendor) = VendorKind::named(&kind) {
        let headers = headers(name, raw, check);
        return vendor::vendor(name, of_vendor, raw, headers, tools, check).map(AgentKind::Vendor);
    }
    match kind.as_str() {
        "echo" => Some(AgentKind::Echo { delay: raw.delay_ms.map_or(echo::DEFAULT_DELAY, Duration::from_millis) }),
        "clip" => {
            let plays = match &raw.file {
                Some(file) => check.announcement(&["agent", name, "file"], file),
                None => Announcement::apology().ok().map(Arc::new),
            };
            plays.map(|plays| AgentKind::Clip { plays })
        }
        "storyteller" => Some(AgentKind::Storyteller),
        "quic" => quic(name, raw, check).map(AgentKind::Quic),
        "websocket" => websocket(name, raw, check).map(AgentKind::Websocket),
        _ => {
            for (key, value) in &table.options {
                if let Some(text) = value.as_str() {
                    check.text(&["agent", name, key], text);
                }
            }
            Some(AgentKind::NotBuilt { kind })
        }
    }
}

/// Whether whoever reaches the agent makes use of a secret.
fn has_secret(table: &AgentTable) -> bool {
    let raw = &table.raw;
    let mut options = table.options.iter();
    raw.api_key.is_some()
        || !raw.credential.is_empty()
        || raw.headers.values().chain(&raw.url).any(|text| secret::is_reference(text))
        || vendor::has_secret(raw)
        || options.any(|(key, value)| secret::looks_secret(key) || value.as_str().is_some_and(secret::is_reference))
}

fn holds_secret(value: &Json) -> bool {
    match value {
        Json::Object(table) => {
            table.iter().any(|(key, value)| value.is_string() && secret::looks_secret(key) || holds_secret(value))
        }
        Json::Array(items) => items.iter().any(holds_secret),
        _ => false,
    }
}

/// The agent with a key: in the `Authorization` header, or as its vendor wants it.
fn with_key(agent: &AgentSettings, key: &SecretString) -> AgentSettings {
    let mut agent = agent.clone();
    match &mut agent.kind {
        AgentKind::Websocket(websocket) => {
            websocket.headers.retain(|(name, _)| name != "authorization");
            let bearer = SecretString::from(format!("Bearer {}", key.expose_secret()));
            websocket.headers.push(("authorization".to_owned(), bearer));
        }
        AgentKind::Vendor(vendor) => vendor.api_key = Some(key.clone()),
        _ => {}
    }
    agent
}

fn credentials(name: &str, raw: &RawAgent, check: &mut Checker<'_>) -> BTreeMap<String, SecretString> {
    let keys = raw.credential.iter().filter_map(|(tenant, credential)| {
        let at = ["agent", name, "credential", tenant, "api_key"];
        let Some(text) = &credential.api_key else {
            check.missing(&at[..4], "api_key", "add `api_key = \"${env:NAME}\"`");
            return None;
        };
        Some((tenant.clone(), check.secret(&at, text)?))
    });
    keys.collect()
}

fn websocket(name: &str, raw: &RawAgent, check: &mut Checker<'_>) -> Option<WebsocketAgent> {
    let at = |key| ["agent", name, key];
    let headers = headers(name, raw, check);
    if matches!(raw.protocol, Some(RawProtocol::Protobuf | RawProtocol::Rtvi)) {
        check.wrong(&at("protocol"), "is of kind `pipecat`", "possible: native, plain".to_owned());
    }
    let native = raw.protocol.unwrap_or_default() == RawProtocol::Native;
    if native && check.is_set(&at("start")) {
        check.wrong_key(&at("start"), "`start` has a meaning for `protocol = \"plain\"` only", None);
    }
    let mut format = |key: &'static str, text: &Option<String>| match text {
        Some(text) => check.parse::<Format>(&at(key), text),
        None => Some(Format::pcm16(24_000)),
    };
    let (uplink, downlink) = (format("audio_in", &raw.audio_in), format("audio_out", &raw.audio_out));
    let Some(url) = &raw.url else {
        check.missing(&["agent", name], "url", "add `url = \"ws://host:port/path\"`");
        return None;
    };
    Some(WebsocketAgent {
        url: check.url(&at("url"), url, &["ws", "wss"])?,
        headers,
        protocol: if native {
            WebsocketProtocol::Native
        } else {
            WebsocketProtocol::Plain { start: raw.start.unwrap_or(false) }
        },
        uplink: uplink?,
        downlink: downlink?,
        connect_timeout: Duration::from_millis(raw.connect_timeout_ms.unwrap_or(5000)),
        authorities: authorities(name, raw, check)?,
    })
}

fn quic(name: &str, raw: &RawAgent, check: &mut Checker<'_>) -> Option<QuicAgent> {
    let at = |key| ["agent", name, key];
    let mut format = |key: &'static str, text: &Option<String>| match text {
        Some(text) => check.parse::<Format>(&at(key), text),
        None => Some(Format::OPUS),
    };
    let (uplink, downlink) = (format("audio_in", &raw.audio_in), format("audio_out", &raw.audio_out));
    let help = "add `url = \"quic://host:port\"`";
    let Some(url) = &raw.url else {
        check.missing(&["agent", name], "url", help);
        return None;
    };
    let url = check.url(&at("url"), url, &["quic"])?;
    if url.port().is_none() {
        check.wrong(&at("url"), "the URL names no port", "write it like quic://host:8083".to_owned());
        return None;
    }
    Some(QuicAgent {
        url,
        uplink: uplink?,
        downlink: downlink?,
        connect_timeout: Duration::from_millis(raw.connect_timeout_ms.unwrap_or(5000)),
        authorities: authorities(name, raw, check)?,
        sessions_per_connection: raw.sessions_per_connection.unwrap_or(50),
    })
}

/// The certificates of `ca_file`, if there is one.
fn authorities(name: &str, raw: &RawAgent, check: &mut Checker<'_>) -> Option<Option<Arc<str>>> {
    let Some(file) = &raw.ca_file else { return Some(None) };
    let at = ["agent", name, "ca_file"];
    let text = check.content(&at, file)?;
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
        return Some(Some(text.into()));
    }
    let help = "name a file with certificates between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----";
    check.wrong(&at, "there is no certificate in it", help.to_owned());
    None
}

/// Headers of the upgrade request, names in lower case.
fn headers(name: &str, raw: &RawAgent, check: &mut Checker<'_>) -> Vec<(String, SecretString)> {
    const OURS: [&str; 4] = ["host", "connection", "upgrade", "content-length"];
    let mut out = Vec::new();
    for (header, text) in &raw.headers {
        let at = ["agent", name, "headers", header];
        let lower = header.to_ascii_lowercase();
        if http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
            check.wrong_key(&at, format!("`{header}` is not a header name"), None);
        } else if OURS.contains(&lower.as_str()) || lower.starts_with("sec-websocket-") {
            check.wrong_key(&at, format!("`{header}` is set by antiphon itself"), "take it out".to_owned());
        } else if lower == "authorization" && raw.api_key.is_some() {
            check.wrong_key(&at, "`api_key` sets this header too", "keep one of the two".to_owned());
        } else {
            let value = if secret::looks_secret(&lower) {
                check.secret(&at, text)
            } else {
                check.text(&at, text).map(Into::into)
            };
            let Some(value) = value else { continue };
            if http::HeaderValue::from_str(value.expose_secret()).is_err() {
                check.wrong(&at, "the value has characters that a header cannot carry", None);
            } else {
                out.push((lower, value));
            }
        }
    }
    out
}
