//! Routes, from raw to checked; and what must hold over all of them: zones, and callers without credentials.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use crate::config::checker::Checker;
use crate::config::raw::{ClientField, RawAudio, RawBargeIn, RawGap, RawMatch, RawRoute, RawTap, RawTarget};
use crate::config::raw_failover::RawFailOn;
use crate::config::settings::{AgentKind, AgentSettings, Settings};
use crate::config::setup;
use crate::config::shape::OneOrMany;
use crate::config::when_down;
use crate::ids::{AgentName, RouteName};
use crate::media::announcement::Announcement;
use crate::message::FailureClass;
use crate::route::plan::{BargeInPolicy, ClientMay, GapMode, IdlePolicy, OpusSettings, Policy, Reversible};
use crate::route::rule::{Choice, Match, Rule, Slo, Tap, TapSide, TapTells, Target};

/// What a route may name.
pub struct Names<'a> {
    pub agents: &'a BTreeMap<AgentName, Arc<AgentSettings>>,
    /// Agents whose tables are faulty: named without a further error.
    pub faulty: &'a BTreeSet<String>,
    /// Built-in agents that are off, with what would switch them on.
    pub off: &'a [(AgentName, String)],
    pub limit_sets: Vec<&'a str>,
    pub hooks: Vec<&'a str>,
    pub tools: &'a [&'a str],
    pub default_agent: &'a AgentName,
}

/// Checks one route.
pub fn route(index: usize, raw: &RawRoute, names: &Names<'_>, check: &mut Checker<'_>) -> Option<Rule> {
    let index = &*index.to_string();
    let at = |key| ["route", index, key];
    let name = name(index, raw, check);
    let to = target(index, raw, names, check);
    for (number, agent) in raw.fallback.0.iter().enumerate() {
        agent_named(&["route", index, "fallback", &number.to_string()], agent, names, check);
    }
    for (number, set) in raw.limits.0.iter().enumerate().filter(|(_, set)| !names.limit_sets.contains(&set.as_str())) {
        check.dangling(
            &["route", index, "limits", &number.to_string()],
            "limits",
            set,
            names.limit_sets.iter().copied(),
        );
    }
    if let Some(hook) = raw.admit.as_ref().filter(|hook| !names.hooks.contains(&hook.as_str())) {
        check.dangling(&at("admit"), "hook", hook, names.hooks.iter().copied());
    }
    let taps =
        raw.taps.iter().enumerate().filter_map(|(number, tap)| tap_of(index, number, tap, names, check)).collect();
    Some(Rule {
        name: name?,
        matches: matches(index, &raw.matches, check),
        sticky: raw.sticky,
        to: to?,
        fallback: raw.fallback.0.iter().map(|name| AgentName::from(name.as_str())).collect(),
        zone: raw.zone.clone(),
        taps,
        policy: policy(index, raw, names, check),
        limits: raw.limits.0.clone(),
        admit: raw.admit.clone(),
        slo: Slo {
            added_p99: raw.slo.added_p99_ms.map(Duration::from_millis),
            first_audio_p95: raw.slo.first_audio_p95_ms.map(Duration::from_millis),
        },
        anonymous: raw.anonymous,
        token_in_query: raw.token_in_query,
        setup: setup::setup(&at("setup"), &raw.setup, names.tools, check),
    })
}

fn name(index: &str, raw: &RawRoute, check: &mut Checker<'_>) -> Option<RouteName> {
    match raw.name.as_deref() {
        Some("") => {
            check.wrong(&["route", index, "name"], "a route's name cannot be empty", None);
            None
        }
        Some(name) => Some(RouteName::from(name)),
        None => {
            check.missing(&["route", index], "name", "add `name = \"…\"`; logs, metrics and errors use it");
            None
        }
    }
}

fn target(index: &str, raw: &RawRoute, names: &Names<'_>, check: &mut Checker<'_>) -> Option<Target> {
    let at = ["route", index, "to"];
    let choices = match &raw.to {
        None => {
            check.missing(
                &["route", index],
                "to",
                "add `to = \"AGENT\"`, or `to = \"requested\"` for the one asked for",
            );
            return None;
        }
        Some(RawTarget::Name(name)) if name == "requested" => {
            return Some(Target::Requested { default: names.default_agent.clone() });
        }
        Some(RawTarget::Name(name)) => {
            agent_named(&at, name, names, check);
            return Some(Target::Weighted(vec![Choice { agent: name.as_str().into(), weight: 1, label: None }]));
        }
        Some(RawTarget::Choices(choices)) => choices,
    };
    if choices.is_empty() || choices.iter().all(|choice| choice.weight == Some(0)) {
        check.wrong(
            &at,
            "nobody is left to answer: no agent has a weight",
            "add `{ agent = \"…\", weight = 1 }`".to_owned(),
        );
        return None;
    }
    let mut out = Vec::new();
    for (number, choice) in choices.iter().enumerate() {
        let number = &*number.to_string();
        let Some(agent) = &choice.agent else {
            check.missing(&["route", index, "to", number], "agent", "add `agent = \"…\"`");
            continue;
        };
        // A bare name in the list has no key `agent` of its own.
        let keyed = ["route", index, "to", number, "agent"];
        let place: &[&str] = if check.is_set(&keyed) { &keyed } else { &keyed[..4] };
        agent_named(place, agent, names, check);
        out.push(Choice {
            agent: agent.as_str().into(),
            weight: choice.weight.unwrap_or(1),
            label: choice.label.as_deref().map(Into::into),
        });
    }
    Some(Target::Weighted(out))
}

fn tap_of(index: &str, number: usize, tap: &RawTap, names: &Names<'_>, check: &mut Checker<'_>) -> Option<Tap> {
    let number = &*number.to_string();
    let at = ["route", index, "taps", number, "agent"];
    let Some(agent) = &tap.agent else {
        check.missing(&at[..4], "agent", "add `agent = \"…\"`");
        return None;
    };
    agent_named(&at, agent, names, check);
    let hear = if tap.hear.0.is_empty() { vec![TapSide::Caller] } else { tap.hear.0.clone() };
    if tap.tell.0.contains(&TapTells::Transcript) && !hear.contains(&TapSide::Caller) {
        let help = "add \"caller\" to `hear`: only what the caller says is taken over from a tap".to_owned();
        check.wrong(&["route", index, "taps", number, "tell"], "this tap does not hear the caller", help);
    }
    Some(Tap {
        agent: agent.as_str().into(),
        percent: tap.percent.unwrap_or(100.0),
        hear,
        tell: tap.tell.0.iter().copied().collect(),
    })
}

pub fn agent_named(at: &[&str], name: &str, names: &Names<'_>, check: &mut Checker<'_>) {
    if names.agents.contains_key(&AgentName::from(name)) || names.faulty.contains(name) {
        return;
    }
    match names.off.iter().find(|(off, _)| off.as_str() == name) {
        Some((_, why)) => {
            let help =
                format!("define it with `[agent.{name}]`; all of its keys can be inherited by `like = \"{name}\"`");
            check.wrong(at, format!("the built-in agent `{name}` is off: {why}"), help);
        }
        None => check.dangling(at, "agent", name, names.agents.keys().map(AgentName::as_str)),
    }
}

fn matches(index: &str, raw: &RawMatch, check: &mut Checker<'_>) -> Match {
    let mut claim = BTreeMap::new();
    for (name, value) in &raw.claim {
        flatten_claim(name, value, &mut claim);
    }
    for (name, values) in &claim {
        if values.is_empty() || values.iter().any(|value| value.is_object() || value.is_array() || value.is_null()) {
            let help = "write a text, a number, true or false, or a list of them".to_owned();
            let first = name.split('.').next().unwrap_or_default();
            check.wrong(&["route", index, "match", "claim", first], "cannot be compared with a claim", help);
        }
    }
    let header =
        raw.header.iter().map(|(name, OneOrMany(values))| (name.to_ascii_lowercase(), values.clone())).collect();
    Match {
        agent: raw.agent.0.clone(),
        transport: raw.transport.0.clone(),
        tenant: raw.tenant.0.clone(),
        claim,
        header,
        path: raw.path.0.clone(),
        host: raw.host.0.clone(),
        origin: raw.origin.0.clone(),
        region: raw.region.0.clone(),
        percent: raw.percent,
    }
}

/// `claim.a.b = v` is the claim at the path `a.b`.
fn flatten_claim(path: &str, value: &Json, out: &mut BTreeMap<String, Vec<Json>>) {
    match value {
        Json::Object(inner) if !inner.is_empty() => {
            inner.iter().for_each(|(key, value)| flatten_claim(&format!("{path}.{key}"), value, out));
        }
        Json::Array(values) => drop(out.insert(path.to_owned(), values.clone())),
        value => drop(out.insert(path.to_owned(), vec![value.clone()])),
    }
}

fn policy(index: &str, raw: &RawRoute, names: &Names<'_>, check: &mut Checker<'_>) -> Policy {
    let default = Policy::default();
    let seconds = |value: Option<u64>, default: Duration| value.map_or(default, Duration::from_secs);
    let millis = |value: Option<u64>, default: Duration| value.map_or(default, Duration::from_millis);
    let mut client_may = ClientMay::default();
    for field in &raw.client_may {
        *match field {
            ClientField::Instructions => &mut client_may.instructions,
            ClientField::Voice => &mut client_may.voice,
            ClientField::Language => &mut client_may.language,
            ClientField::Tools => &mut client_may.tools,
            ClientField::Turns => &mut client_may.turns,
            ClientField::Model => &mut client_may.model,
            ClientField::Context => &mut client_may.context,
        } = true;
    }
    Policy {
        max: seconds(raw.max_s, default.max),
        idle: idle(index, raw, names, check),
        resume_window: seconds(raw.resume_window_s, default.resume_window),
        agent_ready: millis(raw.agent_ready_ms, default.agent_ready),
        hedge: millis(raw.hedge_ms, default.hedge),
        answer_within: millis(raw.answer_within_ms, default.answer_within),
        fail_on: raw.fail_on.as_ref().map_or(default.fail_on.clone(), |classes| classes.iter().map(fail_on).collect()),
        client_may,
        barge_in: barge_in(&raw.barge_in),
        fallback_notice: match raw.fallback_notice.as_deref() {
            None | Some("none") => None,
            Some("clip") => Announcement::moment().ok().map(Arc::new),
            Some(file) => check.announcement(&["route", index, "fallback_notice"], file),
        },
        when_down: when_down::steps(index, raw, names, check),
        ..audio(&raw.audio, default)
    }
}

fn fail_on(class: &RawFailOn) -> FailureClass {
    match class {
        RawFailOn::Unreachable => FailureClass::Unreachable,
        RawFailOn::Timeout => FailureClass::Timeout,
        RawFailOn::Lost => FailureClass::Lost,
        RawFailOn::Auth => FailureClass::Auth,
        RawFailOn::Limit => FailureClass::Limit,
        RawFailOn::Expired => FailureClass::Expired,
        RawFailOn::Internal => FailureClass::Internal,
        RawFailOn::Protocol => FailureClass::Protocol,
        RawFailOn::BadRequest => FailureClass::BadRequest,
    }
}

fn audio(raw: &RawAudio, default: Policy) -> Policy {
    let millis = |value: Option<u64>, default: Duration| value.map_or(default, Duration::from_millis);
    let opus = default.opus;
    Policy {
        gap: raw.gap.map_or(default.gap, |gap| match gap {
            RawGap::Fast => GapMode::Fast,
            RawGap::Accurate => GapMode::Accurate,
        }),
        gap_wait: millis(raw.gap_wait_ms, default.gap_wait),
        stall: millis(raw.stall_ms, default.stall),
        uplink_max: millis(raw.uplink_max_ms, default.uplink_max),
        preroll: millis(raw.preroll_ms, default.preroll),
        send_ahead: millis(raw.send_ahead_ms, default.send_ahead),
        playout_max: raw.playout_max_s.map_or(default.playout_max, Duration::from_secs),
        heard_wait: millis(raw.heard_wait_ms, default.heard_wait),
        client_dtx: raw.client_dtx.unwrap_or(default.client_dtx),
        client_bitrate: raw.client_bitrate.or(default.client_bitrate),
        opus: OpusSettings {
            complexity: raw.opus.complexity.unwrap_or(opus.complexity),
            bitrate: raw.opus.bitrate.unwrap_or(opus.bitrate),
            application: raw.opus.application.unwrap_or(opus.application),
            max_bandwidth: raw.opus.max_bandwidth.unwrap_or(opus.max_bandwidth),
            fec: raw.opus.fec.unwrap_or(opus.fec),
            dtx: raw.opus.dtx.unwrap_or(opus.dtx),
        },
        speech_threshold_dbov: raw.end_of_speech.level_dbov.unwrap_or(default.speech_threshold_dbov),
        speech_hangover: millis(raw.end_of_speech.hangover_ms, default.speech_hangover),
        ..default
    }
}

fn barge_in(raw: &RawBargeIn) -> BargeInPolicy {
    let default = BargeInPolicy::default();
    let millis = |value: Option<u64>, default: Duration| value.map_or(default, Duration::from_millis);
    BargeInPolicy {
        relay: raw.relay.unwrap_or(default.relay),
        threshold: raw.threshold.map_or(default.threshold, |threshold| threshold as f32),
        min_speech: millis(raw.min_speech_ms, default.min_speech),
        silence: millis(raw.silence_ms, default.silence),
        echo_guard_db: raw.echo_guard_db.unwrap_or(default.echo_guard_db),
        warmup: millis(raw.warmup_ms, default.warmup),
        reversible: raw.reversible.unwrap_or(false).then_some(Reversible {
            confirm: millis(raw.confirm_ms, Reversible::default().confirm),
            resume: millis(raw.resume_ms, Reversible::default().resume),
        }),
    }
}

fn idle(index: &str, raw: &RawRoute, names: &Names<'_>, check: &mut Checker<'_>) -> IdlePolicy {
    let default = Policy::default().idle;
    let prompt = raw.idle.prompt.as_deref().and_then(|prompt| {
        let at = ["route", index, "idle", "prompt"];
        agent_named(&at, prompt, names, check);
        match &names.agents.get(&AgentName::from(prompt))?.kind {
            AgentKind::Clip { plays } => Some(plays.clone()),
            _ => {
                let help = "it is played, not talked to".to_owned();
                check.wrong(&at, format!("`{prompt}` is not an agent of kind `clip`"), help);
                None
            }
        }
    });
    IdlePolicy {
        after: raw.idle.after_s.map_or(default.after, Duration::from_secs),
        prompt,
        grace: raw.idle.grace_s.map_or(default.grace, Duration::from_secs),
    }
}

/// Refuses agents outside of a route's zone.
pub fn check_zones(rules: &[(usize, Arc<Rule>)], settings: &Settings, check: &mut Checker<'_>) {
    for (index, rule) in rules {
        let Some(zone) = &rule.zone else { continue };
        let default = match &rule.to {
            Target::Requested { default } => Some(("to", default)),
            Target::Weighted(_) => None,
        };
        let mut told = BTreeSet::new();
        for (key, name) in rule.named_agents().chain(default) {
            let Some(agent) = settings.agents.get(name) else { continue };
            if agent.zone.as_ref() == Some(zone) || !told.insert((key, name.clone())) {
                continue;
            }
            let its = agent.zone.as_ref().map_or("has no zone".to_owned(), |its| format!("is in zone `{its}`"));
            let message = format!("a call of route `{}` would leave zone `{zone}`: agent `{name}` {its}", rule.name);
            let help = format!("add `zone = \"{zone}\"` to `[agent.{name}]` if it is there, or take it out of `{key}`");
            check.wrong(&["route", &index.to_string(), key], message, help);
        }
    }
}

/// Refuses routes by which anyone on the network could spend somebody's key without bounds.
pub fn check_anonymous(rules: &[(usize, Arc<Rule>)], settings: &Settings, check: &mut Checker<'_>) {
    let listen = &settings.listen;
    let listeners = [("http", Some(listen.http)), ("webrtc", listen.webrtc), ("quic", listen.quic)];
    let open = listeners.iter().find_map(|(key, address)| Some((key, address.filter(|a| !a.ip().is_loopback())?)));
    let Some((key, address)) = open else { return };
    for (index, rule) in rules.iter().filter(|(_, rule)| rule.anonymous) {
        let index = &*index.to_string();
        let bounded = !rule.limits.is_empty() && check.is_set(&["route", index, "max_s"]);
        let named: Vec<&AgentName> = match &rule.to {
            Target::Requested { .. } => {
                settings.agents.keys().chain(rule.named_agents().map(|(_, name)| name)).collect()
            }
            Target::Weighted(_) => rule.named_agents().map(|(_, name)| name).collect(),
        };
        let Some(agent) = named.into_iter().find(|name| settings.secretive.contains(*name)) else { continue };
        if !bounded {
            let message = format!(
                "route `{}` lets anyone who reaches `listen.{key}` ({address}) use the secret of agent `{agent}`",
                rule.name
            );
            let help = "take `anonymous` out; or name both `limits` and `max_s` on this route; or listen on 127.0.0.1";
            check.wrong(&["route", index, "anonymous"], message, help.to_owned());
        }
    }
}
