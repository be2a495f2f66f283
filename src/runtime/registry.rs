//! Which sessions run here, how to reach them, and the tokens that lead back to them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use crate::dialect::Dialect;
use crate::ids::SessionId;
use crate::limit::Links;
use crate::runtime::line::Line;
use crate::session::{Command, LinkInfo};
use crate::upstream::breaker::Breakers;

/// Messages waiting in a session's mailbox at most.
const MAILBOX: usize = 16;

/// What reaches a running session from outside of its own sockets.
pub enum Mail {
    /// From the operator or the runtime.
    Command(Command),
    /// A new link that resumes it.
    Attach(Box<NewLink>),
}

/// A link whose first message has been understood.
pub struct NewLink {
    /// What it travels on; that may belong to another worker, and is polled across threads then.
    pub line: Line,
    /// Its language.
    pub dialect: Box<dyn Dialect>,
    /// What the session is told.
    pub info: LinkInfo,
    /// The worker that accepted it.
    pub worker: usize,
    /// Given back when the link is gone.
    pub admission: Box<dyn Send>,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mail::Command(command) => command.fmt(f),
            Mail::Attach(link) => f.debug_tuple("Attach").field(&link.info).finish(),
        }
    }
}

/// All sessions of this process. Touched at admission, resume and end only, never per frame.
#[derive(Debug, Default)]
pub struct Registry {
    state: Mutex<State>,
    breakers: Arc<Breakers>,
    /// Sessions without a link.
    waiting: AtomicUsize,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<SessionId, Entry>,
    tokens: HashMap<String, SessionId>,
}

#[derive(Debug)]
struct Entry {
    mailbox: mpsc::Sender<Mail>,
    token: String,
    principal: Arc<str>,
    links: Arc<Links>,
}

/// Why a resume token leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// Unknown, used already, or its session has ended.
    #[error("the resume token is unknown, was used, or its session has ended; start a new session")]
    Unknown,
    /// It belongs to somebody else.
    #[error("the resume token belongs to another caller")]
    Principal,
}

impl Registry {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single map operation: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a session; it leaves when the seat is dropped.
    pub fn enter(
        self: &Arc<Self>,
        id: SessionId,
        token: String,
        principal: Arc<str>,
        links: Links,
    ) -> (Seat, mpsc::Receiver<Mail>) {
        let (mailbox, mail) = mpsc::channel(MAILBOX);
        let mut state = self.state();
        state.tokens.insert(token.clone(), id.clone());
        state.sessions.insert(id.clone(), Entry { mailbox, token, principal, links: Arc::new(links) });
        (Seat { registry: self.clone(), id, waits: false }, mail)
    }

    /// Uses up a resume token and gives the mailbox of its session; `next` is the token of the new link.
    ///
    /// # Errors
    /// If it is not valid for `principal`. A token that somebody else shows stays valid for its owner.
    pub fn resume(&self, token: &str, principal: &str, next: &str) -> Result<mpsc::Sender<Mail>, ResumeError> {
        let mut state = self.state();
        let id = state.tokens.get(token).cloned().ok_or(ResumeError::Unknown)?;
        let entry = state.sessions.get_mut(&id).ok_or(ResumeError::Unknown)?;
        if &*entry.principal != principal {
            return Err(ResumeError::Principal);
        }
        entry.token = next.to_owned();
        let mailbox = entry.mailbox.clone();
        state.tokens.remove(token);
        state.tokens.insert(next.to_owned(), id);
        Ok(mailbox)
    }

    /// Whether [`Registry::resume`] would find a session; the token stays valid.
    ///
    /// # Errors
    /// As for [`Registry::resume`].
    pub fn can_resume(&self, token: &str, principal: &str) -> Result<(), ResumeError> {
        let state = self.state();
        let id = state.tokens.get(token).ok_or(ResumeError::Unknown)?;
        let entry = state.sessions.get(id).ok_or(ResumeError::Unknown)?;
        if &*entry.principal == principal { Ok(()) } else { Err(ResumeError::Principal) }
    }

    /// What counts the links of the session that a resume token leads to.
    pub fn links(&self, token: &str) -> Option<Arc<Links>> {
        let state = self.state();
        Some(state.sessions.get(state.tokens.get(token)?)?.links.clone())
    }

    /// Sessions that run now.
    pub fn len(&self) -> usize {
        self.state().sessions.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mailboxes of all sessions.
    pub fn mailboxes(&self) -> Vec<mpsc::Sender<Mail>> {
        self.state().sessions.values().map(|entry| entry.mailbox.clone()).collect()
    }

    /// Whether a session has lost its client and waits for it.
    pub fn awaits_clients(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Resolves when the last session has left.
    pub async fn empty(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// The breakers of the agents.
    pub fn breakers(&self) -> &Arc<Breakers> {
        &self.breakers
    }
}

/// A session's place in the registry.
#[derive(Debug)]
pub struct Seat {
    registry: Arc<Registry>,
    id: SessionId,
    waits: bool,
}

impl Seat {
    /// The registry that it belongs to.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The session.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Whether the session has no link and waits for one.
    pub fn set_waiting(&mut self, waits: bool) {
        match (std::mem::replace(&mut self.waits, waits), waits) {
            (false, true) => _ = self.registry.waiting.fetch_add(1, Relaxed),
            (true, false) => _ = self.registry.waiting.fetch_sub(1, Relaxed),
            _ => {}
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.set_waiting(false);
        let mut state = self.registry.state();
        if let Some(entry) = state.sessions.remove(&self.id) {
            state.tokens.remove(&entry.token);
        }
        drop(state);
        self.registry.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_token_works_once_and_only_for_its_owner() {
        let registry = Arc::new(Registry::default());
        let (mut seat, _mail) = registry.enter("s".into(), "first".into(), "ann".into(), Links::default());
        assert_eq!(registry.resume("first", "bob", "x").unwrap_err(), ResumeError::Principal);
        assert_eq!(registry.can_resume("first", "bob").unwrap_err(), ResumeError::Principal);
        registry.can_resume("first", "ann").unwrap();
        registry.resume("first", "ann", "second").unwrap();
        assert_eq!(registry.resume("first", "ann", "x").unwrap_err(), ResumeError::Unknown);
        registry.resume("second", "ann", "third").unwrap();
        assert!(!registry.awaits_clients());
        seat.set_waiting(true);
        assert!(registry.awaits_clients());
        drop(seat);
        assert!(!registry.awaits_clients());
        assert_eq!(registry.resume("third", "ann", "x").unwrap_err(), ResumeError::Unknown);
        assert!(registry.is_empty());
    }
}
