//! Any frames from a client or from an agent server of the native protocol are survived, and what is understood can
//! be written and read again.
//!
//! The input is a row of frames: one byte for the kind, two for the length (little-endian), then the payload.
#![no_main]

use std::time::Duration;

use antiphon::agent::native::NativeAgent;
use antiphon::agent::{Agent, AgentOutput, Wire};
use antiphon::config::settings::{WebsocketAgent, WebsocketProtocol};
use antiphon::dialect::native::Native;
use antiphon::dialect::native::codec::{self, ClientMessage, Decoded};
use antiphon::dialect::{Dialect, Heard};
use antiphon::media::format::Format;
use antiphon::time::Micros;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fn frames(mut data: &[u8]) -> Vec<Wire> {
    let mut frames = Vec::new();
    while let [kind, low, high, rest @ ..] = data {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, next) = rest.split_at(length);
        frames.push(match kind % 8 {
            0..5 => Wire::Text(String::from_utf8_lossy(payload).into_owned()),
            5 | 6 => Wire::Binary(Bytes::copy_from_slice(payload)),
            _ => Wire::Close(u16::from_le_bytes([*low, *high]), String::from_utf8_lossy(payload).into_owned()),
        });
        data = next;
    }
    frames
}

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

fuzz_target!(|data: &[u8]| {
    let mut dialect = Native::new();
    let mut agent = agent();
    if data.len() % 2 == 0 {
        let heard = dialect.handle_wire(Wire::Text("{\"type\":\"start\"}".to_owned()), Micros(0));
        assert!(matches!(heard, Some(Heard::Start(_))));
        agent.handle_wire(Wire::Text("{\"type\":\"started\"}".to_owned()), Micros(0));
    }
    for (at, frame) in frames(data).into_iter().enumerate() {
        let now = Micros::from_millis(at as u64 * 100);
        if let Wire::Text(text) = &frame {
            reads_back(text);
        }
        dialect.handle_wire(frame.clone(), now);
        agent.handle_wire(frame, now);
        agent.handle_deadline(now);
        while !matches!(agent.poll(now), AgentOutput::Idle { .. }) {}
    }
});
