//! Configuration: raw tables, checked settings, errors that name the line.
//!
//! Layers, later over earlier: built-in defaults, files in order, variables (`ANTIPHON_LISTEN__HTTP=…`). [`check`] is
//! pure: texts and variables in, [`Settings`] out. [`source`] is the one place that reads files and the environment.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

mod agents;
pub mod auth;
mod checker;
mod decode;
mod defaults;
mod document;
mod error;
pub mod examples;
mod keys;
mod layers;
mod limits;
pub mod network;
pub mod overload;
mod price;
mod print;
pub mod quic;
mod raw;
mod raw_failover;
mod raw_services;
mod redis;
mod routes;
mod secret;
mod sections;
mod services;
pub mod settings;
mod setup;
mod shape;
pub mod source;
pub mod vendor;
mod when_down;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use figment::value::{Dict, Value};

pub use document::FileText;
pub use error::{ConfigError, ConfigErrors, Excerpt};
pub use keys::restart_keys;
pub use print::print;
pub use secret::Lookup;
pub use services::BUILT_IN_TOOLS;

use crate::ids::AgentName;
use crate::message::ToolDefinition;
use crate::route::rule::Rule;
use checker::{Checker, path};
use layers::Layers;
use raw::{Raw, RawRoute};
use routes::Names;
use settings::{DemoSettings, Inert, NodeSettings, Settings};

/// Checks files, in order, and variables.
///
/// # Errors
/// Every fault, in the order of the files.
pub fn check(
    files: &[FileText],
    env: &BTreeMap<String, String>,
    lookup: &dyn Lookup,
) -> Result<Settings, ConfigErrors> {
    let (_, result) = check_keeping_layers(files, env, lookup);
    result
}

/// Where a key, or the nearest table around it, was set: file, line and column, or the variable.
pub fn place(files: &[FileText], env: &BTreeMap<String, String>, lookup: &dyn Lookup, keys: &[&str]) -> Option<String> {
    let mut layers = Layers::merge(files, env, lookup).ok()?;
    complete(&mut layers);
    (1..=keys.len()).rev().find_map(|length| layers.place(&path(&keys[..length])))
}

/// As [`check`], with the merged layers, in which agents have inherited and routes are complete.
fn check_keeping_layers(
    files: &[FileText],
    env: &BTreeMap<String, String>,
    lookup: &dyn Lookup,
) -> (Option<Layers>, Result<Settings, ConfigErrors>) {
    let failed = |errors| Err(ConfigErrors { errors, unreadable: false });
    let mut layers = match Layers::merge(files, env, lookup) {
        Ok(layers) => layers,
        Err(errors) => return (None, failed(errors)),
    };
    let (mut errors, faulty) = complete(&mut layers);
    let mut values = layers.values.clone();
    decode::check_ranges(&mut values, &layers, &mut errors);
    let mut check = Checker { layers: &layers, lookup, errors };
    let settings = resolve(values, faulty, &mut check);
    let mut errors = check.errors;
    errors.sort_by_cached_key(|error| {
        let file = files.iter().position(|file| file.name == error.source());
        (file.unwrap_or(files.len()), error.line(), error.column())
    });
    errors.dedup();
    let result = match settings {
        Some(settings) if errors.is_empty() => Ok(settings),
        _ => failed(errors),
    };
    (Some(layers), result)
}

/// The settings without any file or variable.
fn built_in() -> Settings {
    struct Nothing;
    impl Lookup for Nothing {
        fn env(&self, _: &str) -> Option<String> {
            None
        }
        fn read(&self, _: &std::path::Path) -> Result<String, String> {
            Err("no file is read".to_owned())
        }
        fn exists(&self, _: &std::path::Path) -> bool {
            false
        }
    }
    match check(&[], &BTreeMap::new(), &Nothing) {
        Ok(settings) => settings,
        Err(errors) => unreachable!("the built-in defaults are wrong: {errors}"),
    }
}

/// Fills in what is inherited by `like`, what routes and agents have if nobody says otherwise, and the default agent.
/// Gives faults, and the agents that have them.
fn complete(layers: &mut Layers) -> (Vec<ConfigError>, BTreeSet<String>) {
    let mut errors = Vec::new();
    let agents = layers.values.get("agent").and_then(Value::as_dict).cloned().unwrap_or_default();
    let agents::Inherited { mut agents, like, faulty } = agents::inherit(&agents, layers, &mut errors);
    layers.like = like;
    let default_agent = default_agent(&agents, layers);
    if let Some(Value::Dict(_, node)) = layers.values.get_mut("node") {
        node.entry("default_agent".to_owned()).or_insert(Value::from(default_agent));
    }
    for table in agents.values_mut() {
        if let Value::Dict(_, table) = table {
            let kind = table.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            *table = defaults::overlay(defaults::of_kind(&kind), std::mem::take(table));
        }
    }
    layers.values.insert("agent".to_owned(), Value::from(agents));
    let mut routes: Vec<Value> = layers.values.get("route").and_then(Value::as_array).unwrap_or_default().to_vec();
    if routes.is_empty() {
        routes.push(Value::from(defaults::only_route()));
    }
    for route in &mut routes {
        if let Value::Dict(_, table) = route {
            *table = defaults::overlay(defaults::route(), std::mem::take(table));
        }
    }
    layers.values.insert("route".to_owned(), Value::from(routes));
    (errors, faulty)
}

fn resolve(mut values: Dict, mut faulty: BTreeSet<String>, check: &mut Checker<'_>) -> Option<Settings> {
    let agents = values.remove("agent").and_then(Value::into_dict).unwrap_or_default();
    let routes = values.remove("route").and_then(Value::into_array).unwrap_or_default();
    let raw: Raw = decode::decode(&mut Value::from(values), &[], check.layers, &mut check.errors)?;
    let tool_names: Vec<&str> = raw.tool.keys().map(String::as_str).chain(services::BUILT_IN_TOOLS).collect();
    let mut settings = Settings {
        node: NodeSettings {
            name: raw.node.name.clone(),
            region: raw.node.region.clone(),
            url: raw.node.url.as_ref().and_then(|text| check.url(&["node", "url"], text, &["https", "http"])),
            elsewhere: raw.node.elsewhere,
            default_agent: raw.node.default_agent.as_deref().unwrap_or(defaults::LOCAL_AGENTS[0]).into(),
        },
        listen: sections::listen(&raw.listen, check),
        http: sections::http(&raw.http, check),
        runtime: sections::runtime(&raw.runtime),
        overload: overload::settings(&raw.overload),
        log: sections::log(&raw.log, check),
        auth: auth::check(&raw.auth, check),
        webrtc: sections::webrtc(&raw.webrtc, check),
        quic: quic::check(&raw.quic, check),
        redis: redis::check(&raw.redis, check),
        demo: DemoSettings { enabled: raw.demo.enabled },
        routes: Vec::new(),
        agents: BTreeMap::new(),
        credentials: BTreeMap::new(),
        secretive: BTreeSet::new(),
        tools: named(&raw.tool, |name, tool| services::tool(name, tool, check)),
        limits: named(&raw.limit, |name, limit| limits::limit(name, limit, check)),
        limit_sets: named(&raw.limits, |name, set| Some(limits::limit_set(name, set, &raw.limit, check))),
        hooks: named(&raw.hook, |name, hook| services::hook(name, hook, check)),
        off: off(&agents, check),
        inert: Vec::new(),
    };
    let definitions = Arc::new(services::definitions(&settings.tools));
    faulty.extend(resolve_agents(agents, &definitions, &mut settings, check));
    let default_agent = settings.node.default_agent.as_str();
    if settings.agent(default_agent).is_none() && !faulty.contains(default_agent) {
        let known = settings.agents.keys().map(AgentName::as_str);
        check.dangling(&["node", "default_agent"], "agent", default_agent, known);
    }
    let names = Names {
        agents: &settings.agents,
        faulty: &faulty,
        off: &settings.off,
        limit_sets: raw.limits.keys().map(String::as_str).collect(),
        hooks: raw.hook.keys().map(String::as_str).collect(),
        tools: &tool_names,
        default_agent: &settings.node.default_agent,
    };
    let rules: Vec<(usize, Arc<Rule>)> = resolve_routes(routes, &names, check);
    routes::check_zones(&rules, &settings, check);
    routes::check_anonymous(&rules, &settings, check);
    settings.routes = rules.into_iter().map(|(_, rule)| rule).collect();
    settings.inert = inert(&settings, check);
    Some(settings)
}

fn named<R, T>(raw: &BTreeMap<String, R>, mut resolve: impl FnMut(&str, &R) -> Option<T>) -> BTreeMap<String, T> {
    raw.iter().filter_map(|(name, table)| Some((name.clone(), resolve(name, table)?))).collect()
}

/// For callers that name none: the one agent that is not built in, else `storyteller`.
fn default_agent(agents: &Dict, layers: &Layers) -> String {
    let own =
        |name: &&String| !defaults::LOCAL_AGENTS.contains(&name.as_str()) && layers.is_set(&path(&["agent", name]));
    let mut own = agents.keys().filter(own);
    let only = own.next().filter(|_| own.next().is_none());
    only.map_or(defaults::LOCAL_AGENTS[0], String::as_str).to_owned()
}

/// Built-in agents that are off, with what would switch them on.
fn off(agents: &Dict, check: &Checker<'_>) -> Vec<(AgentName, String)> {
    let missing = defaults::VENDORS.iter().filter(|vendor| !agents.contains_key(vendor.name)).map(|vendor| {
        let unset: Vec<&str> = vendor
            .variables
            .iter()
            .filter(|name| check.lookup.env(name).is_none_or(|value| value.is_empty()))
            .copied()
            .collect();
        let verb = if unset.len() == 1 { "is" } else { "are" };
        let why = format!("{} {verb} not set", unset.join(" and "));
        (AgentName::from(vendor.name), why)
    });
    missing.collect()
}

/// Checks all agents; the names of those that are faulty.
fn resolve_agents(
    agents: Dict,
    tools: &Arc<BTreeMap<String, ToolDefinition>>,
    settings: &mut Settings,
    check: &mut Checker<'_>,
) -> BTreeSet<String> {
    let mut faulty = BTreeSet::new();
    for (name, table) in agents {
        let Some(table) = table.into_dict() else {
            check.wrong(&["agent", &name], format!("`agent.{name}` must be a table"), None);
            faulty.insert(name);
            continue;
        };
        let table = agents::decode(&name, table, check.layers, &mut check.errors);
        let agent = table.and_then(|table| agents::agent(&name, &table, tools, check));
        let Some(agent) = agent else {
            faulty.insert(name);
            continue;
        };
        let name = agent.settings.name.clone();
        if agent.has_secret {
            settings.secretive.insert(name.clone());
        }
        if !agent.by_tenant.is_empty() {
            let by_tenant = agent.by_tenant.into_iter().map(|(tenant, agent)| (tenant, Arc::new(agent)));
            settings.credentials.insert(name.clone(), by_tenant.collect());
        }
        settings.agents.insert(name, Arc::new(agent.settings));
    }
    faulty
}

/// Checks all routes, each with its number.
fn resolve_routes(routes: Vec<Value>, names: &Names<'_>, check: &mut Checker<'_>) -> Vec<(usize, Arc<Rule>)> {
    let mut rules = Vec::new();
    for (index, mut table) in routes.into_iter().enumerate() {
        let at = path(&["route", &index.to_string()]);
        let Some(raw) = decode::decode::<RawRoute>(&mut table, &at, check.layers, &mut check.errors) else { continue };
        if let Some(rule) = routes::route(index, &raw, names, check) {
            rules.push((index, Arc::new(rule)));
        }
    }
    rules
}

/// Keys that are set and that this build does not act on, and agents of kinds that it does not serve.
fn inert(settings: &Settings, check: &Checker<'_>) -> Vec<Inert> {
    let set = check.layers.keys_set();
    let inert_key = |path: &[String]| keys::INERT.iter().any(|pattern| keys::matches(pattern, path));
    let not_served = |path: &[String]| match path {
        [table, name] if table == "agent" => {
            settings.agent(name).is_some_and(|agent| matches!(agent.kind, settings::AgentKind::NotBuilt { .. }))
        }
        _ => false,
    };
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for key in &set {
        let kind = not_served(key);
        if !(kind || inert_key(key)) || !seen.insert(key.clone()) {
            continue;
        }
        let Some(place) = check.layers.place(key) else { continue };
        let route = (key[0] == "route").then(|| settings.routes.get(key[1].parse::<usize>().ok()?)).flatten();
        let name = match route {
            Some(rule) => format!("{} of route `{}`", keys::shown(&key[2..]), rule.name),
            None if kind => format!("{}, because its kind is not built in this version", keys::shown(key)),
            None => keys::shown(key),
        };
        out.push(Inert { place, key: name });
    }
    out
}

#[cfg(test)]
mod tests;
