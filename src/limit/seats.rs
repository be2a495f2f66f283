//! One cell of a number at once: how many of its seats are taken here, and how many this node may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::key::Key;
use super::limiter::{Report, Shared};
use super::regime::Rule;
use super::table::Entry;
use crate::time::Micros;

/// A cell.
#[derive(Debug)]
pub struct Seats {
    key: Key,
    /// Taken on this node.
    used: AtomicU32,
    /// Held by this node: it may take so many without asking.
    held: AtomicU32,
    /// Whether its change waits to be told.
    told: AtomicBool,
}

impl Entry for Seats {
    fn new(key: Key) -> Seats {
        Seats { key, used: AtomicU32::new(0), held: AtomicU32::new(0), told: AtomicBool::new(true) }
    }

    fn key(&self) -> Key {
        self.key
    }

    fn is_spare(&self, _: Micros) -> bool {
        self.used.load(Relaxed) == 0 && self.held.load(Relaxed) == 0
    }

    fn weight(&self) -> u64 {
        u64::from(self.used.load(Relaxed))
    }
}

impl Seats {
    /// How many are taken here.
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// How many this node may take without asking.
    pub fn held(&self) -> u32 {
        self.held.load(Relaxed)
    }

    /// This node holds so many from now on.
    pub fn hold(&self, held: u32) {
        self.held.store(held, Relaxed);
    }

    /// The change that waited is told now.
    pub fn begin_telling(&self) {
        self.told.store(true, Relaxed);
    }

    /// Whether one of `most` could be taken now.
    pub(super) fn has_room(&self, most: u32, rule: Rule) -> bool {
        self.used() < self.room(most, rule)
    }

    fn room(&self, most: u32, rule: Rule) -> u32 {
        match rule {
            Rule::Alone => most,
            Rule::Leased => self.held().min(most),
            Rule::Share(nodes) => most.div_ceil(nodes).max(self.held()).min(most),
        }
    }

    /// Takes one of `most`.
    pub(super) fn take(self: &Arc<Self>, most: u32, rule: Rule, shared: &Arc<Shared>) -> Option<Seat> {
        let room = self.room(most, rule);
        self.used.fetch_update(Relaxed, Relaxed, |used| (used < room).then_some(used + 1)).ok()?;
        let seat = Seat { seats: self.clone(), most, shared: shared.clone() };
        seat.tell();
        Some(seat)
    }
}

/// One that was taken; it is given back when this is dropped.
#[derive(Debug)]
#[must_use = "it is given back when this is dropped"]
pub struct Seat {
    seats: Arc<Seats>,
    most: u32,
    shared: Arc<Shared>,
}

impl Seat {
    fn tell(&self) {
        if !self.shared.regime.is_alone() && self.seats.told.swap(false, Relaxed) {
            let report = Report::Seats { seats: self.seats.clone(), most: self.most };
            if !self.shared.report(report) {
                self.seats.told.store(true, Relaxed);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.used.fetch_sub(1, Relaxed);
        self.tell();
    }
}
