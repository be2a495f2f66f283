//! States, texts, tools and agents that come and go.

use super::*;
use crate::message::{
    AgentStatus, AgentTranscript, CloseReason, ErrorCode, FromClient, Interrupt, Role, SetState, SpeechEvent,
    TextMessage, ToAgent, ToolCall, ToolResult,
};
use crate::route::plan::Policy;
use crate::session::Measure;
use crate::testkit::WorldBuilder;

fn errors(world: &World) -> Vec<ErrorCode> {
    let code = |message: &ToClient| match message {
        ToClient::Error(error) => Some(error.code),
        _ => None,
    };
    world.client.messages.iter().filter_map(code).collect()
}

fn statuses(world: &World) -> Vec<(AgentStatus, String)> {
    let status = |message: &ToClient| match message {
        ToClient::Agent(agent) => Some((agent.status, agent.name.as_ref().map_or(String::new(), ToString::to_string))),
        _ => None,
    };
    world.client.messages.iter().filter_map(status).collect()
}

#[test]
fn a_question_and_its_answer_walk_through_the_states() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    world.agent_says(FromAgent::Speech(SpeechEvent::Started));
    world.run(ms(800));
    world.agent_says(FromAgent::Speech(SpeechEvent::Stopped));
    world.run(ms(300));
    answer(&mut world, ms(1_000), 1, None);
    world.run(ms(2_000));
    use State::*;
    assert_eq!(states(&world), [Listening, Processing, Speaking, WaitingForUser]);
    world.client_says(FromClient::End);
    world.run(ms(100));
    assert_eq!(states(&world).last(), Some(&Ended));
    let (reason, record) = world.ended.as_ref().expect("the session is over");
    assert_eq!(*reason, CloseReason::ClientHangup);
    assert_eq!((record.turns, record.agent_audio_heard_ms, record.agent_audio_sent_ms), (1, 1_000, 1_000));
}

#[test]
fn a_client_that_asks_for_an_impossible_state_is_refused_and_nothing_changes() {
    let mut world = WorldBuilder::default().start();
    world.client_says(FromClient::State(SetState { to: State::Speaking }));
    world.run(ms(100));
    assert_eq!(errors(&world), [ErrorCode::InvalidTransition]);
    assert!(states(&world).is_empty());
    world.client_says(FromClient::State(SetState { to: State::Listening }));
    world.run(ms(100));
    assert_eq!(states(&world), [State::Listening]);
}

#[test]
fn an_interruption_cuts_the_text_to_what_was_heard_and_the_flush_goes_first() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(4_000), 1, None);
    world.agent_says(text(Role::Agent, "one two three four five six seven eight"));
    world.run(ms(2_000));
    let said = world.client.messages.len();
    world.client_says(FromClient::Interrupt(Interrupt::default()));
    world.run(ms(600));
    assert!(matches!(world.client.messages[said], ToClient::Flush(_)), "{:?}", world.client.messages[said]);
    let cut = world.client.messages.iter().rev().find_map(|message| match message {
        ToClient::Transcript(line) => Some(line.clone()),
        _ => None,
    });
    let line = cut.expect("the cut text is told");
    let (heard, text) = (line.heard.unwrap(), line.text.unwrap());
    assert!((1_800..2_100).contains(&heard.ms), "{heard:?}");
    assert!(text.starts_with("one two") && text.len() < 24, "{text}");
    assert_eq!(states(&world).last(), Some(&State::Listening));
}

#[test]
fn an_agent_that_cannot_be_reached_is_replaced_by_the_next_one() {
    let build = WorldBuilder { agents: vec!["-first", "-second", "third"], ..WorldBuilder::default() };
    let mut world = build.start();
    world.run(ms(100));
    assert_eq!(world.dialled, [0, 1, 2]);
    assert_eq!(statuses(&world).last(), Some(&(AgentStatus::Fallback, "third".into())));
    assert_eq!(world.measures.iter().filter(|m| matches!(m, Measure::UpstreamFailed { .. })).count(), 2);
    assert_eq!(world.measures.iter().filter(|m| matches!(m, Measure::Failover { reason: "unreachable" })).count(), 1);
    assert!(world.ended.is_none());
}

#[test]
fn an_agent_that_is_never_ready_is_given_up_after_its_time() {
    let policy = Policy { hedge: Duration::ZERO, ..Policy::default() };
    let build = WorldBuilder { agents: vec!["?silent", "second"], policy, ..WorldBuilder::default() };
    let mut world = build.start();
    world.run(ms(4_900));
    assert_eq!(world.dialled, [0]);
    world.run(ms(200));
    assert_eq!(world.dialled, [0, 1]);
}

#[test]
fn when_no_agent_is_left_the_client_is_told_why_and_the_call_ends() {
    let mut world = WorldBuilder { agents: vec!["-only"], ..WorldBuilder::default() }.start();
    world.run(ms(100));
    assert_eq!(statuses(&world).last().map(|(status, _)| *status), Some(AgentStatus::Down));
    assert_eq!(errors(&world), [ErrorCode::AgentUnavailable]);
    let (reason, record) = world.ended.as_ref().unwrap();
    assert_eq!(*reason, CloseReason::AgentFailed);
    assert_eq!(record.agents[0].ended.as_deref(), Some("unreachable: refused"));
    assert_eq!(world.detached, [(crate::ids::LinkId(0), 1013)]);
}

#[test]
fn an_agent_lost_in_mid_call_is_replaced_with_the_conversation_so_far_and_no_second_greeting() {
    let mut world = WorldBuilder { agents: vec!["first", "second"], ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world.agent_says(FromAgent::Speech(SpeechEvent::Started));
    world.agent_says(FromAgent::Speech(SpeechEvent::Stopped));
    world.agent_says(text(Role::User, "what is the time?"));
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(500), 1, None);
    world.agent_says(text(Role::Agent, "it is noon"));
    world.agent_says(FromAgent::TurnEnded);
    world.run(ms(1_500));
    world.lose_agent();
    world.run(ms(100));
    let start = world.told_agent.iter().rev().find_map(|(_, message)| match message {
        ToAgent::Start(start) => Some(start.clone()),
        _ => None,
    });
    let start = start.unwrap();
    let context: Vec<_> = start.context.iter().map(|item| (item.role, item.text.as_str())).collect();
    assert_eq!(context, [(Role::User, "what is the time?"), (Role::Agent, "it is noon")]);
    assert!(!start.greet);
    assert_eq!(statuses(&world).last(), Some(&(AgentStatus::Fallback, "second".into())));
}

#[test]
fn text_messages_wait_for_an_agent_that_is_not_ready() {
    let build = WorldBuilder { agents: vec!["?slow", "second"], ..WorldBuilder::default() };
    let mut world = build.start();
    world.client_says(FromClient::Message(TextMessage { id: "m1".into(), text: "hello".into(), role: None }));
    world.run(ms(6_000));
    let told = world.told_agent.iter().filter(|(_, m)| matches!(m, ToAgent::Message(m) if m.text == "hello"));
    assert_eq!(told.count(), 1);
}

#[test]
fn a_tool_call_is_answered_once() {
    let mut world = WorldBuilder::default().start();
    let call = ToolCall { call_id: "c1".into(), name: "look_up".into(), arguments: "{}".into() };
    world.agent_says(FromAgent::ToolCall(call.clone()));
    world.agent_says(FromAgent::ToolCall(call));
    world.run(ms(100));
    let calls = world.client.messages.iter().filter(|m| matches!(m, ToClient::ToolCall(_))).count();
    assert_eq!(calls, 1, "the same call is not made twice");
    let result = ToolResult { call_id: "c1".into(), output: "42".into(), is_error: false };
    world.client_says(FromClient::ToolResult(result.clone()));
    world.client_says(FromClient::ToolResult(result));
    world.run(ms(100));
    let results = world.told_agent.iter().filter(|(_, m)| matches!(m, ToAgent::ToolResult(_))).count();
    assert_eq!((results, errors(&world)), (1, vec![ErrorCode::NotFound]));
}

#[test]
fn a_tool_runs_once_though_its_agent_dies_and_the_next_one_gets_the_result() {
    let mut world = WorldBuilder { agents: vec!["first", "second"], ..WorldBuilder::default() }.start();
    let call = |id: &str| ToolCall { call_id: id.into(), name: "look_up".into(), arguments: "{}".into() };
    world.agent_says(FromAgent::ToolCall(call("c1")));
    world.run(ms(100));
    world.lose_agent();
    world.run(ms(100));
    world.agent_says(FromAgent::ToolCall(call("x9")));
    let result = ToolResult { call_id: "c1".into(), output: "42".into(), is_error: false };
    world.client_says(FromClient::ToolResult(result));
    world.run(ms(100));
    let calls = world.client.messages.iter().filter(|m| matches!(m, ToClient::ToolCall(_))).count();
    assert_eq!((calls, errors(&world)), (1, vec![]));
    let answer = world.told_agent.iter().find_map(|(_, message)| match message {
        ToAgent::ToolResult(result) => Some((result.call_id.as_str(), result.output.as_str())),
        _ => None,
    });
    assert_eq!(answer, Some(("x9", "42")), "as the second agent knows the call");
}

#[test]
fn a_set_up_field_that_the_route_does_not_open_is_refused_by_name() {
    let mut build = WorldBuilder::default();
    build.policy.client_may.voice = true;
    let mut world = build.start();
    let setup = crate::message::Setup {
        voice: Some("cedar".into()),
        model: Some("big".into()),
        ..crate::message::Setup::default()
    };
    world.client_says(FromClient::Update(crate::message::Update { setup }));
    world.run(ms(100));
    let field = world.client.messages.iter().find_map(|message| match message {
        ToClient::Error(error) => error.field.clone(),
        _ => None,
    });
    assert_eq!(field.as_deref(), Some("setup.model"));
    let updates: Vec<_> = world.told_agent.iter().filter(|(_, m)| matches!(m, ToAgent::Update(_))).collect();
    assert!(matches!(&updates[..], [(_, ToAgent::Update(setup))] if setup.voice.is_some() && setup.model.is_none()));
}

#[test]
fn the_last_words_of_an_agent_that_hangs_up_are_heard() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    answer(&mut world, ms(2_000), 1, None);
    world.agent_says(FromAgent::Ended(crate::message::AgentEnd { failure: None }));
    world.run(ms(500));
    world.lose_agent();
    assert!(world.ended.is_none(), "that it closes its connection then is nothing new");
    world.run(ms(3_000));
    assert_eq!(world.client.played(), ms(2_000));
    assert_eq!(world.ended.as_ref().map(|(reason, _)| *reason), Some(CloseReason::AgentHangup));
}

#[test]
fn a_turn_and_its_text_name_the_same_item_even_if_the_text_came_first() {
    for item in [None, Some("theirs")] {
        let mut world = WorldBuilder::default().start();
        world.run(ms(100));
        let early = AgentTranscript {
            item: item.map(Into::into),
            role: Role::Agent,
            text: "hello".into(),
            append: false,
            is_final: true,
        };
        world.agent_says(FromAgent::TurnStarted(item.map(Into::into)));
        world.agent_says(FromAgent::Transcript(early));
        world.agent_speaks(ms(500), 1, item);
        world.agent_says(FromAgent::TurnEnded);
        world.run(ms(1_000));
        let turn = world.client.messages.iter().find_map(|message| match message {
            ToClient::Turn(turn) => Some(turn.clone()),
            _ => None,
        });
        let line = world.client.messages.iter().rev().find_map(|message| match message {
            ToClient::Transcript(line) => Some(line.clone()),
            _ => None,
        });
        let (turn, line) = (turn.unwrap(), line.unwrap());
        assert_eq!((turn.item.as_ref(), turn.turn), (Some(&line.item), line.turn));
    }
}

#[test]
fn an_item_that_goes_on_before_its_end_was_told_is_one_turn() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    for _ in 0..2 {
        world.agent_speaks(ms(1_000), 1, Some("a"));
        world.agent_says(FromAgent::TurnEnded);
        world.run(ms(100));
    }
    world.run(ms(3_000));
    let told = world.client.messages.iter().filter_map(|message| match message {
        ToClient::Turn(turn) => Some((turn.turn.0, turn.phase)),
        _ => None,
    });
    let phases: Vec<_> = told.collect();
    assert_eq!(phases, [(1, crate::message::TurnPhase::Start), (1, crate::message::TurnPhase::End)]);
    assert_eq!(world.client.played(), ms(2_000));
}
