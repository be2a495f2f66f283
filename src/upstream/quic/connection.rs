//! One connection and the sessions on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::VarInt;
use tokio::time::Instant;

use super::inbox::Inbox;
use crate::dialect::native::quic::{Flow, read_flow};

/// How long a connection without sessions stays open for the next one; agents close it after 10 s.
const IDLE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const CHECK: Duration = Duration::from_secs(1);
/// The close code of an orderly end.
const NORMAL: VarInt = VarInt::from_u32(1000);

/// A connection that sessions share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) connection: quinn::Connection,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    inboxes: HashMap<Flow, Arc<Inbox>>,
    next: u64,
    /// Sessions that it takes at most.
    room: usize,
    /// Since when it has none.
    idle_since: Instant,
    closing: bool,
}

/// A session's place on a connection; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) flow: Flow,
    pub(super) inbox: Arc<Inbox>,
}

impl Shared {
    /// Takes a connection that has just been made, for so many sessions.
    pub fn new(connection: quinn::Connection, room: usize) -> Arc<Shared> {
        let state = State { inboxes: HashMap::new(), next: 0, room, idle_since: Instant::now(), closing: false };
        Arc::new(Shared { connection, state: Mutex::new(state) })
    }

    // Held for a few instructions, by tasks of one thread.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether sessions can still be opened on it.
    pub fn is_alive(&self) -> bool {
        !self.state().closing && self.connection.close_reason().is_none()
    }

    /// Takes a place on it, if one is free.
    pub fn take_place(self: &Arc<Self>) -> Option<Place> {
        if !self.is_alive() {
            return None;
        }
        let mut state = self.state();
        if state.inboxes.len() >= state.room {
            return None;
        }
        let flow = Flow::new(state.next)?;
        state.next += 1;
        let inbox = Arc::<Inbox>::default();
        state.inboxes.insert(flow, inbox.clone());
        drop(state);
        Some(Place { shared: self.clone(), flow, inbox })
    }

    /// The agent takes no more sessions on it than there are, the one that was just refused left out.
    pub fn note_full(&self) {
        let mut state = self.state();
        state.room = state.inboxes.len().saturating_sub(1).max(1);
    }

    /// Deals datagrams to their sessions until the connection ends, and ends it when nobody has used it for a while.
    pub async fn read(self: Arc<Self>) {
        tokio::select! {
            () = self.deal() => {}
            () = self.grow_idle() => {}
        }
    }

    async fn deal(&self) {
        while let Ok(datagram) = self.connection.read_datagram().await {
            // One of a session that has ended, or rubbish, which only costs its own sender.
            let Ok((flow, packet)) = read_flow(datagram) else { continue };
            let inbox = self.state().inboxes.get(&flow).cloned();
            if let Some(inbox) = inbox {
                inbox.push(packet);
            }
        }
    }

    async fn grow_idle(&self) {
        while !self.close_if_idle() {
            tokio::time::sleep(CHECK).await;
        }
    }

    fn close_if_idle(&self) -> bool {
        let mut state = self.state();
        let idle = state.inboxes.is_empty() && state.idle_since.elapsed() >= IDLE;
        if idle {
            state.closing = true;
            self.connection.close(NORMAL, b"");
        }
        idle
    }

    /// Sessions on it.
    pub fn sessions(&self) -> usize {
        self.state().inboxes.len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.inboxes.remove(&self.flow);
        if state.inboxes.is_empty() {
            state.idle_since = Instant::now();
        }
    }
}
