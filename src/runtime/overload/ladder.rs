//! What a node does, and in which order, when it has more to do than it can. Pure: time is an argument.
//!
//! All signs of load are brought to one scale, the *pressure*: 1 is where new calls are refused.

use std::time::Duration;

use crate::time::Micros;

/// Pressure must be high for so long before a step is taken: one look may be an accident.
const BEFORE_TAKEN: Duration = Duration::from_millis(500);
/// Pressure must be low for so long before a step is taken back.
const BEFORE_LEFT: Duration = Duration::from_secs(3);
/// A step is taken back at this much less pressure than it was taken at.
const HYSTERESIS: f64 = 0.15;

/// What is done about load, in this order. Live audio is never touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The Opus encoders towards clients use less complexity.
    Complexity,
    /// New sessions are refused; running ones can still be resumed.
    Refuse,
    /// Calls in which nobody speaks end after a quarter of their idle time.
    ShortIdle,
    /// Interim transcripts and taps are left out.
    Spare,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Step; 4] = [Step::Complexity, Step::Refuse, Step::ShortIdle, Step::Spare];

    /// The metric label and log field.
    pub const fn label(self) -> &'static str {
        match self {
            Step::Complexity => "complexity",
            Step::Refuse => "refuse",
            Step::ShortIdle => "short_idle",
            Step::Spare => "spare",
        }
    }

    /// The pressure at which it is taken.
    pub const fn taken_at(self) -> f64 {
        match self {
            Step::Complexity => 0.85,
            Step::Refuse => 1.0,
            Step::ShortIdle => 1.05,
            Step::Spare => 1.1,
        }
    }
}

/// Whether a step is taken.
#[derive(Clone, Copy, Debug)]
pub struct Latch {
    step: Step,
    taken: bool,
    /// Since when the pressure is beyond the bound that changes it.
    since: Option<Micros>,
}

impl Latch {
    /// Not taken.
    pub const fn new(step: Step) -> Latch {
        Latch { step, taken: false, since: None }
    }

    /// The step.
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Whether it is taken.
    pub const fn is_taken(&self) -> bool {
        self.taken
    }

    /// The pressure now; whether that changed what is taken.
    pub fn on_pressure(&mut self, pressure: f64, now: Micros) -> bool {
        let (beyond, patience) = match self.taken {
            false => (pressure >= self.step.taken_at(), BEFORE_TAKEN),
            true => (pressure < self.step.taken_at() - HYSTERESIS, BEFORE_LEFT),
        };
        if !beyond {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        if now - since < patience {
            return false;
        }
        self.taken = !self.taken;
        self.since = None;
        true
    }
}

/// The complexities that encoders are brought down to, one after the other.
const COMPLEXITIES: [u8; 5] = [10, 5, 2, 1, 0];
/// From one to the next lower one.
const LOWER_EVERY: Duration = Duration::from_millis(500);
/// From one to the next higher one.
const RAISE_EVERY: Duration = Duration::from_secs(2);

/// Brings the complexity of a worker's encoders down while its pressure stays high, and up again.
#[derive(Clone, Copy, Debug)]
pub struct Governor {
    latch: Latch,
    notch: usize,
    moved: Micros,
}

impl Default for Governor {
    fn default() -> Governor {
        Governor { latch: Latch::new(Step::Complexity), notch: 0, moved: Micros::ZERO }
    }
}

impl Governor {
    /// The highest complexity that encoders may use.
    pub fn max_complexity(&self) -> u8 {
        COMPLEXITIES[self.notch]
    }

    /// Whether it holds encoders down.
    pub fn is_active(&self) -> bool {
        self.notch > 0
    }

    /// The pressure of the worker now.
    pub fn on_pressure(&mut self, pressure: f64, now: Micros) {
        let high = pressure >= Step::Complexity.taken_at();
        let changed = self.latch.on_pressure(pressure, now);
        let waited = now - self.moved;
        match self.latch.is_taken() {
            true if changed || (high && waited >= LOWER_EVERY) => self.move_to(self.notch + 1, now),
            false if self.notch > 0 && (changed || waited >= RAISE_EVERY) => self.move_to(self.notch - 1, now),
            _ => {}
        }
    }

    fn move_to(&mut self, notch: usize, now: Micros) {
        self.notch = notch.min(COMPLEXITIES.len() - 1);
        self.moved = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pressures at four looks a second; when something changed, in milliseconds.
    fn changes(latch: &mut Latch, from_ms: u64, pressures: impl IntoIterator<Item = f64>) -> Vec<u64> {
        let looks = pressures.into_iter().enumerate().map(|(look, pressure)| (from_ms + look as u64 * 250, pressure));
        looks.filter(|&(ms, pressure)| latch.on_pressure(pressure, Micros::from_millis(ms))).map(|(ms, _)| ms).collect()
    }

    #[test]
    fn a_step_is_taken_when_pressure_stays_and_left_when_it_stays_away() {
        let mut latch = Latch::new(Step::Refuse);
        assert!(changes(&mut latch, 0, [0.9, 1.2, 0.99, 1.2, 1.2, 0.9]).is_empty(), "peaks are no load");
        assert_eq!(changes(&mut latch, 10_000, [1.0, 1.0, 1.0, 1.0]), [10_500]);
        let wobbling = (0..100).map(|look| if look % 10 == 0 { 1.0 } else { 0.84 });
        assert!(changes(&mut latch, 20_000, wobbling).is_empty(), "what comes back keeps the step");
        assert!(changes(&mut latch, 60_000, [0.86; 100]).is_empty(), "between the bounds nothing moves");
        assert_eq!(changes(&mut latch, 90_000, [0.8; 20]), [93_000]);
        assert!(!latch.is_taken());
    }

    #[test]
    fn steps_come_in_their_order_as_pressure_rises() {
        assert!(Step::ALL.windows(2).all(|pair| pair[0].taken_at() < pair[1].taken_at()));
    }

    #[test]
    fn encoders_go_down_in_two_and_a_half_seconds_and_come_up_slowly() {
        let mut governor = Governor::default();
        let mut at = |ms: u64, pressure| {
            governor.on_pressure(pressure, Micros::from_millis(ms));
            governor.max_complexity()
        };
        let down: Vec<u8> = (0..12).map(|look| at(look * 250, 0.95)).collect();
        assert_eq!(down, [10, 10, 5, 5, 2, 2, 1, 1, 0, 0, 0, 0]);
        assert_eq!(at(5_000, 0.75), 0, "between the bounds it stays");
        let up: Vec<(u64, u8)> = (20..100).map(|look| (look * 250, at(look * 250, 0.3))).collect();
        let reached = |complexity| up.iter().find(|(_, now)| *now == complexity).map(|(ms, _)| ms - 5_000);
        assert_eq!([reached(1), reached(2), reached(5), reached(10)], [3_000, 5_000, 7_000, 9_000].map(Some));
    }
}
