//! `antiphon emulate`: scripted peers for tests.

mod agent;
pub mod vendor;

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use crate::config::vendor::VendorKind;
use crate::dialect::native::SUBPROTOCOL;
use crate::media::format::Format;
use agent::EmulatedAgent;
use vendor::VendorArgs;

/// Options of `antiphon emulate`.
#[derive(Args, Clone, Debug)]
pub struct EmulateArgs {
    /// What to emulate.
    #[command(subcommand)]
    pub peer: EmulatedPeer,
}

/// What can be emulated.
#[derive(Subcommand, Clone, Debug)]
pub enum EmulatedPeer {
    /// An agent server, as `kind = "websocket"` reaches it
    WsAgent(WsAgentArgs),
    /// Chat completions (OpenAI-compatible), as `kind = "chat"` reaches them
    Chat(VendorArgs),
    /// Deepgram Voice Agent
    Deepgram(VendorArgs),
    /// ElevenLabs Conversational AI
    Elevenlabs(VendorArgs),
    /// Gemini Live
    Gemini(VendorArgs),
    /// OpenAI Live
    Live(VendorArgs),
    /// OpenAI Realtime
    Openai(VendorArgs),
    /// Pipecat over WebSocket
    Pipecat(VendorArgs),
}

/// Options of `antiphon emulate ws-agent`.
#[derive(Args, Clone, Debug)]
pub struct WsAgentArgs {
    /// Where to listen; port 0 takes a free one. The address is printed as one JSON line: {"listening":"ws://..."}
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// What the agent does
    #[arg(long, value_enum, default_value_t = AgentMode::Talk)]
    pub mode: AgentMode,
    /// Its audio format both ways, like opus/48000 or pcm16/24000; by default what `start` asks for, else pcm16/24000
    #[arg(long)]
    pub format: Option<Format>,
    /// What it speaks on its socket
    #[arg(long, value_enum, default_value_t = AgentProtocol::Native)]
    pub protocol: AgentProtocol,
    /// Close each connection so long after it opened, in seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub close_after: Option<Duration>,
    /// The WebSocket close code for that
    #[arg(long, value_name = "CODE", default_value_t = 1011)]
    pub close_code: u16,
    /// Read and write nothing for so long, beginning 1 s after a connection opened, in seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub stall: Option<Duration>,
    /// Print what arrives and what is said as JSON lines
    #[arg(long)]
    pub log: bool,
}

/// What an emulated agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AgentMode {
    /// Sends each frame back as it is
    Echo,
    /// Says a sentence at the start, after each utterance of the caller and for each text message; stops when interrupted
    Talk,
    /// Listens
    Silent,
    /// Says more than a minute at once, as one answer
    Burst,
}

/// What is spoken with an emulated agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AgentProtocol {
    /// antiphon.v1
    Native,
    /// Audio frames only, with an optional JSON `start`
    Plain,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Where what happens goes, one JSON object at a time.
pub type Log = Arc<dyn Fn(Value) + Send + Sync>;

/// Runs the peer until it is interrupted. Exit code 0: stopped; 1: it could not listen.
pub async fn run(args: EmulateArgs) -> ExitCode {
    let (kind, args) = match args.peer {
        EmulatedPeer::WsAgent(args) => return run_ws_agent(args).await,
        EmulatedPeer::Chat(args) => (VendorKind::Chat, args),
        EmulatedPeer::Deepgram(args) => (VendorKind::Deepgram, args),
        EmulatedPeer::Elevenlabs(args) => (VendorKind::Elevenlabs, args),
        EmulatedPeer::Gemini(args) => (VendorKind::Gemini, args),
        EmulatedPeer::Live(args) => (VendorKind::Live, args),
        EmulatedPeer::Openai(args) => (VendorKind::Openai, args),
        EmulatedPeer::Pipecat(args) => (VendorKind::Pipecat, args),
    };
    vendor::run(kind, args).await
}

async fn run_ws_agent(args: WsAgentArgs) -> ExitCode {
    let log: Log = if args.log { Arc::new(|line| println!("{line}")) } else { Arc::new(|_| {}) };
    let server = match WsAgent::bind(args, log).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(1);
        }
    };
    println!("{}", json!({ "listening": server.url() }));
    tokio::select! {
        () = server.serve() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    ExitCode::SUCCESS
}

/// A scripted agent server.
pub struct WsAgent {
    listener: TcpListener,
    address: SocketAddr,
    args: Arc<WsAgentArgs>,
    log: Log,
}

impl WsAgent {
    /// Listens.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn bind(args: WsAgentArgs, log: Log) -> io::Result<WsAgent> {
        let cannot =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", args.listen));
        let listener = TcpListener::bind(args.listen).await.map_err(cannot)?;
        let address = listener.local_addr()?;
        Ok(WsAgent { listener, address, args: Arc::new(args), log })
    }

    /// Where it is reached.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Serves connections for as long as it is polled; dropping it ends them all.
    pub async fn serve(self) {
        let mut connections = JoinSet::new();
        for number in 1u64.. {
            let tcp = loop {
                tokio::select! {
                    accepted = self.listener.accept() => match accepted {
                        Ok((tcp, _)) => break tcp,
                        // Out of descriptors: some connection has to end first.
                        Err(_) => sleep(Duration::from_millis(50)).await,
                    },
                    Some(_) = connections.join_next() => {}
                }
            };
            let (args, log) = (self.args.clone(), self.log.clone());
            connections.spawn(async move {
                let opened = Instant::now();
                let tell = move |mut event: Value| {
                    event["connection"] = number.into();
                    event["at_ms"] = (opened.elapsed().as_millis() as u64).into();
                    log(event);
                };
                if let Err(error) = serve(tcp, &args, &tell).await {
                    tell(json!({ "event": "failed", "error": error.to_string() }));
                }
            });
        }
    }
}

#[allow(clippy::result_large_err, reason = "the library's own type")]
async fn serve(tcp: TcpStream, args: &WsAgentArgs, tell: &(dyn Fn(Value) + Send + Sync)) -> Result<(), WsError> {
    tcp.set_nodelay(true)?;
    let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let offered = request.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
        if offered.is_some_and(|offered| offered.split(',').any(|name| name.trim() == SUBPROTOCOL)) {
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        }
        Ok(response)
    };
    let socket = accept_hdr_async(tcp, answer).await?;
    tell(json!({ "event": "open" }));
    Connection { socket, agent: EmulatedAgent::new(args), dirty: false }.run(args, tell).await
}

enum Step {
    Heard(Message),
    Writable,
    Flushed,
    Closed,
}

struct Connection {
    socket: WebSocketStream<TcpStream>,
    agent: EmulatedAgent,
    /// Whether something handed to the socket may not have left yet.
    dirty: bool,
}

impl Connection {
    async fn run(mut self, args: &WsAgentArgs, tell: &(dyn Fn(Value) + Send + Sync)) -> Result<(), WsError> {
        let opened = tokio::time::Instant::now();
        let close_at = args.close_after.map(|after| opened + after);
        let mut stall = args.stall;
        let at = |deadline: Option<tokio::time::Instant>| async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        loop {
            tokio::select! {
                () = at(close_at) => {
                    tell(json!({ "event": "closing", "code": args.close_code }));
                    let frame = CloseFrame { code: CloseCode::from(args.close_code), reason: "as scripted".into() };
                    self.socket.close(Some(frame)).await?;
                    let peer_closes = async { while let Some(Ok(_)) = self.socket.next().await {} };
                    let _ = timeout(Duration::from_secs(1), peer_closes).await;
                    return Ok(());
                }
                () = at(stall.map(|_| opened + Duration::from_secs(1))) => {
                    if let Some(span) = stall.take() {
                        tell(json!({ "event": "stalling" }));
                        sleep(span).await;
                    }
                }
                step = self.step() => {
                    let open = match step? {
                        Step::Heard(message) => self.handle(message),
                        Step::Writable => self.write()?,
                        Step::Flushed => true,
                        Step::Closed => false,
                    };
                    self.agent.take_log().into_iter().for_each(tell);
                    if !open {
                        tell(self.agent.summary());
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reads, or writes what waits; nothing is lost if it is dropped before it is done.
    async fn step(&mut self) -> Result<Step, WsError> {
        let waiting = self.agent.has_output();
        poll_fn(|cx| {
            match self.socket.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) => return Poll::Ready(message.map(Step::Heard)),
                Poll::Ready(None) => return Poll::Ready(Ok(Step::Closed)),
                Poll::Pending => {}
            }
            if waiting {
                return self.socket.poll_ready_unpin(cx).map_ok(|()| Step::Writable);
            }
            if self.dirty {
                let flushed = self.socket.poll_flush_unpin(cx).map_ok(|()| Step::Flushed);
                self.dirty = flushed.is_pending();
                return flushed;
            }
            Poll::Pending
        })
        .await
    }

    fn write(&mut self) -> Result<bool, WsError> {
        if let Some(message) = self.agent.next_output() {
            self.socket.start_send_unpin(message)?;
            self.dirty = true;
        }
        Ok(true)
    }

    fn handle(&mut self, message: Message) -> bool {
        match message {
            Message::Text(text) => self.agent.handle_text(text.as_str()),
            Message::Binary(payload) => self.agent.handle_audio(payload),
            Message::Close(_) => return false,
            _ => {}
        }
        true
    }
}

/// What waits to be sent or told.
type Queue<T> = VecDeque<T>;

#[cfg(test)]
mod tests;
