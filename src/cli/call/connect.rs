//! Opens the connections of a call.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error as WsError, http};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::dialect::native::SUBPROTOCOL;

/// Where sessions are opened, below the base URL.
const PATH: &str = "v1/session";
/// For each of: TCP, TLS, upgrade, the answer of HTTP.
const STAGE: Duration = Duration::from_secs(10);
/// Bytes of an answer of HTTP at most.
const MAX_ANSWER: usize = 1 << 20;

/// A TCP or TLS stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The socket of a call.
pub type Socket = WebSocketStream<Box<dyn Stream>>;

/// How long each stage of the connection took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// Name look-up and TCP.
    pub connect: Duration,
    /// TLS, if any, and the WebSocket upgrade.
    pub upgrade: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be used: the caller's mistake.
    #[error("`{url}` is no URL to call: {why}; write one like http://127.0.0.1:8080")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Nobody listens there.
    #[error("{0} refuses connections: is the daemon running? start it with `make run` or `antiphon run`")]
    Refused(String),
    /// Name or network trouble.
    #[error("cannot reach {0}: {1}")]
    Unreachable(String, io::Error),
    /// The peer did not answer in time.
    #[error("{0} did not answer within 10 s while {1}")]
    TimedOut(String, &'static str),
    /// TLS failed.
    #[error(
        "TLS with {0} failed: {1}; set SSL_CERT_FILE to a PEM file if its certificate is signed by your own authority"
    )]
    Tls(String, io::Error),
    /// It answered, but not with a WebSocket.
    #[error("{url} answered {status}{body}")]
    Http {
        /// The URL asked.
        url: String,
        /// The HTTP status.
        status: http::StatusCode,
        /// The beginning of its body, after a colon.
        body: String,
    },
    /// It answered with something else.
    #[error("{0} does not speak WebSocket: {1}")]
    Upgrade(String, String),
    /// WebRTC failed after or before the answer.
    #[error("no WebRTC with {0}: {1}")]
    Webrtc(String, String),
    /// QUIC or WebTransport, which is named, failed.
    #[error("no {0} with {1}: {2}")]
    Quic(&'static str, String, String),
    /// A token that cannot stand in a header.
    #[error("the token holds characters that cannot stand in an HTTP header")]
    Token,
}

/// The WebSocket URL of sessions below `base`, which may be of HTTP or WebSocket.
///
/// # Errors
/// [`ConnectError::Url`].
pub fn session_url(base: &str) -> Result<Url, ConnectError> {
    let wrong = |why: String| ConnectError::Url { url: base.to_owned(), why };
    let mut url = Url::parse(base).map_err(|error| wrong(error.to_string()))?;
    let scheme = match url.scheme() {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        other => return Err(wrong(format!("the scheme is `{other}`, not http, https, ws or wss"))),
    };
    if url.host_str().is_none_or(str::is_empty) || url.set_scheme(scheme).is_err() {
        return Err(wrong("it names no host".to_owned()));
    }
    let path = url.path().trim_end_matches('/');
    if !path.ends_with(PATH) {
        url.set_path(&format!("{path}/{PATH}"));
    }
    Ok(url)
}

/// Connects and upgrades.
///
/// # Errors
/// [`ConnectError`], each with what to do about it.
pub async fn connect(url: &Url, token: Option<&str>) -> Result<(Socket, Stages), ConnectError> {
    let request = request(url, token)?;
    let started = Instant::now();
    let Opened { stream, peer, connected, .. } = open(url).await?;
    let (socket, _) = match timeout(STAGE, client_async(request, stream)).await {
        Ok(upgraded) => upgraded.map_err(|error| upgrade_error(url, error))?,
        Err(_) => return Err(ConnectError::TimedOut(peer, "upgrading to WebSocket")),
    };
    Ok((socket, Stages { connect: connected - started, upgrade: connected.elapsed() }))
}

/// An open stream to a relay.
pub struct Opened {
    /// It.
    pub stream: Box<dyn Stream>,
    /// Host and port, for messages.
    pub peer: String,
    /// Our own address.
    pub local: SocketAddr,
    /// When TCP was open; TLS came after.
    pub connected: Instant,
}

impl Opened {
    /// Sends one HTTP request and gives status and body of the answer; `doing` is what takes too long if it does, and
    /// `failed` makes an error of what goes wrong.
    ///
    /// # Errors
    /// [`ConnectError::TimedOut`], or what `failed` makes.
    pub(super) async fn ask<B>(
        self,
        request: http::Request<B>,
        doing: &'static str,
        failed: impl FnOnce(String) -> ConnectError,
    ) -> Result<(http::StatusCode, Bytes), ConnectError>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let asking = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.stream)).await?;
            let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok::<_, hyper::Error>((status, body.map(|body| body.to_bytes()).unwrap_or_default()))
        };
        let answered = timeout(STAGE, asking).await.map_err(|_| ConnectError::TimedOut(self.peer, doing))?;
        answered.map_err(|error| failed(error.to_string()))
    }
}

/// Opens TCP, and TLS where the URL asks for it.
///
/// # Errors
/// [`ConnectError`], each with what to do about it.
pub async fn open(url: &Url) -> Result<Opened, ConnectError> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let peer = format!("{host}:{port}");
    let address = (host.trim_matches(['[', ']']), port);
    let tcp = match timeout(STAGE, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(ConnectError::Refused(peer)),
        Ok(Err(error)) => return Err(ConnectError::Unreachable(peer, error)),
        Err(_) => return Err(ConnectError::TimedOut(peer, "connecting")),
    };
    let unusable = |error| ConnectError::Unreachable(peer.clone(), error);
    tcp.set_nodelay(true).map_err(unusable)?;
    let local = tcp.local_addr().map_err(unusable)?;
    let connected = Instant::now();
    let stream: Box<dyn Stream> =
        if ["wss", "https"].contains(&url.scheme()) { Box::new(tls(tcp, host, &peer).await?) } else { Box::new(tcp) };
    Ok(Opened { stream, peer, local, connected })
}

fn request(url: &Url, token: Option<&str>) -> Result<Request, ConnectError> {
    let wrong = |error: WsError| ConnectError::Url { url: url.to_string(), why: error.to_string() };
    let mut request = url.as_str().into_client_request().map_err(wrong)?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
    if let Some(value) = token.map(bearer).transpose()? {
        request.headers_mut().insert("authorization", value);
    }
    Ok(request)
}

/// The value of `Authorization`.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, ConnectError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| ConnectError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

async fn tls(tcp: TcpStream, host: &str, peer: &str) -> Result<impl Stream + use<>, ConnectError> {
    let failed = |error: io::Error| ConnectError::Tls(peer.to_owned(), error);
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
        let read = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.map_err(|error| failed(io::Error::other(format!("SSL_CERT_FILE: {error}"))))?;
        roots.add_parsable_certificates(certificates);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
    let name = name.map_err(|error| failed(io::Error::other(error)))?;
    match timeout(STAGE, TlsConnector::from(Arc::new(config)).connect(name, tcp)).await {
        Ok(stream) => stream.map_err(failed),
        Err(_) => Err(ConnectError::TimedOut(peer.to_owned(), "setting up TLS")),
    }
}

fn upgrade_error(url: &Url, error: WsError) -> ConnectError {
    match error {
        WsError::Http(response) => {
            let (parts, body) = response.into_parts();
            let text = String::from_utf8_lossy(&body.unwrap_or_default()).chars().take(500).collect::<String>();
            let body = if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) };
            ConnectError::Http { url: url.to_string(), status: parts.status, body }
        }
        WsError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
            ConnectError::Upgrade(url.to_string(), format!("it does not offer the subprotocol {SUBPROTOCOL}"))
        }
        error => ConnectError::Upgrade(url.to_string(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_base_url_leads_to_the_sessions() {
        for (base, url) in [
            ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/session"),
            ("https://voice.example/", "wss://voice.example/v1/session"),
            ("wss://voice.example/relay/", "wss://voice.example/relay/v1/session"),
            ("ws://[::1]:8080/v1/session", "ws://[::1]:8080/v1/session"),
            ("http://h/?agent=echo", "ws://h/v1/session?agent=echo"),
        ] {
            assert_eq!(session_url(base).expect(base).as_str(), url);
        }
        for base in ["127.0.0.1:8080", "ftp://h", "", "http://"] {
            let error = session_url(base).expect_err(base).to_string();
            assert!(error.contains("http://127.0.0.1:8080"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_says_how_to_start_the_daemon() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = session_url(&format!("http://{}", free.local_addr().expect("address"))).expect("url");
        drop(free);
        let error = connect(&url, None).await.map(|_| ()).expect_err("nobody listens").to_string();
        assert!(error.contains("make run"), "{error}");
    }
}
