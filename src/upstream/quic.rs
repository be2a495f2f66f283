//! Agents over QUIC (ALPN `antiphon/1`): the sessions of one worker share a few connections
//! (`docs/protocol.md`, "QUIC and WebTransport").

mod connection;
mod inbox;
mod pool;
mod session;
#[cfg(test)]
mod tests;

pub use pool::Pool;
pub use session::QuicSession;
