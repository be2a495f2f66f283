//! `[quic]`, from raw to checked.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::checker::Checker;

/// As it is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawQuic {
    max_sessions_per_connection: u32,
    max_handshakes_per_address_s: u32,
    retry_above: u32,
    keep_alive_s: u64,
    idle_s: u64,
}

impl Default for RawQuic {
    fn default() -> Self {
        Self {
            max_sessions_per_connection: 64,
            max_handshakes_per_address_s: 50,
            retry_above: 100,
            keep_alive_s: 5,
            idle_s: 15,
        }
    }
}

/// `[quic]`: bounds of QUIC and WebTransport connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicSettings {
    /// Sessions on one connection; what a connection may hold in memory grows with it.
    pub max_sessions_per_connection: u32,
    /// Handshakes of one address in a second.
    pub max_handshakes_per_address_s: u32,
    /// With so many handshakes under way on a worker, clients prove their address first.
    pub retry_above: u32,
    /// A sign of life is sent after so long.
    pub keep_alive: Duration,
    /// A connection is lost when nothing comes for so long.
    pub idle: Duration,
}

/// Checks what the ranges of single keys do not say.
pub fn check(raw: &RawQuic, check: &mut Checker<'_>) -> QuicSettings {
    if raw.idle_s <= raw.keep_alive_s {
        let message = format!("a connection that is idle for {} s ends before it is kept alive", raw.idle_s);
        check.wrong(&["quic", "idle_s"], message, "make it at least three times `keep_alive_s`".to_owned());
    }
    QuicSettings {
        max_sessions_per_connection: raw.max_sessions_per_connection,
        max_handshakes_per_address_s: raw.max_handshakes_per_address_s,
        retry_above: raw.retry_above,
        keep_alive: Duration::from_secs(raw.keep_alive_s),
        idle: Duration::from_secs(raw.idle_s),
    }
}
