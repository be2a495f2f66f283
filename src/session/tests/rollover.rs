//! A fresh session with the same agent takes over before the end of the one before.

use super::*;
use crate::agent::Capabilities;
use crate::message::{AgentStatus, ContextItem, FromClient, Role, TextMessage, ToAgent};
use crate::session::Measure;
use crate::testkit::WorldBuilder;

fn said(role: Role, text: &str) -> ContextItem {
    ContextItem { role, text: text.into() }
}

fn rollovers(world: &World) -> usize {
    world.measures.iter().filter(|measure| matches!(measure, Measure::Rollover)).count()
}

/// Whether an agent was to greet, and what it was told at its start.
type Opening = (bool, Vec<ContextItem>);

/// What the agents were told at their starts, and what they were told later of what had been said.
fn told(world: &World) -> (Vec<Opening>, Vec<Vec<ContextItem>>) {
    let mut starts = Vec::new();
    let mut later = Vec::new();
    for (_, message) in &world.told_agent {
        match message {
            ToAgent::Start(start) => starts.push((start.greet, start.context.clone())),
            ToAgent::History(items) => later.push(items.clone()),
            _ => {}
        }
    }
    (starts, later)
}

/// A builder whose agent's sessions last at most `longest`.
fn limited(longest: Duration) -> WorldBuilder {
    let build = WorldBuilder::default();
    WorldBuilder { capabilities: Capabilities { longest: Some(longest), ..build.capabilities }, ..build }
}

#[test]
fn an_agent_that_says_goodbye_is_followed_by_a_fresh_session_that_knows_what_was_said() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    answer(&mut world, ms(400), 1, None);
    world.agent_says(text(Role::Agent, "good morning"));
    world.run(ms(1_000));
    let before = world.upstream;
    world.agent_says(FromAgent::GoAway(ms(10_000)));
    world.run(ms(10));
    assert_eq!((world.dialled.as_slice(), rollovers(&world)), (&[0, 0][..], 1));
    assert_eq!(world.hung_up, [before]);
    let (starts, later) = told(&world);
    assert_eq!(starts, [(true, vec![]), (false, vec![said(Role::Agent, "good morning")])]);
    assert!(later.is_empty(), "nothing was said meanwhile");
    world.client_says(FromClient::Message(TextMessage { id: "m".into(), text: "still there?".into(), role: None }));
    world.run(ms(100));
    answer(&mut world, ms(200), 2, None);
    world.run(ms(1_000));
    assert_eq!(heard_values(&world).last(), Some(&2), "the fresh session is the one that talks");
    let record = {
        world.client_says(FromClient::End);
        world.run(ms(100));
        &world.ended.as_ref().unwrap().1
    };
    let agents: Vec<_> = record.agents.iter().map(|entry| (entry.name.as_str(), entry.ended.as_deref())).collect();
    assert_eq!(agents, [("agent", Some("rollover")), ("agent", None)]);
}

#[test]
fn an_answer_is_heard_to_its_end_before_the_fresh_session_takes_over_and_learns_of_it() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(3_000), 1, None);
    world.run(ms(500));
    world.agent_says(FromAgent::GoAway(ms(60_000)));
    world.agent_says(text(Role::Agent, "a long story"));
    world.agent_says(FromAgent::TurnEnded);
    world.run(ms(2_000));
    assert_eq!(rollovers(&world), 0, "the story is still being heard");
    world.run(ms(2_000));
    assert_eq!(rollovers(&world), 1);
    assert_eq!(heard_values(&world), vec![1; 150], "nothing is missing, nothing comes twice");
    assert_eq!(told(&world).1, [[said(Role::Agent, "a long story")]]);
}

#[test]
fn answers_without_a_pause_roll_over_at_the_cap_without_a_gap_or_a_repetition() {
    let mut world = limited(ms(5_000)).start();
    world.run(ms(50));
    for second in 0..12 {
        // The next answer comes while the one before is still being heard: there is no quiet moment.
        answer(&mut world, ms(1_000), second, None);
        world.run(if second == 0 { ms(900) } else { ms(1_000) });
    }
    // Way, buffer and one frame; what is still missing then was held up by gaps.
    let all = ms(50 + 12_000 + 20 + 40 + 20);
    world.run(all - ms(world.elapsed_ms()));
    let held_up = ms(12_000) - world.client.played();
    assert!(held_up <= ms(60), "gaps of {held_up:?}");
    world.run(ms(1_000));
    assert!((2..=3).contains(&rollovers(&world)), "{}", rollovers(&world));
    let expected: Vec<i16> = (0..12).flat_map(|second| vec![second; 50]).collect();
    assert_eq!(heard_values(&world), expected);
}

#[test]
fn the_callers_audio_reaches_the_old_or_the_fresh_session_and_never_neither() {
    let mut world = limited(ms(5_000)).start();
    world.run(ms(50));
    for _ in 0..500 {
        world.client_sends(None, 0i16.to_le_bytes().repeat(480).into());
        world.run(ms(20));
    }
    assert!(rollovers(&world) >= 1);
    assert_eq!(world.agent_audio.iter().filter(|(_, audio)| !audio.filled).count(), 500);
}

#[test]
fn a_fresh_session_that_cannot_be_had_is_tried_again_and_the_call_goes_on_meanwhile() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    world.refuse_dials(2);
    world.agent_says(FromAgent::GoAway(ms(10_000)));
    world.run(ms(900));
    answer(&mut world, ms(100), 1, None);
    assert_eq!(rollovers(&world), 0);
    world.run(ms(3_000));
    assert_eq!((world.dialled.len(), rollovers(&world)), (4, 1));
    assert_eq!(heard_values(&world), vec![1; 5]);
    assert!(world.ended.is_none());
}

#[test]
fn when_the_agent_dies_before_its_follower_is_ready_the_follower_takes_over_at_once() {
    let mut world = WorldBuilder { agents: vec!["agent", "other"], ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world.hold_ready = true;
    world.agent_says(FromAgent::GoAway(ms(10_000)));
    world.run(ms(100));
    let follower = world.standby.as_ref().unwrap().0;
    world.lose_agent();
    world.run(ms(100));
    assert_eq!((world.upstream, world.dialled.as_slice()), (follower, &[0, 0][..]), "the next rung is not needed");
    world.is_ready(follower);
    world.run(ms(100));
    let last = world.client.messages.iter().rev().find_map(|message| match message {
        ToClient::Agent(agent) => Some(agent.status),
        _ => None,
    });
    assert_eq!(last, Some(AgentStatus::Ready));
}

#[test]
fn a_fresh_session_waits_for_the_answer_to_a_message_and_if_it_cannot_asks_for_it() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    world.client_says(FromClient::Message(TextMessage { id: "m".into(), text: "hello".into(), role: None }));
    world.run(ms(50));
    world.agent_says(FromAgent::GoAway(ms(4_000)));
    world.run(ms(2_500));
    assert_eq!(rollovers(&world), 0, "the answer may still come");
    world.run(ms(1_000));
    assert_eq!(rollovers(&world), 1);
    let asked = world.told_agent.iter().filter(|(_, m)| matches!(m, ToAgent::Message(m) if m.text == "hello"));
    assert_eq!(asked.count(), 2);
}

#[test]
fn an_answer_that_the_change_has_broken_off_is_gone_on_with() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(6_000), 1, None);
    world.agent_says(FromAgent::GoAway(ms(4_000)));
    world.run(ms(2_500));
    assert_eq!(rollovers(&world), 0);
    world.run(ms(1_000));
    assert_eq!(rollovers(&world), 1);
    assert_eq!(told(&world).0[1], (false, vec![]), "while it stands by it is asked for nothing");
    let asked = world.told_agent.iter().any(|(_, m)| matches!(m, ToAgent::Prompt(text) if text.starts_with("Go on")));
    assert!(asked);
}
