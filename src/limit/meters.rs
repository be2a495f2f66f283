//! What a running session is counted by, and how a refusal is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::limiter::Limit;
use super::meter::Meter;
use crate::config::settings::{LimitUnit, OnReach};
use crate::time::Micros;

/// A limit is reached.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Which one.
    pub limit: Arc<Limit>,
    /// When it may be tried again.
    pub retry_after: Duration,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.limit.settings;
        let unit = match settings.unit {
            LimitUnit::Connections => "connections",
            LimitUnit::Sessions => "sessions",
            LimitUnit::AudioFrames => "audio frames",
            LimitUnit::AudioSeconds => "seconds of audio",
            LimitUnit::Messages => "messages",
            LimitUnit::Bytes => "bytes",
            LimitUnit::Cost => "of cost",
        };
        write!(f, "the limit `{}` of {} {unit}", self.limit.name, settings.amount)?;
        match settings.per {
            Some(per) => write!(f, " in {} s", per.as_secs())?,
            None => f.write_str(" at once")?,
        }
        f.write_str(" is reached")
    }
}

/// What became of money that was spent.
#[derive(Clone, Debug, Default)]
pub struct Spending {
    /// A budget whose `warn_at` was passed by this.
    pub warned: Option<Warned>,
    /// A budget that is used up, and what is to follow.
    pub reached: Option<(Arc<Limit>, OnReach)>,
}

/// A budget that nears its end.
#[derive(Clone, Debug)]
pub struct Warned {
    /// Which one.
    pub limit: Arc<Limit>,
    /// The share that is used, 0 to 1.
    pub used: f64,
}

/// The cells in which a session is counted while it runs.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    pub(super) frames: Vec<Meter>,
    pub(super) seconds: Vec<Meter>,
    pub(super) messages: Vec<Meter>,
    pub(super) bytes: Vec<Meter>,
    pub(super) cost: Vec<Meter>,
}

impl Meters {
    pub(super) fn all(&self) -> impl Iterator<Item = &Meter> {
        [&self.frames, &self.seconds, &self.messages, &self.bytes, &self.cost].into_iter().flatten()
    }

    /// A frame of audio came.
    ///
    /// # Errors
    /// The limit that is reached; then nothing is taken.
    pub fn take_audio(&self, span: Duration, now: Micros) -> Result<(), Refusal> {
        let seconds = span.as_secs_f64();
        take_all(&self.frames, 1.0, now)?;
        take_all(&self.seconds, seconds, now).inspect_err(|_| give_back(&self.frames, 1.0, now))
    }

    /// A text message came.
    ///
    /// # Errors
    /// The limit that is reached; then nothing is taken.
    pub fn take_message(&self, now: Micros) -> Result<(), Refusal> {
        take_all(&self.messages, 1.0, now)
    }

    /// Text messages that are left of the strictest limit; `None`: they are not limited.
    pub fn messages_left(&self, now: Micros) -> Option<f64> {
        self.messages.iter().map(|meter| meter.left(now)).min_by(f64::total_cmp)
    }

    /// So many bytes came.
    ///
    /// # Errors
    /// The limit that is reached; then nothing is taken.
    pub fn take_bytes(&self, bytes: usize, now: Micros) -> Result<(), Refusal> {
        take_all(&self.bytes, bytes as f64, now)
    }

    /// Whether audio is counted.
    pub fn counts_audio(&self) -> bool {
        !(self.frames.is_empty() && self.seconds.is_empty())
    }

    /// Whether bytes are counted.
    pub fn counts_bytes(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Whether money is counted.
    pub fn counts_cost(&self) -> bool {
        !self.cost.is_empty()
    }

    /// Money was spent.
    pub fn spend(&self, amount: f64, now: Micros) -> Spending {
        let mut spending = Spending::default();
        for budget in &self.cost {
            let before = budget.used(now);
            budget.charge(amount, now);
            let (used, limit) = (budget.used(now), &budget.limit);
            if limit.settings.warn_at.is_some_and(|at| before < at && used >= at) {
                spending.warned = Some(Warned { limit: limit.clone(), used });
            }
            if used >= 1.0 && limit.settings.on_reach != OnReach::Warn {
                spending.reached = Some((limit.clone(), limit.settings.on_reach));
            }
        }
        spending
    }
}

fn take_all(meters: &[Meter], units: f64, now: Micros) -> Result<(), Refusal> {
    for (index, meter) in meters.iter().enumerate() {
        meter.take(units, now).inspect_err(|_| give_back(&meters[..index], units, now))?;
    }
    Ok(())
}

fn give_back(meters: &[Meter], units: f64, now: Micros) {
    meters.iter().for_each(|meter| meter.give_back(units, now));
}
