//! Sockets to agents.

pub mod breaker;
pub mod dial;
mod fetch;
mod token;

pub use dial::Dialer;
