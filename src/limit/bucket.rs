//! One cell of a rate: who has spent how much of it, as far as this node knows.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::key::Key;
use super::rate::Rate;
use super::regime::Rule;
use super::table::Entry;
use crate::time::Micros;

/// What was spent is reported after so long at the latest, as long as there is somebody to report to.
pub const REPORT_AFTER: Duration = Duration::from_millis(500);

/// What was spent so long ago would have been counted, had there been somebody to count it.
const OVERDUE: Duration = Duration::from_secs(1);

/// A cell. All of its state is atomic: sessions on several workers may share it, and none holds another up.
#[derive(Debug)]
#[repr(C)]
pub struct Bucket {
    // What every decision reads comes first, so that it is in one line of the cache.
    /// When everything is earned again (the theoretical arrival time), in nanoseconds of the node's clock.
    full_at: AtomicU64,
    /// Nothing is let through until then, in microseconds.
    blocked_until: AtomicU64,
    key: Key,
    /// Spent and not reported, in nanoseconds.
    spent: AtomicU64,
    /// When the first of it was spent, in microseconds.
    spent_since: AtomicU64,
    /// What may be spent before it is reported, in nanoseconds, and until when that holds, in microseconds.
    lease: AtomicU64,
    lease_until: AtomicU64,
    /// Whether it waits to be reported, and how urgently; and whether it has been.
    report: AtomicU8,
}

/// No report waits.
const IDLE: u8 = 0;
/// A report waits for its time.
const WAITING: u8 = 1;
/// A report goes out at once.
const URGENT: u8 = 2;
/// The state above is in these bits.
const STATE: u8 = 3;
/// It has been reported once: what the others had spent is known.
const KNOWN: u8 = 4;

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The limit is reached; it may be tried again so much later.
    Reached(Duration),
    /// This node's lease is spent, and its renewal is on the way.
    Unleased,
}

/// What a cell has spent since it was last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// How much, in nanoseconds of the rate.
    pub nanos: u64,
    /// How long ago the first of it was spent.
    pub ago: Duration,
    /// How long everything is still refused.
    pub blocked: Duration,
}

/// What the cluster knows of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Everything will be earned again after so long, in nanoseconds.
    pub debt: u64,
    /// What may be spent before the next report, in nanoseconds.
    pub lease: u64,
    /// For how long.
    pub term: Duration,
    /// How long everything is still refused.
    pub blocked: Duration,
}

/// How soon a cell must be reported that has just been spent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Not: there is nobody, or a report waits already.
    No,
    /// In time.
    Later,
    /// At once.
    Now,
}

impl Entry for Bucket {
    fn new(key: Key) -> Bucket {
        Bucket {
            key,
            full_at: AtomicU64::new(0),
            blocked_until: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            spent_since: AtomicU64::new(0),
            lease: AtomicU64::new(0),
            lease_until: AtomicU64::new(0),
            report: AtomicU8::new(IDLE),
        }
    }

    fn key(&self) -> Key {
        self.key
    }

    /// Nothing is spent of it: a new one would be the same.
    fn is_spare(&self, now: Micros) -> bool {
        self.full_at.load(Relaxed) <= now.0 * 1000
            && self.blocked_until.load(Relaxed) <= now.0
            && self.spent.load(Relaxed) == 0
    }

    fn weight(&self) -> u64 {
        self.full_at.load(Relaxed)
    }
}

impl Bucket {
    /// Takes what costs `cost`, if it may be taken; else says how long to wait.
    pub(super) fn take(&self, rate: &Rate, rule: Rule, cost: u64, now: Micros) -> Result<Due, Denied> {
        let blocked = self.blocked_until.load(Relaxed);
        if now.0 < blocked {
            return Err(Denied::Reached(Micros(blocked).since(now)));
        }
        let mut allowed = u64::MAX;
        let weight = match rule {
            Rule::Alone => 1,
            Rule::Share(nodes) => u64::from(nodes),
            Rule::Leased => {
                let leased = now.0 < self.lease_until.load(Relaxed);
                allowed = if leased { self.lease.load(Relaxed) } else { rate.lease() };
                1
            }
        };
        // One that costs more than the whole lease, or the whole burst, is let through when nothing else was. What was spent
        // long ago and is not counted yet was spent without a lease: its report is on the way.
        if allowed != u64::MAX && self.spent.load(Relaxed) >= allowed && self.waited(now) < OVERDUE {
            return Err(Denied::Unleased);
        }
        let (present, weighty) = (now.0 * 1000, cost.saturating_mul(weight));
        let needed = weighty.min(rate.burst());
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            let base = full_at.max(present);
            let after = base.saturating_add(needed) - present;
            if after > rate.burst() {
                return Err(Denied::Reached(Duration::from_nanos(after - rate.burst())));
            }
            match self.full_at.compare_exchange_weak(full_at, base.saturating_add(weighty), Relaxed, Relaxed) {
                Ok(_) => break,
                Err(other) => full_at = other,
            }
        }
        if rule == Rule::Alone {
            return Ok(Due::No);
        }
        Ok(self.note(cost, allowed, now))
    }

    /// Takes what has happened already, however much it is.
    pub(super) fn charge(&self, rule: Rule, cost: u64, now: Micros) -> Due {
        let weight = if let Rule::Share(nodes) = rule { u64::from(nodes) } else { 1 };
        let (present, weighty) = (now.0 * 1000, cost.saturating_mul(weight));
        let raise = |full_at: u64| Some(full_at.max(present).saturating_add(weighty));
        let _ = self.full_at.fetch_update(Relaxed, Relaxed, raise);
        if rule == Rule::Alone { Due::No } else { self.note(cost, self.lease.load(Relaxed), now) }
    }

    /// Remembers what was spent; `allowed` may be spent unreported.
    fn note(&self, cost: u64, allowed: u64, now: Micros) -> Due {
        let before = self.spent.fetch_add(cost, Relaxed);
        if before == 0 {
            self.spent_since.store(now.0, Relaxed);
        }
        let waited = now.since(Micros(self.spent_since.load(Relaxed)));
        let urgent = before.saturating_add(cost) >= allowed / 2 || waited >= REPORT_AFTER;
        self.demand(if urgent { Due::Now } else { Due::Later })
    }

    /// Whether a report has to be asked for.
    pub(super) fn demand(&self, due: Due) -> Due {
        let wanted = match due {
            Due::No => return Due::No,
            Due::Later => WAITING,
            Due::Now => URGENT,
        };
        let raise = |report: u8| (report & STATE < wanted).then_some(report & !STATE | wanted);
        if self.report.load(Relaxed) & STATE < wanted && self.report.fetch_update(Relaxed, Relaxed, raise).is_ok() {
            due
        } else {
            Due::No
        }
    }

    /// Whether a report waits.
    pub fn wants_report(&self) -> bool {
        self.report.load(Relaxed) & STATE != IDLE
    }

    /// Asks for a report at once; `false` if one waits already that is as urgent.
    pub fn want_report(&self) -> bool {
        self.demand(Due::Now) == Due::Now
    }

    /// The report that was asked for could not be queued.
    pub fn forget_report(&self) {
        self.report.fetch_and(!STATE, Relaxed);
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, rule: Rule, cost: u64) {
        let weight = if let Rule::Share(nodes) = rule { u64::from(nodes) } else { 1 };
        let _ = self.full_at.fetch_update(Relaxed, Relaxed, |at| Some(at.saturating_sub(cost.saturating_mul(weight))));
        if rule != Rule::Alone {
            let _ = self.spent.fetch_update(Relaxed, Relaxed, |spent| Some(spent.saturating_sub(cost)));
        }
    }

    /// Refuses everything for a while.
    pub(super) fn block(&self, span: Duration, now: Micros) {
        self.blocked_until.fetch_max((now + span).0, Relaxed);
    }

    /// What is left at the moment, in nanoseconds, and how long everything is refused.
    pub fn left(&self, rate: &Rate, now: Micros) -> (u64, Duration) {
        let debt = self.full_at.load(Relaxed).saturating_sub(now.0 * 1000);
        let blocked = Micros(self.blocked_until.load(Relaxed)).since(now);
        (if blocked.is_zero() { rate.burst().saturating_sub(debt) } else { 0 }, blocked)
    }

    /// When something is left again.
    pub fn until_left(&self, rate: &Rate, now: Micros) -> Duration {
        let debt = self.full_at.load(Relaxed).saturating_sub(now.0 * 1000);
        Duration::from_nanos(debt.saturating_sub(rate.burst()).saturating_add(1))
    }

    /// Whether it is known what others have spent.
    pub fn is_known(&self) -> bool {
        self.report.load(Relaxed) & KNOWN != 0
    }

    /// How long the report that waits has waited at least.
    pub fn waited(&self, now: Micros) -> Duration {
        now.since(Micros(self.spent_since.load(Relaxed)))
    }

    /// Takes what is to be reported; [`Bucket::settle`] or [`Bucket::restore`] follows.
    pub fn take_spent(&self, now: Micros) -> Spent {
        self.report.fetch_and(!STATE, Relaxed);
        let nanos = self.spent.swap(0, Relaxed);
        let ago = if nanos == 0 { Duration::ZERO } else { self.waited(now) };
        Spent { nanos, ago, blocked: Micros(self.blocked_until.load(Relaxed)).since(now) }
    }

    /// What was reported did not arrive, as far as one knows.
    pub fn restore(&self, spent: Spent, now: Micros) {
        if spent.nanos > 0 {
            self.spent.fetch_add(spent.nanos, Relaxed);
            self.spent_since.store(now.before(spent.ago).0, Relaxed);
        }
    }

    /// The cluster has counted what was reported, and says where the cell stands.
    pub fn settle(&self, level: Level, now: Micros) {
        // What was spent since the report is in nobody's count yet.
        let since = self.spent.load(Relaxed);
        self.full_at.store((now.0 * 1000).saturating_add(level.debt).saturating_add(since), Relaxed);
        if !level.blocked.is_zero() {
            self.block(level.blocked, now);
        }
        self.lease.store(level.lease, Relaxed);
        self.lease_until.store((now + level.term).0, Relaxed);
        self.report.fetch_or(KNOWN, Relaxed);
    }
}
