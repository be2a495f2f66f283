//! Client to agent: order, decode, keep agent time continuous, encode.
//!
//! Where client and agent use the same wire, packets pass untouched. They are still put in order if they came as RTP.
//! What is lost then cannot be made up without decoding; it stays visible to the agent's decoder: an Opus agent gets
//! an empty packet per lost frame (RFC 6716 section 3.2.1), which it conceals by itself, others get silence.
//!
//! | queue | bound | overflow |
//! |---|---|---|
//! | preroll, until the agent is ready | `policy.preroll` | oldest dropped, [`Queue::Preroll`] |
//! | backlog after a stall longer than `policy.uplink_max` | `policy.uplink_max` | oldest dropped, [`Queue::Uplink`] |
//! | packets behind a gap ([`order`](crate::media::order)) | 2 s, 256 packets | gap given up |

mod backlog;
mod chain;
mod intake;
mod line;
mod silence;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::media::format::Format;
use crate::media::level::{SpeechChange, SpeechDetector};
use crate::media::order::{Order, OrderCounters};
use crate::media::voice::{VoiceDetector, VoiceWindow};
use crate::message::{AgentAudioOut, AudioIn, SpeechEvent};
use crate::route::plan::Policy;
use crate::session::{Carriage, Direction, Measure, Queue};
use crate::time::Micros;
use backlog::Backlog;
use chain::Chain;
use line::{AgentLine, FRAME};
use silence::Hold;

/// How late deadlines are still worked off one by one.
const MAX_TARDINESS: Duration = Duration::from_secs(1);
/// Change of surplus that is reported at once, in microseconds.
const SKEW_STEP: i64 = 100_000;
/// Smaller changes are reported so often.
const SKEW_EVERY: Duration = Duration::from_secs(1);

/// What the uplink gives.
#[derive(Debug)]
pub enum UplinkOutput {
    /// A frame for the agent.
    Audio(AgentAudioOut),
    /// The caller began or stopped speaking, by the relay's own finding, at this instant.
    Speech(SpeechEvent, Micros),
    /// What the relay's own detection of voice found in a stretch of audio that ended at this instant.
    Voice(VoiceWindow, Micros),
    /// A figure.
    Measure(Measure),
    /// A frame that cannot be decoded; the reason for the client.
    BadAudio(String),
}

/// The link that audio comes over.
#[derive(Clone, Copy, Debug)]
struct LinkSide {
    number: u32,
    format: Format,
    carriage: Carriage,
}

/// From one link to the agent.
#[derive(Debug)]
struct Path {
    link: LinkSide,
    order: Option<Order>,
    counted: OrderCounters,
    /// There while an agent listens.
    chain: Option<Chain>,
}

/// Client audio on its way to the agent.
#[derive(Debug)]
pub struct Uplink {
    policy: Policy,
    complexity: Option<u8>,
    link: Option<LinkSide>,
    /// The links so far with audio in the preroll, oldest first.
    known_links: VecDeque<LinkSide>,
    links: u32,
    mic: bool,
    /// The agent that listens; without one audio goes to the preroll.
    line: Option<AgentLine>,
    path: Option<Path>,
    preroll: Backlog,
    hold: Option<Hold>,
    speech: SpeechDetector,
    /// There where somebody asks for it.
    voice: Option<Box<VoiceDetector>>,
    /// When the next silence is made up, if nothing comes.
    fill_at: Option<Micros>,
    /// Arrival and length of the last audio on the present link, and whether the sender said that it pauses.
    last: Option<(Micros, Duration, bool)>,
    reported_skew: (i64, Micros),
    lost: u64,
    concealed: Duration,
    filled: Duration,
    shortened: Duration,
    out: VecDeque<UplinkOutput>,
}

impl Uplink {
    /// An uplink whose agent is not ready yet: audio is kept (`preroll`).
    pub fn new(policy: &Policy, now: Micros) -> Uplink {
        Uplink {
            policy: policy.clone(),
            complexity: None,
            link: None,
            known_links: VecDeque::new(),
            links: 0,
            mic: true,
            line: None,
            path: None,
            preroll: Backlog::new(policy.preroll),
            hold: None,
            speech: SpeechDetector::new(policy.speech_threshold_dbov, policy.speech_hangover),
            voice: None,
            fill_at: None,
            last: None,
            reported_skew: (0, now),
            lost: 0,
            concealed: Duration::ZERO,
            filled: Duration::ZERO,
            shortened: Duration::ZERO,
            out: VecDeque::with_capacity(16),
        }
    }

    /// The link that holds the microphone now, with its format and carriage; `None` while detached (silence follows).
    /// Call it once per link: each has a numbering and a codec state of its own.
    pub fn set_link(&mut self, link: Option<(Format, Carriage)>, now: Micros) {
        self.release_hold(now);
        self.close_path(now);
        self.mic = true;
        self.link = link.map(|(format, carriage)| {
            self.links += 1;
            LinkSide { number: self.links, format, carriage }
        });
        if let Some(link) = self.link {
            self.known_links.push_back(link);
            self.open_path(link, now);
        }
        self.hasten_fill(now);
        self.last = None;
        self.forget_links();
        self.check_invariants();
    }

    /// The agent that listens now, with its format; `None` while none is ready (audio is kept again).
    /// `continuous`: silence is made up while the client sends nothing. Poll before: audio for the agent so far that
    /// has not been polled is discarded.
    pub fn set_agent(&mut self, agent: Option<(Format, bool)>, now: Micros) {
        self.out.retain(|output| !matches!(output, UplinkOutput::Audio(_)));
        self.fill_at = None;
        if let Some(path) = &mut self.path {
            path.chain = None;
        }
        if let Some(mut hold) = self.hold.take() {
            while let Some(waiting) = hold.backlog.pop() {
                let dropped = self.preroll.push(waiting);
                self.measure_dropped(Queue::Preroll, dropped);
            }
        }
        self.line = agent.map(|(format, continuous)| AgentLine::new(format, continuous, self.policy.uplink_max, now));
        if self.line.is_some() {
            self.pair();
            self.drain_order(now);
            self.send_preroll(now);
            if let Some(link) = self.link {
                self.open_path(link, now);
            }
            self.anchor(now);
            self.await_audio(now);
        }
        self.forget_links();
        self.check_invariants();
    }

    /// A frame arrived.
    pub fn on_audio(&mut self, audio: AudioIn, now: Micros) {
        let Some(link) = self.link else { return };
        let Some(waiting) = self.examine(audio, link) else { return };
        if self.line.is_none() {
            let dropped = self.preroll.push(waiting);
            self.measure_dropped(Queue::Preroll, dropped);
        } else if self.hold.is_some() || self.is_after_long_stall(now) {
            self.hold_back(waiting, now);
        } else {
            self.accept(waiting, now);
        }
        self.report_skew(now);
        self.check_invariants();
    }

    /// The microphone was switched.
    pub fn on_mic(&mut self, on: bool, now: Micros) {
        self.mic = on;
        if !on {
            self.hasten_fill(now);
        }
        self.check_invariants();
    }

    /// A deadline has passed.
    pub fn on_deadline(&mut self, now: Micros) {
        if let Some(change) = self.speech.on_deadline(now) {
            self.push_speech(change);
        }
        self.drain_order(now);
        if self.hold.as_ref().is_some_and(|hold| hold.window_ends <= now) {
            self.judge_hold(now);
        }
        if let Some(at) = self.fill_at {
            self.fill_at = Some(at.max(now.before(MAX_TARDINESS)));
        }
        while let Some(at) = self.fill_at.filter(|&at| at <= now) {
            self.fill_at = Some(at + FRAME);
            self.fill(at);
        }
        self.report_skew(now);
        self.check_invariants();
    }

    /// When to call [`Uplink::on_deadline`].
    pub fn deadline(&self) -> Option<Micros> {
        let path = self.path.as_ref().filter(|_| self.line.is_some());
        let order = path.and_then(|path| path.order.as_ref()).and_then(Order::deadline);
        let hold = self.hold.as_ref().map(|hold| hold.window_ends);
        [order, hold, self.fill_at, self.speech.deadline()].into_iter().flatten().min()
    }

    /// The next output.
    pub fn poll(&mut self) -> Option<UplinkOutput> {
        self.out.pop_front()
    }

    /// Totals so far: packets lost, time concealed, time filled with silence.
    pub fn totals(&self) -> (u64, Duration, Duration) {
        (self.lost, self.concealed, self.filled)
    }

    /// The last voiced moment of the caller.
    pub fn last_voiced(&self) -> Option<Micros> {
        self.speech.last_voiced()
    }

    /// Whether frames pass through untouched, once agent and link are known.
    pub fn passes(&self) -> Option<bool> {
        self.path.as_ref()?.chain.as_ref().map(|chain| matches!(chain, Chain::Pass(_)))
    }

    /// The caller's own silence that was left out so far, to repay surplus.
    pub fn shortened(&self) -> Duration {
        self.shortened
    }

    /// Whether voice is looked for in the caller's audio ([`UplinkOutput::Voice`]).
    pub fn detect_voice(&mut self, on: bool) {
        if on != self.voice.is_some() {
            self.voice = on.then(Box::default);
        }
        self.give_samples();
    }

    fn give_samples(&mut self) {
        let chain = self.path.as_mut().and_then(|path| path.chain.as_mut());
        if let Some(chain) = chain.filter(|_| self.voice.is_some()) {
            chain.give_samples();
        }
    }

    /// Encoder complexity towards an Opus agent, 0 to 10 (load governor).
    pub fn set_complexity(&mut self, complexity: u8) {
        self.complexity = Some(complexity);
        if let Some(chain) = self.path.as_mut().and_then(|path| path.chain.as_mut()) {
            chain.set_complexity(complexity);
        }
    }

    // ------------------------------------------------------------------------------- changes of link and agent

    /// Makes `link` the one that audio is taken from.
    fn open_path(&mut self, link: LinkSide, now: Micros) {
        if self.path.as_ref().is_none_or(|path| path.link.number != link.number) {
            self.close_path(now);
            let order = (link.carriage == Carriage::Rtp)
                .then(|| Order::new(self.policy.gap, self.policy.gap_wait, link.format.clock()));
            self.path = Some(Path { link, order, counted: OrderCounters::default(), chain: None });
        }
        self.pair();
    }

    /// Pairs link and agent, if both are there.
    fn pair(&mut self) {
        let (Some(path), Some(line)) = (&mut self.path, &self.line) else { return };
        if path.chain.is_some() {
            return;
        }
        match Chain::new(path.link.format, line.format(), &self.policy.opus) {
            Ok(mut chain) => {
                if let Some(complexity) = self.complexity {
                    chain.set_complexity(complexity);
                }
                let measure = Measure::CodecDelay { direction: Direction::Up, delay: chain.delay() };
                self.out.push_back(UplinkOutput::Measure(measure));
                path.chain = Some(chain);
                self.give_samples();
            }
            Err(error) => self.out.push_back(UplinkOutput::BadAudio(error.to_string())),
        }
    }

    /// Sends on what waits for other audio that will not come.
    fn close_path(&mut self, now: Micros) {
        if let Some(order) = self.path.as_mut().and_then(|path| path.order.as_mut()) {
            order.flush(now);
        }
        self.drain_order(now);
        if let Some((chain, line, out)) = self.parts() {
            let filled = chain.finish(now, line, out);
            self.count_filled(filled);
        }
        self.path = None;
    }

    /// Everything kept goes to the agent in one burst, put in order as if it came now as it came then.
    fn send_preroll(&mut self, now: Micros) {
        let last = self.last;
        while let Some(waiting) = self.preroll.pop() {
            let Some(&link) = self.known_links.iter().find(|link| link.number == waiting.link) else { continue };
            self.open_path(link, now);
            let arrival = waiting.audio.arrival;
            self.accept(waiting, arrival);
        }
        if self.path.as_ref().is_some_and(|path| self.link.is_none_or(|link| link.number != path.link.number)) {
            self.close_path(now);
            self.last = last;
        }
        self.drain_order(now);
    }

    /// Agent time begins: what was sent so far is where it should be.
    fn anchor(&mut self, now: Micros) {
        let live = self.last.map(|(at, _, _)| at).filter(|&at| now - at < self.policy.stall);
        if let Some(line) = &mut self.line {
            line.anchor_at(live.unwrap_or(now));
        }
    }

    /// Links without audio in the preroll need no longer be known.
    fn forget_links(&mut self) {
        let present = self.link.map(|link| link.number);
        if self.preroll.is_empty() {
            self.known_links.retain(|link| Some(link.number) == present);
        }
        while self.known_links.len() > 8 {
            self.known_links.pop_front();
        }
    }

    // ------------------------------------------------------------------------------------------------ figures

    fn measure(&mut self, measure: Measure) {
        self.out.push_back(UplinkOutput::Measure(measure));
    }

    fn measure_dropped(&mut self, queue: Queue, audio: Duration) {
        if !audio.is_zero() {
            self.measure(Measure::Dropped { queue, audio });
        }
    }

    fn count_filled(&mut self, filled: Duration) {
        if !filled.is_zero() {
            self.filled += filled;
            self.measure(Measure::Filled(filled));
        }
    }

    fn push_speech(&mut self, change: SpeechChange) {
        self.out.push_back(UplinkOutput::Speech(change.event, change.at));
    }

    /// Reports what order has counted since the last time.
    fn count_order(&mut self) {
        let Some(path) = &mut self.path else { return };
        let Some(now) = path.order.as_ref().map(Order::counters) else { return };
        let before = std::mem::replace(&mut path.counted, now);
        let lost = now.given_up - before.given_up;
        let late = now.late - before.late;
        self.lost = (self.lost + lost).saturating_sub(late);
        if lost > 0 {
            let recovered = (now.recovered - before.recovered) as u32;
            self.measure(Measure::UplinkLoss { lost: u32::try_from(lost).unwrap_or(u32::MAX), recovered });
        }
        if late > 0 {
            self.measure(Measure::UplinkLate(u32::try_from(late).unwrap_or(u32::MAX)));
        }
    }

    fn report_skew(&mut self, now: Micros) {
        let Some(line) = self.line.as_ref().filter(|line| line.is_continuous()) else { return };
        let skew = line.ahead(now).max(0);
        let (before, at) = self.reported_skew;
        if (skew - before).abs() >= SKEW_STEP || (skew != before && now - at >= SKEW_EVERY) {
            self.reported_skew = (skew, now);
            self.measure(Measure::UplinkSkew(Duration::from_micros(skew as u64)));
        }
    }

    /// Panics in debug builds if the state contradicts itself.
    fn check_invariants(&self) {
        if cfg!(not(debug_assertions)) {
            return;
        }
        let continuous = self.line.as_ref().is_some_and(AgentLine::is_continuous);
        debug_assert_eq!(self.fill_at.is_some(), continuous, "time runs on for agents that want it, and only for them");
        debug_assert!(self.line.is_none() || self.preroll.is_empty(), "nothing waits for an agent that is ready");
        debug_assert!(self.hold.is_none() || self.line.is_some(), "a backlog is held only for an agent");
        if let (Some(path), Some(link)) = (&self.path, &self.link) {
            debug_assert_eq!(path.link.number, link.number, "audio comes over the present link");
        }
        if let Some(chain) = self.path.as_ref().and_then(|path| path.chain.as_ref()) {
            debug_assert!(self.line.is_some(), "nothing is coded for nobody");
            chain.check_invariants();
        }
        if let Some(line) = &self.line {
            line.check_invariants();
        }
    }
}
