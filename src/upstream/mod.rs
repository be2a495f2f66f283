//! Sockets to agents.

pub mod breaker;
pub mod dial;
mod fetch;

pub use dial::Dialer;
