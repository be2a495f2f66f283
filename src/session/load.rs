//! What sessions do without while their worker has more to do than it can.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::Duration;

/// The idle time of calls is divided by this while it is shortened.
const IDLE_DIVISOR: u32 = 4;

/// Set for all sessions of a worker by whoever watches its load; sessions look at it when they are about to spend.
#[derive(Debug)]
pub struct Load {
    max_complexity: AtomicU8,
    short_idle: AtomicBool,
    spare: AtomicBool,
}

impl Default for Load {
    fn default() -> Load {
        Load { max_complexity: AtomicU8::new(10), short_idle: AtomicBool::new(false), spare: AtomicBool::new(false) }
    }
}

impl Load {
    /// The highest complexity that Opus encoders may use, 0 to 10; what a route sets is not exceeded.
    pub fn max_complexity(&self) -> u8 {
        self.max_complexity.load(Relaxed)
    }

    /// Sets [`Load::max_complexity`].
    pub fn set_max_complexity(&self, complexity: u8) {
        self.max_complexity.store(complexity, Relaxed);
    }

    /// How much of `after` nobody may speak before the call counts as idle.
    pub fn idle_after(&self, after: Duration) -> Duration {
        if self.short_idle.load(Relaxed) { after / IDLE_DIVISOR } else { after }
    }

    /// When an idle time of `after` may be over at the earliest.
    pub fn earliest_idle(after: Duration) -> Duration {
        after / IDLE_DIVISOR
    }

    /// Sets whether the idle time is shortened.
    pub fn set_short_idle(&self, short: bool) {
        self.short_idle.store(short, Relaxed);
    }

    /// Whether what a call can do without is left out: interim transcripts and taps.
    pub fn spares_optional(&self) -> bool {
        self.spare.load(Relaxed)
    }

    /// Sets [`Load::spares_optional`].
    pub fn set_spares_optional(&self, spare: bool) {
        self.spare.store(spare, Relaxed);
    }
}
