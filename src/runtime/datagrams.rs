//! A UDP socket of a worker that is not asked once more when it is known to be empty.

use std::io;
use std::net::UdpSocket;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A UDP socket of the present runtime. One task may receive.
///
/// The kernel tells when a socket that was empty gets something. To know that it is empty, tokio's socket has to be read
/// until the kernel refuses; here a read that brings fewer packets than it could says as much, which saves every second
/// call where packets come one by one.
#[derive(Debug)]
pub struct Datagrams {
    io: AsyncFd<UdpSocket>,
}

impl Datagrams {
    /// Takes a socket that does not block.
    ///
    /// # Errors
    /// If the runtime does not take it.
    #[expect(
        deprecated,
        reason = "its successor is unsafe for types that may change their descriptor; UdpSocket cannot"
    )]
    pub fn new(socket: UdpSocket) -> io::Result<Datagrams> {
        Ok(Datagrams { io: AsyncFd::new(socket)? })
    }

    /// The socket itself.
    pub fn socket(&self) -> &UdpSocket {
        self.io.get_ref()
    }

    /// Receives by `receive`, which takes as many as `room` packets at once.
    ///
    /// # Errors
    /// What `receive` fails with.
    pub fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        mut receive: impl FnMut(&UdpSocket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            // What comes from here on makes the socket ready anew: it is told apart from what is forgotten below.
            let mut readable = ready!(self.io.poll_read_ready(cx))?;
            let Ok(received) = readable.try_io(|io| receive(io.get_ref())) else { continue };
            if received.as_ref().is_ok_and(|&count| count < room) {
                readable.clear_ready();
            }
            return Poll::Ready(received);
        }
    }

    /// Sends by `send` if the socket takes something now.
    ///
    /// # Errors
    /// What `send` fails with, or [`io::ErrorKind::WouldBlock`].
    pub fn try_send(&self, send: impl FnOnce(&UdpSocket) -> io::Result<()>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, send)
    }

    /// Whether the socket takes something now, as far as is known.
    pub fn is_writable(&self) -> bool {
        self.try_send(|_| Ok(())).is_ok()
    }

    /// Waits until it takes something.
    ///
    /// # Errors
    /// If the runtime ends.
    pub async fn writable(&self) -> io::Result<()> {
        self.io.writable().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const ROOM: usize = 4;

    /// Reads as many as there are, at most [`ROOM`]; counts its calls.
    async fn receive(datagrams: &Datagrams, calls: &mut usize) -> usize {
        let read = |socket: &UdpSocket| {
            *calls += 1;
            let mut count = 0;
            while count < ROOM {
                match socket.recv(&mut [0; 16]) {
                    Ok(_) => count += 1,
                    Err(error) if count == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            Ok(count)
        };
        let mut read = read;
        poll_fn(|cx| datagrams.poll_receive(cx, ROOM, &mut read)).await.unwrap()
    }

    #[tokio::test]
    async fn an_empty_socket_is_not_asked_again_and_nothing_is_missed() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(socket.local_addr().unwrap()).unwrap();
        let datagrams = Datagrams::new(socket).unwrap();
        let (mut calls, mut received) = (0, 0);
        for round in 1..=200 {
            // Some are sent while the last ones are read, some while nobody reads, and some more than are read at once.
            let burst = 1 + round % 7;
            for _ in 0..burst {
                sender.send(b"packet").unwrap();
            }
            let due = received + burst;
            while received < due {
                let next = receive(&datagrams, &mut calls);
                received += tokio::time::timeout(Duration::from_secs(5), next).await.expect("nothing is missed");
            }
        }
        let fewest: usize = (1..=200).map(|round: usize| (1 + round % 7).div_ceil(ROOM)).sum();
        let full = (1..=200).filter(|round| (1 + round % 7) % ROOM == 0).count();
        assert!(calls <= fewest + full, "{calls} calls for what needs {fewest}");
        let nothing = poll_fn(|cx| Poll::Ready(datagrams.poll_receive(cx, ROOM, |_| panic!("asked")).is_pending()));
        assert!(nothing.await, "it is known to be empty");
    }
}
