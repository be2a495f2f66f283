//! Configuration: raw tables, checked settings, errors that name the line.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod settings;
