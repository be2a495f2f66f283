//! Configuration: raw tables, checked settings, errors that name the line.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod network;
mod raw;
mod sections;
pub mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::ids::AgentName;
use crate::message::Setup;
use crate::route::rule::Rule;
use settings::{AgentKind, AgentSettings, Settings};

/// The settings without any file or variable.
pub(crate) fn built_in() -> Settings {
    let agent = |name: &str, kind: AgentKind| {
        let agent = AgentSettings {
            name: AgentName::from(name),
            kind,
            setup: Setup::default(),
            vendor: Value::Null,
            display: Value::Null,
            zone: None,
            max_sessions: None,
            price: None,
        };
        (agent.name.clone(), Arc::new(agent))
    };
    let raw = raw::Raw::default();
    let storyteller = AgentName::from("storyteller");
    Settings {
        node: sections::node(&raw.node, &storyteller),
        listen: sections::listen(&raw.listen),
        http: sections::http(&raw.http),
        runtime: sections::runtime(&raw.runtime),
        log: sections::log(&raw.log),
        auth: sections::auth(&raw.auth),
        webrtc: Default::default(),
        redis: Default::default(),
        demo: settings::DemoSettings { enabled: raw.demo.enabled },
        routes: vec![Arc::new(Rule::by_name(storyteller))],
        agents: BTreeMap::from([
            agent("storyteller", AgentKind::Storyteller),
            agent("echo", AgentKind::Echo { delay: Duration::from_secs(1) }),
            agent("clip", AgentKind::Clip { file: None }),
        ]),
        credentials: BTreeMap::new(),
        secretive: BTreeSet::new(),
        tools: BTreeMap::new(),
        limits: BTreeMap::new(),
        limit_sets: BTreeMap::new(),
        hooks: BTreeMap::new(),
        off: Vec::new(),
        inert: Vec::new(),
    }
}
