//! The built-in agents behind a real session and in front of a virtual speaker, in virtual time.

pub mod golden;
mod order;

use std::collections::VecDeque;
use std::sync::Arc;

use super::*;
use crate::cli::call::player::{Played, Player, PlayerOutput};
use crate::ids::{LinkId, SessionId, UpstreamId};
use crate::media::clip::Clip;
use crate::media::format::Format;
use crate::media::transcode::Encoder;
use crate::message::{AudioFormats, AudioIn, CloseReason, FromClient, Heard, Setup, Start, ToClient, TurnPhase};
use crate::route::plan::{OpusSettings, Plan, Policy, Rung};
use crate::session::{Carriage, LinkInfo, Output, Session, SessionParams, Transport, UpstreamChange};

const MS: Duration = Duration::from_millis(1);
/// One way between client and relay.
const TRAVEL: Duration = Duration::from_millis(30);

struct Call {
    now: Micros,
    session: Session,
    agent: Box<dyn Agent>,
    player: Player,
    down: VecDeque<(Micros, ToClient)>,
    up: VecDeque<(Micros, FromClient)>,
    heard: Vec<Played>,
    received: Vec<(Micros, Bytes)>,
    told: Vec<ToClient>,
    ended: Option<CloseReason>,
}

impl Call {
    fn new(kind: AgentKind, format: Format) -> Call {
        let agent = AgentSettings {
            setup: Setup { transcribe: Some(true), ..Setup::default() },
            ..AgentSettings::example(kind)
        };
        let built = build(&agent, &Setup::default(), 7).expect("built in");
        let rung = Rung { setup: agent.setup.clone(), agent: Arc::new(agent) };
        let plan = Plan::new("r", vec![rung], Policy::default());
        let audio = AudioFormats { uplink: format, downlink: format, flow: None };
        let link = LinkInfo {
            transport: Transport::Websocket,
            carriage: Carriage::Ordered,
            audio,
            resume_token: "t".into(),
            have: None,
        };
        let params = SessionParams {
            id: SessionId::from("s"),
            conversation_id: "c".into(),
            plan: Arc::new(plan),
            start: Start::default(),
            link,
            expires_at: None,
            token_for: None,
            budget: Arc::new(crate::media::playout::Budget::new(u64::MAX / 2)),
            load: Arc::default(),
            meters: crate::limit::Meters::default(),
        };
        let now = Micros::from_millis(1000);
        let mut call = Call {
            now,
            session: Session::new(params, now),
            agent: built,
            player: Player::new(format, Duration::from_millis(40)),
            down: VecDeque::new(),
            up: VecDeque::new(),
            heard: Vec::new(),
            received: Vec::new(),
            told: Vec::new(),
            ended: None,
        };
        call.turn();
        call
    }

    /// Lets `span` pass in steps of a millisecond.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + MS;
            self.turn();
        }
    }

    /// A message of the client.
    fn tell(&mut self, message: FromClient) {
        self.up.push_back((self.now + TRAVEL, message));
    }

    /// A frame from the agent's server.
    fn arrive(&mut self, wire: Wire) {
        self.agent.handle_wire(wire, self.now);
        self.listen_to_agent();
    }

    fn say(&mut self, payload: Bytes) {
        let audio = AudioIn { arrival: self.now + TRAVEL, rtp: None, payload };
        self.up.push_back((self.now + TRAVEL, FromClient::Audio(audio)));
        self.run(20 * MS);
    }

    fn turn(&mut self) {
        while self.down.front().is_some_and(|(at, _)| *at <= self.now) {
            match self.down.pop_front() {
                Some((at, ToClient::Audio(audio))) => {
                    self.received.push((at, audio.payload.clone()));
                    self.player.handle_audio(audio.payload, at);
                }
                Some((at, message)) => {
                    self.player.handle_message(&message, at);
                    self.told.push(message);
                }
                None => {}
            }
        }
        loop {
            match self.player.poll(self.now) {
                PlayerOutput::Send(report) => self.up.push_back((self.now + TRAVEL, report)),
                PlayerOutput::Played(played) => self.heard.push(played),
                PlayerOutput::Idle { .. } => break,
            }
        }
        while self.up.front().is_some_and(|(at, _)| *at <= self.now) {
            if let Some((at, message)) = self.up.pop_front() {
                self.session.on_client(LinkId(0), message, at);
                self.drain();
            }
        }
        self.session.on_deadline(self.now);
        self.drain();
        self.agent.handle_deadline(self.now);
        self.listen_to_agent();
    }

    fn listen_to_agent(&mut self) {
        loop {
            match self.agent.poll(self.now) {
                AgentOutput::Event(event) => {
                    self.session.on_agent(UpstreamId(0), event, self.now);
                    self.drain();
                }
                AgentOutput::Idle { .. } => return,
                // Nobody listens at its server.
                _ => {}
            }
        }
    }

    fn drain(&mut self) {
        loop {
            match self.session.poll(self.now) {
                Output::ToClient { message, .. } => self.down.push_back((self.now + TRAVEL, message)),
                Output::ToAgent { message, .. } => {
                    self.agent.handle_session(message, self.now);
                    self.listen_to_agent();
                }
                Output::Dial { upstream, .. } => {
                    assert_eq!(upstream, UpstreamId(0));
                    self.agent.handle_open(self.now);
                    let capabilities = self.agent.capabilities();
                    self.session.on_upstream(upstream, UpstreamChange::Connected(capabilities), self.now);
                }
                Output::Close { reason, .. } => self.ended = Some(reason),
                Output::Idle { .. } => return,
                _ => {}
            }
        }
    }
}

/// The embedded speech of a caller in `format`, in frames of 20 ms.
fn speech(format: Format) -> Vec<Bytes> {
    let clip = Clip::parse(crate::cli::call::SPEECH).and_then(|clip| clip.resampled(format.rate)).expect("embedded");
    let mut encoder = Encoder::new(format, format.rate, &OpusSettings::default()).expect("possible");
    let mut buffer = bytes::BytesMut::new();
    let frames = clip.samples.as_chunks::<160>().0.chunks_exact(format.rate as usize / 50 / 160);
    frames.map(|frame| encoder.encode(frame.as_flattened(), &mut buffer).expect("encodes")).collect()
}

#[test]
fn an_echo_comes_back_bit_exact_and_as_late_as_announced() {
    for format in [Format::OPUS, Format::pcm16(16_000), Format::PCMU] {
        let delay = Duration::from_millis(500);
        let mut call = Call::new(AgentKind::Echo { delay }, format);
        let frames = speech(format);
        let begun = call.now;
        frames.iter().for_each(|frame| call.say(frame.clone()));
        call.run(Duration::from_secs(1));
        let back: Vec<_> = call.received.iter().map(|(_, payload)| payload.clone()).collect();
        assert_eq!(back.concat(), frames.concat(), "{format}");
        for (n, (at, _)) in call.received.iter().enumerate() {
            assert_eq!(*at - begun, 20 * MS * n as u32 + delay + TRAVEL + TRAVEL, "{format}: frame {n}");
        }
    }
}

#[test]
fn the_storyteller_is_told_to_one_frame_how_much_was_heard() {
    let format = Format::pcm16(16_000);
    let mut call = Call::new(AgentKind::Storyteller, format);
    let silence = Bytes::from(vec![0; 640]);
    (0..100).for_each(|_| call.say(silence.clone()));
    assert!(call.heard.len() > 80, "it speaks by itself: {}", call.heard.len());
    speech(format).into_iter().for_each(|frame| call.say(frame));
    let cut = call.told.iter().find_map(|message| match message {
        ToClient::Heard(heard) => Some(*heard),
        _ => None,
    });
    let Heard { ms, of_ms, error_ms, .. } = cut.expect("interrupted");
    let heard: u64 = call.heard.iter().map(|played| u64::from(played.ticks)).sum();
    assert!(ms.abs_diff(heard / 16) <= 20, "told {ms} ms, heard {} ms", heard / 16);
    assert!(ms > 1500 && of_ms > ms && error_ms <= 20, "{ms} of {of_ms} +-{error_ms}");
    (0..100).for_each(|_| call.say(silence.clone()));
    let turns = call.told.iter().filter_map(|message| match message {
        ToClient::Turn(turn) if turn.phase == TurnPhase::Start => Some(turn.turn.0),
        _ => None,
    });
    assert_eq!(turns.collect::<Vec<_>>(), [1, 2], "it goes on with the next sentence");
}

#[test]
fn a_clip_is_heard_to_its_end_before_the_call_ends() {
    let plays = Arc::new(crate::media::announcement::Announcement::apology().expect("embedded"));
    let mut call = Call::new(AgentKind::Clip { plays: plays.clone() }, Format::pcm16(24_000));
    call.run(Duration::from_secs(10));
    assert_eq!(call.ended, Some(CloseReason::AgentHangup));
    let heard: u64 = call.heard.iter().map(|played| u64::from(played.ticks)).sum();
    assert!(heard.abs_diff(plays.runs().len() as u64 * 480) <= 480, "{heard} ticks of {plays:?}");
    assert!(call.heard.iter().any(|played| played.payload.iter().any(|byte| *byte > 3)), "it is no silence");
}
