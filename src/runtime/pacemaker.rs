//! Regular chores of the control runtime: probing workers, folding metrics, the service manager's watchdog.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::runtime::node::Node;
use crate::runtime::overload::Watch;
use crate::telemetry::{ClusterMetrics, WorkerMetrics};

/// How often workers are probed.
const PROBE: Duration = Duration::from_millis(100);
/// How often metrics are folded and the status is told.
const UPKEEP: Duration = Duration::from_secs(1);
/// The longest silence of a worker that the watchdog of the service manager accepts.
const WATCHDOG_SILENCE: Duration = Duration::from_secs(2);

/// Tells the service manager (sd_notify(3)), if there is one. A state that it does not take at once is not told.
pub fn notify(states: &[NotifyState<'_>]) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = tell(&address, states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// The crate's own `notify` waits while the socket is full, and everything on the control runtime with it.
fn tell(address: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

/// Signs of load are looked at with every so many probes.
const LOOK_EVERY: u64 = 2;

/// Probes each worker, records how late it answers, and watches the load.
pub async fn probe_workers(node: Arc<Node>) {
    let metrics: Vec<WorkerMetrics> =
        node.workers.iter().map(|worker| node.telemetry.node().worker(worker.index)).collect();
    let mut ticks = interval(PROBE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::new(&node.workers, &node.telemetry);
    for probe in 0_u64.. {
        ticks.tick().await;
        let now = node.clock.now();
        for (worker, metrics) in node.workers.iter().zip(&metrics) {
            let lag = worker.pulse.take_lag();
            if let Some(lag) = lag {
                metrics.record_lag(lag);
            }
            watch.on_lag(worker.index, lag.unwrap_or_else(|| now - worker.pulse.beat_at()));
            worker.probe(now);
        }
        if probe.is_multiple_of(LOOK_EVERY) {
            watch.look(&node.in_force.load().settings.overload, &node.overload, now);
        }
    }
}

/// Folds metrics, tells the status, and feeds the watchdog as long as every worker moves.
pub async fn keep_up(node: Arc<Node>, upkeep: impl Fn() + Send) {
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watchdog = sd_notify::watchdog_enabled();
    let mut sessions = usize::MAX;
    let (metrics, mut reached, mut second) = (node.telemetry.cluster(), HashMap::new(), 0);
    loop {
        ticks.tick().await;
        node.telemetry.upkeep();
        upkeep();
        tend_limits(&node, &metrics, &mut reached, second);
        second = second.wrapping_add(1);
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

/// Shards of the limits' tables that are tidied up in one second.
const SHARDS: usize = 32;

/// Counts what limits refused, says so in the log once a second at most, and drops cells that say nothing.
fn tend_limits(node: &Node, metrics: &ClusterMetrics, reached: &mut HashMap<Arc<str>, u64>, second: usize) {
    let (limiter, now) = (&node.limiter, node.clock.now());
    for limit in node.in_force.load().limits.all() {
        let (refused, unit) = (limit.counters.refused.load(Relaxed), limit.settings.unit.label());
        metrics.record_limit(&limit.name, unit, refused, limit.counters.unleased.load(Relaxed));
        let before = reached.insert(limit.name.clone(), refused).unwrap_or_default();
        if refused > before {
            tracing::info!(limit = &*limit.name, unit, refused = refused - before, "rate_limit_exceeded");
        }
    }
    for shard in 0..SHARDS {
        let shard = (second * SHARDS + shard) % limiter.buckets.shards();
        limiter.buckets.tidy(shard, now);
        limiter.seats.tidy(shard, now);
    }
    metrics.record_keys("rate", limiter.buckets.len(), limiter.buckets.evicted());
    metrics.record_keys("at_once", limiter.seats.len(), limiter.seats.evicted());
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_service_manager_that_does_not_read_holds_nothing_up() {
        let name = format!("antiphon-pacemaker-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let (told, results) = mpsc::channel();
        std::thread::spawn(move || {
            for _ in 0..10_000 {
                let result = tell(OsStr::new(&format!("@{name}")), &[NotifyState::Status("1 call")]);
                let full = result.is_err();
                let _ = told.send(result.map_err(|error| error.kind()));
                if full {
                    return;
                }
            }
        });
        let patience = Duration::from_secs(20);
        let refused =
            std::iter::from_fn(|| Some(results.recv_timeout(patience).expect("it waits"))).find_map(Result::err);
        assert_eq!(refused, Some(io::ErrorKind::WouldBlock));
        let mut told = [0; 64];
        let length = manager.recv(&mut told).unwrap();
        assert_eq!(&told[..length], b"STATUS=1 call\n");
    }
}
