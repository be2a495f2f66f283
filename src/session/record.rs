//! The call record: everything about a finished call, one JSON line.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::{ConversationId, RouteName, SessionId};
use crate::media::format::Format;
use crate::message::{CloseReason, Stats};
use crate::session::ear::Ignored;
use crate::session::event::{ToolOutcome, ToolRunner, Transport};
use crate::session::turn::Interrupter;

/// Everything about a finished call; the driver adds what only it knows and writes it as one JSON line.
#[derive(Clone, Debug, Serialize)]
pub struct CallRecord {
    /// The session.
    pub session_id: SessionId,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// The route.
    pub route: RouteName,
    /// The label of the chosen agent in the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The transport of the last link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// The client's formats on the last link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codecs: Option<Codecs>,
    /// The agents that were dialled, in order.
    pub agents: Vec<AgentEntry>,
    /// Why the call ended.
    pub reason: CloseReason,
    /// How long it lasted.
    pub duration_ms: u64,
    /// Time in which the caller spoke, by the relay's own finding.
    pub talk_ms: u64,
    /// Agent audio handed over to the client.
    pub agent_audio_sent_ms: u64,
    /// Agent audio that the caller heard.
    pub agent_audio_heard_ms: u64,
    /// Turns of the agent.
    pub turns: u32,
    /// Turns that the caller cut off.
    pub interruptions: u32,
    /// Who found these, and what was taken back or ignored.
    pub barge_in: BargeIns,
    /// Utterances and text messages of both sides.
    pub messages: u64,
    /// From admission to the first agent's readiness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_ready_ms: Option<u64>,
    /// End of the caller's speech to the first audio of the answer, per answer.
    pub first_audio_ms: Vec<u64>,
    /// Latency, loss and what was made up.
    pub stats: Stats,
    /// Tool calls, oldest first; at most 200 of them.
    pub tools: Vec<ToolEntry>,
    /// Who only listened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taps: Vec<TapEntry>,
    /// Alerts that they raised, oldest first; at most 50 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<AlertEntry>,
    /// Tries to reach an agent, those beside another one included.
    pub dials: u32,
    /// Times that another agent took over.
    pub failovers: u32,
    /// Times that a fresh session with the same agent took over.
    pub rollovers: u32,
    /// Agents that gave no sign of an answer in time.
    pub stalls: u32,
    /// Time without any agent but one for text.
    pub down_ms: u64,
    /// What the caller was left with in that time, in order: `clip`, `text`, `keep`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub down_steps: Vec<&'static str>,
    /// Links after the first.
    pub resumes: u32,
    /// Set-up fields that the agent did not apply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_applied: Vec<String>,
    /// The same of all agents together.
    pub usage: BTreeMap<String, f64>,
    /// The same; `null` also if the agents are paid in different currencies.
    pub cost: Option<Cost>,
    /// Whether the caller agreed to recording; `null` if never asked.
    pub consent: Option<bool>,
    /// The client's `metadata`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
}

impl CallRecord {
    /// The record of a call that a defect of antiphon ended: what is known without its session.
    pub fn of_defect(
        session_id: SessionId,
        conversation_id: ConversationId,
        route: RouteName,
        label: Option<String>,
        duration_ms: u64,
    ) -> CallRecord {
        CallRecord {
            session_id,
            conversation_id,
            route,
            label,
            transport: None,
            codecs: None,
            agents: Vec::new(),
            reason: CloseReason::Bug,
            duration_ms,
            talk_ms: 0,
            agent_audio_sent_ms: 0,
            agent_audio_heard_ms: 0,
            turns: 0,
            interruptions: 0,
            barge_in: BargeIns::default(),
            messages: 0,
            agent_ready_ms: None,
            first_audio_ms: Vec::new(),
            stats: Stats::default(),
            tools: Vec::new(),
            taps: Vec::new(),
            alerts: Vec::new(),
            dials: 0,
            failovers: 0,
            rollovers: 0,
            stalls: 0,
            down_ms: 0,
            down_steps: Vec::new(),
            resumes: 0,
            not_applied: Vec::new(),
            usage: BTreeMap::new(),
            cost: None,
            consent: None,
            metadata: None,
        }
    }
}

/// The client's two formats.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Codecs {
    /// Client to relay.
    pub uplink: Format,
    /// Relay to client.
    pub downlink: Format,
}

/// One agent of the call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentEntry {
    /// Its name.
    pub name: String,
    /// When it was dialled, in milliseconds since the call began.
    pub from_ms: u64,
    /// How long it took to be ready.
    pub ready_after_ms: Option<u64>,
    /// How long it was in use, from the dial on.
    pub lasted_ms: u64,
    /// Why it was left; absent while in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// What it reported, summed per unit, and what of the conversation it was told again; what it did not report is
    /// absent.
    pub usage: BTreeMap<String, f64>,
    /// Price by its own table; `null` if there is none or something in it is unknown.
    pub cost: Option<Cost>,
}

/// One tool call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ToolEntry {
    /// The tool.
    pub name: String,
    /// Who ran it.
    pub by: ToolRunner,
    /// When it was called, in milliseconds since the call began.
    pub at_ms: u64,
    /// How long it took; `null` if it did not end.
    pub took_ms: Option<u64>,
    /// How it ended.
    pub result: ToolOutcome,
}

/// One tap of the call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TapEntry {
    /// Its agent.
    pub agent: String,
    /// Whom it heard.
    pub hears: &'static str,
    /// When it began to listen, in milliseconds since the call began; `null` if it never did.
    pub ready_ms: Option<u64>,
    /// How often it was lost, or could not be reached.
    pub losses: u32,
    /// Why, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Audio that it was not given because it did not keep up or was not there.
    pub dropped_ms: u64,
    /// Texts that it has understood.
    pub transcripts: u32,
    /// Alerts that it raised.
    pub alerts: u32,
    /// What it reported as used, per unit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub usage: BTreeMap<String, f64>,
}

/// One alert of a tap: that it was raised, not what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AlertEntry {
    /// The tap's agent.
    pub from: String,
    /// When, in milliseconds since the call began.
    pub at_ms: u64,
    /// Its name.
    pub name: String,
    /// Its severity.
    pub severity: String,
}

/// A price.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// ISO 4217.
    pub currency: String,
    /// The amount.
    pub amount: f64,
}

/// How the agent was interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BargeIns {
    /// By the agent's own detection.
    pub by_agent: u32,
    /// By the client.
    pub by_client: u32,
    /// By the relay's detection of voice.
    pub by_relay: u32,
    /// Of all stops of the agent's voice, those that could be taken back, and those that were.
    pub paused: u32,
    /// See [`BargeIns::paused`].
    pub resumed: u32,
    /// Voices that were taken for the agent's echo.
    pub ignored_echo: u32,
    /// Voices in the beginning of the agent's first speech.
    pub ignored_warm_up: u32,
}

impl BargeIns {
    pub(super) fn count(&mut self, by: Interrupter) {
        *match by {
            Interrupter::Agent => &mut self.by_agent,
            Interrupter::Client => &mut self.by_client,
            Interrupter::Relay => &mut self.by_relay,
        } += 1;
    }

    pub(super) fn ignore(&mut self, why: Ignored) {
        *match why {
            Ignored::Echo => &mut self.ignored_echo,
            Ignored::WarmUp => &mut self.ignored_warm_up,
        } += 1;
    }
}

/// The longest list of first-audio times that is kept.
pub const MAX_FIRST_AUDIO: usize = 200;

/// What a session counts for its record.
#[derive(Debug, Default)]
pub struct Totals {
    /// Time in which the caller spoke.
    pub talk: std::time::Duration,
    /// Ticks handed over, as time.
    pub sent: std::time::Duration,
    /// Turns.
    pub turns: u32,
    /// Cut turns.
    pub interruptions: u32,
    /// How they came about.
    pub barge_in: BargeIns,
    /// First readiness.
    pub agent_ready_ms: Option<u64>,
    /// First-audio times.
    pub first_audio_ms: Vec<u64>,
    /// Tries to reach an agent.
    pub dials: u32,
    /// Another agent took over.
    pub failovers: u32,
    /// A fresh session took over.
    pub rollovers: u32,
    /// No answer in time.
    pub stalls: u32,
    /// Time without an agent.
    pub down: std::time::Duration,
    /// Steps taken then.
    pub down_steps: Vec<&'static str>,
    /// Links after the first.
    pub resumes: u32,
    /// Fields not applied.
    pub not_applied: Vec<String>,
    /// Consent to recording.
    pub consent: Option<bool>,
}

impl Totals {
    /// An agent did not apply these fields of its set-up.
    pub fn on_not_applied(&mut self, fields: Vec<String>) {
        for field in fields {
            if !self.not_applied.contains(&field) {
                self.not_applied.push(field);
            }
        }
    }
}

/// The longest added latency that is told from longer ones: a minute.
pub(super) const MOST_ADDED_US: u64 = 60_000_000;

/// Added latency from 1 µs with two digits. Room is taken as far as calls usually need it: up to 8 ms.
pub(super) fn added_histogram() -> hdrhistogram::Histogram<u32> {
    let mut histogram = hdrhistogram::Histogram::new_with_bounds(1, 8_191, 2).expect("the bounds are valid");
    histogram.auto(true);
    histogram
}
