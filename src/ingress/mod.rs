//! Sockets from clients: accept, TLS, HTTP, upgrade, admission.

pub mod accept;
pub mod admit;
mod agents;
mod assets;
mod connection;
mod gate;
mod http;
mod websocket;
