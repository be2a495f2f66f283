use super::frame::{AudioRawFrame, TextFrame, TranscriptionFrame};
use super::*;
use crate::agent::tests::golden::replay;
use crate::config::vendor::VendorKind;
use crate::ids::TurnId;
use crate::message::AgentStart;

const T0: Micros = Micros(1_000_000);

/// As pipecat-ai 1.14.0 serialises them.
const AUDIO: &str = "1225080112154f7574707574417564696f5261774672616d6523301a040102030420c0bb012801";
const INTERRUPTION: &str = "2a1708021213496e74657272757074696f6e4672616d652330";
const MESSAGE: &str = "22540a527b226c6162656c223a2022727476692d6169222c202274797065223a2022626f742d7265616479222c20226964223a202231222c202264617461223a207b2276657273696f6e223a2022322e322e30227d7d";
const TEXT: &str = "0a130804120b546578744672616d6523301a024869";
const TRANSCRIPTION: &str = "1a25080512145472616e736372697074696f6e4672616d6523301a0568656c6c6f2201752a0174";

fn bytes(hex: &str) -> Bytes {
    let pair = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(pair).collect::<Vec<_>>().into()
}

fn agent(wire: PipecatWire) -> Pipecat {
    let settings = VendorAgent { wire, ..VendorAgent::example(VendorKind::Pipecat) };
    Pipecat::new(&settings, json!({"about": {"platform": "telephone"}}))
}

fn outputs(agent: &mut Pipecat) -> (Vec<Kind>, Vec<FromAgent>) {
    let (mut frames, mut events) = (vec![], vec![]);
    loop {
        match agent.poll(T0) {
            AgentOutput::Wire(Wire::Binary(bytes)) | AgentOutput::Audio { wire: Wire::Binary(bytes), .. } => {
                frames.push(frame::decode(bytes).unwrap().unwrap());
            }
            AgentOutput::Event(event) => events.push(event),
            AgentOutput::Idle { .. } => return (frames, events),
            other => panic!("{other:?}"),
        }
    }
}

fn heard(agent: &mut Pipecat, hex: &str, now: Micros) -> Vec<FromAgent> {
    agent.handle_wire(Wire::Binary(bytes(hex)), now);
    outputs(agent).1
}

fn begun() -> Pipecat {
    let mut agent = agent(PipecatWire::Protobuf);
    agent.handle_session(ToAgent::Start(AgentStart::example()), T0);
    let (frames, events) = outputs(&mut agent);
    assert!(matches!(&frames[..], [Kind::Message(message)] if message.data.contains("client-ready")
        && message.data.contains("telephone")));
    assert!(matches!(&events[..], [FromAgent::Ready(ready)] if ready.uplink == UPLINK));
    agent
}

#[test]
fn frames_are_those_of_pipecat() {
    let read = |hex| frame::decode(bytes(hex)).unwrap().unwrap();
    assert!(matches!(read(AUDIO), Kind::Audio(AudioRawFrame { audio, sample_rate: 24_000, num_channels: 1, .. })
        if audio[..] == [1, 2, 3, 4]));
    assert!(matches!(read(INTERRUPTION), Kind::Interruption(_)));
    assert!(matches!(read(MESSAGE), Kind::Message(MessageFrame { data }) if data.contains("bot-ready")));
    assert!(matches!(read(TEXT), Kind::Text(TextFrame { text, .. }) if text == "Hi"));
    assert!(matches!(read(TRANSCRIPTION), Kind::Transcription(TranscriptionFrame { text, .. }) if text == "hello"));
    for hex in [AUDIO, INTERRUPTION, MESSAGE, TEXT, TRANSCRIPTION] {
        assert_eq!(frame::encode(read(hex)), bytes(hex), "{hex}");
    }
}

#[test]
fn a_call_in_frames_goes_as_recorded() {
    replay("pipecat/protobuf.txt", &mut agent(PipecatWire::Protobuf));
}

#[test]
fn a_call_in_json_goes_as_recorded() {
    replay("pipecat/rtvi.txt", &mut agent(PipecatWire::Rtvi));
}

#[test]
fn it_takes_over_as_recorded() {
    replay("pipecat/takeover.txt", &mut agent(PipecatWire::Rtvi));
}

#[test]
fn an_interruption_that_is_told_twice_counts_once_and_the_next_answer_is_heard() {
    let mut agent = begun();
    assert!(matches!(&heard(&mut agent, AUDIO, T0)[..], [FromAgent::TurnStarted(Some(_)), FromAgent::Audio(_)]));
    assert!(matches!(&heard(&mut agent, INTERRUPTION, T0)[..], [FromAgent::Interrupted]));
    let told = r#"{"label":"rtvi-ai","type":"bot-interrupted","id":"2"}"#.to_owned();
    agent.handle_wire(Wire::Binary(frame::encode(Kind::Message(MessageFrame { data: told }))), T0);
    assert!(outputs(&mut agent).1.is_empty());
    let late = heard(&mut agent, AUDIO, T0);
    assert!(
        matches!(&late[..], [FromAgent::Audio(AgentAudio { item: Some(item), .. })] if item.as_str() == "answer-1")
    );
    let next = heard(&mut agent, AUDIO, T0 + Duration::from_secs(1));
    assert!(
        matches!(&next[..], [FromAgent::TurnStarted(Some(item)), FromAgent::Audio(_)] if item.as_str() == "answer-2")
    );
}

#[test]
fn a_bot_without_messages_has_ended_its_answer_after_a_pause() {
    let mut agent = begun();
    heard(&mut agent, AUDIO, T0);
    assert!(matches!(agent.poll(T0), AgentOutput::Idle { deadline: Some(at) } if at == T0 + TURN_GAP));
    agent.handle_deadline(T0 + TURN_GAP);
    assert!(matches!(&outputs(&mut agent).1[..], [FromAgent::TurnEnded]));
    assert!(matches!(agent.poll(T0), AgentOutput::Idle { deadline: None }));
}

#[test]
fn audio_goes_out_in_frames_and_a_cancelled_answer_is_stopped_by_one() {
    let mut agent = begun();
    let payload = Bytes::from(vec![7; 640]);
    let frame = AgentAudioOut { pos: 0, ticks: 320, ready: T0, filled: false, payload: payload.clone() };
    agent.handle_session(ToAgent::Audio(frame), T0);
    agent.handle_session(ToAgent::Cancel(TurnId(1)), T0);
    agent.handle_session(ToAgent::End, T0);
    let (frames, _) = outputs(&mut agent);
    assert!(matches!(&frames[..], [Kind::Audio(audio), Kind::Interruption(_), Kind::Message(goodbye)]
        if audio.audio == payload && audio.sample_rate == 16_000 && goodbye.data.contains("disconnect-bot")));
}

#[test]
fn closings_tell_the_class_of_the_failure() {
    let closed = |code| {
        let mut agent = begun();
        agent.handle_wire(Wire::Close(code, String::new()), T0);
        match outputs(&mut agent).1.pop() {
            Some(FromAgent::Ended(end)) => end.failure.map(|failure| failure.class),
            other => panic!("{other:?}"),
        }
    };
    for (code, class) in [
        (1000, None),
        (1001, Some(FailureClass::Lost)),
        (1006, Some(FailureClass::Lost)),
        (1008, Some(FailureClass::Auth)),
        (1011, Some(FailureClass::Internal)),
        (1013, Some(FailureClass::Limit)),
    ] {
        assert_eq!(closed(code), class, "{code}");
    }
}

proptest::proptest! {
    #[test]
    fn no_frame_does_harm(garbage in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), cut in 0usize..100, text in "\\PC{0,200}") {
        let mut agent = begun();
        let whole = bytes(MESSAGE);
        for payload in [Bytes::from(garbage), whole.slice(..cut.min(whole.len())), bytes(AUDIO).slice(..cut.min(39))] {
            agent.handle_wire(Wire::Binary(payload), T0);
        }
        agent.handle_wire(Wire::Text(text), T0);
        outputs(&mut agent);
    }
}
