//! From a request to a plan.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod plan;
