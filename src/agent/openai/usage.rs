//! Usage as OpenAI reports it, in the common units.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::message::Usage;

/// The usage of a response: cached tokens are told apart from those that were read anew where the report does.
pub fn of_response(usage: &Value) -> Option<Usage> {
    let (input, output) = (&usage["input_token_details"], &usage["output_token_details"]);
    let cached = &input["cached_tokens_details"];
    let mut amounts = BTreeMap::new();
    let mut put = |unit: &str, amount: Option<f64>| {
        if let Some(amount) = amount {
            amounts.insert(unit.to_owned(), amount);
        }
    };
    for (unit, cached_unit, name) in [
        ("input_text_tokens", "cached_text_tokens", "text_tokens"),
        ("input_audio_tokens", "cached_audio_tokens", "audio_tokens"),
    ] {
        let of_them = cached[name].as_f64();
        put(unit, input[name].as_f64().map(|all| (all - of_them.unwrap_or(0.0)).max(0.0)));
        put(cached_unit, of_them);
    }
    if cached.is_null() {
        put("cached_tokens", input["cached_tokens"].as_f64());
    }
    put("output_text_tokens", output["text_tokens"].as_f64());
    put("output_audio_tokens", output["audio_tokens"].as_f64());
    if input.is_null() {
        put("input_tokens", usage["input_tokens"].as_f64());
    }
    if output.is_null() {
        put("output_tokens", usage["output_tokens"].as_f64());
    }
    (!amounts.is_empty()).then(|| Usage { amounts, ..Usage::default() })
}

/// The usage of a transcription, which is billed apart.
pub fn of_transcription(usage: &Value) -> Option<Usage> {
    let (unit, amount) = match usage["type"].as_str()? {
        "duration" => ("transcription_seconds", usage["seconds"].as_f64()?),
        "tokens" => ("transcription_tokens", usage["total_tokens"].as_f64()?),
        _ => return None,
    };
    Some(Usage { amounts: BTreeMap::from([(unit.to_owned(), amount)]), ..Usage::default() })
}

#[cfg(test)]
mod tests {
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
        let plain = of_response(&json!({"input_tokens": 5, "output_tokens": 7})).expect("usage").amounts;
        assert_eq!(plain, BTreeMap::from([("input_tokens".into(), 5.0), ("output_tokens".into(), 7.0)]));
        assert_eq!(of_response(&Value::Null), None);
        assert_eq!(of_transcription(&json!({"type": "duration", "seconds": 3})).expect("usage").amounts.len(), 1);
    }
}
