//! What the JSON and base64 of an audio event costs, beside a tree of values and the plain library. Ends with 1 if a bar
//! is missed.
#![allow(missing_docs, reason = "a program, not a library")]

#[allow(dead_code, reason = "shared; not every bench has speech")]
mod measure;

use std::hint::black_box;
use std::process::ExitCode;

use antiphon::agent::audio_json::{self, Fields};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::measure::{Case, Effort, report};

/// 20 ms of PCM16 at 24 kHz: what is sent at a time.
const FRAME: usize = 960;
/// 200 ms: what a vendor sends at a time.
const CHUNK: usize = 9600;

fn main() -> ExitCode {
    let audio: Vec<u8> = (0..CHUNK as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let event = json!({
        "type": "response.output_audio.delta", "event_id": "event_4912", "response_id": "resp_0007",
        "item_id": "item_0008", "output_index": 0, "content_index": 0, "delta": STANDARD.encode(&audio),
    })
    .to_string();
    let frame = &audio[..FRAME];
    let mut buffer = String::with_capacity(2 * FRAME);
    let mut cases = vec![
        Case::new("read by serde_json::Value and base64", "read by serde_json::Value and base64", || {
            let value: Value = serde_json::from_str(black_box(&event)).expect("JSON");
            let audio = STANDARD.decode(value["delta"].as_str().expect("text")).expect("base64");
            black_box((value["type"].as_str().map(str::len), audio));
        }),
        Case::new("read without a tree", "read by serde_json::Value and base64", || {
            let fields = Fields::read(black_box(&event)).expect("an event");
            let audio = audio_json::decode(fields.audio.as_deref().expect("text")).expect("base64");
            black_box((fields.kind.len(), audio));
        })
        .at_most_with_allocations(0.5),
        Case::new("written by serde_json::Value and base64", "written by serde_json::Value and base64", || {
            let value = json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(black_box(frame))});
            black_box(value.to_string());
        }),
        Case::new("written without a tree", "written by serde_json::Value and base64", || {
            buffer.clear();
            audio_json::encode_into(
                &mut buffer,
                r#"{"type":"input_audio_buffer.append","audio":""#,
                black_box(frame),
                "\"}",
            );
            black_box(&buffer);
        })
        .at_most(0.3),
        Case::new("written as a message of its own", "written by serde_json::Value and base64", || {
            let before = r#"{"type":"input_audio_buffer.append","audio":""#;
            black_box(audio_json::encode(before, black_box(frame), "\"}"));
        })
        .at_most_with_allocations(0.3),
    ];
    match report("json", Effort { rounds: 300, frames: 20 }, &mut cases) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
