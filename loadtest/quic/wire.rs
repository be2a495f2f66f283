//! What both ends and the bare legs have in common: certificates, connections, control messages.

use std::sync::Arc;
use std::time::Duration;

use antiphon::dialect::native::quic::{ALPN, Decoder, Flow, Frame, Prelude, StreamKind, write_control};
use antiphon::runtime::certificate::CertificateHash;
use antiphon::runtime::pinned;
use antiphon::runtime::quic::congestion::ForCalls;
use bytes::BytesMut;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;

/// Sessions that a connection is made for.
const SESSIONS: u32 = 64;

/// A certificate of its own for 127.0.0.1.
pub struct Identity {
    pub pem: String,
    pub hash: CertificateHash,
    pub config: quinn::ServerConfig,
}

/// The same bounds for every connection of the load test.
pub fn transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams((4 * SESSIONS).into())
        .keep_alive_interval(Some(Duration::from_secs(3)))
        .congestion_controller_factory(ForCalls::new(SESSIONS));
    Arc::new(transport)
}

pub fn identity() -> Result<Identity, String> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key.into()))
        .map_err(|error| error.to_string())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| error.to_string())?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    Ok(Identity { pem: made.cert.pem(), hash: CertificateHash::of(made.cert.der()), config })
}

pub fn client(pin: CertificateHash) -> Result<quinn::ClientConfig, String> {
    let tls = pinned::client_config(pin, &[ALPN]).map_err(|error| error.to_string())?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    Ok(config)
}

/// A control stream.
pub struct Control {
    pub send: quinn::SendStream,
    receive: quinn::RecvStream,
    decoder: Decoder,
}

impl Control {
    pub async fn open(connection: &quinn::Connection, flow: Flow) -> Result<Control, String> {
        let (mut send, receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
        let mut prelude = BytesMut::new();
        Prelude { kind: StreamKind::Control, flow }.write(&mut prelude);
        send.write_all(&prelude).await.map_err(|error| error.to_string())?;
        Ok(Control { send, receive, decoder: Decoder::new(StreamKind::Control) })
    }

    pub async fn accept(send: quinn::SendStream, mut receive: quinn::RecvStream) -> Result<(Control, Prelude), String> {
        let mut bytes = Vec::new();
        let prelude = loop {
            let mut next = [0];
            receive.read_exact(&mut next).await.map_err(|error| error.to_string())?;
            bytes.push(next[0]);
            if let Some((prelude, _)) = Prelude::read(&bytes).map_err(|error| error.to_string())? {
                break prelude;
            }
        };
        Ok((Control { send, receive, decoder: Decoder::new(StreamKind::Control) }, prelude))
    }

    pub async fn say(&mut self, message: &Value) -> Result<(), String> {
        let mut bytes = BytesMut::new();
        write_control(&mut bytes, &message.to_string());
        self.send.write_all(&bytes).await.map_err(|error| error.to_string())
    }

    pub async fn hear(&mut self) -> Result<Value, String> {
        loop {
            if let Some(Frame::Control(text)) = self.decoder.poll().map_err(|error| error.to_string())? {
                return serde_json::from_str(&text).map_err(|error| error.to_string());
            }
            let chunk = self.receive.read_chunk(4096, true).await.map_err(|error| error.to_string())?;
            self.decoder.push(&chunk.ok_or("a session was ended")?.bytes);
        }
    }
}
