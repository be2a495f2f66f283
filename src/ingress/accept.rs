//! The accept loop: takes connections and hands each to the worker with the least to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::connection::{self, Incoming};
use super::gate::Gate;
use super::webrtc::Webrtc;
use crate::runtime::node::Node;
use crate::telemetry::{NodeQueue, Refusal};

/// Pause when the process has no descriptor left: the connection stays in the kernel's queue.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the process ends.
///
/// # Errors
/// If the listening socket is unusable.
pub async fn accept(node: Arc<Node>, webrtc: Option<Arc<Webrtc>>, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let gate = Arc::new(Gate::default());
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                if let Err(refusal) = hand_over(&node, webrtc.as_ref(), &gate, tcp, peer) {
                    node.telemetry.node().record_refusal(refusal);
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(%error, "cannot accept connections now");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether accepting failed for this one connection only.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied | TimedOut)
}

/// ENFILE, EMFILE, ENOBUFS and ENOMEM of accept(2).
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24 | 105 | 12))
}

fn hand_over(
    node: &Arc<Node>,
    webrtc: Option<&Arc<Webrtc>>,
    gate: &Arc<Gate>,
    tcp: TcpStream,
    peer: SocketAddr,
) -> Result<(), Refusal> {
    let accepted = node.clock.now();
    let in_force = node.in_force.load();
    let caps = &in_force.settings.http;
    let connected = gate.connect(peer.ip(), caps)?;
    let worker = node.workers.iter().min_by_key(|worker| worker.load()).ok_or(Refusal::Overload)?;
    let handshake = gate.shake(worker.index, peer.ip(), caps)?;
    let incoming = Incoming {
        node: node.clone(),
        webrtc: webrtc.cloned(),
        worker: worker.clone(),
        // A socket belongs to the runtime that made it: it is taken out of this one.
        tcp: tcp.into_std().map_err(|_| Refusal::Gone)?,
        peer,
        accepted,
        gate: gate.clone(),
        handshake,
        admission: Box::new((connected, worker.count_connection(), node.telemetry.node().connection("http"))),
    };
    worker.try_run(Box::pin(connection::serve(incoming))).map_err(|_| {
        node.telemetry.node().record_dropped(NodeQueue::Handover);
        Refusal::Overload
    })
}
