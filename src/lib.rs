//! antiphon: a low-latency media relay daemon for voice AI.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod agent;
pub mod cli;
pub mod config;
pub mod dialect;
pub mod ids;
pub mod media;
pub mod message;
pub mod route;
pub mod session;
pub mod time;
