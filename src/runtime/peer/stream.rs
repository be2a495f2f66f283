//! The writing end of one TCP connection of a peer: frames of RFC 4571, written at once, never waited for.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Bytes that wait for the kernel at most: what comes later than that is of no use to a listener.
const WAITING_BYTES: usize = 32 << 10;

/// A handle to write by; all clones write to the same connection.
#[derive(Clone, Debug)]
pub struct StreamOutlet {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tcp: Arc<TcpStream>,
    /// What the kernel did not take at once.
    waiting: Mutex<Vec<u8>>,
    /// Something waits, so that somebody must wait for the socket.
    blocked: Notify,
}

impl StreamOutlet {
    /// An outlet for this connection.
    pub fn new(tcp: Arc<TcpStream>) -> StreamOutlet {
        StreamOutlet { shared: Arc::new(Shared { tcp, waiting: Mutex::default(), blocked: Notify::new() }) }
    }

    /// Sends one packet as a frame: its length in two bytes, big-endian, and itself (RFC 4571 section 2). `false` if too
    /// much waits already, or the connection is gone: the packet is lost then, as a datagram would be.
    pub fn send(&self, packet: &[u8]) -> bool {
        let Ok(length) = u16::try_from(packet.len()) else { return false };
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() + packet.len() > WAITING_BYTES {
            return false;
        }
        let idle = waiting.is_empty();
        waiting.extend(length.to_be_bytes());
        waiting.extend(packet);
        if idle && self.write(&mut waiting).is_err() {
            waiting.clear();
            return false;
        }
        if idle && !waiting.is_empty() {
            self.shared.blocked.notify_one();
        }
        true
    }

    fn write(&self, waiting: &mut Vec<u8>) -> io::Result<()> {
        while !waiting.is_empty() {
            match self.shared.tcp.try_write(waiting) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(waiting.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what waits whenever the socket takes it; ends when the connection fails.
    pub async fn flush_forever(&self) -> io::Error {
        loop {
            self.shared.blocked.notified().await;
            if let Err(error) = self.flush().await {
                return error;
            }
        }
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn flush(&self) -> io::Result<()> {
        loop {
            {
                let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                self.write(&mut waiting)?;
                if waiting.is_empty() {
                    return Ok(());
                }
            }
            self.shared.tcp.writable().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn whole_frames_only_are_lost_when_the_peer_does_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let outlet = StreamOutlet::new(Arc::new(listener.accept().await.unwrap().0));
        let mut sent = 0_u32;
        let lost = loop {
            let mut packet = [0; 1000];
            packet[..4].copy_from_slice(&sent.to_be_bytes());
            if !outlet.send(&packet) {
                break sent;
            }
            sent += 1;
        };
        assert!(lost > 0);
        let flushing = tokio::spawn(async move { outlet.flush_forever().await });
        for number in 0..lost {
            let mut frame = [0; 1002];
            reader.read_exact(&mut frame).await.unwrap();
            assert_eq!((&frame[..2], &frame[2..6]), (&1000_u16.to_be_bytes()[..], &number.to_be_bytes()[..]));
        }
        drop(reader);
        flushing.abort();
    }
}
