use serde_json::json;

use super::*;
use crate::agent::tests::golden::replay;
use crate::config::vendor::VendorKind;

fn settings() -> VendorAgent {
    let tool = |name: &str| {
        (
            name.to_owned(),
            crate::message::ToolDefinition {
                name: name.to_owned(),
                description: "Finds an order".into(),
                parameters: Value::Null,
            },
        )
    };
    let tools = [tool("lookup_order"), tool("delegate")].into_iter().collect();
    VendorAgent { tools: std::sync::Arc::new(tools), ..VendorAgent::example(VendorKind::Live) }
}

#[test]
fn a_call_in_which_a_model_behind_the_session_calls_a_tool() {
    let vendor = json!({"delegation": {"type": "responses", "responses": {"model": "gpt-5.5"}}});
    replay("live/responses.txt", &mut LiveAgent::new(&settings(), vendor, None));
}

#[test]
fn a_call_in_which_the_application_does_what_is_handed_over() {
    replay("live/client.txt", &mut LiveAgent::new(&settings(), Value::Null, Some("gpt-live-1-mini".into())));
}

#[test]
fn a_session_that_does_not_start_and_one_that_expires_end_with_their_class() {
    let end = |events: &[&str]| {
        let mut agent = LiveAgent::new(&settings(), Value::Null, None);
        for event in events {
            agent.handle_wire(Wire::Text((*event).to_owned()), Micros(1));
        }
        loop {
            match agent.poll(Micros(1)) {
                AgentOutput::Event(FromAgent::Ended(end)) => break end.failure.map(|failure| failure.class),
                AgentOutput::Idle { .. } => panic!("it goes on"),
                _ => {}
            }
        }
    };
    let error = r#"{"type":"error","error":{"type":"invalid_request_error","code":"unknown_parameter","message":"m"}}"#;
    assert_eq!(end(&[error]), Some(FailureClass::BadRequest));
    let started = r#"{"type":"session.started","session":{}}"#;
    let closed = |reason: &str| format!(r#"{{"type":"session.closed","reason":"{reason}","usage":{{"seconds":1}}}}"#);
    assert_eq!(end(&[started, &closed("expired")]), Some(FailureClass::Expired));
    assert_eq!(end(&[started, &closed("connection_lost")]), Some(FailureClass::Lost));
    assert_eq!(end(&[started, &closed("content")]), None);
    assert_eq!(end(&[started, error, &closed("close_requested")]), None);
}
