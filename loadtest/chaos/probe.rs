//! Callers of whom no node has heard, one after the other: how long each waits for its answer.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::client::client;

use crate::ends::{hear, request, say};
use crate::measure::histogram;

/// From one to the next.
const EVERY: Duration = Duration::from_millis(25);
/// Longer than this nobody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Calls in a thread of its own until [`Prober::end`].
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    recording: Arc<AtomicBool>,
    thread: JoinHandle<(Histogram<u64>, u64)>,
}

impl Prober {
    /// Calls this daemon's echo, each time from another address, so that each call is counted in a cell of its own.
    pub fn start(daemon: SocketAddr) -> Prober {
        let (stop, recording) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (ending, counts) = (stop.clone(), recording.clone());
        let thread = std::thread::spawn(move || {
            let (mut times, mut refused) = (histogram(), 0);
            for number in 1_u32.. {
                if ending.load(Relaxed) {
                    break;
                }
                // What began before the breakage, or ended after it, is not of it.
                if !counts.load(Relaxed) {
                    std::thread::sleep(EVERY);
                    continue;
                }
                let begun = Instant::now();
                let granted = call(daemon, Ipv4Addr::from_bits(0x7F10_0000 + number)).is_ok();
                if counts.load(Relaxed) {
                    times.saturating_record(begun.elapsed().as_nanos() as u64);
                    refused += u64::from(!granted);
                }
                std::thread::sleep(EVERY.saturating_sub(begun.elapsed()));
            }
            (times, refused)
        });
        Prober { stop, recording, thread }
    }

    /// Whether to call and to record from now on.
    pub fn record(&self, on: bool) {
        self.recording.store(on, Relaxed);
    }

    /// How long answers took, in nanoseconds, and how many were no `started`.
    pub fn end(self) -> (Histogram<u64>, u64) {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|_| (histogram(), u64::MAX))
    }
}

fn call(daemon: SocketAddr, from: Ipv4Addr) -> Result<(), String> {
    let tcp = connect(daemon, from).map_err(|error| error.to_string())?;
    let (mut socket, _) = client(request(daemon)?, tcp).map_err(|error| error.to_string())?;
    say(&mut socket, &json!({ "type": "start", "agent": "echo" }))?;
    hear(&mut socket, |message| message["type"] == "started")?;
    // The end is not waited for.
    say(&mut socket, &json!({ "type": "end" }))
}

fn connect(daemon: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect_timeout(&daemon.into(), PATIENCE)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}
