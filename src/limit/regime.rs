//! By which rule this node decides at the moment: alone, on leases, or on its share.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::Micros;

/// When the control plane has not been heard for so long, leases count as gone: nobody would renew them.
const SILENCE: Duration = Duration::from_millis(250);

/// The rule in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This node is the only one: everything is its own.
    Alone,
    /// Leases are handed out.
    Leased,
    /// Nobody hands out leases: each of so many nodes has an equal share.
    Share(u32),
}

const ALONE: u32 = 0;
const LEASED: u32 = 1;
const SHARE: u32 = 2;

/// The rule of a process, written by the control plane and read with every decision.
#[derive(Debug, Default)]
pub struct Regime {
    rule: AtomicU32,
    nodes: AtomicU32,
    beat: AtomicU64,
}

impl Regime {
    /// Puts a rule in force; `nodes` share the limits when leases end.
    pub fn set(&self, leased: bool, nodes: u32, now: Micros) {
        self.nodes.store(nodes.max(1), Relaxed);
        self.beat.store(now.0, Relaxed);
        self.rule.store(if leased { LEASED } else { SHARE }, Relaxed);
    }

    /// The control plane lives.
    pub fn beat(&self, now: Micros) {
        self.beat.store(now.0, Relaxed);
    }

    /// Whether there is a cluster at all.
    pub fn is_alone(&self) -> bool {
        self.rule.load(Relaxed) == ALONE
    }

    /// How many nodes share the limits.
    pub fn nodes(&self) -> u32 {
        self.nodes.load(Relaxed).max(1)
    }

    /// The rule by which to decide.
    pub fn rule(&self, now: Micros) -> Rule {
        match self.rule.load(Relaxed) {
            ALONE => Rule::Alone,
            LEASED if now.since(Micros(self.beat.load(Relaxed))) < SILENCE => Rule::Leased,
            _ => Rule::Share(self.nodes()),
        }
    }
}
