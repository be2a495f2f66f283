//! Pauses between tries.

use std::time::Duration;

/// Pauses, each at random between nothing and a bound that doubles with each (full jitter), so that those who lost the
/// same thing together do not come back together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
}

impl Backoff {
    /// The first pause is at most `first`, none is longer than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, tries: 0 }
    }

    /// Pauses since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The next pause; `chance` is a number in `[0, 1)`.
    pub fn next(&mut self, chance: f64) -> Duration {
        let bound = (self.first * 2u32.saturating_pow(self.tries.min(16))).min(self.longest);
        self.tries = self.tries.saturating_add(1);
        bound.mul_f64(chance)
    }

    /// What was tried has succeeded.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_lie_between_nothing_and_a_bound_that_doubles_up_to_the_longest() {
        let bounds = [1, 2, 4, 8, 16, 30, 30, 30].map(Duration::from_secs);
        for (chance, share) in [(0.0, 0), (0.5, 1), (0.999_999, 2)] {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
            for bound in bounds {
                assert!(backoff.next(chance).abs_diff(bound / 2 * share) < Duration::from_millis(1), "{bound:?}");
            }
            backoff.reset();
            assert!(backoff.next(chance) <= bounds[0]);
        }
        let mut patient = Backoff::new(Duration::from_secs(1), Duration::MAX);
        assert!(
            (0..10_000).map(|_| patient.next(1.0)).all(|pause| pause <= Duration::from_secs(1 << 16)),
            "no overflow"
        );
    }
}
