//! The swarm: callers and the agents that they talk with, both ends in one thread with one clock.
//!
//! One epoll loop with a timer in nanoseconds: runtimes with timers of a millisecond would send in bunches, and add
//! their own lateness to what is measured.

mod windows;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use antiphon::media::transcode::payload_ticks;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::ends::{Read, Socket, answer, dial, hear, read, say, speak};
use crate::material::{FRAME, Voice};
use crate::measure::{Track, histogram};
use crate::poller::{Poller, TIMER};
use crate::progress::Progress;

pub use windows::{Arrival, Window, run_in_windows};

/// How often one more call is set up.
const RAMP: Duration = Duration::from_millis(10);
/// From the last call set up to the beginning of the measurement.
const SETTLE: Duration = Duration::from_millis(1500);
/// The calls go on for so long afterwards, so that what is under way arrives: what does not is lost. Callers that fell
/// silent instead would have silence made up for them.
const DRAIN: Duration = Duration::from_millis(500);
/// A caller that reports tells what it plays every so many frames.
const REPORT_EVERY: u64 = 5;
/// The jitter buffer of a caller that reports, in frames.
const REPORT_BUFFER: u64 = 3;
/// The listener for agents among the sockets.
const LISTENER: u64 = u64::MAX - 1;

/// What is done.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Calls at once.
    pub calls: usize,
    /// How long is measured.
    pub measured: Duration,
    /// Decides when in its 20 ms each end speaks.
    pub seed: u64,
    /// What callers say.
    pub caller: Voice,
    /// What agents say.
    pub agent: Voice,
    /// Whether callers tell what their speaker plays.
    pub reports: bool,
    /// Of every two callers this one, 0 or 1, asks for the agent `tapped`.
    pub tapped: Option<usize>,
}

/// Whom the callers call.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Where.
    pub address: SocketAddr,
    /// Where it finds the agents.
    pub agents: &'a TcpListener,
    /// Whether it tells when the agent is ready (the daemon does, a bare proxy does not).
    pub tells_ready: bool,
    /// Whether it brings the audio of one side into the format of the other.
    pub transcodes: bool,
}

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// Caller written to agent read.
    pub up: Histogram<u64>,
    /// Agent written to caller read.
    pub down: Histogram<u64>,
    /// The same of the calls that are tapped, which are left out there: up, down.
    pub tapped: [Histogram<u64>; 2],
    /// How late the swarm wrote.
    pub late: Histogram<u64>,
    /// How long what had arrived waited for the swarm to read it.
    pub waited: Histogram<u64>,
    /// Connection to ready, per call.
    pub set_up: Histogram<u64>,
    /// Frames written in the measured time: by callers, by agents.
    pub frames: (u64, u64),
    /// Frames that never arrived.
    pub missing: u64,
    /// Frames that nobody had sent.
    pub surplus: u64,
    /// Calls that ended before they were told to, and other accidents.
    pub accidents: BTreeSet<String>,
    /// The measured time, as it really was.
    pub lasted: Duration,
}

impl Outcome {
    /// Lateness of the swarm itself, 99th percentile: of writing or reading, whichever is worse.
    pub fn lag(&self) -> Duration {
        let p99 = |times: &Histogram<u64>| Duration::from_nanos(times.value_at_quantile(0.99));
        p99(&self.late).max(p99(&self.waited))
    }
}

/// One call.
struct Call {
    caller: Socket,
    agent: Socket,
    up: Track,
    down: Track,
    /// Frames spoken by the caller and by the agent.
    spoken: [u64; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Caller,
    Agent,
}

/// Where in a run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The first call is there: what is needed once has been taken.
    First,
    /// All calls talk; a little later begins what is measured.
    Settled,
    /// What is measured begins: be quick.
    Begin,
    /// What is measured has ended: be quick.
    End,
    /// Everything under way has arrived, and all calls are still there.
    Drained,
}

/// Runs a scenario; `at` is called at each edge.
///
/// # Errors
/// If a call cannot be set up.
pub fn run(
    scenario: &Scenario,
    target: Target<'_>,
    progress: &Progress,
    at: &mut dyn FnMut(Edge),
) -> Result<Outcome, String> {
    let mut swarm = Swarm::filled(scenario, target)?;
    at(Edge::Settled);
    // Whoever asked for something made the swarm late: let it catch up.
    swarm.run_for(SETTLE / 5);
    at(Edge::Begin);
    let begun = swarm.now();
    swarm.measuring = Some((begun, u64::MAX));
    let steps = scenario.measured.as_millis().div_ceil(100) as u32;
    for step in 0..steps {
        progress.set(f64::from(step) / f64::from(steps));
        swarm.run_for(scenario.measured / steps);
    }
    let ended = swarm.now();
    swarm.measuring = Some((begun, ended));
    at(Edge::End);
    swarm.run_for(DRAIN);
    at(Edge::Drained);
    Ok(swarm.finish(begun, ended))
}

struct Swarm<'a> {
    scenario: &'a Scenario,
    target: Target<'a>,
    poller: Poller,
    begun: Instant,
    calls: Vec<Call>,
    /// Agents of callers that are not of the swarm.
    strays: Vec<Option<Socket>>,
    /// Who speaks when in each 20 ms: nanoseconds, side, call.
    slots: Vec<(u64, Side, usize)>,
    /// The next slot, and the beginning of its 20 ms.
    next: usize,
    cycle: u64,
    measuring: Option<(u64, u64)>,
    out: Outcome,
}

impl<'a> Swarm<'a> {
    fn new(scenario: &'a Scenario, target: Target<'a>) -> std::io::Result<Swarm<'a>> {
        let poller = Poller::new()?;
        target.agents.set_nonblocking(true)?;
        poller.watch(target.agents, LISTENER)?;
        let mut rng = StdRng::seed_from_u64(scenario.seed);
        let mut slots = Vec::with_capacity(2 * scenario.calls);
        for side in [Side::Caller, Side::Agent] {
            slots.extend((0..scenario.calls).map(|call| (rng.random_range(0..FRAME.as_nanos() as u64), side, call)));
        }
        slots.sort_unstable_by_key(|&(at, ..)| at);
        let out = Outcome {
            up: histogram(),
            down: histogram(),
            tapped: [histogram(), histogram()],
            late: histogram(),
            waited: histogram(),
            set_up: histogram(),
            frames: (0, 0),
            missing: 0,
            surplus: 0,
            accidents: BTreeSet::new(),
            lasted: Duration::ZERO,
        };
        let (calls, strays) = (Vec::with_capacity(scenario.calls), Vec::new());
        let begun = Instant::now();
        let (next, cycle, measuring) = (0, 0, None);
        Ok(Swarm { scenario, target, poller, begun, calls, strays, slots, next, cycle, measuring, out })
    }

    /// All calls are there and talk.
    fn filled(scenario: &'a Scenario, target: Target<'a>) -> Result<Swarm<'a>, String> {
        let mut swarm = Swarm::new(scenario, target).map_err(|error| error.to_string())?;
        while swarm.calls.len() < scenario.calls {
            swarm.add_call()?;
            swarm.run_for(RAMP);
        }
        swarm.run_for(SETTLE);
        Ok(swarm)
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Sets one call up, waiting for it: a few milliseconds, before anything is measured.
    fn add_call(&mut self) -> Result<(), String> {
        let (index, begun) = (self.calls.len(), self.now());
        let (up, down) = (self.scenario.caller.format, self.scenario.caller.format);
        let agent = self.is_tapped(index).then_some("tapped");
        let mut caller = dial(self.target.address, index, agent, up, down)?;
        let agent = self.await_agent(index)?;
        let ready = if self.target.tells_ready { "agent" } else { "started" };
        let is_ready =
            |message: &Value| message["type"] == ready && message.get("status").is_none_or(|status| status == "ready");
        hear(&mut caller, is_ready)?;
        let took = self.now() - begun;
        self.out.set_up.saturating_record(took);
        self.take_in(caller, agent)
    }

    /// A call talks from now on.
    fn take_in(&mut self, caller: Socket, agent: Socket) -> Result<(), String> {
        let index = self.calls.len();
        let at_agent = if self.target.transcodes { &self.scenario.agent } else { &self.scenario.caller };
        let at_caller = if self.target.transcodes { &self.scenario.caller } else { &self.scenario.agent };
        let (up, down) = (Track::new(at_agent.ticks()), Track::new(at_caller.ticks()));
        for (socket, side) in [(&caller, 0), (&agent, 1)] {
            self.watch(socket, 2 * index as u64 + side)?;
        }
        self.calls.push(Call { caller, agent, up, down, spoken: [0; 2] });
        Ok(())
    }

    fn is_tapped(&self, index: usize) -> bool {
        self.scenario.tapped == Some(index % 2)
    }

    fn watch(&self, socket: &Socket, token: u64) -> Result<(), String> {
        let tcp = socket.get_ref();
        tcp.set_nonblocking(true).map_err(|error| error.to_string())?;
        self.poller.watch(tcp, token).map_err(|error| error.to_string())
    }

    /// The agent's end of a call; agents of other callers that come in between are taken too.
    fn await_agent(&mut self, index: usize) -> Result<Socket, String> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            match self.target.agents.accept() {
                Ok((tcp, _)) => match answer(tcp)? {
                    (socket, Some(call)) if call == index => return Ok(socket),
                    (socket, _) => self.add_stray(socket)?,
                },
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("call {index}: no connection to the agent came"))
    }

    fn add_stray(&mut self, socket: Socket) -> Result<(), String> {
        self.watch(&socket, 2 * (self.scenario.calls + self.strays.len()) as u64)?;
        self.strays.push(Some(socket));
        Ok(())
    }

    fn run_for(&mut self, span: Duration) {
        let until = self.now() + span.as_nanos() as u64;
        let mut events = Vec::with_capacity(256);
        loop {
            let due = self.send_due();
            let now = self.now();
            if now >= until {
                return;
            }
            events.clear();
            if self.poller.wait(due.min(until).saturating_sub(now), &mut events).is_err() {
                continue;
            }
            let woken = self.now();
            for event in &events {
                self.on_readable(event.data.u64(), woken);
                self.send_due();
            }
        }
    }

    /// Writes every frame that is due; gives when the next one is.
    fn send_due(&mut self) -> u64 {
        loop {
            let (phase, side, call) = self.slots[self.next];
            let (due, now) = (self.cycle + phase, self.now());
            if due > now {
                return due;
            }
            self.next += 1;
            if self.next == self.slots.len() {
                self.next = 0;
                self.cycle += FRAME.as_nanos() as u64;
                self.feed_strays();
            }
            if call < self.calls.len() {
                self.send(call, side, due, now);
            }
        }
    }

    fn send(&mut self, index: usize, side: Side, due: u64, now: u64) {
        let call = &mut self.calls[index];
        let (voice, socket, track) = match side {
            Side::Caller => (&self.scenario.caller, &mut call.caller, &mut call.up),
            Side::Agent => (&self.scenario.agent, &mut call.agent, &mut call.down),
        };
        let number = call.spoken[side as usize];
        call.spoken[side as usize] += 1;
        track.on_sent(now);
        if let Err(error) = speak(socket, voice.frame(index, number)) {
            self.out.accidents.insert(format!("{side:?} cannot write: {error}"));
        }
        if self.measuring.is_some() {
            self.out.late.saturating_record(now - due);
            match side {
                Side::Caller => self.out.frames.0 += 1,
                Side::Agent => self.out.frames.1 += 1,
            }
        }
        if side == Side::Caller && self.scenario.reports && number.is_multiple_of(REPORT_EVERY) {
            self.report(index);
        }
    }

    /// The caller tells which sample leaves its speaker.
    fn report(&mut self, index: usize) {
        let call = &mut self.calls[index];
        let played = call.down.arrived.saturating_sub(REPORT_BUFFER);
        let pos = played * self.scenario.caller.ticks();
        let buffered = (call.down.arrived - played) * FRAME.as_millis() as u64;
        let report = json!({ "type": "playout", "pos": pos as u32, "buffered_ms": buffered });
        if let Err(error) = say(&mut call.caller, &report) {
            self.out.accidents.insert(format!("Caller cannot write: {error}"));
        }
    }

    /// Agents of callers that are not of the swarm talk too.
    fn feed_strays(&mut self) {
        for stray in &mut self.strays {
            if let Some(socket) = stray
                && speak(socket, self.scenario.agent.frame(0, self.cycle / FRAME.as_nanos() as u64)).is_err()
            {
                *stray = None;
            }
        }
    }

    fn on_readable(&mut self, token: u64, woken: u64) {
        if token == TIMER {
            return;
        }
        if token == LISTENER {
            // A caller that is none of the swarm was let in.
            if let Ok((tcp, _)) = self.target.agents.accept()
                && let Ok((socket, _)) = answer(tcp)
                && let Err(error) = self.add_stray(socket)
            {
                self.out.accidents.insert(error);
            }
            return;
        }
        let index = (token / 2) as usize;
        if index >= self.scenario.calls {
            if let Some(stray) = self.strays.get_mut(index - self.scenario.calls)
                && let Some(socket) = stray
            {
                loop {
                    match read(socket) {
                        Read::Message(_) => {}
                        Read::Nothing => return,
                        Read::End(_) => break,
                    }
                }
                *stray = None;
            }
            return;
        }
        let side = if token.is_multiple_of(2) { Side::Caller } else { Side::Agent };
        while self.read_one(index, side, woken) {}
    }

    /// Reads one message; `false` if there was none.
    fn read_one(&mut self, index: usize, side: Side, woken: u64) -> bool {
        let tapped = self.is_tapped(index);
        let call = &mut self.calls[index];
        let Outcome { up, down, tapped: [tapped_up, tapped_down], .. } = &mut self.out;
        let (up, down) = if tapped { (tapped_up, tapped_down) } else { (up, down) };
        let (socket, track, times) = match side {
            Side::Caller => (&mut call.caller, &mut call.down, down),
            Side::Agent => (&mut call.agent, &mut call.up, up),
        };
        let message = read(socket);
        let now = self.begun.elapsed().as_nanos() as u64;
        match message {
            Read::Nothing => return false,
            Read::End(why) => {
                self.out.accidents.insert(format!("{side:?}: {why}"));
                self.poller.forget(socket.get_ref());
                return false;
            }
            Read::Message(Message::Binary(frame)) => {
                let format = match (side, self.target.transcodes) {
                    (Side::Caller, true) | (Side::Agent, false) => self.scenario.caller.format,
                    (Side::Agent, true) | (Side::Caller, false) => self.scenario.agent.format,
                };
                let measuring = self.measuring;
                let ticks = payload_ticks(&format, &frame).unwrap_or(0);
                track.on_arrived(ticks.into(), now, |sent, took| {
                    if measuring.is_some_and(|(from, to)| from <= sent && sent < to) {
                        times.saturating_record(took);
                    }
                });
                if self.measuring.is_some_and(|(_, to)| now < to) {
                    self.out.waited.saturating_record(now - woken);
                }
            }
            Read::Message(Message::Text(text)) => {
                if ["\"error\"", "\"ended\"", "\"flush\"", "\"ending\""].iter().any(|word| text.contains(word)) {
                    self.out.accidents.insert(format!("{side:?} was told: {text}"));
                }
            }
            Read::Message(_) => {}
        }
        true
    }

    fn finish(mut self, begun: u64, ended: u64) -> Outcome {
        for call in &mut self.calls {
            let _ = say(&mut call.caller, &json!({ "type": "end" }));
        }
        for track in self.calls.iter().flat_map(|call| [&call.up, &call.down]) {
            self.out.missing += track.missing(ended);
            self.out.surplus += track.surplus;
        }
        self.out.lasted = Duration::from_nanos(ended - begun);
        self.out
    }
}
