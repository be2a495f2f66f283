//! The last messages of a conversation.

use std::collections::VecDeque;

use serde_json::Value;

/// Longest text of one message, in bytes; the rest is cut off.
const MAX_TEXT: usize = 64 << 10;

/// The last messages, oldest first.
#[derive(Debug)]
pub(super) struct History {
    most: usize,
    messages: VecDeque<Value>,
}

impl History {
    /// An empty one that keeps `most` messages, and at least one.
    pub fn new(most: usize) -> History {
        History { most: most.max(1), messages: VecDeque::new() }
    }

    /// One more. The oldest go, and with a tool call its results: they would be refused without it.
    pub fn push(&mut self, mut message: Value) {
        if let Some(text) = message["content"].as_str().filter(|text| text.len() > MAX_TEXT) {
            message["content"] = text[..text.floor_char_boundary(MAX_TEXT)].into();
        }
        self.messages.push_back(message);
        while self.messages.len() > self.most || self.messages.front().is_some_and(|first| first["role"] == "tool") {
            self.messages.pop_front();
        }
    }

    /// All of them.
    pub fn messages(&self) -> impl Iterator<Item = &Value> {
        self.messages.iter()
    }
}
