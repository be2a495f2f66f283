//! Sockets to agents.

pub mod breaker;
pub mod dial;
mod fetch;
mod request;

pub use dial::Dialer;
pub use request::Exchange;
