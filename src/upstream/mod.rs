//! Sockets to agents.

pub mod dial;

pub use dial::Dialer;
