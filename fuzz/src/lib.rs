//! What the fuzz targets of agents, of the native protocol and of the OpenAI wire do with their input; the crate's own
//! tests run it, too, so that it goes on to compile.

pub mod agents;
pub mod audio;
pub mod frames;
pub mod native;
pub mod realtime;

#[cfg(test)]
mod seeds;
