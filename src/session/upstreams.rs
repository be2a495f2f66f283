//! Which agent talks with the caller, which one stands by to take over, and which one would be next.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::agent::Capabilities;
use crate::ids::UpstreamId;
use crate::message::{AgentError, ContextItem, Ready, Usage};
use crate::session::account;
use crate::session::record::AgentEntry;
use crate::time::Micros;

/// Agents kept for the call record; in a call with more of them those in the middle are forgotten.
const MAX_ENTRIES: usize = 100;

/// An agent in use, or one that is kept ready to take over.
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
    /// When it was.
    pub ready_at: Option<Micros>,
    /// It was asked at its start to say something.
    pub asked: bool,
    /// What it was told at its start of the conversation so far.
    pub told: Vec<ContextItem>,
}

impl Active {
    fn new(id: UpstreamId, rung: usize, now: Micros) -> Active {
        Active {
            id,
            rung,
            dialled: now,
            capabilities: None,
            ready: None,
            ready_at: None,
            asked: false,
            told: Vec::new(),
        }
    }
}

/// The upstreams of one session.
#[derive(Debug, Default)]
pub struct Upstreams {
    active: Option<Active>,
    standby: Option<Active>,
    next: UpstreamId,
    last_rung: Option<usize>,
    entries: Vec<AgentEntry>,
    /// When the last entry began.
    since: Micros,
}

impl Upstreams {
    /// A number for one more upstream.
    pub fn take_id(&mut self) -> UpstreamId {
        let id = self.next;
        self.next = id.next();
        id
    }

    fn begin_entry(&mut self, name: &str, began: Micros, now: Micros) {
        if self.entries.len() == MAX_ENTRIES {
            self.entries.remove(MAX_ENTRIES / 2);
        }
        self.entries.push(AgentEntry {
            name: name.to_owned(),
            from_ms: now.since(began).as_millis() as u64,
            ready_after_ms: None,
            lasted_ms: 0,
            ended: None,
            usage: BTreeMap::new(),
            cost: None,
        });
        self.since = now;
    }

    /// Dials the agent on `rung`, whose name is for the call record.
    pub fn dial(&mut self, rung: usize, name: &str, began: Micros, now: Micros) -> UpstreamId {
        let id = self.take_id();
        self.last_rung = Some(rung);
        self.active = Some(Active::new(id, rung, now));
        self.begin_entry(name, began, now);
        id
    }

    /// Dials the agent on `rung` so that it can take over later.
    pub fn dial_standby(&mut self, rung: usize, now: Micros) -> UpstreamId {
        let id = self.take_id();
        self.standby = Some(Active::new(id, rung, now));
        id
    }

    /// The agent in use.
    pub fn active(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    /// The rung of the one in use, or of the last one that was.
    pub fn last_rung(&self) -> Option<usize> {
        self.last_rung
    }

    /// The one that is kept ready to take over.
    pub fn standby(&self) -> Option<&Active> {
        self.standby.as_ref()
    }

    /// Whether `upstream` is the one in use.
    pub fn is_active(&self, upstream: UpstreamId) -> bool {
        self.active.as_ref().is_some_and(|active| active.id == upstream)
    }

    /// Whether `upstream` is the one that is kept ready to take over.
    pub fn is_standby(&self, upstream: UpstreamId) -> bool {
        self.standby.as_ref().is_some_and(|standby| standby.id == upstream)
    }

    /// The one in use, once it is ready.
    pub fn ready(&self) -> Option<(UpstreamId, Capabilities)> {
        let active = self.active.as_ref().filter(|active| active.ready.is_some())?;
        Some((active.id, active.capabilities?))
    }

    /// The socket of an upstream is open, and it is told of the conversation so far; `asked`: to say something first.
    pub fn on_connected(
        &mut self,
        upstream: UpstreamId,
        capabilities: Capabilities,
        told: Vec<ContextItem>,
        asked: bool,
    ) {
        let both = [self.active.as_mut(), self.standby.as_mut()];
        if let Some(connected) = both.into_iter().flatten().find(|one| one.id == upstream) {
            connected.capabilities = Some(capabilities);
            connected.told = told;
            connected.asked = asked;
        }
    }

    /// The one in use is ready; how long that took.
    pub fn on_ready(&mut self, ready: Ready, now: Micros) -> Option<Duration> {
        let active = self.active.as_mut()?;
        active.ready = Some(ready);
        active.ready_at.get_or_insert(now);
        let took = now - active.dialled;
        if let Some(entry) = self.entries.last_mut() {
            entry.ready_after_ms = Some(took.as_millis() as u64);
        }
        Some(took)
    }

    /// The one that is kept ready is ready.
    pub fn on_standby_ready(&mut self, ready: Ready, now: Micros) {
        if let Some(standby) = &mut self.standby {
            standby.ready = Some(ready);
            standby.ready_at.get_or_insert(now);
        }
    }

    /// What the one in use announced when it was ready while it stood by, to be taken up now.
    pub fn take_ready(&mut self) -> Option<Ready> {
        self.active.as_mut()?.ready.take()
    }

    /// The one in use is gone.
    pub fn on_gone(&mut self, why: Option<&AgentError>, now: Micros) -> Option<Active> {
        let failure = |error: &AgentError| format!("{}: {}", error.class.label(), error.message);
        self.end_active(why.map_or_else(|| "ended".to_owned(), failure), now)
    }

    fn end_active(&mut self, why: String, now: Micros) -> Option<Active> {
        let active = self.active.take()?;
        if let Some(entry) = self.entries.last_mut() {
            entry.lasted_ms = now.since(self.since).as_millis() as u64;
            entry.ended = Some(why);
        }
        Some(active)
    }

    /// The one that is kept ready is gone.
    pub fn take_standby(&mut self) -> Option<Active> {
        self.standby.take()
    }

    /// The one that was kept ready is the one in use from now on; gives the one before, if it is still there.
    /// `why` is for the call record.
    pub fn promote(&mut self, name: &str, why: &str, began: Micros, now: Micros) -> Option<Active> {
        let before = self.end_active(why.to_owned(), now);
        if let Some(standby) = self.standby.take() {
            self.last_rung = Some(standby.rung);
            self.begin_entry(name, began, now);
            self.active = Some(standby);
        }
        before
    }

    /// The one in use reports what it used.
    pub fn on_usage(&mut self, usage: &Usage) {
        if let Some(entry) = self.entries.last_mut() {
            account::add(&mut entry.usage, usage);
        }
    }

    /// The one in use was told so much of the conversation, which another one had been told before: its length in
    /// characters; 0 for the first one, to which all is new.
    pub fn on_replayed(&mut self, told: &[ContextItem]) -> u32 {
        if self.entries.len() < 2 {
            return 0;
        }
        let chars = told.iter().map(|item| item.text.chars().count() as u32).sum();
        if let Some(entry) = self.entries.last_mut() {
            account::add_replayed(&mut entry.usage, chars);
        }
        chars
    }

    /// For the call record.
    pub fn entries(&self, now: Micros) -> Vec<AgentEntry> {
        let mut entries = self.entries.clone();
        if let Some(entry) = entries.last_mut().filter(|_| self.active.is_some()) {
            entry.lasted_ms = now.since(self.since).as_millis() as u64;
        }
        entries
    }
}
