//! The agent's turns, and where on the link their audio began.

use std::collections::VecDeque;

use crate::ids::{ItemId, TurnId};

/// Turns that are remembered, so that a late figure still finds its turn.
const REMEMBERED: usize = 16;

/// The latest turns of an agent server.
#[derive(Debug, Default)]
pub(super) struct TurnLog {
    turns: VecDeque<Known>,
    /// Whether the last one is still going on.
    open: bool,
}

#[derive(Debug)]
struct Known {
    /// The server's own number; `None` if its audio came without `turn`.
    id: Option<TurnId>,
    item: Option<ItemId>,
    /// Position on the link at which its audio began.
    start: u64,
    /// Position up to which the caller heard it, once the session has told.
    cut: Option<u32>,
}

impl TurnLog {
    /// `turn start` came; whether it is new and not the repetition after a gap.
    pub(super) fn start(&mut self, id: TurnId, item: Option<ItemId>, received: u64) -> bool {
        let known = self.turns.back().is_some_and(|last| last.id == Some(id) && id != TurnId(0));
        if known {
            self.open = true;
            return false;
        }
        self.push(Some(id).filter(|&id| id != TurnId(0)), item, received);
        true
    }

    /// `turn end` came; whether that turn was going on.
    pub(super) fn end(&mut self, id: TurnId) -> bool {
        let meant = self.turns.back().is_some_and(|last| id == TurnId(0) || last.id.is_none_or(|known| known == id));
        meant && std::mem::replace(&mut self.open, false)
    }

    /// The present turn was cut off by the agent itself.
    pub(super) fn interrupt(&mut self) {
        self.open = false;
    }

    /// A frame came at this position; the item that it belongs to. Audio outside of a turn begins one.
    pub(super) fn audio(&mut self, received: u64) -> Option<ItemId> {
        if !self.open {
            self.push(None, None, received);
        }
        self.turns.back().and_then(|last| last.item.clone())
    }

    /// The number of the latest turn.
    pub(super) fn current(&self) -> Option<TurnId> {
        self.turns.back().and_then(|last| last.id)
    }

    /// Notes how much of an item (of the latest turn, without one) was heard, in ticks; its turn's number and the
    /// position on the link. `None` if the turn is not known.
    pub(super) fn cut(&mut self, item: Option<&ItemId>, heard: u64) -> Option<(Option<TurnId>, u32)> {
        let turn = self.turns.iter_mut().rev().find(|turn| item.is_none() || turn.item.as_ref() == item)?;
        let pos = (turn.start + heard) as u32;
        turn.cut = Some(pos);
        Some((turn.id, pos))
    }

    /// What [`TurnLog::cut`] noted for this turn (the latest, without a number).
    pub(super) fn cut_of(&self, id: Option<TurnId>) -> Option<u32> {
        self.turns.iter().rev().find(|turn| id.is_none() || turn.id == id).and_then(|turn| turn.cut)
    }

    fn push(&mut self, id: Option<TurnId>, item: Option<ItemId>, start: u64) {
        if self.turns.len() == REMEMBERED {
            self.turns.pop_front();
        }
        self.turns.push_back(Known { id, item, start, cut: None });
        self.open = true;
    }
}
