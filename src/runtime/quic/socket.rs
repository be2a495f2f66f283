//! The UDP socket of one worker's endpoint. The kernel deals packets by their addresses; one that belongs to another
//! worker, because its client has a new address or port, is handed on to that worker over a bounded ring.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::ids::ConnectionIds;
use super::udp::Udp;
use crate::telemetry::{NodeQueue, Telemetry};

/// Packets that wait for a worker at most: what a thousand calls that moved at once send in 5 ms.
const RING: usize = 256;

/// A packet on its way to its worker.
struct Foreign {
    meta: RecvMeta,
    bytes: Bytes,
}

/// The rings to all workers, and who reads which packet.
#[derive(Clone)]
pub struct Rings {
    ids: Arc<ConnectionIds>,
    senders: Arc<[mpsc::Sender<Foreign>]>,
    telemetry: Telemetry,
}

/// The end of a ring that its worker reads.
pub struct Arrivals(mpsc::Receiver<Foreign>);

impl Rings {
    /// Rings to so many workers, and their ends.
    pub fn new(ids: Arc<ConnectionIds>, workers: usize, telemetry: Telemetry) -> (Rings, Vec<Arrivals>) {
        let (senders, arrivals): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(RING)).unzip();
        let rings = Rings { ids, senders: senders.into(), telemetry };
        (rings, arrivals.into_iter().map(Arrivals).collect())
    }

    /// Hands a packet on if it is another worker's; whether it was.
    fn hand_on(&self, own: usize, packet: &[u8], meta: &RecvMeta) -> bool {
        let Some(worker) = self.ids.worker_of_packet(packet).filter(|&worker| worker != own) else { return false };
        let meta = RecvMeta { len: packet.len(), stride: packet.len(), ..*meta };
        let foreign = Foreign { meta, bytes: Bytes::copy_from_slice(packet) };
        match self.senders.get(worker).map(|ring| ring.try_send(foreign)) {
            Some(Ok(())) => self.telemetry.node().record_forwarded(),
            _ => self.telemetry.node().record_dropped(NodeQueue::QuicForward),
        }
        true
    }

    /// Takes the packets of other workers out of a run of one sender's (UDP GRO): all but the last are `stride` long.
    fn sort(&self, own: usize, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let (mut kept, mut at) = (0, 0);
        while at < meta.len {
            let end = (at + stride).min(meta.len);
            if !self.hand_on(own, &buffer[at..end], meta) {
                buffer.copy_within(at..end, kept);
                kept += end - at;
            }
            at = end;
        }
        meta.len = kept;
    }
}

impl fmt::Debug for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rings").field("workers", &self.senders.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Arrivals")
    }
}

/// One worker's socket.
#[derive(Debug)]
pub struct WorkerSocket {
    inner: Arc<Udp>,
    worker: usize,
    rings: Rings,
    // Only the endpoint's own task polls.
    arrivals: Mutex<Arrivals>,
}

impl WorkerSocket {
    /// Wraps a socket; to be called on the worker's runtime.
    ///
    /// # Errors
    /// If the runtime does not take the socket.
    pub fn new(socket: UdpSocket, worker: usize, rings: Rings, arrivals: Arrivals) -> io::Result<Arc<WorkerSocket>> {
        let inner = Arc::new(Udp::new(socket)?);
        Ok(Arc::new(WorkerSocket { inner, worker, rings, arrivals: Mutex::new(arrivals) }))
    }

    /// Takes what other workers have handed on; how much.
    fn take(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let Poll::Ready(Some(foreign)) = arrivals.0.poll_recv(cx) else { break };
            let len = foreign.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&foreign.bytes[..len]);
            *meta = RecvMeta { len, stride: len, ..foreign.meta };
            count += 1;
        }
        count
    }
}

impl AsyncUdpSocket for WorkerSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Half of the room at most, so that neither source starves the other.
        let half = bufs.len().div_ceil(2);
        let handed = self.take(cx, &mut bufs[..half], &mut metas[..half]);
        let (bufs, metas) = (&mut bufs[handed..], &mut metas[handed..]);
        match self.inner.poll_recv(cx, bufs, metas) {
            Poll::Ready(Ok(count)) => {
                for (buf, meta) in bufs.iter_mut().zip(metas.iter_mut()).take(count) {
                    self.rings.sort(self.worker, buf, meta);
                }
                Poll::Ready(Ok(handed + count))
            }
            Poll::Pending | Poll::Ready(Err(_)) if handed > 0 => Poll::Ready(Ok(handed)),
            other => other,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn::ConnectionIdGenerator;

    #[test]
    fn a_run_of_packets_is_sorted_by_worker_and_keeps_its_order() {
        let ids = Arc::new(ConnectionIds::new(1, 2));
        let (rings, mut arrivals) = Rings::new(ids.clone(), 2, Telemetry::new());
        let mut generators: Vec<Box<dyn ConnectionIdGenerator>> = (0..2).map(|worker| ids.generator(worker)).collect();
        let mut packet = |worker: usize, number: u8, len: usize| {
            let mut bytes = [&[0x40], &generators[worker].generate_cid()[..]].concat();
            bytes.resize(len, number);
            bytes
        };
        let run = [packet(0, 1, 40), packet(1, 2, 40), packet(0, 3, 40), packet(1, 4, 20)];
        let mut buffer = run.concat();
        let mut meta = RecvMeta { len: buffer.len(), stride: 40, ..RecvMeta::default() };
        rings.sort(0, &mut buffer, &mut meta);
        assert_eq!(buffer[..meta.len], [&run[0][..], &run[2]].concat());
        for foreign in [&run[1], &run[3]] {
            let got = arrivals[1].0.try_recv().unwrap();
            assert_eq!((&got.bytes[..], got.meta.len, got.meta.stride), (&foreign[..], foreign.len(), foreign.len()));
        }
        assert!(arrivals[0].0.try_recv().is_err() && arrivals[1].0.try_recv().is_err());
    }

    #[test]
    fn a_full_ring_drops_and_counts() {
        let ids = Arc::new(ConnectionIds::new(1, 2));
        let telemetry = Telemetry::new();
        let (rings, _arrivals) = Rings::new(ids.clone(), 2, telemetry.clone());
        let packet = [&[0x40], &ids.generator(1).generate_cid()[..], &[0; 20]].concat();
        for _ in 0..RING + 3 {
            assert!(rings.hand_on(0, &packet, &RecvMeta::default()));
        }
        let text = telemetry.render();
        assert!(text.contains("antiphon_queue_dropped_total{queue=\"quic_forward\"} 3"), "{text}");
        assert!(text.contains(&format!("antiphon_datagrams_forwarded_total {RING}")), "{text}");
    }
}
