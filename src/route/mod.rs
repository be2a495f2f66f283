//! From a request to a plan.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod decision;
mod explain;
pub mod pick;
pub mod plan;
pub mod rule;
pub mod setup;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

pub use explain::{Considered, Explanation};

use crate::config::settings::{AgentKind, AgentSettings, Settings, ToolSettings};
use crate::ids::{AgentName, ConversationId, RouteName, SessionId};
use crate::message::{ErrorCode, Setup};
use crate::route::decision::Overrides;
use crate::route::plan::{DownStep, Plan, PlannedTap, Rung};
use crate::route::rule::{Match, Rule, Sticky, Tap, TapSide, Target};
use crate::route::setup::Template;
use crate::session::Transport;

/// Everything about a call that a route may look at.
#[derive(Clone, Debug)]
pub struct RouteRequest {
    /// The agent asked for.
    pub agent: Option<AgentName>,
    /// How the client connects.
    pub transport: Transport,
    /// From the token.
    pub tenant: Option<String>,
    /// From the token.
    pub user: Option<String>,
    /// All claims of the token; `null` without one.
    pub claims: Value,
    /// The request's path.
    pub path: String,
    /// The `Host` header.
    pub host: Option<String>,
    /// The `Origin` header.
    pub origin: Option<String>,
    /// The request's headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// This node's region.
    pub region: Option<String>,
    /// The conversation, where it has one already.
    pub conversation_id: Option<ConversationId>,
    /// The session.
    pub session_id: SessionId,
    /// Whether the peer's address is a loopback address.
    pub loopback: bool,
    /// Whether the request has `Forwarded`, `X-Forwarded-For` or `Via`.
    pub forwarded: bool,
    /// Whether the caller has shown valid credentials.
    pub authenticated: bool,
    /// The client's `context`; `null` if it gave none.
    pub context: Value,
    /// From the pre-call hook; `null` without one.
    pub vars: Value,
}

impl RouteRequest {
    /// A request that says nothing but how it came, from another machine, without credentials.
    pub fn new(transport: Transport, session_id: SessionId) -> RouteRequest {
        RouteRequest {
            agent: None,
            transport,
            tenant: None,
            user: None,
            claims: Value::Null,
            path: "/v1/session".into(),
            host: None,
            origin: None,
            headers: Vec::new(),
            region: None,
            conversation_id: None,
            session_id,
            loopback: false,
            forwarded: false,
            authenticated: false,
            context: Value::Null,
            vars: Value::Null,
        }
    }

    /// Whether it may come without credentials by itself: from this machine, and not through a proxy.
    pub fn is_local(&self) -> bool {
        self.loopback && !self.forwarded
    }

    fn header(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn sticky(&self, sticky: Sticky) -> &str {
        let conversation = self.conversation_id.as_ref().map(ConversationId::as_str);
        let known = match sticky {
            Sticky::User => self.user.as_deref().or(conversation),
            Sticky::Conversation => conversation,
            Sticky::Session => None,
        };
        known.unwrap_or(self.session_id.as_str())
    }
}

/// Why a request gets no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No route's conditions hold.
    #[error("no route takes this call; `antiphon route explain` shows why")]
    NoRoute,
    /// The route leaves the choice to the caller, who names an agent that is not there.
    #[error("there is no agent `{agent}`; `antiphon route explain --agent {agent}` tells which there are")]
    UnknownAgent {
        /// The name.
        agent: AgentName,
        /// If it is a built-in agent that is off: what would switch it on. For operators, not for clients.
        off: Option<String>,
    },
    /// The agent lies outside of the route's zone.
    #[error("agent `{agent}` cannot be reached by route `{route}`")]
    OutsideZone {
        /// The route.
        route: RouteName,
        /// The agent.
        agent: AgentName,
    },
    /// The route takes only callers with credentials.
    #[error("route `{route}` needs credentials")]
    Unauthenticated {
        /// The route.
        route: RouteName,
    },
    /// What was decided for this call names something that is not in the configuration.
    #[error("there is no {what} `{name}` for the agents of route `{route}`")]
    Unknown {
        /// The route.
        route: RouteName,
        /// `agent` or `credential`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// No agent of the route is of a kind that this build serves.
    #[error("no agent of route `{route}` is of a kind that this version serves")]
    NotBuilt {
        /// The route.
        route: RouteName,
    },
    /// The client's `context` is too large.
    #[error("`context` has {bytes} bytes of JSON; {} are allowed", setup::CONTEXT_BYTES)]
    ContextTooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl RouteError {
    /// What a client is told.
    pub const fn code(&self) -> ErrorCode {
        match self {
            RouteError::NoRoute | RouteError::UnknownAgent { .. } => ErrorCode::NotFound,
            RouteError::OutsideZone { .. } => ErrorCode::Forbidden,
            RouteError::Unauthenticated { .. } => ErrorCode::Unauthorized,
            RouteError::NotBuilt { .. } => ErrorCode::AgentUnavailable,
            RouteError::Unknown { .. } => ErrorCode::Internal,
            RouteError::ContextTooLarge { .. } => ErrorCode::BadMessage,
        }
    }

    /// The field of `start` that is wrong.
    pub const fn field(&self) -> Option<&'static str> {
        match self {
            RouteError::UnknownAgent { .. } | RouteError::OutsideZone { .. } => Some("agent"),
            RouteError::ContextTooLarge { .. } => Some("context"),
            RouteError::NoRoute
            | RouteError::Unauthenticated { .. }
            | RouteError::NotBuilt { .. }
            | RouteError::Unknown { .. } => None,
        }
    }
}

/// The routes in force. Immutable: a reload makes a new one, and calls keep the plan that they have.
#[derive(Clone, Debug)]
pub struct Router {
    rules: Vec<Arc<Rule>>,
    agents: BTreeMap<AgentName, Arc<AgentSettings>>,
    credentials: BTreeMap<AgentName, BTreeMap<String, Arc<AgentSettings>>>,
    off: Vec<(AgentName, String)>,
    tools: Arc<BTreeMap<String, ToolSettings>>,
}

impl Router {
    /// A router over checked settings.
    pub fn new(settings: &Settings) -> Router {
        Router {
            rules: settings.routes.clone(),
            agents: settings.agents.clone(),
            credentials: settings.credentials.clone(),
            off: settings.off.clone(),
            tools: Arc::new(settings.tools.clone()),
        }
    }

    /// The plan for a call: the first route whose conditions all hold decides. `now` is Unix time in seconds, for
    /// templates.
    ///
    /// # Errors
    /// Why there is no plan; [`RouteError::code`] is for the client.
    pub fn route(&self, request: &RouteRequest, now: u64) -> Result<Plan, RouteError> {
        self.plan(self.find(request)?, request, &Overrides::default(), now)
    }

    /// The first route whose conditions all hold, if it lets this caller in.
    ///
    /// # Errors
    /// If there is none, or it asks for credentials.
    pub fn find(&self, request: &RouteRequest) -> Result<&Arc<Rule>, RouteError> {
        let rule = self.rules.iter().find(|rule| holds(rule, request)).ok_or(RouteError::NoRoute)?;
        if !(request.authenticated || rule.anonymous || request.is_local()) {
            return Err(RouteError::Unauthenticated { route: rule.name.clone() });
        }
        Ok(rule)
    }

    /// The plan for a call that a route takes, with what token and hook have decided.
    ///
    /// # Errors
    /// As for [`Router::route`].
    pub fn plan(&self, rule: &Rule, request: &RouteRequest, over: &Overrides, now: u64) -> Result<Plan, RouteError> {
        let bytes = if request.context.is_null() { 0 } else { request.context.to_string().len() };
        if bytes > setup::CONTEXT_BYTES {
            return Err(RouteError::ContextTooLarge { bytes });
        }
        let (pool, label) = match &over.agent {
            Some(agent) => (vec![self.decided(rule, agent)?], None),
            None => self.pool(rule, request)?,
        };
        let template = Template { claims: &request.claims, vars: &request.vars, context: &request.context, now };
        let mut rungs: Vec<Rung> = Vec::with_capacity(pool.len() + rule.fallback.len());
        let mut equals = 0;
        for (index, name) in pool.iter().chain(&rule.fallback).enumerate() {
            let seen = rungs.iter().any(|rung| rung.name() == name);
            if let Some(rung) = self.rung(name, &rule.setup, request, over, &template).filter(|_| !seen) {
                rungs.push(rung);
                equals += usize::from(index < pool.len());
            }
        }
        let regular = rungs.len();
        for step in &rule.policy.when_down {
            if let DownStep::Text(name) = step {
                rungs.extend(self.rung(name, &rule.setup, request, over, &template));
            }
        }
        if regular == 0 {
            return Err(RouteError::NotBuilt { route: rule.name.clone() });
        }
        self.check_credential(rule, over, &rungs)?;
        let tapped = rule
            .taps
            .iter()
            .enumerate()
            .filter(|(index, tap)| pick::within(self.tap_point(rule, *index, request), tap.percent));
        let taps = tapped.flat_map(|(_, tap)| self.taps(tap, request, over, &template)).collect();
        let mut policy = rule.policy.clone();
        policy.max = over.max.unwrap_or(policy.max);
        if let Some(cap) = over.cap {
            policy.max = if policy.max.is_zero() { cap } else { policy.max.min(cap) };
        }
        let limits = rule.limits.iter().chain(&over.limits).cloned().collect();
        Ok(Plan {
            route: rule.name.clone(),
            label,
            rungs,
            regular,
            pool: equals.max(1),
            taps,
            tools: self.tools.clone(),
            tenant: request.tenant.clone(),
            user: request.user.clone(),
            policy,
            limits,
        })
    }

    /// The agent that was decided on.
    fn decided(&self, rule: &Rule, name: &AgentName) -> Result<AgentName, RouteError> {
        let unknown = || RouteError::Unknown { route: rule.name.clone(), what: "agent", name: name.to_string() };
        let agent = self.agents.get(name).ok_or_else(unknown)?;
        if rule.zone.is_some() && agent.zone != rule.zone {
            return Err(RouteError::OutsideZone { route: rule.name.clone(), agent: name.clone() });
        }
        Ok(name.clone())
    }

    /// Whoever decides on a credential must not be served with another key.
    fn check_credential(&self, rule: &Rule, over: &Overrides, rungs: &[Rung]) -> Result<(), RouteError> {
        let Some(credential) = &over.credential else { return Ok(()) };
        let has = |name: &AgentName| self.credentials.get(name).is_some_and(|known| known.contains_key(credential));
        if rungs.first().is_some_and(|rung| has(rung.name())) {
            return Ok(());
        }
        Err(RouteError::Unknown { route: rule.name.clone(), what: "credential", name: credential.clone() })
    }

    /// A tap with the set-up of its agent alone: what a route or a hook says is for those who talk.
    fn taps(&self, tap: &Tap, request: &RouteRequest, over: &Overrides, template: &Template<'_>) -> Vec<PlannedTap> {
        let credential = over.credential.clone();
        let over = Overrides { credential, ..Overrides::default() };
        let Some(rung) = self.rung(&tap.agent, &Setup::default(), request, &over, template) else { return Vec::new() };
        let planned = |hears: &TapSide| PlannedTap { rung: rung.clone(), hears: *hears, tell: tap.tell.clone() };
        tap.hear.iter().map(planned).collect()
    }

    fn tap_point(&self, rule: &Rule, index: usize, request: &RouteRequest) -> f64 {
        pick::point(rule.name.as_str(), &format!("tap.{index}"), request.sticky(rule.sticky))
    }

    /// The agents that are equals for this call, the chosen one first, then the others as they stand in the file from
    /// there on; and the chosen one's label.
    fn pool(&self, rule: &Rule, request: &RouteRequest) -> Result<(Vec<AgentName>, Option<Arc<str>>), RouteError> {
        match &rule.to {
            Target::Requested { default } => {
                let name = request.agent.as_ref().unwrap_or(default);
                let agent = self.agents.get(name).ok_or_else(|| RouteError::UnknownAgent {
                    agent: name.clone(),
                    off: self.off.iter().find(|(off, _)| off == name).map(|(_, why)| why.clone()),
                })?;
                if rule.zone.is_some() && agent.zone != rule.zone {
                    return Err(RouteError::OutsideZone { route: rule.name.clone(), agent: name.clone() });
                }
                Ok((vec![name.clone()], None))
            }
            Target::Weighted(choices) => {
                let point = pick::point(rule.name.as_str(), "to", request.sticky(rule.sticky));
                let chosen = pick::weighted(point, choices);
                let others = choices[chosen + 1..].iter().chain(&choices[..chosen]).filter(|other| other.weight > 0);
                let agents = std::iter::once(&choices[chosen]).chain(others).map(|choice| choice.agent.clone());
                Ok((agents.collect(), choices[chosen].label.clone()))
            }
        }
    }

    /// One agent with the set-up in force; `None` if this build does not serve its kind.
    fn rung(
        &self,
        name: &AgentName,
        route: &Setup,
        request: &RouteRequest,
        over: &Overrides,
        template: &Template<'_>,
    ) -> Option<Rung> {
        let credential = over.credential.as_ref().or(request.tenant.as_ref());
        let of_tenant = credential.and_then(|credential| self.credentials.get(name)?.get(credential));
        let agent = of_tenant.or_else(|| self.agents.get(name))?;
        if matches!(agent.kind, AgentKind::NotBuilt { .. }) {
            return None;
        }
        let setup = template.fill_setup(&setup::overlaid(&agent.setup, route));
        let setup = setup::overlaid(&setup, &over.setup);
        Some(Rung { agent: agent.clone(), setup })
    }
}

fn holds(rule: &Rule, request: &RouteRequest) -> bool {
    mismatches(rule, request).next().is_none()
}

/// The conditions of a route that do not hold, each in words.
fn mismatches<'a>(rule: &'a Rule, request: &'a RouteRequest) -> impl Iterator<Item = String> + 'a {
    let Match { agent, transport, tenant, path, host, origin, region, .. } = &rule.matches;
    let text = |wanted: &'a [String], what: &'a str, value: Option<&'a str>| -> Option<String> {
        let good = wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|glob| matches_glob(glob, value)));
        (!good).then(|| format!("{what} is {}, the route wants {}", shown(value), wanted.join(" or ")))
    };
    let lower_host = request.host.as_deref().map(|host| bare_host(host, &rule.matches.host));
    let transport = (!transport.is_empty() && !transport.contains(&request.transport)).then(|| {
        let wanted: Vec<_> = transport.iter().map(|transport| transport.label()).collect();
        format!("transport is {}, the route wants {}", request.transport.label(), wanted.join(" or "))
    });
    let plain = [
        text(agent, "agent", request.agent.as_ref().map(AgentName::as_str)),
        transport,
        text(tenant, "tenant", request.tenant.as_deref()),
        text(path, "path", Some(&request.path)),
        text(host, "host", lower_host),
        text(origin, "origin", request.origin.as_deref()),
        text(region, "region", request.region.as_deref()),
    ];
    plain
        .into_iter()
        .flatten()
        .chain(claim_mismatches(rule, request))
        .chain(header_mismatches(rule, request))
        .chain(percent_mismatch(rule, request))
}

fn claim_mismatches<'a>(rule: &'a Rule, request: &'a RouteRequest) -> impl Iterator<Item = String> + 'a {
    rule.matches.claim.iter().filter_map(|(name, wanted)| {
        let value = setup::lookup(&request.claims, name);
        let good = match value {
            Some(Value::Array(values)) => values.iter().any(|value| wanted.contains(value)),
            Some(value) => wanted.contains(value),
            None => false,
        };
        let wanted = || wanted.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
        let found = || value.map_or("absent".to_owned(), Value::to_string);
        (!good).then(|| format!("claim.{name} is {}, the route wants {}", found(), wanted()))
    })
}

fn header_mismatches<'a>(rule: &'a Rule, request: &'a RouteRequest) -> impl Iterator<Item = String> + 'a {
    rule.matches.header.iter().filter_map(|(name, wanted)| {
        let good = request.header(name).any(|value| wanted.iter().any(|glob| matches_glob(glob, value)));
        let found = shown(request.header(name).next());
        (!good).then(|| format!("header.{name} is {found}, the route wants {}", wanted.join(" or ")))
    })
}

fn percent_mismatch(rule: &Rule, request: &RouteRequest) -> Option<String> {
    let percent = rule.matches.percent?;
    let point = pick::point(rule.name.as_str(), "percent", request.sticky(rule.sticky));
    (!pick::within(point, percent))
        .then(|| format!("the caller falls on {:.1} %, the route takes the first {percent} %", point * 100.0))
}

fn shown(value: Option<&str>) -> String {
    value.map_or("absent".to_owned(), |value| format!("`{value}`"))
}

/// The host without its port, unless a pattern names one.
fn bare_host<'a>(host: &'a str, patterns: &[String]) -> &'a str {
    let after_bracket = host.rfind(']').map_or(0, |at| at + 1);
    match host[after_bracket..].rfind(':') {
        Some(colon) if !patterns.iter().any(|pattern| has_port(pattern)) => &host[..after_bracket + colon],
        _ => host,
    }
}

fn has_port(pattern: &str) -> bool {
    pattern.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'))
}

/// Whether a text is what a pattern says, in which `*` stands for any run of characters. ASCII case is ignored.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|byte| byte.eq_ignore_ascii_case(&text[t])) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((star_p, star_t)) = star {
            (p, t) = (star_p + 1, star_t + 1);
            star = Some((star_p, star_t + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests;
