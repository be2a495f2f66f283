//! How sessions end, and how they survive a lost link.

use super::*;
use crate::message::{CloseReason, FromClient, Ping, Role, TextMessage};
use crate::session::Command;
use crate::testkit::WorldBuilder;

fn endings(world: &World) -> Vec<(CloseReason, u64)> {
    let ending = |message: &ToClient| match message {
        ToClient::Ending(ending) => Some((ending.reason, ending.in_ms)),
        _ => None,
    };
    world.client.messages.iter().filter_map(ending).collect()
}

fn reason(world: &World) -> Option<CloseReason> {
    world.ended.as_ref().map(|(reason, _)| *reason)
}

#[test]
fn a_call_ends_at_its_longest_after_a_warning() {
    let mut build = WorldBuilder::default();
    build.policy.max = ms(10_000);
    build.policy.idle.after = Duration::ZERO;
    let mut world = build.start();
    world.run(ms(9_900));
    assert_eq!(endings(&world), [(CloseReason::MaxDuration, 1_000)]);
    assert_eq!(reason(&world), None);
    world.run(ms(200));
    assert_eq!(reason(&world), Some(CloseReason::MaxDuration));
}

#[test]
fn a_call_ends_with_its_token_after_a_warning_if_that_comes_first() {
    let mut build = WorldBuilder::default();
    build.policy.max = ms(20_000);
    build.token_for = Some(ms(10_000));
    build.policy.idle.after = Duration::ZERO;
    let mut world = build.clone().start();
    world.run(ms(9_900));
    assert_eq!(endings(&world), [(CloseReason::TokenExpired, 1_000)]);
    world.run(ms(200));
    assert_eq!(reason(&world), Some(CloseReason::TokenExpired));
    assert_eq!(world.detached.last().map(|(_, code)| *code), Some(4401));
    build.token_for = Some(ms(30_000));
    let mut world = build.start();
    world.run(ms(20_100));
    assert_eq!(reason(&world), Some(CloseReason::MaxDuration));
}

#[test]
fn a_call_in_which_nobody_speaks_ends_after_a_warning_and_a_word_keeps_it() {
    let mut build = WorldBuilder::default();
    build.policy.idle.after = ms(5_000);
    build.policy.idle.grace = ms(2_000);
    let mut world = build.start();
    world.run(ms(6_000));
    assert_eq!(endings(&world), [(CloseReason::Idle, 2_000)]);
    world.client_says(FromClient::Message(TextMessage { id: "m".into(), text: "still here".into(), role: None }));
    world.run(ms(4_900));
    assert_eq!(reason(&world), None);
    world.run(ms(2_200));
    assert_eq!(reason(&world), Some(CloseReason::Idle));
    assert_eq!(world.detached.last().map(|(_, code)| *code), Some(4408));
}

#[test]
fn a_long_answer_is_not_idleness() {
    let mut build = WorldBuilder::default();
    build.policy.idle.after = ms(3_000);
    let mut world = build.start();
    answer(&mut world, ms(20_000), 1, None);
    world.run(ms(19_000));
    assert!(endings(&world).is_empty());
}

#[test]
fn a_client_that_does_not_come_back_is_given_up() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(1_000));
    world.lose_link();
    world.run(ms(29_900));
    assert_eq!(reason(&world), None);
    world.run(ms(200));
    assert_eq!(reason(&world), Some(CloseReason::ClientLost));
}

#[test]
fn a_resumed_client_gets_the_messages_that_it_missed_once_and_in_order() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(200));
    world.lose_link();
    for n in 0..5 {
        let message = TextMessage { id: format!("m{n}").as_str().into(), text: n.to_string(), role: Some(Role::Agent) };
        world.agent_says(FromAgent::Message(message));
    }
    world.run(ms(500));
    world.resume(Some(2));
    world.run(ms(200));
    let texts: Vec<_> = world
        .client
        .messages
        .iter()
        .filter_map(|message| match message {
            ToClient::Message(message) => Some(message.text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["0", "1", "2", "3", "4"]);
    let started = world.client.messages.iter().find_map(|message| match message {
        ToClient::Started(started) => Some(started.clone()),
        _ => None,
    });
    let started = started.unwrap();
    assert_eq!((started.resumed, started.resume_token.as_str()), (Some(true), "t1"));
}

#[test]
fn a_client_that_missed_too_much_gets_a_snapshot() {
    let mut world = WorldBuilder::default().start();
    world.lose_link();
    for n in 0..300 {
        let message = TextMessage { id: format!("m{n}").as_str().into(), text: n.to_string(), role: Some(Role::Agent) };
        world.agent_says(FromAgent::Message(message));
    }
    world.resume(Some(2));
    world.run(ms(200));
    let first = &world.client.messages[..2];
    assert!(matches!(&first[0], ToClient::Started(started) if started.resumed == Some(false)));
    assert!(matches!(&first[1], ToClient::State(_)));
    let lines = world.client.messages.iter().filter(|m| matches!(m, ToClient::Transcript(_))).count();
    assert_eq!(lines, 50);
}

#[test]
fn the_newest_link_takes_over_and_the_old_one_is_told() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(200));
    world.resume(None);
    world.run(ms(100));
    assert_eq!(world.detached, [(crate::ids::LinkId(0), 4409)]);
    world.client_says(FromClient::Ping(Ping { t: 7 }));
    world.run(ms(100));
    assert!(world.client.messages.iter().any(|m| matches!(m, ToClient::Pong(Ping { t: 7 }))));
}

#[test]
fn a_draining_node_tells_its_clients_and_ends_them_at_the_deadline() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(200));
    world.command(Command::Drain { reconnect_after: ms(700), deadline: ms(3_000) });
    world.run(ms(2_900));
    let told = world.client.messages.iter().find_map(|message| match message {
        ToClient::Draining(draining) => Some(*draining),
        _ => None,
    });
    let told = told.expect("the client is told");
    assert_eq!((told.reconnect_after_ms, told.deadline_ms), (700, 3_000));
    assert_eq!(reason(&world), None);
    world.run(ms(200));
    assert_eq!(reason(&world), Some(CloseReason::Draining));
    assert_eq!(world.detached.last().map(|(_, code)| *code), Some(1012));
}
