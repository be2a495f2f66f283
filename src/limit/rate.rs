//! A rate as time: the generic cell rate algorithm (GCRA, ITU-T I.371 annex A).

use std::time::Duration;

/// So many units in a span, of which so many may come at once.
///
/// A unit costs the time in which one unit is earned; all arithmetic is on nanoseconds of that time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Nanoseconds in which one unit is earned.
    unit: f64,
    /// Nanoseconds in which everything that may come at once is earned.
    burst: u64,
    /// Nanoseconds in which a lease is earned.
    lease: u64,
}

/// A lease is at most this share of the amount.
const LEASE: f64 = 0.05;
/// Small limits: so many units, if they are free, even where that is more than [`LEASE`].
const FEW: f64 = 16.0;

impl Rate {
    /// `amount` units in `per`; `burst` of them at once.
    pub fn new(amount: f64, per: Duration, burst: f64) -> Rate {
        let unit = per.as_nanos() as f64 / amount;
        let few = FEW.min(burst);
        Rate { unit, burst: nanos(unit * burst), lease: nanos(unit * (amount * LEASE).min(burst).max(few)) }
    }

    /// What `units` cost, in nanoseconds; never nothing.
    pub fn cost(&self, units: f64) -> u64 {
        nanos(self.unit * units)
    }

    /// What one unit costs.
    pub fn unit(&self) -> u64 {
        nanos(self.unit)
    }

    /// What may come at once costs so much.
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// The most that a node may spend before it must have been counted by all.
    pub const fn lease(&self) -> u64 {
        self.lease
    }

    /// How many units `nanos` are.
    pub fn units(&self, nanos: u64) -> f64 {
        nanos as f64 / self.unit
    }
}

/// Rounded, and at least one.
fn nanos(value: f64) -> u64 {
    (value.round() as u64).max(1)
}
