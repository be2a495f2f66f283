//! One task per session: it owns the session, its links and its sockets to agents.
//!
//! Each turn polls every source once, in the order stop, due timer, agent, client, mailbox, each bounded; after each
//! message the session is drained; at the end every socket is flushed once. Nothing here waits for a send.

mod acks;
mod heartbeat;
mod hold;
mod link;
mod taps;
mod tools;
mod upstream;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::ids::{ConversationId, LinkId, UpstreamId};
use crate::message::{CloseReason, ToClient};
use crate::route::plan::Plan;
use crate::runtime::clock::Clock;
use crate::runtime::gate::Gate;
use crate::runtime::pulse::Pulse;
use crate::runtime::registry::{Mail, NewLink, Seat};

use crate::runtime::timer::Timer;
use crate::session::{
    CallRecord, Command, Direction, LinkChange, Measure, Output, Session, ToolOutcome, UpstreamChange, UpstreamRole,
};
use crate::telemetry::{NodeQueue, Path, ResumeOutcome, SessionMetrics, SetupStage, Telemetry};
use crate::time::Micros;
use crate::upstream::Dialer;
use crate::upstream::exchange::Exchanges;

use hold::Hold;
use link::Link;
use tools::Running;
use upstream::Upstream;

/// Messages that one source may bring in one turn.
const TURN_MESSAGES: usize = 32;
/// Bytes that one source may bring in one turn.
const TURN_BYTES: usize = 64 << 10;

/// What a session's task is made of, beside the session.
#[derive(Debug)]
pub struct Surroundings {
    /// The process's clock.
    pub clock: Clock,
    /// The rhythm of the worker that runs it.
    pub pulse: Arc<Pulse>,
    /// Where it waits while that worker is behind.
    pub gate: Arc<Gate>,
    /// The index of that worker.
    pub worker: usize,
    /// Wakes the session's task.
    pub timer: Timer,
    /// Opens sockets to agents.
    pub dialer: Dialer,
    /// Calls tools.
    pub tools: Exchanges,
    /// Who else has sessions with them.
    pub cluster: Arc<Cluster>,
    /// The session's place in the registry.
    pub seat: Seat,
    /// What arrives there.
    pub mailbox: mpsc::Receiver<Mail>,
    /// Set when everything ends at once.
    pub halt: Arc<AtomicBool>,
    /// For the node's counters.
    pub telemetry: Telemetry,
    /// The session's series.
    pub metrics: SessionMetrics,
    /// Ping after so long without audio.
    pub ping: Duration,
    /// A link is lost when a ping is not answered for so long.
    pub pong: Duration,
    /// Decides what agents leave to chance.
    pub seed: u64,
    /// When the client's connection was accepted.
    pub accepted: Micros,
    /// The conversation, for the record.
    pub conversation_id: ConversationId,
    /// How long the stages of the set-up took.
    pub setup: Setup,
}

/// How long the stages of a session's set-up took.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Setup {
    /// TLS, in milliseconds; absent without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ms: Option<f64>,
    /// From the accepted connection to the request.
    pub upgrade_ms: f64,
    /// From the open WebSocket to `start`.
    pub start_ms: f64,
    /// Finding out who calls, in milliseconds.
    pub auth_ms: f64,
    /// Asking the pre-call hook; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_ms: Option<f64>,
    /// From then on to a session.
    pub route_ms: f64,
    /// From the accepted connection to `started`.
    pub total_ms: f64,
}

/// A call record with what the session does not know.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FullRecord {
    /// The session's part.
    #[serde(flatten)]
    pub call: CallRecord,
    /// The caller's tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The stages of the set-up.
    pub setup: Setup,
    /// The worker that ran it.
    pub worker: usize,
}

/// How a session ended.
#[derive(Debug)]
pub struct Finished {
    /// Why.
    pub reason: CloseReason,
    /// Everything about the call.
    pub record: Box<FullRecord>,
    /// Sockets that still tell their peers; to be awaited, at most for two seconds.
    pub closing: JoinSet<()>,
}

/// Drives one session until it is over.
pub struct Driver {
    session: Session,
    plan: Arc<Plan>,
    around: Surroundings,
    links: Vec<Link>,
    upstreams: Vec<Upstream>,
    /// Tools that run. At most as many as the session allows.
    tools: Vec<Running>,
    /// What happened while the session was being drained, told to it afterwards. At most one entry per socket.
    happened: VecDeque<Happened>,
    closing: JoinSet<()>,
    finished: Option<(CloseReason, Box<CallRecord>)>,
    session_deadline: Option<Micros>,
    turn: Turn,
    held: Option<Hold>,
    begun: Micros,
    started: bool,
}

/// The present turn of the loop.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// When it began.
    at: Micros,
    /// How long what arrives in it had waited in the kernel.
    wait: Duration,
    /// Whether a source may have more.
    again: bool,
}

#[derive(Debug)]
enum Happened {
    LinkLost(LinkId),
    /// A link of a client that cannot come back.
    Gone,
    Upstream(UpstreamId, UpstreamChange),
}

impl Turn {
    /// From when the added latency of a frame counts that was ready at `ready`.
    fn counts_from(&self, ready: Micros) -> Micros {
        // What was read in this turn had waited in the kernel before; a time that had come due has no such wait.
        if ready >= self.at { ready.before(self.wait) } else { ready }
    }
}

impl Driver {
    /// A driver for a session and its first link, number 0.
    pub fn new(session: Session, plan: Arc<Plan>, link: NewLink, around: Surroundings) -> Driver {
        let now = around.clock.now();
        let links = vec![Link::new(LinkId(0), link, &around, now)];
        Driver {
            session,
            plan,
            links,
            upstreams: Vec::with_capacity(2),
            tools: Vec::new(),
            happened: VecDeque::with_capacity(8),
            closing: JoinSet::new(),
            finished: None,
            session_deadline: None,
            turn: Turn::default(),
            held: None,
            begun: now,
            started: false,
            around,
        }
    }

    /// Runs the session to its end. A panic in it ends it with [`CloseReason::Bug`] and nothing else.
    pub async fn run(mut self) -> Finished {
        std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| self.poll_turn(cx))) {
            Ok(poll) => poll,
            Err(_) => {
                tracing::error!(session = %self.around.seat.id(), "a defect ended this session; others are untouched");
                self.finished = None;
                Poll::Ready(())
            }
        })
        .await;
        let lasted = self.around.clock.now() - self.begun;
        let (reason, call) = match self.finished.take() {
            Some((reason, record)) => (reason, *record),
            None => (CloseReason::Bug, self.defect_record(lasted)),
        };
        let record = Box::new(FullRecord {
            call,
            tenant: self.plan.tenant.clone(),
            setup: self.around.setup,
            worker: self.around.worker,
        });
        self.around.metrics.record_end(reason, lasted);
        for (agent, cost) in record.call.agents.iter().filter_map(|entry| Some((&entry.name, entry.cost.as_ref()?))) {
            self.around.metrics.record_cost(agent, cost);
        }
        for link in std::mem::take(&mut self.links) {
            self.closing.spawn(link.close(reason.code(), reason.label()));
        }
        for upstream in std::mem::take(&mut self.upstreams) {
            if let Some(close) = upstream.close() {
                self.closing.spawn(close);
            }
        }
        self.tools.drain(..).for_each(Running::detach);
        Finished { reason, record, closing: self.closing }
    }

    fn defect_record(&self, lasted: Duration) -> CallRecord {
        let id = self.around.seat.id().clone();
        let (route, label) = (self.plan.route.clone(), self.plan.label.as_deref().map(str::to_owned));
        CallRecord::of_defect(id, self.around.conversation_id.clone(), route, label, lasted.as_millis() as u64)
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.around.clock.now();
        self.turn = Turn { at: now, wait: self.around.pulse.wait_before(now), again: false };
        if !self.started {
            self.started = true;
            self.drain(now);
            self.hear_rest(LinkId(0), now);
        }
        if self.around.halt.load(Relaxed) {
            self.session.on_command(Command::End(CloseReason::Draining), now);
            self.drain(now);
        }
        let held_since = self.held_since(cx);
        if self.held.is_some() {
            return self.poll_callers(cx);
        }
        let arrived = self.turn.wait;
        self.turn.wait = held_since.map_or(arrived, |since| arrived.max(now - since));
        self.fire_timers(now);
        self.poll_upstreams(cx);
        self.turn.wait = arrived;
        self.poll_links(cx);
        self.poll_mailbox(cx);
        self.poll_tools(cx);
        self.flush(cx);
        self.poll_taps(cx);
        self.around.seat.set_waiting(self.links.is_empty());
        while self.closing.try_join_next().is_some() {}
        if self.finished.is_some() {
            return Poll::Ready(());
        }
        if self.turn.again || self.poll_timer(cx) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn fire_timers(&mut self, now: Micros) {
        if self.session_deadline.is_some_and(|deadline| deadline <= now) {
            self.session.on_deadline(now);
            self.drain(now);
        }
        let mut due = false;
        for upstream in &mut self.upstreams {
            due |= upstream.fire(now);
        }
        due |= self.keep_alive(now);
        due |= self.keep_agents_alive(now);
        if due {
            self.drain(now);
        }
    }

    /// Arms the timer; whether it is due already.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let of_upstreams = self.upstreams.iter().filter_map(Upstream::next_deadline);
        let of_links = self.links.iter().filter_map(Link::deadline);
        let next = of_upstreams.chain(of_links).chain(self.session_deadline).min();
        self.around.timer.poll(next, self.turn.at, cx).is_ready()
    }

    fn poll_mailbox(&mut self, cx: &mut Context<'_>) {
        for _ in 0..TURN_MESSAGES {
            match self.around.mailbox.poll_recv(cx) {
                Poll::Ready(Some(mail)) => {
                    let now = self.around.clock.now();
                    self.on_mail(mail, now);
                }
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
        self.turn.again = true;
    }

    fn on_mail(&mut self, mail: Mail, now: Micros) {
        match mail {
            Mail::Command(command) => self.session.on_command(command, now),
            Mail::Attach(new) => {
                let outcome = if new.worker == self.around.worker {
                    ResumeOutcome::SameWorker
                } else {
                    ResumeOutcome::OtherWorker
                };
                self.around.telemetry.node().record_resume(outcome);
                let id = self.session.next_link();
                let info = new.info.clone();
                self.links.push(Link::new(id, *new, &self.around, now));
                self.session.on_link(id, LinkChange::Attached(info), now);
                // Nothing wakes this task for it before it has been polled.
                self.turn.again = true;
            }
        }
        self.drain(now);
    }

    /// Does what the session and the agents want until neither wants more.
    fn drain(&mut self, now: Micros) {
        while self.finished.is_none() {
            match self.session.poll(now) {
                Output::ToClient { link, seq, message } => {
                    if matches!(message, ToClient::Started(_)) && link == LinkId(0) {
                        let total = now - self.around.accepted;
                        self.around.setup.total_ms = total.as_secs_f64() * 1000.0;
                        self.around.metrics.record_setup(SetupStage::Total, total);
                    }
                    self.send_to_client(link, seq, &message);
                }
                Output::ToAgent { upstream, message } => self.send_to_agent(upstream, message, now),
                Output::Dial { upstream, rung, role } => self.dial(upstream, rung, role, now),
                Output::Promote { upstream } => self.promote(upstream),
                Output::Hangup { upstream, failed } => self.hang_up(upstream, failed, now),
                Output::RunTool(post) => self.run_tool(post),
                Output::AbortTool { call_id } => self.abort_tool(&call_id),
                Output::Detach { link, code, reason } => self.detach(link, code, reason),
                Output::Measure(measure) => self.measure(measure),
                Output::Close { reason, record } => self.finished = Some((reason, record)),
                Output::Idle { deadline, timer: _ } => {
                    self.session_deadline = deadline;
                    if !self.drain_others(now) {
                        return;
                    }
                }
            }
        }
    }

    /// Gives the session one thing that happened meanwhile; `false` if there is none.
    fn drain_others(&mut self, now: Micros) -> bool {
        match self.happened.pop_front() {
            Some(Happened::LinkLost(id)) => {
                self.session.on_link(id, LinkChange::Lost, now);
                true
            }
            Some(Happened::Gone) => {
                self.session.on_command(Command::End(CloseReason::ClientLost), now);
                true
            }
            Some(Happened::Upstream(id, change)) => {
                if matches!(change, UpstreamChange::Failed(_)) {
                    self.forget(id, now);
                }
                self.session.on_upstream(id, change, now);
                true
            }
            None => self.poll_agents(now),
        }
    }

    /// An upstream has failed.
    fn forget(&mut self, id: UpstreamId, now: Micros) {
        if let Some(index) = self.upstreams.iter().position(|upstream| upstream.id == id) {
            let mut upstream = self.upstreams.remove(index);
            self.give_up(&mut upstream, now);
        }
    }

    fn measure(&mut self, measure: Measure) {
        match measure {
            Measure::UpstreamFailed { rung, class } => {
                if let Some(rung) = self.plan.rungs.get(rung) {
                    self.around.metrics.record_failure(rung.name(), class);
                }
            }
            Measure::Tool { tool, outcome, took } => {
                let name = tool.and_then(|tool| self.plan.tools.keys().nth(tool));
                self.around.metrics.record_tool(name.map(String::as_str), outcome, took);
                if outcome == ToolOutcome::Refused {
                    self.drop_counted(NodeQueue::ToolCalls);
                }
            }
            Measure::Tap { tap, event } => self.note_tap(tap, event),
            Measure::MessageNotKept => self.drop_counted(NodeQueue::KeptMessages),
            measure => self.around.metrics.record(&measure),
        }
    }

    /// Hands everything over and counts how long that took since it was ready.
    fn flush(&mut self, cx: &mut Context<'_>) {
        let (mut lost, mut broken) = (None, false);
        for link in &mut self.links {
            match link.poll_flush(self.turn.at, cx) {
                Poll::Pending => {}
                Poll::Ready(Err(_)) => lost = Some(link.id),
                Poll::Ready(Ok(())) => {
                    let now = if link.unflushed.is_empty() { continue } else { self.around.clock.now() };
                    let path = path(self.session.passes(Direction::Down));
                    for from in link.unflushed.drain(..) {
                        self.session.record_added(Direction::Down, now - from);
                        self.around.metrics.record_added(Direction::Down, path, now - from);
                    }
                }
            }
        }
        for upstream in self.upstreams.iter_mut().filter(|upstream| upstream.role != UpstreamRole::Tap) {
            match upstream.poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => {
                    broken = true;
                    self.happened.push_back(Happened::Upstream(upstream.id, upstream::lost(error)));
                }
                Poll::Ready(Ok(())) => {
                    let now = if upstream.unflushed.is_empty() { continue } else { self.around.clock.now() };
                    let path = path(self.session.passes(Direction::Up));
                    for from in upstream.unflushed.drain(..) {
                        self.session.record_added(Direction::Up, now - from);
                        self.around.metrics.record_added(Direction::Up, path, now - from);
                    }
                }
            }
        }
        if let Some(id) = lost {
            drop(self.take_link(id));
        }
        if broken || lost.is_some() {
            let now = self.around.clock.now();
            self.drain(now);
            self.turn.again = true;
        }
    }

    fn drop_counted(&self, queue: NodeQueue) {
        self.around.telemetry.node().record_dropped(queue);
    }
}

fn path(passes: bool) -> Path {
    if passes { Path::Passthrough } else { Path::Transcode }
}

#[cfg(test)]
mod tests;
