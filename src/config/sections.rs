//! The plain sections, from raw to checked.

use std::time::Duration;

use crate::config::raw::{RawAuth, RawHttp, RawListen, RawLog, RawNode, RawRuntime};
use crate::config::settings::{
    AuthSettings, HttpSettings, ListenSettings, LogSettings, NodeSettings, RuntimeSettings, WebsocketLimits,
};
use crate::ids::AgentName;

pub fn node(raw: &RawNode, default_agent: &AgentName) -> NodeSettings {
    NodeSettings { name: raw.name.clone(), region: raw.region.clone(), default_agent: default_agent.clone() }
}
pub fn listen(raw: &RawListen) -> ListenSettings {
    let address = |text: &str| text.parse().unwrap_or_else(|_| std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    ListenSettings {
        http: address(&raw.http),
        control: address(&raw.control),
        webrtc: Some(address(&raw.webrtc)),
        webrtc_public: Vec::new(),
        quic: Some(address(&raw.quic)),
    }
}
pub fn http(raw: &RawHttp) -> HttpSettings {
    let ms = Duration::from_millis;
    let s = Duration::from_secs;
    HttpSettings {
        tls: None,
        origins: raw.origins.0.iter().filter_map(|text| text.parse().ok()).collect(),
        cors_max_age: s(raw.cors_max_age_s),
        trusted_proxies: raw.trusted_proxies.0.iter().filter_map(|text| text.parse().ok()).collect(),
        handshake: ms(raw.handshake_ms),
        start: ms(raw.start_ms),
        keep_alive: s(raw.keep_alive_s),
        max_head_bytes: raw.max_head_bytes,
        max_headers: raw.max_headers,
        max_body_bytes: raw.max_body_bytes,
        max_connections: raw.max_connections,
        max_connections_per_address: raw.max_connections_per_address,
        max_handshakes: raw.max_handshakes,
        websocket: WebsocketLimits {
            max_message_bytes: raw.websocket.max_message_bytes,
            max_write_bytes: raw.websocket.max_write_bytes,
            ping: s(raw.websocket.ping_s),
            pong: s(raw.websocket.pong_s),
        },
    }
}
pub fn runtime(raw: &RawRuntime) -> RuntimeSettings {
    RuntimeSettings {
        workers: raw.workers,
        max_sessions: raw.max_sessions,
        drain: Duration::from_secs(raw.drain_s),
        drain_spread: Duration::from_secs(raw.drain_spread_s),
        playout_bytes: raw.playout_mb << 20,
    }
}
pub fn log(raw: &RawLog) -> LogSettings {
    LogSettings { format: raw.format, level: raw.level.clone() }
}
pub fn auth(raw: &RawAuth) -> AuthSettings {
    AuthSettings { user_claim: raw.claims.user.clone(), tenant_claim: raw.claims.tenant.clone() }
}
