//! The neutral vocabulary: what a session says to and hears from its client and its agent.
//!
//! Every dialect and every agent protocol maps its wire onto these types; a session knows no other words. The control
//! messages serialise as `antiphon.v1` JSON (`docs/protocol.md`), because the native protocol *is* this vocabulary.

mod agent;
mod audio;
mod client;
mod code;
mod relay;
#[cfg(test)]
mod systems;
mod terms;
pub mod usage;

pub use agent::*;
pub use audio::*;
pub use client::*;
pub use code::*;
pub use relay::*;
pub use terms::*;
pub use usage::Usage;
