use super::*;
use crate::agent::audio_json::encode;
use crate::config::vendor::VendorKind;

const T0: Micros = Micros(1);

fn agent() -> OpenaiAgent {
    let settings = VendorAgent::example(VendorKind::Openai);
    OpenaiAgent::new(&settings, Value::Null, Some("gpt-realtime".into()))
}

fn hear(agent: &mut OpenaiAgent, text: &str) -> (Vec<Value>, Vec<FromAgent>) {
    agent.handle_wire(Wire::Text(text.to_owned()), T0);
    drain(agent)
}

fn drain(agent: &mut OpenaiAgent) -> (Vec<Value>, Vec<FromAgent>) {
    let (mut wires, mut events) = (Vec::new(), Vec::new());
    loop {
        match agent.poll(T0) {
            AgentOutput::Wire(Wire::Text(text)) => wires.push(serde_json::from_str(&text).unwrap()),
            AgentOutput::Event(event) => events.push(event),
            _ => return (wires, events),
        }
    }
}

#[test]
fn a_call_goes_as_recorded() {
    let tool = crate::message::ToolDefinition {
        name: "lookup_order".into(),
        description: "Find an order".into(),
        parameters: json!({ "type": "object" }),
    };
    let tools = std::sync::Arc::new([("lookup_order".to_owned(), tool)].into_iter().collect());
    let settings = VendorAgent { tools, ..VendorAgent::example(VendorKind::Openai) };
    let vendor = json!({ "audio": { "input": { "noise_reduction": { "type": "near_field" } } } });
    let mut agent = OpenaiAgent::new(&settings, vendor, Some("gpt-realtime".into()));
    crate::agent::tests::golden::replay("openai/call.txt", &mut agent);
}

#[test]
fn a_conversation_that_is_continued_goes_as_recorded() {
    crate::agent::tests::golden::replay("openai/continued.txt", &mut agent());
}

#[test]
fn an_interrupted_item_is_cut_to_what_was_heard_and_its_late_audio_is_dropped() {
    let mut agent = agent();
    assert!(matches!(hear(&mut agent, r#"{"type":"session.updated","session":{}}"#).1[..], [FromAgent::Ready(_)]));
    hear(&mut agent, r#"{"type":"response.created","response":{}}"#);
    let delta = encode(r#"{"type":"response.output_audio.delta","item_id":"i","delta":""#, &[0; 4800], "\"}");
    let events = hear(&mut agent, &delta).1;
    assert!(matches!(events[..], [FromAgent::TurnStarted(Some(_)), FromAgent::Audio(_)]), "{events:?}");
    let events = hear(&mut agent, r#"{"type":"input_audio_buffer.speech_started","item_id":"u"}"#).1;
    assert!(
        matches!(
            events[..],
            [FromAgent::Interrupted, FromAgent::TurnEnded, FromAgent::Speech(_), FromAgent::Utterance(_)]
        ),
        "{events:?}"
    );
    assert!(hear(&mut agent, &delta).1.is_empty());
    let (heard, of) = (Duration::from_secs(9), Duration::from_secs(9));
    let (basis, error) = (crate::message::Basis::Paced, Duration::ZERO);
    let turn = crate::ids::TurnId(1);
    agent.handle_session(ToAgent::Truncate(Truncate { turn, item: Some("i".into()), heard, of, basis, error }), T0);
    let wires = drain(&mut agent).0;
    assert_eq!((&wires[0]["type"], &wires[0]["audio_end_ms"]), (&json!("conversation.item.truncate"), &json!(100)));
}

#[test]
fn errors_that_crossed_mean_nothing_others_are_told_and_an_expired_session_ends() {
    let mut agent = agent();
    hear(&mut agent, r#"{"type":"session.updated","session":{}}"#);
    let error = r#"{"type":"error","error":{"type":"invalid_request_error","code":"x","message":"m","event_id":"antiphon_x_1"}}"#;
    assert!(hear(&mut agent, error).1.is_empty());
    let events = hear(&mut agent, &error.replace("antiphon_x_1", "")).1;
    assert!(matches!(&events[..], [FromAgent::Error(error)] if error.class == FailureClass::BadRequest));
    let events = hear(&mut agent, &error.replace("\"x\"", "\"session_expired\"")).1;
    assert!(
        matches!(&events[..], [FromAgent::Ended(end)] if end.failure.as_ref().unwrap().class == FailureClass::Expired)
    );
}
