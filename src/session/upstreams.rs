//! Which agent talks with the caller, and which one would be next.

use std::time::Duration;

use crate::agent::Capabilities;
use crate::ids::UpstreamId;
use crate::message::{AgentError, Ready};
use crate::session::record::AgentEntry;
use crate::time::Micros;

/// The agent in use.
#[derive(Debug)]
pub struct Active {
    /// Its number.
    pub id: UpstreamId,
    /// Index into the plan's rungs.
    pub rung: usize,
    /// When it was dialled.
    pub dialled: Micros,
    /// Known once the socket is open.
    pub capabilities: Option<Capabilities>,
    /// Known once it is ready.
    pub ready: Option<Ready>,
}

/// The upstreams of one session.
#[derive(Debug, Default)]
pub struct Upstreams {
    active: Option<Active>,
    next: UpstreamId,
    entries: Vec<AgentEntry>,
}

impl Upstreams {
    /// Dials the agent on `rung`, whose name is for the call record.
    pub fn dial(&mut self, rung: usize, name: &str, began: Micros, now: Micros) -> UpstreamId {
        let id = self.next;
        self.next = id.next();
        self.active = Some(Active { id, rung, dialled: now, capabilities: None, ready: None });
        self.entries.push(AgentEntry {
            name: name.to_owned(),
            from_ms: now.since(began).as_millis() as u64,
            ready_after_ms: None,
            ended: None,
        });
        id
    }

    /// The agent in use.
    pub fn active(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    /// Whether `upstream` is the one in use.
    pub fn is_active(&self, upstream: UpstreamId) -> bool {
        self.active.as_ref().is_some_and(|active| active.id == upstream)
    }

    /// The one in use, once it is ready.
    pub fn ready(&self) -> Option<(UpstreamId, Capabilities)> {
        let active = self.active.as_ref().filter(|active| active.ready.is_some())?;
        Some((active.id, active.capabilities?))
    }

    /// The socket of the one in use is open.
    pub fn on_connected(&mut self, capabilities: Capabilities) {
        if let Some(active) = &mut self.active {
            active.capabilities = Some(capabilities);
        }
    }

    /// The one in use is ready; how long that took.
    pub fn on_ready(&mut self, ready: Ready, now: Micros) -> Option<Duration> {
        let active = self.active.as_mut()?;
        active.ready = Some(ready);
        let took = now - active.dialled;
        if let Some(entry) = self.entries.last_mut() {
            entry.ready_after_ms = Some(took.as_millis() as u64);
        }
        Some(took)
    }

    /// The one in use is gone; gives its rung.
    pub fn on_gone(&mut self, why: Option<&AgentError>) -> Option<Active> {
        let active = self.active.take()?;
        if let Some(entry) = self.entries.last_mut() {
            let failure = |error: &AgentError| format!("{}: {}", error.class.label(), error.message);
            entry.ended = Some(why.map_or_else(|| "ended".to_owned(), failure));
        }
        Some(active)
    }

    /// For the call record.
    pub fn entries(&self) -> &[AgentEntry] {
        &self.entries
    }
}
