//! From a client's `start` to a running session, whatever it travels on.

use std::sync::Arc;

use super::admit::{self, Caller, Refused};
use crate::dialect::Dialect;
use crate::message::{AudioFormats, CloseReason, Error, ErrorCode, Start, ToClient};
use crate::runtime::line::Line;
use crate::runtime::node::Node;
use crate::runtime::registry::NewLink;
use crate::runtime::worker::Worker;
use crate::session::{Carriage, Transport};
use crate::telemetry::Refusal;

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
        let _ = line.try_push(dialect.as_mut(), None, &ToClient::Error(error));
    }
    line.close(refused.close_code, &why).await;
}

/// Why a node that drains takes no session.
pub(super) fn draining() -> Refused {
    let message = "this node is going down; connect again";
    let error = Error { retryable: true, retry_after_ms: Some(1000), ..Error::new(ErrorCode::Overloaded, message) };
    Refused::from(error).with(CloseReason::Draining.code(), Refusal::Draining)
}

/// Begins a session and runs it to its end, or brings the link to the session that it resumes.
pub(super) async fn run(node: &Arc<Node>, worker: Arc<Worker>, caller: Caller, start: Start, opened: Opened) {
    let Opened { line, dialect, carriage, audio, admission } = opened;
    if node.is_draining() {
        return refuse(node, line, dialect, draining()).await;
    }
    let info = match admit::link(&start, audio, carriage) {
        Ok(info) => info,
        Err(refused) => return refuse(node, line, dialect, refused).await,
    };
    let link = NewLink { line, dialect, info, worker: worker.index, admission };
    let refused = match start.resume.clone() {
        Some(token) => match admit::can_resume(node, &caller, &start, token).await {
            Ok(claim) => admit::resume(node, &claim, Box::new(link)).err(),
            Err(refused) => Some((Box::new(link), refused)),
        },
        None => match admit::admit(node, &worker, &caller, start, &link.info).await {
            Ok(admitted) => return admitted.run(node, link).await,
            Err(refused) => Some((Box::new(link), refused)),
        },
    };
    if let Some((link, refused)) = refused {
        refuse(node, link.line, link.dialect, refused).await;
    }
}
