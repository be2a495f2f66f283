//! A route of the configuration, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{AgentName, RouteName};
use crate::message::Setup;
use crate::route::plan::{DownStep, Policy};
use crate::session::Transport;

/// One `[[route]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: RouteName,
    /// Which calls it takes.
    pub matches: Match,
    /// What percent and weights hash.
    pub sticky: Sticky,
    /// Who answers.
    pub to: Target,
    /// The next rungs, in order.
    pub fallback: Vec<AgentName>,
    /// No agent outside of this zone may hear the call.
    pub zone: Option<String>,
    /// Copies of the uplink.
    pub taps: Vec<Tap>,
    /// How audio, turns and the end are handled.
    pub policy: Policy,
    /// Limit sets, by name.
    pub limits: Vec<String>,
    /// The pre-call hook, by name.
    pub admit: Option<String>,
    /// Objectives, for alerts.
    pub slo: Slo,
    /// Whether callers without credentials are let in from anywhere.
    pub anonymous: bool,
    /// Whether a token may come in the query of the URL.
    pub token_in_query: bool,
    /// Overrides the agents' set-up field by field.
    pub setup: Setup,
}

/// The conditions of a route; all must hold, and an empty list holds always.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// Any of these names was asked for (`*` stands for any run of characters).
    pub agent: Vec<String>,
    /// Any of these.
    pub transport: Vec<Transport>,
    /// Any of these tenants.
    pub tenant: Vec<String>,
    /// Each claim (by dotted path) has one of the values, or is a list that contains one.
    pub claim: BTreeMap<String, Vec<Value>>,
    /// Each header (lower-case name) has one of the values (`*` allowed).
    pub header: BTreeMap<String, Vec<String>>,
    /// Any of these paths (`*` allowed).
    pub path: Vec<String>,
    /// Any of these hosts (`*` allowed), port ignored unless given.
    pub host: Vec<String>,
    /// Any of these origins (`*` allowed).
    pub origin: Vec<String>,
    /// Any of these node regions.
    pub region: Vec<String>,
    /// Share of callers, 0 to 100.
    pub percent: Option<f64>,
}

/// What percent and weights hash, so that the same caller gets the same answer on every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sticky {
    /// The user; the conversation where none is known.
    #[default]
    User,
    /// The conversation.
    Conversation,
    /// The session: every call anew.
    Session,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// The agent that the caller names, else this one.
    Requested {
        /// For callers that name none.
        default: AgentName,
    },
    /// One of these, by weight. Never empty.
    Weighted(Vec<Choice>),
}

/// One entry of `to`.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The agent.
    pub agent: AgentName,
    /// Its share relative to the sum of all.
    pub weight: u32,
    /// Appears in metrics.
    pub label: Option<Arc<str>>,
}

/// A copy of what is said.
#[derive(Clone, Debug, PartialEq)]
pub struct Tap {
    /// Who gets it.
    pub agent: AgentName,
    /// For this share of calls, 0 to 100.
    pub percent: f64,
    /// Whom it hears, each over a connection of its own. Never empty.
    pub hear: Vec<TapSide>,
    /// What of it reaches clients.
    pub tell: BTreeSet<TapTells>,
}

/// Whom a tap hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TapSide {
    /// What the caller says.
    Caller,
    /// What is handed over to the caller's speaker.
    Agent,
}

impl TapSide {
    /// As it stands in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            TapSide::Caller => "caller",
            TapSide::Agent => "agent",
        }
    }
}

/// What a tap says that clients may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TapTells {
    /// Its alerts.
    Alert,
    /// Its application data.
    App,
    /// What it understands of the caller: it becomes part of the transcript.
    Transcript,
}

/// Objectives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slo {
    /// Added latency, 99th percentile.
    pub added_p99: Option<Duration>,
    /// First audio, 95th percentile.
    pub first_audio_p95: Option<Duration>,
}

impl Rule {
    /// The route in force when the configuration names none: any agent by name, for callers on this machine.
    pub fn by_name(default: AgentName) -> Rule {
        Rule {
            name: RouteName::from("default"),
            matches: Match::default(),
            sticky: Sticky::default(),
            to: Target::Requested { default },
            fallback: Vec::new(),
            zone: None,
            taps: Vec::new(),
            policy: Policy::default(),
            limits: Vec::new(),
            admit: None,
            slo: Slo::default(),
            anonymous: false,
            token_in_query: false,
            setup: Setup::default(),
        }
    }

    /// Every agent that this rule names, with the key that names it. A target `requested` names none.
    pub fn named_agents(&self) -> impl Iterator<Item = (&'static str, &AgentName)> {
        let to = match &self.to {
            Target::Weighted(choices) => choices.as_slice(),
            Target::Requested { .. } => &[],
        };
        to.iter()
            .map(|choice| ("to", &choice.agent))
            .chain(self.fallback.iter().map(|name| ("fallback", name)))
            .chain(self.policy.when_down.iter().filter_map(|step| match step {
                DownStep::Text(name) => Some(("when_down", name)),
                DownStep::Announce(_) | DownStep::Keep(_) => None,
            }))
            .chain(self.taps.iter().map(|tap| ("taps", &tap.agent)))
    }
}
