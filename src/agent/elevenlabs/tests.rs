use secrecy::ExposeSecret;

use super::*;
use crate::agent::tests::golden;
use crate::config::vendor::VendorKind;

fn settings(key: bool) -> VendorAgent {
    VendorAgent {
        agent_id: Some("agent_1".into()),
        api_key: key.then(|| "secret".to_owned().into()),
        ..VendorAgent::example(VendorKind::Elevenlabs)
    }
}

#[test]
fn a_call_goes_as_recorded() {
    let vendor = json!({ "custom_llm_extra_body": { "temperature": 0.5 }, "dynamic_variables": { "name": "Ada" } });
    golden::replay("elevenlabs/call.txt", &mut ElevenLabs::new(&settings(false), vendor));
}

#[test]
fn a_refusal_goes_as_recorded() {
    golden::replay("elevenlabs/refused.txt", &mut ElevenLabs::new(&settings(false), Value::Null));
}

#[test]
fn a_conversation_that_is_continued_goes_as_recorded() {
    golden::replay("elevenlabs/continued.txt", &mut ElevenLabs::new(&settings(false), Value::Null));
}

#[test]
fn it_takes_over_as_recorded() {
    golden::replay("elevenlabs/takeover.txt", &mut ElevenLabs::new(&settings(false), Value::Null));
}

#[test]
fn a_public_agent_is_dialled_by_its_id_and_another_one_by_a_url_that_the_key_fetches() {
    let public = ElevenLabs::new(&settings(false), Value::Null).endpoint().unwrap();
    let url = "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=agent_1";
    assert_eq!((public.url.as_str(), public.before.is_none()), (url, true));
    let signed = ElevenLabs::new(&settings(true), Value::Null).endpoint().unwrap();
    let Some(Before::Url(fetch)) = signed.before else { panic!("nothing is fetched") };
    let at = "https://api.elevenlabs.io/v1/convai/conversation/get-signed-url?agent_id=agent_1";
    assert_eq!((fetch.url.as_str(), fetch.field), (at, "signed_url"));
    assert_eq!((fetch.headers[0].0.as_str(), fetch.headers[0].1.expose_secret()), ("xi-api-key", "secret"));
    assert!(signed.headers.is_empty(), "the key goes to the fetch only");
}

#[test]
fn every_announced_format_is_honoured_and_an_unknown_one_ends_the_call_by_name() {
    let announced = |uplink: &str, downlink: &str| {
        let mut agent = ElevenLabs::new(&settings(false), Value::Null);
        let text = json!({ "type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": {
            "conversation_id": "c", "agent_output_audio_format": downlink, "user_input_audio_format": uplink } });
        agent.handle_wire(Wire::Text(text.to_string()), Micros::ZERO);
        match agent.poll(Micros::ZERO) {
            AgentOutput::Event(FromAgent::Ready(ready)) => Ok((ready.uplink, ready.downlink)),
            AgentOutput::Event(FromAgent::Ended(end)) => Err(end.failure.unwrap()),
            other => panic!("{other:?}"),
        }
    };
    for rate in [8_000, 16_000, 22_050, 24_000, 44_100, 48_000] {
        let name = format!("pcm_{rate}");
        assert_eq!(announced("ulaw_8000", &name), Ok((Format::PCMU, Format::pcm16(rate))));
        assert_eq!(announced(&name, "ulaw_8000"), Ok((Format::pcm16(rate), Format::PCMU)));
    }
    let error = announced("opus_48000", "pcm_16000").unwrap_err();
    assert_eq!(error.class, FailureClass::Protocol);
    assert!(error.message.contains("user_input_audio_format") && error.message.contains("opus_48000"), "{error:?}");
}

#[test]
fn close_codes_and_their_words_have_a_class() {
    let class = |code, reason: &str, begun: bool| {
        let mut agent = ElevenLabs::new(&settings(false), Value::Null);
        agent.downlink = begun.then_some(Format::PCMU);
        agent.handle_wire(Wire::Close(code, reason.into()), Micros::ZERO);
        match agent.poll(Micros::ZERO) {
            AgentOutput::Event(FromAgent::Ended(end)) => end.failure.map(|failure| failure.class),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(class(1000, "", true), None);
    assert_eq!(class(1000, "", false), Some(FailureClass::Protocol), "nothing had begun");
    assert_eq!(class(1002, "This request exceeds your quota limit", true), Some(FailureClass::Limit));
    assert_eq!(class(1008, "Missing authorization", false), Some(FailureClass::Auth));
    assert_eq!(
        class(3000, "The AI agent you are trying to reach does not exist.", false),
        Some(FailureClass::BadRequest)
    );
    assert_eq!(class(1008, "Invalid message received", true), Some(FailureClass::BadRequest));
    assert_eq!(class(1011, "Internal error", true), Some(FailureClass::Internal));
    assert_eq!(class(1006, "", true), Some(FailureClass::Lost));
}
