//! How late a worker looks at its sockets: what a time stamp taken at `recv()` cannot see.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::Micros;

/// A park that was shorter than this found its events already waiting.
const WAITED: Duration = Duration::from_micros(20);

/// The rhythm of one worker thread, written by it and read by its sessions and by the health check.
///
/// TCP has no receive stamp of the kernel. Bytes that were waiting when the worker looked had arrived at some time while
/// it was busy before: the delay is spread evenly over that busy time, plus what has passed since the look.
#[derive(Debug)]
pub struct Pulse {
    parked_at: AtomicU64,
    looked_at: AtomicU64,
    busy_before: AtomicU64,
    spread: AtomicU64,
    beat_at: AtomicU64,
    /// In microseconds, plus one; 0: none.
    lag: AtomicU64,
}

impl Pulse {
    /// A pulse that begins `now`.
    pub fn new(now: Micros) -> Pulse {
        Pulse {
            parked_at: AtomicU64::new(now.0),
            looked_at: AtomicU64::new(now.0),
            busy_before: AtomicU64::new(0),
            spread: AtomicU64::new(0),
            beat_at: AtomicU64::new(now.0),
            lag: AtomicU64::new(0),
        }
    }

    /// The worker is about to wait for events.
    pub fn on_park(&self, now: Micros) {
        self.parked_at.store(now.0, Relaxed);
    }

    /// The worker has looked for events.
    pub fn on_unpark(&self, now: Micros) {
        let parked = Micros(self.parked_at.load(Relaxed));
        let busy = if now - parked < WAITED { parked - Micros(self.looked_at.load(Relaxed)) } else { Duration::ZERO };
        self.busy_before.store(busy.as_micros() as u64, Relaxed);
        self.looked_at.store(now.0, Relaxed);
    }

    /// How long bytes read at `now` had probably waited in the kernel.
    pub fn wait_before(&self, now: Micros) -> Duration {
        let since_look = now - Micros(self.looked_at.load(Relaxed));
        let busy = self.busy_before.load(Relaxed);
        if busy == 0 {
            return since_look;
        }
        // Multiples of the golden ratio fill [0, 1) evenly.
        let step = self.spread.fetch_add(0x9E37_79B9, Relaxed) & 0xFFFF_FFFF;
        since_look + Duration::from_micros((busy * step) >> 32)
    }

    /// The worker answered a probe that was sent at `sent`.
    pub fn on_beat(&self, sent: Micros, now: Micros) {
        self.lag.fetch_max((now - sent).as_micros() as u64 + 1, Relaxed);
        self.beat_at.store(now.0, Relaxed);
    }

    /// When the worker last answered a probe.
    pub fn beat_at(&self) -> Micros {
        Micros(self.beat_at.load(Relaxed))
    }

    /// How late it answered at worst since the last call; `None` if it has not answered.
    pub fn take_lag(&self) -> Option<Duration> {
        self.lag.swap(0, Relaxed).checked_sub(1).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_while_the_worker_was_busy_is_counted() {
        let at = Micros::from_millis;
        let pulse = Pulse::new(at(0));
        pulse.on_park(at(0));
        pulse.on_unpark(at(5));
        assert_eq!(pulse.wait_before(at(5)), Duration::ZERO, "it waited for the event");

        pulse.on_park(at(25));
        pulse.on_unpark(at(25));
        let waits: Vec<_> = (0..1000).map(|_| pulse.wait_before(at(25))).collect();
        let mean = waits.iter().sum::<Duration>() / 1000;
        assert!(waits.iter().all(|&wait| wait <= Duration::from_millis(20)));
        assert!(mean.abs_diff(Duration::from_millis(10)) < Duration::from_millis(1), "{mean:?}");
    }
}
