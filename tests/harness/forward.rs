//! What an SSH forward does to calls: TCP only, by an address at which nothing of the daemon listens.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::Daemon;

/// A daemon as on a server that is reached by SSH, and the forward to its WebRTC port. It announces the near end of the
/// forward, where nobody takes datagrams.
pub struct Forwarded {
    pub daemon: Daemon,
    pub near: SocketAddr,
    _forward: AbortOnDropHandle<()>,
}

impl Forwarded {
    pub async fn start(workers: &str) -> Forwarded {
        let variables = [
            ("ANTIPHON_RUNTIME__WORKERS", workers),
            ("ANTIPHON_LISTEN__WEBRTC", "127.0.0.2:0"),
            ("ANTIPHON_LISTEN__WEBRTC_PUBLIC", "127.0.0.1"),
        ];
        let daemon = Daemon::start(&variables).await;
        let far = daemon.webrtc.unwrap();
        let near = SocketAddr::from((Ipv4Addr::LOCALHOST, far.port()));
        let listener = TcpListener::bind(near).await.unwrap();
        let forward = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(far).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
            }
        }));
        Forwarded { daemon, near, _forward: forward }
    }
}
