//! Sessions on shared connections, against a small agent server on the loopback interface.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicServerConfig;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::QuicSession;
use crate::agent::{Endpoint, Wire};
use crate::dialect::native::quic::{
    ALPN, Decoder, Frame, Prelude, StreamKind, write_audio, write_control, write_datagram,
};
use crate::media::rtp::{Header, Packet};
use crate::message::{AgentError, FailureClass};
use crate::runtime::websocket::SocketError;
use crate::upstream::socket::Dropped;
use crate::upstream::{Dialer, Socket};

const SOON: Duration = Duration::from_secs(5);

/// An agent server that answers each control message with the same and each packet with one of the same payload. On
/// `reset` it resets that session's stream, on `end` it says goodbye, on `flood` it sends 500 packets.
struct Server {
    endpoint: quinn::Endpoint,
    /// Sessions opened, by connection.
    opened: mpsc::UnboundedReceiver<usize>,
}

impl Server {
    fn start(address: SocketAddr, made: &Made, datagrams: bool) -> Server {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.certificate.clone()], made.key.clone_key())
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_bidi_streams(1000u32.into());
        transport.datagram_receive_buffer_size(datagrams.then_some(1 << 20));
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::server(config, address).unwrap();
        let (tell, opened) = mpsc::unbounded_channel();
        let accepting = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                if let Ok(connection) = incoming.await {
                    tokio::spawn(serve(connection, tell.clone()));
                }
            }
        });
        Server { endpoint, opened }
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }
}

async fn serve(connection: quinn::Connection, tell: mpsc::UnboundedSender<usize>) {
    let echoing = connection.clone();
    tokio::spawn(async move {
        while let Ok(datagram) = echoing.read_datagram().await {
            let _ = echoing.send_datagram(datagram);
        }
    });
    while let Ok((send, receive)) = connection.accept_bi().await {
        tokio::spawn(serve_stream(connection.clone(), send, receive, tell.clone()));
    }
}

async fn serve_stream(
    connection: quinn::Connection,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
    tell: mpsc::UnboundedSender<usize>,
) -> Option<()> {
    let mut begin = [0; 2];
    receive.read_exact(&mut begin).await.ok()?;
    let mut begin = begin.to_vec();
    let (prelude, _) = loop {
        if let Some(found) = Prelude::read(&begin).unwrap() {
            break found;
        }
        let mut more = [0];
        receive.read_exact(&mut more).await.ok()?;
        begin.push(more[0]);
    };
    if prelude.kind == StreamKind::Control {
        tell.send(connection.stable_id()).ok()?;
    }
    let mut decoder = Decoder::new(prelude.kind);
    loop {
        while let Some(frame) = decoder.poll().unwrap() {
            let mut out = BytesMut::new();
            match frame {
                Frame::Control(text) if text == "reset" => {
                    send.reset(4400u32.into()).ok()?;
                    return receive.stop(4400u32.into()).ok();
                }
                Frame::Control(text) if text == "end" => {
                    write_control(&mut out, "ended");
                    send.write_all(&out).await.ok()?;
                    receive.stop(4408u32.into()).ok()?;
                    return send.finish().ok();
                }
                Frame::Control(text) if text == "flood" => {
                    for seq in 0..500 {
                        let mut datagram = BytesMut::new();
                        write_datagram(&mut datagram, prelude.flow, &Header { seq, ..header() }, &[7; 1000]);
                        connection.send_datagram_wait(datagram.freeze()).await.ok()?;
                    }
                    write_control(&mut out, "flooded");
                }
                Frame::Control(text) => write_control(&mut out, &text),
                Frame::Audio(packet) => write_audio(&mut out, &packet.header, &packet.payload),
            }
            send.write_all(&out).await.ok()?;
        }
        let chunk = receive.read_chunk(4096, true).await.ok()??;
        decoder.push(&chunk.bytes);
    }
}

/// A certificate of its own authority.
struct Made {
    certificate: rustls_pki_types::CertificateDer<'static>,
    key: rustls_pki_types::PrivateKeyDer<'static>,
    pem: Arc<str>,
}

fn certify() -> Made {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Made { certificate: made.cert.der().clone(), key: key.into(), pem: made.cert.pem().into() }
}

fn endpoint(address: SocketAddr, made: &Made, sessions: u32) -> Endpoint {
    Endpoint {
        url: format!("quic://{address}").parse().unwrap(),
        headers: Vec::new(),
        subprotocols: Vec::new(),
        connect_timeout: Duration::from_secs(2),
        authorities: Some(made.pem.clone()),
        sessions_per_connection: sessions,
        before: None,
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn dial(dialer: &Dialer, endpoint: &Endpoint) -> Result<QuicSession, AgentError> {
    match timeout(SOON, dialer.dial(endpoint.clone())).await.expect("a dial has a deadline")? {
        Socket::Quic(session) => Ok(session),
        Socket::WebSocket(_) => panic!("not QUIC"),
    }
}

fn header() -> Header {
    Header { marker: false, payload_type: 111, seq: 0, timestamp: 0, ssrc: 1 }
}

fn packet(seq: u16, payload: &[u8]) -> Wire {
    let mut bytes = BytesMut::new();
    Header { seq, ..header() }.write(&mut bytes);
    bytes.extend_from_slice(payload);
    Wire::Binary(bytes.freeze())
}

async fn say(session: &mut QuicSession, wire: Wire) {
    session.try_push(wire).unwrap();
    timeout(SOON, poll_fn(|cx| session.poll_flush(cx))).await.expect("flushed").unwrap();
}

async fn hear(session: &mut QuicSession) -> Result<Wire, SocketError> {
    timeout(SOON, poll_fn(|cx| session.poll_receive(cx))).await.expect("something came")
}

/// Waits for a packet, and sends `again` as often as none comes: a datagram may be lost, the next one is heard.
async fn hear_audio(session: &mut QuicSession, again: &Wire) -> Packet {
    let patience = Duration::from_millis(200);
    for _ in 0..100 {
        match timeout(patience, poll_fn(|cx| session.poll_receive(cx))).await {
            Ok(Ok(Wire::Binary(bytes))) => return Packet::parse(&bytes).unwrap(),
            Ok(other) => panic!("no audio but {other:?}"),
            Err(_) => say(session, again.clone()).await,
        }
    }
    panic!("no audio");
}

#[tokio::test]
async fn sessions_share_few_connections_and_each_hears_its_own_audio() {
    let made = certify();
    let mut server = Server::start(any_port(), &made, true);
    let (dialer, endpoint) = (Dialer::default(), endpoint(server.address(), &made, 20));
    let dialled = futures_util::future::join_all((0..50).map(|_| dial(&dialer, &endpoint))).await;
    let mut sessions: Vec<QuicSession> = dialled.into_iter().map(Result::unwrap).collect();
    for (number, session) in sessions.iter_mut().enumerate() {
        say(session, Wire::Text(format!("I am {number}"))).await;
        assert_eq!(hear(session).await.unwrap(), Wire::Text(format!("I am {number}")));
    }
    let spoken = |number: usize| packet(0, format!("{number}").as_bytes());
    for (number, session) in sessions.iter_mut().enumerate() {
        for _ in 0..5 {
            say(session, spoken(number)).await;
        }
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        for _ in 0..5 {
            let heard = hear_audio(session, &spoken(number)).await;
            assert_eq!(heard.payload, format!("{number}"));
        }
    }
    let mut by_connection = HashMap::new();
    while let Ok(connection) = server.opened.try_recv() {
        *by_connection.entry(connection).or_insert(0) += 1;
    }
    let mut counts: Vec<i32> = by_connection.into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [10, 20, 20]);
}

#[tokio::test]
async fn what_happens_to_one_session_leaves_the_others_alone() {
    let made = certify();
    let server = Server::start(any_port(), &made, true);
    let (dialer, endpoint) = (Dialer::default(), endpoint(server.address(), &made, 10));
    let mut good = dial(&dialer, &endpoint).await.unwrap();
    let mut flooded = dial(&dialer, &endpoint).await.unwrap();
    let mut reset = dial(&dialer, &endpoint).await.unwrap();
    let mut ended = dial(&dialer, &endpoint).await.unwrap();
    say(&mut flooded, Wire::Text("flood".into())).await;
    assert_eq!(hear(&mut flooded).await.unwrap(), Wire::Text("flooded".into()));
    say(&mut reset, Wire::Text("reset".into())).await;
    assert_eq!(hear(&mut reset).await.unwrap(), Wire::Close(4400, String::new()));
    say(&mut ended, Wire::Text("end".into())).await;
    assert_eq!(hear(&mut ended).await.unwrap(), Wire::Text("ended".into()));
    assert_eq!(hear(&mut ended).await.unwrap(), Wire::Close(4408, String::new()));
    let heard = hear_audio(&mut good, &packet(3, b"still here")).await;
    assert_eq!(heard.payload, Bytes::from_static(b"still here"));
    assert_eq!(good.take_dropped(), Dropped::default());
    let dropped = flooded.take_dropped().read;
    assert!(dropped > 0, "the flood waits in a bounded queue");
    assert!(dropped < 500, "{dropped}");
}

#[tokio::test]
async fn a_lost_connection_ends_its_sessions_and_the_next_dial_makes_a_new_one() {
    let made = certify();
    let server = Server::start(any_port(), &made, true);
    let address = server.address();
    let (dialer, endpoint) = (Dialer::default(), endpoint(address, &made, 10));
    let mut sessions = [dial(&dialer, &endpoint).await.unwrap(), dial(&dialer, &endpoint).await.unwrap()];
    server.endpoint.close(1012u32.into(), b"going down");
    for session in &mut sessions {
        assert!(matches!(hear(session).await, Err(SocketError::Lost(_))));
    }
    server.endpoint.wait_idle().await;
    drop(server);
    // Nobody is there for the first dial; those that follow at once are not even tried, unless the pause was short.
    let nobody = Endpoint { connect_timeout: Duration::from_millis(300), ..endpoint.clone() };
    let error = dial(&dialer, &nobody).await.unwrap_err();
    assert!(matches!(error.class, FailureClass::Timeout | FailureClass::Unreachable), "{error:?}");
    let mut tries = 0;
    while !dial(&dialer, &nobody).await.unwrap_err().message.contains("not tried again for") {
        tries += 1;
        assert!(tries < 10, "the pauses grow");
    }
    let _back = Server::start(address, &made, true);
    let mut again = loop {
        match dial(&dialer, &endpoint).await {
            Ok(session) => break session,
            Err(error) => assert!(error.message.contains("not tried again for"), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    say(&mut again, Wire::Text("hello".into())).await;
    assert_eq!(hear(&mut again).await.unwrap(), Wire::Text("hello".into()));
}

#[tokio::test]
async fn audio_that_no_datagram_holds_goes_by_one_stream() {
    let made = certify();
    for datagrams in [true, false] {
        let server = Server::start(any_port(), &made, datagrams);
        let (dialer, endpoint) = (Dialer::default(), endpoint(server.address(), &made, 10));
        let mut session = dial(&dialer, &endpoint).await.unwrap();
        say(&mut session, Wire::Text("hello".into())).await;
        assert_eq!(hear(&mut session).await.unwrap(), Wire::Text("hello".into()));
        if datagrams {
            // The first one that is too large is lost, as a datagram may be.
            say(&mut session, packet(0, &[1; 5000])).await;
        }
        for seq in 1..200 {
            say(&mut session, packet(seq, &[2; 5000])).await;
            let Wire::Binary(bytes) = hear(&mut session).await.unwrap() else { panic!("no audio") };
            let heard = Packet::parse(&bytes).unwrap();
            assert_eq!((heard.header.seq, heard.payload.len()), (seq, 5000));
        }
    }
}

#[tokio::test]
async fn a_stranger_is_not_trusted_and_other_authorities_are_of_no_help() {
    let (made, other) = (certify(), certify());
    let server = Server::start(any_port(), &made, true);
    let dialer = Dialer::default();
    for authorities in [None, Some(other.pem.clone())] {
        let strange = Endpoint { authorities, ..endpoint(server.address(), &made, 10) };
        let error = dial(&dialer, &strange).await.unwrap_err();
        assert!(error.message.contains("certificate"), "{error:?}");
    }
    dial(&dialer, &endpoint(server.address(), &made, 10)).await.expect("its own authority vouches for it");
}
