//! Agent to client: keep everything once, hand it over at the pace of the ear, know what was heard.

mod audible;
mod cut;
mod framer;
mod intake;
mod loss;
mod pace;
mod pause;
mod reports;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{FlushId, Generation, ItemId, TurnId};
use crate::media::format::Format;
use crate::media::playout::{Budget, Playout};
use crate::media::transcode::MediaError;
use crate::message::{AudioOut, Flush, Turn};
use crate::route::plan::{OpusSettings, Policy};
use crate::session::ledger::{Figure, Ledger};
use crate::session::load::Load;
use crate::session::{Carriage, Direction, Measure, Queue};
use crate::time::Micros;

use audible::Audible;
use framer::Framer;
use loss::LossResponse;
use pause::Pause;

/// An agent without item ids that was interrupted and pauses so long has begun a new answer.
const STALE_PAUSE: Duration = Duration::from_millis(400);
/// The depth of the store is reported in steps of this.
const DEPTH_STEP: Duration = Duration::from_millis(500);
/// Flushed items that are remembered, so that late audio of them is dropped.
const FLUSHED_ITEMS: usize = 8;

/// What the downlink gives.
#[derive(Debug)]
pub enum DownlinkOutput {
    /// The agent has begun to speak a new turn.
    Begun {
        /// The turn.
        turn: TurnId,
        /// The agent's item.
        item: Option<ItemId>,
    },
    /// For the client: a turn's audio begins or ends here.
    Turn(Turn),
    /// For the client: an audio frame, and whether it is the first of an agent's turn.
    Audio(AudioOut, bool),
    /// For the client: a frame of silence after the last audio.
    Silence(AudioOut),
    /// For the client: discard.
    Flush(Flush),
    /// A turn was heard to its end.
    Played(Cut),
    /// An interrupted turn and how much of it was heard.
    Cut(Cut),
    /// The store is full: the rest of this turn is refused.
    Refused(TurnId),
    /// A figure.
    Measure(Measure),
}

/// A turn that is over, with what was heard of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The turn.
    pub turn: TurnId,
    /// The agent's item.
    pub item: Option<ItemId>,
    /// The relay spoke it by itself.
    pub own: bool,
    /// Heard.
    pub heard: Duration,
    /// Received.
    pub of: Duration,
    /// What it rests on; `pos` is the position on the link.
    pub figure: Figure,
}

/// Agents are counted from 1 on; this is the relay itself.
const OWN: u32 = 0;

/// A turn that is not over: being received, waiting, or playing.
#[derive(Debug)]
struct OpenTurn {
    id: TurnId,
    generation: Generation,
    /// Who speaks it: the number of an agent, or [`OWN`].
    speaker: u32,
    item: Option<ItemId>,
    format: Format,
    /// Ticks received for it.
    received: u64,
    /// Received from this agent before it.
    before: Duration,
    /// Nothing more of it will come.
    ended: bool,
    /// Its tail was refused at the bound.
    refused: bool,
    /// Its first frame was handed over.
    sent: bool,
    /// Position after its last frame, once that was handed over.
    end: Option<u64>,
}

impl OpenTurn {
    /// What was received of it.
    fn length(&self) -> Duration {
        self.format.ticks_to_time(self.received)
    }
}

/// An interruption whose exact figure is awaited.
#[derive(Debug)]
struct Pending {
    flush: FlushId,
    turns: Vec<OpenTurn>,
    at: Micros,
    deadline: Micros,
}

/// The link that audio goes to.
#[derive(Debug)]
struct Speaker {
    ledger: Ledger,
    format: Format,
    carriage: Carriage,
    framer: Option<Framer>,
    /// The turn whose start the client was told last.
    announced: Option<TurnId>,
    /// Frames of silence that the voice still has to end with, and when the next of them is due.
    tail: u8,
    tail_at: Micros,
    /// When the last frame was handed over.
    sent_at: Micros,
    audible: Audible,
}

/// The agent's audio on its way to the caller's ear.
#[derive(Debug)]
pub struct Downlink {
    opus: OpusSettings,
    send_ahead: Duration,
    load: Arc<Load>,
    heard_wait: Duration,
    store: Playout,
    /// The format of the agent that speaks now.
    agent: Option<Format>,
    /// Its number.
    agents: u32,
    endless: bool,
    speaker: Option<Speaker>,
    turns: VecDeque<OpenTurn>,
    next_turn: TurnId,
    next_item: Option<ItemId>,
    generation: Generation,
    next_flush: FlushId,
    pending: Option<Pending>,
    pause: Option<Pause>,
    /// Items that were flushed.
    flushed: VecDeque<ItemId>,
    /// An agent without item ids still speaks a flushed turn: when it was heard last.
    stale: Option<Micros>,
    /// Received from the present agent.
    received: Duration,
    heard: Duration,
    /// The depth of the store is reported again when it is deeper than this.
    deepest: Duration,
    outputs: VecDeque<DownlinkOutput>,
    wake: Option<Micros>,
    loss: LossResponse,
    measures_levels: bool,
}

impl Downlink {
    /// A downlink without agent and link, whose store takes its memory from `budget` and whose encoder heeds `load`.
    pub fn new(policy: &Policy, budget: Arc<Budget>, load: Arc<Load>) -> Downlink {
        Downlink {
            opus: policy.opus,
            send_ahead: policy.send_ahead,
            load,
            heard_wait: policy.heard_wait,
            store: Playout::new(policy.playout_max, budget),
            agent: None,
            agents: OWN,
            endless: false,
            speaker: None,
            turns: VecDeque::with_capacity(8),
            next_turn: TurnId(1),
            next_item: None,
            generation: Generation(0),
            next_flush: FlushId(1),
            pending: None,
            pause: None,
            flushed: VecDeque::with_capacity(FLUSHED_ITEMS),
            stale: None,
            received: Duration::ZERO,
            heard: Duration::ZERO,
            deepest: Duration::ZERO,
            outputs: VecDeque::with_capacity(16),
            wake: None,
            loss: LossResponse::new(policy.opus.bitrate),
            measures_levels: false,
        }
    }

    /// The agent that speaks now and its format. `endless`: it knows no turns. What the last one has said is heard before.
    ///
    /// # Errors
    /// If its format cannot be brought into the client's.
    pub fn set_agent(&mut self, format: Format, endless: bool) -> Result<(), MediaError> {
        self.on_turn_ended();
        self.agent = Some(format);
        self.agents += 1;
        self.endless = endless;
        self.received = Duration::ZERO;
        self.flushed.clear();
        self.stale = None;
        let busy = self.store.next_turn().is_some() || self.is_partial();
        if let Some(speaker) = self.speaker.as_ref().filter(|_| busy) {
            // What waits in another format comes first.
            return Framer::new(format, speaker.format, speaker.carriage, &self.opus).map(drop);
        }
        self.make_framer(format)
    }

    /// The link that audio goes to: its format and carriage, and whether its transport acknowledges.
    ///
    /// # Errors
    /// If the agent's format cannot be brought into the client's.
    pub fn attach(&mut self, format: Format, carriage: Carriage, acks: bool, now: Micros) -> Result<(), MediaError> {
        let ledger = Ledger::new(format.clock(), carriage, acks, now);
        self.speaker = Some(Speaker {
            ledger,
            format,
            carriage,
            framer: None,
            announced: None,
            tail: 0,
            tail_at: now,
            sent_at: now,
            audible: Audible::default(),
        });
        self.loss = LossResponse::new(self.opus.bitrate);
        match self.store.next_format().or(self.agent) {
            Some(format) => self.make_framer(format),
            None => Ok(()),
        }
    }

    /// The client on the link plays by itself: its reports are exact.
    pub fn on_own_player(&mut self) {
        if let Some(speaker) = &mut self.speaker {
            speaker.ledger.on_own_player();
        }
    }

    /// The link is gone: playback goes on from the last reported position on the next one.
    pub fn detach(&mut self, now: Micros) {
        self.resolve(None, now);
        self.settle_pause(None, now);
        self.pause = None;
        let Some(speaker) = self.speaker.take() else { return };
        let heard = speaker.ledger.last_reported(now);
        let Some((turn, offset)) = speaker.ledger.at(heard) else { return };
        self.store.rewind(turn, offset);
        for open in &mut self.turns {
            open.end = None;
        }
    }

    /// Makes frames of what waits next, which may be of another format than what came before.
    fn follow_format(&mut self) {
        let Some(format) = self.store.next_format() else { return };
        let current = self.speaker.as_ref().is_none_or(|speaker| {
            speaker.framer.as_ref().is_some_and(|framer| framer.from() == format || framer.is_partial())
        });
        if current || self.make_framer(format).is_ok() {
            return;
        }
        if let Some(turn) = self.store.next_turn() {
            let lost = self.store.discard_through(turn);
            self.dropped(Queue::Playout, lost);
        }
    }

    fn is_partial(&self) -> bool {
        self.speaker.as_ref().and_then(|speaker| speaker.framer.as_ref()).is_some_and(Framer::is_partial)
    }

    fn make_framer(&mut self, from: Format) -> Result<(), MediaError> {
        let Some(speaker) = &mut self.speaker else { return Ok(()) };
        if speaker.framer.as_ref().is_some_and(|framer| framer.from() == from) {
            return Ok(());
        }
        let mut framer = Framer::new(from, speaker.format, speaker.carriage, &self.opus)?;
        framer.follow(self.loss.setting());
        framer.limit_complexity(self.load.max_complexity());
        framer.measure_levels(self.measures_levels);
        let measure = |measure| DownlinkOutput::Measure(measure);
        self.outputs.push_back(measure(Measure::CodecDelay { direction: Direction::Down, delay: framer.delay() }));
        if let Some(complexity) = framer.complexity() {
            self.outputs.push_back(measure(Measure::EncoderComplexity(complexity)));
        }
        speaker.framer = Some(framer);
        Ok(())
    }

    /// Whether frames pass through untouched, once agent and link are known.
    pub fn passes(&self) -> Option<bool> {
        Some(self.speaker.as_ref()?.framer.as_ref()?.passes())
    }

    /// Agent audio that the caller heard in turns that are over.
    pub fn heard(&self) -> Duration {
        self.heard
    }

    /// Agent audio that waits to be handed over.
    pub fn depth(&self) -> Duration {
        self.store.depth()
    }

    /// The turn that the caller hears, or will hear next.
    pub fn present_turn(&self) -> Option<TurnId> {
        self.turns.front().map(|turn| turn.id)
    }

    /// Time that `ticks` of the client's format take.
    pub fn span(&self, ticks: u32) -> Duration {
        self.speaker.as_ref().map_or(Duration::ZERO, |speaker| speaker.ledger.span(ticks.into()))
    }

    /// The flush that waits to be sent: nothing goes before it.
    pub fn take_flush(&mut self) -> Option<Flush> {
        let at = self.outputs.iter().rposition(|output| matches!(output, DownlinkOutput::Flush(_)))?;
        match self.outputs.remove(at) {
            Some(DownlinkOutput::Flush(flush)) => Some(flush),
            _ => None,
        }
    }

    /// What is queued already, without handing over more.
    pub fn take_queued(&mut self) -> Option<DownlinkOutput> {
        self.outputs.pop_front()
    }

    /// Whether the caller hears the agent, or is about to.
    pub fn is_busy(&self) -> bool {
        !self.turns.is_empty()
    }

    /// The turn that a transcript of `item` belongs to.
    pub fn turn_of(&self, item: Option<&ItemId>) -> Option<TurnId> {
        match item {
            // The newest: two agents may give the same name.
            Some(item) => self.turns.iter().rev().find(|turn| turn.item.as_ref() == Some(item)).map(|turn| turn.id),
            None => self.turns.iter().rev().find(|turn| turn.speaker != OWN).map(|turn| turn.id),
        }
    }

    /// Whether an agent has said something that was not heard to its end.
    pub fn has_answer(&self) -> bool {
        self.turns.iter().any(|turn| turn.speaker != OWN)
    }

    /// The next output; `None` until something happens or [`Downlink::deadline`] passes.
    pub fn poll(&mut self, now: Micros) -> Option<DownlinkOutput> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        self.wake = None;
        if let Some(pending) = &self.pending {
            if pending.deadline <= now {
                self.resolve(None, now);
                return self.outputs.pop_front();
            }
            self.wake = Some(pending.deadline);
        }
        if let Some(deadline) = self.pause_deadline() {
            if deadline <= now {
                self.settle_pause(None, now);
            } else {
                self.wake_at(deadline);
            }
        }
        self.finish_heard(now);
        if self.outputs.is_empty() {
            self.hand_over(now);
        }
        self.check();
        self.outputs.pop_front()
    }

    /// When to poll again if nothing happens; valid after [`Downlink::poll`] gave `None`.
    pub fn deadline(&self) -> Option<Micros> {
        self.wake
    }

    fn wake_at(&mut self, at: Micros) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    #[cfg(any(test, debug_assertions))]
    fn check(&self) {
        self.store.check_invariants();
        if let Some(speaker) = &self.speaker {
            speaker.ledger.check_invariants();
        }
        assert!(self.turns.iter().rev().skip(1).all(|turn| turn.ended), "only the newest turn is open");
        assert!(self.turns.iter().all(|turn| turn.generation == self.generation), "a flushed turn is still queued");
        let ordered = self.turns.iter().zip(self.turns.iter().skip(1)).all(|(a, b)| a.id < b.id);
        assert!(ordered, "turns are in order");
    }

    #[cfg(not(any(test, debug_assertions)))]
    fn check(&self) {}
}
