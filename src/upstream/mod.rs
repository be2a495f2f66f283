//! Sockets to agents.

pub mod dial;
mod fetch;

pub use dial::Dialer;
