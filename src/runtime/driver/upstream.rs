//! The agents' side of a driver.

mod health;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::agent::{self, Agent, AgentOutput, Endpoint, Wire};
use crate::cluster::Cluster;
use crate::config::settings::AgentSettings;
use crate::ids::{AgentName, UpstreamId};
use crate::limit::Seat;
use crate::message::{AgentError, FailureClass, FromAgent, ToAgent};
use crate::runtime::websocket::{PushError, Received, SocketError};
use crate::session::{Direction, UpstreamChange, UpstreamRole};
use crate::telemetry::NodeQueue;
use crate::time::Micros;
use crate::upstream::breaker::Attempt;
use crate::upstream::{Exchange, Socket};

use super::heartbeat::Heartbeat;
use super::{Driver, Happened, TURN_MESSAGES};

type Dialling = Pin<Box<dyn Future<Output = Result<Dialled, AgentError>> + Send>>;
/// What was reached, if there is a wire, and the seat that it took.
type Dialled = (Option<Socket>, Option<Seat>);

/// One connection to an agent.
pub(super) struct Upstream {
    pub(super) id: UpstreamId,
    pub(super) name: AgentName,
    pub(super) role: UpstreamRole,
    /// When the agent wants to be called.
    deadline: Option<Micros>,
    /// A tap that says much is not listened to until then.
    pub(super) rests_until: Option<Micros>,
    /// While a WebSocket is open, unless pings are off.
    heartbeat: Option<Heartbeat>,
    /// A ping follows so long a silence; zero switches pings off.
    ping: Duration,
    /// Audio frames that are pushed and not flushed: from when their added latency counts.
    pub(super) unflushed: Vec<Micros>,
    agent: Box<dyn Agent>,
    channel: Channel,
    /// The HTTP request that runs.
    exchange: Option<Exchange>,
    dialled: Micros,
    /// The session knows it as connected.
    opened: bool,
    /// Whether the agent may have something to say.
    restless: bool,
    /// Until it is known whether the agent gets ready.
    attempt: Option<Attempt>,
    /// One of the agent's `max_sessions`; held for its drop.
    seat: Option<Arc<Seat>>,
}

#[allow(clippy::large_enum_variant, reason = "one per connection to an agent")]
enum Channel {
    /// Built in: there is no wire.
    None,
    Dialling(Dialling),
    Open(Socket),
}

impl Upstream {
    /// When something is to be done for it.
    pub(super) fn next_deadline(&self) -> Option<Micros> {
        let heartbeat = self.heartbeat.as_ref().map(Heartbeat::next);
        [self.deadline, self.rests_until, heartbeat].into_iter().flatten().min()
    }

    /// Calls the agent if its deadline has passed.
    pub(super) fn fire(&mut self, now: Micros) -> bool {
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        if due {
            self.deadline = None;
            self.restless = true;
            self.agent.handle_deadline(now);
        }
        due
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        match &mut self.channel {
            Channel::Open(socket) => socket.poll_flush(cx),
            Channel::None | Channel::Dialling(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether little enough waits to be written that more may be given to it.
    pub(super) fn has_room(&self, room: usize) -> bool {
        match &self.channel {
            Channel::None => true,
            Channel::Dialling(_) => false,
            Channel::Open(socket) => socket.backlog() <= room,
        }
    }

    /// Says goodbye on the wire, if there is one.
    pub(super) fn close(self) -> Option<impl Future<Output = ()> + Send + 'static> {
        match self.channel {
            Channel::Open(socket) => Some(socket.close(1000, "the session has ended")),
            Channel::None | Channel::Dialling(_) => None,
        }
    }
}

impl Driver {
    pub(super) fn dial(&mut self, id: UpstreamId, rung: usize, role: UpstreamRole, now: Micros) {
        let planned = match role {
            UpstreamRole::Tap => self.plan.taps.get(rung).map(|tap| &tap.rung),
            UpstreamRole::Active | UpstreamRole::Standby => self.plan.rungs.get(rung),
        };
        let Some(rung) = planned else {
            return self.fail(id, FailureClass::BadRequest, "the plan has no such agent".into());
        };
        let settings = rung.agent.clone();
        if role == UpstreamRole::Active {
            self.around.metrics.set_agent(&settings.name);
        }
        let seat = self.take_seat(&settings, role);
        let full = settings.max_sessions.filter(|_| seat.is_none());
        if full.is_some() && !self.around.cluster.is_shared() {
            return self.fail(id, FailureClass::Full, full_up(&settings.name));
        }
        let Some(attempt) = self.around.seat.registry().breakers().attempt(&settings.name, now) else {
            let message = format!("agent `{}` failed again and again; it is not dialled for a while", settings.name);
            self.record_attempt(&settings.name, "refused", now);
            return self.fail(id, FailureClass::Suspended, message);
        };
        let agent = match agent::build(&settings, &rung.setup, self.around.seed ^ u64::from(id.0)) {
            Ok(agent) => agent,
            Err(error) => return self.fail(id, FailureClass::BadRequest, error.to_string()),
        };
        let (name, ping) = (settings.name.clone(), settings.ping);
        let channel = self.connect(settings, agent.endpoint(), full);
        let built_in = matches!(channel, Channel::None);
        self.upstreams.push(Upstream {
            id,
            name,
            role,
            deadline: None,
            rests_until: None,
            heartbeat: None,
            ping,
            unflushed: Vec::with_capacity(16),
            agent,
            channel,
            exchange: None,
            dialled: now,
            opened: false,
            restless: false,
            attempt: Some(attempt),
            seat,
        });
        // The dialling future has to be polled once to begin.
        self.turn.again = true;
        if built_in {
            self.open(id, now);
        }
    }

    /// A place among the agent's `max_sessions`, as far as this node may give one away by itself.
    fn take_seat(&self, settings: &AgentSettings, role: UpstreamRole) -> Option<Arc<Seat>> {
        // A fresh session with the same agent takes the place of the one before.
        let shares = |upstream: &&Upstream| role == UpstreamRole::Standby && upstream.name == settings.name;
        let held = self.upstreams.iter().find(shares).and_then(|upstream| upstream.seat.clone());
        let take = |most| self.around.cluster.take_seat(settings.account(), most).map(Arc::new);
        held.or_else(|| settings.max_sessions.and_then(take))
    }

    /// Begins to connect; `full`: a place of so many has to be claimed from other nodes before.
    fn connect(&self, settings: Arc<AgentSettings>, endpoint: Option<Endpoint>, full: Option<u32>) -> Channel {
        if endpoint.is_none() && full.is_none() {
            return Channel::None;
        }
        let (dialer, cluster) = (self.around.dialer.clone(), self.around.cluster.clone());
        Channel::Dialling(Box::pin(async move {
            let seat = match full {
                Some(most) => Some(claim_seat(&cluster, &settings, most).await?),
                None => None,
            };
            let socket = match endpoint {
                Some(endpoint) => Some(dialer.dial(endpoint).await?),
                None => None,
            };
            Ok((socket, seat))
        }))
    }

    fn fail(&mut self, id: UpstreamId, class: FailureClass, message: String) {
        let error = AgentError { class, code: None, message };
        self.happened.push_back(Happened::Upstream(id, UpstreamChange::Failed(error)));
    }

    fn open(&mut self, id: UpstreamId, now: Micros) {
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
        upstream.agent.handle_open(now);
        upstream.restless = true;
        if std::mem::replace(&mut upstream.opened, true) {
            return;
        }
        let capabilities = upstream.agent.capabilities();
        self.happened.push_back(Happened::Upstream(id, UpstreamChange::Connected(capabilities)));
    }

    pub(super) fn poll_upstreams(&mut self, cx: &mut Context<'_>) {
        let mut index = 0;
        while let Some(upstream) = self.upstreams.get_mut(index) {
            if upstream.role == UpstreamRole::Tap {
                index += 1;
                continue;
            }
            let id = upstream.id;
            self.poll_connection(id, cx);
            if self.upstreams.get(index).is_some_and(|upstream| upstream.id == id) {
                index += 1;
            }
        }
    }

    /// Hears what one agent has to say.
    pub(super) fn poll_connection(&mut self, id: UpstreamId, cx: &mut Context<'_>) {
        if let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id)
            && let Channel::Dialling(dialling) = &mut upstream.channel
            && let Poll::Ready(result) = dialling.as_mut().poll(cx)
        {
            let now = self.around.clock.now();
            self.on_dialled(id, result, now);
        }
        self.poll_upstream(id, cx);
        self.poll_exchange(id, cx);
    }

    fn on_dialled(&mut self, id: UpstreamId, result: Result<Dialled, AgentError>, now: Micros) {
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
        match result {
            Ok((socket, seat)) => {
                let pings = matches!(socket, Some(Socket::WebSocket(_))) && !upstream.ping.is_zero();
                upstream.heartbeat = pings.then(|| Heartbeat::new(upstream.ping, now));
                upstream.channel = socket.map_or(Channel::None, Channel::Open);
                upstream.seat = upstream.seat.take().or(seat.map(Arc::new));
                if upstream.role == UpstreamRole::Active {
                    self.around.metrics.record_upstream_connect(now - upstream.dialled);
                }
                self.open(id, now);
            }
            Err(error) => {
                tracing::warn!(agent = %upstream.name, class = error.class.label(), "cannot reach an agent: {}", error.message);
                self.happened.push_back(Happened::Upstream(id, UpstreamChange::Failed(error)));
            }
        }
        self.drain(now);
    }

    fn count_dropped(&mut self, id: UpstreamId) {
        let upstream = self.upstreams.iter_mut().find(|upstream| upstream.id == id);
        let Some(Channel::Open(socket)) = upstream.map(|upstream| &mut upstream.channel) else { return };
        let dropped = socket.take_dropped();
        (0..dropped.read).for_each(|_| self.drop_counted(NodeQueue::AgentRead));
        (0..dropped.written).for_each(|_| self.drop_counted(NodeQueue::AgentWrite));
    }

    fn poll_upstream(&mut self, id: UpstreamId, cx: &mut Context<'_>) {
        self.count_dropped(id);
        let Some(limits) = self.turn_limits(id) else { return };
        let (mut bytes, mut messages) = (0, 0);
        while bytes < limits.0 && messages < limits.1 {
            let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
            let Channel::Open(socket) = &mut upstream.channel else { return };
            if self.finished.is_some() {
                return;
            }
            let Poll::Ready(received) = socket.poll_receive(cx) else { return };
            let now = self.around.clock.now();
            match received {
                Ok(received) => {
                    bytes += received.len();
                    messages += 1;
                    if let Some(heartbeat) = &mut upstream.heartbeat {
                        heartbeat.on_received(now);
                    }
                    let Received::Wire(wire) = received else { continue };
                    let closed =
                        if let Wire::Close(code, reason) = &wire { Some((*code, reason.clone())) } else { None };
                    upstream.agent.handle_wire(wire, now);
                    upstream.restless = true;
                    self.drain(now);
                    if let Some((code, reason)) = closed {
                        self.on_closed(id, code, &reason, now);
                        return;
                    }
                }
                Err(error) => {
                    self.happened.push_back(Happened::Upstream(id, lost(error)));
                    self.drain(now);
                    return;
                }
            }
        }
        self.hear_more_of(id);
    }

    fn poll_exchange(&mut self, id: UpstreamId, cx: &mut Context<'_>) {
        for _ in 0..TURN_MESSAGES {
            let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
            let Some(exchange) = &mut upstream.exchange else { return };
            let Poll::Ready(event) = exchange.poll(cx) else { return };
            let (request, now) = (exchange.id, self.around.clock.now());
            match event {
                Some(event) => upstream.agent.handle_http(request, event, now),
                None => upstream.exchange = None,
            }
            upstream.restless = true;
            self.drain(now);
        }
        self.turn.again = true;
    }

    /// The agent's server has closed the socket. An agent that took this for its end has been hung up by now, and one
    /// that goes on over another connection is dialling.
    fn on_closed(&mut self, id: UpstreamId, code: u16, reason: &str, now: Micros) {
        let remains = |upstream: &Upstream| upstream.id == id && matches!(upstream.channel, Channel::Open(_));
        if self.upstreams.iter().any(remains) {
            let error = AgentError {
                class: FailureClass::Lost,
                code: Some(code.to_string()),
                message: format!("the agent closed the connection: {code} {reason}").trim_end().into(),
            };
            self.happened.push_back(Happened::Upstream(id, UpstreamChange::Failed(error)));
            self.drain(now);
        }
    }

    pub(super) fn send_to_agent(&mut self, id: UpstreamId, message: ToAgent, now: Micros) {
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
        let counts = upstream.role == UpstreamRole::Active && matches!(upstream.channel, Channel::None);
        if let ToAgent::Audio(audio) = &message
            && counts
            && !audio.filled
        {
            // There is no wire: it is handed over here.
            let added = now - self.turn.counts_from(audio.ready);
            self.session.record_added(Direction::Up, added);
            let path = super::path(self.session.passes(Direction::Up));
            self.around.metrics.record_added(Direction::Up, path, added);
        }
        upstream.agent.handle_session(message, now);
        upstream.restless = true;
    }

    /// Has one agent say one thing; `false` if none has anything to say.
    pub(super) fn poll_agents(&mut self, now: Micros) -> bool {
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.restless) else { return false };
        let id = upstream.id;
        match upstream.agent.poll(now) {
            AgentOutput::Idle { deadline } => {
                upstream.deadline = deadline;
                upstream.restless = false;
            }
            AgentOutput::Event(event) => {
                if let FromAgent::Usage(usage) = &event {
                    self.around.metrics.record_usage(&upstream.name, usage);
                }
                self.settle_attempt(id, &event, now);
                self.session.on_agent(id, event, now);
            }
            AgentOutput::Wire(wire) => self.push(id, wire, None),
            AgentOutput::Redial => self.redial(id, now),
            AgentOutput::Request(request) => {
                match self.around.dialer.request(request) {
                    Ok(exchange) => upstream.exchange = Some(exchange),
                    Err(error) => self.happened.push_back(Happened::Upstream(id, UpstreamChange::Failed(error))),
                }
                self.turn.again = true;
            }
            AgentOutput::Abort(request) => {
                upstream.exchange.take_if(|exchange| exchange.id == request);
            }
            AgentOutput::Audio { wire, ready } => {
                let from = self.turn.counts_from(ready);
                self.push(id, wire, Some(from));
            }
        }
        true
    }

    /// Leaves the agent's connection for another one.
    fn redial(&mut self, id: UpstreamId, now: Micros) {
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
        let Some(endpoint) = upstream.agent.endpoint() else { return };
        let dialer = self.around.dialer.clone();
        let dialling = Channel::Dialling(Box::pin(async move { Ok((Some(dialer.dial(endpoint).await?), None)) }));
        if let Channel::Open(socket) = std::mem::replace(&mut upstream.channel, dialling) {
            self.closing.spawn(socket.close(1000, "the conversation goes on over another connection"));
        }
        upstream.heartbeat = None;
        upstream.dialled = now;
        upstream.unflushed.clear();
        self.turn.again = true;
    }

    fn push(&mut self, id: UpstreamId, wire: Wire, counts_from: Option<Micros>) {
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
        let Channel::Open(socket) = &mut upstream.channel else { return };
        match socket.try_push(wire) {
            Ok(()) => {
                let active = upstream.role == UpstreamRole::Active;
                upstream.unflushed.extend(counts_from.filter(|_| active));
            }
            // The peer's close frame or the end of the stream follows.
            Err(PushError::Broken) => {}
            Err(PushError::Full) => {
                self.drop_counted(NodeQueue::AgentWrite);
                self.fail(id, FailureClass::Lost, "the agent does not read what it is sent".into());
            }
        }
    }

    /// What stood by talks with the caller from now on.
    pub(super) fn promote(&mut self, id: UpstreamId) {
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
        upstream.role = UpstreamRole::Active;
        self.around.metrics.set_agent(&upstream.name);
    }

    pub(super) fn hang_up(&mut self, id: UpstreamId, failed: bool, now: Micros) {
        // What the session said before goes out first; what the agent still says is no longer heard.
        while let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id && upstream.restless) {
            match upstream.agent.poll(now) {
                AgentOutput::Idle { .. } => break,
                AgentOutput::Event(_) | AgentOutput::Redial | AgentOutput::Request(_) | AgentOutput::Abort(_) => {}
                AgentOutput::Wire(wire) | AgentOutput::Audio { wire, .. } => self.push(id, wire, None),
            }
        }
        if let Some(index) = self.upstreams.iter().position(|upstream| upstream.id == id) {
            let mut upstream = self.upstreams.remove(index);
            if failed {
                self.give_up(&mut upstream, now);
            }
            if let Some(close) = upstream.close() {
                self.closing.spawn(close);
            }
        }
    }
}

/// One of the account's `max_sessions`, where none is free on this node.
async fn claim_seat(cluster: &Cluster, agent: &AgentSettings, most: u32) -> Result<Seat, AgentError> {
    cluster.claim_seat(agent.account(), most).await.ok_or_else(|| AgentError {
        class: FailureClass::Full,
        code: None,
        message: full_up(&agent.name),
    })
}

fn full_up(agent: &AgentName) -> String {
    format!("agent `{agent}` has `max_sessions` calls")
}

pub(super) fn lost(error: SocketError) -> UpstreamChange {
    let (class, message) = match error {
        SocketError::Lost(message) => (FailureClass::Lost, message),
        SocketError::Violation(message) => (FailureClass::Protocol, message),
    };
    UpstreamChange::Failed(AgentError { class, code: None, message })
}
