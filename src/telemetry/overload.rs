//! The metrics of the overload watch.

use metrics::{Counter, Gauge};

use super::names;
use super::registry::Registry;
use crate::runtime::overload::{Pressure, Step};

/// What the overload watch tells; see [`super::NodeMetrics::overload`].
pub struct OverloadMetrics {
    /// cpu, lag, memory, files.
    pressure: [Gauge; 4],
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
        let signals = ["cpu", "lag", "memory", "files"];
        Self {
            pressure: signals.map(|signal| registry.gauge(&names::OVERLOAD_PRESSURE, &[signal])),
            active: Step::ALL.map(|step| registry.gauge(&names::OVERLOAD_STEP_ACTIVE, &[step.label()])),
            taken: Step::ALL.map(|step| registry.counter(&names::OVERLOAD_STEPS, &[step.label()])),
        }
    }

    /// The pressure now.
    pub fn record_pressure(&self, pressure: &Pressure) {
        let Pressure { cpu, lag, memory, files } = *pressure;
        for (gauge, figure) in self.pressure.iter().zip([cpu, lag, memory, files]) {
            gauge.set(figure);
        }
    }

    /// A step was taken, or taken back.
    pub fn record_step(&self, step: Step, taken: bool) {
        self.active[step as usize].set(if taken { 1.0 } else { 0.0 });
        if taken {
            self.taken[step as usize].increment(1);
        }
    }
}
