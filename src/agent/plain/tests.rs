use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::settings::WebsocketProtocol;
use crate::ids::TurnId;
use crate::message::{AgentAudioOut, AgentEnd, AgentStart};

fn agent(downlink: Format, start: bool) -> PlainAgent {
    let settings = WebsocketAgent {
        url: "ws://127.0.0.1:9/".parse().unwrap(),
        headers: Vec::new(),
        protocol: WebsocketProtocol::Plain { start },
        uplink: Format::pcm16(16_000),
        downlink,
        connect_timeout: Duration::from_secs(5),
        authorities: None,
    };
    PlainAgent::new(&settings, start.then(|| json!({"model": "m"})))
}

fn pcm() -> PlainAgent {
    agent(Format::pcm16(24_000), false)
}

fn outputs(agent: &mut PlainAgent) -> (Vec<String>, Vec<FromAgent>) {
    let (mut texts, mut events) = (Vec::new(), Vec::new());
    loop {
        match agent.poll(Micros(0)) {
            AgentOutput::Wire(Wire::Text(text)) => texts.push(text),
            AgentOutput::Event(event) => events.push(event),
            AgentOutput::Idle { .. } => return (texts, events),
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn heard(agent: &mut PlainAgent, wire: Wire, now: Micros) -> Vec<FromAgent> {
    agent.handle_wire(wire, now);
    let (texts, events) = outputs(agent);
    assert!(texts.is_empty(), "{texts:?}");
    events
}

fn text(agent: &mut PlainAgent, text: &str) -> Vec<FromAgent> {
    heard(agent, Wire::Text(text.to_owned()), Micros(0))
}

fn frame(agent: &mut PlainAgent, at_ms: u64) -> Vec<FromAgent> {
    heard(agent, Wire::Binary(vec![0; 960].into()), Micros::from_millis(at_ms))
}

fn start() -> ToAgent {
    ToAgent::Start(AgentStart::example())
}

#[test]
fn it_is_ready_at_once_and_says_nothing_unless_start_is_wanted() {
    let mut silent = pcm();
    silent.handle_session(start(), Micros(0));
    let (texts, events) = outputs(&mut silent);
    assert!(texts.is_empty());
    assert!(matches!(&events[..], [FromAgent::Ready(ready)] if ready.downlink == Format::pcm16(24_000)));
    silent.handle_session(ToAgent::Cancel(TurnId(1)), Micros(0));
    silent.handle_session(ToAgent::End, Micros(0));
    assert!(outputs(&mut silent).0.is_empty());

    let mut talkative = agent(Format::OPUS, true);
    talkative.handle_session(start(), Micros(0));
    talkative.handle_session(ToAgent::Cancel(TurnId(1)), Micros(0));
    talkative.handle_session(ToAgent::End, Micros(0));
    let (texts, _) = outputs(&mut talkative);
    let opening: Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!((&opening["type"], &opening["model"]), (&json!("start"), &json!("m")));
    assert_eq!(opening["audio"]["out"]["codec"], "opus");
    assert_eq!(texts[1..], [r#"{"type":"interrupt"}"#, r#"{"type":"end"}"#]);
}

#[test]
fn an_answer_ends_when_no_audio_has_come_for_half_a_second() {
    let mut agent = pcm();
    assert!(matches!(frame(&mut agent, 0)[..], [FromAgent::TurnStarted(None), FromAgent::Audio(_)]));
    assert!(matches!(frame(&mut agent, 400)[..], [FromAgent::Audio(_)]));
    let AgentOutput::Idle { deadline: Some(deadline) } = agent.poll(Micros(0)) else { panic!("no deadline") };
    assert_eq!(deadline, Micros::from_millis(900));
    agent.handle_deadline(Micros::from_millis(899));
    assert!(outputs(&mut agent).1.is_empty());
    agent.handle_deadline(deadline);
    assert!(matches!(outputs(&mut agent).1[..], [FromAgent::TurnEnded]));
    assert!(matches!(frame(&mut agent, 1000)[..], [FromAgent::TurnStarted(None), FromAgent::Audio(_)]));
}

#[test]
fn an_agent_that_talks_over_an_interruption_is_heard_again_after_two_seconds() {
    let mut agent = pcm();
    frame(&mut agent, 0);
    agent.handle_session(ToAgent::Cancel(TurnId(1)), Micros::from_millis(10));
    for at in (20..2010).step_by(20) {
        assert!(matches!(frame(&mut agent, at)[..], [FromAgent::Audio(_)]), "at {at} ms");
    }
    let events = frame(&mut agent, 2020);
    assert!(matches!(events[..], [FromAgent::TurnEnded, FromAgent::TurnStarted(None), FromAgent::Audio(_)]));
    assert!(matches!(frame(&mut agent, 2040)[..], [FromAgent::Audio(_)]));
}

#[test]
fn text_is_understood_leniently() {
    let mut agent = pcm();
    let events = text(&mut agent, r#"{"type":"transcript","text":"Hi"}"#);
    let [FromAgent::Transcript(transcript)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((transcript.role, transcript.is_final, &transcript.item), (Role::Agent, true, &None));
    let events = text(&mut agent, r#"{"type":"transcript","text":"Yes","role":"user","final":false,"item":"u","x":1}"#);
    let [FromAgent::Transcript(transcript)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((transcript.role, transcript.is_final), (Role::User, false));

    assert!(matches!(text(&mut agent, r#"{"type":"interrupt"}"#)[..], [FromAgent::Interrupted]));
    let events = text(&mut agent, r#"{"type":"app","name":"card","data":{"n":1}}"#);
    assert!(matches!(&events[..], [FromAgent::App(app)] if app.name == "card" && app.data == json!({"n": 1})));
    let events = text(&mut agent, r#"{"type":"metrics","ms":3}"#);
    assert!(matches!(&events[..], [FromAgent::App(app)] if app.name == "metrics" && app.data["ms"] == 3));
    let events = text(&mut agent, "keepalive");
    assert!(matches!(&events[..], [FromAgent::App(app)] if app.name == "text" && app.data == "keepalive"));
    assert!(text(&mut agent, r#"{"type":"transcript"}"#).is_empty());
    let events = text(&mut agent, r#"{"type":"end"}"#);
    assert!(matches!(&events[..], [FromAgent::Ended(AgentEnd { failure: None })]));
    assert!(text(&mut agent, r#"{"type":"end"}"#).is_empty() && frame(&mut agent, 0).is_empty());
}

#[test]
fn a_lost_connection_breaks_the_turn_off_and_has_a_class_and_a_goodbye_ends_it() {
    let mut agent = pcm();
    frame(&mut agent, 0);
    let events = heard(&mut agent, Wire::Close(1006, "gone".into()), Micros(1));
    let [FromAgent::Ended(AgentEnd { failure: Some(failure) })] = &events[..] else { panic!("{events:?}") };
    assert_eq!((failure.class, failure.message.as_str()), (FailureClass::Lost, "gone"));
    let mut agent = pcm();
    frame(&mut agent, 0);
    let events = heard(&mut agent, Wire::Close(1000, "bye".into()), Micros(1));
    assert!(matches!(&events[..], [FromAgent::TurnEnded, FromAgent::Ended(AgentEnd { failure: None })]), "{events:?}");
}

#[test]
fn opus_packets_and_audio_to_the_agent_are_not_touched() {
    let mut agent = agent(Format::OPUS, false);
    let packet = Bytes::from_static(&[0xf8, 0xff, 0xfe]);
    let events = heard(&mut agent, Wire::Binary(packet.clone()), Micros(3));
    let [_, FromAgent::Audio(audio)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((audio.payload.as_ptr(), audio.arrival), (packet.as_ptr(), Micros(3)));

    let frame = AgentAudioOut { pos: 0, ticks: 1, ready: Micros(9), filled: false, payload: packet.clone() };
    agent.handle_session(ToAgent::Audio(frame), Micros(9));
    let AgentOutput::Audio { wire: Wire::Binary(sent), ready } = agent.poll(Micros(9)) else { panic!("no audio") };
    assert_eq!((sent.as_ptr(), ready), (packet.as_ptr(), Micros(9)));
}

#[test]
fn whole_samples_are_passed_on_without_a_copy() {
    let mut agent = pcm();
    let payload = Bytes::from(vec![7; 960]);
    let events = heard(&mut agent, Wire::Binary(payload.clone()), Micros(0));
    assert!(matches!(&events[..], [_, FromAgent::Audio(audio)] if audio.payload.as_ptr() == payload.as_ptr()));
}

proptest! {
    #[test]
    fn pcm_cut_anywhere_arrives_whole_and_in_order(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        stereo in any::<bool>(),
    ) {
        let format = Format { channels: if stereo { 2 } else { 1 }, ..Format::pcm16(24_000) };
        let sample = format.bytes_per_sample().unwrap();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut agent = agent(format, false);
        let mut received = Vec::new();
        for pair in cuts.windows(2) {
            let frame = Bytes::copy_from_slice(&bytes[pair[0]..pair[1]]);
            for event in heard(&mut agent, Wire::Binary(frame), Micros(0)) {
                if let FromAgent::Audio(audio) = event {
                    prop_assert!(audio.payload.len().is_multiple_of(sample));
                    received.extend_from_slice(&audio.payload);
                }
            }
        }
        prop_assert_eq!(&received[..], &bytes[..bytes.len() / sample * sample]);
    }

    #[test]
    fn any_text_is_survived(words in ".{0,200}", json in "\\{\"type\":\"(app|end|transcript|interrupt|x)\",\"(name|text|data)\":(1|\"a\"|null|\\[\\])\\}") {
        let mut agent = pcm();
        text(&mut agent, &words);
        text(&mut agent, &json);
    }
}
