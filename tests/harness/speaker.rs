//! A caller's loudspeaker.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, Interval, interval};

/// Plays what it is given in real time, without a buffer of its own, and knows where it is.
pub struct Speaker {
    rate: u32,
    received: u64,
    /// Since when it plays without a gap, and from which position.
    begun: Option<(Instant, u64)>,
    /// When the next report is due.
    pub reports: Interval,
}

impl Speaker {
    /// A silent one; `rate` is that of positions.
    pub fn new(rate: u32) -> Speaker {
        Speaker { rate, received: 0, begun: None, reports: interval(Duration::from_millis(100)) }
    }

    /// Audio came.
    pub fn take(&mut self, samples: u64) {
        if self.position() == self.received {
            self.begun = Some((Instant::now(), self.received));
        }
        self.received += samples;
    }

    /// Samples that came.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The sample that is leaving it.
    pub fn position(&self) -> u64 {
        let Some((at, from)) = self.begun else { return 0 };
        (from + (at.elapsed().as_secs_f64() * f64::from(self.rate)) as u64).min(self.received)
    }

    /// What is reported now.
    pub fn report(&self) -> Value {
        let position = self.position();
        let buffered_ms = (self.received - position) * 1000 / u64::from(self.rate);
        json!({ "type": "playout", "pos": position, "buffered_ms": buffered_ms })
    }
}
