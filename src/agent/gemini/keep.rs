//! What is kept over the change of a connection: the caller's audio, and what was said.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::ItemId;
use crate::media::format::Format;
use crate::message::{AgentAudioOut, AgentTranscript, ContextItem};

/// The caller's audio that is kept while there is no connection; the oldest is dropped.
pub(super) const MOST: Duration = Duration::from_secs(3);
/// What is kept of it between the caller's turns: voice is found only after it has begun.
pub(super) const ONSET: Duration = Duration::from_millis(600);
/// Utterances that are kept; the oldest are forgotten.
const MAX_ITEMS: usize = 40;
/// Longest text of one of them, in bytes.
const MAX_TEXT: usize = 4096;

/// The caller's audio that is not wanted yet.
#[derive(Debug)]
pub(super) struct Kept {
    most: Duration,
    frames: VecDeque<AgentAudioOut>,
    ticks: u64,
}

impl Kept {
    /// Nothing yet, and at most this.
    pub fn new(most: Duration) -> Kept {
        Kept { most, frames: VecDeque::new(), ticks: 0 }
    }

    /// Keeps a frame; how much was dropped for it.
    pub fn push(&mut self, frame: AgentAudioOut) -> Duration {
        let format: Format = super::UPLINK;
        let mut dropped = Duration::ZERO;
        self.ticks += u64::from(frame.ticks);
        self.frames.push_back(frame);
        while self.ticks > format.time_to_ticks(self.most) {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.ticks -= u64::from(oldest.ticks);
            dropped += format.ticks_to_time(u64::from(oldest.ticks));
        }
        dropped
    }

    /// The oldest frame.
    pub fn pop(&mut self) -> Option<AgentAudioOut> {
        let frame = self.frames.pop_front()?;
        self.ticks -= u64::from(frame.ticks);
        Some(frame)
    }
}

/// What was said in this conversation.
#[derive(Debug, Default)]
pub(super) struct Memory {
    items: VecDeque<(Option<ItemId>, ContextItem)>,
}

impl Memory {
    /// A line came.
    pub fn note(&mut self, line: &AgentTranscript) {
        let known = self.items.iter_mut().rev().find(|(item, of)| *item == line.item && of.role == line.role);
        let text = match known {
            Some((_, said)) => {
                if !line.append {
                    said.text.clear();
                }
                &mut said.text
            }
            None => {
                if self.items.len() == MAX_ITEMS {
                    self.items.pop_front();
                }
                let said = ContextItem { role: line.role, text: String::new() };
                self.items.push_back((line.item.clone(), said));
                match self.items.back_mut() {
                    Some((_, said)) => &mut said.text,
                    None => return,
                }
            }
        };
        if text.len() + line.text.len() <= MAX_TEXT {
            text.push_str(&line.text);
        }
    }

    /// All of it, oldest first.
    pub fn take(&mut self) -> impl Iterator<Item = ContextItem> + '_ {
        self.items.drain(..).map(|(_, said)| said).filter(|said| !said.text.is_empty())
    }
}
