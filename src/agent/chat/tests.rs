use super::*;
use crate::agent::tests::golden::replay;
use crate::config::vendor::VendorKind;

fn agent(history: usize, vendor: Value) -> Chat {
    let settings =
        VendorAgent { history, api_key: Some("hidden".to_owned().into()), ..VendorAgent::example(VendorKind::Chat) };
    Chat::new(&settings, vendor)
}

/// What the session is told.
fn events(agent: &mut Chat) -> Vec<FromAgent> {
    let mut events = Vec::new();
    loop {
        match agent.poll(Micros(0)) {
            AgentOutput::Event(event) => events.push(event),
            AgentOutput::Idle { .. } => return events,
            _ => {}
        }
    }
}

#[test]
fn a_conversation_goes_as_recorded() {
    replay("chat/conversation.txt", &mut agent(20, json!({"temperature": 0.2})));
}

#[test]
fn only_the_last_messages_are_sent_and_no_result_without_its_call() {
    let mut history = History::new(3);
    for n in 0..4 {
        history.push(json!({"role": "user", "content": n.to_string()}));
    }
    assert_eq!(history.messages().count(), 3);
    history.push(json!({"role": "assistant", "tool_calls": [{"id": "t"}]}));
    history.push(json!({"role": "tool", "tool_call_id": "t", "content": "r"}));
    history.push(json!({"role": "user", "content": "a"}));
    assert_eq!(history.messages().count(), 3);
    history.push(json!({"role": "user", "content": "b"}));
    let left: Vec<&Value> = history.messages().map(|message| &message["content"]).collect();
    assert_eq!(left, ["a", "b"]);
    history.push(json!({"role": "user", "content": "ä".repeat(50_000)}));
    assert!(history.messages().all(|message| message["content"].as_str().is_some_and(|text| text.len() <= 64 << 10)));
}

#[test]
fn what_is_written_meanwhile_waits_up_to_a_bound_and_beyond_it_is_refused() {
    let mut agent = agent(20, Value::Null);
    (0..=MAX_LATER).for_each(|n| agent.handle_message(n.to_string()));
    let refused = |event: &FromAgent| matches!(event, FromAgent::Error(_));
    assert!(!events(&mut agent).iter().any(refused));
    agent.handle_message("one too many".into());
    assert!(matches!(&events(&mut agent)[..], [event] if refused(event)));
}

#[test]
fn a_refusal_of_the_first_request_ends_it_and_a_later_one_does_not() {
    for (class, ends) in [
        (FailureClass::Auth, true),
        (FailureClass::BadRequest, true),
        (FailureClass::Unreachable, true),
        (FailureClass::Limit, false),
        (FailureClass::Timeout, false),
    ] {
        for answered in [false, true] {
            let mut agent = agent(20, Value::Null);
            agent.answered = answered;
            agent.handle_message("hello".into());
            agent.handle_http(
                1,
                HttpEvent::Failed(AgentError { class, code: None, message: String::new() }),
                Micros(0),
            );
            let ended = events(&mut agent).iter().any(|event| matches!(event, FromAgent::Ended(_)));
            assert_eq!(ended, ends && !answered, "{class:?}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn a_stream_is_read_alike_however_it_is_cut(cuts in proptest::collection::vec(0usize..700, 0..6), noise in "\\PC{0,60}") {
        let text = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"Grüße\"}}}}]}}\r\n\r\n: {noise}\n{noise}\ndata: {{\"choices\":[{{\"delta\":{{\"content\":\" an alle\"}}}}]}}\n\ndata: [DONE]\n\n"
        );
        let whole = Events::default().read(&Bytes::from(text.clone()));
        let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at % (text.len() + 1)).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        let (mut events, mut found, mut from) = (Events::default(), Vec::new(), 0);
        for cut in cuts {
            found.extend(events.read(&Bytes::copy_from_slice(&text.as_bytes()[from..cut])));
            from = cut;
        }
        proptest::prop_assert_eq!(&found, &whole);
        proptest::prop_assert!(found.contains(&Event::Text(" an alle".into())));
    }
}
