use super::*;

const FIRST: UpstreamId = UpstreamId(0);
const SECOND: UpstreamId = UpstreamId(1);
const CLIENT: Manner = Manner { runner: ToolRunner::Client, tool: None, timeout: None, filler: None };

fn call(id: &str, arguments: &str) -> ToolCall {
    ToolCall { call_id: id.into(), name: "look_up".into(), arguments: arguments.into() }
}

fn result(id: &str) -> ToolResult {
    ToolResult { call_id: id.into(), output: "42".into(), is_error: false }
}

fn at(ms: u64) -> Micros {
    Micros::from_millis(ms)
}

fn calls(tools: &mut Tools, by: UpstreamId, call: ToolCall) -> Verdict {
    tools.on_call(by, call, CLIENT, (Duration::ZERO, at(0)))
}

fn answered(tools: &mut Tools, result: ToolResult) -> Option<Delivery> {
    tools.on_result(result, ToolOutcome::Ok, at(0))?.delivery
}

#[test]
fn a_result_goes_to_the_agent_that_waits_for_it() {
    let mut tools = Tools::default();
    assert_eq!(calls(&mut tools, FIRST, call("c", "{}")), Verdict::Run(call("c", "{}"), 1));
    assert_eq!(calls(&mut tools, FIRST, call("c", "{}")), Verdict::Wait, "it came twice");
    assert_eq!(answered(&mut tools, result("c")), Some(Delivery::Answer(FIRST, result("c"))));
    assert_eq!(answered(&mut tools, result("c")), None, "it is answered once");
    let again = calls(&mut tools, FIRST, call("d", "{}"));
    assert_eq!(again, Verdict::Run(call("d", "{}"), 2), "the same agent may ask again");
}

#[test]
fn the_agent_that_takes_over_gets_the_result_and_its_own_same_call_does_not_run_again() {
    let mut tools = Tools::default();
    calls(&mut tools, FIRST, call("c", r#"{"a":1,"b":2}"#));
    tools.on_gone(FIRST);
    assert_eq!(calls(&mut tools, SECOND, call("x", r#"{ "b": 2, "a": 1 }"#)), Verdict::Wait);
    assert_eq!(answered(&mut tools, result("c")), Some(Delivery::Answer(SECOND, result("x"))));
}

#[test]
fn a_result_that_nobody_waits_for_is_told_and_answers_a_later_call() {
    let mut tools = Tools::default();
    calls(&mut tools, FIRST, call("c", "{}"));
    tools.on_gone(FIRST);
    let Some(Delivery::Tell(item)) = answered(&mut tools, result("c")) else { panic!("nobody waits") };
    assert!(item.text.contains("look_up") && item.text.contains("42"), "{}", item.text);
    assert_eq!(tools.context().collect::<Vec<_>>(), [item]);
    assert_eq!(calls(&mut tools, SECOND, call("x", "{}")), Verdict::Answer(result("x")));
}

#[test]
fn other_arguments_or_an_id_that_is_taken_are_another_call() {
    let mut tools = Tools::default();
    calls(&mut tools, FIRST, call("c", "{}"));
    tools.on_gone(FIRST);
    let Verdict::Run(run, number) = calls(&mut tools, SECOND, call("c", r#"{"a":1}"#)) else {
        panic!("it is another call")
    };
    assert!(run.call_id != CallId::from("c") && number == 2);
    let answer = ToolResult { call_id: run.call_id, ..result("") };
    assert_eq!(answered(&mut tools, answer), Some(Delivery::Answer(SECOND, result("c"))));
}

#[test]
fn a_result_is_kept_until_the_answer_to_it_was_heard() {
    let mut tools = Tools::default();
    calls(&mut tools, FIRST, call("c", "{}"));
    tools.on_turn(TurnId(1));
    answered(&mut tools, result("c"));
    tools.on_played(TurnId(1));
    assert_eq!(tools.context().count(), 1, "what was said before the result is not the answer");
    tools.on_turn(TurnId(2));
    assert_eq!(tools.context().count(), 1, "the answer was not heard yet");
    tools.on_played(TurnId(2));
    assert_eq!(tools.context().count(), 0);
}

#[test]
fn a_call_that_is_no_longer_wanted_is_forgotten() {
    let mut tools = Tools::default();
    calls(&mut tools, FIRST, call("c", "{}"));
    let cancelled = tools.on_cancelled(FIRST, &["c".into(), "d".into()], at(7));
    assert!(matches!(&cancelled[..], [one] if one.call_id == "c".into() && one.delivery.is_none()), "{cancelled:?}");
    assert_eq!(answered(&mut tools, result("c")), None);
    assert_eq!((tools.entries()[0].took_ms, tools.entries()[0].result), (Some(7), ToolOutcome::Cancelled));
}

#[test]
fn a_call_that_takes_long_is_due_for_its_filler_once_and_for_its_end_once() {
    let mut tools = Tools::default();
    let (timeout, filler) = (Some(Duration::from_millis(500)), Some(Duration::from_millis(100)));
    let manner = Manner { runner: ToolRunner::Http, tool: Some(3), timeout, filler };
    tools.on_call(FIRST, call("c", "{}"), manner, (Duration::ZERO, at(0)));
    assert_eq!((tools.deadline(), tools.take_due(at(99))), (Some(at(100)), None));
    assert_eq!(
        (tools.take_due(at(100)), tools.take_due(at(100))),
        (Some(Due::Filler { call_id: "c".into(), tool: 3 }), None)
    );
    assert_eq!(tools.deadline(), Some(at(500)));
    assert_eq!((tools.take_due(at(500)), tools.take_due(at(500))), (Some(Due::TimedOut("c".into())), None));
    tools.on_result(result("c"), ToolOutcome::Timeout, at(500));
    assert_eq!(tools.deadline(), None);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut tools = Tools::default();
    for index in 0..1000 {
        let id = format!("c{index}");
        calls(&mut tools, FIRST, call(&id, "{}"));
        answered(&mut tools, result(&id));
    }
    assert_eq!(tools.context().count(), MAX_RESULTS);
    assert_eq!(tools.entries().len(), MAX_ENTRIES);
    let runs =
        (0..100).filter(|index| matches!(calls(&mut tools, FIRST, call(&format!("r{index}"), "{}")), Verdict::Run(..)));
    assert_eq!(runs.count(), MAX_RUNNING);
}
