//! `[overload]`, from raw to checked.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// As it is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawOverload {
    enabled: bool,
    cpu: f64,
    memory: f64,
    files: f64,
    lag_ms: u64,
}

impl Default for RawOverload {
    fn default() -> Self {
        Self { enabled: true, cpu: 0.85, memory: 0.9, files: 0.9, lag_ms: 50 }
    }
}

/// `[overload]`: where new calls are refused; the other steps are taken at parts of these. Zero leaves a sign out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OverloadSettings {
    /// Share of time that a worker's thread runs or waits to run, 0 to 1.
    pub cpu: f64,
    /// Share of the memory that the process may use, 0 to 1.
    pub memory: f64,
    /// Share of the files that it may open, 0 to 1.
    pub files: f64,
    /// How late a worker answers, at best within most of a second.
    pub lag: Duration,
}

/// All zero if it is switched off.
pub fn settings(raw: &RawOverload) -> OverloadSettings {
    if !raw.enabled {
        return OverloadSettings::default();
    }
    let lag = Duration::from_millis(raw.lag_ms);
    OverloadSettings { cpu: raw.cpu, memory: raw.memory, files: raw.files, lag }
}
