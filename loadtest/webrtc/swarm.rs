//! The swarm of WebRTC callers, and of the agents that they talk with: one thread, one clock.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use str0m::config::CryptoProvider;
use tokio_tungstenite::tungstenite::Message;

#[path = "caller.rs"]
mod caller;

use crate::ends::{Read, Socket, answer, read, speak};
use crate::material::{FRAME, Voice};
use crate::measure::{Track, histogram};
use crate::poller::{Poller, TIMER};
use crate::progress::Progress;
use crate::swarm::Edge;
use antiphon::media::transcode::payload_ticks;
use caller::Caller;

/// What is broken takes longer to set up.
const PATIENCE: Duration = Duration::from_secs(5);
const SETTLE: Duration = Duration::from_millis(1500);
/// Calls go on for so long afterwards, so that what is under way arrives.
const DRAIN: Duration = Duration::from_millis(500);
/// Ticks of Opus in a frame.
const OPUS_TICKS: u64 = 960;

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
    /// What agents say; they hear the same format.
    pub agent: Voice,
}

/// What came out.
pub struct Outcome {
    /// From a caller's write to the agent's read, or to the return of the echo, in nanoseconds.
    pub took: Histogram<u64>,
    /// How much later than planned the swarm wrote.
    pub late: Histogram<u64>,
    /// How long what had arrived waited for the swarm to read it.
    pub waited: Histogram<u64>,
    /// Offer to connected, per call.
    pub set_up: Histogram<u64>,
    /// Frames that callers wrote in the measured time.
    pub frames: u64,
    /// Frames that never arrived.
    pub missing: u64,
    /// Calls that ended before they were told to, and the like.
    pub accidents: BTreeSet<String>,
    /// The measured time, as it really was.
    pub lasted: Duration,
}

struct Call {
    caller: Caller,
    agent: Option<Socket>,
    track: Track,
    /// Frames spoken by the caller and by the agent.
    spoken: [u64; 2],
}

/// Runs a scenario against the relay at `http`; without agents callers talk with its echo. `at` is called at each edge.
///
/// # Errors
/// If a call cannot be set up.
pub fn run(
    scenario: &Scenario,
    http: SocketAddr,
    agents: Option<&TcpListener>,
    progress: &Progress,
    at: &mut dyn FnMut(Edge),
) -> Result<Outcome, String> {
    let mut swarm = Swarm::new(scenario, http, agents).map_err(|error| error.to_string())?;
    while swarm.calls.len() < scenario.calls {
        swarm.add_call()?;
        if swarm.calls.len() == 1 {
            swarm.run_for(SETTLE / 5);
            at(Edge::First);
        }
    }
    swarm.run_for(SETTLE);
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
    http: SocketAddr,
    agents: Option<&'a TcpListener>,
    provider: Arc<CryptoProvider>,
    poller: Poller,
    begun: Instant,
    calls: Vec<Call>,
    /// Who speaks when in each 20 ms: nanoseconds, whether it is the agent, call.
    slots: Vec<(u64, bool, usize)>,
    next: usize,
    cycle: u64,
    measuring: Option<(u64, u64)>,
    out: Outcome,
}

impl<'a> Swarm<'a> {
    fn new(scenario: &'a Scenario, http: SocketAddr, agents: Option<&'a TcpListener>) -> std::io::Result<Swarm<'a>> {
        let poller = Poller::new()?;
        if let Some(agents) = agents {
            agents.set_nonblocking(true)?;
        }
        let mut rng = StdRng::seed_from_u64(scenario.seed);
        let mut slots = Vec::with_capacity(2 * scenario.calls);
        for side in [false, true].into_iter().take(1 + usize::from(agents.is_some())) {
            slots.extend((0..scenario.calls).map(|call| (rng.random_range(0..FRAME.as_nanos() as u64), side, call)));
        }
        slots.sort_unstable_by_key(|&(at, ..)| at);
        let out = Outcome {
            took: histogram(),
            late: histogram(),
            waited: histogram(),
            set_up: histogram(),
            frames: 0,
            missing: 0,
            accidents: BTreeSet::new(),
            lasted: Duration::ZERO,
        };
        let provider = Arc::new(str0m::crypto::from_feature_flags());
        let calls = Vec::with_capacity(scenario.calls);
        let begun = Instant::now();
        let (next, cycle, measuring) = (0, 0, None);
        Ok(Swarm { scenario, http, agents, provider, poller, begun, calls, slots, next, cycle, measuring, out })
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    fn watch(&self, socket: impl AsFd, token: u64) -> Result<(), String> {
        self.poller.watch(socket, token).map_err(|error| error.to_string())
    }

    /// Sets one call up; the others go on.
    fn add_call(&mut self) -> Result<(), String> {
        let (index, begun) = (self.calls.len(), self.now());
        let name = if self.agents.is_some() { "swarm" } else { "echo" };
        let caller = Caller::dial(&self.provider, self.http, name, index)?;
        self.watch(&caller.socket, 2 * index as u64)?;
        let frame = if self.agents.is_some() { self.scenario.agent.ticks() } else { OPUS_TICKS };
        self.calls.push(Call { caller, agent: None, track: Track::new(frame), spoken: [0; 2] });
        let deadline = Instant::now() + PATIENCE;
        while !self.calls[index].caller.connected {
            if Instant::now() > deadline {
                return Err(format!("call {index} is not connected after {PATIENCE:?}"));
            }
            self.run_for(Duration::from_millis(1));
        }
        let took = self.now() - begun;
        self.out.set_up.saturating_record(took);
        while let Some(agents) = self.agents
            && self.calls[index].agent.is_none()
        {
            if let Ok((tcp, _)) = agents.accept() {
                let (socket, number) = answer(tcp)?;
                let Some(number) = number.filter(|&number| number <= index) else { continue };
                socket.get_ref().set_nonblocking(true).map_err(|error| error.to_string())?;
                self.watch(socket.get_ref(), 2 * number as u64 + 1)?;
                self.calls[number].agent = Some(socket);
            }
            if Instant::now() > deadline {
                return Err(format!("call {index}: no connection to the agent came"));
            }
            self.run_for(Duration::from_millis(1));
        }
        Ok(())
    }

    fn run_for(&mut self, span: Duration) {
        let until = self.now() + span.as_nanos() as u64;
        let mut events = Vec::with_capacity(256);
        loop {
            let due = self.send_due().min(self.on_deadlines());
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

    /// Looks at the callers whose time has come; gives when the next one's does.
    fn on_deadlines(&mut self) -> u64 {
        let now = Instant::now();
        let mut next = now + Duration::from_secs(1);
        for call in &mut self.calls {
            if call.caller.deadline <= now {
                call.caller.on_deadline();
            }
            next = next.min(call.caller.deadline);
        }
        next.saturating_duration_since(self.begun).as_nanos() as u64
    }

    /// Writes every frame that is due; gives when the next one is.
    fn send_due(&mut self) -> u64 {
        loop {
            let (phase, by_agent, call) = self.slots[self.next];
            let (due, now) = (self.cycle + phase, self.now());
            if due > now {
                return due;
            }
            self.next += 1;
            if self.next == self.slots.len() {
                self.next = 0;
                self.cycle += FRAME.as_nanos() as u64;
            }
            if call < self.calls.len() {
                self.send(call, by_agent, due, now);
            }
        }
    }

    fn send(&mut self, index: usize, by_agent: bool, due: u64, now: u64) {
        let call = &mut self.calls[index];
        let number = call.spoken[usize::from(by_agent)];
        if by_agent {
            let Some(agent) = &mut call.agent else { return };
            if let Err(error) = speak(agent, self.scenario.agent.frame(index, number)) {
                self.out.accidents.insert(format!("an agent cannot write: {error}"));
            }
        } else {
            if !call.caller.connected || (self.agents.is_some() && call.agent.is_none()) {
                return;
            }
            call.track.on_sent(now);
            call.caller.speak(&self.scenario.caller.frame(index, number));
        }
        call.spoken[usize::from(by_agent)] += 1;
        if self.measuring.is_some() {
            self.out.late.saturating_record(now - due);
            self.out.frames += u64::from(!by_agent);
        }
    }

    fn on_readable(&mut self, token: u64, woken: u64) {
        if token == TIMER {
            return;
        }
        let index = (token / 2) as usize;
        if token.is_multiple_of(2) {
            let frames = self.calls[index].caller.read();
            if self.agents.is_none() {
                self.on_arrived(index, frames * OPUS_TICKS, woken);
            }
            if self.calls[index].caller.closed {
                self.out.accidents.insert("a caller was hung up on".into());
            }
            return;
        }
        loop {
            let Some(agent) = &mut self.calls[index].agent else { return };
            match read(agent) {
                Read::Nothing => return,
                Read::Message(Message::Binary(frame)) => {
                    let ticks = payload_ticks(&self.scenario.agent.format, &frame).unwrap_or(0);
                    self.on_arrived(index, ticks.into(), woken);
                }
                Read::Message(_) => {}
                Read::End(why) => {
                    self.out.accidents.insert(format!("an agent's call ended: {why}"));
                    self.poller.forget(agent.get_ref());
                    self.calls[index].agent = None;
                }
            }
        }
    }

    fn on_arrived(&mut self, index: usize, ticks: u64, woken: u64) {
        let (now, measuring) = (self.now(), self.measuring);
        let took = &mut self.out.took;
        self.calls[index].track.on_arrived(ticks, now, |sent, span| {
            if measuring.is_some_and(|(from, to)| from <= sent && sent < to) {
                took.saturating_record(span);
            }
        });
        if measuring.is_some_and(|(_, to)| now < to) {
            self.out.waited.saturating_record(now - woken);
        }
    }

    fn finish(mut self, begun: u64, ended: u64) -> Outcome {
        for call in &mut self.calls {
            call.caller.hang_up();
            self.out.missing += call.track.missing(ended);
        }
        self.out.lasted = Duration::from_nanos(ended - begun);
        self.out
    }
}
