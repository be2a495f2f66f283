//! Sockets from clients: accept, TLS, HTTP, upgrade, admission.

pub mod accept;
pub mod admit;
mod agents;
mod assets;
mod authorize;
mod call;
mod connection;
mod credentials;
mod elsewhere;
mod gate;
mod http;
mod limits;
mod mint;
mod proxy;
pub mod quic;
pub mod webrtc;
mod websocket;
