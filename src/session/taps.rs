//! Taps: agents that only listen, each with a copy of what one side says.
//!
//! What is said is copied when it is there and worked on by [`Session::serve_taps`], after everything that the call
//! itself needs has been handed over. Each tap has a path of its own from the client's format to its format, and a queue
//! of its own that loses the oldest when the tap does not keep up. A tap that is lost is dialled again after a pause.

mod feed;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::agent::Capabilities;
use crate::backoff::Backoff;
use crate::ids::{ItemId, UpstreamId};
use crate::message::{
    AgentAudioOut, AgentStart, AgentTranscript, Alert, AudioFormats, AudioIn, AudioOut, FromAgent, Greeting, Ready,
    Role, ToAgent, ToClient,
};
use crate::route::pick;
use crate::route::plan::{Plan, PlannedTap};
use crate::route::rule::{TapSide, TapTells};
use crate::session::Session;
use crate::session::event::{Carriage, LinkInfo, Measure, Output, Queue, TapEvent, UpstreamChange, UpstreamRole};
use crate::session::record::{AlertEntry, TapEntry};
use crate::time::Micros;

use feed::{Feed, Heard};

/// Copies that wait to be worked on, which happens in the same turn of the driver.
const MAX_COPIES: usize = 512;
/// The usual length of a frame.
const FRAME: Duration = Duration::from_millis(20);
/// A tap that takes nothing for so long while something waits for it is given up.
const STUCK: Duration = Duration::from_secs(10);
/// The pauses before a lost tap is dialled again.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// While the node has more to do than it can, whether a tap may be dialled is asked again so often.
const SPARED: Duration = Duration::from_secs(1);
/// A tap that listened for so long is not taken for one that fails again and again.
const STABLE: Duration = Duration::from_secs(10);
/// Alerts that the record names one by one.
const MAX_ALERTS: usize = 50;
/// Longest name of an alert in the record, in bytes.
const MAX_NAME: usize = 64;

/// Something that was said, or that changed how it is said.
#[derive(Debug)]
enum Copied {
    /// The client's link, or none.
    Link(Option<LinkInfo>),
    /// The caller's microphone was switched.
    Mic(bool),
    /// The caller's audio.
    Caller(AudioIn),
    /// Audio on its way to the caller's speaker.
    Agent(AudioIn),
}

impl Copied {
    fn is_audio(&self) -> bool {
        matches!(self, Copied::Caller(_) | Copied::Agent(_))
    }
}

/// One tap.
#[derive(Debug)]
struct Tap {
    hears: TapSide,
    upstream: Option<UpstreamId>,
    /// Known once it is connected.
    capabilities: Option<Capabilities>,
    feed: Feed,
    /// When it got ready, while it is.
    ready: Option<Micros>,
    /// It should be ready by then.
    ready_by: Option<Micros>,
    /// It is dialled again then.
    retry_at: Option<Micros>,
    /// Since it was stable.
    pauses: Backoff,
    entry: TapEntry,
}

/// The taps of one session.
#[derive(Debug, Default)]
pub struct Taps {
    taps: Vec<Tap>,
    copies: VecDeque<Copied>,
    /// Frames that were not copied, because too many waited.
    lost: u32,
    /// Alerts of all taps.
    alerts: Vec<AlertEntry>,
    opened: bool,
}

impl Taps {
    /// The taps of a plan, not dialled yet.
    pub fn new(plan: &Plan, now: Micros) -> Taps {
        let tap = |planned: &PlannedTap| Tap {
            hears: planned.hears,
            upstream: None,
            capabilities: None,
            feed: Feed::new(&plan.policy, now),
            ready: None,
            ready_by: None,
            retry_at: None,
            pauses: PAUSES,
            entry: TapEntry {
                agent: planned.rung.name().to_string(),
                hears: planned.hears.label(),
                ready_ms: None,
                losses: 0,
                ended: None,
                dropped_ms: 0,
                transcripts: 0,
                alerts: 0,
                usage: BTreeMap::new(),
            },
        };
        Taps { taps: plan.taps.iter().map(tap).collect(), ..Taps::default() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.taps.is_empty()
    }

    /// The index of the tap that `upstream` is.
    fn index_of(&self, upstream: UpstreamId) -> Option<usize> {
        self.taps.iter().position(|tap| tap.upstream == Some(upstream))
    }

    fn copy(&mut self, copied: Copied) {
        if self.taps.is_empty() {
            return;
        }
        if self.copies.len() >= MAX_COPIES && copied.is_audio() {
            self.lost += 1;
            return;
        }
        self.copies.push_back(copied);
    }

    /// The client's link has changed.
    pub fn on_link(&mut self, link: Option<&LinkInfo>) {
        self.copy(Copied::Link(link.cloned()));
    }

    /// The caller's microphone was switched.
    pub fn on_mic(&mut self, on: bool) {
        self.copy(Copied::Mic(on));
    }

    /// The caller said this.
    pub fn on_caller(&mut self, audio: &AudioIn) {
        if !self.taps.is_empty() {
            self.copy(Copied::Caller(audio.clone()));
        }
    }

    /// This was handed over to the caller's speaker.
    pub fn on_agent(&mut self, audio: &AudioOut, now: Micros) {
        if self.taps.iter().any(|tap| tap.hears == TapSide::Agent) {
            self.copy(Copied::Agent(AudioIn { arrival: now, rtp: None, payload: audio.payload.clone() }));
        }
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Option<Micros> {
        let of_tap = |tap: &Tap| {
            let stuck = tap.feed.waits_since().filter(|_| tap.ready.is_some()).map(|since| since + STUCK);
            [tap.retry_at, tap.ready_by, tap.feed.deadline(), stuck]
        };
        self.taps.iter().flat_map(of_tap).flatten().min()
    }

    /// For the call record.
    pub fn entries(&self) -> Vec<TapEntry> {
        self.taps.iter().map(|tap| tap.entry.clone()).collect()
    }

    /// For the call record.
    pub fn alerts(&self) -> &[AlertEntry] {
        &self.alerts
    }
}

impl Session {
    /// Works on what was copied since the last call; to be called when what the call itself needs is done.
    pub fn serve_taps(&mut self, now: Micros) {
        if self.closed || self.taps.is_empty() {
            return;
        }
        while let Some(copied) = self.taps.copies.pop_front() {
            if copied.is_audio() && self.load.spares_optional() {
                self.skip_taps();
                continue;
            }
            for tap in &mut self.taps.taps {
                tap.take(&copied, now);
            }
        }
        let lost = std::mem::take(&mut self.taps.lost);
        if lost > 0 {
            self.outputs.push_back(Output::Measure(Measure::Dropped { queue: Queue::Tap, audio: FRAME * lost }));
        }
        for index in 0..self.taps.taps.len() {
            self.serve_tap(index, now);
        }
    }

    /// The node has more to do than it can: taps hear nothing of this frame.
    fn skip_taps(&mut self) {
        self.outputs.push_back(Output::Measure(Measure::TapsSkipped));
        for index in 0..self.taps.taps.len() {
            self.count_tap_drop(index, FRAME);
        }
    }

    fn serve_tap(&mut self, index: usize, now: Micros) {
        let due = |at: Option<Micros>| at.is_some_and(|at| at <= now);
        let tap = &mut self.taps.taps[index];
        let dropped = tap.feed.run(now);
        let stuck = tap.ready.is_some() && due(tap.feed.waits_since().map(|since| since + STUCK));
        let (late, retry) = (due(tap.ready_by), due(tap.retry_at));
        self.count_tap_drop(index, dropped);
        if stuck {
            self.lose_tap(index, "it does not take what it is sent", now);
        } else if late {
            self.lose_tap(index, "it was not ready in time", now);
        } else if retry {
            self.dial_tap(index, now);
        }
    }

    /// The next frame for a tap whose connection has room for it.
    pub fn next_for_tap(&mut self, upstream: UpstreamId, now: Micros) -> Option<AgentAudioOut> {
        let index = self.taps.index_of(upstream)?;
        self.taps.taps[index].feed.pop(now)
    }

    /// An agent is ready for the first time: the taps may come.
    pub(super) fn open_taps(&mut self, now: Micros) {
        if std::mem::replace(&mut self.taps.opened, true) {
            return;
        }
        for index in 0..self.taps.taps.len() {
            self.dial_tap(index, now);
        }
    }

    fn dial_tap(&mut self, index: usize, now: Micros) {
        if self.load.spares_optional() {
            self.taps.taps[index].retry_at = Some(now + SPARED);
            return;
        }
        let upstream = self.upstreams.take_id();
        let tap = &mut self.taps.taps[index];
        (tap.upstream, tap.capabilities, tap.retry_at) = (Some(upstream), None, None);
        tap.ready_by = Some(now + self.plan.policy.agent_ready);
        self.outputs.push_back(Output::Dial { upstream, rung: index, role: UpstreamRole::Tap });
    }

    /// The connection to a tap changed.
    pub(super) fn on_tap_change(&mut self, upstream: UpstreamId, change: UpstreamChange, now: Micros) {
        let Some(index) = self.taps.index_of(upstream) else { return };
        match change {
            UpstreamChange::Connected(capabilities) => {
                self.taps.taps[index].capabilities = Some(capabilities);
                let start = self.tap_start(index);
                self.outputs.push_back(Output::ToAgent { upstream, message: ToAgent::Start(start) });
            }
            UpstreamChange::Failed(error) => self.lose_tap(index, error.class.label(), now),
        }
    }

    fn tap_start(&self, index: usize) -> AgentStart {
        let planned = &self.plan.taps[index];
        let mut setup = planned.rung.setup.clone();
        setup.greeting = Some(Greeting::None);
        let heard = self.links.attached().map(|(_, info)| info.audio).map(|audio| match planned.hears {
            TapSide::Caller => audio.uplink,
            TapSide::Agent => audio.downlink,
        });
        AgentStart {
            setup,
            context: Vec::new(),
            session_id: self.id.clone(),
            conversation_id: self.conversation_id.clone(),
            client_context: self.context.clone(),
            metadata: self.metadata.clone(),
            greet: false,
            client: heard.map(|format| AudioFormats { uplink: format, downlink: format, flow: None }),
        }
    }

    /// A tap says something. It never answers: all but what is meant for people who watch is passed over.
    pub(super) fn handle_tap(&mut self, upstream: UpstreamId, message: FromAgent, now: Micros) {
        let Some(index) = self.taps.index_of(upstream) else { return };
        match message {
            FromAgent::Ready(ready) => self.tap_ready(index, &ready, now),
            FromAgent::Transcript(text) => self.take_tap_transcript(index, text, now),
            FromAgent::Alert(alert) => self.take_tap_alert(index, alert, now),
            FromAgent::App(app) if self.plan.taps[index].tell.contains(&TapTells::App) => {
                self.note_tap(index, TapEvent::App);
                self.say(ToClient::App(app));
            }
            FromAgent::Usage(usage) => {
                let entry = &mut self.taps.taps[index].entry;
                for (unit, amount) in usage.amounts {
                    *entry.usage.entry(unit).or_default() += amount;
                }
            }
            FromAgent::Ended(end) => {
                let why = end.failure.map_or("it hung up", |error| error.class.label());
                self.lose_tap(index, why, now);
            }
            _ => {}
        }
    }

    fn tap_ready(&mut self, index: usize, ready: &Ready, now: Micros) {
        if ready.uplink.check().is_err() {
            return self.lose_tap(index, "it wants a format that cannot be served", now);
        }
        let at = now.since(self.began).as_millis() as u64;
        let tap = &mut self.taps.taps[index];
        let continuous = tap.capabilities.is_some_and(|capabilities| capabilities.continuous);
        tap.feed.set_agent(Some((ready.uplink, continuous)), now);
        tap.ready_by = None;
        if tap.ready.replace(now).is_none() {
            tap.entry.ready_ms.get_or_insert(at);
            self.note_tap(index, TapEvent::Ready);
        }
    }

    fn take_tap_transcript(&mut self, index: usize, text: AgentTranscript, now: Micros) {
        // A tap that answers all the same says what no one hears.
        if text.role != Role::User {
            return;
        }
        let told = &self.plan.taps[index];
        let tells = told.hears == TapSide::Caller && told.tell.contains(&TapTells::Transcript);
        let name = told.rung.name().clone();
        if text.is_final {
            self.taps.taps[index].entry.transcripts += 1;
            self.note_tap(index, TapEvent::Transcript);
        }
        if tells {
            // Names of items are unique for one agent only.
            let item = text.item.as_ref().map(|item| ItemId::from(format!("{name}.{item}")));
            let line = self.transcript.on_text(AgentTranscript { item, ..text }, None, now);
            self.say(ToClient::Transcript(line));
        }
    }

    fn take_tap_alert(&mut self, index: usize, alert: Alert, now: Micros) {
        let tap = &mut self.taps.taps[index];
        tap.entry.alerts += 1;
        if self.taps.alerts.len() < MAX_ALERTS {
            let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
            self.taps.alerts.push(AlertEntry {
                from: self.taps.taps[index].entry.agent.clone(),
                at_ms: now.since(self.began).as_millis() as u64,
                name: short(&alert.name),
                severity: short(&alert.severity),
            });
        }
        self.note_tap(index, TapEvent::Alert);
        if self.plan.taps[index].tell.contains(&TapTells::Alert) {
            self.say(ToClient::Alert(alert));
        }
    }

    /// A tap is gone: it is dialled again after a while, and misses what is beyond its queue.
    fn lose_tap(&mut self, index: usize, why: &str, now: Micros) {
        let tap = &mut self.taps.taps[index];
        let Some(upstream) = tap.upstream.take() else { return };
        if tap.ready.take().is_some_and(|since| now - since >= STABLE) {
            tap.pauses.reset();
        }
        tap.entry.losses += 1;
        tap.entry.ended = Some(why.to_owned());
        tap.ready_by = None;
        tap.feed.set_agent(None, now);
        let chance = pick::point(self.id.as_str(), "tap", &format!("{index}.{}", tap.entry.losses));
        tap.retry_at = Some(now + tap.pauses.next(chance));
        self.outputs.push_back(Output::Hangup { upstream, failed: true });
        self.note_tap(index, TapEvent::Lost);
    }

    fn note_tap(&mut self, tap: usize, event: TapEvent) {
        self.outputs.push_back(Output::Measure(Measure::Tap { tap, event }));
    }

    fn count_tap_drop(&mut self, index: usize, audio: Duration) {
        if !audio.is_zero() {
            self.taps.taps[index].entry.dropped_ms += audio.as_millis() as u64;
            self.outputs.push_back(Output::Measure(Measure::Dropped { queue: Queue::Tap, audio }));
        }
    }

    /// The session ends: nobody listens any more.
    pub(super) fn close_taps(&mut self) {
        for tap in &mut self.taps.taps {
            let Some(upstream) = tap.upstream.take() else { continue };
            if tap.capabilities.is_some() {
                self.outputs.push_back(Output::ToAgent { upstream, message: ToAgent::End });
            }
            self.outputs.push_back(Output::Hangup { upstream, failed: false });
        }
    }
}

impl Tap {
    fn take(&mut self, copied: &Copied, now: Micros) {
        let heard = match (copied, self.hears) {
            (Copied::Link(link), TapSide::Caller) => {
                Heard::Link(link.as_ref().map(|info| (info.audio.uplink, info.carriage)))
            }
            (Copied::Link(link), TapSide::Agent) => {
                // What is handed over is in order, however it travels then.
                Heard::Link(link.as_ref().map(|info| (info.audio.downlink, Carriage::Ordered)))
            }
            (Copied::Mic(on), TapSide::Caller) => Heard::Mic(*on),
            (Copied::Caller(audio), TapSide::Caller) | (Copied::Agent(audio), TapSide::Agent) => {
                Heard::Audio(audio.clone())
            }
            _ => return,
        };
        self.feed.hear(heard, now);
    }
}
