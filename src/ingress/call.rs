//! From a client's `start` to a running session, whatever it travels on.

use std::sync::Arc;

use super::admit::{self, Caller, Refused};
use super::elsewhere;
use crate::auth::Use;
use crate::config::settings::Elsewhere;
use crate::dialect::Dialect;
use crate::message::{AudioFormats, CloseReason, Error, ErrorCode, Start, ToClient};
use crate::runtime::line::Line;
use crate::runtime::node::Node;
use crate::runtime::registry::NewLink;
use crate::runtime::worker::Worker;
use crate::session::{Carriage, Transport};
use crate::telemetry::{Refusal, ResumeOutcome};

/// A line on which `start` was said.
pub(super) struct Opened {
    pub(super) line: Line,
    pub(super) dialect: Box<dyn Dialect>,
    pub(super) carriage: (Transport, Carriage),
    pub(super) audio: AudioFormats,
    /// Given back when the link is gone.
    pub(super) admission: Box<dyn Send>,
}

/// Tells the client why there is no session for it.
pub(super) async fn refuse(node: &Node, mut line: Line, mut dialect: Box<dyn Dialect>, refused: Refused) {
    node.telemetry.node().record_refusal(refused.refusal);
    let mut why = refused.refusal.label().to_owned();
    if let Some(error) = refused.error {
        why = error.reason.clone().unwrap_or(why);
        let _ = line.try_push(dialect.as_mut(), None, &ToClient::Error(*error));
    }
    line.close(refused.close_code, &why).await;
}

/// Why a node that drains takes no session.
pub(super) fn draining() -> Refused {
    let message = "this node is going down; connect again";
    let error = Error { retryable: true, retry_after_ms: Some(1000), ..Error::new(ErrorCode::Overloaded, message) };
    Refused::from(error).with(CloseReason::Draining.code(), Refusal::Draining)
}

/// Serves the client through here where another node has its session and the operator wants it so; gives the line back
/// where it is not so, or that node cannot be reached. No node is dialled for somebody whom this one would not let in.
async fn hand_on(
    node: &Node,
    worker: &Worker,
    caller: &Caller,
    start: &Start,
    line: Line,
) -> Result<Option<Line>, (Line, Refused)> {
    let peer = start.resume.as_deref().and_then(|token| elsewhere::owner(node, token));
    let wanted = node.in_force.load().settings.node.elsewhere == Elsewhere::Forward;
    match (line, peer.filter(|_| wanted)) {
        (Line::WebSocket(client), Some(peer)) => {
            if let Err(refused) = caller.identify(node, start.token.as_deref(), Use::Resume).await {
                node.telemetry.node().record_resume(ResumeOutcome::Refused);
                return Err((Line::WebSocket(client), refused));
            }
            let Some(other) = elsewhere::connect(node, worker.index, &peer, &caller.head, start).await else {
                return Ok(Some(Line::WebSocket(client)));
            };
            node.telemetry.node().record_resume(ResumeOutcome::OtherNode);
            elsewhere::hand_on(node, client, other).await;
            Ok(None)
        }
        (line, _) => Ok(Some(line)),
    }
}

/// Begins a session and runs it to its end, or brings the link to the session that it resumes.
pub(super) async fn run(node: &Arc<Node>, worker: Arc<Worker>, caller: Caller, start: Start, opened: Opened) {
    let Opened { line, dialect, carriage, audio, admission } = opened;
    if node.is_draining() {
        return refuse(node, line, dialect, draining()).await;
    }
    let line = match hand_on(node, &worker, &caller, &start, line).await {
        Ok(Some(line)) => line,
        Ok(None) => return,
        Err((line, refused)) => return refuse(node, line, dialect, refused).await,
    };
    let info = match admit::link(node, &start, audio, carriage) {
        Ok(info) => info,
        Err(refused) => return refuse(node, line, dialect, refused).await,
    };
    let link = NewLink { line, dialect, info, worker: worker.index, admission };
    let refused = match start.resume.clone() {
        Some(token) => match admit::can_resume(node, &caller, &start, token).await {
            Ok(claim) => admit::resume(node, &claim, Box::new(link)).err(),
            Err(refused) => Some((Box::new(link), refused)),
        },
        None => match admit::admit(node, &worker, caller, start, &link.info).await {
            Ok(admitted) => return admitted.run(node, link).await,
            Err(refused) => Some((Box::new(link), refused)),
        },
    };
    if let Some((link, refused)) = refused {
        refuse(node, link.line, link.dialect, refused).await;
    }
}
