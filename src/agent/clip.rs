//! `clip`: plays an audio file once: a greeting, an apology, a notice.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::agent::{Agent, AgentOutput, Capabilities};
use crate::media::clip::{Clip, OggOpus};
use crate::media::format::Format;
use crate::media::transcode::{MediaError, payload_ticks};
use crate::message::{AgentAudio, AgentEnd, AgentPlayout, FromAgent, Ready, ToAgent};
use crate::time::Micros;

/// Played where the configuration names no file (`assets/README.md`).
pub const APOLOGY: &[u8] = include_bytes!("../../assets/apology.ogg");
/// A rate that every codec of a client has or converts well.
const COMMON_RATE: u32 = 24_000;
/// Length of one run of PCM.
const RUN: Duration = Duration::from_millis(100);
/// From the end of the clip, as far as is known, to the hang-up.
const LINGER: Duration = Duration::from_millis(300);

/// What follows the clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterClip {
    /// The agent hangs up once the clip was played.
    Hangup,
    /// The agent waits for the caller to hang up.
    Wait,
}

/// Plays an audio file once.
///
/// Ogg Opus is handed on packet by packet, WAV as PCM16 at the file's own rate (24 kHz where that is no rate of ours),
/// all of it at once: the playout paces it.
#[derive(Debug)]
pub struct ClipAgent {
    downlink: Format,
    /// What is still to be handed on, as runs with their length.
    runs: VecDeque<(Duration, Bytes)>,
    after: AfterClip,
    events: VecDeque<FromAgent>,
    sent: Duration,
    /// When the clip ends at the caller's ear, as far as is known.
    ends: Option<Micros>,
    over: bool,
}

impl ClipAgent {
    /// An agent that plays `file`, the bytes of a WAV or Ogg Opus file.
    ///
    /// # Errors
    /// If it is neither.
    pub fn new(file: &[u8], after: AfterClip) -> Result<ClipAgent, MediaError> {
        let (downlink, runs) = if file.starts_with(b"OggS") { opus(file)? } else { pcm(file)? };
        Ok(ClipAgent { downlink, runs, after, events: VecDeque::new(), sent: Duration::ZERO, ends: None, over: false })
    }

    /// The length of the whole clip.
    pub fn duration(&self) -> Duration {
        self.sent + self.runs.iter().map(|(length, _)| *length).sum::<Duration>()
    }

    fn play(&mut self, now: Micros) {
        self.events.push_back(FromAgent::TurnStarted(None));
        for (length, payload) in self.runs.drain(..) {
            self.sent += length;
            self.events.push_back(FromAgent::Audio(AgentAudio { arrival: now, item: None, rtp: None, payload }));
        }
        self.events.push_back(FromAgent::TurnEnded);
        self.ends = Some(now + self.sent);
    }

    fn on_playout(&mut self, playout: AgentPlayout, now: Micros) {
        if self.ends.is_some() {
            self.ends = Some(now + self.sent.saturating_sub(playout.played));
        }
    }

    fn stop(&mut self, now: Micros) {
        self.events.retain(|event| !matches!(event, FromAgent::Audio(_)));
        if self.ends.is_some() {
            self.ends = Some(now);
        }
    }

    fn hangup_at(&self) -> Option<Micros> {
        let ends = self.ends.filter(|_| self.after == AfterClip::Hangup && !self.over)?;
        Some(ends + LINGER)
    }
}

fn opus(file: &[u8]) -> Result<(Format, VecDeque<(Duration, Bytes)>), MediaError> {
    let length = |packet: &Bytes| payload_ticks(&Format::OPUS, packet).unwrap_or(0);
    let packets = OggOpus::packets(file)?.into_iter();
    Ok((Format::OPUS, packets.map(|p| (Format::OPUS.ticks_to_time(length(&p).into()), p)).collect()))
}

fn pcm(file: &[u8]) -> Result<(Format, VecDeque<(Duration, Bytes)>), MediaError> {
    let clip = Clip::parse(file)?;
    let possible = Format::pcm16(clip.rate).check().is_ok();
    let clip = if possible { clip } else { clip.resampled(COMMON_RATE)? };
    let format = Format::pcm16(clip.rate);
    let bytes = Bytes::from_iter(clip.samples.iter().flat_map(|sample| sample.to_le_bytes()));
    let run = format.time_to_ticks(RUN) as usize * 2;
    let slices = (0..bytes.len()).step_by(run).map(|at| bytes.slice(at..bytes.len().min(at + run)));
    Ok((format, slices.map(|b| (format.ticks_to_time(b.len() as u64 / 2), b)).collect()))
}

impl Agent for ClipAgent {
    fn capabilities(&self) -> Capabilities {
        Capabilities { playout: true, ..Capabilities::default() }
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, now: Micros) {
        match message {
            ToAgent::Start(start) => {
                // It does not listen: the uplink format is the one that costs nothing to make.
                let uplink = start.client.map_or(Format::OPUS, |client| client.uplink);
                self.events.push_back(FromAgent::Ready(Ready { uplink, downlink: self.downlink, delay: None }));
                let not_applied = start.setup.set_fields();
                if !not_applied.is_empty() {
                    self.events.push_back(FromAgent::NotApplied(not_applied));
                }
                self.play(now);
            }
            ToAgent::Playout(playout) => self.on_playout(playout, now),
            ToAgent::Cancel(_) | ToAgent::Truncate(_) => self.stop(now),
            ToAgent::End => {
                self.events.clear();
                self.over = true;
            }
            _ => {}
        }
    }

    fn handle_deadline(&mut self, _now: Micros) {}

    fn poll(&mut self, now: Micros) -> AgentOutput {
        if let Some(event) = self.events.pop_front() {
            return AgentOutput::Event(event);
        }
        match self.hangup_at() {
            Some(at) if at <= now => {
                self.over = true;
                AgentOutput::Event(FromAgent::Ended(AgentEnd { failure: None }))
            }
            deadline => AgentOutput::Idle { deadline },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{AgentStart, Setup};

    fn played(agent: &mut ClipAgent, now: Micros) -> Vec<FromAgent> {
        std::iter::from_fn(|| match agent.poll(now) {
            AgentOutput::Event(event) => Some(event),
            _ => None,
        })
        .collect()
    }

    fn start() -> ToAgent {
        ToAgent::Start(AgentStart {
            setup: Setup::default(),
            context: Vec::new(),
            session_id: "s".into(),
            conversation_id: "c".into(),
            client_context: None,
            metadata: None,
            greet: true,
            client: None,
        })
    }

    fn wav(rate: u32, samples: usize) -> Vec<u8> {
        Clip { rate, samples: (0..samples).map(|n| n as i16).collect() }.to_wav()
    }

    fn audio(events: &[FromAgent]) -> Vec<u8> {
        let payload = |event: &FromAgent| match event {
            FromAgent::Audio(audio) => Some(audio.payload.clone()),
            _ => None,
        };
        events.iter().filter_map(payload).flatten().collect()
    }

    #[test]
    fn a_wav_file_is_played_untouched_at_its_own_rate_then_hung_up_after() {
        let mut agent = ClipAgent::new(&wav(16_000, 4000), AfterClip::Hangup).expect("a WAV file");
        agent.handle_session(start(), Micros::ZERO);
        let events = played(&mut agent, Micros::ZERO);
        assert!(matches!(&events[0], FromAgent::Ready(ready) if ready.downlink == Format::pcm16(16_000)));
        assert!(matches!(events.last(), Some(FromAgent::TurnEnded)));
        let samples: Vec<u8> = (0..4000).flat_map(|n| (n as i16).to_le_bytes()).collect();
        assert_eq!(audio(&events), samples);
        assert!(played(&mut agent, Micros::from_millis(549)).is_empty(), "it is still being heard");
        assert!(matches!(
            played(&mut agent, Micros::from_millis(550))[..],
            [FromAgent::Ended(AgentEnd { failure: None })]
        ));
        assert!(played(&mut agent, Micros::from_millis(9000)).is_empty());
    }

    #[test]
    fn a_late_speaker_puts_the_hang_up_off() {
        let mut agent = ClipAgent::new(&wav(16_000, 16_000), AfterClip::Hangup).expect("a WAV file");
        agent.handle_session(start(), Micros::ZERO);
        played(&mut agent, Micros::ZERO);
        let played_so_far = Duration::from_millis(200);
        let playout = AgentPlayout { played: played_so_far, buffered: Duration::from_millis(800), flush: None };
        agent.handle_session(ToAgent::Playout(playout), Micros::from_millis(900));
        assert!(played(&mut agent, Micros::from_millis(1999)).is_empty());
        assert_eq!(played(&mut agent, Micros::from_millis(2000)).len(), 1);
    }

    #[test]
    fn an_odd_rate_is_converted() {
        let agent = ClipAgent::new(&wav(11_025, 11_025), AfterClip::Wait).expect("a WAV file");
        assert_eq!(agent.downlink, Format::pcm16(24_000));
        assert_eq!(agent.duration(), Duration::from_secs(1));
    }

    #[test]
    fn the_apology_is_opus_and_waits_where_told_to() {
        let mut agent = ClipAgent::new(APOLOGY, AfterClip::Wait).expect("embedded");
        assert!((3..8).contains(&agent.duration().as_secs()), "{:?}", agent.duration());
        agent.handle_session(start(), Micros::ZERO);
        let events = played(&mut agent, Micros::ZERO);
        assert!(matches!(&events[0], FromAgent::Ready(ready) if ready.downlink == Format::OPUS));
        assert!(played(&mut agent, Micros::from_millis(60_000)).is_empty());
    }

    #[test]
    fn what_is_no_audio_file_is_refused() {
        assert!(ClipAgent::new(b"<html>", AfterClip::Wait).is_err());
        assert!(ClipAgent::new(b"OggS\0", AfterClip::Wait).is_err());
    }
}
