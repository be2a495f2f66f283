//! Sockets to agents.

pub mod breaker;
pub mod dial;
mod fetch;
pub mod quic;
pub mod socket;
pub mod trust;

pub use dial::Dialer;
pub use socket::Socket;
