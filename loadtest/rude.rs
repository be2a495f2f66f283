//! Clients that do everything wrong, one of each kind at any time, while the swarm talks.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use antiphon::media::format::Format;
use serde_json::json;
use tokio_tungstenite::tungstenite::client::client;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::ends::request;
use crate::machine::lower_priority;

/// How often each kind was ended in which way.
pub type Ends = BTreeMap<&'static str, BTreeMap<String, u32>>;

/// From one attempt to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// The size of the frame that is far too large.
const HUGE: u64 = 10 << 20;
/// How long one waits to be thrown out.
const PATIENCE: Duration = Duration::from_secs(30);

/// Is rude once, and says how it ended.
type Attempt = fn(SocketAddr, &AtomicBool) -> std::io::Result<String>;

/// The kinds, with what each does.
const KINDS: [(&str, Attempt); 4] =
    [("never reads", never_reads), ("garbage", garbage), ("10 MB frame", huge_frame), ("stalled handshake", stalls)];

/// The rude clients, each in a thread of its own, until [`Rude::end`].
#[derive(Debug)]
pub struct Rude {
    stop: Arc<AtomicBool>,
    threads: Vec<(&'static str, JoinHandle<BTreeMap<String, u32>>)>,
}

impl Rude {
    /// Starts one of each.
    pub fn start(address: SocketAddr) -> Rude {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |(name, attempt): (&'static str, Attempt)| {
            let stop = stop.clone();
            let work = move || {
                lower_priority();
                let mut ends = BTreeMap::new();
                while !stop.load(Relaxed) {
                    let end = attempt(address, &stop).unwrap_or_else(|error| format!("cut off ({:?})", error.kind()));
                    *ends.entry(end).or_default() += 1;
                    std::thread::sleep(PAUSE);
                }
                ends
            };
            (name, std::thread::spawn(work))
        };
        Rude { threads: KINDS.into_iter().map(thread).collect(), stop }
    }

    /// Stops them, and says how often each kind was ended in which way.
    pub fn end(self) -> Ends {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().map(|(name, thread)| (name, thread.join().unwrap_or_default())).collect()
    }
}

fn connect(address: SocketAddr) -> std::io::Result<WebSocket<TcpStream>> {
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_millis(200)))?;
    tcp.set_write_timeout(Some(Duration::from_secs(5)))?;
    let request = request(address).map_err(std::io::Error::other)?;
    client(request, tcp).map(|(socket, _)| socket).map_err(|error| std::io::Error::other(error.to_string()))
}

/// Waits for the close frame.
fn close_of(mut socket: WebSocket<TcpStream>, stop: &AtomicBool) -> std::io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && !stop.load(Relaxed) {
        match socket.read() {
            Ok(Message::Close(frame)) => return Ok(frame.map_or("closed".into(), |f| format!("closed {}", f.code))),
            Ok(_) => {}
            Err(tokio_tungstenite::tungstenite::Error::Io(error))
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Ok(format!("cut off ({error})")),
        }
    }
    Ok("still there at the end".into())
}

/// Starts a call and never reads what the agent says.
fn never_reads(address: SocketAddr, stop: &AtomicBool) -> std::io::Result<String> {
    let mut socket = connect(address)?;
    let pcm = Format::pcm16(24_000);
    let start = json!({ "type": "start", "audio": { "in": pcm, "out": pcm } });
    socket.send(Message::text(start.to_string())).map_err(std::io::Error::other)?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && !stop.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
        if let Err(error) = socket.send(Message::Binary(vec![0; 960].into())) {
            return Ok(format!("cut off ({error})"));
        }
    }
    Ok("still there at the end".into())
}

/// Sends bytes that are no WebSocket frames.
fn garbage(address: SocketAddr, stop: &AtomicBool) -> std::io::Result<String> {
    let mut socket = connect(address)?;
    let bytes: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x70).collect();
    socket.get_mut().write_all(&bytes)?;
    close_of(socket, stop)
}

/// Sends a frame of 10 MB.
fn huge_frame(address: SocketAddr, stop: &AtomicBool) -> std::io::Result<String> {
    let mut tcp = connect(address)?;
    let mut head = vec![0x82, 0x80 | 127];
    head.extend(HUGE.to_be_bytes());
    head.extend([0; 4]);
    let stream = tcp.get_mut();
    stream.write_all(&head)?;
    let chunk = vec![0; 64 << 10];
    for _ in 0..HUGE as usize / chunk.len() {
        // It is thrown out in the middle; why is read below.
        if stop.load(Relaxed) || stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let stream = stream.try_clone()?;
    close_of(WebSocket::from_raw_socket(stream, Role::Client, None), stop)
}

/// Sends half of a request and waits.
fn stalls(address: SocketAddr, stop: &AtomicBool) -> std::io::Result<String> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_millis(200)))?;
    tcp.write_all(b"GET /v1/session HTTP/1.1\r\nhost: x\r\nupgrade: webso")?;
    let (deadline, mut answer, mut buffer) = (Instant::now() + PATIENCE, Vec::new(), [0; 1024]);
    while Instant::now() < deadline && !stop.load(Relaxed) {
        match tcp.read(&mut buffer) {
            Ok(0) if answer.is_empty() => return Ok("cut off".into()),
            Ok(0) => {
                let text = String::from_utf8_lossy(&answer);
                return Ok(format!("answered {}", text.lines().next().unwrap_or_default()));
            }
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Ok(format!("cut off ({:?})", error.kind())),
        }
    }
    Ok("still there at the end".into())
}
