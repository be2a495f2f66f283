//! QUIC and WebTransport under a driver: sockets of workers, connections, and links on them.

pub mod carrier;
pub mod congestion;
pub mod ids;
pub mod link;
pub mod socket;
pub mod udp;
