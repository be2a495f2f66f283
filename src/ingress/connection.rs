//! One connection on its worker: TLS, then HTTP/1.1, then perhaps a session.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::gate::{Connected, Gate, Handshake, Waiting};
use super::webrtc::Webrtc;
use super::websocket::{self, Upgrade};
use super::{http, proxy};
use crate::config::settings::{HttpSettings, ProxyForm};
use crate::runtime::node::Node;
use crate::runtime::sockets;
use crate::runtime::stream::Stream;
use crate::runtime::worker::Worker;
use crate::telemetry::Refusal;
use crate::time::Micros;

/// An accepted connection on its way to its worker.
pub(super) struct Incoming {
    pub(super) node: Arc<Node>,
    pub(super) webrtc: Option<Arc<Webrtc>>,
    pub(super) worker: Arc<Worker>,
    pub(super) tcp: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) accepted: Micros,
    pub(super) gate: Arc<Gate>,
    pub(super) handshake: Handshake,
    /// What is given back when the connection ends.
    pub(super) admission: Box<dyn Send>,
}

/// What the requests of a connection share.
pub(super) struct Shared {
    pub(super) node: Arc<Node>,
    /// Whoever is at the other end, or for whom it speaks.
    peer: IpAddr,
    gate: Arc<Gate>,
    encrypted: bool,
    /// Where it is on.
    pub(super) webrtc: Option<Arc<Webrtc>>,
    pub(super) accepted: Micros,
    /// How long TLS took.
    pub(super) tls: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    requested: bool,
    handshake: Option<Handshake>,
    upgrade: Option<Upgrade>,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has sent a request with these headers.
    pub(super) fn address(&self, headers: &HeaderMap) -> IpAddr {
        proxy::address(self.peer, headers, &self.node.in_force.load().settings.http)
    }

    /// Whether whoever sent a request with these headers reaches us by TLS, be it that of a proxy.
    pub(super) fn is_encrypted(&self, headers: &HeaderMap) -> bool {
        self.encrypted || proxy::is_https(self.peer, headers, &self.node.in_force.load().settings.http)
    }

    /// Counts a session of somebody for whom a proxy speaks.
    ///
    /// # Errors
    /// If that address has too many.
    pub(super) fn enter_behind(&self, address: IpAddr) -> Result<Option<Connected>, Refusal> {
        self.gate.connect_behind(self.peer, address, &self.node.in_force.load().settings.http)
    }

    /// Counts a WebRTC answer that waits for its peer.
    ///
    /// # Errors
    /// If that address has too many.
    pub(super) fn park(&self, address: IpAddr) -> Result<Waiting, Refusal> {
        self.gate.park(address, &self.node.in_force.load().settings.http)
    }

    /// A request head has come.
    pub(super) fn on_request(&self) {
        self.state().requested = true;
    }

    /// It was a plain request: the handshake is over.
    pub(super) fn on_plain(&self) {
        self.state().handshake = None;
    }

    /// It will become a WebSocket.
    pub(super) fn on_upgrade(&self, upgrade: Upgrade) {
        self.state().upgrade = Some(upgrade);
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(incoming: Incoming) {
    let Incoming { node, webrtc, worker, tcp, peer, accepted, gate, handshake, admission } = incoming;
    let refuse = |refusal| node.telemetry.node().record_refusal(refusal);
    let in_force = node.in_force.load_full();
    let settings = &in_force.settings.http;
    let deadline = node.clock.instant(accepted + settings.handshake);
    let Ok(mut tcp) = TcpStream::from_std(tcp).and_then(|tcp| sockets::prepare_stream(&tcp).map(|()| tcp)) else {
        return refuse(Refusal::Gone);
    };
    let (socket, peer) = (peer.ip(), timeout_at(deadline, announced(&mut tcp, peer.ip(), settings)).await);
    let peer = match peer {
        Ok(Ok(peer)) => peer,
        Ok(Err(refusal)) => return refuse(refusal),
        Err(_) => return refuse(Refusal::Timeout),
    };
    let admission = match gate.connect_behind(socket, peer, settings) {
        Ok(behind) => Box::new((admission, behind)),
        Err(refusal) => return refuse(refusal),
    };
    let (stream, tls) = match in_force.identity.as_ref().map(|_| node.https.clone()) {
        None => (Stream::from(tcp), None),
        Some(config) => {
            let begun = node.clock.now();
            match timeout_at(deadline, TlsAcceptor::from(config).accept(tcp)).await {
                Err(_) => return refuse(Refusal::Timeout),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "TLS handshake failed");
                    return refuse(Refusal::Tls);
                }
                Ok(Ok(tls)) => (Stream::from(TlsStream::Server(tls)), Some(node.clock.now() - begun)),
            }
        }
    };
    let state = Mutex::new(State { handshake: Some(handshake), ..State::default() });
    let encrypted = stream.is_encrypted();
    let shared = Arc::new(Shared { node: node.clone(), peer, gate, encrypted, webrtc, accepted, tls, state });
    serve_http(&shared, stream, settings, deadline).await;
    let (upgrade, handshake) = {
        let mut state = shared.state();
        (state.upgrade.take(), state.handshake.take())
    };
    if let Some(upgrade) = upgrade {
        websocket::serve(&shared, upgrade, worker, handshake, admission).await;
    }
}

/// Who is at the other end of a connection: the peer, or whoever its proxy announces.
async fn announced(tcp: &mut TcpStream, peer: IpAddr, settings: &HttpSettings) -> Result<IpAddr, Refusal> {
    let by_proxy = settings.proxy_form == ProxyForm::Proxy && proxy::is_trusted(peer, &settings.trusted_proxies);
    let told = if by_proxy { proxy::read_header(tcp).await } else { Ok(None) };
    told.map(|told| told.unwrap_or(peer.to_canonical())).map_err(|error| {
        tracing::debug!(%error, "a proxy did not say for whom it speaks");
        Refusal::BadRequest
    })
}

async fn serve_http(shared: &Arc<Shared>, stream: Stream, settings: &HttpSettings, deadline: tokio::time::Instant) {
    let service = service_fn({
        let shared = shared.clone();
        move |request| {
            let shared = shared.clone();
            async move { Ok::<_, Infallible>(http::respond(&shared, request).await) }
        }
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.handshake.max(settings.keep_alive))
        .max_headers(settings.max_headers)
        .max_header_size(settings.max_head_bytes)
        .max_buf_size(settings.max_head_bytes.max(8192))
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut first = true;
    loop {
        tokio::select! {
            result = &mut http => {
                if let Err(error) = result && !shared.state().requested {
                    tracing::debug!(%error, "no request came");
                    shared.node.telemetry.node().record_refusal(Refusal::BadRequest);
                }
                return;
            }
            () = shared.node.stopping.cancelled() => return,
            () = tokio::time::sleep_until(deadline), if first => {
                first = false;
                if !shared.state().requested {
                    break;
                }
            }
        }
    }
    // The head did not come in time. hyper has written nothing yet, so that this is the whole answer.
    shared.node.telemetry.node().record_refusal(Refusal::Timeout);
    if let Some(parts) = http.into_parts() {
        let mut stream = parts.io.into_inner();
        let answer = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            stream.write_all(answer).await?;
            stream.shutdown().await
        })
        .await;
    }
}
