//! Taps: copies for those who only listen, which the call never notices.

use super::*;
use crate::media::format::Format;
use crate::message::{
    AgentEnd, AgentTranscript, Alert, App, CloseReason, FromClient, Role, TextMessage, ToAgent, ToolCall,
};
use crate::route::rule::{TapSide, TapTells};
use crate::session::{Measure, Queue, TapEvent};
use crate::testkit::{TapKind, WorldBuilder};

const TELLS_ALL: &[TapTells] = &[TapTells::Alert, TapTells::App, TapTells::Transcript];

fn tap(name: &'static str, hears: TapSide, tell: &'static [TapTells]) -> TapKind {
    TapKind { name, hears, tell, format: Format::pcm16(16_000) }
}

fn start(taps: Vec<TapKind>) -> World {
    let mut world = WorldBuilder { taps, ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world
}

/// The caller speaks for `span`: PCM16 at 24 kHz whose samples all are `value`.
fn caller_speaks(world: &mut World, span: Duration, value: i16) {
    for _ in 0..span.as_millis() / 20 {
        world.client_sends(None, value.to_le_bytes().repeat(480).into());
        world.run(ms(20));
    }
}

/// What of a tap was counted.
fn events(world: &World, event: TapEvent) -> usize {
    world.measures.iter().filter(|measure| matches!(measure, Measure::Tap { event: e, .. } if *e == event)).count()
}

fn dropped(world: &World) -> Duration {
    let dropped = |measure: &Measure| match measure {
        Measure::Dropped { queue: Queue::Tap, audio } => Some(*audio),
        _ => None,
    };
    world.measures.iter().filter_map(dropped).sum()
}

#[test]
fn a_tap_hears_the_caller_in_its_own_format_and_is_never_greeted_nor_asked() {
    let mut world = start(vec![tap("monitor", TapSide::Caller, &[])]);
    caller_speaks(&mut world, ms(1_000), 1000);
    let heard = &world.taps[0].audio;
    assert_eq!(heard.iter().map(|(_, audio)| audio.payload.len()).sum::<usize>(), 2 * 16_000, "a second at 16 kHz");
    let middle = &heard[heard.len() / 2].1.payload;
    assert!((i16::from_le_bytes([middle[0], middle[1]]) - 1000).abs() < 20, "resampled");
    let [ToAgent::Start(start)] = &world.taps[0].told[..] else { panic!("{:?}", world.taps[0].told) };
    assert!(!start.greet && start.context.is_empty());
    assert_eq!(world.agent_audio.len(), 50, "the agent hears the same call");
}

#[test]
fn a_tap_that_asks_for_it_hears_what_is_handed_over_to_the_callers_speaker() {
    let mut world = start(vec![tap("monitor", TapSide::Agent, &[])]);
    answer(&mut world, ms(600), 7000, None);
    caller_speaks(&mut world, ms(1_000), 1);
    let loud = |(_, audio): &&(_, crate::message::AgentAudioOut)| {
        audio.payload.as_chunks::<2>().0.iter().any(|sample| i16::from_le_bytes(*sample) > 6_000)
    };
    let spoken = world.taps[0].audio.iter().filter(loud).count();
    assert!((30..=31).contains(&spoken), "{spoken} frames of 20 ms");
}

#[test]
fn what_was_said_before_a_tap_was_there_is_not_lost_to_it() {
    let mut world = WorldBuilder { taps: vec![tap("?late", TapSide::Caller, &[])], ..WorldBuilder::default() }.start();
    caller_speaks(&mut world, ms(1_000), 1000);
    assert!(world.taps[0].audio.is_empty());
    world.tap_is_ready(0);
    caller_speaks(&mut world, ms(200), 1000);
    let heard: usize = world.taps[0].audio.iter().map(|(_, audio)| audio.ticks as usize).sum();
    assert!((18_000..=19_200).contains(&heard), "{heard} of 19200 samples");
}

#[test]
fn a_tap_that_comes_late_gets_what_waits_for_it_a_little_at_a_time() {
    let mut world = WorldBuilder { taps: vec![tap("?late", TapSide::Caller, &[])], ..WorldBuilder::default() }.start();
    caller_speaks(&mut world, ms(2_000), 1000);
    let ready = world.now;
    world.tap_is_ready(0);
    world.run(ms(500));
    let heard = &world.taps[0].audio;
    let at_once = heard.chunk_by(|one, next| one.0 == next.0).map(<[_]>::len).max().unwrap_or(0);
    assert!(at_once <= 4, "{at_once} frames were decoded while the worker's other calls waited");
    let within = heard.iter().filter(|(at, audio)| *at <= ready + ms(400) && !audio.filled).count();
    assert!(within >= 99, "{within} of 100 frames: it soon hears the present");
    assert_eq!(dropped(&world), Duration::ZERO);
}

/// A conversation in which both sides speak, and everything that agent and client got of it, and when.
fn conversation(taps: Vec<TapKind>, meddle: impl Fn(&mut World)) -> World {
    let mut world = start(taps);
    for round in 0..60 {
        caller_speaks(&mut world, ms(200), round);
        if round % 10 == 0 {
            answer(&mut world, ms(400), round, None);
        }
        meddle(&mut world);
    }
    world
}

#[test]
fn a_call_beside_taps_that_read_nothing_talk_nonsense_or_die_is_the_same_call_to_the_microsecond() {
    let taps = vec![
        tap("!stuck", TapSide::Caller, TELLS_ALL),
        tap("garbage", TapSide::Caller, &[]),
        tap("dying", TapSide::Agent, &[]),
        tap("-dead", TapSide::Caller, &[]),
    ];
    let plain = conversation(Vec::new(), |_| {});
    let tapped = conversation(taps, |world| {
        let message = TextMessage { id: "m".into(), text: "let me answer".into(), role: None };
        let call = ToolCall { call_id: "c".into(), name: "look_up".into(), arguments: "{".into() };
        for said in [
            FromAgent::TurnStarted(None),
            FromAgent::Interrupted,
            FromAgent::Message(message),
            FromAgent::ToolCall(call),
            FromAgent::TurnEnded,
        ] {
            world.tap_says(1, said);
        }
        world.tap_says(2, FromAgent::Ended(AgentEnd { failure: None }));
    });
    let to_agent = |world: &World| {
        let sent = world.agent_audio.iter().map(|(at, audio)| (*at, audio.pos, audio.payload.clone()));
        sent.collect::<Vec<_>>()
    };
    let to_client = |world: &World| {
        let sent = world.client.frames.iter().map(|(at, frame)| (*at, frame.pos, frame.payload.clone()));
        sent.collect::<Vec<_>>()
    };
    assert!(to_agent(&plain) == to_agent(&tapped), "what the agent got, and when");
    assert!(to_client(&plain) == to_client(&tapped), "what the client got, and when");
    assert_eq!(plain.client.messages.len(), tapped.client.messages.len(), "no word of a tap reaches the client");
    assert!(tapped.ended.is_none());
    assert!(dropped(&tapped) > Duration::from_secs(5), "{:?}", dropped(&tapped));
    assert!(events(&tapped, TapEvent::Lost) >= 3);
}

#[test]
fn a_tap_that_takes_nothing_keeps_the_newest_and_is_given_up_at_last() {
    let mut world = start(vec![tap("!stuck", TapSide::Caller, &[])]);
    caller_speaks(&mut world, ms(5_000), 1000);
    assert!((ms(2_900)..=ms(3_000)).contains(&dropped(&world)), "two seconds are kept: {:?}", dropped(&world));
    assert_eq!(events(&world, TapEvent::Lost), 0);
    caller_speaks(&mut world, ms(5_200), 1000);
    assert_eq!(events(&world, TapEvent::Lost), 1, "after ten seconds");
    world.client_says(FromClient::End);
    world.run(ms(100));
    let (_, record) = world.ended.as_ref().expect("ended");
    let entry = &record.taps[0];
    assert!(entry.dropped_ms >= 7_000 && entry.losses == 1 && entry.ended.is_some(), "{entry:?}");
}

#[test]
fn a_tap_that_cannot_be_reached_is_dialled_again_with_growing_pauses() {
    let mut world = start(vec![tap("-dead", TapSide::Caller, &[])]);
    world.run(Duration::from_secs(60));
    let dials = world.taps[0].dialled.clone();
    let pauses: Vec<Duration> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((6..=11).contains(&dials.len()), "{pauses:?}");
    for (index, pause) in pauses.iter().enumerate() {
        let most = (ms(500) * 2u32.pow(index.min(10) as u32)).min(Duration::from_secs(30));
        assert!(*pause <= most, "{index}: {pauses:?}");
    }
}

#[test]
fn a_tap_that_was_lost_hears_the_rest_of_the_call() {
    let mut world = start(vec![tap("monitor", TapSide::Caller, &[])]);
    caller_speaks(&mut world, ms(500), 1);
    world.tap_says(0, FromAgent::Ended(AgentEnd { failure: None }));
    let before = world.taps[0].audio.len();
    caller_speaks(&mut world, ms(1_500), 1);
    assert_eq!(world.taps[0].dialled.len(), 2);
    assert_eq!(world.taps[0].audio.len() - before, 75, "what was said in the pause is kept for it");
}

#[test]
fn clients_are_told_of_a_tap_what_the_route_says_and_the_record_knows_of_its_alerts() {
    let alert =
        Alert { name: "self_harm\n".into(), severity: "critical".into(), data: serde_json::json!({"text": "…"}) };
    let app = App { name: "score".into(), data: serde_json::json!(3) };
    let text = |item: &str, role, text: &str| {
        let (item, text) = (Some(item.into()), text.to_owned());
        FromAgent::Transcript(AgentTranscript { item, role, text, append: false, is_final: true })
    };
    for (tell, told) in [(&[][..], 0), (TELLS_ALL, 1)] {
        let mut world = start(vec![tap("safety", TapSide::Caller, tell)]);
        world.tap_says(0, FromAgent::Alert(alert.clone()));
        world.tap_says(0, FromAgent::App(app.clone()));
        world.tap_says(0, text("u1", Role::User, "what the caller said"));
        world.tap_says(0, text("a1", Role::Agent, "what the tap would answer"));
        world.run(ms(100));
        let count = |is: fn(&ToClient) -> bool| world.client.messages.iter().filter(|message| is(message)).count();
        assert_eq!(count(|message| matches!(message, ToClient::Alert(_))), told);
        assert_eq!(count(|message| matches!(message, ToClient::App(_))), told);
        let line = |message: &ToClient| match message {
            ToClient::Transcript(line) => Some((line.role, line.item.to_string())),
            _ => None,
        };
        let lines: Vec<_> = world.client.messages.iter().filter_map(line).collect();
        assert_eq!(lines.len(), told);
        assert!(lines.iter().all(|line| *line == (Role::User, "safety.u1".into())), "{lines:?}");
        world.client_says(FromClient::End);
        world.run(ms(100));
        let (reason, record) = world.ended.as_ref().expect("ended");
        assert_eq!((*reason, record.taps[0].alerts, record.taps[0].transcripts), (CloseReason::ClientHangup, 1, 1));
        assert_eq!((record.alerts[0].name.as_str(), record.alerts[0].from.as_str()), ("self_harm", "safety"));
        assert!(matches!(world.taps[0].told.last(), Some(ToAgent::End)), "it is told of the end");
    }
}

#[test]
fn a_node_with_too_much_to_do_leaves_taps_out_and_takes_them_in_again() {
    let mut world = start(vec![tap("monitor", TapSide::Caller, &[])]);
    caller_speaks(&mut world, ms(200), 1);
    world.load.set_spares_optional(true);
    caller_speaks(&mut world, ms(200), 2);
    world.tap_says(0, FromAgent::Ended(AgentEnd { failure: None }));
    world.run(ms(5_000));
    assert_eq!(world.taps[0].dialled.len(), 1, "it is not dialled again now");
    world.load.set_spares_optional(false);
    world.run(ms(1_500));
    assert_eq!(world.taps[0].dialled.len(), 2);
    let skipped = world.measures.iter().filter(|measure| matches!(measure, Measure::TapsSkipped)).count();
    assert_eq!((skipped, dropped(&world)), (10, ms(200)));
    assert_eq!(world.agent_audio.len(), 20, "the agent hears everything");
}
