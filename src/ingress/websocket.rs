//! From an upgraded connection to a running session: the first message decides.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout_at;

use super::admit::{self, Caller, Refused};
use super::connection::Shared;
use super::gate::Handshake;
use crate::agent::Wire;
use crate::dialect::native::Native;
use crate::dialect::openai::{self, Openai};
use crate::dialect::{Dialect, Heard};
use crate::message::{CloseReason, Error, ErrorCode, Start, ToClient};
use crate::runtime::line::Line;
use crate::runtime::node::Node;
use crate::runtime::registry::NewLink;
use crate::runtime::stream::Stream;
use crate::runtime::websocket::{Bounds, Received, SocketError, WebSocket};
use crate::runtime::worker::Worker;
use crate::telemetry::Refusal;
use crate::time::Micros;

/// How long a client that need not say anything first is waited for: what it says decides formats and set-up.
const UNASKED: Duration = Duration::from_millis(500);

/// A request that is becoming a WebSocket.
pub(super) struct Upgrade {
    pub(super) pending: OnUpgrade,
    pub(super) head: Head,
    /// For clients of the OpenAI Realtime wire.
    pub(super) realtime: Option<Realtime>,
    /// When the request was understood.
    pub(super) at: Micros,
}

/// What a client of the OpenAI Realtime wire says in its request.
pub(super) struct Realtime {
    /// The agent, or whatever a route knows.
    model: Option<String>,
    /// The key of a browser, which cannot set headers.
    key: Option<String>,
}

impl Realtime {
    pub(super) fn new(request: &Request<Incoming>) -> Realtime {
        let query = request.uri().query().unwrap_or_default();
        let model = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "model");
        let offered = request.headers().get_all(hyper::header::SEC_WEBSOCKET_PROTOCOL).iter();
        let mut offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let key = offered.find_map(|name| name.trim().strip_prefix(openai::KEY_PROTOCOL));
        Realtime { model: model.map(|(_, model)| model.into_owned()), key: key.map(str::to_owned) }
    }
}

/// What of the request's head a route may look at.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn new(request: &Request<Incoming>) -> Head {
        let headers = request
            .headers()
            .iter()
            .filter_map(|(name, value)| value.to_str().ok().map(|value| (name.as_str().to_owned(), value.to_owned())));
        Head { path: request.uri().path().to_owned(), headers: headers.collect() }
    }
}

/// Opens the WebSocket, waits for `start` and runs the session.
pub(super) async fn serve(
    shared: &Shared,
    upgrade: Upgrade,
    worker: Arc<Worker>,
    handshake: Option<Handshake>,
    admission: Box<dyn Send>,
) {
    let node = &shared.node;
    let Some((socket, mut dialect)) = open(node, upgrade.pending, upgrade.realtime).await else {
        return node.telemetry.node().record_refusal(Refusal::Gone);
    };
    let in_force = node.in_force.load_full();
    let opened = node.clock.now();
    let deadline = node.clock.instant(opened + in_force.settings.http.start);
    let mut socket = socket;
    let first = tokio::select! {
        first = timeout_at(deadline, first_message(node, &mut socket, dialect.as_mut())) => first,
        () = node.stopping.cancelled() => return,
    };
    let started = match first {
        Ok(started) => started,
        Err(_) => {
            let message = format!("no `start` came within {} ms", in_force.settings.http.start.as_millis());
            Err(Refused::new(ErrorCode::BadMessage, message).with(4408, Refusal::Timeout))
        }
    };
    drop(handshake);
    let caller = Caller {
        peer: shared.peer,
        head: upgrade.head,
        accepted: shared.accepted,
        tls: shared.tls,
        upgraded: upgrade.at,
        opened,
    };
    match started {
        Ok(start) => run(node, worker, caller, start, socket, dialect, admission).await,
        Err(refused) => refuse(node, Line::WebSocket(socket), dialect, refused).await,
    }
}

async fn open(node: &Node, pending: OnUpgrade, realtime: Option<Realtime>) -> Option<(WebSocket, Box<dyn Dialect>)> {
    let parts = pending.await.ok()?.downcast::<TokioIo<Stream>>().ok()?;
    let limits = &node.in_force.load().settings.http.websocket;
    let bounds = Bounds { message: limits.max_message_bytes, backlog: limits.max_write_bytes, ..Bounds::CLIENT };
    let mut socket = WebSocket::accept(parts.io.into_inner(), parts.read_buf, bounds).await;
    let mut dialect: Box<dyn Dialect> = match realtime {
        None => Box::new(Native::new()),
        Some(Realtime { model, key }) => Box::new(Openai::new(&format!("sess_{}", admit::secret()), model, key)),
    };
    while let Some(wire) = dialect.take_wire() {
        socket.try_push(wire).ok()?;
    }
    Some((socket, dialect))
}

/// The client's `start`, or what stands for it where clients need not say anything.
async fn first_message(node: &Node, socket: &mut WebSocket, dialect: &mut dyn Dialect) -> Result<Start, Refused> {
    let unasked = tokio::time::Instant::now() + UNASKED;
    match timeout_at(unasked, read_start(node, socket, dialect)).await {
        Ok(first) => first,
        Err(_) => match dialect.start_unasked() {
            Some(start) => Ok(start),
            None => read_start(node, socket, dialect).await,
        },
    }
}

async fn read_start(node: &Node, socket: &mut WebSocket, dialect: &mut dyn Dialect) -> Result<Start, Refused> {
    loop {
        let received = std::future::poll_fn(|cx| {
            // Answers to pings are written here.
            if let Poll::Ready(Err(error)) = socket.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            socket.poll_receive(cx)
        })
        .await;
        match received {
            Ok(Received::Ping | Received::Pong(_)) => {}
            Ok(Received::Wire(Wire::Close(..))) | Err(SocketError::Lost(_)) => return Err(Refused::gone()),
            Err(SocketError::Violation(message)) => return Err(Refused::new(ErrorCode::BadMessage, message)),
            Ok(Received::Wire(wire)) => match read(node, socket, dialect, wire)? {
                Some(Heard::Start(start)) => return Ok(start),
                Some(Heard::Malformed { error, .. }) => return Err(Refused::from(error)),
                Some(Heard::Message(_)) => {
                    return Err(Refused::new(ErrorCode::BadMessage, "the first message must be `start`".into()));
                }
                Some(Heard::Unknown(_)) | None => {}
            },
        }
    }
}

fn read(node: &Node, socket: &mut WebSocket, dialect: &mut dyn Dialect, wire: Wire) -> Result<Option<Heard>, Refused> {
    let heard = dialect.handle_wire(wire, node.clock.now());
    while let Some(answer) = dialect.take_wire() {
        socket.try_push(answer).map_err(|_| Refused::gone())?;
    }
    Ok(heard)
}

/// Tells the client why there is no session for it.
async fn refuse(node: &Node, mut line: Line, mut dialect: Box<dyn Dialect>, refused: Refused) {
    node.telemetry.node().record_refusal(refused.refusal);
    if let Some(error) = refused.error {
        let _ = line.try_push(dialect.as_mut(), None, &ToClient::Error(error));
    }
    line.close(refused.close_code, refused.refusal.label()).await;
}

async fn run(
    node: &Arc<Node>,
    worker: Arc<Worker>,
    caller: Caller,
    start: Start,
    socket: WebSocket,
    dialect: Box<dyn Dialect>,
    admission: Box<dyn Send>,
) {
    if node.is_draining() {
        let error = Error {
            code: ErrorCode::Overloaded,
            message: "this node is going down; connect again".into(),
            field: None,
            retryable: true,
            retry_after_ms: Some(1000),
        };
        let refused = Refused::from(error).with(CloseReason::Draining.code(), Refusal::Draining);
        return refuse(node, Line::WebSocket(socket), dialect, refused).await;
    }
    let info = match admit::link(&start) {
        Ok(info) => info,
        Err(refused) => return refuse(node, Line::WebSocket(socket), dialect, refused).await,
    };
    let link = NewLink { line: Line::WebSocket(socket), dialect, info, worker: worker.index, admission };
    let refused = match start.resume.clone() {
        Some(token) => admit::resume(node, &token, Box::new(link)).err(),
        None => match admit::admit(node, &worker, &caller, start, &link.info) {
            Ok(admitted) => return admitted.run(node, link).await,
            Err(refused) => Some((Box::new(link), refused)),
        },
    };
    if let Some((link, refused)) = refused {
        refuse(node, link.line, link.dialect, refused).await;
    }
}
