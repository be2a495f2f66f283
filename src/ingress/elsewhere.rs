//! A link for a session that another node has: its resume token says which.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::admit::{self, Refused};
use super::http::SESSION_PATH;
use super::websocket::Head;
use crate::agent::{Endpoint, Wire};
use crate::cluster::Peer;
use crate::dialect::native::SUBPROTOCOL;
use crate::message::{Error, ErrorCode, Start};
use crate::runtime::node::Node;
use crate::runtime::websocket::{Received, SocketError, WebSocket};
use crate::upstream::Socket;

/// Digits of a token that name the node which made it; those that nobody can guess follow.
const NODE_DIGITS: usize = 16;
/// For name, TCP, TLS and upgrade of another node.
const CONNECT: Duration = Duration::from_secs(2);
/// A side is not read while so many bytes wait for the other.
const BACKLOG: usize = 64 << 10;
/// Messages of one side in a row.
const TURN: usize = 32;

/// A token for the next link of a session; where there are other nodes, it names this one.
pub(super) fn resume_token(node: &Node) -> String {
    if node.cluster.is_shared() { format!("{}{}", node.cluster.id(), admit::secret()) } else { admit::secret() }
}

/// The node that made a token, if that is another one which lives.
pub(super) fn owner(node: &Node, token: &str) -> Option<Peer> {
    let id = token.get(..NODE_DIGITS).filter(|id| node.cluster.is_shared() && *id != node.cluster.id())?;
    node.cluster.peer(id)
}

/// Tells a client where its session is.
pub(super) fn moved(peer: &Peer) -> Refused {
    let url = peer.url.clone();
    let where_to = if url.is_some() { "resume at `url`" } else { "connect again" };
    let message = format!("another node has this session; {where_to}");
    Refused::from(Error { url, retryable: true, ..Error::new(ErrorCode::Misdirected, message) })
}

/// Connects to the node that has the session, and says there what the client has said here; `None` if it cannot be
/// reached.
pub(super) async fn connect(node: &Node, worker: usize, there: &Peer, head: &Head, start: &Start) -> Option<WebSocket> {
    let base = there.url.as_ref()?.replacen("http", "ws", 1);
    let mut endpoint = Endpoint::new(format!("{base}{SESSION_PATH}").parse().ok()?, CONNECT);
    endpoint.subprotocols = vec![SUBPROTOCOL.to_owned()];
    let origin = head.headers.iter().filter(|(name, _)| name == "origin");
    endpoint.headers = origin.map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let Ok(Socket::WebSocket(mut socket)) = node.dialer(worker).dial(endpoint).await else {
        tracing::warn!(node = there.id, "the node that has a session cannot be reached; its client is sent there");
        return None;
    };
    let start = Start { token: start.token.clone().or_else(|| head.shown.handed_on()), ..start.clone() };
    let mut said = serde_json::to_value(start).ok()?;
    said["type"] = "start".into();
    socket.try_push(Wire::Text(said.to_string())).ok()?;
    Some(socket)
}

/// Hands everything on between a client and the node that has its session, until one of them ends.
pub(super) async fn hand_on(node: &Node, mut client: WebSocket, mut other: WebSocket) {
    let end = tokio::select! {
        end = poll_fn(|cx| poll_both(&mut client, &mut other, cx)) => end,
        () = node.stopping.cancelled() => (1012, "draining".to_owned()),
    };
    tokio::join!(client.close(end.0, &end.1), other.close(end.0, &end.1));
}

/// Ready with the code and the reason of the end.
fn poll_both(client: &mut WebSocket, other: &mut WebSocket, cx: &mut Context<'_>) -> Poll<(u16, String)> {
    loop {
        let up = poll_one(client, other, cx);
        let down = poll_one(other, client, cx);
        match (up, down) {
            (Poll::Ready(Some(end)), _) | (_, Poll::Ready(Some(end))) => return Poll::Ready(end),
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            _ => {}
        }
    }
}

/// Hands on what `from` says. Ready: with its end, or because there may be more.
fn poll_one(from: &mut WebSocket, to: &mut WebSocket, cx: &mut Context<'_>) -> Poll<Option<(u16, String)>> {
    let mut carried = 0;
    let end = loop {
        if to.backlog() >= BACKLOG || carried >= TURN {
            break None;
        }
        let received = match from.poll_receive(cx) {
            Poll::Pending => break None,
            Poll::Ready(received) => received,
        };
        carried += 1;
        match received {
            Ok(Received::Wire(Wire::Close(code, reason))) => break Some((code, reason)),
            Ok(Received::Wire(wire)) => match to.try_push(wire) {
                Ok(()) => {}
                Err(_) => break Some((1013, "it does not read".to_owned())),
            },
            Ok(Received::Ping | Received::Pong(_)) => {}
            Err(SocketError::Lost(_)) => break Some((1001, "the other side is lost".to_owned())),
            Err(SocketError::Violation(_)) => break Some((4400, "the WebSocket protocol was broken".to_owned())),
        }
    };
    match (end, to.poll_flush(cx)) {
        (Some(end), _) => Poll::Ready(Some(end)),
        (None, Poll::Ready(Err(_))) => Poll::Ready(Some((1001, "the other side is lost".to_owned()))),
        (None, _) if carried >= TURN => Poll::Ready(None),
        (None, _) => Poll::Pending,
    }
}
