//! From an upgraded connection to a running session: the first message decides.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout_at;

use super::admit::{self, Caller, Refused};
use super::call::{self, Opened};
use super::connection::Shared;
use super::credentials::Shown;
use super::gate::{Connected, Handshake};
use crate::agent::Wire;
use crate::dialect::native::{DEFAULT_AUDIO, Native};
use crate::dialect::openai::{self, Openai};
use crate::dialect::{Dialect, Heard};
use crate::message::{ErrorCode, Start};
use crate::runtime::line::Line;
use crate::runtime::node::Node;
use crate::runtime::stream::Stream;
use crate::runtime::websocket::{Bounds, Received, SocketError, WebSocket};
use crate::runtime::worker::Worker;
use crate::session::{Carriage, Transport};
use crate::telemetry::Refusal;
use crate::time::Micros;

/// How long a client that need not say anything first is waited for: what it says decides formats and set-up.
pub(super) const UNASKED: Duration = Duration::from_millis(500);

/// A request that is becoming a WebSocket.
pub(super) struct Upgrade {
    pub(super) pending: OnUpgrade,
    /// Counted beside the connection of a proxy.
    pub(super) behind: Option<Connected>,
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

/// What of the request's head a route may look at, and what it shows of its caller.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) path: String,
    /// Names in lower case; without those that may hold secrets.
    pub(super) headers: Vec<(String, String)>,
    /// Who has sent it.
    pub(super) address: IpAddr,
    pub(super) shown: Shown,
}

/// Headers that no route looks at, because they may hold secrets.
const SECRET: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "sec-websocket-protocol"];

impl Head {
    pub(super) fn new(shared: &Shared, request: &Request<Incoming>) -> Head {
        let headers = request
            .headers()
            .iter()
            .filter_map(|(name, value)| value.to_str().ok().map(|value| (name.as_str().to_owned(), value.to_owned())));
        Head {
            path: request.uri().path().to_owned(),
            headers: headers.filter(|(name, _)| !SECRET.contains(&name.as_str())).collect(),
            address: shared.address(request.headers()),
            shown: Shown::of(request.headers(), request.uri().query()),
        }
    }

    /// Of a request that is no HTTP/1.1: its headers with names in lower case, and its query.
    pub(super) fn of_pairs(path: &str, headers: Vec<(String, String)>, query: Option<&str>, address: IpAddr) -> Head {
        let shown = Shown::of_pairs(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())), query);
        let headers = headers.into_iter().filter(|(name, _)| !SECRET.contains(&name.as_str())).collect();
        Head { path: path.to_owned(), headers, address, shown }
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
    let caller =
        Caller { head: upgrade.head, accepted: shared.accepted, tls: shared.tls, upgraded: upgrade.at, opened };
    match started {
        Ok(start) => {
            let audio = start.audio.unwrap_or(DEFAULT_AUDIO);
            let carriage = (Transport::Websocket, Carriage::Ordered);
            let admission = Box::new((admission, upgrade.behind));
            let link = Opened { line: Line::WebSocket(socket), dialect, carriage, audio, admission };
            call::run(node, worker, caller, start, link).await;
        }
        Err(refused) => call::refuse(node, Line::WebSocket(socket), dialect, refused).await,
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
