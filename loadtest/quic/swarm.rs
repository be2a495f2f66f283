//! Callers and agents, both ends in one thread with one clock.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use antiphon::dialect::native::quic::{Flow, read_flow, write_datagram};
use antiphon::media::rtp::{Header, Packet};
use antiphon::runtime::certificate::CertificateHash;
use antiphon::runtime::clock::Clock;
use antiphon::runtime::timer::Timer;
use bytes::{BufMut, BytesMut};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::CALLS_PER_CONNECTION;
use super::wire::{Control, Identity, client, identity};
use crate::material::FRAME;
use crate::measure::histogram;

/// Whatever takes longer while a call is set up is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// From the last call set up to the beginning of the measurement, and after its end.
const SETTLE: Duration = Duration::from_millis(1500);
/// Bytes of a packet: Opus at 48 kb/s.
const PAYLOAD: usize = 120;
const OPUS: u8 = 111;
/// CELT, fullband, 20 ms, one frame: what follows may be anything.
const TOC: u8 = 0xF8;

/// What came out.
pub struct Outcome {
    pub up: Histogram<u64>,
    pub down: Histogram<u64>,
    /// Frames that never arrived.
    pub missing: u64,
    pub lasted: Duration,
}

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Caller,
    Agent,
}

/// What all tasks of a measurement share.
struct Shared {
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    measuring: bool,
    /// When a frame of a call and side was sent that has not arrived, in nanoseconds.
    under_way: HashMap<(usize, bool, u32), u64>,
    up: Histogram<u64>,
    down: Histogram<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// A datagram came: the payload tells call, side and number.
    fn on_datagram(&self, datagram: bytes::Bytes) {
        let now = self.now();
        let Some(packet) = read_flow(datagram).ok().and_then(|(_, rest)| Packet::parse(&rest).ok()) else { return };
        let Some(&[_, side, c0, c1, n0, n1, n2, n3]) = packet.payload.first_chunk::<8>() else { return };
        let key = (usize::from(u16::from_be_bytes([c0, c1])), side == 1, u32::from_be_bytes([n0, n1, n2, n3]));
        let mut state = self.state();
        let Some(sent) = state.under_way.remove(&key) else { return };
        let took = now.saturating_sub(sent).max(1);
        if side == 1 { state.down.saturating_record(took) } else { state.up.saturating_record(took) }
    }
}

/// One end of a call.
struct End {
    call: usize,
    side: Side,
    connection: quinn::Connection,
    flow: Flow,
    number: u32,
    phase: u64,
}

impl End {
    fn speak(&mut self, shared: &Shared) {
        let mut payload = [0x55; PAYLOAD];
        let mut front = &mut payload[..];
        front.put_u8(TOC);
        front.put_u8(u8::from(self.side == Side::Agent));
        front.put_u16(self.call as u16);
        front.put_u32(self.number);
        let header = Header {
            marker: self.number == 0,
            payload_type: OPUS,
            seq: self.number as u16,
            timestamp: self.number.wrapping_mul(960),
            ssrc: self.call as u32,
        };
        let mut datagram = BytesMut::with_capacity(PAYLOAD + 24);
        write_datagram(&mut datagram, self.flow, &header, &payload);
        let now = shared.now();
        let mut state = shared.state();
        if state.measuring {
            state.under_way.insert((self.call, self.side == Side::Agent, self.number), now);
        }
        drop(state);
        let _ = self.connection.send_datagram(datagram.freeze());
        self.number += 1;
    }
}

/// The agents' sessions that were opened: call, connection, flow.
type Opened = tokio::sync::mpsc::Receiver<(usize, quinn::Connection, Flow, Control)>;

/// Both ends.
pub struct Swarm {
    runtime: Runtime,
    calls: usize,
    agents: quinn::Endpoint,
    identity: Identity,
    opened: Opened,
    current: Arc<Mutex<Option<Arc<Shared>>>>,
}

impl Swarm {
    pub fn new(calls: usize) -> Result<Swarm, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let identity = identity()?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let guard = runtime.enter();
        let agents = quinn::Endpoint::server(identity.config.clone(), any).map_err(|error| error.to_string())?;
        let (tell, opened) = tokio::sync::mpsc::channel(calls);
        let current: Arc<Mutex<Option<Arc<Shared>>>> = Arc::default();
        let (accepting, shared) = (agents.clone(), current.clone());
        runtime.spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let Ok(connection) = incoming.await else { continue };
                tokio::spawn(read(connection.clone(), shared.clone()));
                let tell = tell.clone();
                tokio::spawn(async move {
                    while let Ok((send, receive)) = connection.accept_bi().await {
                        let (tell, connection) = (tell.clone(), connection.clone());
                        tokio::spawn(async move { answer(connection, send, receive, tell).await });
                    }
                });
            }
        });
        drop(guard);
        Ok(Swarm { runtime, calls, agents, identity, opened, current })
    }

    pub fn agents(&self) -> (SocketAddr, CertificateHash) {
        let address = self.agents.local_addr().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)));
        (address, self.identity.hash)
    }

    pub fn authority(&self) -> &str {
        &self.identity.pem
    }

    /// Holds all calls through the process at an address; `edge` is called when what is measured begins and ends.
    pub fn measure(
        &mut self,
        target: (SocketAddr, CertificateHash),
        time: Duration,
        edge: &mut dyn FnMut(),
    ) -> Result<Outcome, String> {
        let state = State { measuring: false, under_way: HashMap::new(), up: histogram(), down: histogram() };
        let shared = Arc::new(Shared { begun: Instant::now(), state: Mutex::new(state) });
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(shared.clone());
        let (calls, current, opened) = (self.calls, self.current.clone(), &mut self.opened);
        self.runtime.block_on(async {
            let (ends, controls, endpoint) = set_up(calls, target, &current, opened).await?;
            let speaking = tokio::spawn(speak(ends, shared.clone()));
            tokio::time::sleep(SETTLE).await;
            edge();
            let begun = Instant::now();
            shared.state().measuring = true;
            tokio::time::sleep(time).await;
            shared.state().measuring = false;
            let lasted = begun.elapsed();
            edge();
            tokio::time::sleep(SETTLE).await;
            speaking.abort();
            endpoint.close(1000u32.into(), b"");
            endpoint.wait_idle().await;
            drop(controls);
            let state = shared.state();
            let (up, down) = (state.up.clone(), state.down.clone());
            Ok(Outcome { up, down, missing: state.under_way.len() as u64, lasted })
        })
    }
}

async fn read(connection: quinn::Connection, current: Arc<Mutex<Option<Arc<Shared>>>>) {
    let shared = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
    while let Ok(datagram) = connection.read_datagram().await {
        if let Some(shared) = &shared {
            shared.on_datagram(datagram);
        }
    }
}

async fn answer(
    connection: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    tell: tokio::sync::mpsc::Sender<(usize, quinn::Connection, Flow, Control)>,
) -> Result<(), String> {
    let (mut control, prelude) = Control::accept(send, receive).await?;
    let start = control.hear().await?;
    let call = start["metadata"]["call"].as_u64().ok_or("a stranger")? as usize;
    control.say(&json!({ "type": "started" })).await?;
    tell.send((call, connection, prelude.flow, control)).await.map_err(|error| error.to_string())
}

type SetUp = (Vec<End>, Vec<Control>, quinn::Endpoint);

async fn set_up(
    calls: usize,
    (address, pin): (SocketAddr, CertificateHash),
    current: &Arc<Mutex<Option<Arc<Shared>>>>,
    opened: &mut Opened,
) -> Result<SetUp, String> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = quinn::Endpoint::client(any).map_err(|error| error.to_string())?;
    let (mut ends, mut controls) = (Vec::new(), Vec::new());
    let mut connection = None;
    let span = FRAME.as_nanos() as u64;
    for call in 0..calls {
        if call % CALLS_PER_CONNECTION == 0 {
            let connecting = endpoint.connect_with(client(pin)?, address, "127.0.0.1");
            let made = timeout(PATIENCE, connecting.map_err(|error| error.to_string())?).await;
            let made = made.map_err(|_| "no handshake")?.map_err(|error| error.to_string())?;
            tokio::spawn(read(made.clone(), current.clone()));
            connection = Some(made);
        }
        let connection = connection.clone().ok_or("no connection")?;
        let flow = Flow::new(call as u64).ok_or("no flow")?;
        let mut control = Control::open(&connection, flow).await?;
        let audio = json!({ "codec": "opus", "rate": 48000, "channels": 1 });
        let start = json!({ "type": "start", "audio": { "in": audio, "out": audio }, "metadata": { "call": call } });
        control.say(&start).await?;
        let begun = timeout(PATIENCE, async {
            let agent = opened.recv().await.ok_or("no agents")?;
            // The daemon tells when the agent is ready; bare legs do not.
            while !matches!(control.hear().await?, message if message["type"] == "started") {}
            Ok::<_, String>(agent)
        });
        let (at, agent, agent_flow, agent_control) = begun.await.map_err(|_| "a call is not set up")??;
        controls.extend([control, agent_control]);
        // Callers and agents are spread over the 20 ms.
        let phase = |turn: u64| (call as u64 * 7_919 + turn * 3_571) * 100_000 % span;
        ends.push(End { call, side: Side::Caller, connection, flow, number: 0, phase: phase(0) });
        ends.push(End { call: at, side: Side::Agent, connection: agent, flow: agent_flow, number: 0, phase: phase(1) });
    }
    ends.sort_by_key(|end| end.phase);
    Ok((ends, controls, endpoint))
}

/// Every end sends a frame every 20 ms, to the kernel's resolution.
async fn speak(mut ends: Vec<End>, shared: Arc<Shared>) {
    let clock = Clock::start();
    let Ok(mut timer) = Timer::new(clock) else { return };
    let mut cycle = clock.now();
    loop {
        for end in &mut ends {
            let due = cycle + Duration::from_nanos(end.phase);
            let _ = poll_fn(|cx| timer.poll(Some(due), clock.now(), cx)).await;
            end.speak(&shared);
            // The readers and the connections have their turn.
            tokio::task::yield_now().await;
        }
        cycle = cycle + FRAME;
    }
}
