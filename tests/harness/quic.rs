//! A client of `antiphon/1` on quinn.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use antiphon::dialect::native::quic::{self as framing, ALPN, Decoder, Flow, Frame, Prelude, StreamKind};
use antiphon::media::rtp::{Header, Packet};
use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::rustls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::time::timeout;

use super::{Daemon, PATIENCE, get};

/// Trusts one certificate, by its hash.
#[derive(Debug)]
struct Pinned(String, Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if hash == self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!("{hash} is not {}", self.0)))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.1.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}

/// How a client connects.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Whether it takes datagrams.
    pub datagrams: bool,
}

/// An endpoint and its connection.
pub struct Client {
    /// Its socket.
    pub endpoint: quinn::Endpoint,
    /// To the daemon.
    pub connection: quinn::Connection,
}

/// What `GET /v1/endpoints` says.
pub async fn endpoints(daemon: &Daemon) -> Value {
    let (status, _, body) = get(daemon.http, "/v1/endpoints").await;
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

/// Settings of a client that trusts the certificate that the daemon tells of.
pub async fn client_config(daemon: &Daemon, alpn: &[u8], habits: Habits) -> quinn::ClientConfig {
    let hash = endpoints(daemon).await["quic"]["cert_sha256"].as_str().expect("a hash to pin").to_owned();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(hash, provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    if !habits.datagrams {
        transport.datagram_receive_buffer_size(None);
    }
    config.transport_config(Arc::new(transport));
    config
}

impl Client {
    /// Connects from a port of its own.
    pub async fn connect(daemon: &Daemon) -> Client {
        Client::connect_with(daemon, Habits { datagrams: true }).await
    }

    /// As [`Client::connect`], with other habits.
    pub async fn connect_with(daemon: &Daemon, habits: Habits) -> Client {
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(client_config(daemon, ALPN, habits).await);
        let connecting = endpoint.connect(daemon.quic.expect("QUIC is on"), "localhost").unwrap();
        let connection = timeout(PATIENCE, connecting).await.expect("no handshake").unwrap();
        Client { endpoint, connection }
    }

    /// Goes on from another port.
    pub fn rebind(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        self.endpoint.rebind(socket).unwrap();
        address
    }

    /// Opens a session; what it hears is dealt by [`Client::datagram`].
    pub async fn open(&self, flow: u64, start: &Value) -> Session {
        let flow = Flow::new(flow).unwrap();
        let (mut send, recv) = timeout(PATIENCE, self.connection.open_bi()).await.expect("no stream").unwrap();
        let mut out = BytesMut::new();
        Prelude { kind: StreamKind::Control, flow }.write(&mut out);
        framing::write_control(&mut out, &start.to_string());
        send.write_all(&out).await.unwrap();
        Session { flow, send, recv, decoder: Decoder::new(StreamKind::Control), seq: 0 }
    }

    /// The next datagram.
    pub async fn datagram(&self) -> (u64, Packet) {
        let datagram = timeout(PATIENCE, self.connection.read_datagram()).await.expect("no audio").unwrap();
        let (flow, rest) = framing::read_flow(datagram).unwrap();
        (flow.number(), Packet::parse(&rest).unwrap())
    }

    /// Sends one audio packet of a flow.
    pub fn speak(&self, flow: u64, header: Header, payload: &[u8]) {
        let mut out = BytesMut::new();
        framing::write_datagram(&mut out, Flow::new(flow).unwrap(), &header, payload);
        self.connection.send_datagram(out.freeze()).unwrap();
    }
}

/// The control stream of a session.
pub struct Session {
    /// Names its audio.
    pub flow: Flow,
    /// To the relay.
    pub send: quinn::SendStream,
    /// From the relay.
    pub recv: quinn::RecvStream,
    decoder: Decoder,
    seq: u16,
}

/// How a control stream has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The relay has ended its half.
    Finished,
    /// It was reset, or the connection is gone.
    Broken(String),
}

impl Session {
    /// Sends a control message.
    pub async fn say(&mut self, message: &Value) {
        let mut out = BytesMut::new();
        framing::write_control(&mut out, &message.to_string());
        self.send.write_all(&out).await.unwrap();
    }

    /// The next control message, or the end.
    pub async fn hear(&mut self) -> Result<Value, End> {
        loop {
            match self.decoder.poll().expect("framing") {
                Some(Frame::Control(json)) => return Ok(serde_json::from_str(&json).unwrap()),
                Some(frame) => panic!("{frame:?}"),
                None => {}
            }
            let mut buffer = [0; 4096];
            match timeout(PATIENCE, self.recv.read(&mut buffer)).await.expect("nothing comes") {
                Ok(Some(count)) => self.decoder.push(&buffer[..count]),
                Ok(None) => return Err(End::Finished),
                Err(error) => return Err(End::Broken(error.to_string())),
            }
        }
    }

    /// The next control message of a type.
    pub async fn hear_type(&mut self, kind: &str) -> Value {
        loop {
            match self.hear().await {
                Ok(message) if message["type"] == kind => return message,
                Ok(_) => {}
                Err(end) => panic!("`{kind}` never came, but {end:?}"),
            }
        }
    }

    /// All control messages until the end, how it ended, and the code with which the relay stopped this half.
    pub async fn hear_out(&mut self) -> (Vec<Value>, End, Option<u64>) {
        let mut messages = Vec::new();
        let end = loop {
            match self.hear().await {
                Ok(message) => messages.push(message),
                Err(end) => break end,
            }
        };
        let stopped = timeout(Duration::from_secs(5), self.send.stopped()).await;
        (messages, end, stopped.ok().and_then(|code| code.ok().flatten()).map(|code| code.into_inner()))
    }

    /// The header of the next audio packet.
    pub fn header(&mut self, payload_type: u8, timestamp: u32) -> Header {
        self.seq = self.seq.wrapping_add(1);
        Header { marker: self.seq == 1, payload_type, seq: self.seq, timestamp, ssrc: 1 }
    }
}

/// An audio stream of a session.
pub struct AudioStream {
    /// To the relay.
    pub send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: Decoder,
}

impl AudioStream {
    /// Opens one for a flow.
    pub async fn open(client: &Client, flow: u64) -> AudioStream {
        let (mut send, recv) = timeout(PATIENCE, client.connection.open_bi()).await.expect("no stream").unwrap();
        let mut out = BytesMut::new();
        Prelude { kind: StreamKind::Audio, flow: Flow::new(flow).unwrap() }.write(&mut out);
        send.write_all(&out).await.unwrap();
        AudioStream { send, recv, decoder: Decoder::new(StreamKind::Audio) }
    }

    /// Sends one packet.
    pub async fn speak(&mut self, header: Header, payload: &[u8]) {
        let mut out = BytesMut::new();
        framing::write_audio(&mut out, &header, payload);
        timeout(PATIENCE, self.send.write_all(&out)).await.expect("it does not read").unwrap();
    }

    /// The next packet, or `None` at the end.
    pub async fn hear(&mut self) -> Option<Packet> {
        loop {
            match self.decoder.poll().expect("framing") {
                Some(Frame::Audio(packet)) => return Some(packet),
                Some(frame) => panic!("{frame:?}"),
                None => {}
            }
            let mut buffer = [0; 4096];
            match timeout(PATIENCE, self.recv.read(&mut buffer)).await.expect("nothing comes") {
                Ok(Some(count)) => self.decoder.push(&buffer[..count]),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// `start` for an agent, with PCM at 16 kHz both ways.
pub fn start(agent: &str) -> Value {
    let format = serde_json::json!({ "codec": "pcm16", "rate": 16000 });
    serde_json::json!({ "type": "start", "agent": agent, "audio": { "in": format, "out": format } })
}

/// A tone of 20 ms as PCM at 16 kHz, the `number`th of its kind: its own for each session.
pub fn tone(hertz: f64, number: u32) -> Bytes {
    let sample = |at: u32| {
        let time = f64::from(number * 320 + at) / 16_000.0;
        (8000.0 * (time * hertz * std::f64::consts::TAU).sin()) as i16
    };
    (0..320).flat_map(|at| sample(at).to_le_bytes()).collect::<Vec<u8>>().into()
}
