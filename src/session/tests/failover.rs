//! Agents that are slow, fall silent or die: the caller gets an answer all the same, and hears no greeting twice.

use super::*;
use crate::media::format::Format;
use crate::message::{AgentStart, FromClient, Greeting, Interrupt, Role, SpeechEvent, TextMessage, ToAgent};
use crate::route::plan::Policy;
use crate::session::Measure;
use crate::testkit::WorldBuilder;

fn two(policy: Policy) -> World {
    let mut world = WorldBuilder { agents: vec!["first", "second"], policy, ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world
}

/// The start of the agent that came last.
fn last_start(world: &World) -> AgentStart {
    let start = |(_, message): &(_, ToAgent)| match message {
        ToAgent::Start(start) => Some(start.clone()),
        _ => None,
    };
    world.told_agent.iter().rev().find_map(start).expect("an agent was started")
}

#[test]
fn an_agent_that_dies_in_mid_answer_is_followed_by_one_that_is_asked_to_go_on() {
    let mut world = two(Policy::default());
    world.agent_says(text(Role::User, "tell me a story"));
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(500), 1, None);
    world.agent_says(text(Role::Agent, "once upon"));
    world.lose_agent();
    world.run(ms(50));
    let start = last_start(&world);
    assert!(start.greet);
    let Some(Greeting::Prompt(prompt)) = start.setup.greeting else { panic!("{:?}", start.setup.greeting) };
    assert!(prompt.contains("Do not greet"), "{prompt}");
    assert_eq!(start.context.len(), 2);
    answer(&mut world, ms(200), 2, None);
    world.run(ms(1_000));
    let values = heard_values(&world);
    assert_eq!(values, [vec![1; 25], vec![2; 10]].concat(), "what the first one said is heard, then the second one");
}

#[test]
fn an_agent_that_dies_when_everything_is_said_is_followed_by_one_that_waits_for_the_caller() {
    let mut world = two(Policy::default());
    answer(&mut world, ms(300), 1, None);
    world.agent_says(text(Role::Agent, "good morning"));
    world.run(ms(1_000));
    world.lose_agent();
    world.run(ms(50));
    let start = last_start(&world);
    assert_eq!((start.greet, start.setup.greeting), (false, Some(Greeting::None)));
}

#[test]
fn an_agent_that_was_never_there_leaves_the_greeting_to_the_next_one() {
    let mut world = WorldBuilder { agents: vec!["-first", "second"], ..WorldBuilder::default() }.start();
    world.run(ms(100));
    let start = last_start(&world);
    assert_eq!((start.greet, start.setup.greeting), (true, None), "as its own set-up says");
}

#[test]
fn an_agent_that_falls_silent_is_replaced_in_its_time_and_the_message_is_answered_by_the_next_one() {
    let mut world = two(Policy { answer_within: ms(2_000), ..Policy::default() });
    let message = TextMessage { id: "m".into(), text: "where is my order?".into(), role: None };
    world.client_says(FromClient::Message(message));
    world.run(ms(1_900));
    assert_eq!(world.dialled, [0]);
    world.run(ms(200));
    assert_eq!(world.dialled, [0, 1]);
    assert_eq!(messages(&world), ["where is my order?"; 2]);
    let start = last_start(&world);
    assert!(start.context.is_empty() && !start.greet, "it is told once, as a message: {start:?}");
    answer(&mut world, ms(200), 2, None);
    world.run(ms(10_000));
    assert_eq!(world.dialled, [0, 1], "an agent that answers is not taken for silent");
}

#[test]
fn speech_that_gets_no_answer_in_time_counts_and_a_tool_that_runs_does_not() {
    let mut world = two(Policy { answer_within: ms(2_000), ..Policy::default() });
    world.agent_says(FromAgent::Speech(SpeechEvent::Started));
    world.run(ms(5_000));
    assert_eq!(world.dialled, [0], "the caller still speaks");
    world.agent_says(FromAgent::Speech(SpeechEvent::Stopped));
    world.run(ms(1_000));
    let call = crate::message::ToolCall { call_id: "c".into(), name: "look_up".into(), arguments: "{}".into() };
    world.agent_says(FromAgent::ToolCall(call));
    world.run(ms(10_000));
    assert_eq!(world.dialled, [0], "the tool takes its time");
    let result = crate::message::ToolResult { call_id: "c".into(), output: "42".into(), is_error: false };
    world.client_says(FromClient::ToolResult(result));
    world.run(ms(2_100));
    assert_eq!(world.dialled, [0, 1]);
    let told: Vec<_> = last_start(&world).context.into_iter().map(|item| item.text).collect();
    assert!(told.iter().any(|text| text.contains("look_up") && text.contains("42")), "{told:?}");
}

#[test]
fn beside_a_slow_agent_the_next_of_the_pool_is_dialled_and_the_first_that_is_ready_talks() {
    let policy = Policy { hedge: ms(300), ..Policy::default() };
    let build = WorldBuilder { agents: vec!["?slow", "second", "clip"], pool: 2, policy, ..WorldBuilder::default() };
    let mut world = build.start();
    let slow = world.upstream;
    world.run(ms(290));
    assert_eq!(world.dialled, [0]);
    world.run(ms(20));
    assert_eq!((world.dialled.as_slice(), world.hung_up.as_slice()), (&[0, 1][..], &[slow][..]));
    assert!(world.measures.contains(&Measure::Failover { reason: "slow" }));
    assert!(last_start(&world).greet, "nobody has greeted yet");
    answer(&mut world, ms(100), 2, None);
    world.run(ms(20_000));
    assert_eq!(heard_values(&world), [2; 5]);
}

#[test]
fn a_slow_agent_that_gets_ready_first_keeps_the_call_and_the_other_one_is_let_go() {
    let policy = Policy { hedge: ms(300), ..Policy::default() };
    let build = WorldBuilder { agents: vec!["?slow", "?slower"], pool: 2, policy, ..WorldBuilder::default() };
    let mut world = build.start();
    world.run(ms(400));
    let (slow, slower) = (world.upstream, world.standby.as_ref().unwrap().0);
    world.is_ready(slow);
    world.run(ms(100));
    assert_eq!((world.upstream, world.hung_up.as_slice()), (slow, &[slower][..]));
}

#[test]
fn a_clip_is_not_dialled_beside_a_slow_agent() {
    let policy = Policy { hedge: ms(300), ..Policy::default() };
    let build = WorldBuilder { agents: vec!["?slow", "!sorry"], pool: 1, policy, ..WorldBuilder::default() };
    let mut world = build.start();
    world.run(ms(4_900));
    assert_eq!(world.dialled, [0]);
}

#[test]
fn what_an_agent_of_another_format_says_next_waits_behind_what_was_said() {
    let pcm = Format::pcm16(16_000);
    let build =
        WorldBuilder { agents: vec!["first", "second"], second_formats: Some((pcm, pcm)), ..Default::default() };
    let mut world = build.start();
    world.run(ms(100));
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(500), 1_000, None);
    world.lose_agent();
    world.run(ms(50));
    answer(&mut world, ms(200), 2_000, None);
    world.run(ms(1_000));
    let values = heard_values(&world);
    assert_eq!(values[..25], [1_000; 25]);
    assert!((10..=11).contains(&values[25..].len()), "{values:?}");
    assert!(values[26..35].iter().all(|value| value.abs_diff(2_000) < 100), "{values:?}");
}

#[test]
fn the_caller_hears_the_notice_once_however_many_agents_fail() {
    let policy = Policy { fallback_notice: Some(announcement(ms(300), 9)), ..Policy::default() };
    let agents = vec!["first", "-second", "third", "fourth"];
    let mut world = WorldBuilder { agents, policy, ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(200), 1, None);
    world.lose_agent();
    world.run(ms(50));
    answer(&mut world, ms(200), 3, None);
    world.run(ms(1_000));
    world.lose_agent();
    world.run(ms(50));
    answer(&mut world, ms(200), 4, None);
    world.run(ms(1_000));
    assert_eq!(heard_values(&world), [vec![1; 10], vec![9; 15], vec![3; 10], vec![4; 10]].concat());
}

#[test]
fn a_notice_is_no_answer_and_an_interruption_of_it_is_not_told_to_the_agent() {
    let policy = Policy { fallback_notice: Some(announcement(ms(2_000), 9)), ..Policy::default() };
    let mut world = two(policy);
    answer(&mut world, ms(200), 1, None);
    world.run(ms(500));
    world.lose_agent();
    world.run(ms(500));
    world.client_says(FromClient::Interrupt(Interrupt::default()));
    world.run(ms(500));
    let told = world.told_agent.iter().map(|(_, message)| message);
    assert_eq!(told.filter(|message| matches!(message, ToAgent::Truncate(_) | ToAgent::Cancel(_))).count(), 0);
    world.client_says(FromClient::End);
    world.run(ms(100));
    let record = &world.ended.as_ref().unwrap().1;
    assert_eq!((record.turns, record.interruptions), (1, 1));
    assert!(heard_values(&world).len() < 50, "it was stopped");
}

#[test]
fn a_caller_whose_first_agent_cannot_be_reached_is_not_bothered_with_a_notice() {
    let policy = Policy { fallback_notice: Some(announcement(ms(300), 9)), ..Policy::default() };
    let mut world = WorldBuilder { agents: vec!["-first", "second"], policy, ..WorldBuilder::default() }.start();
    world.run(ms(100));
    answer(&mut world, ms(200), 2, None);
    world.run(ms(1_000));
    assert_eq!(heard_values(&world), [2; 10]);
}
