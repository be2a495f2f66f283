//! Any frames from a client or from an agent server of the native protocol are survived, and what is understood can
//! be written and read again.

use std::time::Duration;

use antiphon::agent::native::NativeAgent;
use antiphon::agent::{Agent, AgentOutput, Wire};
use antiphon::config::settings::{WebsocketAgent, WebsocketProtocol};
use antiphon::dialect::native::Native;
use antiphon::dialect::native::codec::{self, ClientMessage, Decoded};
use antiphon::dialect::{Dialect, Heard};
use antiphon::media::format::Format;
use antiphon::time::Micros;

use super::frames::frames;

fn agent() -> NativeAgent {
    let settings = WebsocketAgent {
        url: "ws://127.0.0.1/".parse().expect("a right URL"),
        headers: Vec::new(),
        protocol: WebsocketProtocol::Native,
        uplink: Format::pcm16(16_000),
        downlink: Format::OPUS,
        connect_timeout: Duration::from_secs(1),
        authorities: None,
    };
    NativeAgent::new(&settings, Default::default())
}

fn reads_back(text: &str) {
    if let Ok(Decoded::Message { message: ClientMessage::Start(start), .. }) = codec::decode_from_client(text) {
        let written = codec::encode_start(&start).expect("a start can be written");
        assert!(codec::decode_from_client(&written).is_ok(), "{written} is not read");
    }
    if let Ok(Decoded::Message { message, seq, .. }) = codec::decode_to_client(text) {
        let written = codec::encode_to_client(seq, &message).expect("a control message can be written");
        assert!(codec::decode_to_client(&written).is_ok(), "{written} is not read");
    }
}

/// Frames of a client, which are those of an agent's server, too; an even length: after the beginning.
pub fn run(data: &[u8]) {
    let mut dialect = Native::new();
    let mut agent = agent();
    if data.len().is_multiple_of(2) {
        let heard = dialect.handle_wire(Wire::Text("{\"type\":\"start\"}".to_owned()), Micros(0));
        assert!(matches!(heard, Some(Heard::Start(_))));
        agent.handle_wire(Wire::Text("{\"type\":\"started\"}".to_owned()), Micros(0));
    }
    for (at, frame) in frames(data).into_iter().enumerate() {
        let now = Micros::from_millis(at as u64 * 100);
        let frame = frame.wire();
        if let Wire::Text(text) = &frame {
            reads_back(text);
        }
        dialect.handle_wire(frame.clone(), now);
        agent.handle_wire(frame, now);
        agent.handle_deadline(now);
        while !matches!(agent.poll(now), AgentOutput::Idle { .. }) {}
    }
}
