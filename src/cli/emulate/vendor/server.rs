//! The sockets of an emulated vendor: HTTP, WebSocket, TLS, and the clock of its conversations.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::actor::{Actor, Says};
use super::{Answered, Body, Outbox, Sent, VendorArgs, Wiring, connect, json_answer};
use crate::agent::Wire;
use crate::cli::emulate::Log;
use crate::cli::emulate::vendor::actor::Heard;
use crate::config::vendor::VendorKind;
use crate::runtime::certificate::{Certificates, Identity};
use crate::runtime::stream::Stream;
use crate::runtime::tls;

/// Bytes of a request's body.
const BODY: usize = 1 << 20;
/// Longer texts in messages are shortened in the log.
const LOGGED: usize = 2000;

/// An emulated vendor.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    kind: VendorKind,
    args: VendorArgs,
    log: Log,
    origin: String,
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// If the address cannot be bound, or the certificate cannot be written.
    pub async fn bind(kind: VendorKind, args: VendorArgs, log: Log) -> io::Result<Server> {
        let asked = args.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let cannot = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {asked}: {error}"));
        let listener = TcpListener::bind(asked).await.map_err(cannot)?;
        let address = listener.local_addr()?;
        let tls = args.tls.as_deref().map(acceptor).transpose()?;
        let origin =
            if tls.is_some() { format!("https://localhost:{}", address.port()) } else { format!("http://{address}") };
        Ok(Server { listener, address, shared: Arc::new(Shared { kind, args, log, origin, tls }) })
    }

    /// Where it is reached: the address for `url` in the configuration.
    pub fn url(&self) -> String {
        let path = self.shared.kind.default_url().and_then(|url| Some(url.split_once("://")?.1.split_once('/')?.1));
        let scheme = if self.shared.kind == VendorKind::Chat { "http" } else { "ws" };
        let (scheme, host) = match self.shared.tls {
            Some(_) => (format!("{scheme}s"), format!("localhost:{}", self.address.port())),
            None => (scheme.to_owned(), self.address.to_string()),
        };
        format!("{scheme}://{host}/{}", path.unwrap_or_default())
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
            let shared = self.shared.clone();
            connections.spawn(async move { shared.serve(tcp, number).await });
        }
    }
}

/// TLS with a certificate made for this run.
fn acceptor(folder: &Path) -> io::Result<TlsAcceptor> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    std::fs::create_dir_all(folder)?;
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let identity = Identity::from_files(&certificate, &key).map_err(io::Error::other)?;
    let certificates = Certificates::new(Some(Arc::new(identity)), 0).map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(tls::server_config(Arc::new(certificates)).map_err(io::Error::other)?))
}

impl Shared {
    async fn serve(self: Arc<Shared>, tcp: TcpStream, number: u64) {
        let opened = std::time::Instant::now();
        let log = self.log.clone();
        let tell: Log = Arc::new(move |mut event: Value| {
            event["connection"] = number.into();
            event["at_ms"] = (opened.elapsed().as_millis() as u64).into();
            log(event);
        });
        let stream = match &self.tls {
            Some(tls) => match tls.accept(tcp).await {
                Ok(stream) => Stream::from(TlsStream::Server(stream)),
                Err(error) => return tell(json!({ "event": "failed", "error": error.to_string() })),
            },
            None => Stream::from(tcp),
        };
        let service = service_fn(|request| {
            let (shared, tell) = (self.clone(), tell.clone());
            async move { Ok::<_, Infallible>(shared.respond(request, tell).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        if let Err(error) = connection.await {
            tell(json!({ "event": "failed", "error": error.to_string() }));
        }
    }

    async fn respond(self: Arc<Self>, mut request: http::Request<Incoming>, tell: Log) -> http::Response<Body> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let key_in = self.args.key.as_deref().and_then(|key| key_in(&parts, key));
        let own: serde_json::Map<String, Value> = parts
            .headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("x-") && !name.as_str().contains("key"))
            .filter_map(|(name, value)| Some((name.to_string(), Value::from(value.to_str().ok()?))))
            .collect();
        let mut told = json!({
            "event": "request", "method": parts.method.as_str(), "target": parts.uri.to_string(), "headers": own,
            "key_in": key_in,
        });
        if let Ok(mut json) = serde_json::from_slice::<Value>(&body) {
            shorten(&mut json);
            told["body"] = json;
        }
        tell(told);
        if let Some(refused) = self.refusal(&parts) {
            tell(json!({ "event": "refused", "status": refused.status().as_u16() }));
            return refused;
        }
        let (wiring, subprotocol) = match connect(self.kind, &parts, &body, &self.origin, &self.args) {
            Answered::Http(answer) => return answer,
            Answered::WebSocket(wiring, subprotocol) => (wiring, subprotocol),
        };
        let Some(key) = parts.headers.get(http::header::SEC_WEBSOCKET_KEY) else {
            return json_answer(426, &json!({ "error": { "message": "open a WebSocket here" } }));
        };
        let accept = derive_accept_key(key.as_bytes());
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            tell(json!({ "event": "open" }));
            let conversation = Conversation::new(socket, wiring, &self.args, tell.clone());
            if let Err(error) = conversation.run().await {
                tell(json!({ "event": "failed", "error": error.to_string() }));
            }
        });
        switching(&accept, subprotocol)
    }

    /// As the script says, or because the key is not the one expected.
    fn refusal(&self, parts: &http::request::Parts) -> Option<http::Response<Body>> {
        let error = |status, kind: &str| {
            let message = format!("refused: {kind}");
            Some(json_answer(status, &json!({ "error": { "type": kind, "code": kind, "message": message } })))
        };
        if let Some(status) = self.args.plays.refuse {
            return error(status, "as_scripted");
        }
        let key = self.args.key.as_deref()?;
        if key_in(parts, key).is_some() { None } else { error(401, "invalid_api_key") }
    }
}

/// Where a request presents the key: the name of a header, or `query`.
fn key_in(request: &http::request::Parts, key: &str) -> Option<String> {
    let told = |value: &http::HeaderValue| {
        value.to_str().is_ok_and(|value| value.split([' ', ',', '.']).any(|word| word == key) || value == key)
    };
    let header = request.headers.iter().find(|(_, value)| told(value)).map(|(name, _)| name.to_string());
    header.or_else(|| request.uri.query().filter(|query| query.contains(key)).map(|_| "query".to_owned()))
}

fn switching(accept: &str, subprotocol: Option<&'static str>) -> http::Response<Body> {
    let mut answer = json_answer(101, &Value::Null).map(|_| http_body_util::Empty::new().boxed_unsync());
    let headers = answer.headers_mut();
    headers.clear();
    headers.insert(http::header::CONNECTION, http::HeaderValue::from_static("upgrade"));
    headers.insert(http::header::UPGRADE, http::HeaderValue::from_static("websocket"));
    if let Ok(accept) = http::HeaderValue::from_str(accept) {
        headers.insert(http::header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(name) = subprotocol {
        headers.insert(http::header::SEC_WEBSOCKET_PROTOCOL, http::HeaderValue::from_static(name));
    }
    answer
}

/// One WebSocket with an actor behind it.
struct Conversation {
    socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    wiring: Box<dyn Wiring>,
    actor: Actor,
    duplicate: bool,
    opened: Instant,
    tell: Log,
}

impl Conversation {
    fn new(
        socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
        wiring: Box<dyn Wiring>,
        args: &VendorArgs,
        tell: Log,
    ) -> Conversation {
        let (actor, duplicate) = (Actor::new(&args.plays, wiring.streams()), args.plays.duplicate);
        Conversation { socket, wiring, actor, duplicate, opened: Instant::now(), tell }
    }

    async fn run(mut self) -> Result<(), WsError> {
        let mut out = Outbox::default();
        self.wiring.open(&mut out);
        self.send(out).await?;
        loop {
            let deadline = self.actor.deadline().map(|at| self.opened + at);
            let due = async move {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // What the client says first: an interruption is to be heard before more is said.
                biased;
                message = self.socket.next() => {
                    let Some(message) = message else { break };
                    if !self.handle(message?).await? {
                        break;
                    }
                }
                () = due => self.actor.handle_time(self.opened.elapsed()),
            }
            if !self.say().await? {
                break;
            }
        }
        (self.tell)(self.actor.summary());
        Ok(())
    }

    async fn handle(&mut self, message: Message) -> Result<bool, WsError> {
        let wire = match message {
            Message::Text(text) => Wire::Text(text.as_str().to_owned()),
            Message::Binary(bytes) => Wire::Binary(bytes),
            Message::Close(frame) => {
                let (code, reason) =
                    frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                (self.tell)(json!({ "event": "close", "code": code, "reason": reason }));
                // The library has queued the answer.
                let _ = timeout(Duration::from_secs(1), self.socket.flush()).await;
                return Ok(false);
            }
            _ => return Ok(true),
        };
        let mut out = Outbox::default();
        let shown = shown(&wire);
        let heard = self.wiring.handle(wire, &mut out);
        if !matches!(heard[..], [Heard::Audio(_)]) {
            (self.tell)(json!({ "event": "message", "message": shown }));
        }
        self.send(out).await?;
        let now = self.opened.elapsed();
        for heard in heard {
            self.actor.handle(heard, now);
        }
        Ok(true)
    }

    /// Sends what the actor says; `false`: that was the end.
    async fn say(&mut self) -> Result<bool, WsError> {
        self.actor.take_log().into_iter().for_each(|line| (self.tell)(line));
        while let Some(says) = self.actor.poll() {
            let mut out = Outbox::default();
            if let Says::TurnStarted { turn } = &says
                && let Some(text) = self.actor.text_of(*turn)
            {
                self.wiring.announce(*turn, text);
            }
            self.wiring.say(&says, &mut out);
            self.send(out).await?;
            match says {
                Says::Stall(span) => sleep(span).await,
                Says::Close(code) => {
                    (self.tell)(json!({ "event": "closing", "code": code }));
                    let frame = CloseFrame { code: CloseCode::from(code), reason: "as scripted".into() };
                    self.socket.close(Some(frame)).await?;
                    let peer_closes = async { while let Some(Ok(_)) = self.socket.next().await {} };
                    let _ = timeout(Duration::from_secs(1), peer_closes).await;
                    return Ok(false);
                }
                _ => {}
            }
        }
        Ok(true)
    }

    async fn send(&mut self, out: Outbox) -> Result<(), WsError> {
        out.log.into_iter().for_each(|line| (self.tell)(line));
        for sent in out.wires {
            let (wire, twice) = match sent {
                Sent::Event(wire) => (wire, self.duplicate),
                Sent::Audio(wire) => (wire, false),
            };
            let message = match wire {
                Wire::Text(text) => Message::text(text),
                Wire::Binary(bytes) => Message::Binary(bytes),
                Wire::Close(code, reason) => {
                    let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
                    (self.tell)(json!({ "event": "closing", "code": code }));
                    self.socket.close(Some(frame)).await?;
                    return Ok(());
                }
            };
            if twice {
                self.socket.feed(message.clone()).await?;
            }
            self.socket.feed(message).await?;
        }
        self.socket.flush().await
    }
}

/// A message as it is logged.
fn shown(wire: &Wire) -> Value {
    let text = match wire {
        Wire::Text(text) => text.as_str(),
        Wire::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or("(binary)"),
        Wire::Close(..) => "",
    };
    let mut value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    shorten(&mut value);
    value
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > LOGGED => {
            let start: String = text.chars().take(40).collect();
            *text = format!("{start}… ({} bytes)", text.len());
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}
