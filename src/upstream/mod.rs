//! Sockets to agents.

pub mod dial;
pub mod quic;
pub mod socket;
pub mod trust;

pub use dial::Dialer;
pub use socket::Socket;
