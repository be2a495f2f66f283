//! Dialects: pure translations between what clients speak and the neutral vocabulary.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod native;
pub mod openai;

use crate::agent::Wire;
use crate::ids::Seq;
use crate::message::{AudioOut, Error, FromClient, Start, ToClient};
use crate::time::Micros;

/// What a client's frame means.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "moved once")]
pub enum Heard {
    /// The first message.
    Start(Start),
    /// A message to the session.
    Message(FromClient),
    /// A message type or field of a newer peer: counted, otherwise ignored.
    Unknown(String),
    /// Not understood; to be told to the client. `fatal` ends the link.
    Malformed {
        /// What to tell.
        error: Error,
        /// Whether the link ends.
        fatal: bool,
    },
}

/// A client's language on one link, sans-IO.
pub trait Dialect: Send {
    /// Takes one frame apart.
    fn handle_wire(&mut self, wire: Wire, now: Micros) -> Option<Heard>;

    /// Puts one message on the wire; `None` if this dialect has no word for it. `seq` is `None` for messages that are
    /// not kept for a resume (audio, pong, stats).
    fn encode(&mut self, seq: Option<Seq>, message: &ToClient) -> Option<Wire>;

    /// An audio frame goes to the client on a carriage of its own, beside this dialect's frames.
    fn on_audio(&mut self, audio: &AudioOut) {
        let _ = audio;
    }

    /// A further frame of what was encoded last, or the dialect's own answer to a frame of the client; asked for until
    /// there is none.
    fn take_wire(&mut self) -> Option<Wire> {
        None
    }

    /// What else a frame of the client means; asked for until there is nothing more.
    fn take_heard(&mut self) -> Option<Heard> {
        None
    }

    /// Whether its clients can come back to their session when a link is lost; else the session ends with the link.
    fn can_resume(&self) -> bool {
        true
    }

    /// Whether `start` was said, or need not be.
    fn is_started(&self) -> bool {
        true
    }

    /// The `start` of a client that need not say anything first, where there are such clients.
    fn start_unasked(&mut self) -> Option<Start> {
        None
    }

    /// How many unknown fields were ignored in otherwise understood messages since the last call.
    fn take_ignored_fields(&mut self) -> u32 {
        0
    }
}
