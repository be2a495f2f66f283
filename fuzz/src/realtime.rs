//! Whatever a client of the OpenAI Realtime wire says is survived, and everything that it is told is JSON with a type.

use antiphon::agent::Wire;
use antiphon::dialect::openai::Openai;
use antiphon::dialect::{Dialect, Heard};
use antiphon::ids::{Seq, TurnId};
use antiphon::media::format::Format;
use antiphon::message::{
    AgentInfo, AudioFormats, AudioOut, Role, Speech, SpeechEvent, Started, ToClient, ToolCall, Transcript, Turn,
    TurnPhase, Usage,
};
use antiphon::time::Micros;

use super::frames::{Framed, frames};

/// What the session says, by a frame whose kind is from 128 on.
fn to_client(frame: &Framed) -> ToClient {
    let turn = TurnId(u32::from(frame.payload.first().copied().unwrap_or(1)));
    match frame.kind % 8 {
        0 => ToClient::Audio(AudioOut {
            pos: 0,
            ticks: frame.payload.len() as u32 / 2,
            marker: false,
            ready: Micros::ZERO,
            payload: frame.payload.clone(),
        }),
        1 | 2 => ToClient::Turn(Turn {
            turn,
            generation: Default::default(),
            item: None,
            phase: if frame.kind % 8 == 1 { TurnPhase::Start } else { TurnPhase::End },
            pos: 0,
        }),
        3 => ToClient::Transcript(Transcript {
            item: "i".into(),
            turn,
            role: if frame.kind % 16 < 8 { Role::User } else { Role::Agent },
            text: Some(frame.text()),
            is_final: frame.kind % 32 < 16,
            start_ms: 0,
            end_ms: None,
            heard: None,
            cut: None,
        }),
        4 => ToClient::Speech(Speech { who: Role::User, event: SpeechEvent::Started }),
        5 => ToClient::Speech(Speech { who: Role::User, event: SpeechEvent::Stopped }),
        6 => ToClient::ToolCall(ToolCall { call_id: frame.text().into(), name: frame.text(), arguments: frame.text() }),
        _ => ToClient::Usage(Usage::of([("input_tokens", Some(f64::from(frame.kind)))]).expect("known")),
    }
}

fn is_event(wire: Option<Wire>) -> bool {
    match wire {
        Some(Wire::Text(text)) => {
            let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert!(event["type"].is_string() && event["event_id"].is_string(), "{text}");
            true
        }
        Some(_) => true,
        None => false,
    }
}

/// Frames of a client, or (kinds from 128 on) messages of the session to it.
pub fn run(data: &[u8]) {
    let mut dialect = Openai::new("s", Some("agent".into()), None);
    let start = dialect.start_unasked();
    let audio = start.and_then(|start| start.audio);
    let audio = audio.unwrap_or(AudioFormats { uplink: Format::PCMU, downlink: Format::PCMU, flow: None });
    let started = ToClient::Started(Started {
        session_id: "s".into(),
        conversation_id: "c".into(),
        agent: AgentInfo { name: "agent".into(), display: serde_json::Value::Null, delay_ms: None },
        audio,
        resume_token: String::new(),
        expires_at: None,
        resumed: None,
        setup: None,
    });
    let mut seq = Seq::default();
    let mut encode = |dialect: &mut Openai, message: &ToClient| {
        seq = seq.next();
        is_event(dialect.encode(Some(seq), message));
        while is_event(dialect.take_wire()) {}
    };
    encode(&mut dialect, &started);
    for (at, frame) in frames(data).into_iter().enumerate() {
        let now = Micros::from_millis(at as u64 * 20);
        if frame.kind >= 128 {
            encode(&mut dialect, &to_client(&frame));
            continue;
        }
        let mut heard = dialect.handle_wire(frame.wire(), now);
        while heard.is_some() {
            if let Some(Heard::Malformed { error, .. }) = &heard {
                assert!(!error.message.is_empty());
            }
            heard = dialect.take_heard();
        }
        while is_event(dialect.take_wire()) {}
    }
}
