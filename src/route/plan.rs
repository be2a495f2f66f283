//! The plan of one call: everything the router decided at admission. A reload never changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::config::settings::{AgentKind, AgentSettings, ToolSettings};
use crate::config::vendor::VendorKind;
use crate::ids::{AgentName, RouteName};
use crate::media::announcement::Announcement;
use crate::message::{FailureClass, Setup};
use crate::route::rule::{TapSide, TapTells};

/// What one session does: which agents, in which order, under which policy.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The route that matched.
    pub route: RouteName,
    /// Label of the chosen `to` entry, for metrics.
    pub label: Option<Arc<str>>,
    /// The agents to try, best first: the chosen one, then the fallbacks; then those that only answer text. Never empty.
    pub rungs: Vec<Rung>,
    /// How many of the rungs, from the first, are tried by themselves; the others are named by [`DownStep::Text`].
    pub regular: usize,
    /// How many of the rungs, from the first, are equals: the entries of `to`.
    pub pool: usize,
    /// Who only listens.
    pub taps: Vec<PlannedTap>,
    /// The tools of the configuration, by name.
    pub tools: Arc<BTreeMap<String, ToolSettings>>,
    /// The tenant whose call it is.
    pub tenant: Option<String>,
    /// The user whose call it is.
    pub user: Option<String>,
    /// How audio, turns and the end are handled.
    pub policy: Policy,
    /// The sets of limits that hold, by name: the route's, the token's, the hook's.
    pub limits: Vec<String>,
}

impl Plan {
    /// A plan of a route with these agents and nothing else; none of them is the equal of another.
    pub fn new(route: impl Into<RouteName>, rungs: Vec<Rung>, policy: Policy) -> Plan {
        Plan {
            route: route.into(),
            label: None,
            regular: rungs.len(),
            rungs,
            pool: 1,
            taps: Vec::new(),
            tools: Arc::default(),
            tenant: None,
            user: None,
            policy,
            limits: Vec::new(),
        }
    }
}

/// One agent of a plan with the set-up in force for it.
#[derive(Clone, Debug)]
pub struct Rung {
    /// The agent.
    pub agent: Arc<AgentSettings>,
    /// Set-up of agent, route, token and hook merged; templates of the first two filled in.
    pub setup: Setup,
}

impl Rung {
    /// The agent's name.
    pub fn name(&self) -> &AgentName {
        &self.agent.name
    }

    /// Whether it only plays something and hangs up.
    pub fn is_clip(&self) -> bool {
        matches!(self.agent.kind, AgentKind::Clip { .. })
    }

    /// Whether it hears and speaks.
    pub fn converses(&self) -> bool {
        match &self.agent.kind {
            AgentKind::Vendor(vendor) => vendor.kind != VendorKind::Chat,
            AgentKind::Storyteller | AgentKind::Websocket(_) | AgentKind::Quic(_) => true,
            AgentKind::Echo { .. } | AgentKind::Clip { .. } | AgentKind::NotBuilt { .. } => false,
        }
    }
}

/// Who only listens, and to whom.
#[derive(Clone, Debug)]
pub struct PlannedTap {
    /// The agent, with its own set-up.
    pub rung: Rung,
    /// Whom it hears.
    pub hears: TapSide,
    /// What of it reaches clients.
    pub tell: BTreeSet<TapTells>,
}

/// How a missing uplink packet is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapMode {
    /// FEC at once where the successor carries it, else up to `gap_wait`.
    Fast,
    /// Up to 200 ms, with NACK.
    Accurate,
}

/// Opus encoder settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpusSettings {
    /// 0 (fast) to 10.
    pub complexity: u8,
    /// Bits per second.
    pub bitrate: u32,
    /// What the encoder is tuned for.
    pub application: OpusApplication,
    /// Upper audio bandwidth.
    pub max_bandwidth: OpusBandwidth,
    /// In-band FEC (LBRR), as much of it as the reported loss calls for: none where nothing is lost.
    pub fec: bool,
    /// Discontinuous transmission.
    pub dtx: bool,
}

impl Default for OpusSettings {
    /// VoIP, complexity 1, 48 kb/s, wideband cap: more PESQ than complexity 5 at 32 kb/s for less than half the CPU.
    fn default() -> Self {
        Self {
            complexity: 1,
            bitrate: 48_000,
            application: OpusApplication::Voip,
            max_bandwidth: OpusBandwidth::Wide,
            fec: true,
            dtx: false,
        }
    }
}

/// `OPUS_APPLICATION_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpusApplication {
    /// Speech.
    Voip,
    /// Music and mixed content.
    Audio,
    /// Lowest delay, CELT only.
    LowDelay,
}

/// `OPUS_BANDWIDTH_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpusBandwidth {
    /// 4 kHz.
    Narrow,
    /// 8 kHz.
    Wide,
    /// 12 kHz.
    SuperWide,
    /// 20 kHz.
    Full,
}

/// How the session behaves; every field has a key in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `audio.gap`.
    pub gap: GapMode,
    /// `audio.gap_wait_ms`: from the first packet after a gap.
    pub gap_wait: Duration,
    /// `audio.stall_ms`: silence is made up when nothing came for so long (after DTX or `mic off`: one packet time).
    pub stall: Duration,
    /// `audio.uplink_max_ms`: late speech kept at most; beyond it the oldest is dropped.
    pub uplink_max: Duration,
    /// `audio.preroll_ms`: kept until the agent is ready.
    pub preroll: Duration,
    /// `audio.send_ahead_ms`: how far ahead of the ear audio is handed over on ordered transports.
    pub send_ahead: Duration,
    /// `audio.playout_max_s`: agent audio kept at most.
    pub playout_max: Duration,
    /// `audio.heard_wait_ms`: how long an interruption waits for the client's final report.
    pub heard_wait: Duration,
    /// `audio.client_dtx`: WebRTC clients are asked to send nothing while nobody speaks.
    pub client_dtx: bool,
    /// `audio.client_bitrate`: Opus bits per second that WebRTC clients are asked to send.
    pub client_bitrate: Option<u32>,
    /// `audio.opus`: the encoder towards the client.
    pub opus: OpusSettings,
    /// `audio.end_of_speech`: level in dBov (negative) above which a frame is voiced.
    pub speech_threshold_dbov: i8,
    /// `audio.end_of_speech`: unvoiced time after which speech has ended.
    pub speech_hangover: Duration,
    /// `barge_in`.
    pub barge_in: BargeInPolicy,
    /// `max_s`.
    pub max: Duration,
    /// `idle`.
    pub idle: IdlePolicy,
    /// `resume_window_s`.
    pub resume_window: Duration,
    /// `agent_ready_ms`: an agent that is not ready in this time counts as failed.
    pub agent_ready: Duration,
    /// `hedge_ms`: when an agent is not ready after so long, the next one that converses is dialled beside it, and the
    /// first that is ready is used; zero switches it off.
    pub hedge: Duration,
    /// `answer_within_ms`: an agent that gives no sign of an answer so long after the caller has ended counts as failed;
    /// zero switches it off.
    pub answer_within: Duration,
    /// `fail_on`: an agent that reports an error of one of these classes while the caller waits for an answer counts as
    /// failed.
    pub fail_on: Vec<FailureClass>,
    /// `client_may`: set-up fields that a client may set.
    pub client_may: ClientMay,
    /// `fallback_notice`: what the caller hears while another agent takes over, once in a call.
    pub fallback_notice: Option<Arc<Announcement>>,
    /// `when_down`: what the caller is left with when no agent can be reached; after the last step the call ends.
    pub when_down: Vec<DownStep>,
}

/// One step of what the caller is left with when no agent can be reached.
#[derive(Clone, Debug, PartialEq)]
pub enum DownStep {
    /// Says this, and goes on with the next step.
    Announce(Arc<Announcement>),
    /// Text only: this agent answers what is written, until one of the regular ones is back.
    Text(AgentName),
    /// What is written is kept for so long; an agent that is back answers it.
    Keep(Duration),
}

impl DownStep {
    /// The metric label, and the word in the call record.
    pub const fn label(&self) -> &'static str {
        match self {
            DownStep::Announce(_) => "clip",
            DownStep::Text(_) => "text",
            DownStep::Keep(_) => "keep",
        }
    }
}

/// How the caller interrupts the agent, beside what agent and client tell.
#[derive(Clone, Debug, PartialEq)]
pub struct BargeInPolicy {
    /// `relay`: the relay's own detection of voice interrupts the agent.
    pub relay: bool,
    /// `threshold`: score, 0 to 1, from which audio counts as voice.
    pub threshold: f32,
    /// `min_speech_ms`: so much voice is speech.
    pub min_speech: Duration,
    /// `silence_ms`: so much silence ends the caller's turn where the relay decides (`turns.detect = "relay"`).
    pub silence: Duration,
    /// `echo_guard_db`: what is further below the agent's audio at the caller's ear is taken for its echo; negative.
    pub echo_guard_db: i8,
    /// `warmup_ms`: in so much of the agent's first speech the relay's detection does not interrupt it.
    pub warmup: Duration,
    /// `reversible`: interruptions begin as a pause.
    pub reversible: Option<Reversible>,
}

/// When a pause becomes an interruption, and when it is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reversible {
    /// `confirm_ms`: the caller has spoken for so long.
    pub confirm: Duration,
    /// `resume_ms`: the caller has been silent for so long before that.
    pub resume: Duration,
}

impl Default for BargeInPolicy {
    fn default() -> Self {
        Self {
            relay: false,
            threshold: 0.7,
            min_speech: Duration::from_millis(96),
            silence: Duration::from_millis(600),
            echo_guard_db: -12,
            warmup: Duration::from_millis(1000),
            reversible: None,
        }
    }
}

impl Default for Reversible {
    fn default() -> Self {
        Self { confirm: Duration::from_millis(600), resume: Duration::from_millis(400) }
    }
}

/// What happens when neither side speaks.
#[derive(Clone, Debug, PartialEq)]
pub struct IdlePolicy {
    /// After so long; zero switches it off.
    pub after: Duration,
    /// What the caller hears then.
    pub prompt: Option<Arc<Announcement>>,
    /// From `ending` to the end.
    pub grace: Duration,
}

/// Set-up fields that a client may set; all refused by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientMay {
    /// `instructions`.
    pub instructions: bool,
    /// `voice`.
    pub voice: bool,
    /// `language`.
    pub language: bool,
    /// `tools`.
    pub tools: bool,
    /// `turns`.
    pub turns: bool,
    /// `model`.
    pub model: bool,
    /// `context`.
    pub context: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            gap: GapMode::Fast,
            gap_wait: Duration::from_millis(40),
            stall: Duration::from_millis(200),
            uplink_max: Duration::from_secs(5),
            preroll: Duration::from_millis(3000),
            send_ahead: Duration::from_millis(200),
            playout_max: Duration::from_secs(300),
            heard_wait: Duration::from_millis(250),
            client_dtx: false,
            client_bitrate: None,
            opus: OpusSettings::default(),
            speech_threshold_dbov: -45,
            speech_hangover: Duration::from_millis(300),
            barge_in: BargeInPolicy::default(),
            max: Duration::from_secs(3600),
            idle: IdlePolicy { after: Duration::from_secs(120), prompt: None, grace: Duration::from_secs(15) },
            resume_window: Duration::from_secs(30),
            agent_ready: Duration::from_secs(5),
            hedge: Duration::from_millis(1500),
            answer_within: Duration::ZERO,
            fail_on: vec![
                FailureClass::Unreachable,
                FailureClass::Timeout,
                FailureClass::Auth,
                FailureClass::Limit,
                FailureClass::Expired,
                FailureClass::Lost,
            ],
            client_may: ClientMay::default(),
            fallback_notice: None,
            when_down: Vec::new(),
        }
    }
}
