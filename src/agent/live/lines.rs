//! Fragments of what was said, put together into utterances: the wire tells no turns, only when each fragment was said.

use std::time::Duration;

use crate::ids::ItemId;
use crate::message::{AgentTranscript, Role};

/// A pause of this length ends what somebody says.
pub const PAUSE: Duration = Duration::from_millis(800);

/// What one side says.
#[derive(Debug)]
pub struct Lines {
    role: Role,
    count: u32,
    /// The present utterance; the last one, for fragments that come late.
    item: Option<ItemId>,
    open: bool,
    /// End of the last fragment on the session's own clock.
    end_ms: Option<u64>,
}

impl Lines {
    /// Nothing was said yet.
    pub fn new(role: Role) -> Lines {
        Lines { role, count: 0, item: None, open: false, end_ms: None }
    }

    /// The present utterance, if somebody is speaking.
    pub fn present(&self) -> Option<&ItemId> {
        self.item.as_ref().filter(|_| self.open)
    }

    /// A new utterance begins.
    pub fn begin(&mut self) -> ItemId {
        self.count += 1;
        let word = if self.role == Role::Agent { "answer" } else { "said" };
        let item = ItemId::from(format!("{word}-{}", self.count));
        (self.open, self.end_ms) = (true, None);
        self.item = Some(item.clone());
        item
    }

    /// Whether a fragment that was said from `start_ms` belongs to a new utterance.
    pub fn is_new(&self, start_ms: Option<u64>) -> bool {
        let (Some(end), Some(start)) = (self.end_ms, start_ms) else { return !self.open };
        self.item.is_none() || start >= end + PAUSE.as_millis() as u64
    }

    /// A fragment of the present utterance, or a late one of the last.
    pub fn piece(&mut self, text: &str, end_ms: Option<u64>) -> AgentTranscript {
        self.end_ms = end_ms.or(self.end_ms);
        let (text, is_final) = (text.to_owned(), !self.open);
        AgentTranscript { item: self.item.clone(), role: self.role, text, append: true, is_final }
    }

    /// The present utterance is over; its last line, if there was one.
    pub fn finish(&mut self) -> Option<AgentTranscript> {
        std::mem::take(&mut self.open).then(|| AgentTranscript {
            item: self.item.clone(),
            role: self.role,
            text: String::new(),
            append: true,
            is_final: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_between_fragments_ends_an_utterance_and_a_late_one_still_finds_it() {
        let mut lines = Lines::new(Role::User);
        assert!(lines.is_new(Some(100)) && lines.finish().is_none());
        assert_eq!(lines.begin().as_str(), "said-1");
        assert!(!lines.piece("Where is", Some(900)).is_final);
        assert!(!lines.is_new(Some(1_500)) && lines.is_new(Some(1_700)));
        assert!(lines.finish().is_some_and(|line| line.is_final && line.append));
        assert!(!lines.is_new(Some(1_000)), "it belongs to what is over");
        let late = lines.piece(" my order?", Some(1_400));
        assert!(late.is_final && late.item.is_some_and(|item| item.as_str() == "said-1"));
        assert!(lines.is_new(Some(2_300)));
    }
}
