//! The end of a node: no new sessions, clients are told to move at different times, and a deadline.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::message::CloseReason;
use crate::runtime::node::Node;
use crate::runtime::registry::Mail;
use crate::session::Command;
use crate::telemetry::NodeQueue;

/// How long sessions may take to say goodbye after they were ended.
const GOODBYE: Duration = Duration::from_secs(2);

/// Tells all sessions to move, waits until they are gone or `deadline` has passed, and ends the rest. `seed` decides
/// who reconnects when within `spread`.
pub async fn drain(node: &Node, deadline: Duration, spread: Duration, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let spread = spread.min(deadline);
    tell(node, || Command::Drain { reconnect_after: spread.mul_f64(random.random::<f64>()), deadline });
    if tokio::time::timeout(deadline, node.registry.empty()).await.is_err() {
        tracing::warn!(sessions = node.registry.len(), "the drain deadline has passed; ending the rest");
        end(node).await;
    }
}

/// Ends all sessions now; returns when they are gone, at most after two seconds.
pub async fn end(node: &Node) {
    tell(node, || Command::End(CloseReason::Draining));
    let _ = tokio::time::timeout(GOODBYE, node.registry.empty()).await;
}

fn tell(node: &Node, mut command: impl FnMut() -> Command) {
    for mailbox in node.registry.mailboxes() {
        if let Err(tokio::sync::mpsc::error::TrySendError::Full(_)) = mailbox.try_send(Mail::Command(command())) {
            node.telemetry.node().record_dropped(NodeQueue::Mailbox);
        }
    }
}
