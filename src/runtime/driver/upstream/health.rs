//! How agents are: what becomes of attempts tells their breakers, and pings find the servers that died without a word.

use bytes::Bytes;

use crate::ids::{AgentName, UpstreamId};
use crate::message::{AgentError, FailureClass, FromAgent};
use crate::session::{UpstreamChange, UpstreamRole};
use crate::time::Micros;
use crate::upstream::Socket;
use crate::upstream::breaker::Attempt;

use super::super::heartbeat::Beat;
use super::super::{Driver, Happened};
use super::{Channel, Upstream};

impl Driver {
    pub(super) fn record_attempt(&self, agent: &AgentName, result: &'static str, now: Micros) {
        let breaker = self.around.seat.registry().breakers().state(agent, now);
        self.around.metrics.record_attempt(agent, result, breaker);
    }

    /// What an agent says tells its breaker how it is.
    pub(super) fn settle_attempt(&mut self, id: UpstreamId, event: &FromAgent, now: Micros) {
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.id == id) else { return };
        let Some(attempt) = &mut upstream.attempt else { return };
        let answers = matches!(
            event,
            FromAgent::Audio(_)
                | FromAgent::TurnStarted(_)
                | FromAgent::Delta(_)
                | FromAgent::Message(_)
                | FromAgent::ToolCall(_)
        );
        let newly = matches!(event, FromAgent::Ready(_)) && attempt.ready();
        // Nothing is asked of a tap that it could answer.
        if answers || (newly && upstream.role == UpstreamRole::Tap) {
            upstream.attempt.take().into_iter().for_each(Attempt::succeed);
        }
        if newly {
            let name = upstream.name.clone();
            self.record_attempt(&name, "ready", now);
        }
    }

    /// An upstream has failed: its agent's breaker counts it if it never answered.
    pub(in crate::runtime::driver) fn give_up(&self, upstream: &mut Upstream, now: Micros) {
        if let Some(attempt) = upstream.attempt.take() {
            let chance = (self.around.seed >> 11) as f64 / (1u64 << 53) as f64;
            let result = if attempt.is_ready() { "unanswered" } else { "failed" };
            attempt.fail(chance, now);
            self.record_attempt(&upstream.name, result, now);
        }
    }

    /// Sends the pings that are due to agents, and gives up those that answered none; whether there was such an agent.
    pub(in crate::runtime::driver) fn keep_agents_alive(&mut self, now: Micros) -> bool {
        let mut lost = false;
        for upstream in &mut self.upstreams {
            let (Some(heartbeat), Channel::Open(Socket::WebSocket(socket))) =
                (&mut upstream.heartbeat, &mut upstream.channel)
            else {
                continue;
            };
            match heartbeat.beat(now) {
                Beat::Wait => {}
                // If it cannot be pushed, it is never answered.
                Beat::Ping => drop(socket.try_ping(Bytes::new())),
                Beat::Lost => {
                    lost = true;
                    let message = "nothing came from the agent's server, not even the answer to a ping".into();
                    let error = AgentError { class: FailureClass::Lost, code: None, message };
                    self.happened.push_back(Happened::Upstream(upstream.id, UpstreamChange::Failed(error)));
                }
            }
        }
        lost
    }
}
