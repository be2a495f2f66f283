use super::*;
use crate::agent::tests::golden::replay;
use crate::config::vendor::VendorKind;

fn settings() -> VendorAgent {
    VendorAgent { api_key: Some("hidden".to_owned().into()), ..VendorAgent::example(VendorKind::Gemini) }
}

fn agent() -> Gemini {
    Gemini::new(&settings(), Value::Null)
}

#[test]
fn a_call_goes_as_recorded() {
    replay("gemini/conversation.txt", &mut agent());
}

#[test]
fn a_conversation_goes_on_over_new_connections_as_recorded() {
    let vendor = json!({"generationConfig": {"temperature": 0.5}, "sessionResumption": {"transparent": true}});
    replay("gemini/resumption.txt", &mut Gemini::new(&settings(), vendor));
}

#[test]
fn an_answer_that_a_lost_connection_broke_off_goes_on_as_recorded() {
    replay("gemini/lost.txt", &mut agent());
}

#[test]
fn the_key_goes_into_a_header_and_not_into_the_url() {
    let endpoint = agent().endpoint().unwrap();
    assert_eq!(endpoint.headers[0].0, "x-goog-api-key");
    assert!(!endpoint.url.as_str().contains("hidden"));
}

#[test]
fn closings_tell_the_class_of_the_failure() {
    for (code, reason, class) in [
        (1007, "API key not valid. Please pass a valid API key.", FailureClass::Auth),
        (1007, "Request contains an invalid argument.", FailureClass::BadRequest),
        (1008, "models/x is not found for API version v1beta", FailureClass::BadRequest),
        (1008, "Session duration limit reached", FailureClass::Expired),
        (1011, "You exceeded your current quota, please check your plan", FailureClass::Limit),
        (1011, "Internal error encountered.", FailureClass::Internal),
        (1006, "", FailureClass::Lost),
        (1000, "", FailureClass::Protocol),
    ] {
        assert_eq!(wire::class_of_close(code, reason), class, "{code} {reason}");
    }
}

#[test]
fn audio_in_binary_frames_is_read_too() {
    let mut agent = agent();
    let text = r#"{"serverContent":{"modelTurn":{"parts":[{"inlineData":{"mimeType":"audio/pcm;rate=16000","data":"AAAAAA=="}}]}}}"#;
    agent.handle_wire(Wire::Binary(text.as_bytes().to_vec().into()), Micros(0));
    let mut events = std::iter::from_fn(|| match agent.poll(Micros(0)) {
        AgentOutput::Event(event) => Some(event),
        _ => None,
    });
    assert!(matches!(events.next(), Some(FromAgent::Ready(ready)) if ready.downlink == Format::pcm16(16_000)));
    assert!(matches!(events.next(), Some(FromAgent::TurnStarted(Some(_)))));
    assert!(matches!(events.next(), Some(FromAgent::Audio(audio)) if audio.payload.len() == 4));
}

/// The caller's audio that it says to have dropped.
fn dropped(agent: &mut Gemini) -> Duration {
    let mut dropped = Duration::ZERO;
    loop {
        match agent.poll(Micros(0)) {
            AgentOutput::Event(FromAgent::Dropped(audio)) => dropped += audio,
            AgentOutput::Idle { .. } => return dropped,
            _ => {}
        }
    }
}

#[test]
fn a_manual_turn_is_marked_and_audio_kept_over_a_new_connection_is_bounded() {
    let mut agent = agent();
    let setup = serde_json::from_value(json!({"turns": {"detect": "manual"}})).unwrap();
    agent.handle_session(ToAgent::Start(start(setup)), Micros(0));
    let mut texts = vec![];
    let mut drain = |agent: &mut Gemini| {
        loop {
            match agent.poll(Micros(0)) {
                AgentOutput::Wire(Wire::Text(text)) => texts.push(text),
                AgentOutput::Idle { .. } => return texts.split_off(0),
                _ => {}
            }
        }
    };
    assert!(drain(&mut agent)[0].contains(r#""automaticActivityDetection":{"disabled":true}"#));
    agent.handle_wire(Wire::Text(r#"{"setupComplete":{}}"#.into()), Micros(0));
    for action in [InputAction::Start, InputAction::Commit] {
        agent.handle_session(ToAgent::Input(Input { action }), Micros(0));
    }
    let marks = [r#"{"realtimeInput":{"activityStart":{}}}"#, r#"{"realtimeInput":{"activityEnd":{}}}"#];
    assert_eq!(drain(&mut agent), marks);
    let handle = r#"{"sessionResumptionUpdate":{"newHandle":"h","resumable":true},"goAway":{"timeLeft":"1s"}}"#;
    agent.handle_wire(Wire::Text(handle.into()), Micros(0));
    for n in 0..200u64 {
        let payload = vec![n as u8; 640].into();
        let frame = AgentAudioOut { pos: n * 320, ticks: 320, ready: Micros(0), filled: false, payload };
        agent.handle_session(ToAgent::Audio(frame), Micros(0));
    }
    assert_eq!(dropped(&mut agent), Duration::from_secs(1));
}

#[test]
fn where_the_relay_finds_the_turns_their_beginning_is_heard_and_what_is_between_them_is_not() {
    let mut agent = agent();
    let setup = serde_json::from_value(json!({"turns": {"detect": "relay"}})).unwrap();
    agent.handle_session(ToAgent::Start(start(setup)), Micros(0));
    agent.handle_wire(Wire::Text(r#"{"setupComplete":{}}"#.into()), Micros(0));
    let mut sent = vec![];
    let mut drain = |agent: &mut Gemini| {
        loop {
            match agent.poll(Micros(0)) {
                AgentOutput::Audio { .. } => sent.push("audio"),
                AgentOutput::Wire(Wire::Text(text)) if text.contains("activityStart") => sent.push("start"),
                AgentOutput::Wire(Wire::Text(text)) if text.contains("activityEnd") => sent.push("end"),
                AgentOutput::Event(FromAgent::Dropped(_)) => panic!("nothing of a turn is lost"),
                AgentOutput::Idle { .. } => return sent.split_off(0),
                _ => {}
            }
        }
    };
    let hear = |agent: &mut Gemini, frames: u64| {
        for n in 0..frames {
            let payload = vec![n as u8; 640].into();
            let frame = AgentAudioOut { pos: n * 320, ticks: 320, ready: Micros(0), filled: false, payload };
            agent.handle_session(ToAgent::Audio(frame), Micros(0));
        }
    };
    let input = |agent: &mut Gemini, action| agent.handle_session(ToAgent::Input(Input { action }), Micros(0));
    hear(&mut agent, 100);
    assert!(drain(&mut agent).is_empty());
    input(&mut agent, InputAction::Start);
    hear(&mut agent, 5);
    let sent = drain(&mut agent);
    assert_eq!((sent[0], sent[1..].len()), ("start", 30 + 5), "the last 600 ms, and what follows");
    input(&mut agent, InputAction::Commit);
    hear(&mut agent, 5);
    assert_eq!(drain(&mut agent), ["end"]);
}

fn start(setup: Setup) -> AgentStart {
    AgentStart { setup, ..AgentStart::example() }
}

proptest::proptest! {
    #[test]
    fn no_message_does_harm(text in "\\PC{0,200}", cut in 0usize..400) {
        let mut agent = agent();
        let recorded = include_str!("../fixtures/gemini/conversation.txt");
        let line = recorded.lines().filter_map(|line| line.strip_prefix("< ")).nth(cut % 20).unwrap_or_default();
        let part: String = line.chars().take(cut).collect();
        for text in [text, part] {
            agent.handle_wire(Wire::Text(text), Micros(0));
        }
        while !matches!(agent.poll(Micros(0)), AgentOutput::Idle { .. }) {}
    }
}
