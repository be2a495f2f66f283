//! `clip`: plays an audio file once: a greeting, an apology, a notice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{Agent, AgentOutput, Capabilities};
use crate::media::announcement::Announcement;
use crate::media::format::Format;
use crate::message::{AgentAudio, AgentEnd, AgentPlayout, FromAgent, Ready, ToAgent};
use crate::time::Micros;

/// From the end of the clip, as far as is known, to the hang-up.
const LINGER: Duration = Duration::from_millis(300);

/// Plays an announcement once, all of it at once (the playout paces it), and hangs up when it was heard.
#[derive(Debug)]
pub struct ClipAgent {
    plays: Arc<Announcement>,
    events: VecDeque<FromAgent>,
    /// When the clip ends at the caller's ear, as far as is known.
    ends: Option<Micros>,
    over: bool,
}

impl ClipAgent {
    /// An agent that plays this.
    pub fn new(plays: Arc<Announcement>) -> ClipAgent {
        ClipAgent { plays, events: VecDeque::new(), ends: None, over: false }
    }

    fn play(&mut self, now: Micros) {
        self.events.push_back(FromAgent::TurnStarted(None));
        for payload in self.plays.runs().iter().cloned() {
            self.events.push_back(FromAgent::Audio(AgentAudio { arrival: now, item: None, rtp: None, payload }));
        }
        self.events.push_back(FromAgent::TurnEnded);
        self.ends = Some(now + self.plays.length());
    }

    fn on_playout(&mut self, playout: AgentPlayout, now: Micros) {
        if self.ends.is_some() {
            self.ends = Some(now + self.plays.length().saturating_sub(playout.played));
        }
    }

    fn stop(&mut self, now: Micros) {
        self.events.retain(|event| !matches!(event, FromAgent::Audio(_)));
        if self.ends.is_some() {
            self.ends = Some(now);
        }
    }

    fn hangup_at(&self) -> Option<Micros> {
        self.ends.filter(|_| !self.over).map(|ends| ends + LINGER)
    }
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
                self.events.push_back(FromAgent::Ready(Ready { uplink, downlink: self.plays.format(), delay: None }));
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
    use crate::media::clip::Clip;
    use crate::message::AgentStart;

    fn played(agent: &mut ClipAgent, now: Micros) -> Vec<FromAgent> {
        std::iter::from_fn(|| match agent.poll(now) {
            AgentOutput::Event(event) => Some(event),
            _ => None,
        })
        .collect()
    }

    fn start() -> ToAgent {
        ToAgent::Start(AgentStart::example())
    }

    fn clip(length: Duration) -> ClipAgent {
        let samples = vec![7; (length.as_millis() * 16) as usize];
        ClipAgent::new(Arc::new(Announcement::parse(&Clip { rate: 16_000, samples }.to_wav()).expect("a WAV file")))
    }

    #[test]
    fn the_file_is_played_in_its_own_format_then_hung_up_after() {
        let mut agent = clip(Duration::from_millis(250));
        agent.handle_session(start(), Micros::ZERO);
        let events = played(&mut agent, Micros::ZERO);
        assert!(matches!(&events[0], FromAgent::Ready(ready) if ready.downlink == Format::pcm16(16_000)));
        assert!(matches!(events.last(), Some(FromAgent::TurnEnded)));
        let bytes = |event: &FromAgent| if let FromAgent::Audio(audio) = event { audio.payload.len() } else { 0 };
        assert_eq!(events.iter().map(bytes).sum::<usize>(), 8000);
        assert!(played(&mut agent, Micros::from_millis(549)).is_empty(), "it is still being heard");
        assert!(matches!(
            played(&mut agent, Micros::from_millis(550))[..],
            [FromAgent::Ended(AgentEnd { failure: None })]
        ));
        assert!(played(&mut agent, Micros::from_millis(9000)).is_empty());
    }

    #[test]
    fn a_late_speaker_puts_the_hang_up_off() {
        let mut agent = clip(Duration::from_secs(1));
        agent.handle_session(start(), Micros::ZERO);
        played(&mut agent, Micros::ZERO);
        let played_so_far = Duration::from_millis(200);
        let playout = AgentPlayout { played: played_so_far, buffered: Duration::from_millis(800), flush: None };
        agent.handle_session(ToAgent::Playout(playout), Micros::from_millis(900));
        assert!(played(&mut agent, Micros::from_millis(1999)).is_empty());
        assert_eq!(played(&mut agent, Micros::from_millis(2000)).len(), 1);
    }
}
