//! Client to agent: order, decode, keep agent time continuous, encode.

use std::time::Duration;

use crate::media::format::Format;
use crate::message::{AgentAudioOut, AudioIn, SpeechEvent};
use crate::route::plan::Policy;
use crate::session::{Carriage, Measure};
use crate::time::Micros;

/// What the uplink gives.
#[derive(Debug)]
pub enum UplinkOutput {
    /// A frame for the agent.
    Audio(AgentAudioOut),
    /// The caller began or stopped speaking, by the relay's own finding, at this instant.
    Speech(SpeechEvent, Micros),
    /// A figure.
    Measure(Measure),
    /// A frame that cannot be decoded; the reason for the client.
    BadAudio(String),
}

/// Client audio on its way to the agent.
#[derive(Debug)]
pub struct Uplink {}

#[allow(unused_variables, clippy::todo, reason = "being written")]
impl Uplink {
    /// An uplink whose agent is not ready yet: audio is kept (`preroll`).
    pub fn new(policy: &Policy, now: Micros) -> Uplink {
        todo!()
    }
    /// The link that holds the microphone now, with its format and carriage; `None` while detached (silence follows).
    pub fn set_link(&mut self, link: Option<(Format, Carriage)>, now: Micros) {
        todo!()
    }
    /// The agent that listens now, with its format; `None` while none is ready (audio is kept again).
    /// `continuous`: silence is made up while the client sends nothing.
    pub fn set_agent(&mut self, agent: Option<(Format, bool)>, now: Micros) {
        todo!()
    }
    /// A frame arrived.
    pub fn on_audio(&mut self, audio: AudioIn, now: Micros) {
        todo!()
    }
    /// The microphone was switched.
    pub fn on_mic(&mut self, on: bool, now: Micros) {
        todo!()
    }
    /// A deadline has passed.
    pub fn on_deadline(&mut self, now: Micros) {
        todo!()
    }
    /// When to call [`Uplink::on_deadline`].
    pub fn deadline(&self) -> Option<Micros> {
        todo!()
    }
    /// The next output.
    pub fn poll(&mut self) -> Option<UplinkOutput> {
        todo!()
    }
    /// The last voiced moment of the caller.
    pub fn last_voiced(&self) -> Option<Micros> {
        todo!()
    }
    /// Whether frames pass through untouched, once agent and link are known.
    pub fn passes(&self) -> Option<bool> {
        todo!()
    }
    /// Totals so far: packets lost, time concealed, time filled with silence.
    pub fn totals(&self) -> (u64, Duration, Duration) {
        todo!()
    }
}
