//! Which datagram belongs to whom: answers that wait for their peer, and peers by ICE user name and by address.
//!
//! Looked at for STUN requests and for addresses that a worker does not know; all else is found in the worker's own
//! table.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::link::Way;
use super::{Credentials, Path, PeerError};
use crate::time::Micros;

/// Datagrams waiting for a session at most: more than a second of audio.
const INBOX: usize = 64;
/// Answers that wait for their peer at most.
const MAX_PARKED: usize = 1024;

/// A datagram on its way to its session.
#[derive(Debug)]
pub struct Datagram {
    /// When the kernel received it.
    pub at: Micros,
    /// Between which addresses it travelled.
    pub path: Path,
    /// How to answer it.
    pub way: Way,
    /// Its payload.
    pub bytes: Bytes,
}

/// What reaches a peer's link from outside.
#[derive(Debug)]
pub enum Inbound {
    /// From the network.
    Datagram(Datagram),
    /// The client's signalling restarts ICE.
    Restart {
        /// The peer's new credentials.
        peer: Credentials,
        /// Gets ours.
        reply: oneshot::Sender<Result<Credentials, PeerError>>,
    },
    /// The client's signalling ends the session.
    Hangup,
}

/// How to reach a peer's link.
#[derive(Clone, Debug)]
pub struct Route {
    /// The worker whose task owns it.
    pub worker: usize,
    number: u64,
    inbox: mpsc::Sender<Inbound>,
}

impl Route {
    /// Hands something over; gives it back if the inbox is full or the peer is gone.
    ///
    /// # Errors
    /// As tokio's channel.
    #[allow(clippy::result_large_err, reason = "what was not taken is looked at by the caller")]
    pub fn try_send(&self, inbound: Inbound) -> Result<(), mpsc::error::TrySendError<Inbound>> {
        self.inbox.try_send(inbound)
    }

    /// Resolves when the peer is gone.
    pub async fn closed(&self) {
        self.inbox.closed().await;
    }
}

/// An answer that waits for its peer, of the type that the ingress makes.
struct Waiting<P> {
    parked: P,
    resource: String,
    expires: Micros,
}

/// The tables of one process.
pub struct Switchboard<P> {
    state: Mutex<State<P>>,
    /// Grows whenever an address may mean somebody else.
    version: AtomicU64,
}

struct State<P> {
    waiting: HashMap<String, Waiting<P>>,
    peers: HashMap<String, Route>,
    addresses: HashMap<SocketAddr, Route>,
    /// By the last part of the URL that the client got; with the ICE user name now in use.
    resources: HashMap<String, (Route, String)>,
    next: u64,
}

impl<P> std::fmt::Debug for Switchboard<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("Switchboard").field("waiting", &state.waiting.len()).field("peers", &state.peers.len()).finish()
    }
}

impl<P> Default for Switchboard<P> {
    fn default() -> Self {
        let state = State {
            waiting: HashMap::new(),
            peers: HashMap::new(),
            addresses: HashMap::new(),
            resources: HashMap::new(),
            next: 0,
        };
        Switchboard { state: Mutex::new(state), version: AtomicU64::new(0) }
    }
}

/// What a STUN user name leads to.
pub enum Lookup {
    /// A peer that runs.
    Peer(Route),
    /// An answer that waits and takes this request.
    Waiting,
    /// Nobody, or nobody who takes this request.
    Nobody,
}

impl<P> Switchboard<P> {
    fn state(&self) -> MutexGuard<'_, State<P>> {
        // Every change is a few map operations that do not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer until its peer's first STUN request or until it expires.
    ///
    /// # Errors
    /// If too many wait already; the answer is given back.
    pub fn park(&self, ufrag: String, resource: String, parked: P, now: Micros, expires: Micros) -> Result<(), P> {
        let mut state = self.state();
        if state.waiting.len() >= MAX_PARKED {
            state.waiting.retain(|_, waiting| waiting.expires > now);
        }
        if state.waiting.len() >= MAX_PARKED {
            return Err(parked);
        }
        state.waiting.insert(ufrag, Waiting { parked, resource, expires });
        Ok(())
    }

    /// Answers that wait.
    pub fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Drops the answers whose peers never came; tells how many.
    pub fn expire(&self, now: Micros) -> usize {
        let mut state = self.state();
        let before = state.waiting.len();
        state.waiting.retain(|_, waiting| waiting.expires > now);
        before - state.waiting.len()
    }

    /// What a STUN request for `ufrag` leads to; `accepts` checks its integrity.
    pub fn look_up(&self, ufrag: &str, accepts: impl FnOnce(&P) -> bool) -> Lookup {
        let state = self.state();
        if let Some(route) = state.peers.get(ufrag) {
            return Lookup::Peer(route.clone());
        }
        match state.waiting.get(ufrag) {
            Some(waiting) if accepts(&waiting.parked) => Lookup::Waiting,
            _ => Lookup::Nobody,
        }
    }

    /// Takes the answer that waits for `ufrag`, and makes its peer reachable on `worker`, datagrams from `source`
    /// included. The place is given up when it is dropped.
    pub fn take(self: &Arc<Self>, ufrag: &str, source: Option<SocketAddr>, worker: usize) -> Option<(P, Place<P>)> {
        let mut state = self.state();
        let Waiting { parked, resource, .. } = state.waiting.remove(ufrag)?;
        let (inbox, inbound) = mpsc::channel(INBOX);
        let route = Route { worker, number: state.next, inbox };
        state.next += 1;
        state.peers.insert(ufrag.to_owned(), route.clone());
        state.resources.insert(resource.clone(), (route.clone(), ufrag.to_owned()));
        if let Some(source) = source {
            state.addresses.insert(source, route.clone());
        }
        self.version.fetch_add(1, Relaxed);
        let place = Place {
            board: self.clone(),
            ufrags: vec![ufrag.to_owned()],
            resource,
            addresses: source.into_iter().collect(),
            route,
            inbound,
        };
        Some((parked, place))
    }

    /// Who sends from this address.
    pub fn find(&self, source: &SocketAddr) -> Option<Route> {
        self.state().addresses.get(source).cloned()
    }

    /// Changes whenever a worker's own table may be wrong.
    pub fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// The peer of a signalling resource.
    pub fn resource(&self, id: &str) -> Resource {
        let state = self.state();
        if let Some((route, ufrag)) = state.resources.get(id) {
            return Resource::Peer(route.clone(), ufrag.clone());
        }
        let waiting = state.waiting.iter().find(|(_, waiting)| waiting.resource == id);
        waiting.map_or(Resource::Nobody, |(ufrag, _)| Resource::Waiting(ufrag.clone()))
    }

    /// Drops an answer that waits.
    pub fn forget(&self, ufrag: &str) {
        self.state().waiting.remove(ufrag);
    }
}

/// What a signalling resource stands for.
pub enum Resource {
    /// A peer that runs, and the ICE user name that it uses now.
    Peer(Route, String),
    /// An answer that waits, by its ICE user name.
    Waiting(String),
    /// Nothing, or nothing any more.
    Nobody,
}

/// Where a peer's link gives itself to be found, whatever the parked type.
pub trait Seated: Send {
    /// What arrives for it.
    fn inbound(&mut self) -> &mut mpsc::Receiver<Inbound>;
    /// Its peer has proved to send datagrams from `source`.
    fn claim(&mut self, source: SocketAddr);
    /// It is found by this user name too.
    fn rename(&mut self, ufrag: &str);
}

/// A peer's entries in the switchboard, taken out when it is dropped.
pub struct Place<P> {
    board: Arc<Switchboard<P>>,
    ufrags: Vec<String>,
    resource: String,
    addresses: Vec<SocketAddr>,
    route: Route,
    inbound: mpsc::Receiver<Inbound>,
}

/// Addresses that one peer may have at once; the oldest go first.
const MAX_ADDRESSES: usize = 8;

impl<P> Place<P> {
    /// How to reach it.
    pub fn route(&self) -> &Route {
        &self.route
    }
}

impl<P: Send> Seated for Place<P> {
    fn inbound(&mut self) -> &mut mpsc::Receiver<Inbound> {
        &mut self.inbound
    }

    fn claim(&mut self, source: SocketAddr) {
        let mut state = self.board.state();
        if state.addresses.get(&source).is_some_and(|route| route.number == self.route.number) {
            return;
        }
        state.addresses.insert(source, self.route.clone());
        self.addresses.retain(|&known| known != source);
        self.addresses.push(source);
        if self.addresses.len() > MAX_ADDRESSES {
            let oldest = self.addresses.remove(0);
            if state.addresses.get(&oldest).is_some_and(|route| route.number == self.route.number) {
                state.addresses.remove(&oldest);
            }
        }
        self.board.version.fetch_add(1, Relaxed);
    }

    fn rename(&mut self, ufrag: &str) {
        let mut state = self.board.state();
        state.peers.insert(ufrag.to_owned(), self.route.clone());
        if let Some((_, current)) = state.resources.get_mut(&self.resource) {
            *current = ufrag.to_owned();
        }
        self.ufrags.push(ufrag.to_owned());
        if self.ufrags.len() > 2 {
            let oldest = self.ufrags.remove(0);
            state.peers.remove(&oldest);
        }
    }
}

impl<P> Drop for Place<P> {
    fn drop(&mut self) {
        let mut state = self.board.state();
        for ufrag in &self.ufrags {
            state.peers.remove(ufrag);
        }
        state.resources.remove(&self.resource);
        for source in &self.addresses {
            if state.addresses.get(source).is_some_and(|route| route.number == self.route.number) {
                state.addresses.remove(source);
            }
        }
        self.board.version.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn seat(board: &Arc<Switchboard<()>>, ufrag: &str, source: SocketAddr) -> Place<()> {
        board.park(ufrag.into(), format!("r-{ufrag}"), (), Micros(0), Micros(10)).unwrap();
        board.take(ufrag, Some(source), 0).unwrap().1
    }

    #[test]
    fn an_answer_is_taken_once_and_only_before_it_expires() {
        let board = Arc::new(Switchboard::default());
        board.park("a".into(), "r".into(), (), Micros(0), Micros(10)).unwrap();
        assert!(matches!(board.look_up("a", |()| false), Lookup::Nobody), "a request that is not its own");
        assert!(matches!(board.look_up("a", |()| true), Lookup::Waiting));
        let place = board.take("a", Some(at(1)), 3).unwrap().1;
        assert!(board.take("a", Some(at(1)), 3).is_none());
        assert!(matches!(board.look_up("a", |()| true), Lookup::Peer(route) if route.worker == 3));
        drop(place);
        board.park("b".into(), "r".into(), (), Micros(0), Micros(10)).unwrap();
        assert_eq!(board.expire(Micros(10)), 1);
        assert!(matches!(board.look_up("b", |()| true), Lookup::Nobody));
    }

    #[test]
    fn an_address_belongs_to_whoever_proved_it_last() {
        let board = Arc::new(Switchboard::default());
        let first = seat(&board, "a", at(1));
        let version = board.version();
        let second = seat(&board, "b", at(1));
        assert_ne!(board.version(), version);
        assert_eq!(board.find(&at(1)).unwrap().number, second.route.number);
        drop(first);
        assert_eq!(board.find(&at(1)).unwrap().number, second.route.number, "not given up by the one that had lost it");
        drop(second);
        assert!(board.find(&at(1)).is_none());
        assert!(matches!(board.resource("r-b"), Resource::Nobody));
    }

    #[test]
    fn a_peer_keeps_a_few_addresses_only() {
        let board = Arc::new(Switchboard::default());
        let mut place = seat(&board, "a", at(1));
        for port in 2..100 {
            place.claim(at(port));
        }
        let known = (1..100).filter(|&port| board.find(&at(port)).is_some()).count();
        assert_eq!(known, MAX_ADDRESSES);
        assert!(board.find(&at(99)).is_some());
    }
}
