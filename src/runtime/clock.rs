//! The one clock of the process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::time::Micros;

/// Gives [`Micros`] from one monotonic origin, shared by all tasks of the process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// The present instant.
    pub fn now(&self) -> Micros {
        Micros(self.origin.elapsed().as_micros() as u64)
    }

    /// `at` on tokio's clock.
    pub fn instant(&self, at: Micros) -> Instant {
        self.origin + Duration::from_micros(at.0)
    }

    /// `instant` on this clock; never before its origin.
    pub fn at(&self, instant: std::time::Instant) -> Micros {
        Micros(instant.saturating_duration_since(self.origin.into_std()).as_micros() as u64)
    }

    /// When the kernel stamped something with `stamp` (time since the Unix epoch); at most a second ago, since either
    /// clock may be set.
    pub fn at_stamp(&self, stamp: Duration, now: Micros) -> Micros {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.before(wall.saturating_sub(stamp).min(Duration::from_secs(1)))
    }

    /// Unix time in seconds, `after` from now.
    pub fn unix_seconds(&self, after: Duration) -> u64 {
        (SystemTime::now() + after).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}
