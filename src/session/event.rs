//! What goes into a session and what comes out of it.

mod tools;

use std::sync::Arc;
use std::time::Duration;

use crate::agent::Capabilities;
use crate::ids::{CallId, ConversationId, LinkId, Seq, SessionId, UpstreamId};
use crate::limit::Meters;
use crate::media::playout::Budget;
use crate::message::{
    AgentError, AgentInfo, AudioFormats, Basis, CloseReason, FailureClass, Setup, Start, Started, ToAgent, ToClient,
};
use crate::route::plan::Plan;
use crate::session::ear::Ignored;
use crate::session::in_force;
use crate::session::load::Load;
use crate::session::record::CallRecord;
use crate::session::turn::Interrupter;
use crate::time::Micros;

pub use tools::{ToolAnswer, ToolOutcome, ToolPost, ToolRunner};

/// What a session is made of.
#[derive(Clone, Debug)]
pub struct SessionParams {
    /// Its id, made by the runtime.
    pub id: SessionId,
    /// The conversation's id.
    pub conversation_id: ConversationId,
    /// What was decided at admission.
    pub plan: Arc<Plan>,
    /// The client's first message.
    pub start: Start,
    /// The first link, which gets number 0.
    pub link: LinkInfo,
    /// Unix time in seconds at which the session ends at the latest.
    pub expires_at: Option<u64>,
    /// How long the caller's credentials last from now on, if they end the session.
    pub token_for: Option<Duration>,
    /// The node's memory for agent audio.
    pub budget: Arc<Budget>,
    /// What its worker asks it to do without.
    pub load: Arc<Load>,
    /// What it is counted by while it runs.
    pub meters: Meters,
}

impl SessionParams {
    /// What the session will say first, for clients that are told before their link is open.
    pub fn started(&self) -> Started {
        let rung = &self.plan.rungs[0];
        let agent = &rung.agent;
        Started {
            session_id: self.id.clone(),
            conversation_id: self.conversation_id.clone(),
            agent: AgentInfo {
                name: agent.name.clone(),
                display: agent.display.clone(),
                delay_ms: agent.announced_delay().map(|delay| delay.as_millis() as u32),
            },
            audio: self.link.audio,
            resume_token: self.link.resume_token.clone(),
            expires_at: self.expires_at,
            resumed: None,
            setup: in_force::told(rung, self.start.setup.as_ref().unwrap_or(&Setup::default())),
        }
    }
}

/// A link as the session sees it.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// For the call record and metrics.
    pub transport: Transport,
    /// How audio travels on it.
    pub carriage: Carriage,
    /// Its formats, checked.
    pub audio: AudioFormats,
    /// The token with which the session can be resumed after this link; made by the runtime, single-use.
    pub resume_token: String,
    /// On a resume: the last `seq` that the client has.
    pub have: Option<u64>,
}

/// How clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// WebSocket.
    Websocket,
    /// WebRTC.
    Webrtc,
    /// Raw QUIC.
    Quic,
    /// WebTransport over HTTP/3.
    Webtransport,
}

impl Transport {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Transport::Websocket => "websocket",
            Transport::Webrtc => "webrtc",
            Transport::Quic => "quic",
            Transport::Webtransport => "webtransport",
        }
    }
}

/// How audio travels on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// In order with the control messages, reliably: positions count samples.
    Ordered,
    /// As RTP: positions are RTP timestamps; packets may be lost or come out of order.
    Rtp,
}

/// What happened to a link.
#[derive(Clone, Debug)]
pub enum LinkChange {
    /// A new link; it takes over the microphone and the speaker from any older one.
    Attached(LinkInfo),
    /// Gone without goodbye: the resume window begins.
    Lost,
    /// A measured round trip.
    RoundTrip(Duration),
    /// The client reports how much of our audio it lost since its last report (RFC 3550 section 6.4.1).
    Loss {
        /// 0 to 1.
        share: f32,
    },
    /// The client's transport library has taken everything handed over with positions before `pos`.
    Acked {
        /// Ticks of the downlink format's clock.
        pos: u32,
    },
}

/// What happened to an upstream.
#[derive(Clone, Debug)]
pub enum UpstreamChange {
    /// The socket is open (built-in agents: at once); what the agent can do.
    Connected(Capabilities),
    /// It could not be reached, or was lost.
    Failed(AgentError),
}

/// What the operator or the runtime wants.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// The node goes down.
    Drain {
        /// When this client should reconnect.
        reconnect_after: Duration,
        /// When the session is ended.
        deadline: Duration,
    },
    /// End it now.
    End(CloseReason),
}

/// Which way audio goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Client to agent.
    Up,
    /// Agent to client.
    Down,
}

impl Direction {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
        }
    }
}

/// What an upstream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamRole {
    /// It talks with the caller, or will as soon as it is ready.
    Active,
    /// It is kept ready to take over.
    Standby,
    /// It only listens.
    Tap,
}

/// What a session wants done.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "moved once, from the session to the driver")]
pub enum Output {
    /// Say something to a client; `seq` is there if it is kept for a resume.
    ToClient {
        /// On this link.
        link: LinkId,
        /// Its number.
        seq: Option<Seq>,
        /// The message.
        message: ToClient,
    },
    /// Say something to an agent.
    ToAgent {
        /// On this upstream.
        upstream: UpstreamId,
        /// The message.
        message: ToAgent,
    },
    /// Connect to an agent; answer with [`UpstreamChange`].
    Dial {
        /// The number of the new upstream.
        upstream: UpstreamId,
        /// Index into [`Plan::rungs`] (taps: [`Plan::taps`]).
        rung: usize,
        /// What for.
        role: UpstreamRole,
    },
    /// What was dialled as [`UpstreamRole::Standby`] talks with the caller from now on.
    Promote {
        /// This upstream.
        upstream: UpstreamId,
    },
    /// Close the connection to an agent after what was said to it.
    Hangup {
        /// This upstream.
        upstream: UpstreamId,
        /// It has failed; else it is not needed any more.
        failed: bool,
    },
    /// Run a tool by a signed POST; answer with [`Session::on_tool`](crate::session::Session::on_tool).
    RunTool(ToolPost),
    /// Nobody wants the answer of this tool call any more: break it off.
    AbortTool {
        /// The call.
        call_id: CallId,
    },
    /// Close a link after what was said on it.
    Detach {
        /// This link.
        link: LinkId,
        /// WebSocket close code.
        code: u16,
        /// For the close frame.
        reason: &'static str,
    },
    /// Count something.
    Measure(Measure),
    /// The session is over; nothing follows.
    Close {
        /// Why.
        reason: CloseReason,
        /// Everything about the call.
        record: Box<CallRecord>,
    },
    /// Nothing to do until something happens or the deadline passes.
    Idle {
        /// When to call [`Session::on_deadline`](crate::session::Session::on_deadline).
        deadline: Option<Micros>,
        /// The timer behind it, for traces.
        timer: &'static str,
    },
}

/// One figure for the metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// End of the caller's speech to the first audio of the answer sent.
    FirstAudio(Duration),
    /// Detection of an interruption to the flush handed over.
    BargeInStop(Duration),
    /// Uplink packets that were not there in time, and those recovered from FEC.
    UplinkLoss {
        /// Not there when the wait for them was over. They never came, or are counted by [`Measure::UplinkLate`] too.
        lost: u32,
        /// Of these, recovered from in-band FEC.
        recovered: u32,
    },
    /// Uplink packets that came after they had been given up, and were dropped.
    UplinkLate(u32),
    /// Uplink audio made up for lost packets.
    Concealed(Duration),
    /// Silence made up for time in which the client sent nothing.
    Filled(Duration),
    /// How long a packet after a gap waited.
    GapWait(Duration),
    /// Audio dropped at a full or stale queue.
    Dropped {
        /// The queue.
        queue: Queue,
        /// How much audio.
        audio: Duration,
    },
    /// A round trip measured by RTCP.
    RoundTrip(Duration),
    /// Interarrival jitter (RFC 3550 section 6.4.1).
    Jitter {
        /// Which way.
        direction: Direction,
        /// How much.
        jitter: Duration,
    },
    /// The share of our packets that the client has lost since its last report, 0 to 1.
    PeerLoss(f32),
    /// How far agent time is ahead of the caller's real time.
    UplinkSkew(Duration),
    /// Agent audio waiting in the playout store.
    PlayoutDepth(Duration),
    /// How long the last frame of agent audio had waited for its time.
    PlayoutWait(Duration),
    /// Delay of codec, resampler and look-ahead on a path that is set up.
    CodecDelay {
        /// Which way.
        direction: Direction,
        /// How much; zero if audio passes through untouched.
        delay: Duration,
    },
    /// Complexity of the Opus encoder towards the client, 0 to 10.
    EncoderComplexity(u8),
    /// A figure of heard audio was fixed.
    Heard {
        /// What it rests on.
        basis: Basis,
    },
    /// The caller interrupted the agent.
    Interruption {
        /// Who found that.
        by: Interrupter,
    },
    /// The relay's own detection heard a voice and did not let it interrupt the agent.
    BargeInIgnored(Ignored),
    /// An interruption that could be taken back is settled.
    PauseEnded {
        /// Whether it was one.
        confirmed: bool,
    },
    /// An upstream failed.
    UpstreamFailed {
        /// Index into [`Plan::rungs`].
        rung: usize,
        /// How.
        class: FailureClass,
    },
    /// Another agent took over and is ready.
    Failover {
        /// The class of the failure before, or `slow`.
        reason: &'static str,
    },
    /// No agent can be reached: this step of `when_down` is taken.
    DownStep(&'static str),
    /// The time without any agent is over.
    Down {
        /// How long it was.
        span: Duration,
        /// An agent is back; else the call has ended.
        recovered: bool,
    },
    /// A text message was refused because enough of them wait for an agent.
    MessageNotKept,
    /// A fresh upstream of the same agent took over before the end of the one before.
    Rollover,
    /// So much of the conversation was told again to an agent that took over.
    Replayed {
        /// Characters.
        chars: u32,
    },
    /// The agent was ready this long after it was dialled.
    UpstreamReady(Duration),
    /// A tool call is over.
    Tool {
        /// The tool's place in [`Plan::tools`]; `None` if it is not configured.
        tool: Option<usize>,
        /// How it ended.
        outcome: ToolOutcome,
        /// From the call to its end.
        took: Duration,
    },
    /// An interim transcript was left out because the node has more to do than it can.
    InterimSkipped,
    /// A frame was not copied for taps because the node has more to do than it can.
    TapsSkipped,
    /// A tap did something.
    Tap {
        /// Index into [`Plan::taps`].
        tap: usize,
        /// What.
        event: TapEvent,
    },
    /// An unknown message of a newer peer was ignored.
    Ignored,
    /// A client message was refused.
    Refused,
}

/// What a tap did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TapEvent {
    /// It listens from now on.
    Ready,
    /// It is gone, or was never there.
    Lost,
    /// It has understood something.
    Transcript,
    /// It raised an alert.
    Alert,
    /// It had data for the client, who was told.
    App,
}

impl TapEvent {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            TapEvent::Ready => "ready",
            TapEvent::Lost => "lost",
            TapEvent::Transcript => "transcript",
            TapEvent::Alert => "alert",
            TapEvent::App => "app",
        }
    }
}

/// The bounded queues of a session that drop audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Waiting for the agent to be ready.
    Preroll,
    /// Waiting to be sent to the agent.
    Uplink,
    /// Waiting to be played.
    Playout,
    /// Audio of a flushed generation that came late.
    Stale,
    /// Waiting to be sent to a tap.
    Tap,
}

impl Queue {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Queue::Preroll => "preroll",
            Queue::Uplink => "uplink",
            Queue::Playout => "playout",
            Queue::Stale => "stale",
            Queue::Tap => "tap",
        }
    }
}
