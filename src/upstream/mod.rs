//! Sockets to agents.

pub mod breaker;
pub mod dial;
mod fetch;
mod request;
mod token;

pub use dial::Dialer;
pub use request::Exchange;
