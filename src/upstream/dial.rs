//! Opening a socket to an agent: the URL where it has to be fetched, then name, TCP, TLS and upgrade, or a session on a
//! QUIC connection, within one deadline.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{Error, error::ProtocolError};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::agent::{Before, Endpoint, HttpRequest};
use crate::message::{AgentError, FailureClass};
use crate::runtime::sockets;
use crate::runtime::stream::Stream;
use crate::runtime::tls::TlsError;
use crate::runtime::websocket::{Bounds, WebSocket};
use crate::upstream::fetch::fetch;
use crate::upstream::request::{self, Exchange};
use crate::upstream::token::Tokens;

use super::Socket;
use super::quic::Pool;
use super::trust::Trust;

/// How long one address of several may take before the next one is tried.
const ADDRESS_DEADLINE: Duration = Duration::from_millis(1500);

/// URLs that are fetched at once; the others wait, within their own deadlines.
const MAX_FETCHES: usize = 64;
/// HTTP requests of agents that run at once; the others wait, within their own deadlines.
const MAX_REQUESTS: usize = 1024;

/// Dials agents. Its clones share their connections over QUIC.
#[derive(Clone, Debug)]
pub struct Dialer {
    trust: Arc<Trust>,
    pool: Arc<Pool>,
    /// Where URLs are fetched; `None`: where it is dialled.
    control: Option<Handle>,
    fetches: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    tokens: Tokens,
}

impl Default for Dialer {
    fn default() -> Dialer {
        Dialer {
            trust: Arc::default(),
            pool: Arc::default(),
            control: None,
            fetches: Arc::new(Semaphore::new(MAX_FETCHES)),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            tokens: Tokens::default(),
        }
    }
}

impl Dialer {
    /// The same, with URLs fetched on the control runtime.
    pub fn fetching_on(self, control: Handle) -> Dialer {
        Dialer { control: Some(control), ..self }
    }

    /// One for another worker: it trusts the same, and has connections of its own.
    pub fn for_another_worker(&self) -> Dialer {
        Dialer { pool: Arc::default(), ..self.clone() }
    }

    /// Begins an HTTP request on the control runtime.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn request(&self, wanted: HttpRequest) -> Result<Exchange, AgentError> {
        let runtime = self.control.clone().unwrap_or_else(Handle::current);
        let tls = self.trust.tcp(None).map_err(distrust)?;
        Ok(request::begin(&runtime, tls, self.requests.clone(), self.tokens.clone(), wanted))
    }

    /// Opens a WebSocket (RFC 6455), or a session on a shared connection (`quic://`), to `endpoint`.
    ///
    /// # Errors
    /// Why not, with the class that decides whether another try may help. Header values never appear in it.
    pub async fn dial(&self, endpoint: Endpoint) -> Result<Socket, AgentError> {
        if endpoint.url.scheme() == "quic" {
            // A connection that is being made for several sessions has a deadline of its own.
            let tls = self.trust.quic(endpoint.authorities.as_ref()).map_err(distrust)?;
            return self.pool.open(&endpoint, tls).await.map(Socket::Quic);
        }
        let deadline = endpoint.connect_timeout;
        match tokio::time::timeout(deadline, self.fetch_and_connect(&endpoint)).await {
            Ok(result) => result.map(Socket::WebSocket),
            Err(_) => Err(failure(
                FailureClass::Timeout,
                format!("{} did not answer within {} ms", place(&endpoint.url), deadline.as_millis()),
            )),
        }
    }

    fn tls(&self, endpoint: &Endpoint) -> Result<Arc<ClientConfig>, AgentError> {
        self.trust.tcp(endpoint.authorities.as_ref()).map_err(distrust)
    }

    async fn fetch_and_connect(&self, endpoint: &Endpoint) -> Result<WebSocket, AgentError> {
        let mut endpoint = endpoint.clone();
        match endpoint.before.take() {
            None => {}
            Some(Before::Url(wanted)) => {
                endpoint.url = self.on_control(fetch(self.tls(&endpoint)?, self.fetches.clone(), wanted)).await?;
            }
            Some(Before::Token(command)) => {
                let token = self.on_control(self.tokens.clone().token(command)).await?;
                let bearer = format!("Bearer {}", token.expose_secret());
                endpoint.headers.push(("authorization".to_owned(), bearer.into()));
            }
        }
        self.connect(&endpoint).await
    }

    /// Runs what a dial needs beforehand on the control runtime.
    async fn on_control<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, AgentError>> + Send + 'static,
    ) -> Result<T, AgentError> {
        let Some(control) = &self.control else { return task.await };
        let ended = AbortOnDropHandle::new(control.spawn(task)).await;
        ended.map_err(|error| failure(FailureClass::Internal, format!("what comes before the dial: {error}")))?
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<WebSocket, AgentError> {
        let encrypted = match endpoint.url.scheme() {
            "wss" => true,
            "ws" => false,
            other => return Err(failure(FailureClass::BadRequest, format!("`{other}` is not ws, wss or quic"))),
        };
        let request = request(endpoint)?;
        let stream = open_stream(&self.tls(endpoint)?, &endpoint.url, encrypted).await?;
        let bounds = Bounds::AGENT;
        let (socket, _response) = tokio_tungstenite::client_async_with_config(request, stream, Some(bounds.config()))
            .await
            .map_err(|error| upgrade_failure(endpoint, error))?;
        Ok(WebSocket::new(socket, bounds))
    }
}

/// A TCP connection to the host of `url`, with TLS if it is to be encrypted.
pub(super) async fn open_stream(tls: &Arc<ClientConfig>, url: &Url, encrypted: bool) -> Result<Stream, AgentError> {
    let tcp = connect_tcp(url)
        .await
        .map_err(|error| failure(FailureClass::Unreachable, format!("cannot connect to {}: {error}", place(url))))?;
    if !encrypted {
        return Ok(Stream::from(tcp));
    }
    let host = host(url);
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| failure(FailureClass::BadRequest, format!("`{host}` is not a host name")))?;
    let tls = TlsConnector::from(tls.clone())
        .connect(name, tcp)
        .await
        .map_err(|error| failure(FailureClass::Unreachable, format!("TLS with {} failed: {error}", place(url))))?;
    Ok(Stream::from(tokio_rustls::TlsStream::Client(tls)))
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

async fn connect_tcp(url: &Url) -> io::Result<TcpStream> {
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses: Vec<_> = tokio::net::lookup_host((host(url), port)).await?.collect();
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let last = addresses.len().saturating_sub(1);
    for (index, address) in addresses.into_iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let connected = if index == last {
            connecting.await
        } else {
            tokio::time::timeout(ADDRESS_DEADLINE, connecting)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match connected {
            Ok(tcp) => {
                sockets::prepare_stream(&tcp)?;
                return Ok(tcp);
            }
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

fn request(endpoint: &Endpoint) -> Result<Request, AgentError> {
    let mut request = endpoint
        .url
        .as_str()
        .into_client_request()
        .map_err(|error| failure(FailureClass::BadRequest, format!("{}: {error}", place(&endpoint.url))))?;
    let headers = request.headers_mut();
    for (name, value) in &endpoint.headers {
        let name = http::HeaderName::try_from(name.as_str())
            .map_err(|_| failure(FailureClass::BadRequest, format!("`{name}` is not a header name")))?;
        let mut value = http::HeaderValue::try_from(value.expose_secret()).map_err(|_| {
            failure(
                FailureClass::BadRequest,
                format!("the value of header `{name}` has characters that headers cannot have"),
            )
        })?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    if !endpoint.subprotocols.is_empty() {
        let offered = http::HeaderValue::try_from(endpoint.subprotocols.join(", "))
            .map_err(|_| failure(FailureClass::BadRequest, "a subprotocol is not a token".into()))?;
        headers.insert(http::header::SEC_WEBSOCKET_PROTOCOL, offered);
    }
    Ok(request)
}

/// An answer by HTTP that is not the one that was hoped for.
pub(super) fn refusal(url: &Url, status: StatusCode, body: &[u8]) -> AgentError {
    let class = match status.as_u16() {
        401 | 403 => FailureClass::Auth,
        402 | 429 => FailureClass::Limit,
        408 | 504 => FailureClass::Timeout,
        502 | 503 => FailureClass::Unreachable,
        500..=599 => FailureClass::Internal,
        _ => FailureClass::BadRequest,
    };
    if status.is_redirection() {
        let text = format!("{} answered {status}; redirects are not followed: set `url` to where it leads", place(url));
        return AgentError { code: Some(status.as_u16().to_string()), ..failure(FailureClass::BadRequest, text) };
    }
    let words: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(200).collect();
    let mut error = failure(class, format!("{} answered {status} {words}", place(url)).trim_end().into());
    error.code = Some(status.as_u16().to_string());
    error
}

fn upgrade_failure(endpoint: &Endpoint, error: Error) -> AgentError {
    match error {
        Error::Http(response) => {
            refusal(&endpoint.url, response.status(), response.body().as_deref().unwrap_or_default())
        }
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(error)) => failure(
            FailureClass::Protocol,
            format!("{} chose none of the subprotocols {:?}: {error}", place(&endpoint.url), endpoint.subprotocols),
        ),
        Error::Protocol(error) => {
            failure(FailureClass::Protocol, format!("{} is not a WebSocket server: {error}", place(&endpoint.url)))
        }
        error => failure(FailureClass::Lost, format!("{} broke off the upgrade: {error}", place(&endpoint.url))),
    }
}

/// The URL without what may be secret: user, password and query.
pub(super) fn place(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn distrust(error: TlsError) -> AgentError {
    failure(FailureClass::BadRequest, error.to_string())
}

pub(super) fn failure(class: FailureClass, message: String) -> AgentError {
    AgentError { class, code: None, message }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint {
            url: url.parse().unwrap(),
            headers: vec![("authorization".into(), "Bearer hidden".to_owned().into())],
            subprotocols: vec!["antiphon.v1".into()],
            connect_timeout: Duration::from_millis(500),
            before: None,
            authorities: None,
            sessions_per_connection: 1,
        }
    }

    async fn answer(listener: &TcpListener, answer: &str) -> String {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let count = tcp.read(&mut request).await.unwrap();
        tcp.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request[..count].to_vec()).unwrap()
    }

    async fn failed(answered: &str) -> AgentError {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/agent?key=hidden", listener.local_addr().unwrap());
        let dialer = Dialer::default();
        let (result, request) = tokio::join!(dialer.dial(endpoint(&url)), answer(&listener, answered));
        assert!(request.contains("authorization: Bearer hidden"), "{request}");
        assert!(request.to_ascii_lowercase().contains("sec-websocket-protocol: antiphon.v1"), "{request}");
        let error = result.unwrap_err();
        assert!(!error.message.contains("hidden"), "a secret is in: {}", error.message);
        error
    }

    #[tokio::test]
    async fn an_http_status_tells_the_class_of_the_failure() {
        for (status, class) in [
            ("401 Unauthorized", FailureClass::Auth),
            ("429 Too Many Requests", FailureClass::Limit),
            ("503 Service Unavailable", FailureClass::Unreachable),
            ("500 Oops", FailureClass::Internal),
            ("404 Not Found", FailureClass::BadRequest),
        ] {
            let error = failed(&format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nno")).await;
            assert_eq!(error.class, class, "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_redirect_leads_nowhere() {
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let location = format!("ws://{}/", elsewhere.local_addr().unwrap());
        for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"] {
            let error =
                failed(&format!("HTTP/1.1 {status}\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")).await;
            assert_eq!(error.class, FailureClass::BadRequest, "{error:?}");
            assert!(error.message.contains("redirects are not followed"), "{error:?}");
        }
        let followed = tokio::time::timeout(Duration::from_millis(50), elsewhere.accept()).await;
        assert!(followed.is_err(), "nobody came");
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable_and_nobody_answering_is_a_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        assert_eq!(Dialer::default().dial(endpoint(&url)).await.unwrap_err().class, FailureClass::Timeout);
        drop(listener);
        assert_eq!(Dialer::default().dial(endpoint(&url)).await.unwrap_err().class, FailureClass::Unreachable);
    }
}
