//! Calls over raw QUIC and over WebTransport: control messages on a stream, RTP in datagrams.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::Empty;
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::{Request, StatusCode};
use url::{Host, Url};

use super::carrier::{Arrived, NotSent};
use super::connect::{ConnectError, open};
use super::microphone::FRAME;
use crate::dialect::native::quic::{ALPN, Decoder, Flow, Frame, Prelude, StreamKind, read_flow, write_control};
use crate::media::format::Format;
use crate::media::rtp::{self, Header, Packet};
use crate::runtime::certificate::CertificateHash;
use crate::runtime::quic::carrier::{Carrier, HalfEnd, Outlet, Stream};
use crate::runtime::{pinned, tls};

/// The application protocol of HTTP/3.
const H3: &[u8] = b"h3";
/// For the handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// The flow of the only session on the connection.
const FLOW: u64 = 1;
/// The code of an orderly end.
const NORMAL: u16 = 1000;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ALPN `antiphon/1`.
    Quic,
    /// HTTP/3.
    WebTransport,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Kind::Quic => "QUIC",
            Kind::WebTransport => "WebTransport",
        }
    }
}

/// Stages of the set-up.
#[derive(Clone, Copy, Debug)]
pub struct Stages {
    /// From the question where it is served to the answer.
    pub endpoints: Duration,
    /// The handshake, and the request of WebTransport.
    pub connect: Duration,
}

/// An open session on a connection of its own.
pub struct QuicCall {
    carrier: Carrier,
    stream: Stream,
    decoder: Decoder,
    outlet: Outlet,
    /// Of the next packet.
    header: Header,
    format: Format,
    /// The beginning of a frame that came in several packets, and its timestamp.
    begun: Option<(u32, BytesMut)>,
    /// Keeps the socket.
    _endpoint: Box<dyn Send>,
}

/// The part of the answer of `/v1/endpoints` that is used here.
#[derive(Deserialize)]
struct Endpoints {
    quic: Option<Place>,
    webtransport: Option<Place>,
}

#[derive(Deserialize)]
struct Place {
    addr: Option<String>,
    url: Option<String>,
    cert_sha256: Option<String>,
}

/// Asks the relay whose sessions are at `session` where it serves this kind, and connects there.
///
/// # Errors
/// [`ConnectError`], each with what to do about it.
pub async fn connect(
    kind: Kind,
    session: &Url,
    token: Option<&str>,
    format: Format,
) -> Result<(QuicCall, Stages), ConnectError> {
    let begun = Instant::now();
    let endpoints = ask(session).await?;
    let asked = begun.elapsed();
    let place = match kind {
        Kind::Quic => endpoints.quic,
        Kind::WebTransport => endpoints.webtransport,
    };
    let Some(place) = place else {
        let why = format!("it is not served; is `listen.quic` off at {}?", &session[..url::Position::BeforePath]);
        return Err(ConnectError::Quic(kind.label(), session.to_string(), why));
    };
    let url = match kind {
        Kind::Quic => place.addr.as_deref().and_then(|addr| Url::parse(&format!("quic://{addr}")).ok()),
        Kind::WebTransport => place.url.as_deref().and_then(|url| Url::parse(url).ok()),
    };
    let wrong = || ConnectError::Quic(kind.label(), session.to_string(), "it tells no address".to_owned());
    let url = url.filter(|url| url.has_host() && url.port_or_known_default().is_some()).ok_or_else(wrong)?;
    let failed = |why: String| ConnectError::Quic(kind.label(), url.to_string(), why);
    let config = trust(kind, session, place.cert_sha256.as_deref()).map_err(failed)?;
    let connecting = async {
        match kind {
            Kind::Quic => dial_quic(&url, config).await,
            Kind::WebTransport => dial_webtransport(&url, token, config).await,
        }
    };
    let connected = timeout(PATIENCE, connecting).await;
    let (carrier, endpoint) = connected
        .map_err(|_| failed("no answer came within 10 s; is its UDP port open?".to_owned()))?
        .map_err(failed)?;
    let stages = Stages { endpoints: asked, connect: begun.elapsed() - asked };
    let call = QuicCall::open(carrier, endpoint, format).await;
    Ok((call.map_err(|_| failed("it opens no stream".to_owned()))?, stages))
}

/// GET /v1/endpoints beside `session`.
async fn ask(session: &Url) -> Result<Endpoints, ConnectError> {
    let mut url = session.clone();
    let path = session.path().trim_end_matches("session");
    url.set_path(&format!("{path}endpoints"));
    let opened = open(&url).await?;
    let failed = |why: String| ConnectError::Quic("QUIC", url.to_string(), why);
    let request = Request::builder()
        .uri(url[url::Position::BeforePath..url::Position::AfterPath].to_owned())
        .header("host", &url[url::Position::BeforeHost..url::Position::AfterPort])
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(error.to_string()))?;
    let (status, body) = opened.ask(request, "telling its endpoints", failed).await?;
    if status != StatusCode::OK {
        return Err(ConnectError::Http { url: url.to_string(), status, body: String::new() });
    }
    serde_json::from_slice(&body).map_err(|error| failed(format!("its answer is not understood: {error}")))
}

/// A hash is believed only if nobody on the way can have changed it.
fn trust(kind: Kind, session: &Url, hash: Option<&str>) -> Result<rustls::ClientConfig, String> {
    let alpn = [match kind {
        Kind::Quic => ALPN,
        Kind::WebTransport => H3,
    }];
    let Some(hash) = hash else {
        let mut more = Vec::new();
        if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
            let read = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            more = read.map_err(|error| format!("SSL_CERT_FILE: {error}"))?;
        }
        return tls::client_config(&more, &alpn).map_err(|error| error.to_string());
    };
    let loopback = match session.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if !loopback && session.scheme() != "wss" {
        return Err("its certificate is self-signed, and its hash came over plain HTTP, where anybody on the way can \
            change it; give the relay a certificate (`[http.tls]`), or call it by https"
            .to_owned());
    }
    let hash: CertificateHash = hash.parse()?;
    pinned::client_config(hash, &alpn).map_err(|error| error.to_string())
}

type Dialled = Result<(Carrier, Box<dyn Send>), String>;

/// The first address of a URL's host, and ours of the same family.
async fn resolve(url: &Url) -> Result<(SocketAddr, SocketAddr), String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let found = tokio::net::lookup_host((host, url.port_or_known_default().unwrap_or(443))).await;
    let peer = found.map_err(|error| error.to_string())?.next().ok_or("the name has no address")?;
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Ok((peer, SocketAddr::new(any, 0)))
}

async fn dial_quic(url: &Url, tls: rustls::ClientConfig) -> Dialled {
    let (peer, own) = resolve(url).await?;
    let endpoint = quinn::Endpoint::client(own).map_err(|error| error.to_string())?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let connecting = endpoint.connect_with(quinn::ClientConfig::new(Arc::new(crypto)), peer, name);
    let connection = connecting.map_err(|error| error.to_string())?.await.map_err(|error| error.to_string())?;
    Ok((Carrier::Quic(connection), Box::new(endpoint)))
}

async fn dial_webtransport(url: &Url, token: Option<&str>, tls: rustls::ClientConfig) -> Dialled {
    let (_, own) = resolve(url).await?;
    let config = wtransport::ClientConfig::builder().with_bind_address(own).with_custom_tls(tls).build();
    let endpoint = wtransport::Endpoint::client(config).map_err(|error| error.to_string())?;
    let mut options = wtransport::endpoint::ConnectOptions::builder(url);
    if let Some(token) = token {
        options = options.add_header("authorization", format!("Bearer {token}"));
    }
    let connection = endpoint.connect(options.build()).await.map_err(|error| error.to_string())?;
    Ok((Carrier::WebTransport(Arc::new(connection)), Box::new(endpoint)))
}

impl QuicCall {
    async fn open(carrier: Carrier, endpoint: Box<dyn Send>, format: Format) -> Result<QuicCall, NotSent> {
        let flow = Flow::new(FLOW).ok_or(NotSent::Closed)?;
        let stream = carrier.open().await.map_err(|_| NotSent::Closed)?;
        let payload_type = rtp::payload_type(&format);
        let header = Header { marker: true, payload_type, seq: rand::random(), timestamp: 0, ssrc: rand::random() };
        let (outlet, decoder) = (carrier.outlet(flow), Decoder::new(StreamKind::Control));
        let mut call = QuicCall { carrier, stream, decoder, outlet, header, format, begun: None, _endpoint: endpoint };
        let mut prelude = BytesMut::new();
        Prelude { kind: StreamKind::Control, flow }.write(&mut prelude);
        call.write(prelude).await?;
        Ok(call)
    }

    async fn write(&mut self, mut bytes: BytesMut) -> Result<(), NotSent> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.stream.send.poll_write(cx, &bytes)).await;
            bytes.advance(written.map_err(|_| NotSent::Closed)?);
        }
        Ok(())
    }

    /// Sends a control message.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send_message(&mut self, text: &str) -> Result<(), NotSent> {
        let mut bytes = BytesMut::new();
        write_control(&mut bytes, text);
        self.write(bytes).await
    }

    /// Sends a frame of 20 ms, in as many packets as datagrams demand.
    ///
    /// # Errors
    /// If the connection takes no datagrams, or none so large.
    pub async fn send_audio(&mut self, payload: Bytes) -> Result<(), NotSent> {
        let room = self.outlet.room().ok_or_else(|| NotSent::Failed("the relay takes no datagrams".to_owned()))?;
        let sample = self.format.bytes_per_sample().unwrap_or(payload.len().max(1));
        let samples = payload.len() / sample;
        let parts = payload.len().div_ceil(room).clamp(1, samples.max(1));
        let ticks = self.format.time_to_ticks(FRAME) as usize;
        for part in 0..parts {
            let (from, to) = (samples * part / parts, samples * (part + 1) / parts);
            let header = Header { timestamp: self.header.timestamp + (ticks * part / parts) as u32, ..self.header };
            if !self.outlet.send(&header, &payload[from * sample..to * sample]) && (to - from) * sample > room {
                return Err(NotSent::Failed(format!("a frame of {} bytes fits into no datagram", payload.len())));
            }
            self.header.seq = self.header.seq.wrapping_add(1);
            self.header.marker = false;
        }
        self.header.timestamp = self.header.timestamp.wrapping_add(ticks as u32);
        Ok(())
    }

    /// The next thing from the relay; may be dropped and called again.
    pub async fn next(&mut self) -> Arrived {
        match self.decoder.poll() {
            Ok(Some(Frame::Control(text))) => return Arrived::Message(text),
            Ok(Some(Frame::Audio(_))) => return Arrived::Nothing,
            Ok(None) => {}
            Err(error) => return Arrived::Closed(error.to_string()),
        }
        let mut buffer = [0; 4096];
        tokio::select! {
            read = poll_fn(|cx| self.stream.recv.poll_read(cx, &mut buffer)) => match read {
                Ok(0) => Arrived::Closed("the relay ended the session".to_owned()),
                Ok(count) => {
                    self.decoder.push(&buffer[..count]);
                    Arrived::Nothing
                }
                Err(HalfEnd::Code(code)) => Arrived::Closed(format!("the relay closed it, {code}")),
                Err(HalfEnd::Lost) => Arrived::Closed("it was lost".to_owned()),
            },
            datagram = self.carrier.datagram() => {
                let Ok(datagram) = datagram else { return Arrived::Closed("it was lost".to_owned()) };
                match read_flow(datagram).ok().and_then(|(_, packet)| Packet::parse(&packet).ok()) {
                    Some(Packet { header, payload }) if !payload.is_empty() => self.join(header.timestamp, payload),
                    _ => Arrived::Nothing,
                }
            }
        }
    }

    /// Puts together what the relay took apart, as no datagram holds 20 ms of it.
    fn join(&mut self, timestamp: u32, payload: Bytes) -> Arrived {
        let (Some(sample), Some(whole)) = (self.format.bytes_per_sample(), self.format.bytes_in(FRAME)) else {
            return Arrived::Audio { payload, timestamp: Some(timestamp) };
        };
        let (start, mut bytes) = match self.begun.take() {
            Some((start, bytes)) if start.wrapping_add((bytes.len() / sample) as u32) == timestamp => (start, bytes),
            // The rest of the frame before is lost.
            _ if payload.len() >= whole => return Arrived::Audio { payload, timestamp: Some(timestamp) },
            _ => (timestamp, BytesMut::with_capacity(whole)),
        };
        bytes.extend_from_slice(&payload);
        if bytes.len() < whole {
            self.begun = Some((start, bytes));
            return Arrived::Nothing;
        }
        Arrived::Audio { payload: bytes.freeze(), timestamp: Some(start) }
    }

    /// Ends the session and the connection.
    pub async fn close(&mut self) {
        self.stream.send.finish().await;
        self.carrier.close(NORMAL, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_from_far_away_is_believed_only_over_https() {
        let hash = CertificateHash::of(b"certificate").to_string();
        let trusts = |url: &str| trust(Kind::Quic, &url.parse().unwrap(), Some(&hash)).map(|_| ());
        for near in ["ws://127.0.0.1:8080/v1/session", "ws://localhost/v1/session", "wss://far.example/v1/session"] {
            assert_eq!(trusts(near), Ok(()), "{near}");
        }
        assert!(trusts("ws://far.example/v1/session").unwrap_err().contains("https"));
        assert!(trusts("ws://localhost.far.example/v1/session").is_err());
    }
}
