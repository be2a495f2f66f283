//! The metrics of one session, resolved once when it starts: a lookup by name and labels costs several times a cached
//! handle, and a frame is counted 50 times a second in each direction.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Histogram};

use super::names;
use super::registry::{DecimalCounter, Registry};
use crate::ids::{AgentName, RouteName};
use crate::message::{Basis, CloseReason, FailureClass, Usage, usage};
use crate::session::{Cost, Direction, Interrupter, Measure, Queue, TapEvent, ToolOutcome, Transport};
use crate::upstream::breaker::BreakerState;

/// What the series of a session are told apart by. All values come from the configuration or a closed list.
#[derive(Clone, Debug)]
pub struct SessionLabels {
    /// The client's transport.
    pub transport: Transport,
    /// The route.
    pub route: RouteName,
    /// The agent that talks first.
    pub agent: AgentName,
    /// Label of the chosen `to` entry.
    pub label: Option<Arc<str>>,
}

/// What a frame went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Equal formats: the samples were not touched.
    Passthrough,
    /// Decoded, encoded or resampled.
    Transcode,
}

impl Path {
    /// Every path.
    pub const ALL: [Path; 2] = [Path::Passthrough, Path::Transcode];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Path::Passthrough => "passthrough",
            Path::Transcode => "transcode",
        }
    }
}

/// The stages of a session's set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetupStage {
    /// TLS handshake.
    Tls,
    /// Reading the request and upgrading the connection.
    Upgrade,
    /// From the open link to the client's `start`.
    Start,
    /// Finding out who calls.
    Auth,
    /// Asking the pre-call hook.
    Hook,
    /// Routing and building the session.
    Route,
    /// From the dial to an agent that is ready.
    Agent,
    /// From the accepted connection to `started`.
    Total,
}

impl SetupStage {
    /// Every stage, in order.
    pub const ALL: [SetupStage; 8] = [
        SetupStage::Tls,
        SetupStage::Upgrade,
        SetupStage::Start,
        SetupStage::Auth,
        SetupStage::Hook,
        SetupStage::Route,
        SetupStage::Agent,
        SetupStage::Total,
    ];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            SetupStage::Tls => "tls",
            SetupStage::Upgrade => "upgrade",
            SetupStage::Start => "start",
            SetupStage::Auth => "auth",
            SetupStage::Hook => "hook",
            SetupStage::Route => "route",
            SetupStage::Agent => "agent",
            SetupStage::Total => "total",
        }
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::Up, Direction::Down];
const QUEUES: [Queue; 5] = [Queue::Preroll, Queue::Uplink, Queue::Playout, Queue::Stale, Queue::Tap];
const BASES: [Basis; 4] = [Basis::Reported, Basis::Acked, Basis::Marked, Basis::Paced];

// Exhaustive, so that a new variant cannot index past the handles that were resolved.
const fn slot_of_direction(direction: Direction) -> usize {
    match direction {
        Direction::Up => 0,
        Direction::Down => 1,
    }
}

const fn slot_of_queue(queue: Queue) -> usize {
    match queue {
        Queue::Preroll => 0,
        Queue::Uplink => 1,
        Queue::Playout => 2,
        Queue::Stale => 3,
        Queue::Tap => 4,
    }
}

const fn slot_of_basis(basis: Basis) -> usize {
    match basis {
        Basis::Reported => 0,
        Basis::Acked => 1,
        Basis::Marked => 2,
        Basis::Paced => 3,
    }
}

fn basis_label(basis: Basis) -> &'static str {
    match basis {
        Basis::Reported => "reported",
        Basis::Acked => "acked",
        Basis::Marked => "marked",
        Basis::Paced => "paced",
    }
}

/// Handles that depend on the agent; another set is resolved when another agent takes over.
struct AgentHandles {
    added: [[Histogram; 2]; 2],
    first_audio: Histogram,
    bargein_stop: Histogram,
    interruptions: [Counter; Interrupter::ALL.len()],
    upstream_connect: Histogram,
    upstream_ready: Histogram,
}

impl AgentHandles {
    fn new(registry: &Registry, labels: &SessionLabels) -> Self {
        let (transport, agent) = (labels.transport.label(), labels.agent.as_str());
        let split = labels.label.as_deref().unwrap_or("");
        let added = DIRECTIONS.map(|direction| {
            Path::ALL.map(|path| {
                registry.histogram(&names::ADDED_LATENCY, &[direction.label(), transport, agent, path.label()])
            })
        });
        Self {
            added,
            first_audio: registry.histogram(&names::FIRST_AUDIO, &[agent, labels.route.as_str(), split]),
            bargein_stop: registry.histogram(&names::BARGEIN_STOP, &[transport, agent]),
            interruptions: Interrupter::ALL.map(|by| registry.counter(&names::INTERRUPTIONS, &[agent, by.label()])),
            upstream_connect: registry.histogram(&names::UPSTREAM_CONNECT, &[agent]),
            upstream_ready: registry.histogram(&names::UPSTREAM_READY, &[agent]),
        }
    }
}

/// The metrics of one session.
pub struct SessionMetrics {
    registry: Arc<Registry>,
    labels: SessionLabels,
    agent: AgentHandles,
    setup: [Histogram; SetupStage::ALL.len()],
    gap_wait: Histogram,
    playout_wait: Histogram,
    codec_delay: [Histogram; 2],
    encoder_complexity: Histogram,
    lost: Counter,
    recovered: Counter,
    late: Counter,
    concealed: DecimalCounter,
    filled: DecimalCounter,
    jitter: [Histogram; 2],
    round_trip: Histogram,
    peer_loss: Histogram,
    uplink_skew: Histogram,
    playout_depth: Histogram,
    dropped: [DecimalCounter; QUEUES.len()],
    heard: [Counter; BASES.len()],
    ignored: Counter,
    refused: Counter,
}

impl std::fmt::Debug for SessionMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionMetrics").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl SessionMetrics {
    /// Resolves all handles and counts the session as started.
    pub(super) fn new(registry: Arc<Registry>, labels: SessionLabels) -> Self {
        let transport = labels.transport.label();
        let split = labels.label.as_deref().unwrap_or("");
        registry.counter(&names::SESSIONS_STARTED, &[transport, labels.route.as_str(), split]).increment(1);
        Self {
            agent: AgentHandles::new(&registry, &labels),
            setup: SetupStage::ALL.map(|stage| registry.histogram(&names::SESSION_SETUP, &[stage.label(), transport])),
            gap_wait: registry.histogram(&names::GAP_WAIT, &[transport]),
            playout_wait: registry.histogram(&names::PLAYOUT_WAIT, &[transport]),
            codec_delay: DIRECTIONS
                .map(|direction| registry.histogram(&names::CODEC_DELAY, &[direction.label(), transport])),
            encoder_complexity: registry.histogram(&names::ENCODER_COMPLEXITY, &[transport]),
            lost: registry.counter(&names::UPLINK_LOST, &[transport]),
            recovered: registry.counter(&names::UPLINK_RECOVERED, &[transport]),
            late: registry.counter(&names::UPLINK_LATE, &[transport]),
            concealed: registry.decimal(&names::CONCEALED, &[transport]),
            filled: registry.decimal(&names::FILLED, &[transport]),
            jitter: DIRECTIONS.map(|direction| registry.histogram(&names::JITTER, &[direction.label(), transport])),
            round_trip: registry.histogram(&names::ROUND_TRIP, &[transport]),
            peer_loss: registry.histogram(&names::PEER_LOSS, &[transport]),
            uplink_skew: registry.histogram(&names::UPLINK_SKEW, &[transport]),
            playout_depth: registry.histogram(&names::QUEUE_DEPTH, &[Queue::Playout.label()]),
            dropped: QUEUES.map(|queue| registry.decimal(&names::QUEUE_DROPPED_AUDIO, &[queue.label()])),
            heard: BASES.map(|basis| registry.counter(&names::HEARD, &[basis_label(basis)])),
            ignored: registry.counter(&names::MESSAGES_IGNORED, &[transport]),
            refused: registry.counter(&names::MESSAGES_REFUSED, &[transport]),
            registry,
            labels,
        }
    }

    /// What the series are told apart by now.
    pub fn labels(&self) -> &SessionLabels {
        &self.labels
    }

    /// Another agent is dialled to talk, or talks from now on: agent-labelled series count for it.
    pub fn set_agent(&mut self, agent: &AgentName) {
        if self.labels.agent != *agent {
            self.labels.agent = agent.clone();
            self.agent = AgentHandles::new(&self.registry, &self.labels);
        }
    }

    /// Latency that the relay added to one frame.
    #[inline]
    pub fn record_added(&self, direction: Direction, path: Path, added: Duration) {
        self.agent.added[slot_of_direction(direction)][path as usize].record(added.as_secs_f64());
    }

    /// How long a frame of the agent waited to be due.
    pub fn record_playout_wait(&self, wait: Duration) {
        self.playout_wait.record(wait.as_secs_f64());
    }

    /// Look-ahead of the codecs in one direction; once per session and direction.
    pub fn record_codec_delay(&self, direction: Direction, delay: Duration) {
        self.codec_delay[slot_of_direction(direction)].record(delay.as_secs_f64());
    }

    /// Complexity (0 to 10) of the encoder towards the client, whenever it is set.
    pub fn record_encoder_complexity(&self, complexity: u8) {
        self.encoder_complexity.record(f64::from(complexity));
    }

    /// How long one stage of the set-up took.
    pub fn record_setup(&self, stage: SetupStage, took: Duration) {
        self.setup[stage as usize].record(took.as_secs_f64());
    }

    /// Dial to open socket.
    pub fn record_upstream_connect(&self, took: Duration) {
        self.agent.upstream_connect.record(took.as_secs_f64());
    }

    /// An upstream of `agent` has failed.
    pub fn record_failure(&self, agent: &AgentName, class: FailureClass) {
        self.registry.counter(&names::UPSTREAM_FAILURES, &[agent.as_str(), class.label()]).increment(1);
    }

    /// How a try to reach `agent` went on: `ready`, `failed`, `unanswered` or `refused`.
    pub fn record_attempt(&self, agent: &AgentName, result: &'static str, breaker: BreakerState) {
        self.registry.counter(&names::ATTEMPTS, &[agent.as_str(), result]).increment(1);
        self.registry.gauge(&names::BREAKER_STATE, &[agent.as_str()]).set(match breaker {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        });
    }

    /// The session is over.
    pub fn record_end(&self, reason: CloseReason, duration: Duration) {
        let (route, split) = (self.labels.route.as_str(), self.labels.label.as_deref().unwrap_or(""));
        let transport = self.labels.transport.label();
        self.registry.counter(&names::SESSIONS_ENDED, &[reason.label(), transport, route, split]).increment(1);
        self.registry.histogram(&names::SESSION_DURATION, &[route]).record(duration.as_secs_f64());
    }

    /// A tap did something.
    pub fn record_tap(&self, agent: &AgentName, event: TapEvent) {
        self.registry.counter(&names::TAP_EVENTS, &[agent.as_str(), event.label()]).increment(1);
    }

    /// A tool call is over; `tool` is its name in the configuration.
    pub fn record_tool(&self, tool: Option<&str>, outcome: ToolOutcome, took: Duration) {
        let tool = tool.unwrap_or("other");
        self.registry.counter(&names::TOOL_CALLS, &[tool, outcome.label()]).increment(1);
        self.registry.histogram(&names::TOOL_CALL_TIME, &[tool]).record(took.as_secs_f64());
    }

    /// What `agent` reported as used.
    pub fn record_usage(&self, agent: &AgentName, usage: &Usage) {
        for (unit, amount) in &usage.amounts {
            let values = [agent.as_str(), usage::common(unit)];
            self.registry.decimal(&names::AGENT_USAGE, &values).add_amount(*amount);
        }
    }

    /// What an agent's part of a call cost.
    pub fn record_cost(&self, agent: &str, cost: &Cost) {
        self.registry.decimal(&names::AGENT_COST, &[agent, &cost.currency]).add_amount(cost.amount);
    }

    /// A figure that the session gave.
    pub fn record(&self, measure: &Measure) {
        match *measure {
            Measure::FirstAudio(wait) => self.agent.first_audio.record(wait.as_secs_f64()),
            Measure::BargeInStop(wait) => self.agent.bargein_stop.record(wait.as_secs_f64()),
            Measure::UplinkLoss { lost, recovered } => {
                self.lost.increment(lost.into());
                self.recovered.increment(recovered.into());
            }
            Measure::UplinkLate(packets) => self.late.increment(packets.into()),
            Measure::Concealed(audio) => self.concealed.add(audio),
            Measure::Filled(audio) => self.filled.add(audio),
            Measure::GapWait(wait) => self.gap_wait.record(wait.as_secs_f64()),
            Measure::Dropped { queue, audio } => self.dropped[slot_of_queue(queue)].add(audio),
            Measure::RoundTrip(round_trip) => self.round_trip.record(round_trip.as_secs_f64()),
            Measure::Jitter { direction, jitter } => {
                self.jitter[slot_of_direction(direction)].record(jitter.as_secs_f64());
            }
            Measure::PeerLoss(share) => self.peer_loss.record(f64::from(share)),
            Measure::UplinkSkew(skew) => self.uplink_skew.record(skew.as_secs_f64()),
            Measure::PlayoutDepth(depth) => self.playout_depth.record(depth.as_secs_f64()),
            Measure::PlayoutWait(wait) => self.record_playout_wait(wait),
            Measure::CodecDelay { direction, delay } => self.record_codec_delay(direction, delay),
            Measure::EncoderComplexity(complexity) => self.record_encoder_complexity(complexity),
            Measure::Heard { basis } => self.heard[slot_of_basis(basis)].increment(1),
            Measure::Interruption { by } => self.agent.interruptions[by as usize].increment(1),
            Measure::BargeInIgnored(why) => {
                let values = [self.labels.agent.as_str(), why.label()];
                self.registry.counter(&names::BARGEIN_IGNORED, &values).increment(1);
            }
            Measure::PauseEnded { confirmed } => {
                let outcome = if confirmed { "confirmed" } else { "resumed" };
                let values = [self.labels.agent.as_str(), outcome];
                self.registry.counter(&names::BARGEIN_PAUSES, &values).increment(1);
            }
            // Whose it is only the driver knows.
            Measure::UpstreamFailed { .. } => {}
            Measure::Failover { reason } => {
                let values = [self.labels.route.as_str(), self.labels.agent.as_str(), reason];
                self.registry.counter(&names::FALLBACKS, &values).increment(1);
            }
            Measure::DownStep(step) => {
                self.registry.counter(&names::DOWN_STEPS, &[self.labels.route.as_str(), step]).increment(1);
            }
            Measure::Down { span, recovered } => {
                let values = [self.labels.route.as_str(), if recovered { "recovered" } else { "ended" }];
                self.registry.histogram(&names::AGENTS_DOWN, &values).record(span.as_secs_f64());
            }
            Measure::Rollover => {
                self.registry.counter(&names::ROLLOVERS, &[self.labels.agent.as_str()]).increment(1);
            }
            Measure::Replayed { chars } => {
                let values = [self.labels.agent.as_str(), usage::REPLAYED];
                self.registry.decimal(&names::AGENT_USAGE, &values).add_amount(f64::from(chars));
            }
            Measure::UpstreamReady(took) => self.agent.upstream_ready.record(took.as_secs_f64()),
            // They have the names of tools and taps: `record_tool`, `record_tap`.
            Measure::Tool { .. } | Measure::Tap { .. } | Measure::MessageNotKept => {}
            Measure::InterimSkipped => {
                self.registry.counter(&names::OVERLOAD_SKIPPED, &["interim_transcripts"]).increment(1);
            }
            Measure::TapsSkipped => self.registry.counter(&names::OVERLOAD_SKIPPED, &["taps"]).increment(1),
            Measure::Ignored => self.ignored.increment(1),
            Measure::Refused => self.refused.increment(1),
        }
    }
}
