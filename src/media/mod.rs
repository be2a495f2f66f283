//! Audio: formats, codecs, ordering and level; pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod announcement;
pub mod clip;
pub mod format;
pub mod g711;
pub mod level;
pub mod opus;
pub mod order;
pub mod packet;
pub mod pcm;
pub mod playout;
pub mod resample;
pub mod rtp;
pub mod transcode;
pub mod voice;

#[cfg(test)]
pub(crate) mod fixture;
