//! The metrics of the overload watch.

use metrics::{Counter, Gauge};

use super::names;
use super::registry::Registry;
use crate::runtime::overload::{Pressure, Step};

/// What the overload watch tells; see [`super::NodeMetrics::overload`].
pub struct OverloadMetrics {
    /// cpu, peak, lag, memory, files.
    pressure: [Gauge; 5],
    most: Gauge,
    active: [Gauge; Step::ALL.len()],
    taken: [Counter; Step::ALL.len()],
}

impl std::fmt::Debug for OverloadMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OverloadMetrics").finish_non_exhaustive()
    }
}

impl OverloadMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let signals = ["cpu", "peak", "lag", "memory", "files"];
        Self {
            pressure: signals.map(|signal| registry.gauge(&names::OVERLOAD_PRESSURE, &[signal])),
            most: registry.gauge(&names::OVERLOAD_MOST, &[]),
            active: Step::ALL.map(|step| registry.gauge(&names::OVERLOAD_STEP_ACTIVE, &[step.label()])),
            taken: Step::ALL.map(|step| registry.counter(&names::OVERLOAD_STEPS, &[step.label()])),
        }
    }

    /// The pressure now.
    pub fn record_pressure(&self, pressure: &Pressure) {
        let Pressure { cpu, peak, lag, memory, files } = *pressure;
        for (gauge, figure) in self.pressure.iter().zip([cpu, peak, lag, memory, files]) {
            gauge.set(figure);
        }
    }

    /// Sessions that the node takes in all until the next look, if it holds somebody back.
    pub fn record_most(&self, most: Option<usize>) {
        self.most.set(most.unwrap_or(0) as f64);
    }

    /// A step was taken, or taken back.
    pub fn record_step(&self, step: Step, taken: bool) {
        self.active[step as usize].set(if taken { 1.0 } else { 0.0 });
        if taken {
            self.taken[step as usize].increment(1);
        }
    }
}
