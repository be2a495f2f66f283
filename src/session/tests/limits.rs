//! What a session is counted by while it runs.

use bytes::Bytes;

use super::*;
use crate::config::settings::{LimitSettings, LimitUnit, OnReach};
use crate::message::{CloseReason, ErrorCode, FromClient, TextMessage, Usage};
use crate::testkit::WorldBuilder;

fn limit(unit: LimitUnit, amount: f64) -> LimitSettings {
    LimitSettings {
        key: Vec::new(),
        unit,
        amount,
        per: Some(Duration::from_secs(86_400)),
        burst: None,
        block: Duration::ZERO,
        prefixes: (32, 64),
        warn_at: None,
        on_reach: OnReach::default(),
    }
}

/// A frame of 20 ms of the client's voice every 20 ms.
fn speak(world: &mut World, frames: u32) {
    for _ in 0..frames {
        world.client_sends(None, Bytes::from(vec![9; 960]));
        world.run(ms(20));
    }
}

fn errors(world: &World) -> Vec<(ErrorCode, Option<u64>)> {
    let error = |message: &ToClient| match message {
        ToClient::Error(error) => Some((error.code, error.retry_after_ms)),
        _ => None,
    };
    world.client.messages.iter().filter_map(error).collect()
}

fn heard(world: &World) -> usize {
    world.agent_audio.iter().filter(|(_, audio)| !audio.filled).count()
}

#[test]
fn audio_beyond_a_limit_does_not_reach_the_agent_and_the_client_is_told_once_a_second() {
    let limits = [limit(LimitUnit::AudioFrames, 10.0), limit(LimitUnit::AudioSeconds, 0.2)];
    for limit in limits {
        let mut world = WorldBuilder { limits: vec![limit], ..WorldBuilder::default() }.start();
        world.run(ms(500));
        speak(&mut world, 10 + 60);
        world.run(ms(500));
        assert_eq!(heard(&world), 10);
        let told = errors(&world);
        assert!(told.len() == 2 && told.iter().all(|(code, _)| *code == ErrorCode::RateLimited), "{told:?}");
        assert!(told[0].1.is_some_and(|after| after > 1_000_000));
        assert!(world.ended.is_none());
    }
}

#[test]
fn bytes_are_counted_whatever_they_say_and_each_refused_message_is_told() {
    let limits = vec![limit(LimitUnit::Bytes, 1000.0), limit(LimitUnit::Messages, 2.0)];
    let mut world = WorldBuilder { limits, ..WorldBuilder::default() }.start();
    world.run(ms(500));
    let message = || FromClient::Message(TextMessage { id: "m".into(), text: "hello".into(), role: None });
    for _ in 0..3 {
        world.client_says(message());
        world.run(ms(50));
    }
    assert_eq!(errors(&world).len(), 1, "two messages were let through");
    world.session.on_bytes(900, world.now);
    world.client_says(message());
    world.run(ms(50));
    assert_eq!(errors(&world).len(), 2);
    world.session.on_bytes(200, world.now);
    world.client_sends(None, Bytes::from(vec![9; 960]));
    world.run(ms(100));
    assert_eq!((heard(&world), errors(&world).len()), (0, 3));
}

#[test]
fn a_budget_warns_and_ends_the_session_when_the_agent_has_spoken_out() {
    let budget = LimitSettings { warn_at: Some(0.5), ..limit(LimitUnit::Cost, 1.0) };
    let build = || WorldBuilder { token_price: Some(0.01), ..WorldBuilder::default() };
    let spend = |world: &mut World, tokens: f64| {
        let amounts = [("tokens".to_owned(), tokens), ("unpriced".to_owned(), 1e9)].into();
        world.agent_says(FromAgent::Usage(Usage { turn: Default::default(), amounts }));
    };
    let mut world = WorldBuilder { limits: vec![budget.clone()], ..build() }.start();
    world.run(ms(500));
    answer(&mut world, ms(3_000), 1, None);
    world.run(ms(1_000));
    spend(&mut world, 60.0);
    world.run(ms(100));
    assert!(
        world.client.messages.iter().any(|message| matches!(message, ToClient::Alert(alert) if alert.name == "budget"))
    );
    spend(&mut world, 60.0);
    world.run(ms(500));
    let ending =
        |message: &ToClient| matches!(message, ToClient::Ending(ending) if ending.reason == CloseReason::Budget);
    assert!(world.client.messages.iter().any(ending) && world.ended.is_none(), "the agent speaks");
    world.run(ms(4_000));
    let (reason, record) = world.ended.as_ref().unwrap();
    assert_eq!(*reason, CloseReason::Budget);
    assert!(record.agent_audio_heard_ms >= 2_990, "{}", record.agent_audio_heard_ms);

    let at_once = LimitSettings { on_reach: OnReach::End, ..budget.clone() };
    let mut world = WorldBuilder { limits: vec![at_once], ..build() }.start();
    world.run(ms(500));
    answer(&mut world, ms(3_000), 1, None);
    world.run(ms(1_000));
    spend(&mut world, 101.0);
    world.run(ms(50));
    assert_eq!(world.ended.as_ref().map(|(reason, _)| *reason), Some(CloseReason::Budget));

    let only_warned = LimitSettings { on_reach: OnReach::Warn, ..budget };
    let mut world = WorldBuilder { limits: vec![only_warned], ..build() }.start();
    world.run(ms(500));
    spend(&mut world, 500.0);
    world.run(ms(5_000));
    assert!(world.ended.is_none());
}
