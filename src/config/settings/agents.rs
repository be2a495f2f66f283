//! Agents, checked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::config::vendor::VendorAgent;
use crate::ids::AgentName;
use crate::limit::Key;
use crate::media::announcement::Announcement;
use crate::media::format::Format;
use crate::message::Setup;

/// One agent, checked: `like` resolved, secrets fetched, files found.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// Its name.
    pub name: AgentName,
    /// What it is and what only that kind needs.
    pub kind: AgentKind,
    /// Its own set-up, before route, token, hook and client.
    pub setup: Setup,
    /// Merged verbatim into the vendor's first message.
    pub vendor: Value,
    /// Shown to clients.
    pub display: Value,
    /// Zone label.
    pub zone: Option<String>,
    /// Sessions of its account at most at once, over all nodes.
    pub max_sessions: Option<u32>,
    /// How long one of its sessions lasts at most: a fresh one takes over before. Where it is absent, what the kind of
    /// agent is known for ([`Capabilities::longest`](crate::agent::Capabilities::longest)).
    pub session_max: Option<Duration>,
    /// A WebSocket from which nothing came for so long is pinged; zero switches that off.
    pub ping: Duration,
    /// The operator's prices.
    pub price: Option<Price>,
}

impl AgentSettings {
    /// An agent of this kind named `jung`, with the defaults of the rest.
    #[cfg(test)]
    pub fn example(kind: AgentKind) -> AgentSettings {
        AgentSettings {
            name: "jung".into(),
            kind,
            setup: Setup::default(),
            vendor: Value::Null,
            display: Value::Null,
            zone: None,
            max_sessions: None,
            session_max: None,
            ping: Duration::ZERO,
            price: None,
        }
    }

    /// Whether the agent runs in this process: nobody is paid for it.
    pub fn runs_here(&self) -> bool {
        matches!(self.kind, AgentKind::Echo { .. } | AgentKind::Clip { .. } | AgentKind::Storyteller)
    }

    /// How late the agent speaks back what it hears, if that is all it does.
    pub fn announced_delay(&self) -> Option<Duration> {
        match self.kind {
            AgentKind::Echo { delay } => Some(delay),
            _ => None,
        }
    }

    /// Whose sessions [`AgentSettings::max_sessions`] counts: agents with the same server and the same key have one
    /// account.
    pub fn account(&self) -> Key {
        let secrets = |headers: &[(String, SecretString)], key: Option<&SecretString>| {
            let headers = headers.iter().map(|(name, value)| format!("{name}: {}", value.expose_secret()));
            headers.chain(key.map(|key| key.expose_secret().to_owned())).collect::<Vec<String>>().join("\n")
        };
        let (server, key) = match &self.kind {
            AgentKind::Websocket(agent) => (server(&agent.url), secrets(&agent.headers, None)),
            AgentKind::Vendor(agent) => (server(&agent.url), secrets(&agent.headers, agent.api_key.as_ref())),
            AgentKind::Quic(agent) => (server(&agent.url), String::new()),
            _ => (self.name.to_string(), String::new()),
        };
        Key::of("account", [("server", server.as_bytes()), ("key", key.as_bytes())])
    }
}

fn server(url: &url::Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// The operator's own prices: amount per unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// ISO 4217.
    pub currency: String,
    /// Price per unit (`minute`, `input_audio_tokens`, …).
    pub units: BTreeMap<String, f64>,
}

/// The kinds of agents that this build has.
#[derive(Clone, Debug)]
pub enum AgentKind {
    /// Speaks back what it hears.
    Echo {
        /// How late.
        delay: Duration,
    },
    /// Plays an audio file.
    Clip {
        /// What it plays.
        plays: Arc<Announcement>,
    },
    /// Tells an embedded story; stops while the caller speaks.
    Storyteller,
    /// `antiphon.v1` or plain audio over WebSocket.
    Websocket(WebsocketAgent),
    /// An agent of a vendor.
    Vendor(VendorAgent),
    /// `antiphon.v1` over QUIC.
    Quic(QuicAgent),
    /// A kind that the configuration knows and this build does not serve yet.
    NotBuilt {
        /// Its name.
        kind: String,
    },
}

/// An agent server reached by WebSocket.
#[derive(Clone, Debug)]
pub struct WebsocketAgent {
    /// `ws://` or `wss://`.
    pub url: url::Url,
    /// Sent on the upgrade request, values may be secret.
    pub headers: Vec<(String, SecretString)>,
    /// What is spoken on it.
    pub protocol: WebsocketProtocol,
    /// The format towards the agent.
    pub uplink: Format,
    /// The format from the agent.
    pub downlink: Format,
    /// Time for name, TCP, TLS and upgrade.
    pub connect_timeout: Duration,
    /// Certificates in PEM of authorities that are trusted beside the usual ones.
    pub authorities: Option<Arc<str>>,
}

/// An agent server, or another antiphon, reached by QUIC; it speaks `antiphon.v1`.
#[derive(Clone, Debug)]
pub struct QuicAgent {
    /// `quic://host:port`.
    pub url: url::Url,
    /// The format towards the agent.
    pub uplink: Format,
    /// The format from the agent.
    pub downlink: Format,
    /// Time for name, handshake and stream.
    pub connect_timeout: Duration,
    /// Certificates in PEM of authorities that are trusted beside the usual ones.
    pub authorities: Option<Arc<str>>,
    /// Sessions on one connection at most.
    pub sessions_per_connection: u32,
}

/// What is spoken on a `websocket` agent's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebsocketProtocol {
    /// `antiphon.v1`: full control.
    Native,
    /// Raw audio frames, both ways.
    Plain {
        /// Whether a JSON `start` goes first.
        start: bool,
    },
}

impl AgentKind {
    /// The `kind` of the configuration, and the metric label.
    pub fn label(&self) -> &str {
        match self {
            AgentKind::Echo { .. } => "echo",
            AgentKind::Clip { .. } => "clip",
            AgentKind::Storyteller => "storyteller",
            AgentKind::Websocket(_) => "websocket",
            AgentKind::Vendor(vendor) => vendor.kind.label(),
            AgentKind::Quic(_) => "quic",
            AgentKind::NotBuilt { kind } => kind,
        }
    }
}
