//! Sockets from clients: accept, TLS, HTTP, upgrade, admission.

pub mod accept;
pub mod admit;
mod agents;
mod assets;
mod call;
mod connection;
mod gate;
mod http;
pub mod quic;
pub mod webrtc;
mod websocket;
