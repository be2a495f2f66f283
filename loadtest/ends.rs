//! The two ends of a call: a caller that dials, and an agent server that is dialled.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use antiphon::dialect::native::SUBPROTOCOL;
use antiphon::media::format::Format;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::{IntoClientRequest, client_with_config};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket, accept_hdr_with_config};

/// Whatever takes longer than this while a call is set up is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// A WebSocket of the swarm.
pub type Socket = WebSocket<TcpStream>;

/// What one read gives.
#[derive(Debug)]
pub enum Read {
    /// A message.
    Message(Message),
    /// Nothing more at this moment.
    Nothing,
    /// The end of the connection, and why.
    End(String),
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(8 << 10).write_buffer_size(0)
}

fn with_subprotocol(headers: &mut tungstenite::http::HeaderMap) {
    headers.insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
}

/// A request for the native protocol.
///
/// # Errors
/// Never for a socket address.
pub fn request(address: SocketAddr) -> Result<Request, String> {
    let mut request = format!("ws://{address}/v1/session").into_client_request().map_err(|error| error.to_string())?;
    with_subprotocol(request.headers_mut());
    Ok(request)
}

fn patient(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    tcp.set_nonblocking(false)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))
}

/// A caller connects and says `start`; what it hears back is left to [`hear`].
///
/// # Errors
/// What went wrong.
pub fn dial(
    address: SocketAddr,
    call: usize,
    agent: Option<&str>,
    uplink: Format,
    downlink: Format,
) -> Result<Socket, String> {
    let tcp = TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
    patient(&tcp).map_err(|error| error.to_string())?;
    let (mut socket, _) =
        client_with_config(request(address)?, tcp, Some(config())).map_err(|error| format!("upgrade: {error}"))?;
    let start = json!({
        "type": "start",
        "agent": agent,
        "audio": { "in": uplink, "out": downlink },
        "metadata": { "call": call },
    });
    say(&mut socket, &start)?;
    Ok(socket)
}

/// A relay calls an agent and begins to speak at once; the socket does not block.
///
/// # Errors
/// What went wrong.
pub fn call_agent(agents: SocketAddr, metadata: &Value) -> Result<Socket, String> {
    let tcp = TcpStream::connect(agents).map_err(|error| format!("connect: {error}"))?;
    patient(&tcp).map_err(|error| error.to_string())?;
    let (mut socket, _) =
        client_with_config(request(agents)?, tcp, Some(config())).map_err(|error| format!("upgrade: {error}"))?;
    say(&mut socket, &json!({ "type": "start", "metadata": metadata }))?;
    socket.get_ref().set_nonblocking(true).map_err(|error| error.to_string())?;
    Ok(socket)
}

/// An agent server takes a connection and begins to answer. Gives the number of the call, if the caller is one of the
/// swarm.
///
/// # Errors
/// What went wrong.
pub fn answer(tcp: TcpStream) -> Result<(Socket, Option<usize>), String> {
    patient(&tcp).map_err(|error| error.to_string())?;
    #[allow(clippy::result_large_err, reason = "the library's signature")]
    let choose = |_: &Request, mut response: Response| {
        with_subprotocol(response.headers_mut());
        Ok(response)
    };
    let mut socket =
        accept_hdr_with_config(tcp, choose, Some(config())).map_err(|error| format!("agent upgrade: {error}"))?;
    let start = hear(&mut socket, |message| message["type"] == "start")?;
    let call = start["metadata"]["call"].as_u64().map(|call| call as usize);
    say(
        &mut socket,
        &json!({
            "type": "started", "session_id": "load", "conversation_id": "load", "agent": { "name": "swarm" },
            "audio": start["audio"], "resume_token": "",
        }),
    )?;
    say(&mut socket, &json!({ "type": "turn", "turn": 1, "generation": 0, "phase": "start", "pos": 0 }))?;
    Ok((socket, call))
}

/// Says a control message.
///
/// # Errors
/// If the connection is gone.
pub fn say(socket: &mut Socket, message: &Value) -> Result<(), String> {
    socket.send(Message::text(message.to_string())).map_err(|error| error.to_string())
}

/// Waits for a control message; others and audio are passed over.
///
/// # Errors
/// If it does not come, or the other end says that something is wrong.
pub fn hear(socket: &mut Socket, wanted: impl Fn(&Value) -> bool) -> Result<Value, String> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let message: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
                if wanted(&message) {
                    return Ok(message);
                }
                if message["type"] == "error" || message["type"] == "ended" {
                    return Err(message.to_string());
                }
            }
            Ok(Message::Close(frame)) => return Err(format!("closed: {frame:?}")),
            Ok(_) => {}
            Err(error) => return Err(format!("no answer: {error}")),
        }
    }
}

/// Reads what is there, without waiting.
pub fn read(socket: &mut Socket) -> Read {
    match socket.read() {
        Ok(Message::Close(frame)) => Read::End(format!("closed: {frame:?}")),
        Ok(message) => Read::Message(message),
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Read::Nothing,
        Err(error) => Read::End(error.to_string()),
    }
}

/// Writes an audio frame, without waiting.
///
/// # Errors
/// If the other end does not read, or is gone.
pub fn speak(socket: &mut Socket, frame: bytes::Bytes) -> Result<(), String> {
    socket.send(Message::Binary(frame)).map_err(|error| error.to_string())
}
