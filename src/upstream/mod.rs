//! Sockets to agents.

pub mod breaker;
pub mod dial;
pub mod exchange;
mod fetch;
pub mod quic;
mod request;
pub mod socket;
mod token;
pub mod trust;

pub use dial::Dialer;
pub use request::Exchange;
pub use socket::Socket;
