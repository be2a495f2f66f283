//! From who calls and what it asks for to a plan: credentials, route, pre-call hook. Nothing is dialled before all of it is
//! done.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::admit::{Caller, Refused, route_request};
use super::credentials::{Known, Place, denied};
use crate::auth::{Denied, Principal, Use};
use crate::config::BUILT_IN_TOOLS;
use crate::config::settings::{HookSettings, OnError, Settings};
use crate::ids::{ConversationId, SessionId};
use crate::message::Start;
use crate::route::decision::{Decision, Overrides};
use crate::route::plan::{Plan, Policy};
use crate::route::rule::Rule;
use crate::route::{RouteError, RouteRequest, setup};
use crate::runtime::admission::hooks::{About, Question};
use crate::runtime::node::{InForce, Node};
use crate::session::Transport;

/// A call that is let in.
pub(super) struct Authorized {
    pub(super) plan: Plan,
    pub(super) principal: Principal,
    pub(super) start: Start,
    /// How long it took to find out who calls.
    pub(super) auth: Duration,
    /// How long the hook took, if there is one.
    pub(super) hook: Option<Duration>,
}

/// A call whose caller is known and whose route is found; its hook may still have to be asked.
pub(super) struct Asking {
    node: Arc<Node>,
    in_force: Arc<InForce>,
    rule: Arc<Rule>,
    request: RouteRequest,
    principal: Principal,
    start: Start,
    /// What the token decides, then the hook too.
    over: Overrides,
    auth: Duration,
}

/// Finds out who calls, and which route takes the call.
pub(super) async fn ask(
    node: &Arc<Node>,
    caller: &Caller,
    mut start: Start,
    transport: Transport,
    id: SessionId,
) -> Result<Asking, Refused> {
    let begun = node.clock.now();
    let known = caller.identify(node, start.token.as_deref(), Use::Start).await?;
    let auth = node.clock.now() - begun;
    let principal = &known.principal;
    let in_force = node.in_force.load_full();
    start.agent = start.agent.or_else(|| principal.scope.agents.first().cloned());
    let region = in_force.settings.node.region.clone();
    let request = request(caller, &start, transport, id, region, principal);
    let rule = in_force.router.find(&request).map_err(|error| unrouted(node, &error))?.clone();
    check_scope(node, &known, &rule, &start)?;
    if let Some(metadata) = &principal.scope.metadata {
        add_metadata(&mut start, metadata);
    }
    let over = of_token(principal);
    Ok(Asking { node: node.clone(), in_force, rule, request, principal: known.principal, start, over, auth })
}

/// Uses up a token that is good for one session. The last thing that is asked: no refusal costs a caller its token.
pub(super) async fn use_up(node: &Node, principal: &Principal) -> Result<(), Refused> {
    let Some(once) = &principal.once else { return Ok(()) };
    let now = node.clock.unix_seconds(Duration::ZERO);
    node.uses.take(once, now).await.map_err(|why| denied(node, why))
}

fn request(
    caller: &Caller,
    start: &Start,
    transport: Transport,
    id: SessionId,
    region: Option<String>,
    principal: &Principal,
) -> RouteRequest {
    let mut request = route_request(caller.head.clone(), region, principal);
    (request.transport, request.session_id) = (transport, id);
    request.agent = start.agent.clone();
    request.conversation_id = start.conversation_id.clone();
    request.context = start.context.clone().unwrap_or_default();
    request
}

/// Why no route takes a call, as its client is told.
fn unrouted(node: &Node, error: &RouteError) -> Refused {
    tracing::debug!(%error, "a call was refused");
    match error {
        RouteError::Unauthenticated { .. } => denied(node, Denied::NoCredentials),
        error => Refused::new(error.code(), error.to_string()).field(error.field()),
    }
}

/// Whether the token reaches what is asked for, and came where the route takes tokens.
fn check_scope(node: &Node, known: &Known, rule: &Rule, start: &Start) -> Result<(), Refused> {
    if known.place == Some(Place::Query) && !rule.token_in_query {
        return Err(denied(node, Denied::Place));
    }
    let scope = &known.principal.scope;
    let route = scope.routes.is_empty() || scope.routes.contains(&rule.name);
    let agent = scope.agents.is_empty() || start.agent.as_ref().is_some_and(|agent| scope.agents.contains(agent));
    let limits = scope.limits.iter().all(|set| node.in_force.load().settings.limit_sets.contains_key(set));
    if route && agent && limits { Ok(()) } else { Err(denied(node, Denied::Scope)) }
}

fn of_token(principal: &Principal) -> Overrides {
    let scope = &principal.scope;
    Overrides { setup: scope.setup.clone(), limits: scope.limits.clone(), cap: scope.max, ..Overrides::default() }
}

/// Metadata of somebody who is believed, over the client's.
fn add_metadata(start: &mut Start, more: &Map<String, Value>) {
    if more.is_empty() {
        return;
    }
    match &mut start.metadata {
        Some(Value::Object(metadata)) => metadata.extend(more.clone()),
        other => *other = Some(Value::Object(more.clone())),
    }
}

impl Asking {
    /// The session that will be.
    pub(super) fn id(&self) -> &SessionId {
        &self.request.session_id
    }

    /// How the route has audio handled, whatever its hook decides.
    pub(super) fn policy(&self) -> &Policy {
        &self.rule.policy
    }

    fn hook(&self) -> Option<(&str, &HookSettings)> {
        let (name, hook) = self.in_force.settings.hooks.get_key_value(self.rule.admit.as_ref()?)?;
        Some((name, hook))
    }

    /// Whether the hook has to be asked: its answer is not known yet.
    pub(super) fn waits(&self) -> bool {
        self.hook().is_some_and(|(name, hook)| !self.node.hooks.knows(name, hook, &self.question()))
    }

    /// Asks the route's hook, if it has one, and makes the plan.
    pub(super) async fn decide(mut self) -> Result<Authorized, Refused> {
        let in_force = self.in_force.clone();
        let hook = self.rule.admit.as_ref().and_then(|name| in_force.settings.hooks.get_key_value(name));
        let mut took = None;
        if let Some((name, hook)) = hook {
            let asked = self.node.hooks.ask(name, hook, &self.question()).await;
            self.node.telemetry.admission().record_hook(name, asked.outcome, asked.took);
            took = Some(asked.took);
            match asked.answer {
                Ok(decision) => self.take(name, hook, Decision::clone(&decision))?,
                Err(why) => self.on_failure(name, hook, &why)?,
            }
        }
        let plan = self.plan()?;
        Ok(Authorized { plan, principal: self.principal, start: self.start, auth: self.auth, hook: took })
    }

    fn question(&self) -> Question<'_> {
        static NOTHING: Value = Value::Null;
        let about = About {
            route: self.rule.name.as_str(),
            agent: self.request.agent.as_ref().map(|agent| agent.as_str()),
            conversation_id: self.request.conversation_id.as_ref().map(ConversationId::as_str),
            tenant: self.principal.tenant.as_deref(),
            user: self.principal.user.as_deref(),
            claims: &self.principal.claims,
            context: &self.request.context,
            metadata: self.start.metadata.as_ref().unwrap_or(&NOTHING),
            transport: self.request.transport.label(),
            region: self.request.region.as_deref(),
        };
        Question { session_id: self.request.session_id.as_str(), about }
    }

    /// What the hook has decided.
    fn take(&mut self, name: &str, hook: &HookSettings, mut decision: Decision) -> Result<(), Refused> {
        if let Some(words) = decision.refused {
            return Err(denied(&self.node, Denied::Hook).say(words));
        }
        decision.keep_tools(&self.in_force.settings.tools, &BUILT_IN_TOOLS);
        if !decision.dropped.is_empty() {
            self.node.telemetry.admission().record_hook_dropped(name, decision.dropped.len());
            tracing::warn!(
                hook = name,
                fields = decision.dropped.join(" "),
                "left out what the hook's answer may not have"
            );
        }
        let Decision { overrides, vars, metadata, .. } = decision;
        let mut over = self.over.clone();
        over.setup = setup::overlaid(&over.setup, &overrides.setup);
        over.limits.extend(overrides.limits);
        over = Overrides { agent: overrides.agent, max: overrides.max, credential: overrides.credential, ..over };
        if let Some(why) = self.unknown(&over, &self.in_force.settings) {
            return self.on_failure(name, hook, &why);
        }
        self.over = over;
        self.request.vars = Value::Object(vars);
        add_metadata(&mut self.start, &metadata);
        Ok(())
    }

    /// What the hook names and the configuration does not have: it decides by names only.
    fn unknown(&self, over: &Overrides, settings: &Settings) -> Option<String> {
        if let Some(set) = over.limits.iter().find(|set| !settings.limit_sets.contains_key(*set)) {
            return Some(format!("there are no limits `{set}`"));
        }
        let now = self.node.clock.unix_seconds(Duration::ZERO);
        match self.in_force.router.plan(&self.rule, &self.request, over, now) {
            Err(error @ (RouteError::Unknown { .. } | RouteError::OutsideZone { .. })) => Some(error.to_string()),
            _ => None,
        }
    }

    fn on_failure(&self, name: &str, hook: &HookSettings, why: &str) -> Result<(), Refused> {
        tracing::warn!(hook = name, "the pre-call hook has no answer: {why}");
        match hook.on_error {
            OnError::Refuse => Err(denied(&self.node, Denied::HookFailed)),
            OnError::Continue => Ok(()),
        }
    }

    fn plan(&self) -> Result<Plan, Refused> {
        let now = self.node.clock.unix_seconds(Duration::ZERO);
        let plan = self.in_force.router.plan(&self.rule, &self.request, &self.over, now);
        plan.map_err(|error| unrouted(&self.node, &error))
    }
}
