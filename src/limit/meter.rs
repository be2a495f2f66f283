//! A limit's cell for a rate, as those hold it who are counted in it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::bucket::{Bucket, Denied, Due};
use super::limiter::{Limit, Report, Shared};
use super::meters::Refusal;
use super::rate::Rate;
use crate::time::Micros;

/// When a lease is renewed that is spent: a round trip, with patience.
const RENEWAL: Duration = Duration::from_millis(20);

/// A limit's cell for a rate.
#[derive(Clone, Debug)]
pub struct Meter {
    /// The limit.
    pub limit: Arc<Limit>,
    /// The cell.
    pub bucket: Arc<Bucket>,
    pub(super) shared: Arc<Shared>,
}

impl Meter {
    fn rate(&self) -> &Rate {
        self.limit.rate()
    }

    /// Takes `units`.
    ///
    /// # Errors
    /// When it may be tried again, if the limit is reached.
    pub fn take(&self, units: f64, now: Micros) -> Result<(), Refusal> {
        let (limit, bucket, rate) = (&self.limit, &self.bucket, self.rate());
        match bucket.take(rate, self.shared.regime.rule(now), rate.cost(units), now) {
            Ok(due) => {
                self.report(due);
                Ok(())
            }
            Err(Denied::Unleased) => {
                limit.counters.unleased.fetch_add(1, Relaxed);
                self.report(bucket.demand(Due::Now));
                Err(self.refusal(RENEWAL))
            }
            Err(Denied::Reached(wait)) => {
                limit.counters.refused.fetch_add(1, Relaxed);
                let block = limit.settings.block;
                if block.is_zero() || bucket.left(rate, now).1 > Duration::ZERO {
                    return Err(self.refusal(wait));
                }
                bucket.block(block, now);
                if !self.shared.regime.is_alone() {
                    self.report(bucket.demand(Due::Now));
                }
                Err(self.refusal(block))
            }
        }
    }

    /// Counts `units` that are spent already.
    pub fn charge(&self, units: f64, now: Micros) {
        let rule = self.shared.regime.rule(now);
        self.report(self.bucket.charge(rule, self.rate().cost(units), now));
    }

    /// Gives back `units` that were taken and not used.
    pub fn give_back(&self, units: f64, now: Micros) {
        self.bucket.give_back(self.shared.regime.rule(now), self.rate().cost(units));
    }

    /// Whether something is left.
    ///
    /// # Errors
    /// When something will be.
    pub fn check(&self, now: Micros) -> Result<(), Refusal> {
        let (left, blocked) = self.bucket.left(self.rate(), now);
        if left > 0 {
            return Ok(());
        }
        self.limit.counters.refused.fetch_add(1, Relaxed);
        let wait = self.bucket.until_left(self.rate(), now);
        Err(self.refusal(blocked.max(wait)))
    }

    /// Units that are left.
    pub fn left(&self, now: Micros) -> f64 {
        self.rate().units(self.bucket.left(self.rate(), now).0)
    }

    /// When everything will have been earned again.
    pub fn full_after(&self, now: Micros) -> Duration {
        let (left, blocked) = self.bucket.left(self.rate(), now);
        blocked.max(Duration::from_nanos(self.rate().burst() - left))
    }

    /// The share that is used, 0 to 1.
    pub fn used(&self, now: Micros) -> f64 {
        1.0 - self.bucket.left(self.rate(), now).0 as f64 / self.rate().burst() as f64
    }

    fn refusal(&self, retry_after: Duration) -> Refusal {
        Refusal { limit: self.limit.clone(), retry_after }
    }

    fn report(&self, due: Due) {
        if due == Due::No {
            return;
        }
        if !self.shared.report(Report::Rate { meter: self.clone(), urgent: due == Due::Now }) {
            self.bucket.forget_report();
        }
    }
}
