//! What one turn of the session costs per frame of 20 ms, and the native protocol, beside libopus alone. Ends with 1 if a
//! bar is missed.
#![allow(missing_docs, reason = "a program, not a library")]

mod measure;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use antiphon::agent::{Capabilities, Wire};
use antiphon::config::settings::{AgentKind, AgentSettings};
use antiphon::dialect::native::{Native, codec};
use antiphon::dialect::{Dialect, Heard};
use antiphon::ids::{LinkId, UpstreamId};
use antiphon::media::format::Format;
use antiphon::media::playout::Budget;
use antiphon::message::{
    AgentAudio, AudioFormats, AudioIn, AudioOut, FromAgent, FromClient, Ready, Setup, Start, ToAgent, ToClient,
};
use antiphon::route::plan::{Plan, Policy, Rung};
use antiphon::session::{Carriage, LinkChange, LinkInfo, Output, Session, SessionParams, Transport, UpstreamChange};
use antiphon::time::Micros;
use bytes::Bytes;

use crate::measure::speech::{FRAMES, LIBOPUS_DECODE, LIBOPUS_ENCODE, Loop, coded, libopus_decode, libopus_encode};
use crate::measure::{Case, Effort, report};

const FRAME: Duration = Duration::from_millis(20);
const LINK: LinkId = LinkId(0);
const AGENT: Format = Format::pcm16(24_000);
/// A client's library acknowledges what it has taken every so many frames.
const ACK_EVERY: u64 = 5;

/// A session that talks, in virtual time.
struct Talk {
    session: Session,
    now: Micros,
    deadline: Option<Micros>,
    upstream: UpstreamId,
    /// Audio frames handed over: to the agent, to the client.
    to_agent: u64,
    to_client: u64,
    /// End of the audio handed to the client.
    handed: u32,
}

impl Talk {
    /// A session between a client and an agent that speaks PCM at 24 kHz; `continuous`: it wants to hear silence too.
    fn new(client: Format, continuous: bool) -> Talk {
        let now = Micros::from_millis(5_000);
        let agent = AgentSettings {
            name: "bench".into(),
            kind: AgentKind::Storyteller,
            setup: Setup::default(),
            vendor: serde_json::Value::Null,
            display: serde_json::Value::Null,
            zone: None,
            max_sessions: None,
            session_max: None,
            ping: Duration::ZERO,
            price: None,
        };
        let mut policy = Policy { max: Duration::from_secs(1 << 30), ..Policy::default() };
        policy.idle.after = Duration::ZERO;
        let rungs = vec![Rung { agent: Arc::new(agent), setup: Setup::default() }];
        let params = SessionParams {
            id: "bench".into(),
            conversation_id: "bench".into(),
            plan: Arc::new(Plan::new("bench", rungs, policy)),
            start: Start::default(),
            link: LinkInfo {
                transport: Transport::Websocket,
                carriage: Carriage::Ordered,
                audio: AudioFormats { uplink: client, downlink: client, flow: None },
                resume_token: "t".into(),
                have: None,
            },
            expires_at: None,
            token_for: None,
            budget: Arc::new(Budget::new(1 << 30)),
            load: Arc::default(),
            meters: antiphon::limit::Meters::default(),
        };
        let session = Session::new(params, now);
        let upstream = UpstreamId(0);
        let mut talk = Talk { session, now, deadline: None, upstream, to_agent: 0, to_client: 0, handed: 0 };
        talk.drain();
        let capabilities = Capabilities { continuous, server_vad: true, ..Capabilities::default() };
        talk.session.on_upstream(talk.upstream, UpstreamChange::Connected(capabilities), now);
        talk.drain();
        let ready = Ready { uplink: AGENT, downlink: AGENT, delay: None };
        talk.session.on_agent(talk.upstream, FromAgent::Ready(ready), now);
        talk.drain();
        talk
    }

    /// Polls to idle, as the driver does.
    fn drain(&mut self) {
        loop {
            match self.session.poll(self.now) {
                Output::Idle { deadline, .. } => {
                    self.deadline = deadline;
                    return;
                }
                Output::Dial { upstream, .. } => self.upstream = upstream,
                Output::ToAgent { message: ToAgent::Audio(audio), .. } => {
                    self.to_agent += 1;
                    black_box(audio);
                }
                Output::ToClient { message: ToClient::Audio(audio), .. } => {
                    self.to_client += 1;
                    self.handed = audio.pos.wrapping_add(audio.ticks);
                    black_box(audio);
                }
                Output::Close { reason, .. } => panic!("the session has ended: {reason:?}"),
                other => {
                    black_box(other);
                }
            }
        }
    }

    /// 20 ms pass, timers included.
    fn tick(&mut self) {
        let until = self.now + FRAME;
        while let Some(deadline) = self.deadline.filter(|&deadline| deadline <= until) {
            self.now = deadline.max(self.now);
            self.session.on_deadline(self.now);
            self.drain();
        }
        self.now = until;
    }

    /// One frame from the client to the agent.
    fn up(&mut self, payload: Bytes) {
        self.tick();
        let before = self.to_agent;
        let audio = AudioIn { arrival: self.now, rtp: None, payload };
        self.session.on_client(LINK, FromClient::Audio(audio), self.now);
        self.drain();
        assert_eq!(self.to_agent - before, 1, "a frame for a frame");
    }

    /// One frame from the agent to the client, and sometimes the client's acknowledgement.
    fn down(&mut self, payload: Bytes) {
        self.tick();
        let before = self.to_client;
        let audio = AgentAudio { arrival: self.now, item: None, rtp: None, payload };
        self.session.on_agent(self.upstream, FromAgent::Audio(audio), self.now);
        self.drain();
        assert_eq!(self.to_client - before, 1, "a frame for a frame");
        if self.to_client.is_multiple_of(ACK_EVERY) {
            self.session.on_link(LINK, LinkChange::RoundTrip(Duration::from_millis(1)), self.now);
            self.drain();
            self.session.on_link(LINK, LinkChange::Acked { pos: self.handed }, self.now);
            self.drain();
        }
    }
}

/// A turn of the session from client to agent; warm after a second, as every call is.
fn turn_up(client: Format) -> impl FnMut() {
    let mut talk = Talk::new(client, true);
    let mut frames = Loop::new(coded(client, client.rate));
    (0..FRAMES).for_each(|_| talk.up(frames.next().clone()));
    move || talk.up(frames.next().clone())
}

/// A turn of the session from agent to client.
fn turn_down(client: Format) -> impl FnMut() {
    let mut talk = Talk::new(client, false);
    let mut frames = Loop::new(coded(AGENT, AGENT.rate));
    (0..FRAMES).for_each(|_| talk.down(frames.next().clone()));
    move || talk.down(frames.next().clone())
}

/// A dialect after its `start`.
fn started() -> Native {
    let mut native = Native::new();
    let start = Wire::Text("{\"type\":\"start\"}".into());
    assert!(matches!(native.handle_wire(start, Micros::ZERO), Some(Heard::Start(_))));
    native
}

fn native_audio_in() -> impl FnMut() {
    let mut native = started();
    let mut frames = Loop::new(coded(Format::OPUS, 48_000));
    frames.next();
    (0..FRAMES).for_each(|_| drop(frames.next().clone()));
    move || {
        let heard = native.handle_wire(Wire::Binary(frames.next().clone()), Micros(1));
        assert!(matches!(black_box(heard), Some(Heard::Message(FromClient::Audio(_)))));
    }
}

fn native_audio_out() -> impl FnMut() {
    let mut native = started();
    let mut frames = Loop::new(coded(Format::OPUS, 48_000));
    (0..FRAMES).for_each(|_| drop(frames.next().clone()));
    move || {
        let payload = frames.next().clone();
        let audio = AudioOut { pos: 0, ticks: 960, marker: false, ready: Micros(1), payload };
        assert!(black_box(native.encode(None, &ToClient::Audio(audio))).is_some());
    }
}

/// The report that a client sends ten times a second.
fn native_control_in() -> impl FnMut() {
    let mut native = started();
    move || {
        let text = "{\"type\":\"playout\",\"pos\":504000,\"buffered_ms\":180}";
        let heard = native.handle_wire(Wire::Text(text.into()), Micros(1));
        assert!(matches!(black_box(heard), Some(Heard::Message(FromClient::Playout(_)))));
    }
}

/// What is told at each change of the conversation.
fn native_control_out() -> impl FnMut() {
    use antiphon::ids::Seq;
    use antiphon::message::{State, StateChange};
    move || {
        let message = ToClient::State(StateChange { from: State::Listening, to: State::Speaking });
        assert!(black_box(codec::encode_to_client(Some(Seq(41)), &message)).is_some());
    }
}

fn main() -> ExitCode {
    let mut cases = [
        Case::new(LIBOPUS_DECODE, LIBOPUS_DECODE, libopus_decode()),
        Case::new("session: PCM up, passed through", LIBOPUS_DECODE, turn_up(AGENT)).at_most(0.10),
        Case::new("session: PCM down, passed through", LIBOPUS_DECODE, turn_down(AGENT)).at_most(0.10),
        Case::new("session: Opus up to PCM", LIBOPUS_DECODE, turn_up(Format::OPUS)).at_most(1.10),
        Case::new(LIBOPUS_ENCODE, LIBOPUS_ENCODE, libopus_encode()),
        Case::new("session: PCM down to Opus", LIBOPUS_ENCODE, turn_down(Format::OPUS)).at_most(1.10),
        Case::new("native: audio in", LIBOPUS_DECODE, native_audio_in()).at_most(0.10),
        Case::new("native: audio out", LIBOPUS_DECODE, native_audio_out()).at_most(0.10),
        Case::new("native: a report in", LIBOPUS_DECODE, native_control_in()),
        Case::new("native: a state out", LIBOPUS_DECODE, native_control_out()),
    ];
    match report("session", Effort { rounds: 1010, frames: FRAMES / 10 }, &mut cases) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the figures could not be written: {error}");
            ExitCode::FAILURE
        }
    }
}
