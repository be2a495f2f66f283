//! Taps of the scripted call.

use super::{World, WorldBuilder, rung};
use crate::agent::Capabilities;
use crate::ids::UpstreamId;
use crate::media::format::Format;
use crate::message::{AgentAudioOut, AgentError, FailureClass, FromAgent, Ready, ToAgent};
use crate::route::plan::PlannedTap;
use crate::route::rule::{TapSide, TapTells};
use crate::session::{UpstreamChange, UpstreamRole};
use crate::time::Micros;

/// A tap that a test puts on its call. A name that begins with `-` cannot be reached, with `?` it does not get ready by
/// itself, and with `!` it takes nothing.
#[derive(Clone, Debug)]
pub struct TapKind {
    /// Its agent's name.
    pub name: &'static str,
    /// Whom it hears.
    pub hears: TapSide,
    /// What of it reaches the client.
    pub tell: &'static [TapTells],
    /// What it wants to hear.
    pub format: Format,
}

/// What a tap was told.
#[derive(Debug, Default)]
pub struct TapLog {
    /// Its present connection.
    pub upstream: Option<UpstreamId>,
    /// When it was dialled.
    pub dialled: Vec<Micros>,
    /// What it was told, without audio.
    pub told: Vec<ToAgent>,
    /// The audio that it took, and when.
    pub audio: Vec<(Micros, AgentAudioOut)>,
}

/// The tap of the plan.
pub(super) fn planned(kind: &TapKind) -> PlannedTap {
    PlannedTap {
        rung: rung(kind.name, &WorldBuilder::default()),
        hears: kind.hears,
        tell: kind.tell.iter().copied().collect(),
    }
}

impl World {
    /// A tap is dialled.
    pub(super) fn dial_tap(&mut self, upstream: UpstreamId, index: usize) {
        self.taps[index].upstream = Some(upstream);
        self.taps[index].dialled.push(self.now);
        self.pending_dials.push_back((upstream, index, UpstreamRole::Tap));
    }

    /// Its connection is there, or cannot be.
    pub(super) fn connect_tap(&mut self, upstream: UpstreamId, index: usize) {
        let name = self.build.taps[index].name;
        if name.starts_with('-') {
            let error = AgentError { class: FailureClass::Unreachable, code: None, message: "refused".into() };
            return self.session.on_upstream(upstream, UpstreamChange::Failed(error), self.now);
        }
        self.session.on_upstream(upstream, UpstreamChange::Connected(Capabilities::default()), self.now);
        if !name.starts_with('?') {
            self.tap_is_ready(index);
        }
    }

    /// A tap is ready.
    pub fn tap_is_ready(&mut self, index: usize) {
        let format = self.build.taps[index].format;
        self.tap_says(index, FromAgent::Ready(Ready { uplink: format, downlink: format, delay: None }));
    }

    /// A tap says something now.
    pub fn tap_says(&mut self, index: usize, message: FromAgent) {
        let upstream = self.taps[index].upstream.expect("it was dialled");
        self.session.on_agent(upstream, message, self.now);
        self.drain();
    }

    /// Each tap takes what waits for it.
    pub(super) fn feed_taps(&mut self) {
        for index in 0..self.taps.len() {
            let takes = !self.build.taps[index].name.starts_with('!');
            while let Some(audio) = self.taps[index]
                .upstream
                .filter(|_| takes)
                .and_then(|upstream| self.session.next_for_tap(upstream, self.now))
            {
                self.taps[index].audio.push((self.now, audio));
            }
        }
    }
}
