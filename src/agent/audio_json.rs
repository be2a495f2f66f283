//! Audio in JSON: base64 in a field of a message, written and read without a tree of values.
//!
//! Every vendor that carries audio in JSON sends a short object with the audio as one long string. [`encode`] writes
//! such a message in one pass. [`Fields`], or a struct like it with [`Text`] in it, finds the message's type and that string
//! where they stand, checked by the same parser as everything else, and [`decode`] turns the string into bytes.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, GeneralPurpose};
use bytes::Bytes;
use serde::Deserialize;

/// Base64 (RFC 4648 section 4) as lenient peers write it: padding may be left out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `before`, the base64 of `payload` and `after`, in one string of exactly the length that it needs.
pub fn encode(before: &str, payload: &[u8], after: &str) -> String {
    let mut out = String::with_capacity(before.len() + payload.len().div_ceil(3) * 4 + after.len());
    encode_into(&mut out, before, payload, after);
    out
}

/// As [`encode`], appended to `out`.
pub fn encode_into(out: &mut String, before: &str, payload: &[u8], after: &str) {
    out.push_str(before);
    base64_simd::STANDARD.encode_append(payload, out);
    out.push_str(after);
}

/// The bytes of a base64 text; `None` if it is none.
pub fn decode(text: &str) -> Option<Bytes> {
    let decoded = base64_simd::STANDARD.decode_to_vec(text.as_bytes()).ok();
    decoded.or_else(|| LENIENT.decode(text).ok()).map(Bytes::from)
}

/// What of a JSON message is looked at first: its type, and a text field.
///
/// The text borrows from the message unless it is escaped, which base64 need not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields<'a> {
    /// `type`.
    pub kind: Cow<'a, str>,
    /// The item that the audio belongs to, where there is one (`item_id`).
    pub item: Option<Cow<'a, str>>,
    /// The audio (`delta`).
    pub audio: Option<Cow<'a, str>>,
}

/// A text in a message that borrows from it where it is not escaped, for messages of other forms than [`Fields`]: serde
/// borrows into a bare `Cow` in an `Option` never.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'a> Fields<'a> {
    /// Reads `text`; `None` if it is no JSON object with a text `type`, or says something twice.
    pub fn read(text: &'a str) -> Option<Fields<'a>> {
        #[derive(Deserialize)]
        struct Message<'a> {
            #[serde(rename = "type", borrow)]
            kind: Text<'a>,
            #[serde(default, borrow)]
            item_id: Option<Text<'a>>,
            #[serde(default, borrow)]
            delta: Option<Text<'a>>,
        }
        if !text.trim_start().starts_with('{') {
            return None; // The derived parser would take an array for the fields in order.
        }
        let Message { kind, item_id, delta } = serde_json::from_str(text).ok()?;
        Some(Fields { kind: kind.0, item: item_id.map(|text| text.0), audio: delta.map(|text| text.0) })
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// What a tree of values says of the same message.
    fn by_tree(text: &str) -> Option<(String, Option<String>, Option<Vec<u8>>)> {
        let value: Value = serde_json::from_str(text).ok()?;
        let audio = value["delta"].as_str().and_then(|audio| STANDARD.decode(audio).ok());
        Some((value["type"].as_str()?.to_owned(), value["item_id"].as_str().map(str::to_owned), audio))
    }

    fn by_fields(text: &str) -> Option<(String, Option<String>, Option<Vec<u8>>)> {
        let fields = Fields::read(text)?;
        let audio = fields.audio.and_then(|audio| decode(&audio)).map(|audio| audio.to_vec());
        Some((fields.kind.into_owned(), fields.item.map(Cow::into_owned), audio))
    }

    /// Any JSON, with the names that matter among the keys.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            prop::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| STANDARD.encode(bytes).into()),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            let key = prop_oneof![
                Just("type".to_owned()),
                Just("delta".to_owned()),
                Just("item_id".to_owned()),
                any::<String>(),
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_written_message_is_what_serde_json_would_have_written(audio in prop::collection::vec(any::<u8>(), 0..3000)) {
            let text = encode(r#"{"type":"input_audio_buffer.append","audio":""#, &audio, "\"}");
            let tree: Value = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(&tree, &json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(&audio)}));
            prop_assert_eq!(text.capacity(), text.len());
        }

        #[test]
        fn audio_is_read_as_by_a_tree(audio in prop::collection::vec(any::<u8>(), 0..3000), rest in any_json()) {
            let text = json!({"type": "x", "rest": rest, "delta": STANDARD.encode(&audio), "item_id": "i"}).to_string();
            prop_assert_eq!(by_fields(&text), by_tree(&text));
        }

        #[test]
        fn whatever_fields_understand_they_understand_as_a_tree_does(json in any_json()) {
            let text = json.to_string();
            let read = by_fields(&text);
            prop_assert!(read.is_none() || read == by_tree(&text), "{text}");
        }

        #[test]
        fn any_text_and_a_message_that_breaks_off_do_no_harm(text in any::<String>(), audio in prop::collection::vec(any::<u8>(), 0..200), keep in 0usize..300) {
            prop_assert_eq!(by_fields(&text).is_some() && by_tree(&text).is_none(), false);
            let whole = json!({"type": "x", "delta": STANDARD.encode(&audio)}).to_string();
            let part = &whole[..keep.min(whole.len())];
            prop_assert_eq!(by_fields(part), by_tree(part));
        }

        #[test]
        fn base64_is_read_as_by_the_other_library(text in "[A-Za-z0-9+/]{0,40}={0,3}|.{0,20}") {
            let theirs = LENIENT.decode(&text).ok();
            prop_assert_eq!(decode(&text).map(|bytes| bytes.to_vec()), theirs);
        }
    }
}
