//! `antiphon check --dial`: does each agent answer, how fast, and in which formats?

use std::fmt::Write;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep_until, timeout};

use crate::agent::{self, Agent, AgentOutput, Wire};
use crate::cli::answer::Answer;
use crate::config::settings::{AgentKind, AgentSettings, Settings};
use crate::config::source::{Process, Sources};
use crate::message::{AgentError, AgentStart, FailureClass, FromAgent, Greeting, Ready, ToAgent};
use crate::runtime::websocket::{Received, SocketError};
use crate::time::Micros;
use crate::upstream::{Dialer, Socket};

/// From the open socket until the agent is ready.
const READY: Duration = Duration::from_secs(10);

/// What was found at an agent that answers.
#[derive(Debug)]
struct Found {
    connect: Duration,
    first: Duration,
    ready: Duration,
    formats: Ready,
    not_applied: Vec<String>,
}

/// Connects to every agent that is reached over a network, without saying anything to it that it would answer.
pub async fn dial(settings: &Settings, sources: &Sources) -> Answer {
    let dialer = Dialer::default();
    let visits = settings.agents.values().map(|agent| {
        let (agent, dialer) = (agent.clone(), dialer.clone());
        async move { (visit(&agent, &dialer).await, agent) }
    });
    let (mut text, mut errors) = (String::new(), String::new());
    for (found, agent) in join_all(visits).await {
        match found {
            Ok(None) if matches!(agent.kind, AgentKind::Vendor(_)) => {
                let _ = writeln!(
                    text,
                    "agent {} ({}): not asked: it keeps no connection, and each request is an answer that is paid for",
                    agent.name,
                    agent.kind.label()
                );
            }
            Ok(None) => {}
            Ok(Some(found)) => tell(&mut text, &agent, &found),
            Err(error) => blame(&mut errors, &agent, &error, sources),
        }
    }
    if text.is_empty() && errors.is_empty() {
        text.push_str("no agent is reached over a network\n");
    }
    let code = u8::from(!errors.is_empty());
    Answer { text, error: errors, code }
}

fn tell(out: &mut String, agent: &AgentSettings, found: &Found) {
    let Found { connect, first, ready, formats, not_applied } = found;
    let _ = writeln!(
        out,
        "agent {} ({}): connected after {} ms, first message after {} ms, ready after {} ms; hears {}, speaks {}",
        agent.name,
        agent.kind.label(),
        connect.as_millis(),
        first.as_millis(),
        ready.as_millis(),
        formats.uplink,
        formats.downlink,
    );
    if !not_applied.is_empty() {
        let _ = writeln!(out, "    it did not apply: {}", not_applied.join(", "));
    }
}

/// What the agent said, and the key that it is about.
fn blame(out: &mut String, agent: &Arc<AgentSettings>, error: &AgentError, sources: &Sources) {
    let code = error.code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default();
    let _ = writeln!(
        out,
        "error: agent {} ({}): {}{code}: {}",
        agent.name,
        agent.kind.label(),
        error.class.label(),
        error.message
    );
    let with_id = matches!(&agent.kind, AgentKind::Vendor(vendor) if vendor.agent_id.is_some());
    let key = match error.class {
        FailureClass::Auth | FailureClass::Limit => "api_key",
        FailureClass::BadRequest if error.code.as_deref() == Some("override_error") => "setup",
        FailureClass::BadRequest if with_id => "agent_id",
        _ => "url",
    };
    let path = ["agent", agent.name.as_str(), key];
    if let Some(place) = crate::config::place(&sources.files, &sources.env, &Process, &path) {
        let _ = writeln!(out, "  --> {place}: `agent.{}.{key}`", agent.name);
    }
}

async fn visit(settings: &AgentSettings, dialer: &Dialer) -> Result<Option<Found>, AgentError> {
    let failed = |class, message: String| AgentError { class, code: None, message };
    let agent = agent::build(settings, &settings.setup, 0)
        .map_err(|error| failed(FailureClass::BadRequest, error.to_string()))?;
    let Some(endpoint) = agent.endpoint() else { return Ok(None) };
    let begun = Instant::now();
    let socket = dialer.dial(endpoint).await?;
    let visit = Visit { agent, socket, begun, connect: begun.elapsed(), first: None, not_applied: Vec::new() };
    let ready = timeout(READY, visit.until_ready(settings)).await;
    ready.unwrap_or_else(|_| {
        Err(failed(FailureClass::Timeout, format!("it is connected, and not ready within {} s", READY.as_secs())))
    })
}

/// A connection to one agent.
struct Visit {
    agent: Box<dyn Agent>,
    socket: Socket,
    begun: Instant,
    connect: Duration,
    first: Option<Duration>,
    not_applied: Vec<String>,
}

impl Visit {
    async fn until_ready(mut self, settings: &AgentSettings) -> Result<Option<Found>, AgentError> {
        self.agent.handle_open(self.now());
        let setup = crate::message::Setup { greeting: Some(Greeting::None), ..settings.setup.clone() };
        self.agent.handle_session(
            ToAgent::Start(AgentStart {
                setup,
                context: Vec::new(),
                session_id: "check".into(),
                conversation_id: "check".into(),
                client_context: None,
                metadata: None,
                greet: false,
                client: None,
            }),
            self.now(),
        );
        loop {
            let (ready, deadline) = self.drain()?;
            let pushed = poll_fn(|cx| self.socket.poll_flush(cx)).await;
            if let Some(formats) = ready {
                let ready = self.begun.elapsed();
                let first = self.first.unwrap_or(ready);
                let (connect, not_applied) = (self.connect, self.not_applied);
                self.socket.close(1000, "only looking").await;
                return Ok(Some(Found { connect, first, ready, formats, not_applied }));
            }
            pushed.map_err(lost)?;
            let deadline = deadline.map(|at| self.begun + Duration::from_micros(at.0));
            let received = tokio::select! {
                received = poll_fn(|cx| self.socket.poll_receive(cx)) => received.map_err(lost)?,
                () = async {
                    match deadline {
                        Some(at) => sleep_until(at.into()).await,
                        None => std::future::pending().await,
                    }
                } => {
                    self.agent.handle_deadline(self.now());
                    continue;
                }
            };
            if let Received::Wire(wire) = received {
                self.hear(wire);
            }
        }
    }

    fn now(&self) -> Micros {
        Micros(self.begun.elapsed().as_micros() as u64)
    }

    fn hear(&mut self, wire: Wire) {
        self.first.get_or_insert(self.begun.elapsed());
        self.agent.handle_wire(wire, self.now());
    }

    /// What the agent has to say goes onto the wire; whether it is ready, and when it wants to be called.
    fn drain(&mut self) -> Result<(Option<Ready>, Option<Micros>), AgentError> {
        let mut ready = None;
        loop {
            match self.agent.poll(self.now()) {
                AgentOutput::Idle { deadline } => return Ok((ready, deadline)),
                AgentOutput::Wire(wire) | AgentOutput::Audio { wire, .. } => {
                    // What does not fit is missed by the agent, which then is not ready in time.
                    let _ = self.socket.try_push(wire);
                }
                AgentOutput::Event(FromAgent::Ready(formats)) => ready = Some(formats),
                AgentOutput::Event(FromAgent::NotApplied(fields)) => self.not_applied = fields,
                AgentOutput::Event(FromAgent::Ended(end)) => {
                    return Err(end.failure.unwrap_or_else(|| AgentError {
                        class: FailureClass::Protocol,
                        code: None,
                        message: "it hung up before it was ready".to_owned(),
                    }));
                }
                AgentOutput::Event(_) | AgentOutput::Redial | AgentOutput::Request(_) | AgentOutput::Abort(_) => {}
            }
        }
    }
}

fn lost(error: SocketError) -> AgentError {
    let (class, message) = match error {
        SocketError::Lost(message) => (FailureClass::Lost, message),
        SocketError::Violation(message) => (FailureClass::Protocol, message),
    };
    AgentError { class, code: None, message }
}
