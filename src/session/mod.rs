//! One conversation: media both ways, turns, states, transcripts and the heard-audio ledger; sans-IO.
//!
//! Feed it with the `on_*` methods, then call [`Session::poll`] until it gives [`Output::Idle`]: one mutation, then
//! drain.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

mod account;
mod agents;
mod clients;
pub mod downlink;
mod ear;
mod event;
mod failover;
mod in_force;
mod ladder;
pub mod ledger;
mod lifetime;
mod limits;
pub mod links;
pub mod load;
mod record;
mod rollover;
pub mod state;
mod taps;
mod timer;
mod tool_calls;
mod tools;
pub mod transcript;
mod turn;
pub mod uplink;
mod upstreams;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::backoff::Backoff;
use crate::ids::{ConversationId, LinkId, SessionId, TurnId, UpstreamId};
use crate::message::{
    CloseReason, Error, ErrorCode, FromAgent, FromClient, Setup, State, StateChange, TextMessage, ToAgent, ToClient,
};
use crate::route::plan::Plan;
use crate::time::{Micros, Timers};

use downlink::{Downlink, DownlinkOutput};
pub use ear::Ignored;
pub use event::{
    Carriage, Command, Direction, LinkChange, LinkInfo, Measure, Output, Queue, SessionParams, TapEvent, ToolAnswer,
    ToolOutcome, ToolPost, ToolRunner, Transport, UpstreamChange, UpstreamRole,
};
use in_force::InForce;
use ladder::Ladder;
use limits::Limiting;
use links::Links;
use load::Load;
use record::Totals;
pub use record::{AgentEntry, AlertEntry, CallRecord, Codecs, Cost, TapEntry, ToolEntry};
use state::Conversation;
use taps::Taps;
use timer::Timer;
use tools::Tools;
use transcript::Transcript;
pub use turn::Interrupter;
use turn::TurnTaking;
use uplink::{Uplink, UplinkOutput};
use upstreams::Upstreams;

/// Text messages kept while no agent is ready.
const MAX_WAITING_MESSAGES: usize = 32;

/// One conversation.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    conversation_id: ConversationId,
    plan: Arc<Plan>,
    /// What the client asked for, reduced to what the route lets it decide.
    setup: Setup,
    in_force: InForce,
    history: Vec<crate::message::ContextItem>,
    context: Option<serde_json::Value>,
    metadata: Option<serde_json::Value>,
    expires_at: Option<u64>,
    /// How long it may last, and why no longer.
    longest: Option<(Duration, CloseReason)>,
    began: Micros,
    /// When somebody spoke or acted last.
    touched: Micros,
    load: Arc<Load>,
    links: Links,
    upstreams: Upstreams,
    uplink: Uplink,
    downlink: Downlink,
    conversation: Conversation,
    turn: TurnTaking,
    transcript: Transcript,
    timers: Timers<Timer, 17>,
    tools: Tools,
    taps: Taps,
    /// Text messages that wait for an agent.
    waiting: VecDeque<TextMessage>,
    /// Text messages that the agent has been told and has not begun to answer.
    told: VecDeque<TextMessage>,
    /// The agent owes the caller something: an answer, or the rest of one.
    awaited: bool,
    /// The caller was told that another agent takes over.
    noticed: bool,
    ladder: Ladder,
    /// Why another agent is taking over.
    failover: Option<&'static str>,
    rollover_pauses: Backoff,
    /// Why the call ends once everything was heard.
    farewell: CloseReason,
    /// The last voiced moment of the caller that no answer has followed yet.
    unanswered: Option<Micros>,
    /// The caller speaks since then, by the relay's own finding.
    voiced_since: Option<Micros>,
    limits: Limiting,
    totals: Totals,
    added: [Histogram<u32>; 2],
    outputs: VecDeque<Output>,
    closed: bool,
}

impl Session {
    /// A session with its first link, number 0; it says `started` and dials at once.
    pub fn new(params: SessionParams, now: Micros) -> Session {
        let SessionParams { id, conversation_id, plan, start, link, expires_at, token_for, budget, load, meters } =
            params;
        let may = plan.policy.client_may;
        let (setup, refused) = clients::permitted(start.setup.unwrap_or_default(), may);
        let history = if may.context { start.history } else { Vec::new() };
        let mut session = Session {
            id,
            conversation_id,
            setup,
            in_force: InForce::default(),
            history,
            context: start.context,
            metadata: start.metadata,
            expires_at,
            longest: lifetime::longest(plan.policy.max, token_for),
            began: now,
            touched: now,
            links: Links::new(link.clone()),
            upstreams: Upstreams::default(),
            uplink: Uplink::new(&plan.policy, now),
            downlink: Downlink::new(&plan.policy, budget, load.clone()),
            load,
            conversation: Conversation::default(),
            turn: TurnTaking::default(),
            transcript: Transcript::new(now),
            timers: Timers::default(),
            tools: Tools::default(),
            taps: Taps::new(&plan, now),
            waiting: VecDeque::new(),
            told: VecDeque::new(),
            awaited: false,
            noticed: false,
            ladder: Ladder::default(),
            failover: None,
            rollover_pauses: ladder::PAUSES,
            farewell: CloseReason::AgentHangup,
            unanswered: None,
            voiced_since: None,
            limits: Limiting::new(meters),
            totals: Totals::default(),
            added: [record::added_histogram(), record::added_histogram()],
            outputs: VecDeque::with_capacity(32),
            closed: false,
            plan,
        };
        session.start_timers(now);
        session.open_link(LinkId(0), link, None, now);
        for field in refused {
            session.refuse_field(field);
        }
        session.dial(0, now);
        session
    }

    /// A client says something.
    pub fn on_client(&mut self, link: LinkId, message: FromClient, now: Micros) {
        if self.closed || !self.links.is_attached(link) {
            return;
        }
        self.handle_client(message, now);
        self.check_invariants();
    }

    /// A client said something that its dialect could not make sense of.
    pub fn on_refused(&mut self, link: LinkId, error: Error, now: Micros) {
        let _ = now;
        if self.closed || !self.links.is_attached(link) {
            return;
        }
        self.outputs.push_back(Output::Measure(Measure::Refused));
        self.say(ToClient::Error(error));
    }

    /// An agent says something.
    pub fn on_agent(&mut self, upstream: UpstreamId, message: FromAgent, now: Micros) {
        if self.closed {
            return;
        }
        if self.upstreams.is_active(upstream) {
            self.handle_agent(upstream, message, now);
        } else if self.upstreams.is_standby(upstream) {
            self.handle_standby(message, now);
        } else {
            self.handle_tap(upstream, message, now);
        }
        self.check_invariants();
    }

    /// A link changed. [`LinkChange::Attached`] makes a new one, whose number must be [`Session::next_link`].
    pub fn on_link(&mut self, link: LinkId, change: LinkChange, now: Micros) {
        if self.closed {
            return;
        }
        match change {
            LinkChange::Attached(info) => self.attach(info, now),
            _ if !self.links.is_attached(link) => {}
            LinkChange::Lost => self.lose_link(now),
            LinkChange::RoundTrip(rtt) => self.downlink.on_round_trip(rtt),
            LinkChange::Loss { share } => {
                self.outputs.push_back(Output::Measure(Measure::PeerLoss(share)));
                self.downlink.on_loss(share, now);
            }
            LinkChange::Acked { pos } => self.downlink.on_acked(pos, now),
        }
        self.check_invariants();
    }

    /// An upstream changed.
    pub fn on_upstream(&mut self, upstream: UpstreamId, change: UpstreamChange, now: Micros) {
        if self.closed {
            return;
        }
        match change {
            change if self.upstreams.is_standby(upstream) => self.on_standby_change(upstream, change, now),
            change if !self.upstreams.is_active(upstream) => self.on_tap_change(upstream, change, now),
            UpstreamChange::Connected(capabilities) => self.open_upstream(upstream, capabilities, now),
            UpstreamChange::Failed(_) if self.timers.deadline(Timer::Goodbye).is_some() => self.let_go(now),
            UpstreamChange::Failed(error) => self.lose_upstream(error, now),
        }
        self.check_invariants();
    }

    /// The operator or the runtime wants something.
    pub fn on_command(&mut self, command: Command, now: Micros) {
        if self.closed {
            return;
        }
        match command {
            Command::Drain { reconnect_after, deadline } => self.drain(reconnect_after, deadline, now),
            Command::End(reason) => self.close(reason, now),
        }
    }

    /// The deadline given by [`Output::Idle`] has passed.
    pub fn on_deadline(&mut self, now: Micros) {
        if self.closed {
            return;
        }
        self.uplink.on_deadline(now);
        self.tools_due(now);
        while let Some(timer) = self.timers.take_due(now) {
            self.handle_timer(timer, now);
            if self.closed {
                return;
            }
        }
        self.check_invariants();
    }

    /// The number that the next link gets.
    pub fn next_link(&self) -> LinkId {
        self.links.next_id()
    }

    /// Whether the caller's audio reaches the agent untouched and the agent's the caller, as far as known.
    pub fn passes(&self, direction: Direction) -> bool {
        match direction {
            Direction::Up => self.uplink.passes().unwrap_or(false),
            Direction::Down => self.downlink.passes().unwrap_or(false),
        }
    }

    /// The driver measured the added latency of one frame.
    pub fn record_added(&mut self, direction: Direction, added: Duration) {
        // Within the bounds of what it may grow to, it cannot fail.
        let _ = self.added[direction as usize].record((added.as_micros() as u64).clamp(1, record::MOST_ADDED_US));
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Micros) -> Output {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            if self.closed {
                return Output::Idle { deadline: None, timer: "closed" };
            }
            if let Some(output) = self.uplink.poll() {
                self.handle_uplink(output, now);
            } else if let Some(output) = self.downlink.poll(now) {
                self.handle_downlink(output, now);
            } else if !self.roll_over(now) {
                return self.idle();
            }
        }
    }

    fn idle(&self) -> Output {
        let timer = self.timers.next().map(|(timer, at)| (at, timer.label()));
        let uplink = self.uplink.deadline().map(|at| (at, "uplink"));
        let downlink = self.downlink.deadline().map(|at| (at, "playout"));
        let tool = self.tools.deadline().map(|at| (at, "tool"));
        let tap = self.taps.deadline().map(|at| (at, "tap"));
        let next = [timer, uplink, downlink, tool, tap].into_iter().flatten().min();
        Output::Idle { deadline: next.map(|(at, _)| at), timer: next.map_or("none", |(_, name)| name) }
    }

    fn handle_uplink(&mut self, output: UplinkOutput, now: Micros) {
        match output {
            UplinkOutput::Audio(frame) => {
                if let Some((upstream, _)) = self.upstreams.ready() {
                    self.outputs.push_back(Output::ToAgent { upstream, message: ToAgent::Audio(frame) });
                }
            }
            UplinkOutput::Speech(event, at) => self.hear_speech(event, at, now),
            UplinkOutput::Voice(window, at) => self.hear_voice(window, at, now),
            UplinkOutput::Measure(measure) => self.outputs.push_back(Output::Measure(measure)),
            UplinkOutput::BadAudio(message) => {
                self.outputs.push_back(Output::Measure(Measure::Refused));
                self.say(ToClient::Error(error(ErrorCode::BadAudio, message)));
            }
        }
    }

    fn handle_downlink(&mut self, output: DownlinkOutput, now: Micros) {
        match output {
            DownlinkOutput::Begun { turn, item } => {
                self.totals.turns += 1;
                self.tools.on_turn(turn);
                if let Some(line) = self.transcript.on_agent_turn(turn, item, now) {
                    self.say(ToClient::Transcript(line));
                }
                self.touch(now);
            }
            DownlinkOutput::Turn(mut turn) => {
                turn.item = self.transcript.item_of(turn.turn).or(turn.item);
                self.say(ToClient::Turn(turn));
            }
            DownlinkOutput::Flush(flush) => self.say(ToClient::Flush(flush)),
            DownlinkOutput::Audio(audio, opening) => {
                if opening {
                    self.answer_heard(now);
                    self.move_to(State::Speaking);
                }
                self.totals.sent += self.downlink.span(audio.ticks);
                self.taps.on_agent(&audio, now);
                self.say(ToClient::Audio(audio));
            }
            DownlinkOutput::Silence(audio) => self.say(ToClient::Audio(audio)),
            DownlinkOutput::Played(played) => {
                self.transcript.on_played(played.turn, now);
                self.tools.on_played(played.turn);
                if !played.own {
                    self.touch(now);
                }
                if !self.downlink.is_busy() {
                    self.end_of_answer(now);
                }
            }
            DownlinkOutput::Cut(cut) => self.tell_cut(cut, now),
            DownlinkOutput::Refused(turn) => self.refuse_tail(turn),
            DownlinkOutput::Measure(measure) => self.outputs.push_back(Output::Measure(measure)),
        }
    }

    /// Says something to the client, or keeps it for when it is back.
    fn say(&mut self, message: ToClient) {
        if matches!(&message, ToClient::Transcript(line) if !line.is_final) && self.load.spares_optional() {
            return self.outputs.push_back(Output::Measure(Measure::InterimSkipped));
        }
        if let Some(output) = self.links.say(message) {
            self.outputs.push_back(output);
        }
    }

    /// Says something to the agent, if one is ready.
    fn tell(&mut self, message: ToAgent) {
        if let Some((upstream, _)) = self.upstreams.ready() {
            self.outputs.push_back(Output::ToAgent { upstream, message });
        }
    }

    /// Moves the conversation towards `to` by allowed steps, each told to the client.
    fn move_to(&mut self, to: State) {
        while let Some((from, to)) = self.conversation.step_towards(to) {
            self.say(ToClient::State(StateChange { from, to }));
        }
    }

    #[cfg(any(test, debug_assertions))]
    fn check_invariants(&self) {
        assert!(self.tools.running() <= tools::MAX_RUNNING && self.waiting.len() <= MAX_WAITING_MESSAGES);
        assert_eq!(self.closed, self.conversation.state() == State::Ended, "a closed session has ended");
        assert!(self.closed || self.turn.is_paused() == self.downlink.is_paused(), "a pause is one of the voice");
        let resumable = self.timers.deadline(Timer::Resume).is_some();
        assert!(self.closed || resumable == self.links.attached().is_none(), "somebody is here or awaited");
    }

    #[cfg(not(any(test, debug_assertions)))]
    fn check_invariants(&self) {}
}

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

fn unsupported(what: &str) -> Error {
    error(ErrorCode::Unsupported, format!("this agent does not take {what}"))
}

/// The turn that a client means, or the present one.
fn means(turn: Option<TurnId>, present: Option<TurnId>) -> bool {
    turn.is_none() || turn == present
}

#[cfg(test)]
mod tests;
