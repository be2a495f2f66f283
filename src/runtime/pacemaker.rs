//! Regular chores of the control runtime: probing workers, folding metrics, the service manager's watchdog.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::runtime::node::Node;
use crate::telemetry::WorkerMetrics;

/// How often workers are probed.
const PROBE: Duration = Duration::from_millis(100);
/// How often metrics are folded and the status is told.
const UPKEEP: Duration = Duration::from_secs(1);
/// The longest silence of a worker that the watchdog of the service manager accepts.
const WATCHDOG_SILENCE: Duration = Duration::from_secs(2);

/// Tells the service manager (sd_notify(3)), if there is one.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Probes each worker and records how late it answers.
pub async fn probe_workers(node: Arc<Node>) {
    let metrics: Vec<WorkerMetrics> =
        node.workers.iter().map(|worker| node.telemetry.node().worker(worker.index)).collect();
    let mut ticks = interval(PROBE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = node.clock.now();
        for (worker, metrics) in node.workers.iter().zip(&metrics) {
            if let Some(lag) = worker.pulse.take_lag() {
                metrics.record_lag(lag);
            }
            worker.probe(now);
        }
    }
}

/// Folds metrics, tells the status, and feeds the watchdog as long as every worker moves.
pub async fn keep_up(node: Arc<Node>, upkeep: impl Fn() + Send) {
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watchdog = sd_notify::watchdog_enabled();
    let mut sessions = usize::MAX;
    loop {
        ticks.tick().await;
        node.telemetry.upkeep();
        upkeep();
        if sessions != node.registry.len() {
            sessions = node.registry.len();
            let doing = if node.is_draining() { "draining, " } else { "" };
            notify(&[NotifyState::Status(&format!("{doing}{sessions} calls"))]);
        }
        if watchdog.is_some() && node.longest_silence() < WATCHDOG_SILENCE {
            notify(&[NotifyState::Watchdog]);
        }
    }
}
