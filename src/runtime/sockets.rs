//! Where all listening sockets are made, or taken over from a service manager (`LISTEN_FDS`, sd_listen_fds(3)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

/// Bytes of datagrams that wait in the kernel: what comes while a worker is busy.
const DATAGRAM_BUFFER: usize = 4 << 20;
/// Connections that wait for `accept`.
const BACKLOG: i32 = 1024;
/// Bytes of a socket that may be unsent: a small figure keeps what is written close to what is sent.
const UNSENT_BYTES: u32 = 16 << 10;
/// How long sent data may stay unacknowledged before the connection counts as dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has the port.
    #[error(
        "{key} = \"{address}\": the port is taken{holder}; choose another one, for example with {variable}=127.0.0.1:0"
    )]
    Taken {
        /// The configuration key.
        key: String,
        /// The address asked for.
        address: SocketAddr,
        /// ` by NAME (process ID)`, where it can be found out.
        holder: String,
        /// The environment variable that overrides the key.
        variable: String,
    },
    /// It cannot be bound.
    #[error("{key} = \"{address}\": {source}; override it with {variable}=HOST:PORT")]
    Bind {
        /// The configuration key.
        key: String,
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        source: io::Error,
        /// The environment variable that overrides the key.
        variable: String,
    },
}

/// Sockets handed over by the service manager, by name.
pub struct Inherited {
    names: Vec<String>,
    sockets: Mutex<ListenFd>,
}

impl std::fmt::Debug for Inherited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Inherited").field(&self.names).finish()
    }
}

impl Inherited {
    /// What `LISTEN_FDS` offers. Names come from `LISTEN_FDNAMES` (`FileDescriptorName=http`, `control`); without them
    /// the first socket is `http` and the second `control`.
    pub fn from_env() -> Inherited {
        let sockets = ListenFd::from_env();
        let given = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<String> = given.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if !names.iter().any(|name| name == "http" || name == "control") {
            names = vec!["http".into(), "control".into()];
        }
        names.truncate(sockets.len());
        Inherited { names, sockets: Mutex::new(sockets) }
    }

    fn take(&self, name: &str) -> Option<io::Result<TcpListener>> {
        let index = self.names.iter().position(|known| known == name)?;
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.take_tcp_listener(index).transpose()
    }

    /// The listening TCP socket of `[listen] name`: inherited, else bound to `address`.
    ///
    /// # Errors
    /// If it cannot be bound; the message names the key, who has the port, and the way out.
    pub fn listen(&self, name: &str, address: SocketAddr) -> Result<TcpListener, ListenError> {
        let bound = self.take(name).unwrap_or_else(|| bind(address)).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        bound.map_err(|source| unbound(name, address, source))
    }
}

/// A TCP listener on the port of `[listen] name`, for one family only.
///
/// # Errors
/// If the port is taken or cannot be bound; the message names the key and the way out.
pub fn stream_listener(name: &str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bound = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bound().map_err(|source| unbound(name, address, source))
}

fn unbound(name: &str, address: SocketAddr, source: io::Error) -> ListenError {
    let (key, variable) = (format!("listen.{name}"), format!("ANTIPHON_LISTEN__{}", name.to_uppercase()));
    if source.kind() == io::ErrorKind::AddrInUse {
        let holder = holder_of(address).map(|holder| format!(" by {holder}")).unwrap_or_default();
        ListenError::Taken { key, address, holder, variable }
    } else {
        ListenError::Bind { key, address, source, variable }
    }
}

/// `count` UDP sockets on the one port of `[listen] name`, among which the kernel deals datagrams by their addresses.
///
/// # Errors
/// If the port is taken or cannot be bound; the message names the key and the way out.
pub fn datagrams(name: &str, address: SocketAddr, count: usize) -> Result<Vec<UdpSocket>, ListenError> {
    let (key, variable) = (format!("listen.{name}"), format!("ANTIPHON_LISTEN__{}", name.to_uppercase()));
    let bound = || -> io::Result<Vec<UdpSocket>> {
        // With SO_REUSEPORT a second daemon would share the port without a word: this one finds out first.
        let probe = bind_datagram(address, false)?;
        let address = probe.local_addr()?;
        drop(probe);
        (0..count).map(|_| bind_datagram(address, true)).collect()
    };
    bound().map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            ListenError::Taken { key, address, holder: String::new(), variable }
        } else {
            ListenError::Bind { key, address, source, variable }
        }
    })
}

/// A UDP socket of its own to send from.
///
/// # Errors
/// If the system gives none.
pub fn outgoing_datagrams(ipv6: bool) -> io::Result<UdpSocket> {
    let any = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
    bind_datagram(SocketAddr::new(any, 0), false)
}

fn bind_datagram(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As much as the system allows.
    let _ = socket.set_recv_buffer_size(DATAGRAM_BUFFER);
    let _ = socket.set_send_buffer_size(DATAGRAM_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets what every connection needs: no Nagle delay, little unsent data, and an end when the peer has vanished.
///
/// # Errors
/// If the socket refuses, which means that it is dead already.
pub fn prepare_stream(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED).with_interval(Duration::from_secs(10)))
}

/// Who listens on `address`: `name (process ID)`, as far as /proc lets us see.
fn holder_of(address: SocketAddr) -> Option<String> {
    let table = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let inode =
        [table("/proc/net/tcp"), table("/proc/net/tcp6")].iter().find_map(|text| listening_inode(text, address))?;
    let wanted = format!("socket:[{inode}]");
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let id: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut descriptors = std::fs::read_dir(process.path().join("fd")).ok()?.flatten();
        descriptors.find(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == &*wanted))?;
        let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
        Some(format!("{} (process {id})", name.trim()))
    })
}

/// The inode of the socket that listens (state 0A) on the port of `address`, from proc(5)'s table of TCP sockets.
fn listening_inode(table: &str, address: SocketAddr) -> Option<u64> {
    let port = format!(":{:04X}", address.port());
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1)?.ends_with(&port) && *fields.get(3)? == "0A").then(|| fields.get(9)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_the_key_the_holder_and_the_way_out() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let error = Inherited::from_env().listen("http", address).unwrap_err().to_string();
        let own = format!("(process {})", std::process::id());
        for part in ["listen.http", &address.to_string(), &own, "ANTIPHON_LISTEN__HTTP="] {
            assert!(error.contains(part), "`{part}` is missing in: {error}");
        }
    }
}
