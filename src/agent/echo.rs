//! `echo`: speaks back what it hears, sample for sample, a fixed time later.

use std::collections::VecDeque;
use std::time::Duration;

use crate::agent::{Agent, AgentOutput, Capabilities};
use crate::media::format::Format;
use crate::media::transcode::same_wire;
use crate::message::{AgentAudio, AgentAudioOut, AgentStart, FromAgent, Ready, Role, RtpMeta, TextMessage, ToAgent};
use crate::time::Micros;

/// How late it speaks back where nothing else is configured.
pub const DEFAULT_DELAY: Duration = Duration::from_secs(1);
/// The longest delay.
pub const MAX_DELAY: Duration = Duration::from_secs(2);
/// Audio kept beyond the delay: what a client that stalled may send at once (`audio.uplink_max_ms`).
const SLACK: Duration = Duration::from_secs(5);
/// Spoken where the client's two formats differ.
const FALLBACK: Format = Format::pcm16(24_000);

/// Speaks back what it hears.
///
/// It adopts the client's format, so that frames pass through the relay and back bit-exact. Each frame goes out
/// `delay` after it came in; order is kept; a gap in the positions stays a gap in sequence numbers and timestamps.
/// At most `delay` + 5 s of audio is kept; beyond it the oldest is dropped and counted ([`Echo::dropped`]).
#[derive(Debug)]
pub struct Echo {
    delay: Duration,
    format: Format,
    events: VecDeque<FromAgent>,
    kept: VecDeque<(Micros, AgentAudioOut)>,
    kept_ticks: u64,
    dropped_ticks: u64,
    next_pos: Option<u64>,
    seq: u64,
}

impl Echo {
    /// An echo that is `delay` late, at most [`MAX_DELAY`].
    pub fn new(delay: Duration) -> Echo {
        Echo {
            delay: delay.min(MAX_DELAY),
            format: FALLBACK,
            events: VecDeque::new(),
            kept: VecDeque::new(),
            kept_ticks: 0,
            dropped_ticks: 0,
            next_pos: None,
            seq: 0,
        }
    }

    /// Audio dropped because more came at once than is kept.
    pub fn dropped(&self) -> Duration {
        self.format.ticks_to_time(self.dropped_ticks)
    }

    fn on_start(&mut self, start: &AgentStart) {
        self.format = match start.client {
            Some(client) if same_wire(&client.uplink, &client.downlink) => client.downlink,
            _ => FALLBACK,
        };
        let ready = Ready { uplink: self.format, downlink: self.format, delay: Some(self.delay) };
        self.events.push_back(FromAgent::Ready(ready));
        let not_applied = start.setup.set_fields();
        if !not_applied.is_empty() {
            self.events.push_back(FromAgent::NotApplied(not_applied));
        }
    }

    fn keep(&mut self, frame: AgentAudioOut, now: Micros) {
        self.kept_ticks += u64::from(frame.ticks);
        self.kept.push_back((now + self.delay, frame));
        let most = self.format.time_to_ticks(self.delay + SLACK);
        while self.kept_ticks > most {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.kept_ticks -= u64::from(oldest.ticks);
            self.dropped_ticks += u64::from(oldest.ticks);
        }
    }

    fn speak(&mut self, frame: AgentAudioOut, now: Micros) -> FromAgent {
        self.kept_ticks -= u64::from(frame.ticks);
        let gap = self.next_pos.map_or(0, |next| frame.pos.saturating_sub(next));
        let marker = self.next_pos.is_none() || gap > 0;
        self.seq += gap.div_ceil(u64::from(frame.ticks.max(1)));
        let rtp = RtpMeta { seq: self.seq, timestamp: frame.pos as u32, marker, level: None };
        self.seq += 1;
        self.next_pos = Some(frame.pos + u64::from(frame.ticks));
        FromAgent::Audio(AgentAudio { arrival: now, item: None, rtp: Some(rtp), payload: frame.payload })
    }
}

impl Agent for Echo {
    fn capabilities(&self) -> Capabilities {
        Capabilities { endless: true, text: true, ..Capabilities::default() }
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, now: Micros) {
        match message {
            ToAgent::Start(start) => self.on_start(&start),
            ToAgent::Audio(frame) => self.keep(frame, now),
            ToAgent::Message(TextMessage { id, text, .. }) => {
                self.events.push_back(FromAgent::Message(TextMessage { id, text, role: Some(Role::Agent) }));
            }
            ToAgent::App(app) => self.events.push_back(FromAgent::App(app)),
            ToAgent::End => self.kept.clear(),
            _ => {}
        }
    }

    fn handle_deadline(&mut self, _now: Micros) {}

    fn poll(&mut self, now: Micros) -> AgentOutput {
        if let Some(event) = self.events.pop_front() {
            return AgentOutput::Event(event);
        }
        match self.kept.front() {
            Some(&(due, _)) if due > now => AgentOutput::Idle { deadline: Some(due) },
            None => AgentOutput::Idle { deadline: None },
            Some(_) => match self.kept.pop_front() {
                Some((_, frame)) => AgentOutput::Event(self.speak(frame, now)),
                None => AgentOutput::Idle { deadline: None },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::AudioFormats;
    use bytes::Bytes;

    fn start(uplink: Format, downlink: Format) -> ToAgent {
        ToAgent::Start(AgentStart {
            client: Some(AudioFormats { uplink, downlink, flow: None }),
            ..AgentStart::example()
        })
    }

    fn frame(pos: u64, byte: u8) -> ToAgent {
        let payload = Bytes::from(vec![byte; 3]);
        ToAgent::Audio(AgentAudioOut { pos, ticks: 960, ready: Micros(0), filled: false, payload })
    }

    fn ready(echo: &mut Echo) -> Ready {
        match echo.poll(Micros(0)) {
            AgentOutput::Event(FromAgent::Ready(ready)) => ready,
            other => panic!("{other:?}"),
        }
    }

    fn heard(echo: &mut Echo, now: Micros) -> Vec<AgentAudio> {
        std::iter::from_fn(|| match echo.poll(now) {
            AgentOutput::Event(FromAgent::Audio(audio)) => Some(audio),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn each_frame_comes_back_untouched_its_delay_later() {
        let mut echo = Echo::new(Duration::from_millis(500));
        echo.handle_session(start(Format::OPUS, Format::OPUS), Micros(0));
        assert_eq!(ready(&mut echo).delay, Some(Duration::from_millis(500)));
        for n in 0..3u8 {
            echo.handle_session(frame(u64::from(n) * 960, n), Micros::from_millis(u64::from(n) * 20));
        }
        assert!(heard(&mut echo, Micros::from_millis(499)).is_empty());
        match echo.poll(Micros::from_millis(499)) {
            AgentOutput::Idle { deadline } => assert_eq!(deadline, Some(Micros::from_millis(500))),
            other => panic!("{other:?}"),
        }
        let frames = heard(&mut echo, Micros::from_millis(520));
        assert_eq!(frames.iter().map(|f| f.payload[0]).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(frames[1].arrival, Micros::from_millis(520));
    }

    #[test]
    fn the_clients_own_format_is_adopted_unless_its_directions_differ() {
        for (up, down, spoken) in [
            (Format::PCMU, Format::PCMU, Format::PCMU),
            (Format { rate: 16_000, ..Format::OPUS }, Format::OPUS, Format::OPUS),
            (Format::pcm16(16_000), Format::OPUS, FALLBACK),
        ] {
            let mut echo = Echo::new(DEFAULT_DELAY);
            echo.handle_session(start(up, down), Micros(0));
            let ready = ready(&mut echo);
            assert_eq!((ready.uplink, ready.downlink), (spoken, spoken));
        }
    }

    #[test]
    fn a_gap_stays_a_gap() {
        let mut echo = Echo::new(Duration::ZERO);
        echo.handle_session(start(Format::OPUS, Format::OPUS), Micros(0));
        ready(&mut echo);
        for pos in [0, 960, 3 * 960] {
            echo.handle_session(frame(pos, 1), Micros(0));
        }
        let rtp: Vec<_> = heard(&mut echo, Micros(0)).into_iter().filter_map(|f| f.rtp).collect();
        assert_eq!(rtp.iter().map(|r| (r.seq, r.timestamp)).collect::<Vec<_>>(), [(0, 0), (1, 960), (3, 2880)]);
        assert!(rtp[2].marker && !rtp[1].marker);
    }

    #[test]
    fn a_flood_drops_the_oldest_and_counts_it() {
        let mut echo = Echo::new(Duration::ZERO);
        echo.handle_session(start(Format::OPUS, Format::OPUS), Micros(0));
        ready(&mut echo);
        for n in 0..300 {
            echo.handle_session(frame(n * 960, n as u8), Micros(0));
        }
        assert_eq!(echo.dropped(), Duration::from_secs(1));
        let frames = heard(&mut echo, Micros(0));
        assert_eq!((frames.len(), frames[0].payload[0]), (250, 50));
    }
}
