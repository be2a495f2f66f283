//! Tools by HTTP: at most once, whatever becomes of the agent, and never for ever.

use super::*;
use crate::config::settings::{ToolRun, ToolSettings};
use crate::message::{CloseReason, ErrorCode, FromClient, ToAgent, Tool, ToolCall, ToolDefinition, ToolResult};
use crate::session::{Measure, ToolOutcome, ToolPost, ToolRunner};
use crate::testkit::WorldBuilder;

fn tools() -> std::collections::BTreeMap<String, ToolSettings> {
    let tool = |run| ToolSettings {
        description: "d".into(),
        parameters: serde_json::json!({"type": "object"}),
        run,
        filler: None,
    };
    let url = "http://127.0.0.1:9/".parse().expect("a URL");
    let http = tool(ToolRun::Http { url, secret: None, timeout: ms(5_000) });
    let client = tool(ToolRun::Client { timeout: ms(2_000) });
    [("ask".to_owned(), client), ("look_up".to_owned(), http)].into()
}

fn start(build: WorldBuilder) -> World {
    let mut world = WorldBuilder { tools: tools(), ..build }.start();
    world.run(ms(100));
    world
}

fn call(id: &str, name: &str, arguments: &str) -> FromAgent {
    FromAgent::ToolCall(ToolCall { call_id: id.into(), name: name.into(), arguments: arguments.into() })
}

/// What clients were told of tools that the relay runs.
fn statuses(world: &World) -> Vec<&str> {
    world
        .client
        .messages
        .iter()
        .filter_map(|message| if let ToClient::Tool(tool) = message { Some(tool.status.as_str()) } else { None })
        .collect()
}

/// The results that agents got: call, output, whether it is an error.
fn results(world: &World) -> Vec<(String, String, bool)> {
    let result = |(_, message): &(_, ToAgent)| match message {
        ToAgent::ToolResult(ToolResult { call_id, output, is_error }) => {
            Some((call_id.to_string(), output.clone(), *is_error))
        }
        _ => None,
    };
    world.told_agent.iter().filter_map(result).collect()
}

fn outcomes(world: &World) -> Vec<(Option<usize>, ToolOutcome)> {
    let outcome = |measure: &Measure| match measure {
        Measure::Tool { tool, outcome, .. } => Some((*tool, *outcome)),
        _ => None,
    };
    world.measures.iter().filter_map(outcome).collect()
}

fn body(post: &ToolPost) -> serde_json::Value {
    serde_json::from_slice(&post.body).expect("JSON")
}

#[test]
fn a_tool_is_posted_with_what_it_needs_to_know_and_its_answer_goes_to_the_agent() {
    let mut world = start(WorldBuilder::default());
    world.agent_says(call("c1", "look_up", r#"{"number": 17}"#));
    world.run(ms(300));
    let post = world.posted.pop().expect("posted");
    assert_eq!((post.tool, post.key.as_str()), (1, "s-1"));
    let body = body(&post);
    assert_eq!(
        (&body["call_id"], &body["name"], &body["arguments"]["number"]),
        (&"c1".into(), &"look_up".into(), &17.into())
    );
    assert_eq!(
        (&body["session_id"], &body["conversation_id"], &body["agent"]),
        (&"s".into(), &"c".into(), &"agent".into())
    );
    world.tool_answers(&post.call_id, 200, r#"{"status":"shipped"}"#);
    world.tool_answers(&post.call_id, 200, "again");
    world.run(ms(100));
    assert_eq!(results(&world), [("c1".into(), r#"{"status":"shipped"}"#.into(), false)]);
    assert_eq!(statuses(&world), ["running", "done"]);
    assert_eq!(outcomes(&world), [(Some(1), ToolOutcome::Ok)]);
    world.client_says(FromClient::End);
    world.run(ms(100));
    let (_, record) = world.ended.as_ref().expect("ended");
    let entry = &record.tools[0];
    assert_eq!((entry.name.as_str(), entry.by, entry.took_ms), ("look_up", ToolRunner::Http, Some(300)));
}

#[test]
fn the_agent_dies_while_its_tool_runs_and_the_next_one_gets_the_result_of_the_one_request() {
    let mut world = start(WorldBuilder { agents: vec!["first", "second"], ..WorldBuilder::default() });
    world.agent_says(call("c1", "look_up", r#"{"number":17}"#));
    world.lose_agent();
    world.run(ms(100));
    world.agent_says(call("x9", "look_up", r#"{ "number": 17 }"#));
    let posted = std::mem::take(&mut world.posted);
    assert_eq!(posted.len(), 1, "it runs once");
    world.tool_answers(&posted[0].call_id, 200, "shipped");
    assert_eq!(results(&world), [("x9".into(), "shipped".into(), false)], "as the second agent knows the call");
}

#[test]
fn a_result_that_comes_while_the_next_agent_gets_ready_is_told_to_it() {
    let mut world = start(WorldBuilder { agents: vec!["first", "?second"], ..WorldBuilder::default() });
    world.agent_says(call("c1", "look_up", "{}"));
    world.lose_agent();
    world.run(ms(100));
    let post = world.posted.pop().expect("posted");
    world.tool_answers(&post.call_id, 200, "shipped");
    world.is_ready(world.upstream);
    let told = world.told_agent.iter().any(|(_, message)| {
        matches!(message, ToAgent::History(items) if items.iter().any(|item| item.text.contains("shipped")))
    });
    assert!(told, "{:?}", world.told_agent);
}

#[test]
fn a_tool_that_does_not_answer_is_broken_off_and_its_late_answer_is_nobodys() {
    let mut world = start(WorldBuilder::default());
    world.agent_says(call("c1", "look_up", "{}"));
    world.run(ms(4_900));
    assert!(world.aborted.is_empty() && results(&world).is_empty());
    world.run(ms(200));
    assert_eq!(world.aborted, ["c1".into()]);
    let [(id, output, true)] = &results(&world)[..] else { panic!("{:?}", results(&world)) };
    assert!(id == "c1" && output.contains("in time"), "{output}");
    world.tool_answers(&"c1".into(), 200, "late");
    assert_eq!(results(&world).len(), 1);
    assert_eq!(
        (statuses(&world), outcomes(&world)),
        (vec!["running", "timeout"], vec![(Some(1), ToolOutcome::Timeout)])
    );
}

#[test]
fn a_client_that_does_not_answer_loses_its_turn_and_may_not_answer_for_the_relay() {
    let mut world = start(WorldBuilder::default());
    world.agent_says(call("c1", "ask", "{}"));
    world.run(ms(2_100));
    assert_eq!((statuses(&world), results(&world).len()), (vec!["timeout"], 1));
    world.agent_says(call("c2", "look_up", "{}"));
    world.client_says(FromClient::ToolResult(ToolResult {
        call_id: "c2".into(),
        output: "free".into(),
        is_error: false,
    }));
    world.run(ms(100));
    assert_eq!(results(&world).len(), 1, "the client cannot answer what the relay asked");
    let refused =
        world.client.messages.iter().any(|m| matches!(m, ToClient::Error(e) if e.code == ErrorCode::NotFound));
    assert!(refused);
}

#[test]
fn a_call_that_the_agent_takes_back_is_broken_off_and_the_client_knows() {
    let mut world = start(WorldBuilder::default());
    world.agent_says(call("c1", "look_up", "{}"));
    world.agent_says(call("c2", "ask", "{}"));
    world.agent_says(FromAgent::ToolCancelled(vec!["c1".into(), "c2".into()]));
    world.run(ms(100));
    assert_eq!(world.aborted, ["c1".into()]);
    assert_eq!(statuses(&world), ["running", "cancelled", "cancelled"]);
    world.run(ms(10_000));
    assert!(results(&world).is_empty(), "nobody waits for it");
}

#[test]
fn the_relay_runs_only_what_the_set_up_gives_to_the_agent() {
    let mut build = WorldBuilder::default();
    build.policy.client_may.tools = true;
    let mut world = start(build);
    world.agent_says(call("c1", "drop_all", "{}"));
    let own =
        ToolDefinition { name: "look_up".into(), description: "mine".into(), parameters: serde_json::Value::Null };
    let setup = crate::message::Setup { tools: Some(vec![Tool::Defined(own)]), ..crate::message::Setup::default() };
    world.client_says(FromClient::Update(crate::message::Update { setup }));
    world.run(ms(100));
    for name in ["look_up", "ask", "end_call"] {
        world.agent_says(call(name, name, "{}"));
    }
    world.run(ms(100));
    assert!(world.posted.is_empty() && world.ended.is_none(), "the client runs what it defined, and what nobody did");
    let calls = world.client.messages.iter().filter(|message| matches!(message, ToClient::ToolCall(_)));
    assert_eq!(calls.count(), 4);
}

#[test]
fn arguments_that_are_no_json_are_refused_and_none_are_an_empty_object() {
    let mut world = start(WorldBuilder::default());
    world.agent_says(call("c1", "look_up", "{\"number\":"));
    world.agent_says(call("c2", "look_up", ""));
    assert!(matches!(&results(&world)[..], [(id, text, true)] if id == "c1" && text.contains("no JSON")));
    assert_eq!(body(&world.posted[0])["arguments"], serde_json::json!({}));
}

#[test]
fn too_many_calls_at_once_are_refused_without_being_run() {
    let mut world = start(WorldBuilder::default());
    for index in 0..70 {
        world.agent_says(call(&format!("c{index}"), "look_up", "{}"));
    }
    assert_eq!(world.posted.len(), 64);
    assert_eq!(outcomes(&world), [(Some(1), ToolOutcome::Refused); 6]);
    let mut keys: Vec<_> = world.posted.iter().map(|post| post.key.clone()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 64);
}

#[test]
fn end_call_ends_the_call_after_the_last_words() {
    let mut world = start(WorldBuilder::default());
    answer(&mut world, ms(1_000), 1, None);
    world.agent_says(call("c1", "end_call", "{}"));
    world.run(ms(500));
    assert!(world.ended.is_none(), "it still speaks");
    world.run(ms(2_000));
    assert_eq!(world.client.played(), ms(1_000));
    let (reason, record) = world.ended.as_ref().expect("ended");
    assert_eq!((*reason, record.tools[0].by), (CloseReason::AgentHangup, ToolRunner::Relay));
    assert_eq!(statuses(&world), ["done"]);
    assert!(results(&world).is_empty(), "it is not asked to answer");
}

/// A tool whose caller hears 200 ms of a clip, all of whose samples are 77, after a second.
fn with_filler() -> World {
    let wav = crate::media::clip::Clip { rate: 24_000, samples: vec![77; 4_800] }.to_wav();
    let clip = std::sync::Arc::new(crate::media::announcement::Announcement::parse(&wav).expect("a WAV file"));
    let mut tools = tools();
    tools.get_mut("look_up").expect("there").filler = Some(crate::config::settings::Filler { clip, after: ms(1_000) });
    let mut world = WorldBuilder { tools, ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world
}

#[test]
fn a_caller_who_waits_for_a_tool_hears_the_filler_once_and_then_the_answer() {
    let mut world = with_filler();
    world.agent_says(call("c1", "look_up", "{}"));
    world.run(ms(950));
    assert!(heard_values(&world).is_empty());
    world.run(ms(3_000));
    assert_eq!(heard_values(&world), [77; 10], "once");
    let post = world.posted.pop().expect("posted");
    world.tool_answers(&post.call_id, 200, "shipped");
    answer(&mut world, ms(100), 5, None);
    world.run(ms(500));
    assert_eq!(heard_values(&world), [vec![77; 10], vec![5; 5]].concat());
    let told = world.told_agent.iter().any(|(_, message)| matches!(message, ToAgent::Truncate(_) | ToAgent::Cancel(_)));
    assert!(!told, "the agent has nothing to do with it");
}

#[test]
fn a_filler_waits_until_the_agent_has_finished_and_a_quick_tool_has_none() {
    let mut world = with_filler();
    answer(&mut world, ms(2_000), 5, None);
    world.agent_says(call("c1", "look_up", "{}"));
    world.run(ms(3_500));
    assert_eq!(heard_values(&world), [vec![5; 100], vec![77; 10]].concat());
    world.agent_says(call("c2", "look_up", "{\"again\":1}"));
    world.run(ms(900));
    let post = world.posted.pop().expect("posted");
    world.tool_answers(&post.call_id, 200, "shipped");
    world.run(ms(3_000));
    assert_eq!(heard_values(&world).len(), 110, "it was quick");
}

/// The texts that agents were told as messages.
#[test]
fn an_agent_that_takes_over_while_a_tool_runs_is_asked_to_go_on_and_answers_by_the_result() {
    let mut world = start(WorldBuilder { agents: vec!["first", "second"], ..WorldBuilder::default() });
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_says(FromAgent::TurnEnded);
    world.agent_says(call("c1", "look_up", "{}"));
    world.lose_agent();
    world.run(ms(100));
    let asked = world.told_agent.iter().rev().find_map(|(_, message)| match message {
        ToAgent::Start(start) => Some(start.greet),
        _ => None,
    });
    assert_eq!(asked, Some(true), "the caller waits, though the first one had ended its turn");
    let post = world.posted.pop().expect("posted");
    world.tool_answers(&post.call_id, 200, "shipped");
    let [told] = messages(&world)[..] else { panic!("{:?}", messages(&world)) };
    assert!(told.contains("look_up") && told.contains("shipped") && told.contains("Go on"), "{told}");
}

#[test]
fn a_result_that_comes_before_the_next_agents_own_call_is_told_and_answers_that_call_too() {
    let mut world = start(WorldBuilder { agents: vec!["first", "second"], ..WorldBuilder::default() });
    world.agent_says(call("c1", "look_up", "{}"));
    world.lose_agent();
    world.run(ms(100));
    let post = world.posted.pop().expect("posted");
    world.tool_answers(&post.call_id, 200, "shipped");
    assert!(messages(&world).iter().any(|text| text.contains("shipped")), "{:?}", messages(&world));
    world.agent_says(call("x9", "look_up", "{}"));
    assert_eq!(results(&world), [("x9".into(), "shipped".into(), false)]);
    assert!(world.posted.is_empty(), "it runs once");
}

#[test]
fn a_tool_that_runs_over_a_rollover_is_posted_once_and_its_result_is_answered_by_the_fresh_session() {
    let mut world = start(WorldBuilder::default());
    world.agent_says(call("c1", "look_up", "{}"));
    world.agent_says(FromAgent::GoAway(ms(2_000)));
    world.run(ms(2_100));
    assert!(world.measures.iter().any(|measure| matches!(measure, Measure::Rollover)), "the time was over");
    let posted = std::mem::take(&mut world.posted);
    assert_eq!(posted.len(), 1);
    world.tool_answers(&posted[0].call_id, 200, "shipped");
    assert!(messages(&world).iter().any(|text| text.contains("shipped")), "{:?}", messages(&world));
}
