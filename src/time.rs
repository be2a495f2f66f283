//! Time as an argument: the core never reads a clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant in microseconds on a monotonic clock with an arbitrary origin.
///
/// Serialisable, so that a recorded session can be replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// The origin of the clock.
    pub const ZERO: Micros = Micros(0);

    /// The instant `ms` milliseconds after the origin.
    pub const fn from_millis(ms: u64) -> Micros {
        Micros(ms * 1000)
    }

    /// Time passed since `earlier`; zero if `earlier` is in the future.
    pub const fn since(self, earlier: Micros) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The instant `span` before this one, not before the origin.
    pub fn before(self, span: Duration) -> Micros {
        Micros(self.0.saturating_sub(span.as_micros() as u64))
    }
}

impl Add<Duration> for Micros {
    type Output = Micros;
    fn add(self, span: Duration) -> Micros {
        Micros(self.0.saturating_add(span.as_micros() as u64))
    }
}

impl Sub<Micros> for Micros {
    type Output = Duration;
    fn sub(self, earlier: Micros) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A closed set of timer names, each with one slot in a [`Timers`] table.
pub trait TimerName: Copy + 'static {
    /// Every name, in the order of [`TimerName::index`].
    const ALL: &'static [Self];
    /// The slot of this name, less than `ALL.len()`.
    fn index(self) -> usize;
}

/// One deadline per named timer; `N` is the number of names.
#[derive(Clone, Debug)]
pub struct Timers<T, const N: usize> {
    deadlines: [Option<Micros>; N],
    /// The earliest: it is asked for several times a frame, and most timers are only put off.
    next: Option<(T, Micros)>,
}

impl<T: TimerName, const N: usize> Default for Timers<T, N> {
    fn default() -> Self {
        assert_eq!(T::ALL.len(), N, "one slot per timer name");
        Self { deadlines: [None; N], next: None }
    }
}

impl<T: TimerName, const N: usize> Timers<T, N> {
    /// Arms `timer` for `at`, replacing what it was armed for.
    pub fn set(&mut self, timer: T, at: Micros) {
        let before = self.deadlines[timer.index()].replace(at);
        if self.next.is_none_or(|(name, next)| (at, timer.index()) < (next, name.index())) {
            self.next = Some((timer, at));
        } else {
            self.look_again(before);
        }
    }

    /// Disarms `timer`.
    pub fn clear(&mut self, timer: T) {
        let before = self.deadlines[timer.index()].take();
        self.look_again(before);
    }

    /// A timer that was armed for `before` is not any more: that may have been the earliest.
    fn look_again(&mut self, before: Option<Micros>) {
        if before.is_none() || before > self.next.map(|(_, at)| at) {
            return;
        }
        let armed = T::ALL.iter().filter_map(|&name| Some((name, self.deadline(name)?)));
        self.next = armed.min_by_key(|&(_, at)| at);
    }

    /// When `timer` fires, if it is armed.
    pub fn deadline(&self, timer: T) -> Option<Micros> {
        self.deadlines[timer.index()]
    }

    /// The earliest armed timer.
    pub fn next(&self) -> Option<(T, Micros)> {
        self.next
    }

    /// Takes the earliest timer that is due at `now`, disarming it.
    pub fn take_due(&mut self, now: Micros) -> Option<T> {
        let (name, at) = self.next()?;
        if at > now {
            return None;
        }
        self.clear(name);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Name {
        A,
        B,
    }
    impl TimerName for Name {
        const ALL: &'static [Name] = &[Name::A, Name::B];
        fn index(self) -> usize {
            self as usize
        }
    }

    #[test]
    fn the_earliest_due_timer_is_taken_once() {
        let mut timers: Timers<Name, 2> = Timers::default();
        timers.set(Name::A, Micros(20));
        timers.set(Name::B, Micros(10));
        assert_eq!(timers.next(), Some((Name::B, Micros(10))));
        assert_eq!(timers.take_due(Micros(5)), None);
        assert_eq!(timers.take_due(Micros(30)), Some(Name::B));
        assert_eq!(timers.take_due(Micros(30)), Some(Name::A));
        assert_eq!(timers.take_due(Micros(30)), None);
    }

    #[test]
    fn the_earliest_is_known_whatever_is_put_off_or_disarmed() {
        let mut timers: Timers<Name, 2> = Timers::default();
        // Each digit sets or clears one of the two.
        for steps in 0..8_u32.pow(5) {
            for step in (0..5).map(|place| steps / 8_u32.pow(place) % 8) {
                let name = if step % 2 == 0 { Name::A } else { Name::B };
                match step / 2 {
                    0 => timers.clear(name),
                    at => timers.set(name, Micros(at.into())),
                }
                let armed = Name::ALL.iter().filter_map(|&name| Some((name, timers.deadline(name)?)));
                assert_eq!(timers.next(), armed.min_by_key(|&(_, at)| at), "{steps:o}");
            }
        }
    }
}
