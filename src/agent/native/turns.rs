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
    /// The server's item, or one made here for a numbered turn, so that its text and late audio find it.
    item: Option<ItemId>,
    /// Whether `item` was made here, and the server's item whose text it has taken over.
    made: bool,
    text: Option<ItemId>,
    /// Whether the server has flushed it.
    flushed: bool,
    /// Position on the link at which its audio began.
    start: u64,
    /// Position up to which the caller heard it, once the session has told.
    cut: Option<u64>,
}

impl TurnLog {
    /// `turn start` came; the item of the turn, if it is new and not the repetition after a gap.
    pub(super) fn start(&mut self, id: TurnId, item: Option<ItemId>, received: u64) -> Option<Option<ItemId>> {
        let id = Some(id).filter(|&id| id != TurnId(0));
        let again = self.turns.back().is_some_and(|last| id.is_some() && last.id == id);
        if again && self.turns.back().is_some_and(|last| !last.flushed) {
            self.open = true;
            return None;
        }
        // An answer that goes on after a flush is a new one here: audio of a flushed item is never played.
        let item = item.filter(|_| !again);
        let made = item.is_none() && !again && id.is_some();
        let item = item.or_else(|| id.filter(|_| made).map(|id| ItemId::from(format!("turn-{id}"))));
        self.push(Known { id, item: item.clone(), made, start: received, text: None, cut: None, flushed: false });
        Some(item)
    }

    /// `turn end` came; whether that turn was going on.
    pub(super) fn end(&mut self, id: TurnId) -> bool {
        let meant = self.turns.back().is_some_and(|last| id == TurnId(0) || last.id.is_none_or(|known| known == id));
        meant && std::mem::replace(&mut self.open, false)
    }

    /// The server has flushed its present turn.
    pub(super) fn flush(&mut self) {
        self.open = false;
        if let Some(last) = self.turns.back_mut() {
            last.flushed = true;
        }
    }

    /// The item under which the text of the server's `item` belongs to this turn.
    pub(super) fn item_of_text(&mut self, id: TurnId, item: Option<ItemId>) -> Option<ItemId> {
        let Some(turn) = self.turns.iter_mut().rev().find(|turn| turn.made && turn.id == Some(id)) else { return item };
        if turn.text.is_none() {
            turn.text = item.clone();
        }
        if turn.text == item { turn.item.clone() } else { item }
    }

    /// A frame came at this position; the item that it belongs to. Audio outside of a turn begins one.
    pub(super) fn audio(&mut self, received: u64) -> Option<ItemId> {
        if !self.open {
            let start = received;
            self.push(Known { id: None, item: None, made: false, start, text: None, cut: None, flushed: false });
        }
        self.turns.back().and_then(|last| last.item.clone())
    }

    /// Whether a turn is going on.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// The number of the latest turn.
    pub(super) fn current(&self) -> Option<TurnId> {
        self.turns.back().and_then(|last| last.id)
    }

    /// Notes how much of an item (of the latest turn, without one) was heard, in ticks; its turn's number and the
    /// position on the link. `None` if the turn is not known.
    pub(super) fn cut(&mut self, item: Option<&ItemId>, heard: u64) -> Option<(Option<TurnId>, u64)> {
        let turn = self.turns.iter_mut().rev().find(|turn| item.is_none() || turn.item.as_ref() == item)?;
        let pos = turn.start + heard;
        turn.cut = Some(pos);
        Some((turn.id, pos))
    }

    /// What [`TurnLog::cut`] noted for this turn (the latest, without a number).
    pub(super) fn cut_of(&self, id: Option<TurnId>) -> Option<u64> {
        self.turns.iter().rev().find(|turn| id.is_none() || turn.id == id).and_then(|turn| turn.cut)
    }

    fn push(&mut self, turn: Known) {
        if self.turns.len() == REMEMBERED {
            self.turns.pop_front();
        }
        self.turns.push_back(turn);
        self.open = true;
    }
}
