//! Admission: from a client's first message to a plan and a session. Made here, from the system's CSPRNG: all ids.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;

use super::authorize::{Asking, Authorized, ask, use_up};
use super::credentials::{self, Known};
use super::elsewhere;
use super::limits;
use super::websocket::Head;
use crate::auth::{Principal, Use};
use crate::cluster::Entered;
use crate::ids::{ConversationId, SessionId};
use crate::limit::{Grant, Limit, Links, Standing};
use crate::message::{self, AudioFormats, Error, ErrorCode, Start, Started};
use crate::route::RouteRequest;
use crate::route::plan::{Plan, Policy};
use crate::runtime::driver::{Driver, Setup, Surroundings};
use crate::runtime::node::Node;
use crate::runtime::registry::{Mail, NewLink, ResumeError};
use crate::runtime::timer::Timer;
use crate::runtime::worker::{LoadGuard, Worker};
use crate::session::{Carriage, LinkInfo, Session, SessionParams, Transport};
use crate::telemetry::{ActiveSession, NodeQueue, Refusal, ResumeOutcome, SessionLabels, SessionMetrics, SetupStage};
use crate::time::Micros;

/// A client that wants a session.
pub(super) struct Caller {
    pub(super) head: Head,
    pub(super) accepted: Micros,
    pub(super) tls: Option<Duration>,
    pub(super) upgraded: Micros,
    pub(super) opened: Micros,
}

/// Why a client gets no session.
#[derive(Debug)]
pub(super) struct Refused {
    /// What it is told, if it is still there.
    pub(super) error: Option<Box<Error>>,
    pub(super) close_code: u16,
    pub(super) refusal: Refusal,
    /// The limit that is reached.
    pub(super) limit: Option<Arc<Limit>>,
}

impl Refused {
    pub(super) fn new(code: ErrorCode, message: String) -> Refused {
        Refused::from(Error::new(code, message))
    }

    pub(super) fn gone() -> Refused {
        Refused { error: None, close_code: 1000, refusal: Refusal::Gone, limit: None }
    }

    pub(super) fn with(self, close_code: u16, refusal: Refusal) -> Refused {
        Refused { close_code, refusal, ..self }
    }

    pub(super) fn field(mut self, field: Option<&str>) -> Refused {
        if let Some(error) = &mut self.error {
            error.field = field.map(str::to_owned);
        }
        self
    }

    /// Says it in other words.
    pub(super) fn say(mut self, words: String) -> Refused {
        if let Some(error) = &mut self.error {
            error.message = words;
        }
        self
    }

    /// Says when trying again may help.
    pub(super) fn retry_after(mut self, after: Duration) -> Refused {
        if let Some(error) = &mut self.error {
            error.retryable = true;
            error.retry_after_ms = Some(after.as_millis() as u64);
        }
        self
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        let refusal = match error.code {
            ErrorCode::Unauthorized | ErrorCode::Forbidden => Refusal::Auth,
            ErrorCode::NotFound | ErrorCode::ResumeFailed => Refusal::NoRoute,
            ErrorCode::Misdirected => Refusal::OtherNode,
            ErrorCode::RateLimited => Refusal::Limit,
            ErrorCode::Overloaded | ErrorCode::AgentUnavailable | ErrorCode::AgentError => Refusal::Overload,
            _ => Refusal::BadRequest,
        };
        Refused { close_code: error.code.close_code(), refusal, error: Some(Box::new(error)), limit: None }
    }
}

/// 128 bits that nobody can guess, as 32 hexadecimal digits.
pub(super) fn secret() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The link as the session sees it, its formats checked.
pub(super) fn link(
    node: &Node,
    start: &Start,
    audio: AudioFormats,
    (transport, carriage): (Transport, Carriage),
) -> Result<LinkInfo, Refused> {
    for (format, field) in [(audio.uplink, "audio.in"), (audio.downlink, "audio.out")] {
        format.check().map_err(|error| Refused::new(ErrorCode::BadFormat, error.to_string()).field(Some(field)))?;
    }
    let resume_token = elsewhere::resume_token(node);
    Ok(LinkInfo { transport, carriage, audio, resume_token, have: start.have })
}

/// A right to come back to a session.
pub(super) struct Claim {
    token: String,
    principal: Arc<str>,
}

/// Whether a resume token leads this caller to a session now; what attaches to it comes later.
///
/// # Errors
/// What its client is to be told.
pub(super) async fn can_resume(node: &Node, caller: &Caller, start: &Start, token: String) -> Result<Claim, Refused> {
    let refused = |refused: Refused| {
        node.telemetry.node().record_resume(ResumeOutcome::Refused);
        refused
    };
    let known = caller.identify(node, start.token.as_deref(), Use::Resume).await.map_err(refused)?;
    if let Some(peer) = elsewhere::owner(node, &token) {
        node.telemetry.node().record_resume(ResumeOutcome::OtherNode);
        return Err(elsewhere::moved(&peer));
    }
    let principal = known.principal.name();
    let found = node.registry.can_resume(&token, &principal);
    found.map_err(|error| refused(Refused::new(ErrorCode::ResumeFailed, error.to_string()).field(Some("resume"))))?;
    Ok(Claim { token, principal })
}

/// Brings a link to the session that its token names, whatever worker that runs on.
pub(super) fn resume(node: &Node, claim: &Claim, link: Box<NewLink>) -> Result<(), (Box<NewLink>, Refused)> {
    let refused = |code, message: String| {
        node.telemetry.node().record_resume(ResumeOutcome::Refused);
        Refused::new(code, message).field(Some("resume"))
    };
    let links = node.registry.links(&claim.token);
    if let Some(Err(reached)) = links.map(|links| links.take_next(node.clock.now())) {
        node.telemetry.node().record_resume(ResumeOutcome::Refused);
        return Err((link, Refused::limited(reached)));
    }
    let mailbox = match node.registry.resume(&claim.token, &claim.principal, &link.info.resume_token) {
        Ok(mailbox) => mailbox,
        Err(error) => return Err((link, refused(ErrorCode::ResumeFailed, error.to_string()))),
    };
    match mailbox.try_send(Mail::Attach(link)) {
        Ok(()) => Ok(()),
        Err(error) => {
            let (mail, code, message) = match error {
                TrySendError::Closed(mail) => (mail, ErrorCode::ResumeFailed, ResumeError::Unknown.to_string()),
                TrySendError::Full(mail) => {
                    node.telemetry.node().record_dropped(NodeQueue::Mailbox);
                    (mail, ErrorCode::Overloaded, "the session takes no more links now".into())
                }
            };
            match mail {
                Mail::Attach(link) => Err((link, refused(code, message))),
                Mail::Command(_) => Ok(()),
            }
        }
    }
}

/// A session that was admitted and has not begun.
pub(super) struct Admitted {
    session: Session,
    plan: Arc<Plan>,
    around: Surroundings,
    /// Held for their drop.
    _counted: (LoadGuard, ActiveSession, Grant, Entered),
}

/// A call that was routed; its session is made when its link is there.
pub(super) struct Planned {
    params: SessionParams,
    principal: Principal,
    metrics: SessionMetrics,
    setup: Setup,
    accepted: Micros,
    timer: Timer,
    /// What counts its links.
    links: Links,
    grant: Grant,
    /// What is left of the limits that count it.
    pub(super) standings: Vec<Standing>,
}

/// A call that is decided on.
pub(super) struct Candidate {
    node: Arc<Node>,
    asking: Asking,
    caller: Caller,
    link: LinkInfo,
    timer: Timer,
    started: Micros,
}

/// Routes the call and makes its session.
pub(super) async fn admit(
    node: &Arc<Node>,
    worker: &Arc<Worker>,
    caller: Caller,
    start: Start,
    link: &LinkInfo,
) -> Result<Admitted, Refused> {
    let planned = consider(node, caller, start, link.clone(), 0).await?.decide().await?;
    Ok(begin(node, worker, planned))
}

/// Finds out who calls and which route takes the call; `others` wait for places as well.
pub(super) async fn consider(
    node: &Arc<Node>,
    caller: Caller,
    start: Start,
    link: LinkInfo,
    others: usize,
) -> Result<Candidate, Refused> {
    if node.is_full_with(others) {
        let message = "this node has no room for another session".into();
        return Err(Refused::new(ErrorCode::Overloaded, message).retry_after(Duration::from_secs(5)));
    }
    let overloaded = |error: std::io::Error| {
        let message = format!("this node has no room for another session: {error}");
        Refused::new(ErrorCode::Overloaded, message).retry_after(Duration::from_secs(5))
    };
    let timer = Timer::new(node.clock).map_err(overloaded)?;
    let started = node.clock.now();
    let asking = ask(node, &caller, start, link.transport, SessionId::from(secret())).await?;
    Ok(Candidate { node: node.clone(), asking, caller, link, timer, started })
}

impl Candidate {
    /// Whether deciding takes time: the route's hook has to be asked.
    pub(super) fn waits(&self) -> bool {
        self.asking.waits()
    }

    /// How its route has audio handled.
    pub(super) fn policy(&self) -> &Policy {
        self.asking.policy()
    }

    /// Asks the route's hook, then the limits, and uses up what is good for one session.
    pub(super) async fn decide(self) -> Result<Planned, Refused> {
        let Candidate { node, asking, caller, link, timer, started } = self;
        let id = asking.id().clone();
        let begun = node.clock.now();
        let Authorized { plan, principal, start, auth, hook } = asking.decide().await?;
        let (user, tenant) = (principal.user.as_deref(), principal.tenant.as_deref());
        let counted = limits::Caller { user, tenant, address: caller.head.address };
        let ask = limits::ask(&node, &node.in_force.load(), &plan, &counted);
        let grant = limits::take(&node, &ask).await?;
        let standings = ask.standings(node.clock.now());
        use_up(&node, &principal).await?;
        let plan = Arc::new(plan);
        let conversation_id = start.conversation_id.clone().unwrap_or_else(|| ConversationId::from(secret()));
        let metrics = node.telemetry.session(SessionLabels {
            transport: link.transport,
            route: plan.route.clone(),
            agent: plan.rungs[0].name().clone(),
            label: plan.label.clone(),
        });
        let routed = (node.clock.now() - begun).saturating_sub(hook.unwrap_or_default());
        let setup = record_setup(&metrics, &caller, started, Spent { auth, hook, routed });
        let now = node.clock.unix_seconds(Duration::ZERO);
        let token_for = principal.until.map(|until| Duration::from_secs(until.saturating_sub(now)));
        let longest = [(!plan.policy.max.is_zero()).then_some(plan.policy.max), token_for];
        let expires_at = longest.into_iter().flatten().min().map(|longest| node.clock.unix_seconds(longest));
        let budget = node.playout_budget.clone();
        // Its worker's load is known when it has one.
        let (meters, load, links) = (ask.meters, Arc::default(), ask.links);
        let params =
            SessionParams { id, conversation_id, plan, start, link, expires_at, token_for, budget, load, meters };
        let accepted = caller.accepted;
        Ok(Planned { params, principal, metrics, setup, timer, accepted, links, grant, standings })
    }
}

impl Planned {
    /// What the client asks for came later than the call.
    pub(super) fn set_setup(&mut self, setup: Option<message::Setup>) {
        self.params.start.setup = setup;
    }

    /// What the client is told of the session.
    pub(super) fn started(&self) -> Started {
        self.params.started()
    }
}

/// Makes the session of a call that was routed, and enters it.
pub(super) fn begin(node: &Node, worker: &Arc<Worker>, planned: Planned) -> Admitted {
    let Planned { mut params, principal, metrics, setup, timer, accepted, links, grant, .. } = planned;
    params.load = node.overload.load(worker.index);
    let in_force = node.in_force.load();
    let limits = &in_force.settings.http.websocket;
    let (plan, transport) = (params.plan.clone(), params.link.transport);
    let conversation_id = params.conversation_id.clone();
    let (id, token) = (params.id.clone(), params.link.resume_token.clone());
    let (seat, mailbox) = node.registry.enter(id, token, principal.name(), links);
    let entered = node.cluster.enter(params.id.as_str(), conversation_id.as_str());
    let session = Session::new(params, node.clock.now());
    let around = Surroundings {
        clock: node.clock,
        pulse: worker.pulse.clone(),
        gate: worker.gate.clone(),
        worker: worker.index,
        timer,
        dialer: node.dialer(worker.index),
        tools: node.exchanges.clone(),
        cluster: node.cluster.clone(),
        seat,
        mailbox,
        halt: node.halt.clone(),
        telemetry: node.telemetry.clone(),
        metrics,
        ping: limits.ping,
        pong: limits.pong,
        seed: rand::random(),
        accepted,
        conversation_id,
        setup,
    };
    let active = node.telemetry.node().worker(worker.index).session(transport);
    let counted = (worker.count_session(), active, grant, entered);
    Admitted { session, plan, around, _counted: counted }
}

/// What the stages after `start` took.
struct Spent {
    auth: Duration,
    hook: Option<Duration>,
    /// Routing, limits and the session.
    routed: Duration,
}

fn record_setup(metrics: &SessionMetrics, caller: &Caller, started: Micros, spent: Spent) -> Setup {
    let record = |stage, took: Duration| {
        metrics.record_setup(stage, took);
        took.as_secs_f64() * 1000.0
    };
    Setup {
        tls_ms: caller.tls.map(|took| record(SetupStage::Tls, took)),
        upgrade_ms: record(SetupStage::Upgrade, caller.upgraded - caller.accepted),
        start_ms: record(SetupStage::Start, started - caller.opened),
        auth_ms: record(SetupStage::Auth, spent.auth),
        hook_ms: spent.hook.map(|took| record(SetupStage::Hook, took)),
        route_ms: record(SetupStage::Route, spent.routed),
        total_ms: 0.0,
    }
}

/// What a route may look at of a request's head, and of who sent it; which agent and session it is about is for the caller
/// to say.
pub(super) fn route_request(head: Head, region: Option<String>, principal: &Principal) -> RouteRequest {
    let header = |name: &str| head.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let mut request = RouteRequest::new(Transport::Websocket, SessionId::from(""));
    request.host = header("host");
    request.origin = header("origin");
    request.region = region;
    request.loopback = head.address.is_loopback();
    request.forwarded = ["forwarded", "x-forwarded-for", "via"].iter().any(|name| header(name).is_some());
    request.authenticated = principal.is_authenticated();
    (request.user, request.tenant) = (principal.user.clone(), principal.tenant.clone());
    request.claims = principal.claims.clone();
    (request.path, request.headers) = (head.path, head.headers);
    request
}

impl Caller {
    /// Who calls; `first` is the token of the first message.
    ///
    /// # Errors
    /// If what is shown is wrong.
    pub(super) async fn identify(&self, node: &Node, first: Option<&str>, purpose: Use) -> Result<Known, Refused> {
        credentials::identify(node, self.head.address, &self.head.shown, first, purpose).await
    }
}

impl Admitted {
    /// Runs the session to its end, and until its sockets have told their peers.
    pub(super) async fn run(self, node: &Node, link: NewLink) {
        let Admitted { session, plan, around, _counted: counted } = self;
        let driver = Driver::new(session, plan, link, around);
        let finished = Box::pin(driver.run()).await;
        drop(counted);
        node.records.try_send(finished.record);
        let mut closing = finished.closing;
        while closing.join_next().await.is_some() {}
    }
}
