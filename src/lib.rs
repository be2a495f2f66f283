//! antiphon: a low-latency media relay daemon for voice AI.
#![doc = ""]
#![doc = include_str!("../docs/architecture.md")]
#![doc = ""]
#![doc = include_str!("../docs/queues.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod agent;
pub mod app;
pub mod auth;
pub mod backoff;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod dialect;
pub mod ids;
pub mod ingress;
pub mod limit;
pub mod media;
pub mod message;
pub mod route;
pub mod runtime;
pub mod session;
pub mod telemetry;
#[cfg(test)]
pub mod testkit;
pub mod time;
pub mod upstream;

// What the fuzz targets do with their input is compiled and played here, so that it does not rot.
#[cfg(test)]
extern crate self as antiphon;
#[cfg(test)]
#[path = "../fuzz/src/lib.rs"]
mod fuzzed;
