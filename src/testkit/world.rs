//! A session between a scripted client and a scripted agent.

mod acts;
mod taps;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::agent::Capabilities;
use crate::config::settings::{AgentKind, AgentSettings, LimitSettings, Price, Settings, ToolSettings};
use crate::config::vendor::END_CALL;
use crate::ids::{CallId, LinkId, SessionId, UpstreamId};
use crate::limit::{Address, Limiter, Limits, Meters, Subject};
use crate::media::announcement::Announcement;
use crate::media::format::Format;
use crate::message::{
    AgentError, AudioFormats, AudioIn, CloseReason, FailureClass, FromAgent, FromClient, Ready, RtpMeta, Setup, Start,
    ToAgent, ToClient, Tool,
};
use crate::route::plan::{Plan, Policy, Rung};
use crate::session::load::Load;
use crate::session::{
    CallRecord, Carriage, LinkChange, LinkInfo, Measure, Output, Session, SessionParams, ToolPost, Transport,
    UpstreamChange, UpstreamRole,
};
use crate::testkit::client::{Client, ClientKind};
use crate::testkit::network::{Impairment, Network};
use crate::time::Micros;

pub use taps::{TapKind, TapLog};

/// What crosses the network towards the client.
#[derive(Clone, Debug)]
enum Down {
    Message(LinkId, ToClient),
    /// A transport-level probe with the position handed over so far.
    Probe(LinkId, Micros),
}

/// What crosses it towards the relay.
#[derive(Clone, Debug)]
enum Up {
    Message(LinkId, FromClient),
    Audio(LinkId, Option<RtpMeta>, bytes::Bytes),
    Acked(LinkId, u32, Micros),
}

/// What a test can choose.
#[derive(Clone, Debug)]
pub struct WorldBuilder {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// The client.
    pub client: ClientKind,
    /// The client's formats: to the relay, from the relay.
    pub formats: (Format, Format),
    /// How its audio travels.
    pub carriage: Carriage,
    /// The agent's formats: to the agent, from the agent.
    pub agent_formats: (Format, Format),
    /// The same of the second agent, where they are others.
    pub second_formats: Option<(Format, Format)>,
    /// What the agent can do.
    pub capabilities: Capabilities,
    /// The network between client and relay, each way.
    pub network: Impairment,
    /// The policy of the route.
    pub policy: Policy,
    /// The set-up in force.
    pub setup: Setup,
    /// Names of the agents, best first; one that begins with `-` cannot be reached, `?` does not get
    /// ready by itself, `!` is a clip, and `=` (last) only answers text.
    pub agents: Vec<&'static str>,
    /// How many of them are equals.
    pub pool: usize,
    /// Who only listens.
    pub taps: Vec<TapKind>,
    /// Tools of the configuration, each of them in the agents' set-up.
    pub tools: BTreeMap<String, ToolSettings>,
    /// How long the caller's token lasts, if it ends the session.
    pub token_for: Option<Duration>,
    /// What the session is counted by.
    pub limits: Vec<LimitSettings>,
    /// What one token of its agents costs.
    pub token_price: Option<f64>,
    /// The price tables of those that have one.
    pub prices: Vec<(&'static str, Price)>,
}

impl Default for WorldBuilder {
    fn default() -> Self {
        let pcm = Format::pcm16(24_000);
        WorldBuilder {
            seed: 1,
            client: ClientKind { reports: true, buffer: Duration::from_millis(40) },
            formats: (pcm, pcm),
            carriage: Carriage::Ordered,
            agent_formats: (pcm, pcm),
            second_formats: None,
            capabilities: Capabilities {
                truncation: true,
                playout: true,
                text: true,
                tools: true,
                manual_turns: true,
                context: true,
                ..Capabilities::default()
            },
            network: Impairment { delay: Duration::from_millis(20), ordered: true, ..Impairment::default() },
            policy: Policy::default(),
            setup: Setup::default(),
            agents: vec!["agent"],
            pool: 1,
            taps: Vec::new(),
            tools: BTreeMap::new(),
            token_for: None,
            limits: Vec::new(),
            token_price: None,
            prices: Vec::new(),
        }
    }
}

impl WorldBuilder {
    /// Starts the session.
    pub fn start(self) -> World {
        World::new(self)
    }
}

/// A session and everything around it.
#[derive(Debug)]
pub struct World {
    /// Virtual time.
    pub now: Micros,
    /// The session under test.
    pub session: Session,
    /// The client on the newest link.
    pub client: Client,
    /// Measures so far.
    pub measures: Vec<Measure>,
    /// What the agent heard, and when, without its audio.
    pub told_agent: Vec<(Micros, ToAgent)>,
    /// The audio that the agent heard.
    pub agent_audio: Vec<(Micros, crate::message::AgentAudioOut)>,
    /// Tools that were to be run by HTTP.
    pub posted: Vec<ToolPost>,
    /// Those that were broken off.
    pub aborted: Vec<CallId>,
    /// The taps, in the order of the plan.
    pub taps: Vec<TapLog>,
    /// Rungs that were dialled.
    pub dialled: Vec<usize>,
    /// Upstreams that were hung up.
    pub hung_up: Vec<UpstreamId>,
    /// How links were closed.
    pub detached: Vec<(LinkId, u16)>,
    /// Set once the session is over.
    pub ended: Option<(CloseReason, Box<CallRecord>)>,
    build: WorldBuilder,
    link: LinkId,
    /// The agent in use.
    pub upstream: UpstreamId,
    /// Dialled to take over, and what it was told.
    pub standby: Option<(UpstreamId, Vec<ToAgent>)>,
    up: Network<Up>,
    down: Network<Down>,
    /// What the session's worker asks it to do without.
    pub load: Arc<Load>,
    /// Agents that are dialled do not get ready by themselves.
    pub hold_ready: bool,
    /// Regular agents cannot be reached.
    pub unreachable: bool,
    refused_dials: u32,
    deadline: Option<Micros>,
    last_probe: Micros,
    pending_dials: VecDeque<(UpstreamId, usize, UpstreamRole)>,
    tokens: u32,
}

impl World {
    fn new(build: WorldBuilder) -> World {
        let now = Micros::from_millis(5_000);
        let rungs = build.agents.iter().map(|name| rung(name, &build)).collect();
        let mut plan = Plan { pool: build.pool, ..Plan::new("test", rungs, build.policy.clone()) };
        plan.regular = build.agents.iter().filter(|name| !name.starts_with('=')).count();
        plan.tools = Arc::new(build.tools.clone());
        plan.taps = build.taps.iter().map(taps::planned).collect();
        let load = Arc::<Load>::default();
        let params = SessionParams {
            id: SessionId::from("s"),
            conversation_id: "c".into(),
            plan: Arc::new(plan),
            start: Start::default(),
            link: link_info(&build, 0, None),
            expires_at: None,
            token_for: build.token_for,
            budget: Arc::new(crate::media::playout::Budget::new(u64::MAX / 2)),
            load: load.clone(),
            meters: meters(&build.limits, now),
        };
        let mut world = World {
            now,
            session: Session::new(params, now),
            client: Client::new(build.client, build.formats.1, now),
            measures: Vec::new(),
            told_agent: Vec::new(),
            agent_audio: Vec::new(),
            taps: build.taps.iter().map(|_| TapLog::default()).collect(),
            posted: Vec::new(),
            aborted: Vec::new(),
            dialled: Vec::new(),
            hung_up: Vec::new(),
            detached: Vec::new(),
            ended: None,
            link: LinkId(0),
            upstream: UpstreamId(0),
            standby: None,
            load,
            hold_ready: false,
            unreachable: false,
            refused_dials: 0,
            up: Network::new(build.network, build.seed),
            down: Network::new(
                Impairment { ordered: build.carriage == Carriage::Ordered, ..build.network },
                build.seed ^ 1,
            ),
            deadline: None,
            last_probe: Micros::ZERO,
            pending_dials: VecDeque::new(),
            tokens: 0,
            build,
        };
        world.drain();
        world
    }

    /// Milliseconds of virtual time since the session began.
    pub fn elapsed_ms(&self) -> u64 {
        self.now.0 / 1000 - 5_000
    }

    /// Lets `span` of virtual time pass, jumping from event to event.
    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        let mut turns_at_one_instant = 0;
        loop {
            let next = [self.deadline, self.up.next_arrival(), self.down.next_arrival(), self.client.deadline()];
            let next = next.into_iter().flatten().min().unwrap_or(until).max(self.now);
            turns_at_one_instant = if next == self.now { turns_at_one_instant + 1 } else { 0 };
            assert!(turns_at_one_instant < 10_000, "the world spins at {}", self.now);
            if next > until {
                break;
            }
            self.now = next;
            if !self.step() && next == until {
                break;
            }
        }
        self.now = until;
    }

    fn step(&mut self) -> bool {
        let mut busy = false;
        while let Some(thing) = self.down.receive(self.now) {
            busy = true;
            self.client_receives(thing);
        }
        if self.client.deadline().is_some_and(|at| at <= self.now) {
            busy = true;
            if let Some(report) = self.client.on_deadline(self.now) {
                self.up.send(Up::Message(self.link, report), self.now);
            }
        }
        while let Some(thing) = self.up.receive(self.now) {
            busy = true;
            self.relay_receives(thing);
            self.drain();
        }
        if self.deadline.is_some_and(|at| at <= self.now) {
            busy = true;
            self.session.on_deadline(self.now);
            self.drain();
        }
        busy
    }

    fn client_receives(&mut self, thing: Down) {
        match thing {
            Down::Message(link, message) if link == self.link => {
                if let Some(answer) = self.client.on_message(message, self.now) {
                    self.up.send(Up::Message(link, answer), self.now);
                }
            }
            Down::Probe(link, sent) if link == self.link => {
                self.up.send(Up::Acked(link, self.client.received() as u32, sent), self.now);
            }
            _ => {}
        }
    }

    fn relay_receives(&mut self, thing: Up) {
        match thing {
            Up::Message(link, message) => self.session.on_client(link, message, self.now),
            Up::Audio(link, rtp, payload) => {
                self.session.on_client(link, FromClient::Audio(AudioIn { arrival: self.now, rtp, payload }), self.now);
            }
            Up::Acked(link, pos, sent) => {
                self.session.on_link(link, LinkChange::Acked { pos }, self.now);
                self.session.on_link(link, LinkChange::RoundTrip(self.now - sent), self.now);
            }
        }
    }

    /// Polls the session until it is idle and carries out what it wants.
    fn drain(&mut self) {
        self.drain_once();
        self.session.serve_taps(self.now);
        self.drain_once();
        self.feed_taps();
        self.drain_once();
    }

    fn drain_once(&mut self) {
        loop {
            match self.session.poll(self.now) {
                Output::ToClient { link, message, .. } => self.carry(link, message),
                Output::ToAgent { upstream, message } => self.agent_hears(upstream, message),
                Output::Dial { upstream, rung, role: UpstreamRole::Tap } => self.dial_tap(upstream, rung),
                Output::Dial { upstream, rung, role } => {
                    self.dialled.push(rung);
                    self.pending_dials.push_back((upstream, rung, role));
                }
                Output::Promote { upstream } => {
                    let (id, told) = self.standby.take().expect("somebody stands by");
                    assert_eq!(id, upstream);
                    self.upstream = upstream;
                    self.told_agent.extend(told.into_iter().map(|message| (self.now, message)));
                }
                Output::Hangup { upstream, .. } => self.hung_up.push(upstream),
                Output::Detach { link, code, .. } => self.detached.push((link, code)),
                Output::RunTool(post) => self.posted.push(post),
                Output::AbortTool { call_id } => self.aborted.push(call_id),
                Output::Measure(measure) => self.measures.push(measure),
                Output::Close { reason, record } => self.ended = Some((reason, record)),
                Output::Idle { deadline, .. } => {
                    self.deadline = deadline;
                    let Some((upstream, rung, role)) = self.pending_dials.pop_front() else { return };
                    self.connect(upstream, rung, role);
                }
            }
        }
    }

    fn carry(&mut self, link: LinkId, message: ToClient) {
        let audio = matches!(message, ToClient::Audio(_));
        self.down.send(Down::Message(link, message), self.now);
        let probes = self.build.carriage == Carriage::Ordered;
        if audio && probes && self.now - self.last_probe >= Duration::from_millis(100) {
            self.last_probe = self.now;
            self.down.send(Down::Probe(link, self.now), self.now);
        }
    }

    fn connect(&mut self, upstream: UpstreamId, rung: usize, role: UpstreamRole) {
        match role {
            UpstreamRole::Tap => return self.connect_tap(upstream, rung),
            UpstreamRole::Standby => self.standby = Some((upstream, Vec::new())),
            _ => self.upstream = upstream,
        }
        let refused = self.refused_dials > 0;
        self.refused_dials = self.refused_dials.saturating_sub(1);
        let name = self.build.agents[rung];
        if refused || name.starts_with('-') || self.unreachable && !name.starts_with('=') {
            self.standby.take_if(|(standby, _)| *standby == upstream);
            let error = AgentError { class: FailureClass::Unreachable, code: None, message: "refused".into() };
            return self.session.on_upstream(upstream, UpstreamChange::Failed(error), self.now);
        }
        self.session.on_upstream(upstream, UpstreamChange::Connected(self.build.capabilities), self.now);
        if self.hold_ready || name.starts_with('?') {
            return;
        }
        self.is_ready(upstream);
    }

    /// The agent server that was dialled as `upstream` is ready.
    pub fn is_ready(&mut self, upstream: UpstreamId) {
        let (uplink, downlink) = self.formats_of(upstream);
        self.session.on_agent(upstream, FromAgent::Ready(Ready { uplink, downlink, delay: None }), self.now);
        self.drain();
    }

    fn formats_of(&self, upstream: UpstreamId) -> (Format, Format) {
        let second = self.dialled.get(upstream.0 as usize) == Some(&1);
        self.build.second_formats.filter(|_| second).unwrap_or(self.build.agent_formats)
    }

    fn agent_hears(&mut self, upstream: UpstreamId, message: ToAgent) {
        if let Some(tap) = self.taps.iter_mut().find(|tap| tap.upstream == Some(upstream)) {
            return tap.told.push(message);
        }
        match message {
            message if self.standby.as_ref().is_some_and(|(standby, _)| *standby == upstream) => {
                assert!(!matches!(message, ToAgent::Audio(_)), "who stands by hears nothing");
                self.standby.as_mut().expect("just seen").1.push(message);
            }
            ToAgent::End => self.told_agent.push((self.now, ToAgent::End)),
            _ if upstream != self.upstream => panic!("only the agent in use is spoken to: {message:?}"),
            ToAgent::Audio(audio) => self.agent_audio.push((self.now, audio)),
            other => self.told_agent.push((self.now, other)),
        }
    }

    /// The agent says something now.
    pub fn agent_says(&mut self, message: FromAgent) {
        self.session.on_agent(self.upstream, message, self.now);
        self.drain();
    }
}

fn meters(limits: &[LimitSettings], now: Micros) -> Meters {
    let mut settings = Settings::default();
    let names: Vec<String> = (0..limits.len()).map(|number| format!("limit-{number}")).collect();
    settings.limits = names.iter().cloned().zip(limits.iter().cloned()).collect();
    settings.limit_sets.insert("all".into(), names);
    let subject = Subject { user: None, tenant: None, address: Address::V4(1), route: "test", agent: "agent" };
    Limits::new(&settings, None).of(&["all".into()], &subject, &Limiter::new(100), now).meters
}

fn rung(name: &str, build: &WorldBuilder) -> Rung {
    let by_token = |each| Price { currency: "USD".into(), units: [("tokens".into(), each)].into() };
    let tokens = build.token_price.map(by_token);
    let agent = AgentSettings {
        name: name.into(),
        kind: match name.starts_with('!') {
            true => AgentKind::Clip { plays: Arc::new(Announcement::apology().expect("embedded")) },
            false => AgentKind::Storyteller,
        },
        setup: Setup::default(),
        vendor: serde_json::Value::Null,
        display: serde_json::Value::Null,
        zone: None,
        max_sessions: None,
        session_max: None,
        ping: Duration::ZERO,
        price: build.prices.iter().find(|(priced, _)| *priced == name).map(|(_, price)| price.clone()).or(tokens),
    };
    let named = build.tools.keys().map(String::as_str).chain([END_CALL]).map(Tool::from).collect();
    Rung { agent: Arc::new(agent), setup: Setup { tools: Some(named), ..build.setup.clone() } }
}

fn link_info(build: &WorldBuilder, token: u32, have: Option<u64>) -> LinkInfo {
    let transport = match build.carriage {
        Carriage::Ordered => Transport::Websocket,
        Carriage::Rtp => Transport::Webrtc,
    };
    let audio = AudioFormats { uplink: build.formats.0, downlink: build.formats.1, flow: None };
    LinkInfo { transport, carriage: build.carriage, audio, resume_token: format!("t{token}"), have }
}
