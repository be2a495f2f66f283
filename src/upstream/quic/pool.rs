//! The connections of one worker, by where they lead.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, EndpointConfig, TransportConfig, VarInt};
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::{Place, Shared};
use super::session::QuicSession;
use crate::agent::Endpoint;
use crate::backoff::Backoff;
use crate::message::{AgentError, FailureClass};
use crate::runtime::quic::congestion::ForCalls;
use crate::runtime::quic::udp::Udp;
use crate::runtime::sockets;

/// The pauses after failures.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// How long a connection lives without a sign of the agent.
const SILENCE: Duration = Duration::from_secs(10);
/// How often one without traffic gives a sign of its own.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// How long the agent may hold a stream back before the connection counts as full.
const STREAM_WAIT: Duration = Duration::from_millis(500);
/// What may wait of one session's control messages, in bytes (`MAX_CONTROL_BYTES`, twice).
const STREAM_WINDOW: u32 = 128 << 10;
/// What may wait of all of a connection's sessions.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Datagrams that wait to be sent, or to be dealt to their sessions, in bytes.
const DATAGRAM_BUFFER: usize = 1 << 20;

/// Opens sessions on connections that they share.
#[derive(Debug, Default)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By address family.
    endpoints: HashMap<bool, quinn::Endpoint>,
    groups: HashMap<Key, Group>,
}

/// Sessions with the same of these can share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    host: String,
    port: u16,
    authorities: Option<Arc<str>>,
    room: u32,
}

#[derive(Debug)]
struct Group {
    connections: Vec<Arc<Shared>>,
    /// Set while a connection is being made.
    attempt: Option<watch::Receiver<Option<AgentError>>>,
    pauses: Backoff,
    /// When the next attempt may be made, and why the last one failed.
    pause: Option<(Instant, AgentError)>,
}

impl Default for Group {
    fn default() -> Group {
        Group { connections: Vec::new(), attempt: None, pauses: PAUSES, pause: None }
    }
}

/// What a dial can do now.
enum Step {
    Open(Place),
    Wait(watch::Receiver<Option<AgentError>>),
    Connect(watch::Sender<Option<AgentError>>),
    Fail(AgentError),
}

impl Pool {
    // Held for a few instructions, by tasks of one thread.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session at `endpoint`, on a connection that is there or on a new one.
    ///
    /// # Errors
    /// Why not, with the class that decides whether another try may help.
    pub async fn open(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        tls: Arc<QuicClientConfig>,
    ) -> Result<QuicSession, AgentError> {
        let key = key(endpoint)?;
        loop {
            match self.step(&key) {
                Step::Open(place) => {
                    let opening = place.shared.connection.open_bi();
                    match tokio::time::timeout(STREAM_WAIT, opening).await {
                        Ok(Ok((send, receive))) => return Ok(QuicSession::new(place, send, receive)),
                        // The next step finds another connection.
                        Ok(Err(_)) => {}
                        Err(_) => place.shared.note_full(),
                    }
                }
                Step::Wait(mut attempt) => {
                    if attempt.changed().await.is_ok()
                        && let Some(error) = attempt.borrow().clone()
                    {
                        return Err(error);
                    }
                }
                Step::Connect(outcome) => {
                    let (pool, key, tls) = (self.clone(), key.clone(), tls.clone());
                    let within = endpoint.connect_timeout;
                    // A task of its own: whoever asked first may hang up while others wait.
                    tokio::spawn(async move { pool.connect(key, tls, within, outcome).await });
                }
                Step::Fail(error) => return Err(error),
            }
        }
    }

    fn step(&self, key: &Key) -> Step {
        let mut state = self.state();
        let group = state.groups.entry(key.clone()).or_default();
        group.connections.retain(|connection| connection.is_alive());
        if let Some(place) = group.connections.iter().find_map(Shared::take_place) {
            return Step::Open(place);
        }
        if let Some(attempt) = &group.attempt {
            return Step::Wait(attempt.clone());
        }
        if let Some((until, error)) = &group.pause {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let message = format!("{}; not tried again for {} ms", error.message, left.as_millis());
                return Step::Fail(AgentError { message, ..error.clone() });
            }
        }
        let (outcome, attempt) = watch::channel(None);
        group.attempt = Some(attempt);
        Step::Connect(outcome)
    }

    async fn connect(
        self: Arc<Self>,
        key: Key,
        tls: Arc<QuicClientConfig>,
        within: Duration,
        outcome: watch::Sender<Option<AgentError>>,
    ) {
        let place = format!("quic://{}:{}", key.host, key.port);
        let result = match tokio::time::timeout(within, self.try_connect(&key, tls)).await {
            Ok(result) => result.map_err(|(class, why)| failure(class, format!("{place}: {why}"))),
            Err(_) => {
                let why = format!("{place} did not answer within {} ms", within.as_millis());
                Err(failure(FailureClass::Timeout, why))
            }
        };
        let mut state = self.state();
        let group = state.groups.entry(key).or_default();
        group.attempt = None;
        let failed = match result {
            Ok(shared) => {
                (group.pauses, group.pause) = (PAUSES, None);
                group.connections.push(shared.clone());
                tokio::spawn(shared.read());
                None
            }
            Err(error) => {
                let pause = group.pauses.next(rand::rng().random_range(0.0..1.0));
                group.pause = Some((Instant::now() + pause, error.clone()));
                Some(error)
            }
        };
        outcome.send_replace(failed);
    }

    /// Tries each address of the name.
    async fn try_connect(&self, key: &Key, tls: Arc<QuicClientConfig>) -> Result<Arc<Shared>, (FailureClass, String)> {
        let unreachable = |error: io::Error| (FailureClass::Unreachable, error.to_string());
        let host = key.host.as_str();
        let addresses = tokio::net::lookup_host((host, key.port)).await.map_err(unreachable)?;
        let mut last = (FailureClass::Unreachable, "the name has no address".to_owned());
        for address in addresses {
            let mut config = quinn::ClientConfig::new(tls.clone());
            config.transport_config(Arc::new(transport(key.room)));
            let endpoint = self.endpoint(address.is_ipv6()).map_err(unreachable)?;
            let connecting = endpoint
                .connect_with(config, address, host)
                .map_err(|error| (FailureClass::BadRequest, error.to_string()))?;
            match connecting.await {
                Ok(connection) => return Ok(Shared::new(connection, key.room as usize)),
                Err(error) => last = (class_of(&error), format!("cannot connect: {error}")),
            }
        }
        Err(last)
    }

    /// The socket for an address family; made by the first dial, on the worker's own runtime.
    fn endpoint(&self, v6: bool) -> io::Result<quinn::Endpoint> {
        let mut state = self.state();
        if let Some(endpoint) = state.endpoints.get(&v6) {
            return Ok(endpoint.clone());
        }
        let socket = Arc::new(Udp::new(sockets::outgoing_datagrams(v6)?)?);
        let (config, runtime) = (EndpointConfig::default(), Arc::new(quinn::TokioRuntime));
        let endpoint = quinn::Endpoint::new_with_abstract_socket(config, None, socket, runtime)?;
        state.endpoints.insert(v6, endpoint.clone());
        Ok(endpoint)
    }

    /// Sessions on each connection.
    pub fn sessions(&self) -> Vec<usize> {
        let state = self.state();
        let connections = state.groups.values().flat_map(|group| &group.connections);
        connections.filter(|shared| shared.is_alive()).map(|shared| shared.sessions()).collect()
    }
}

fn key(endpoint: &Endpoint) -> Result<Key, AgentError> {
    let host = endpoint.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = endpoint.url.port();
    let port = port.ok_or_else(|| failure(FailureClass::BadRequest, format!("{} names no port", endpoint.url)))?;
    let (authorities, room) = (endpoint.authorities.clone(), endpoint.sessions_per_connection.max(1));
    Ok(Key { host, port, authorities, room })
}

/// Bounds lower than the library's: an agent opens no streams, and audio needs no large windows.
fn transport(sessions: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(SILENCE.try_into().ok())
        .congestion_controller_factory(ForCalls::new(sessions));
    config
}

fn class_of(error: &ConnectionError) -> FailureClass {
    match error {
        ConnectionError::TimedOut => FailureClass::Timeout,
        ConnectionError::ApplicationClosed(close) => match close.error_code.into_inner() {
            1013 | 4429 => FailureClass::Limit,
            4401 => FailureClass::Auth,
            _ => FailureClass::Unreachable,
        },
        ConnectionError::VersionMismatch => FailureClass::Protocol,
        _ => FailureClass::Unreachable,
    }
}

fn failure(class: FailureClass, message: String) -> AgentError {
    AgentError { class, code: None, message }
}
