//! Scenarios in virtual time.

use bytes::Bytes;

use super::*;
use crate::message::{AgentAudioOut, Basis, Setup};

/// A storyteller, its clock, and everything that it has said with the time of it.
struct Scene {
    agent: Storyteller,
    now: Micros,
    said: Vec<(Micros, FromAgent)>,
}

impl Scene {
    fn new(greeting: Option<Greeting>) -> Scene {
        let mut agent = Storyteller::new(7);
        agent.handle_open(Micros::ZERO);
        agent.handle_session(
            ToAgent::Start(AgentStart { setup: Setup { greeting, ..Setup::default() }, ..AgentStart::example() }),
            Micros::ZERO,
        );
        let mut scene = Scene { agent, now: Micros::ZERO, said: Vec::new() };
        scene.run_until(Micros::ZERO);
        scene
    }

    fn run_until(&mut self, end: Micros) {
        loop {
            match self.agent.poll(self.now) {
                AgentOutput::Event(event) => self.said.push((self.now, event)),
                AgentOutput::Idle { deadline: Some(at) } if at <= end => {
                    self.now = self.now.max(at);
                    self.agent.handle_deadline(self.now);
                }
                AgentOutput::Idle { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        self.now = end;
    }

    /// The caller makes a sound of this amplitude, in frames of 20 ms.
    fn hear(&mut self, ms: u64, amplitude: i16) {
        for _ in 0..ms / 20 {
            let samples = (0..320).flat_map(|n| if n % 8 < 4 { amplitude } else { -amplitude }.to_le_bytes());
            let payload = Bytes::from_iter(samples);
            let frame = AgentAudioOut { pos: 0, ticks: 320, ready: self.now, filled: false, payload };
            self.agent.handle_session(ToAgent::Audio(frame), self.now);
            self.run_until(self.now + Duration::from_millis(20));
        }
    }

    fn items(&self) -> Vec<(Micros, ItemId)> {
        let turn = |(at, event): &(Micros, FromAgent)| match event {
            FromAgent::TurnStarted(Some(item)) => Some((*at, item.clone())),
            _ => None,
        };
        self.said.iter().filter_map(turn).collect()
    }

    fn texts(&self) -> Vec<&str> {
        let text = |(_, event): &'_ (Micros, FromAgent)| match event {
            FromAgent::Transcript(transcript) => {
                Storyteller::sentences().map(|(text, _)| text).find(|text| *text == transcript.text)
            }
            _ => None,
        };
        self.said.iter().filter_map(text).collect()
    }

    fn count(&self, wanted: fn(&FromAgent) -> bool) -> usize {
        self.said.iter().filter(|(_, event)| wanted(event)).count()
    }
}

#[test]
fn it_begins_by_itself_and_sends_a_whole_sentence_at_once() {
    let scene = Scene::new(None);
    let packets = scene.count(|event| matches!(event, FromAgent::Audio(_)));
    assert_eq!(packets, STORY[0].packets.len());
    assert!(matches!(scene.said[0].1, FromAgent::Ready(_)));
    assert!(matches!(scene.said.last(), Some((_, FromAgent::TurnEnded))));
    assert_eq!(scene.count(|event| matches!(event, FromAgent::Words(_))), 1);
}

#[test]
fn the_next_sentence_waits_until_the_last_one_was_played() {
    let mut scene = Scene::new(None);
    scene.run_until(Micros::from_millis(60_000));
    let items = scene.items();
    let first = STORY[0].duration();
    assert_eq!(items[1].0, Micros::ZERO + first + PAUSE);

    let mut held = Scene::new(None);
    held.run_until(Micros::from_millis(5000));
    let playout =
        AgentPlayout { played: Duration::from_secs(1), buffered: first - Duration::from_secs(1), flush: None };
    held.agent.handle_session(ToAgent::Playout(playout), held.now);
    held.run_until(Micros::from_millis(20_000));
    assert_eq!(held.items()[1].0, Micros::from_millis(4000) + first + PAUSE);
}

#[test]
fn speech_interrupts_and_the_next_sentence_follows_it() {
    let mut scene = Scene::new(None);
    scene.hear(1000, 0);
    scene.hear(1500, 4000);
    assert_eq!(scene.count(|event| matches!(event, FromAgent::Interrupted)), 1);
    let truncate = Truncate {
        turn: crate::ids::TurnId(1),
        item: Some(scene.items()[0].1.clone()),
        heard: Duration::from_millis(1100),
        of: STORY[0].duration(),
        basis: Basis::Reported,
        error: Duration::ZERO,
    };
    scene.agent.handle_session(ToAgent::Truncate(truncate.clone()), scene.now);
    assert_eq!(scene.agent.last_truncate(), Some(&truncate));
    assert_eq!(scene.items().len(), 1, "silent while the caller speaks");
    scene.hear(1500, 0);
    let items = scene.items();
    assert_eq!(items[1].0, Micros::from_millis(2500 + 600 - 20) + ANSWER);
    assert_eq!(scene.texts()[..2], Storyteller::sentences().map(|(text, _)| text).take(2).collect::<Vec<_>>());
    let speech = scene.said.iter().filter_map(|(_, event)| match event {
        FromAgent::Speech(event) => Some(*event),
        _ => None,
    });
    assert_eq!(speech.collect::<Vec<_>>(), [SpeechEvent::Started, SpeechEvent::Stopped]);
}

#[test]
fn audio_not_yet_sent_is_never_sent_after_an_interruption() {
    let mut agent = Scene::new(Some(Greeting::None)).agent;
    agent.tell(Micros::ZERO);
    for _ in 0..10 {
        agent.poll(Micros::ZERO);
    }
    agent.on_speech(SpeechEvent::Started, Micros::ZERO);
    let mut left = Vec::new();
    while let AgentOutput::Event(event) = agent.poll(Micros::ZERO) {
        left.push(event);
    }
    assert!(matches!(left[..], [FromAgent::Interrupted, FromAgent::Speech(SpeechEvent::Started)]), "{left:?}");
}

#[test]
fn a_clients_interrupt_is_followed_by_the_next_sentence_after_a_pause() {
    let mut scene = Scene::new(None);
    scene.run_until(Micros::from_millis(1000));
    scene.agent.handle_session(ToAgent::Cancel(crate::ids::TurnId(1)), scene.now);
    scene.run_until(Micros::from_millis(3000));
    assert_eq!(scene.items()[1].0, Micros::from_millis(1000) + STOPPED);
}

#[test]
fn the_story_is_told_once_and_again_when_the_caller_speaks() {
    let mut scene = Scene::new(None);
    scene.run_until(Micros::from_millis(300_000));
    assert_eq!(scene.items().len(), STORY.len());
    scene.hear(500, 4000);
    scene.hear(1200, 0);
    assert_eq!(scene.count(|event| matches!(event, FromAgent::Interrupted)), 0, "nothing was being said");
    assert_eq!(scene.items().len(), STORY.len() + 1);
    assert_eq!(scene.texts().last(), Storyteller::sentences().map(|(text, _)| text).next().as_ref());
}

#[test]
fn it_waits_for_the_caller_where_there_is_no_greeting() {
    let mut scene = Scene::new(Some(Greeting::None));
    scene.run_until(Micros::from_millis(10_000));
    assert!(scene.items().is_empty());
    scene.hear(500, 4000);
    scene.hear(1200, 0);
    assert_eq!(scene.items().len(), 1);
}

#[test]
fn a_text_message_is_answered_and_the_story_goes_on() {
    let mut scene = Scene::new(None);
    let message = TextMessage { id: "m1".into(), text: "hello".into(), role: None };
    scene.agent.handle_session(ToAgent::Message(message), scene.now);
    scene.run_until(Micros::from_millis(8000));
    assert_eq!(scene.count(|event| matches!(event, FromAgent::Message(_))), 1);
    assert_eq!(scene.items().len(), 2);
}
