//! Virtual time: a scripted client and agent around a real session, over a seeded network, without a clock or a socket.

mod client;
mod network;
mod world;

pub use client::{Client, ClientKind};
pub use network::{Impairment, Network, Rng};
pub use world::{TapKind, TapLog, World, WorldBuilder};
