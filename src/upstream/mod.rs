//! Sockets to agents.

pub mod dial;
mod fetch;
mod request;

pub use dial::Dialer;
pub use request::Exchange;
