//! One connection: handshake, then streams and datagrams that are dealt to its sessions.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::HandshakeData;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use wtransport::endpoint::{IncomingSessionFuture, SessionRequest};

use super::{ALPN, session};
use crate::config::settings::QuicSettings;
use crate::dialect::native::quic::{self as framing, Flow};
use crate::ingress::gate::Handshake;
use crate::ingress::http::SESSION_PATH;
use crate::ingress::websocket::Head;
use crate::message::{CloseReason, ErrorCode};
use crate::runtime::node::Node;
use crate::runtime::quic::carrier::{Carrier, Closed};
use crate::runtime::quic::link::Inbound;
use crate::runtime::worker::Worker;
use crate::telemetry::{NodeQueue, Refusal};
use crate::time::Micros;

/// How long a connection without a session stays.
const UNUSED_FOR: Duration = Duration::from_secs(10);
/// Codes with which a client says goodbye.
const GOODBYE: &[u64] = &[1000];
/// A WebTransport session that is closed without a code has 0.
const GOODBYE_WEB: &[u64] = &[0, 1000];

/// A handshake that was let in.
pub(super) struct Arriving {
    pub(super) node: Arc<Node>,
    pub(super) worker: Arc<Worker>,
    pub(super) settings: QuicSettings,
    pub(super) accepted: Micros,
    pub(super) handshake: Handshake,
}

/// What the sessions of a connection share.
pub(super) struct Shared {
    pub(super) node: Arc<Node>,
    pub(super) worker: Arc<Worker>,
    pub(super) settings: QuicSettings,
    pub(super) carrier: Carrier,
    pub(super) head: Head,
    pub(super) accepted: Micros,
    /// When the handshake was over.
    pub(super) connected: Micros,
    /// The code that the client closed it with.
    pub(super) closed: Arc<OnceLock<u64>>,
    /// Whether no session has begun yet: the handshake belongs to the set-up of the first.
    pub(super) fresh: AtomicBool,
    pub(super) goodbye: &'static [u64],
    flows: Arc<Flows>,
}

/// Who on a connection gets which audio.
#[derive(Default)]
pub(super) struct Flows {
    table: Mutex<HashMap<Flow, mpsc::Sender<Inbound>>>,
    changed: Notify,
}

/// A session's entry; it is taken out when it is dropped.
pub(super) struct Place {
    flows: Arc<Flows>,
    flow: Flow,
}

impl Flows {
    fn table(&self) -> MutexGuard<'_, HashMap<Flow, mpsc::Sender<Inbound>>> {
        // Every change is one map operation that does not panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, flow: Flow) -> Option<mpsc::Sender<Inbound>> {
        self.table().get(&flow).cloned()
    }

    /// Ends all inboxes.
    fn clear(&self) {
        self.table().clear();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.flows.table().remove(&self.flow);
        self.flows.changed.notify_waiters();
    }
}

impl Shared {
    /// Gives a flow an inbox.
    ///
    /// # Errors
    /// If it has one, or there are too many.
    pub(super) fn enter(&self, flow: Flow, inbox: mpsc::Sender<Inbound>) -> Result<Place, ErrorCode> {
        let mut table = self.flows.table();
        if table.contains_key(&flow) {
            return Err(ErrorCode::BadMessage);
        }
        if table.len() >= self.settings.max_sessions_per_connection as usize {
            return Err(ErrorCode::RateLimited);
        }
        table.insert(flow, inbox);
        self.flows.changed.notify_waiters();
        Ok(Place { flows: self.flows.clone(), flow })
    }

    /// The inbox of a flow, waited for: its control stream may come later than what follows it.
    pub(super) async fn inbox(&self, flow: Flow) -> mpsc::Sender<Inbound> {
        loop {
            let changed = self.flows.changed.notified();
            if let Some(inbox) = self.flows.find(flow) {
                return inbox;
            }
            changed.await;
        }
    }

    fn is_unused(&self) -> bool {
        self.flows.table().is_empty()
    }

    fn on_datagram(&self, datagram: Bytes) {
        let dropped = |queue| self.node.telemetry.node().record_dropped(queue);
        let Ok((flow, bytes)) = framing::read_flow(datagram) else { return dropped(NodeQueue::UnknownFlow) };
        let now = self.node.clock.now();
        // There is no stamp of the kernel: what has passed since it was received is estimated.
        let at = now.before(self.worker.pulse.wait_before(now));
        match self.flows.table().get(&flow).map(|inbox| inbox.try_send(Inbound::Packet { at, bytes })) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => dropped(NodeQueue::QuicInbox),
            Some(Err(TrySendError::Closed(_))) | None => dropped(NodeQueue::UnknownFlow),
        }
    }
}

impl Arriving {
    /// Serves the connection until it and all sessions that began on it have ended.
    pub(super) async fn serve(self, incoming: quinn::Incoming) {
        let Arriving { node, worker, settings, accepted, handshake } = self;
        let deadline = node.clock.instant(accepted + node.in_force.load().settings.http.handshake);
        let shaken = tokio::select! {
            shaken = tokio::time::timeout_at(deadline, shake(&node, incoming)) => shaken,
            () = node.stopping.cancelled() => return,
        };
        drop(handshake);
        let (carrier, head) = match shaken {
            Ok(Ok(connected)) => connected,
            Ok(Err(refusal)) => return node.telemetry.node().record_refusal(refusal),
            Err(_) => return node.telemetry.node().record_refusal(Refusal::Timeout),
        };
        let goodbye = if matches!(carrier, Carrier::Quic(_)) { GOODBYE } else { GOODBYE_WEB };
        let connected = node.clock.now();
        let (closed, flows, fresh) = (Arc::default(), Arc::default(), AtomicBool::new(true));
        let shared =
            Shared { node, worker, settings, carrier, head, accepted, connected, closed, fresh, goodbye, flows };
        deal(Arc::new(shared)).await;
    }
}

/// Deals audio to the sessions until the connection ends.
async fn deal_datagrams(shared: Arc<Shared>) {
    while let Ok(datagram) = shared.carrier.datagram().await {
        shared.on_datagram(datagram);
    }
}

/// Serves the connection until it ends; no session waits for another.
async fn deal(shared: Arc<Shared>) {
    // A task of its own: all that is waited for here would be asked anew with every frame.
    let datagrams = AbortOnDropHandle::new(tokio::spawn(deal_datagrams(shared.clone())));
    let mut tasks = JoinSet::new();
    let mut used_at = tokio::time::Instant::now();
    let Closed(code) = loop {
        // A session that was resumed here runs in the task where it began.
        if !tasks.is_empty() || !shared.is_unused() {
            used_at = tokio::time::Instant::now();
        }
        tokio::select! {
            stream = shared.carrier.accept() => match stream {
                Ok(stream) => { tasks.spawn(session::serve(shared.clone(), stream)); }
                Err(closed) => break closed,
            },
            Some(ended) = tasks.join_next() => if let Err(error) = ended && error.is_panic() {
                tracing::error!("a defect ended a QUIC session; others are untouched");
            },
            () = tokio::time::sleep_until(used_at + UNUSED_FOR) => if shared.is_unused() && tasks.is_empty() {
                shared.carrier.close(CloseReason::Idle.code(), "no session");
                break Closed(None);
            },
            () = shared.node.stopping.cancelled() => {
                shared.carrier.close(CloseReason::Draining.code(), CloseReason::Draining.label());
                break Closed(None);
            }
        }
    };
    drop(datagrams);
    if let Some(code) = code {
        let _ = shared.closed.set(code);
    }
    shared.flows.clear();
    // A session may go on over another link.
    while tasks.join_next().await.is_some() {}
}

/// The handshake; which application protocol the client has chosen decides what comes next.
async fn shake(node: &Arc<Node>, incoming: quinn::Incoming) -> Result<(Carrier, Head), Refusal> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::debug!(%error, "QUIC handshake failed");
        Refusal::Tls
    };
    let mut connecting = incoming.accept().map_err(|error| failed(&error))?;
    let data = connecting.handshake_data().await.map_err(|error| failed(&error))?;
    let data = data.downcast::<HandshakeData>().map_err(|_| Refusal::Tls)?;
    if data.protocol.as_deref() == Some(ALPN) {
        let connection = connecting.await.map_err(|error| failed(&error))?;
        let host = data.server_name.into_iter().map(|name| ("host".to_owned(), name));
        let head = Head::of_pairs(SESSION_PATH, host.collect(), None, connection.remote_address().ip());
        return Ok((Carrier::Quic(connection), head));
    }
    match IncomingSessionFuture::with_quic_connecting(connecting).await {
        Ok(request) => open(node, request).await,
        Err(error) => {
            tracing::debug!(%error, "no WebTransport session was asked for");
            Err(Refusal::BadRequest)
        }
    }
}

/// Answers the request for a WebTransport session (draft-ietf-webtrans-http3 section 3.2).
async fn open(node: &Arc<Node>, request: SessionRequest) -> Result<(Carrier, Head), Refusal> {
    let in_force = node.in_force.load_full();
    let allowed =
        request.origin().is_none_or(|origin| in_force.settings.http.origins.iter().any(|rule| rule.allows(origin)));
    let refusal = if !allowed {
        request.forbidden().await;
        Refusal::Origin
    } else if request.path().split('?').next() != Some(SESSION_PATH) {
        request.not_found().await;
        Refusal::BadRequest
    } else if node.is_draining() || node.refuses_connections() {
        request.too_many_requests().await;
        if node.is_draining() { Refusal::Draining } else { Refusal::Overload }
    } else {
        let headers = request.headers().iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let host = ("host".to_owned(), request.authority().to_owned());
        let query = request.path().split_once('?').map(|(_, query)| query.to_owned());
        let headers = headers.chain([host]).collect();
        let head = Head::of_pairs(SESSION_PATH, headers, query.as_deref(), request.remote_address().ip());
        let connection = request.accept().await.map_err(|_| Refusal::Gone)?;
        return Ok((Carrier::WebTransport(Arc::new(connection)), head));
    };
    Err(refusal)
}
