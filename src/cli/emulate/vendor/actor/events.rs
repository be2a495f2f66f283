//! What an emulated vendor is told and what it says, for its kind to take from and put on its wire.

use std::time::Duration;

use bytes::Bytes;

use crate::media::format::Format;

/// What the client's message means.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// The formats are agreed; the conversation may begin, with a greeting or without.
    Begin {
        /// What it hears from now on.
        uplink: Format,
        /// What it speaks from now on.
        downlink: Format,
        /// Whether it speaks first.
        greet: bool,
        /// Whether it decides by itself when the caller speaks.
        listens: bool,
        /// Whether it stops then.
        yields: bool,
    },
    /// The caller's audio.
    Audio(Bytes),
    /// A text message of the user; `answer`: without being asked again.
    Text {
        /// What was written.
        text: String,
        /// Whether an answer follows by itself.
        answer: bool,
    },
    /// The client asks for an answer.
    Answer,
    /// The client wants the present answer to stop.
    Stop,
    /// The result of a tool call; `answer`: without being asked again.
    ToolResult {
        /// Of which call.
        call_id: String,
        /// What it gave.
        output: String,
        /// Whether an answer follows by itself.
        answer: bool,
    },
}

/// What the vendor says next, for a kind to put on its wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Says {
    /// It hears the caller speak.
    SpeechStarted {
        /// Position in the caller's audio.
        at: Duration,
        /// Whether an answer was being given, which has stopped.
        interrupts: bool,
    },
    /// The caller has stopped speaking.
    SpeechStopped {
        /// Position in the caller's audio.
        at: Duration,
    },
    /// What it understood.
    Understood {
        /// The text.
        text: String,
    },
    /// An answer begins.
    TurnStarted {
        /// Numbered from 1.
        turn: u32,
    },
    /// Some of an answer's text.
    Text {
        /// Of which answer.
        turn: u32,
        /// The piece.
        text: String,
    },
    /// Some of an answer's audio.
    Audio {
        /// Of which answer.
        turn: u32,
        /// Coded in the agreed format; with odd chunk sizes samples are split.
        payload: Bytes,
    },
    /// An answer is over.
    TurnEnded {
        /// Which.
        turn: u32,
        /// All of its text.
        text: String,
        /// What of its audio was sent.
        sent: Duration,
        /// Why it was broken off.
        cut: Option<Cut>,
    },
    /// It calls a tool; the result is waited for.
    ToolCall {
        /// This call.
        call_id: String,
        /// Which tool.
        name: String,
        /// JSON.
        arguments: String,
        /// The turn that consists of the call.
        turn: u32,
    },
    /// It no longer wants the result of a call.
    ToolCancelled {
        /// This call.
        call_id: String,
        /// Which tool.
        name: String,
    },
    /// An error that does not end the session.
    Error {
        /// In words.
        message: String,
    },
    /// The session will end in so long.
    GoAway {
        /// How long.
        left: Duration,
    },
    /// The session has become too old; the server closes after this.
    Expired,
    /// Nothing is read or written for so long.
    Stall(Duration),
    /// The server closes.
    Close(u16),
}

/// Why an answer was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The caller began to speak.
    Speech,
    /// The client asked for it.
    Client,
}
