//! Agent protocols: pure translations between the neutral vocabulary and what an agent speaks.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod audio_json;
pub(crate) mod carry;
pub mod chat;
pub mod clip;
pub mod closing;
pub mod deepgram;
pub mod echo;
pub mod elevenlabs;
pub mod gemini;
pub mod live;
pub mod native;
pub(crate) mod open_calls;
pub mod openai;
pub(crate) mod outbox;
pub mod pipecat;
pub mod plain;
pub mod recap;
pub mod setup;
pub mod standing;
pub mod storyteller;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;

use crate::config::settings::{AgentKind, AgentSettings, WebsocketAgent, WebsocketProtocol};
use crate::config::vendor::{TokenCommand, VendorAgent, VendorAuth, VendorKind};
use crate::media::format::{Format, FormatError};
use crate::message::{AgentError, FromAgent, Setup, ToAgent};
use crate::time::Micros;

/// One message on a wire, either way, of a WebSocket or a channel like it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A text frame.
    Text(String),
    /// A binary frame.
    Binary(Bytes),
    /// The end, with the WebSocket close code and reason.
    Close(u16, String),
}

/// What an agent can do: all that a session ever learns of a vendor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Wants continuous input: silence is made up while the caller sends nothing.
    pub continuous: bool,
    /// Detects the caller's speech and interrupts itself.
    pub server_vad: bool,
    /// Takes [`ToAgent::Truncate`].
    pub truncation: bool,
    /// Takes [`ToAgent::Playout`].
    pub playout: bool,
    /// Calls tools.
    pub tools: bool,
    /// Takes text messages.
    pub text: bool,
    /// Takes [`ToAgent::Input`].
    pub manual_turns: bool,
    /// Takes a context at the start.
    pub context: bool,
    /// Never speaks by turns: its audio is one endless stream (`echo`).
    pub endless: bool,
    /// The longest that one of its sessions lasts; a fresh one takes over before.
    pub longest: Option<Duration>,
}

/// Where an agent is reached; `None` for the built-in ones.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `ws://`, `wss://` or `quic://`.
    pub url: url::Url,
    /// For the upgrade request.
    pub headers: Vec<(String, SecretString)>,
    /// Offered; the server must choose one of them if there is any.
    pub subprotocols: Vec<String>,
    /// Time for name, TCP, TLS and upgrade, and for what comes before.
    pub connect_timeout: Duration,
    /// What has to be fetched before the dial.
    pub before: Option<Before>,
    /// Certificates in PEM of authorities that are trusted beside the usual ones.
    pub authorities: Option<Arc<str>>,
    /// Sessions on one connection at most, where connections are shared (`quic://`).
    pub sessions_per_connection: u32,
}

impl Endpoint {
    /// A WebSocket at `url` that needs nothing special.
    pub fn new(url: url::Url, connect_timeout: Duration) -> Endpoint {
        Endpoint {
            url,
            headers: Vec::new(),
            subprotocols: Vec::new(),
            connect_timeout,
            before: None,
            authorities: None,
            sessions_per_connection: 1,
        }
    }

    /// Where a vendor's agent is reached: with its key or token, and with `more` in the query where the operator has not
    /// set the same name.
    pub(crate) fn of_vendor(settings: &VendorAgent, more: &[(&str, &str)]) -> Endpoint {
        Endpoint {
            headers: settings.headers.iter().cloned().chain(settings.key_header()).collect(),
            before: match &settings.auth {
                VendorAuth::Token(command) => Some(Before::Token(command.clone())),
                VendorAuth::Usual | VendorAuth::Bearer | VendorAuth::ApiKey => None,
            },
            ..Endpoint::new(settings.url_with(more), settings.connect_timeout)
        }
    }
}

/// What has to be fetched before an agent is dialled; done on the control runtime, never on a worker.
#[derive(Clone, Debug)]
pub enum Before {
    /// A token that a command prints: it goes into `Authorization: Bearer`.
    Token(TokenCommand),
    /// The URL to dial, which is another for each conversation.
    Url(UrlFetch),
}

/// A URL that is asked for the URL to dial (a signed URL).
#[derive(Clone, Debug)]
pub struct UrlFetch {
    /// `https://` or `http://`; answers a GET with a JSON object.
    pub url: url::Url,
    /// Of that request.
    pub headers: Vec<(String, SecretString)>,
    /// The field of the answer that holds the URL.
    pub field: &'static str,
}

/// What [`Agent::poll`] gives.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "moved once")]
pub enum AgentOutput {
    /// To the wire.
    Wire(Wire),
    /// An audio frame to the wire, with the instant that its added latency counts from.
    Audio {
        /// A binary or text frame.
        wire: Wire,
        /// When it became ready.
        ready: Micros,
    },
    /// To the session.
    Event(FromAgent),
    /// The connection is given up and another one made to [`Agent::endpoint`]; [`Agent::handle_open`] follows. The
    /// session does not learn of it, unless it fails.
    Redial,
    /// An HTTP request, for an agent without a socket; [`Agent::handle_http`] tells what comes of it. It replaces the
    /// one that runs, if there is one.
    Request(HttpRequest),
    /// The HTTP request with this number is of no interest any more.
    Abort(u32),
    /// Nothing more to do until something arrives or the deadline passes.
    Idle {
        /// When to call [`Agent::handle_deadline`].
        deadline: Option<Micros>,
    },
}

/// An HTTP request (RFC 9110): a `POST` with a JSON body.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The agent's number for it.
    pub id: u32,
    /// `http://` or `https://`.
    pub url: url::Url,
    /// Beside the usual ones.
    pub headers: Vec<(String, SecretString)>,
    /// Prints the token that goes into `Authorization: Bearer`, where the key is none.
    pub token: Option<TokenCommand>,
    /// JSON.
    pub body: Bytes,
    /// Time for name, TCP and TLS.
    pub connect_timeout: Duration,
    /// Time for all of it.
    pub deadline: Duration,
    /// Bytes that an answer may have.
    pub most: usize,
}

/// What comes of an HTTP request.
#[derive(Clone, Debug)]
pub enum HttpEvent {
    /// A piece of the answer's body; its status was one of success.
    Data(Bytes),
    /// The answer is complete.
    End,
    /// There is no answer, or no more of it.
    Failed(AgentError),
}

/// An agent's side of one conversation, sans-IO: handle something, then poll until idle.
pub trait Agent: Send {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Where it is reached; `None` for a built-in agent, which is open at once.
    fn endpoint(&self) -> Option<Endpoint> {
        None
    }

    /// The socket is open.
    fn handle_open(&mut self, now: Micros);

    /// The session says something.
    fn handle_session(&mut self, message: ToAgent, now: Micros);

    /// The wire brought something. Built-in agents never get any.
    fn handle_wire(&mut self, wire: Wire, now: Micros) {
        let _ = (wire, now);
    }

    /// Something came of an HTTP request. Agents that make none never get any.
    fn handle_http(&mut self, request: u32, event: HttpEvent, now: Micros) {
        let _ = (request, event, now);
    }

    /// A deadline given by [`AgentOutput::Idle`] has passed.
    fn handle_deadline(&mut self, now: Micros);

    /// The next thing to do.
    fn poll(&mut self, now: Micros) -> AgentOutput;
}

/// Why an agent cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// This build does not serve the kind.
    #[error("agent `{agent}`: this build does not serve the kind `{kind}`")]
    NotBuilt {
        /// The agent.
        agent: String,
        /// The kind.
        kind: String,
    },
    /// The URL is not one of a WebSocket.
    #[error("agent `{agent}`: `{scheme}` in its url is not possible; use ws or wss")]
    Scheme {
        /// The agent.
        agent: String,
        /// The URL's scheme.
        scheme: String,
    },
    /// An audio format cannot be served.
    #[error("agent `{agent}`: {source}")]
    Format {
        /// The agent.
        agent: String,
        /// Which, and what is possible.
        source: FormatError,
    },
}

/// The agent of one conversation. `setup` is its own and the route's, filled in; `seed` decides whatever it
/// leaves to chance.
///
/// # Errors
/// If the settings cannot be served; the configuration check finds the same before a call comes.
pub fn build(settings: &AgentSettings, setup: &Setup, seed: u64) -> Result<Box<dyn Agent>, BuildError> {
    match &settings.kind {
        AgentKind::Websocket(websocket) => {
            check_websocket(settings, websocket)?;
            Ok(match websocket.protocol {
                WebsocketProtocol::Native => Box::new(native::NativeAgent::new(websocket, settings.vendor.clone())),
                WebsocketProtocol::Plain { start } => {
                    Box::new(plain::PlainAgent::new(websocket, start.then(|| settings.vendor.clone())))
                }
            })
        }
        AgentKind::Quic(quic) => {
            check_formats(settings, quic.uplink, quic.downlink)?;
            Ok(Box::new(native::NativeAgent::over_quic(quic, settings.vendor.clone(), seed)))
        }
        AgentKind::Echo { delay } => Ok(Box::new(echo::Echo::new(*delay))),
        AgentKind::Clip { plays } => Ok(Box::new(clip::ClipAgent::new(plays.clone()))),
        AgentKind::Storyteller => Ok(Box::new(storyteller::Storyteller::new(seed))),
        AgentKind::Vendor(vendor) => build_vendor(settings, vendor, setup),
        AgentKind::NotBuilt { kind } => {
            Err(BuildError::NotBuilt { agent: settings.name.to_string(), kind: kind.clone() })
        }
    }
}

fn build_vendor(settings: &AgentSettings, vendor: &VendorAgent, setup: &Setup) -> Result<Box<dyn Agent>, BuildError> {
    for format in [vendor.uplink, vendor.downlink].into_iter().flatten() {
        format.check().map_err(|source| BuildError::Format { agent: settings.name.to_string(), source })?;
    }
    let own = settings.vendor.clone();
    Ok(match vendor.kind {
        VendorKind::Chat => Box::new(chat::Chat::new(vendor, own)),
        VendorKind::Deepgram => Box::new(deepgram::Deepgram::new(vendor, own)),
        VendorKind::Elevenlabs => Box::new(elevenlabs::ElevenLabs::new(vendor, own)),
        VendorKind::Gemini => Box::new(gemini::Gemini::new(vendor, own)),
        VendorKind::Openai => Box::new(openai::OpenaiAgent::new(vendor, own, setup.model.clone())),
        VendorKind::Pipecat => Box::new(pipecat::Pipecat::new(vendor, own)),
        VendorKind::Live => Box::new(live::LiveAgent::new(vendor, own, setup.model.clone())),
    })
}

fn check_websocket(settings: &AgentSettings, websocket: &WebsocketAgent) -> Result<(), BuildError> {
    if !matches!(websocket.url.scheme(), "ws" | "wss") {
        let (agent, scheme) = (settings.name.to_string(), websocket.url.scheme().to_owned());
        return Err(BuildError::Scheme { agent, scheme });
    }
    check_formats(settings, websocket.uplink, websocket.downlink)
}

fn check_formats(settings: &AgentSettings, uplink: Format, downlink: Format) -> Result<(), BuildError> {
    let refused = |source| BuildError::Format { agent: settings.name.to_string(), source };
    uplink.check().and_then(|()| downlink.check()).map_err(refused)
}

#[cfg(test)]
mod tests;
