//! The checked configuration.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::config::auth::AuthSettings;
pub use crate::config::limits::{LimitKey, LimitSettings, LimitUnit, OnReach};
use crate::config::network::{Network, OriginRule};
pub use crate::config::overload::OverloadSettings;
pub use crate::config::quic::QuicSettings;
pub use crate::config::redis::{RedisMode, RedisSettings};
use crate::ids::AgentName;
use crate::media::announcement::Announcement;
use crate::route::rule::Rule;

mod agents;
pub use agents::{AgentKind, AgentSettings, Price, QuicAgent, WebsocketAgent, WebsocketProtocol};

/// Everything that the files, the environment and the built-in defaults say, checked: names resolve, numbers are in
/// range, secrets are fetched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `[node]`.
    pub node: NodeSettings,
    /// `[listen]`.
    pub listen: ListenSettings,
    /// `[http]`.
    pub http: HttpSettings,
    /// `[runtime]`.
    pub runtime: RuntimeSettings,
    /// `[overload]`.
    pub overload: OverloadSettings,
    /// `[log]`.
    pub log: LogSettings,
    /// `[auth]`.
    pub auth: AuthSettings,
    /// `[webrtc]`.
    pub webrtc: WebrtcSettings,
    /// `[quic]`.
    pub quic: QuicSettings,
    /// `[redis]`.
    pub redis: RedisSettings,
    /// `[demo]`.
    pub demo: DemoSettings,
    /// `[[route]]`, in the order in which they are tried. Never empty.
    pub routes: Vec<Arc<Rule>>,
    /// `[agent.NAME]` and the built-in agents that are on.
    pub agents: BTreeMap<AgentName, Arc<AgentSettings>>,
    /// `[agent.NAME.credential.TENANT]`: the agent as a tenant sees it, with that tenant's key.
    pub credentials: BTreeMap<AgentName, BTreeMap<String, Arc<AgentSettings>>>,
    /// The agents that hold a secret.
    pub secretive: std::collections::BTreeSet<AgentName>,
    /// `[tool.NAME]`.
    pub tools: BTreeMap<String, ToolSettings>,
    /// `[limit.NAME]`.
    pub limits: BTreeMap<String, LimitSettings>,
    /// `[limits.NAME]`: sets of limits.
    pub limit_sets: BTreeMap<String, Vec<String>>,
    /// `[hook.NAME]`.
    pub hooks: BTreeMap<String, HookSettings>,
    /// Built-in agents that are off, each with what would switch it on.
    pub off: Vec<(AgentName, String)>,
    /// Keys that are set but that this build does not act on.
    pub inert: Vec<Inert>,
}

/// A key that this build parses and checks, and does not act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inert {
    /// Where it is set: `file:line:column`, or a variable.
    pub place: String,
    /// The key, like `route.jung.taps`.
    pub key: String,
}

/// `[node]`: this process among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Its name in logs and metrics; the host name if absent.
    pub name: Option<String>,
    /// Where it stands; routes can match it.
    pub region: Option<String>,
    /// The agent of callers that name none, where no route says otherwise.
    pub default_agent: AgentName,
    /// How clients and other nodes reach this one, and not another behind the same name: the base of its HTTP URLs.
    pub url: Option<url::Url>,
    /// What happens to a link for a session that another node has.
    pub elsewhere: Elsewhere,
}

/// What happens to a link for a session that another node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Elsewhere {
    /// The client is told where to connect.
    #[default]
    Redirect,
    /// What the client says is handed on to that node, and its answers back.
    Forward,
}

/// `[listen]`: addresses; port 0 takes any free port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    /// HTTP and WebSocket (TCP).
    pub http: SocketAddr,
    /// Health, metrics, admin (TCP).
    pub control: SocketAddr,
    /// WebRTC (UDP and TCP); `None` is off.
    pub webrtc: Option<SocketAddr>,
    /// Addresses that WebRTC clients are told; empty: the bound one.
    pub webrtc_public: Vec<IpAddr>,
    /// QUIC and WebTransport (UDP); `None` is off.
    pub quic: Option<SocketAddr>,
}

/// `[http]`: deadlines, caps and origins of the HTTP plane.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSettings {
    /// Certificate and key; `None` serves plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Web pages that may connect: the Origin allow-list of WebSocket and CORS. A request without `Origin` is no page.
    pub origins: Vec<OriginRule>,
    /// How long browsers may keep a CORS answer.
    pub cors_max_age: Duration,
    /// Peers who are believed about whom they speak for.
    pub trusted_proxies: Vec<Network>,
    /// How they say it.
    pub proxy_form: ProxyForm,
    /// From accept to the end of the TLS handshake and the request head.
    pub handshake: Duration,
    /// From the WebSocket upgrade to `start`.
    pub start: Duration,
    /// How long an idle keep-alive connection stays.
    pub keep_alive: Duration,
    /// Bytes of a request head.
    pub max_head_bytes: usize,
    /// Headers of a request.
    pub max_headers: usize,
    /// Bytes of a request body.
    pub max_body_bytes: usize,
    /// Connections on the HTTP listener.
    pub max_connections: u32,
    /// Connections from one address.
    pub max_connections_per_address: u32,
    /// Handshakes at once, per worker.
    pub max_handshakes: u32,
    /// Handshakes at once from one address, and WebRTC answers to it that wait for their peer.
    pub max_handshakes_per_address: u32,
    /// Limits of WebSocket links.
    pub websocket: WebsocketLimits,
}

/// How a proxy says for whom it speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyForm {
    /// By the header `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// By the header `Forwarded` (RFC 7239).
    Forwarded,
    /// By the PROXY protocol, version 2, with which each of its connections begins.
    Proxy,
}

/// `[http.websocket]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebsocketLimits {
    /// Bytes of one message from a client.
    pub max_message_bytes: usize,
    /// Bytes of control messages waiting to be written; beyond them the link is ended.
    pub max_write_bytes: usize,
    /// Ping after so long without anything from the client.
    pub ping: Duration,
    /// The link is lost when nothing comes for so long after a ping.
    pub pong: Duration,
}

/// `[http.tls]`: PEM files, reloaded on SIGHUP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// `[runtime]`: workers and the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// Data-plane threads; 0 is one per core.
    pub workers: usize,
    /// Sessions on this node.
    pub max_sessions: u32,
    /// How long SIGTERM waits for sessions to end.
    pub drain: Duration,
    /// Over which time draining clients are spread when they are told to reconnect.
    pub drain_spread: Duration,
    /// Agent audio kept for all sessions together, in bytes.
    pub playout_bytes: u64,
    /// Cells of limits that are kept, of either kind; those in use do not count.
    pub limit_keys: usize,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// How lines look and where they go.
    pub format: LogFormat,
    /// Filter directives as in `info,antiphon=debug`.
    pub level: String,
    /// Where the line about each finished call goes: `log`, or the path of a file.
    pub call_record: String,
}

/// Log formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// The journal under systemd, else text.
    #[default]
    Auto,
    /// Lines for people, on standard error.
    Text,
    /// JSON lines, on standard error.
    Json,
    /// The systemd journal.
    Journald,
}

/// `[webrtc]`.
#[derive(Clone, Debug)]
pub struct WebrtcSettings {
    /// How long a peer may be silent before its link counts as lost; ICE restarts and changes of network are waited for
    /// so long.
    pub grace: Duration,
    /// Given to clients.
    pub ice_servers: Vec<IceServer>,
    /// Where the DTLS certificate is kept, so that clients that pinned it meet it again after a restart; made there if
    /// the file is missing. Without it each start makes a new one.
    pub certificate: Option<PathBuf>,
}

/// A STUN or TURN server for clients.
#[derive(Clone, Debug)]
pub struct IceServer {
    /// `stun:` or `turn:` URLs.
    pub urls: Vec<String>,
    /// TURN user.
    pub username: Option<String>,
    /// TURN password.
    pub credential: Option<SecretString>,
    /// Shared secret with the TURN server: each call gets credentials of its own that expire.
    pub secret: Option<SecretString>,
    /// How long those are valid.
    pub ttl: Duration,
}

/// `[demo]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoSettings {
    /// Whether the demo page is served.
    pub enabled: bool,
}

/// `[tool.NAME]`.
#[derive(Clone, Debug)]
pub struct ToolSettings {
    /// For the model.
    pub description: String,
    /// JSON Schema of the arguments.
    pub parameters: Value,
    /// Where it runs.
    pub run: ToolRun,
    /// What is played while it runs.
    pub filler: Option<Filler>,
}

/// Where a tool runs.
#[derive(Clone, Debug)]
pub enum ToolRun {
    /// At the client.
    Client {
        /// How long its answer is waited for.
        timeout: Duration,
    },
    /// By signed HTTP POST.
    Http {
        /// Where.
        url: url::Url,
        /// Signs the request.
        secret: Option<SecretString>,
        /// How long its answer is waited for.
        timeout: Duration,
    },
}

/// What the caller hears when a tool takes long.
#[derive(Clone, Debug, PartialEq)]
pub struct Filler {
    /// Played once.
    pub clip: Arc<Announcement>,
    /// After so long.
    pub after: Duration,
}

/// `[hook.NAME]`: asked before a call is admitted.
#[derive(Clone, Debug)]
pub struct HookSettings {
    /// Where.
    pub url: url::Url,
    /// Signs the request.
    pub secret: Option<SecretString>,
    /// How long its answer is waited for.
    pub timeout: Duration,
    /// What happens when it fails.
    pub on_error: OnError,
    /// How long an answer is used again.
    pub cache: Duration,
}

/// What happens when a hook fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The call is refused.
    #[default]
    Refuse,
    /// The call goes on without its answer.
    Continue,
}

impl Default for Settings {
    /// What `antiphon run` does without a file and without variables: the built-in agents, each reachable by name from
    /// this machine.
    fn default() -> Self {
        crate::config::built_in()
    }
}

impl Settings {
    /// An agent by name.
    pub fn agent(&self, name: &str) -> Option<&Arc<AgentSettings>> {
        self.agents.get(&AgentName::from(name))
    }
}
