//! Tools that are run by a signed POST, on the control runtime.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::config::settings::ToolRun;
use crate::ids::CallId;
use crate::message::{AgentError, FailureClass};
use crate::session::{ToolAnswer, ToolPost};
use crate::upstream::exchange::{Answer, Call};

use super::Driver;

/// Bytes of an answer at most.
const MAX_ANSWER: usize = 64 << 10;
/// The session's own clock ends a call before this has passed beyond its time.
const GRACE: Duration = Duration::from_secs(1);

/// A call that runs; it is broken off when dropped.
pub(super) struct Running {
    call_id: CallId,
    exchange: AbortOnDropHandle<Result<Answer, AgentError>>,
}

impl Running {
    /// Lets it run to its end though nobody waits for its answer any more.
    pub(super) fn detach(self) {
        drop(self.exchange.detach());
    }
}

impl Driver {
    pub(super) fn run_tool(&mut self, post: ToolPost) {
        let ToolPost { call_id, tool, key, body } = post;
        let Some(ToolRun::Http { url, secret, timeout }) = self.plan.tools.values().nth(tool).map(|tool| &tool.run)
        else {
            return;
        };
        let now = self.around.clock.unix_seconds(Duration::ZERO);
        let mut call = Call::post(url.clone(), body, secret.as_ref(), now, *timeout + GRACE, MAX_ANSWER);
        call.headers.push(("idempotency-key".to_owned(), key.into()));
        let exchange = self.around.tools.begin(call);
        self.tools.push(Running { call_id, exchange });
        // It has to be polled once to wake this task.
        self.turn.again = true;
    }

    pub(super) fn abort_tool(&mut self, call_id: &CallId) {
        self.tools.retain(|running| running.call_id != *call_id);
    }

    pub(super) fn poll_tools(&mut self, cx: &mut Context<'_>) {
        let mut index = 0;
        while let Some(running) = self.tools.get_mut(index) {
            let Poll::Ready(ended) = Pin::new(&mut running.exchange).poll(cx) else {
                index += 1;
                continue;
            };
            let Running { call_id, .. } = self.tools.swap_remove(index);
            let answer = match ended {
                Ok(Ok(answer)) => {
                    if !answer.status.is_success() {
                        tracing::warn!(call = %call_id, status = answer.status.as_u16(), "a tool refused its call or failed");
                    }
                    ToolAnswer::Answered { status: answer.status.as_u16(), body: answer.body }
                }
                Ok(Err(error)) => {
                    tracing::warn!(call = %call_id, class = error.class.label(), "cannot run a tool: {}", error.message);
                    ToolAnswer::Failed(error.class)
                }
                Err(error) => {
                    tracing::error!(call = %call_id, "what runs a tool has failed: {error}");
                    ToolAnswer::Failed(FailureClass::Internal)
                }
            };
            let now = self.around.clock.now();
            self.session.on_tool(&call_id, &answer, now);
            self.drain(now);
        }
    }
}
