//! The tables of the configuration as they are written, before anything is checked. Every default number of a section
//! stands here, once.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::auth::RawAuth;
use crate::config::limits::{RawLimit, RawLimitSet};
use crate::config::overload::RawOverload;
use crate::config::quic::RawQuic;
use crate::config::raw_failover::{RawDownStep, RawFailOn};
use crate::config::raw_services::{RawHook, RawTool};
use crate::config::redis::RawRedis;
use crate::config::settings::{Elsewhere, LogFormat, ProxyForm};
use crate::config::shape::OneOrMany;
use crate::config::vendor::RawVendorAuth;
use crate::message::{Greeting, Turns};
use crate::route::plan::{OpusApplication, OpusBandwidth};
use crate::route::rule::{Sticky, TapSide, TapTells};
use crate::session::Transport;

/// A whole configuration.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    pub node: RawNode,
    pub listen: RawListen,
    pub http: RawHttp,
    pub runtime: RawRuntime,
    pub overload: RawOverload,
    pub log: RawLog,
    pub auth: RawAuth,
    pub webrtc: RawWebrtc,
    pub quic: RawQuic,
    pub redis: RawRedis,
    pub demo: RawDemo,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<RawRoute>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub agent: BTreeMap<String, RawAgent>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tool: BTreeMap<String, RawTool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limit: BTreeMap<String, RawLimit>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, RawLimitSet>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hook: BTreeMap<String, RawHook>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawNode {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub elsewhere: Elsewhere,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawListen {
    pub http: String,
    pub control: String,
    pub webrtc: String,
    pub webrtc_public: OneOrMany<String>,
    pub quic: String,
}

impl Default for RawListen {
    fn default() -> Self {
        Self {
            http: "127.0.0.1:8080".into(),
            control: "127.0.0.1:8081".into(),
            webrtc: "127.0.0.1:8082".into(),
            webrtc_public: OneOrMany::default(),
            quic: "127.0.0.1:8083".into(),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawHttp {
    pub origins: OneOrMany<String>,
    pub cors_max_age_s: u64,
    pub trusted_proxies: OneOrMany<String>,
    pub proxy_form: ProxyForm,
    pub handshake_ms: u64,
    pub start_ms: u64,
    pub keep_alive_s: u64,
    pub max_head_bytes: usize,
    pub max_headers: usize,
    pub max_body_bytes: usize,
    pub max_connections: u32,
    pub max_connections_per_address: u32,
    pub max_handshakes: u32,
    pub max_handshakes_per_address: u32,
    pub websocket: RawWebsocket,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawTls>,
}

impl Default for RawHttp {
    fn default() -> Self {
        Self {
            origins: OneOrMany(vec!["localhost".into()]),
            cors_max_age_s: 600,
            trusted_proxies: OneOrMany::default(),
            proxy_form: ProxyForm::default(),
            handshake_ms: 5000,
            start_ms: 5000,
            keep_alive_s: 75,
            max_head_bytes: 16_384,
            max_headers: 64,
            max_body_bytes: 98_304,
            max_connections: 10_000,
            max_connections_per_address: 1000,
            max_handshakes: 256,
            max_handshakes_per_address: 64,
            websocket: RawWebsocket::default(),
            tls: None,
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawWebsocket {
    pub max_message_bytes: usize,
    pub max_write_bytes: usize,
    pub ping_s: u64,
    pub pong_s: u64,
}

impl Default for RawWebsocket {
    fn default() -> Self {
        Self { max_message_bytes: 65_536, max_write_bytes: 262_144, ping_s: 15, pong_s: 10 }
    }
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTls {
    pub cert: Option<String>,
    pub key: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRuntime {
    pub workers: usize,
    pub max_sessions: u32,
    pub drain_s: u64,
    pub drain_spread_s: u64,
    pub playout_mb: u64,
    pub limit_keys: usize,
}

impl Default for RawRuntime {
    fn default() -> Self {
        Self { workers: 0, max_sessions: 1000, drain_s: 60, drain_spread_s: 10, playout_mb: 512, limit_keys: 1_000_000 }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawLog {
    pub format: LogFormat,
    pub level: String,
    pub call_record: String,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".into(), call_record: "log".into() }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawWebrtc {
    pub grace_s: u64,
    pub ice_servers: Vec<RawIceServer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

impl Default for RawWebrtc {
    fn default() -> Self {
        Self { grace_s: 15, ice_servers: Vec::new(), certificate: None }
    }
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawIceServer {
    pub urls: OneOrMany<String>,
    pub username: Option<String>,
    pub credential: Option<String>,
    pub secret: Option<String>,
    pub ttl_s: Option<u64>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawDemo {
    pub enabled: bool,
}

impl Default for RawDemo {
    fn default() -> Self {
        Self { enabled: true }
    }
}

// ---------------------------------------------------------------------------------------------------------- routes

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRoute {
    pub name: Option<String>,
    #[serde(rename = "match")]
    pub matches: RawMatch,
    pub sticky: Sticky,
    pub to: Option<RawTarget>,
    pub fallback: OneOrMany<String>,
    pub fallback_notice: Option<String>,
    pub when_down: Vec<RawDownStep>,
    pub zone: Option<String>,
    pub taps: Vec<RawTap>,
    pub audio: RawAudio,
    pub barge_in: RawBargeIn,
    pub limits: OneOrMany<String>,
    pub admit: Option<String>,
    pub client_may: Vec<ClientField>,
    pub max_s: Option<u64>,
    pub idle: RawIdle,
    pub slo: RawSlo,
    pub anonymous: bool,
    pub token_in_query: bool,
    pub resume_window_s: Option<u64>,
    pub agent_ready_ms: Option<u64>,
    pub hedge_ms: Option<u64>,
    pub answer_within_ms: Option<u64>,
    pub fail_on: Option<Vec<RawFailOn>>,
    pub setup: RawSetup,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawMatch {
    pub agent: OneOrMany<String>,
    #[schemars(with = "Vec<String>")]
    pub transport: OneOrMany<Transport>,
    pub tenant: OneOrMany<String>,
    pub claim: BTreeMap<String, Value>,
    pub header: BTreeMap<String, OneOrMany<String>>,
    pub path: OneOrMany<String>,
    pub host: OneOrMany<String>,
    pub origin: OneOrMany<String>,
    pub region: OneOrMany<String>,
    pub percent: Option<f64>,
}

/// `to`: one agent, several, or whatever the caller asks for.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawTarget {
    /// `"requested"`, or the name of an agent.
    Name(String),
    /// With weights.
    Choices(Vec<RawChoice>),
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawChoice {
    pub agent: Option<String>,
    pub weight: Option<u32>,
    pub label: Option<String>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTap {
    pub agent: Option<String>,
    pub percent: Option<f64>,
    pub hear: OneOrMany<TapSide>,
    pub tell: OneOrMany<TapTells>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawGap {
    Fast,
    Accurate,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAudio {
    pub gap: Option<RawGap>,
    pub gap_wait_ms: Option<u64>,
    pub stall_ms: Option<u64>,
    pub uplink_max_ms: Option<u64>,
    pub preroll_ms: Option<u64>,
    pub send_ahead_ms: Option<u64>,
    pub playout_max_s: Option<u64>,
    pub heard_wait_ms: Option<u64>,
    pub client_dtx: Option<bool>,
    pub client_bitrate: Option<u32>,
    pub opus: RawOpus,
    pub end_of_speech: RawEndOfSpeech,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawOpus {
    pub complexity: Option<u8>,
    pub bitrate: Option<u32>,
    #[schemars(with = "Option<String>")]
    pub application: Option<OpusApplication>,
    #[schemars(with = "Option<String>")]
    pub max_bandwidth: Option<OpusBandwidth>,
    pub fec: Option<bool>,
    pub dtx: Option<bool>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawEndOfSpeech {
    pub level_dbov: Option<i8>,
    pub hangover_ms: Option<u64>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawBargeIn {
    pub relay: Option<bool>,
    pub threshold: Option<f64>,
    pub min_speech_ms: Option<u64>,
    pub silence_ms: Option<u64>,
    pub echo_guard_db: Option<i8>,
    pub warmup_ms: Option<u64>,
    pub reversible: Option<bool>,
    pub confirm_ms: Option<u64>,
    pub resume_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientField {
    Instructions,
    Voice,
    Language,
    Tools,
    Turns,
    Model,
    Context,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawIdle {
    pub after_s: Option<u64>,
    pub prompt: Option<String>,
    pub grace_s: Option<u64>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawSlo {
    pub added_p99_ms: Option<u64>,
    pub first_audio_p95_ms: Option<u64>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawSetup {
    pub instructions: Option<String>,
    pub instructions_file: Option<String>,
    pub voice: Option<String>,
    pub language: Option<String>,
    pub model: Option<String>,
    pub greeting: Option<Greeting>,
    pub transcribe: Option<bool>,
    pub turns: Option<Turns>,
    pub tools: Option<Vec<String>>,
}

// ---------------------------------------------------------------------------------------------------------- agents

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAgent {
    pub kind: Option<String>,
    pub like: Option<String>,
    pub model: Option<String>,
    pub api_key: Option<String>,
    pub max_sessions: Option<u32>,
    pub session_max_s: Option<f64>,
    pub zone: Option<String>,
    pub display: Option<Value>,
    pub credential: BTreeMap<String, RawCredential>,
    pub setup: RawSetup,
    pub vendor: Option<Value>,
    pub price: BTreeMap<String, Value>,
    /// `echo`.
    pub delay_ms: Option<u64>,
    /// `websocket`, vendors.
    pub ping_s: Option<u64>,
    /// `clip`.
    pub file: Option<String>,
    /// `websocket`, vendors.
    pub url: Option<String>,
    /// Vendors.
    pub query: BTreeMap<String, String>,
    /// `websocket`, vendors.
    pub headers: BTreeMap<String, String>,
    /// Vendors.
    pub auth: Option<RawVendorAuth>,
    /// `elevenlabs`.
    pub agent_id: Option<String>,
    /// `chat`.
    pub history: Option<usize>,
    /// `websocket`, `pipecat`.
    pub protocol: Option<RawProtocol>,
    /// `websocket`, plain: whether a JSON `start` goes first.
    pub start: Option<bool>,
    /// `websocket`.
    pub audio_in: Option<String>,
    /// `websocket`.
    pub audio_out: Option<String>,
    /// `websocket`, `quic`.
    pub connect_timeout_ms: Option<u64>,
    /// `websocket`, `quic`.
    pub ca_file: Option<String>,
    /// `quic`.
    pub sessions_per_connection: Option<u32>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawProtocol {
    #[default]
    Native,
    Plain,
    Protobuf,
    Rtvi,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawCredential {
    pub api_key: Option<String>,
}
