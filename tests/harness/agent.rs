//! Agent servers of the tests: what `kind = "websocket"` connects to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::{Heard, PATIENCE, hear};

/// Listens for the daemon.
pub struct AgentServer {
    listener: TcpListener,
    address: SocketAddr,
}

/// One call at an agent.
pub struct AgentLink {
    /// Its socket.
    pub socket: WebSocketStream<TcpStream>,
    /// Whether the daemon asked for `antiphon.v1`.
    pub native: bool,
}

impl AgentServer {
    /// Listens on a free port.
    pub async fn bind() -> AgentServer {
        AgentServer::bind_at("127.0.0.1:0").await
    }

    /// Listens at an address, which another one may have left.
    pub async fn bind_at(address: &str) -> AgentServer {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        AgentServer { listener, address }
    }

    /// For `url` of the agent.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// `127.0.0.1:4000`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The next call.
    pub async fn accept(&self) -> AgentLink {
        let (tcp, _) = timeout(PATIENCE, self.listener.accept()).await.expect("the agent is not called").unwrap();
        upgrade(tcp).await
    }

    /// Serves any number of calls, each as an echo, until dropped.
    pub fn echo(self) -> Echoing {
        let (url, heard) = (self.url(), Recordings::default());
        let recordings = heard.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = self.listener.accept().await {
                let recordings = recordings.clone();
                tokio::spawn(async move { upgrade(tcp).await.echo(&recordings).await });
            }
        });
        Echoing { url, heard, task }
    }
}

/// An echo server that runs; it ends when dropped.
pub struct Echoing {
    /// For `url` of the agent.
    pub url: String,
    heard: Recordings,
    task: JoinHandle<()>,
}

/// Audio by conversation.
type Recordings = Arc<Mutex<HashMap<String, Vec<u8>>>>;

impl Echoing {
    /// All audio that has come in a conversation, its frames joined.
    pub fn heard(&self, conversation: &str) -> Vec<u8> {
        self.heard.lock().unwrap().remove(conversation).unwrap_or_else(|| panic!("nothing came in {conversation}"))
    }
}

impl Drop for Echoing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One call at an agent that listens in its own way.
#[allow(clippy::result_large_err, reason = "the library's own type")]
pub async fn upgrade(tcp: TcpStream) -> AgentLink {
    tcp.set_nodelay(true).unwrap();
    let mut native = false;
    let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        native = request.headers().get("sec-websocket-protocol").is_some_and(|value| value == "antiphon.v1");
        if native {
            response.headers_mut().insert("sec-websocket-protocol", "antiphon.v1".parse().unwrap());
        }
        Ok(response)
    };
    let socket = timeout(PATIENCE, accept_hdr_async(tcp, answer)).await.unwrap().unwrap();
    AgentLink { socket, native }
}

impl AgentLink {
    /// Sends a control message.
    pub async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Sends an audio frame.
    pub async fn speak(&mut self, frame: Bytes) {
        self.socket.send(Message::Binary(frame)).await.unwrap();
    }

    /// The next thing that comes.
    pub async fn hear(&mut self) -> Heard {
        hear(&mut self.socket).await
    }

    /// The next control message of a type; others and audio are passed over.
    pub async fn hear_type(&mut self, kind: &str) -> Value {
        loop {
            match self.hear().await {
                Heard::Control(message) if message["type"] == kind => return message,
                Heard::Control(_) | Heard::Audio(_) => {}
                end => panic!("the agent never heard `{kind}`, but {end:?}"),
            }
        }
    }

    /// Hears `start` and answers it as short as is allowed.
    pub async fn begin(&mut self) -> Value {
        let start = self.hear_type("start").await;
        self.say(json!({ "type": "started" })).await;
        start
    }

    /// Sends back each frame as it is, until the call ends.
    async fn echo(mut self, recordings: &Recordings) {
        let (mut conversation, mut speaking) = (None, false);
        loop {
            // A daemon that goes away in the middle is no defect of the echo.
            let sent = match self.hear().await {
                Heard::Control(message) if message["type"] == "start" => {
                    conversation = message["conversation_id"].as_str().map(str::to_owned);
                    if !self.native {
                        continue;
                    }
                    self.socket.send(Message::text(r#"{"type":"started"}"#)).await
                }
                Heard::Audio(frame) => {
                    if let Some(conversation) = &conversation {
                        let mut recordings = recordings.lock().unwrap();
                        recordings.entry(conversation.clone()).or_default().extend_from_slice(&frame);
                    }
                    if self.native && !std::mem::replace(&mut speaking, true) {
                        self.say(json!({ "type": "turn", "turn": 1, "item": "e-1", "phase": "start" })).await;
                    }
                    self.socket.send(Message::Binary(frame)).await
                }
                Heard::Control(_) => Ok(()),
                Heard::Closed(..) | Heard::Gone => return,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}
