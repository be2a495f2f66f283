//! ICE over TCP (RFC 6544): passive only, on the port number of the UDP sockets, for callers whom UDP does not reach, such
//! as those behind an SSH forward. Packets come in the frames of RFC 4571.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use super::Webrtc;
use super::socket::{Router, is_request};
use crate::ingress::accept::{EXHAUSTED_PAUSE, is_exhaustion, is_of_one_connection};
use crate::ingress::gate::{Gate, Handshake};
use crate::runtime::node::Node;
use crate::runtime::peer::link::Way;
use crate::runtime::peer::stream::StreamOutlet;
use crate::runtime::peer::switchboard::Datagram;
use crate::runtime::peer::{Path, Protocol};
use crate::runtime::sockets;
use crate::telemetry::{NodeQueue, Refusal};

/// Bytes of a packet at most; what WebRTC sends fits a datagram of 1500.
const MAX_PACKET: usize = 4096;
/// A connection on which nothing comes for so long is closed; clients that keep it in reserve check it more often.
const IDLE: Duration = Duration::from_secs(60);
/// How long what was said last may take to leave.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Accepts until the process ends.
///
/// # Errors
/// If the listening socket is unusable.
pub(super) async fn accept(node: Arc<Node>, webrtc: Arc<Webrtc>, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let gate = Arc::new(Gate::default());
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                if let Err(refusal) = hand_over(&node, &webrtc, &gate, tcp, peer) {
                    node.telemetry.node().record_refusal(refusal);
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(%error, "cannot accept connections now");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn hand_over(
    node: &Arc<Node>,
    webrtc: &Arc<Webrtc>,
    gate: &Arc<Gate>,
    tcp: TcpStream,
    peer: SocketAddr,
) -> Result<(), Refusal> {
    let in_force = node.in_force.load();
    let caps = &in_force.settings.http;
    let connected = gate.connect(peer.ip(), caps)?;
    let worker = node.workers.iter().min_by_key(|worker| worker.load()).ok_or(Refusal::Overload)?;
    let handshake = gate.shake(worker.index, peer.ip(), caps)?;
    let counted = (connected, worker.count_connection(), node.telemetry.node().connection("webrtc"));
    // A socket belongs to the runtime that made it: it is taken out of this one.
    let tcp = tcp.into_std().map_err(|_| Refusal::Gone)?;
    let deadline = Instant::now() + caps.handshake;
    let router = Router::new(node, webrtc, worker);
    let job = async move {
        let _counted = counted;
        let node = router.node.clone();
        if let Err(refusal) = serve(router, tcp, peer, deadline, handshake).await {
            node.telemetry.node().record_refusal(refusal);
        }
    };
    worker.try_run(Box::pin(job)).map_err(|_| {
        node.telemetry.node().record_dropped(NodeQueue::Handover);
        Refusal::Overload
    })
}

/// Serves one connection until its session or the connection ends.
async fn serve(
    router: Router,
    tcp: std::net::TcpStream,
    peer: SocketAddr,
    deadline: Instant,
    handshake: Handshake,
) -> Result<(), Refusal> {
    let tcp = TcpStream::from_std(tcp).map_err(|_| Refusal::Gone)?;
    sockets::prepare_stream(&tcp).map_err(|_| Refusal::Gone)?;
    let tcp = Arc::new(tcp);
    let outlet = StreamOutlet::new(tcp.clone());
    let mut packets = Packets::new(tcp);
    let path = Path { protocol: Protocol::Tcp, peer, local: router.local(peer.is_ipv4(), None) };
    // Whoever connects has to name a session at once.
    let first = timeout_at(deadline, packets.next()).await.map_err(|_| Refusal::Timeout)?;
    let first = first.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Refusal::BadRequest,
        _ => Refusal::Gone,
    })?;
    let at = router.now();
    let Some(mut route) = router.route_of_request(&first, path, at) else {
        router.drop_counted(NodeQueue::UnknownPeer);
        return Err(Refusal::BadRequest);
    };
    drop(handshake);
    let wrap = |bytes, at| Datagram { at, path, way: Way::Tcp(outlet.clone()), bytes };
    router.hand_over(&route, wrap(first, at));
    let stopping = router.node.stopping.clone();
    loop {
        let packet = tokio::select! {
            packet = timeout(IDLE, packets.next()) => packet,
            () = route.closed() => break,
            _ = outlet.flush_forever() => break,
            () = stopping.cancelled() => break,
        };
        let Ok(Ok(packet)) = packet else { break };
        let at = router.now();
        // Another request may name another session: a forwarder may use a connection again.
        if is_request(&packet) {
            match router.route_of_request(&packet, path, at) {
                Some(named) => route = named,
                None => {
                    router.drop_counted(NodeQueue::UnknownPeer);
                    continue;
                }
            }
        }
        router.hand_over(&route, wrap(packet, at));
    }
    let _ = timeout(LAST_WORDS, outlet.flush()).await;
    Ok(())
}

/// Takes a stream of bytes apart.
struct Packets {
    tcp: Arc<TcpStream>,
    buffer: BytesMut,
    codec: LengthDelimitedCodec,
}

impl Packets {
    fn new(tcp: Arc<TcpStream>) -> Packets {
        let codec = LengthDelimitedCodec::builder().length_field_type::<u16>().max_frame_length(MAX_PACKET).new_codec();
        Packets { tcp, buffer: BytesMut::new(), codec }
    }

    /// The next packet that is not empty. May be dropped and called again.
    ///
    /// # Errors
    /// If the connection ends, or a frame is longer than any packet (`InvalidData`).
    async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            match self.codec.decode(&mut self.buffer)? {
                Some(packet) if packet.is_empty() => continue,
                Some(packet) => return Ok(packet.freeze()),
                None => {}
            }
            self.tcp.readable().await?;
            self.buffer.reserve(MAX_PACKET);
            match self.tcp.try_read_buf(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn pair() -> (TcpStream, Packets) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let writer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (writer, Packets::new(Arc::new(listener.accept().await.unwrap().0)))
    }

    #[tokio::test]
    async fn packets_are_found_however_the_bytes_arrive() {
        let (mut writer, mut packets) = pair().await;
        let writing = tokio::spawn(async move {
            for byte in [0, 3, 1, 2, 3, 0, 0, 0, 1, 9] {
                writer.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(packets.next().await.unwrap()[..], [1, 2, 3]);
        assert_eq!(packets.next().await.unwrap()[..], [9], "an empty packet is none");
        assert_eq!(packets.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_frame_longer_than_any_packet_ends_the_connection_before_it_is_read() {
        let (mut writer, mut packets) = pair().await;
        writer.write_all(&[0xFF, 0xFF, 1]).await.unwrap();
        assert_eq!(packets.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
