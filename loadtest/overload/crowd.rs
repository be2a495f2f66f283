//! Callers who come at a rate, and who come again when they are refused.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use antiphon::media::format::Format;
use hdrhistogram::Histogram;

use crate::ends::{Socket, answer, dial, hear};
use crate::measure::histogram;
use crate::swarm::Arrival;

/// Whoever was refused comes again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the agent of a call that was let in is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How callers come.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// One after the other, again when they are refused, until no more are let in for a time.
    UntilFull { every: Duration, patience: Duration },
    /// So many within a time; whoever is refused comes again.
    Crowd { callers: usize, within: Duration },
    /// One after the other, until one is let in.
    UntilGranted { every: Duration },
}

/// What callers were told.
#[derive(Debug)]
pub struct Answers {
    /// From a connection to `started`, in nanoseconds.
    pub granted: Histogram<u64>,
    /// From a connection to a refusal, in nanoseconds.
    pub refused: Histogram<u64>,
    /// What was neither.
    pub failed: BTreeMap<String, u32>,
}

/// Callers, in a thread of their own.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Answers>,
}

impl Crowd {
    /// They call this daemon, which calls these agents; whoever is let in comes out of the receiver.
    pub fn start(
        arrivals: Arrivals,
        daemon: SocketAddr,
        agents: TcpListener,
        format: Format,
    ) -> (Crowd, Receiver<Arrival>) {
        let (sender, receiver) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let door = Door { daemon, agents, format, stop: stop.clone(), sender, next: 0, answers: Answers::new() };
        (Crowd { stop, thread: std::thread::spawn(move || door.run(arrivals)) }, receiver)
    }

    /// Whether nobody comes any more.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Nobody comes any more; what they were told.
    pub fn end(self) -> Answers {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|_| Answers::new())
    }
}

impl Answers {
    fn new() -> Answers {
        Answers { granted: histogram(), refused: histogram(), failed: BTreeMap::new() }
    }
}

struct Door {
    daemon: SocketAddr,
    agents: TcpListener,
    format: Format,
    stop: Arc<AtomicBool>,
    sender: Sender<Arrival>,
    next: usize,
    answers: Answers,
}

impl Door {
    fn run(mut self, arrivals: Arrivals) -> Answers {
        let begun = Instant::now();
        let mut due: BinaryHeap<Reverse<Instant>> = match arrivals {
            Arrivals::Crowd { callers, within } => {
                (0..callers).map(|n| Reverse(begun + within * n as u32 / callers as u32)).collect()
            }
            _ => [Reverse(begun)].into(),
        };
        let mut granted_at = begun;
        while let Some(Reverse(at)) = due.pop() {
            while Instant::now() < at && !self.stop.load(Relaxed) {
                std::thread::sleep(at.saturating_duration_since(Instant::now()).min(Duration::from_millis(20)));
            }
            if self.stop.load(Relaxed) {
                break;
            }
            let granted = self.come();
            if granted {
                granted_at = Instant::now();
            }
            match arrivals {
                Arrivals::UntilFull { every, patience } if granted_at.elapsed() < patience => {
                    due.push(Reverse(at + every));
                }
                Arrivals::UntilGranted { every } if !granted => due.push(Reverse(at + every)),
                Arrivals::Crowd { .. } if !granted => due.push(Reverse(Instant::now() + AGAIN)),
                _ => {}
            }
        }
        self.answers
    }

    /// One comes; whether it was let in.
    fn come(&mut self) -> bool {
        self.next += 1;
        let begun = Instant::now();
        let started = dial(self.daemon, self.next, None, self.format, self.format)
            .and_then(|mut caller| hear(&mut caller, |message| message["type"] == "started").map(|_| caller));
        let took = begun.elapsed().as_nanos() as u64;
        let arrival = started.and_then(|caller| {
            self.answers.granted.saturating_record(took);
            self.meet(caller)
        });
        match arrival {
            Ok(arrival) => return self.sender.send(arrival).is_ok(),
            Err(why) if why.contains("503") || why.contains("overloaded") => {
                self.answers.refused.saturating_record(took);
            }
            Err(why) => *self.answers.failed.entry(why).or_default() += 1,
        }
        false
    }

    /// The agent of a caller who was let in.
    fn meet(&self, mut caller: Socket) -> Result<Arrival, String> {
        self.agents.set_nonblocking(true).map_err(|error| error.to_string())?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.agents.accept() {
                Ok((tcp, _)) => {
                    let (agent, call) = answer(tcp)?;
                    if call == Some(self.next) {
                        hear(&mut caller, |message| message["type"] == "agent" && message["status"] == "ready")?;
                        return Ok((caller, agent));
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_micros(500)),
            }
        }
        Err("no connection to the agent came".into())
    }
}
