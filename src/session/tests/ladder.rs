//! What the caller is left with when no agent can be reached, step by step, until one is back.

use super::*;
use crate::message::{
    AgentError, AgentState, AgentStatus, AgentTranscript, CloseReason, ContextItem, FailureClass, FromClient, Greeting,
    Role, SpeechEvent, TextMessage, ToAgent,
};
use crate::route::plan::{DownStep, Policy};
use crate::session::{CallRecord, Measure};
use crate::testkit::WorldBuilder;

fn down(agents: Vec<&'static str>, when_down: Vec<DownStep>) -> World {
    let policy = Policy { when_down, ..Policy::default() };
    let mut world = WorldBuilder { agents, policy, ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world
}

fn keep(span: Duration) -> DownStep {
    DownStep::Keep(span)
}

fn writes(world: &mut World, id: &str, text: &str) {
    world.client_says(FromClient::Message(TextMessage { id: id.into(), text: text.into(), role: None }));
    world.run(ms(50));
}

fn answers_in_writing(world: &mut World, text: &str) {
    world.agent_says(FromAgent::Message(TextMessage { id: "a".into(), text: text.into(), role: None }));
    world.run(ms(50));
}

/// Every agent is gone and cannot be reached.
fn lose_all(world: &mut World) {
    world.unreachable = true;
    world.lose_agent();
    world.run(ms(50));
}

fn statuses(world: &World) -> Vec<AgentState> {
    let status = |message: &ToClient| match message {
        ToClient::Agent(agent) => Some(agent.clone()),
        _ => None,
    };
    world.client.messages.iter().filter_map(status).collect()
}

fn last_status(world: &World) -> AgentStatus {
    statuses(world).last().expect("a status was told").status
}

/// What the agent that was started last was told of the conversation.
fn last_context(world: &World) -> Vec<ContextItem> {
    let start = |(_, message): &(_, ToAgent)| match message {
        ToAgent::Start(start) => Some(start.context.clone()),
        _ => None,
    };
    world.told_agent.iter().rev().find_map(start).expect("an agent was started")
}

fn record(world: &World) -> &CallRecord {
    let (reason, record) = world.ended.as_ref().expect("the call has ended");
    assert_eq!(*reason, CloseReason::AgentFailed);
    record
}

#[test]
fn a_lone_agent_that_was_good_is_dialled_again_with_what_was_said_and_does_not_greet_twice() {
    let mut world = down(vec!["only"], Vec::new());
    answer(&mut world, ms(200), 1, None);
    let said = AgentTranscript { item: None, role: Role::Agent, text: "hi".into(), append: false, is_final: true };
    world.agent_says(FromAgent::Transcript(said));
    world.run(ms(500));
    world.lose_agent();
    world.run(ms(50));
    assert_eq!(world.dialled, [0, 0]);
    assert_eq!(last_context(&world), [ContextItem { role: Role::Agent, text: "hi".into() }]);
    assert_eq!(last_status(&world), AgentStatus::Ready);
    world.lose_agent();
    world.run(ms(50));
    assert_eq!(world.dialled, [0, 0], "it has not been good since");
    assert_eq!(record(&world).down_steps, Vec::<&str>::new());
}

#[test]
fn one_that_was_good_comes_after_the_others_and_an_old_failure_is_forgiven() {
    let mut world = down(vec!["-first", "second", "third"], Vec::new());
    assert_eq!(world.dialled, [0, 1]);
    answer(&mut world, ms(200), 1, None);
    world.run(ms(500));
    world.refuse_dials(2);
    world.lose_agent();
    world.run(ms(50));
    assert_eq!(world.dialled, [0, 1, 0, 2, 1]);
    assert_eq!(last_status(&world), AgentStatus::Fallback);
}

#[test]
fn wrong_credentials_are_not_tried_again() {
    let mut world = down(vec!["only"], Vec::new());
    answer(&mut world, ms(200), 1, None);
    world.run(ms(500));
    let error = AgentError { class: FailureClass::Auth, code: None, message: "the key was withdrawn".into() };
    world.agent_says(FromAgent::Ended(crate::message::AgentEnd { failure: Some(error) }));
    world.run(ms(50));
    assert_eq!((world.dialled.as_slice(), record(&world).agents.len()), (&[0][..], 1));
}

#[test]
fn what_an_agent_has_said_before_it_died_is_heard_to_its_end_before_the_call_ends() {
    let mut world = down(vec!["only"], Vec::new());
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(500), 1, None);
    world.lose_agent();
    world.run(ms(300));
    assert!(world.ended.is_none());
    world.run(ms(500));
    assert_eq!(heard_values(&world), [1; 25]);
    record(&world);
}

#[test]
fn a_spoken_clip_is_heard_whole_and_then_the_call_ends() {
    let mut world = down(vec!["-first", "-second"], vec![DownStep::Announce(announcement(ms(400), 9))]);
    assert!(world.ended.is_none(), "it is being heard");
    assert_eq!(last_status(&world), AgentStatus::Down);
    world.run(ms(1_000));
    assert_eq!(heard_values(&world), [9; 20]);
    assert_eq!((record(&world).down_steps.as_slice(), record(&world).dials), (&["clip"][..], 2));
}

#[test]
fn what_is_written_while_everybody_is_down_is_kept_and_answered_by_the_agent_that_is_back() {
    let mut world = down(vec!["first", "second"], vec![keep(ms(60_000))]);
    answer(&mut world, ms(200), 1, None);
    world.run(ms(500));
    lose_all(&mut world);
    let told = statuses(&world).pop().unwrap();
    assert_eq!((told.status, told.reason.as_deref()), (AgentStatus::Down, Some("unreachable")));
    assert!(told.retry_after_ms.is_some_and(|ms| ms <= 1_000), "{told:?}");
    writes(&mut world, "m1", "are you there?");
    writes(&mut world, "m2", "hello?");
    world.run(ms(20_000));
    assert!(world.ended.is_none() && messages(&world).is_empty());
    world.unreachable = false;
    world.run(ms(31_000));
    assert_eq!(messages(&world), ["are you there?", "hello?"]);
    assert!(last_context(&world).is_empty(), "they are told once");
    assert_eq!(last_status(&world), AgentStatus::Ready, "the first one is tried first");
    answers_in_writing(&mut world, "I am back.");
    let back = world.client.messages.iter().any(|m| matches!(m, ToClient::Message(m) if m.text == "I am back."));
    assert!(back);
    let recovered =
        |measure: &Measure| matches!(measure, Measure::Down { recovered: true, span } if *span > ms(20_000));
    assert!(world.measures.iter().any(recovered), "{:?}", world.measures);
}

#[test]
fn one_message_more_than_are_kept_is_refused_and_counted_and_no_part_of_the_conversation() {
    let mut world = down(vec!["first"], vec![keep(ms(60_000))]);
    lose_all(&mut world);
    for n in 0..33 {
        writes(&mut world, &format!("m{n}"), &format!("number {n}"));
    }
    let refused = world
        .client
        .messages
        .iter()
        .filter(|message| matches!(message, ToClient::Error(error) if error.field.as_deref() == Some("id")));
    assert_eq!(refused.count(), 1);
    assert_eq!(world.measures.iter().filter(|measure| **measure == Measure::MessageNotKept).count(), 1);
    world.unreachable = false;
    world.run(ms(31_000));
    assert_eq!(messages(&world).len(), 32);
    assert!(last_context(&world).is_empty());
}

#[test]
fn messages_are_kept_no_longer_than_the_route_says_and_the_caller_is_not_idle_meanwhile() {
    let when_down = vec![keep(ms(200_000)), DownStep::Announce(announcement(ms(200), 9))];
    let mut world = down(vec!["-first"], when_down);
    world.run(ms(199_000));
    assert!(world.ended.is_none(), "nobody is idle who waits");
    world.run(ms(2_000));
    assert_eq!(heard_values(&world), [9; 10]);
    assert_eq!(record(&world).down_steps, ["keep", "clip"]);
    assert!((200_000..201_000).contains(&record(&world).down_ms), "{}", record(&world).down_ms);
    let ended = |measure: &Measure| matches!(measure, Measure::Down { recovered: false, .. });
    assert!(world.measures.iter().any(ended));
}

#[test]
fn agents_that_stay_away_are_dialled_ever_more_rarely() {
    let mut world = down(vec!["-first", "-second"], vec![keep(ms(600_000))]);
    world.run(ms(590_000));
    // Two agents a round; pauses of 15 s on average once they have grown.
    assert!((40..140).contains(&world.dialled.len()), "{} dials in ten minutes", world.dialled.len());
    let late = world.dialled.len();
    world.run(ms(9_000));
    assert!(world.dialled.len() <= late + 4);
}

#[test]
fn text_goes_to_another_agent_until_one_that_speaks_is_back() {
    let when_down = vec![DownStep::Text("=writer".into()), keep(ms(60_000))];
    let mut world = down(vec!["first", "=writer"], when_down);
    answer(&mut world, ms(200), 1, None);
    world.run(ms(500));
    lose_all(&mut world);
    assert_eq!(last_status(&world), AgentStatus::Text);
    writes(&mut world, "m1", "can you read this?");
    assert_eq!(messages(&world), ["can you read this?"]);
    answers_in_writing(&mut world, "I can.");
    let writer = world.upstream;
    world.unreachable = false;
    world.run(ms(31_000));
    assert_eq!((last_status(&world), world.hung_up.last()), (AgentStatus::Ready, Some(&writer)));
    let context: Vec<_> = last_context(&world).into_iter().map(|item| item.text).collect();
    assert_eq!(context, ["can you read this?", "I can."]);
    answer(&mut world, ms(200), 2, None);
    world.run(ms(500));
    assert_eq!(heard_values(&world), [[1; 10], [2; 10]].concat());
}

#[test]
fn an_answer_in_writing_comes_to_its_end_before_the_agent_that_is_back_takes_over() {
    let mut world = down(vec!["first", "=writer"], vec![DownStep::Text("=writer".into())]);
    lose_all(&mut world);
    let writer = world.upstream;
    writes(&mut world, "m1", "can you read this?");
    world.unreachable = false;
    world.run(ms(3_000));
    assert!(world.standby.is_some() && world.upstream == writer, "it waits");
    answers_in_writing(&mut world, "I can.");
    assert_ne!(world.upstream, writer);
    assert_eq!(messages(&world), ["can you read this?"], "it is not asked twice");
}

#[test]
fn a_message_that_nobody_answers_in_writing_goes_to_the_agent_that_is_back() {
    let mut world = down(vec!["first", "=writer"], vec![DownStep::Text("=writer".into())]);
    lose_all(&mut world);
    writes(&mut world, "m1", "can you read this?");
    world.unreachable = false;
    world.run(ms(15_000));
    assert_eq!(messages(&world), ["can you read this?"; 2]);
    assert_eq!(last_status(&world), AgentStatus::Ready);
}

#[test]
fn each_step_follows_when_the_one_before_is_over() {
    let when_down = vec![
        DownStep::Announce(announcement(ms(200), 9)),
        DownStep::Text("=writer".into()),
        keep(ms(5_000)),
        DownStep::Announce(announcement(ms(200), 8)),
    ];
    let mut world = down(vec!["first", "=writer"], when_down);
    lose_all(&mut world);
    world.run(ms(1_000));
    assert_eq!((heard_values(&world), last_status(&world)), (vec![9; 10], AgentStatus::Text));
    world.lose_agent();
    world.run(ms(50));
    assert_eq!(last_status(&world), AgentStatus::Down);
    writes(&mut world, "m1", "anybody?");
    world.run(ms(6_000));
    assert_eq!(heard_values(&world), [[9; 10], [8; 10]].concat());
    assert_eq!(record(&world).down_steps, ["clip", "text", "keep", "clip"]);
    let error = world.client.messages.iter().rev().find_map(|message| match message {
        ToClient::Error(error) => Some(error.code),
        _ => None,
    });
    assert_eq!(error, Some(crate::message::ErrorCode::AgentUnavailable));
}

#[test]
fn two_dead_agents_before_one_that_is_well_cost_one_hedge_delay_each() {
    let policy = Policy { hedge: ms(300), ..Policy::default() };
    let build = WorldBuilder { agents: vec!["?a", "?b", "c"], pool: 3, policy, ..WorldBuilder::default() };
    let mut world = build.start();
    world.run(ms(310));
    assert_eq!(world.dialled, [0, 1]);
    world.run(ms(310));
    assert_eq!(world.dialled, [0, 1, 2]);
    assert_eq!(last_status(&world), AgentStatus::Fallback);
    world.run(ms(20_000));
    assert_eq!((world.dialled.len(), world.hung_up.len()), (3, 2));
}

#[test]
fn a_hedge_that_cannot_be_reached_makes_room_for_the_next_at_once() {
    let policy = Policy { hedge: ms(300), ..Policy::default() };
    let build = WorldBuilder { agents: vec!["?a", "-b", "c"], pool: 3, policy, ..WorldBuilder::default() };
    let mut world = build.start();
    world.run(ms(350));
    assert_eq!((world.dialled.as_slice(), last_status(&world)), (&[0, 1, 2][..], AgentStatus::Fallback));
}

#[test]
fn an_error_of_a_class_that_the_route_names_counts_as_a_failure_while_the_caller_waits() {
    let limit = || AgentError { class: FailureClass::Limit, code: None, message: "no more tokens".into() };
    let mut world = down(vec!["first", "second"], Vec::new());
    world.agent_says(FromAgent::Error(limit()));
    assert_eq!(world.dialled, [0], "nobody waits for anything");
    world.agent_says(FromAgent::Speech(SpeechEvent::Started));
    world.agent_says(FromAgent::Speech(SpeechEvent::Stopped));
    let harmless = AgentError { class: FailureClass::Internal, code: None, message: "hiccup".into() };
    world.agent_says(FromAgent::Error(harmless));
    assert_eq!(world.dialled, [0]);
    world.agent_says(FromAgent::Error(limit()));
    world.run(ms(50));
    assert_eq!(world.dialled, [0, 1]);
    let failovers: Vec<_> = world.measures.iter().filter(|m| matches!(m, Measure::Failover { .. })).collect();
    assert_eq!(failovers, [&Measure::Failover { reason: "limit" }]);
    let asked = world.told_agent.iter().any(|(_, message)| {
        matches!(message, ToAgent::Start(start) if matches!(start.setup.greeting, Some(Greeting::Prompt(_))))
    });
    assert!(asked, "the next one is asked to answer");
}
