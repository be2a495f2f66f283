//! Audio in JSON is read as a tree of values reads it, and written as it would be written.

use antiphon::agent::audio_json::{Fields, decode, encode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Any text as a message; and any bytes as audio.
pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let tree: Option<Value> = serde_json::from_str(text).ok();
        if let Some(fields) = Fields::read(text) {
            let tree = tree.as_ref().expect("what is understood is JSON");
            assert_eq!(tree["type"].as_str(), Some(&*fields.kind));
            assert_eq!(tree["item_id"].as_str(), fields.item.as_deref());
            assert_eq!(tree["delta"].as_str(), fields.audio.as_deref());
        }
        if let Ok(bytes) = STANDARD.decode(text) {
            assert_eq!(decode(text).as_deref(), Some(&bytes[..]));
        }
    }
    let written = encode(r#"{"audio":""#, data, "\"}");
    let tree: Value = serde_json::from_str(&written).expect("JSON");
    assert_eq!(tree["audio"].as_str(), Some(&*STANDARD.encode(data)));
}
