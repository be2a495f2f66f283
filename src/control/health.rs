//! What `/livez` and `/readyz` look at.

use std::fmt;
use std::time::Duration;

use crate::runtime::node::Node;

/// A worker that has answered no probe for so long does not move.
const STALLED: Duration = Duration::from_secs(5);

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// Its name.
    pub(super) name: String,
    /// What is wrong; `None` if it holds.
    pub(super) failure: Option<String>,
    /// What is not as it should be, although it holds.
    pub(super) degraded: Option<String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.failure, &self.degraded) {
            (Some(failure), _) => write!(f, "[-]{} failed: {failure}", self.name),
            (None, Some(degraded)) => write!(f, "[+]{} degraded: {degraded}", self.name),
            (None, None) => write!(f, "[+]{} ok", self.name),
        }
    }
}

fn check(name: &str, failure: Option<String>) -> Check {
    Check { name: name.to_owned(), failure, degraded: None }
}

/// The process moves. That the control runtime does is shown by the answer.
pub(super) fn live(node: &Node) -> Vec<Check> {
    let now = node.clock.now();
    let workers = node.workers.iter().map(|worker| {
        let silent = now - worker.pulse.beat_at();
        let failure = (silent >= STALLED).then(|| format!("silent for {} ms", silent.as_millis()));
        check(&format!("worker-{}", worker.index), failure)
    });
    std::iter::once(check("control", None)).chain(workers).collect()
}

/// The process moves and takes calls.
pub(super) fn ready(node: &Node) -> Vec<Check> {
    let mut checks = live(node);
    checks.push(check("listening", node.bound.get().is_none().then(|| "no socket is open yet".to_owned())));
    checks.push(check("draining", node.is_draining().then(|| "the node takes no new calls".to_owned())));
    let calls = node.registry.len();
    let full = calls >= node.in_force.load().settings.runtime.max_sessions as usize;
    checks.push(check("room", full.then(|| format!("`runtime.max_sessions` ({calls}) calls run"))));
    let refusing = node.overload.is_refusing().then(|| format!("{calls} calls are as many as it can carry now"));
    checks.push(check("load", refusing));
    if let Some(status) = node.cluster.status() {
        let nodes = node.limiter.shared.regime.nodes();
        let share = |reason| format!("{reason}; limits go on with this node's share, 1 of {nodes}");
        let degraded = status.trouble.map(|trouble| share(trouble.label()));
        checks.push(Check { degraded, ..check("redis", None) });
    }
    checks
}
