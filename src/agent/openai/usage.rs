//! Usage as OpenAI reports it, in the common units.

use serde_json::Value;

use crate::message::Usage;
use crate::message::usage::without;

/// The usage of a response; what was cached is told apart from what was read anew, as far as the report does.
pub fn of_response(usage: &Value) -> Option<Usage> {
    let (input, output) = (&usage["input_token_details"], &usage["output_token_details"]);
    let of = |details: &Value, name: &str| details[name].as_f64();
    let (text, audio) = (of(input, "text_tokens"), of(input, "audio_tokens"));
    let by_kind = &input["cached_tokens_details"];
    let (mut cached_text, mut cached_audio) = (of(by_kind, "text_tokens"), of(by_kind, "audio_tokens"));
    let cached = of(input, "cached_tokens").filter(|_| by_kind.is_null());
    if cached.is_some() {
        // What is cached is the beginning of the conversation: instructions and tools, which are text.
        cached_text = cached.zip(text).map(|(cached, text)| cached.min(text));
        cached_audio = without(cached, cached_text);
    }
    Usage::of([
        ("input_text_tokens", without(text, cached_text)),
        ("input_audio_tokens", without(audio, cached_audio)),
        ("input_image_tokens", of(input, "image_tokens")),
        ("cached_text_tokens", cached_text),
        ("cached_audio_tokens", cached_audio),
        ("output_text_tokens", of(output, "text_tokens")),
        ("output_audio_tokens", of(output, "audio_tokens")),
        ("input_tokens", of(usage, "input_tokens").filter(|_| input.is_null())),
        ("output_tokens", of(usage, "output_tokens").filter(|_| output.is_null())),
    ])
}

/// The usage of a transcription, which is billed apart.
pub fn of_transcription(usage: &Value) -> Option<Usage> {
    match usage["type"].as_str()? {
        "duration" => Usage::of([("transcription_seconds", usage["seconds"].as_f64())]),
        "tokens" => Usage::of([("transcription_tokens", usage["total_tokens"].as_f64())]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn cached_tokens_are_told_apart_and_what_is_not_told_is_absent() {
        let usage = of_response(&json!({
            "total_tokens": 253, "input_tokens": 132, "output_tokens": 121,
            "input_token_details": {"text_tokens": 119, "audio_tokens": 13, "cached_tokens": 64,
                "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 0}},
            "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
        }));
        let amounts = usage.expect("usage").amounts;
        assert_eq!(amounts["input_text_tokens"], 55.0);
        assert_eq!(amounts["cached_text_tokens"], 64.0);
        assert_eq!(amounts["output_audio_tokens"], 91.0);
        assert!(!amounts.contains_key("cached_tokens"));
        let whole = of_response(&json!({
            "input_token_details": {"text_tokens": 50, "audio_tokens": 30, "cached_tokens": 64},
        }));
        let amounts = whole.expect("usage").amounts;
        assert_eq!((amounts["input_text_tokens"], amounts["cached_text_tokens"]), (0.0, 50.0));
        assert_eq!((amounts["input_audio_tokens"], amounts["cached_audio_tokens"]), (16.0, 14.0));
        let plain = of_response(&json!({"input_tokens": 5, "output_tokens": 7})).expect("usage").amounts;
        assert_eq!(plain, BTreeMap::from([("input_tokens".into(), 5.0), ("output_tokens".into(), 7.0)]));
        assert_eq!(of_response(&Value::Null), None);
        assert_eq!(of_transcription(&json!({"type": "duration", "seconds": 3})).expect("usage").amounts.len(), 1);
    }
}
