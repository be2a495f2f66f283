//! The metrics of admission: who was not let in, and what was asked of others meanwhile.

use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;

use super::names;
use super::registry::Registry;
use crate::auth::Denied;

/// How a pre-call hook was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookOutcome {
    /// By its answer.
    Allowed,
    /// By its refusal.
    Refused,
    /// Not, or by something that is no answer.
    Failed,
    /// By an answer that was kept.
    Cached,
}

impl HookOutcome {
    const fn label(self) -> &'static str {
        match self {
            HookOutcome::Allowed => "allowed",
            HookOutcome::Refused => "refused",
            HookOutcome::Failed => "failed",
            HookOutcome::Cached => "cached",
        }
    }
}

/// The metrics of admission; see [`super::Telemetry::admission`].
pub struct AdmissionMetrics {
    registry: Arc<Registry>,
    denied: [Counter; Denied::ALL.len()],
    minted: Counter,
}

impl std::fmt::Debug for AdmissionMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdmissionMetrics").finish_non_exhaustive()
    }
}

impl AdmissionMetrics {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self {
            denied: Denied::ALL.map(|why| registry.counter(&names::CALLERS_DENIED, &[why.label()])),
            minted: registry.counter(&names::CLIENT_TOKENS_MADE, &[]),
            registry,
        }
    }

    /// A caller was not let in.
    pub fn record_denied(&self, why: Denied) {
        if let Some(slot) = Denied::ALL.iter().position(|one| *one == why) {
            self.denied[slot].increment(1);
        }
    }

    /// A client token was made.
    pub fn record_minted(&self) {
        self.minted.increment(1);
    }

    /// The key set of an issuer was fetched, or not.
    pub fn record_key_fetch(&self, issuer: &str, fetched: bool) {
        let result = if fetched { "fetched" } else { "failed" };
        self.registry.counter(&names::KEY_FETCHES, &[issuer, result]).increment(1);
    }

    /// A pre-call hook was asked, and answered after so long.
    pub fn record_hook(&self, hook: &str, outcome: HookOutcome, took: Duration) {
        self.registry.histogram(&names::HOOK, &[hook, outcome.label()]).record(took.as_secs_f64());
    }

    /// Fields of a hook's answer were left out.
    pub fn record_hook_dropped(&self, hook: &str, fields: usize) {
        self.registry.counter(&names::HOOK_FIELDS_DROPPED, &[hook]).increment(fields as u64);
    }
}
