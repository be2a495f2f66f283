//! The UDP socket under an endpoint.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio_util::sync::ReusableBoxFuture;

use crate::runtime::datagrams::Datagrams;

/// A socket with segmentation offload in both directions, where the kernel has it.
#[derive(Debug)]
pub struct Udp {
    datagrams: Datagrams,
    state: UdpSocketState,
}

impl Udp {
    /// Takes a socket; to be called on the runtime that uses it.
    ///
    /// # Errors
    /// If the runtime does not take it.
    pub fn new(socket: UdpSocket) -> io::Result<Udp> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Udp { datagrams: Datagrams::new(socket)?, state })
    }
}

impl AsyncUdpSocket for Udp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WhenWritable { udp: self, waits: false, wait: ReusableBoxFuture::new(async { Ok(()) }) })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.datagrams.try_send(|socket| self.state.send(socket.into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let room = bufs.len().min(metas.len()).min(BATCH_SIZE);
        self.datagrams.poll_receive(cx, room, |socket| self.state.recv(socket.into(), bufs, metas))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.datagrams.socket().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Tells one connection when the socket takes something.
struct WhenWritable {
    udp: Arc<Udp>,
    waits: bool,
    wait: ReusableBoxFuture<'static, io::Result<()>>,
}

impl UdpPoller for WhenWritable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waits {
            if self.udp.datagrams.is_writable() {
                return Poll::Ready(Ok(()));
            }
            let udp = self.udp.clone();
            self.wait.set(async move { udp.datagrams.writable().await });
            self.waits = true;
        }
        let result = ready!(self.wait.poll(cx));
        self.waits = false;
        Poll::Ready(result)
    }
}

impl fmt::Debug for WhenWritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhenWritable").field("waits", &self.waits).finish_non_exhaustive()
    }
}
