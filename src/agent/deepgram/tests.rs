use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::ExposeSecret;

use super::*;
use crate::agent::tests::golden;
use crate::config::vendor::VendorKind;
use crate::message::ToolDefinition;

fn settings() -> VendorAgent {
    let tool = ToolDefinition {
        name: "lookup_order".into(),
        description: "Find an order".into(),
        parameters: json!({ "type": "object" }),
    };
    VendorAgent {
        api_key: Some("secret".to_owned().into()),
        tools: Arc::new(BTreeMap::from([("lookup_order".to_owned(), tool)])),
        ..VendorAgent::example(VendorKind::Deepgram)
    }
}

#[test]
fn a_call_goes_as_recorded() {
    let vendor = json!({ "mip_opt_out": true, "agent": { "listen": { "provider": { "smart_format": true } } } });
    golden::replay("deepgram/call.txt", &mut Deepgram::new(&settings(), vendor));
}

#[test]
fn a_call_with_an_agent_that_the_vendor_keeps_goes_as_recorded() {
    golden::replay("deepgram/kept.txt", &mut Deepgram::new(&settings(), json!({ "agent": "agent-id" })));
}

#[test]
fn a_conversation_that_is_continued_goes_as_recorded() {
    let vendor = json!({ "agent": { "speak": { "provider": { "type": "open_ai", "model": "tts-1" } } } });
    golden::replay("deepgram/continued.txt", &mut Deepgram::new(&settings(), vendor));
}

#[test]
fn it_takes_over_as_recorded() {
    golden::replay("deepgram/takeover.txt", &mut Deepgram::new(&settings(), Value::Null));
}

#[test]
fn the_key_is_presented_as_a_token() {
    let endpoint = Deepgram::new(&settings(), Value::Null).endpoint().unwrap();
    assert_eq!(endpoint.url.as_str(), "wss://agent.deepgram.com/v1/agent/converse");
    let (name, value) = &endpoint.headers[0];
    assert_eq!((name.as_str(), value.expose_secret()), ("authorization", "Token secret"));
}

#[test]
fn formats_are_the_configured_ones_else_those_that_the_client_speaks_already() {
    let client = |format| Some(AudioFormats { uplink: format, downlink: format, flow: None });
    let formats = |settings: &VendorAgent, client| settings::formats(settings, client).uplink;
    let none = settings();
    assert_eq!(formats(&none, None), Format::pcm16(24_000));
    assert_eq!(formats(&none, client(Format::PCMA)), Format::PCMA);
    assert_eq!(formats(&none, client(Format::pcm16(16_000))), Format::pcm16(16_000));
    assert_eq!(formats(&none, client(Format::pcm16(44_100))), Format::pcm16(24_000));
    assert_eq!(formats(&none, client(Format::OPUS)), Format::pcm16(24_000), "without a container there is no Opus");
    let fixed = VendorAgent { uplink: Some(Format::PCMU), ..settings() };
    assert_eq!(formats(&fixed, client(Format::PCMA)), Format::PCMU);
}

#[test]
fn errors_and_close_codes_have_a_class() {
    for (code, class) in [
        ("CLIENT_MESSAGE_TIMEOUT", FailureClass::Timeout),
        ("UNPARSABLE_CLIENT_MESSAGE", FailureClass::BadRequest),
        ("INVALID_SETTINGS", FailureClass::BadRequest),
        ("INVALID_AUTH", FailureClass::Auth),
        ("RATE_LIMIT_EXCEEDED", FailureClass::Limit),
        ("FAILED_TO_THINK", FailureClass::Internal),
    ] {
        assert_eq!(wire::class_of(code, ""), class, "{code}");
    }
    assert_eq!(wire::class_of_close(1000, ""), FailureClass::Protocol, "nothing had begun");
    assert_eq!(wire::class_of_close(1011, "NET-0001"), FailureClass::Timeout);
    assert_eq!(wire::class_of_close(1011, "oops"), FailureClass::Internal);
    assert_eq!(wire::class_of_close(1008, "DATA-0000"), FailureClass::BadRequest);
    assert_eq!(wire::class_of_close(1006, ""), FailureClass::Lost);
}
