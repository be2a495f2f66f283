//! Threads, tasks and clocks: what runs the pure parts.

pub mod admission;
pub mod certificate;
pub mod clock;
pub mod datagrams;
pub mod drain;
pub mod driver;
pub mod gate;
pub mod line;
pub mod node;
pub mod overload;
pub mod pacemaker;
pub mod peer;
pub mod pinned;
pub mod pulse;
pub mod quic;
pub mod registry;
pub mod sockets;
pub mod stream;
pub mod timer;
pub mod tls;
pub mod websocket;
pub mod worker;
