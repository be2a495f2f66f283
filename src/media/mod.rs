//! Audio: formats, codecs, ordering and level; pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod format;
pub mod order;
pub mod transcode;
