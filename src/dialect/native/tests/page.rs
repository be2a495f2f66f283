//! `docs/protocol.md` and the golden messages against the schema and the decoder.

use std::collections::BTreeMap;

use serde_json::Value;

use super::golden::{FROM_CLIENT, TO_CLIENT};
use crate::dialect::native::codec::{self, Decoded};
use crate::dialect::native::schema;

const PAGE: &str = include_str!("../../../../docs/protocol.md");

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    FromClient,
    ToClient,
}

impl Way {
    const ALL: [Way; 2] = [Way::FromClient, Way::ToClient];

    const fn definition(self) -> &'static str {
        match self {
            Way::FromClient => "from_client",
            Way::ToClient => "to_client",
        }
    }

    fn check(self, text: &str) -> Result<(), String> {
        let instance: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let validator = jsonschema::validator_for(&schema::direction(self.definition())).unwrap();
        let faults: Vec<String> = validator.iter_errors(&instance).map(|error| error.to_string()).collect();
        if !faults.is_empty() {
            return Err(format!("the schema refuses it: {}", faults.join("; ")));
        }
        let understood = match self {
            Way::FromClient => ignored_fields(codec::decode_from_client(text)),
            Way::ToClient => ignored_fields(codec::decode_to_client(text)),
        }?;
        if understood == 0 { Ok(()) } else { Err(format!("{understood} of its fields are not known")) }
    }
}

fn ignored_fields<T>(decoded: Result<Decoded<T>, crate::message::Error>) -> Result<u32, String> {
    match decoded {
        Ok(Decoded::Message { ignored, .. }) => Ok(ignored),
        Ok(Decoded::Unknown(kind)) => Err(format!("type `{kind}` is not known")),
        Err(error) => Err(error.message),
    }
}

/// The fields of each message type, by direction, as the schema has them.
fn fields_by_type(way: Way) -> BTreeMap<String, Vec<String>> {
    let document = schema::document();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let messages = document["$defs"][way.definition()]["oneOf"].as_array().unwrap();
    messages
        .iter()
        .map(|message| {
            let definition = message["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
            let properties = definition.map_or(&Value::Null, |name| &document["$defs"][name]["properties"]);
            let fields = properties.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
            (text(&message["properties"]["type"]["const"]), fields)
        })
        .collect()
}

/// The text of the section of each message type of one direction.
fn sections(way: Way) -> BTreeMap<String, &'static str> {
    let heading = match way {
        Way::FromClient => "\n## Client to relay\n",
        Way::ToClient => "\n## Relay to client\n",
    };
    let part = PAGE.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
    part.split("\n### `").skip(1).map(|section| (section.split('`').next().unwrap().to_owned(), section)).collect()
}

/// Every example in the page: those of the message sections, and the lines of the sample calls.
fn examples() -> Vec<(Way, &'static str)> {
    let mut examples = Vec::new();
    for way in Way::ALL {
        for section in sections(way).values() {
            let blocks = section.split("```json\n").skip(1);
            examples.extend(blocks.map(|block| (way, block.split("\n```").next().unwrap())));
        }
    }
    for line in PAGE.lines() {
        examples.extend(line.strip_prefix("C: {").map(|_| (Way::FromClient, &line[3..])));
        examples.extend(line.strip_prefix("R: {").map(|_| (Way::ToClient, &line[3..])));
    }
    examples
}

#[test]
fn every_golden_message_satisfies_the_schema() {
    for (way, lines) in [(Way::FromClient, FROM_CLIENT), (Way::ToClient, TO_CLIENT)] {
        for line in lines.lines() {
            way.check(line).unwrap_or_else(|why| panic!("{line}\n{why}"));
        }
    }
}

#[test]
fn every_example_in_the_page_satisfies_the_schema_and_the_decoder() {
    let examples = examples();
    assert!(examples.len() >= 55, "only {} examples were found", examples.len());
    for (way, text) in examples {
        way.check(text).unwrap_or_else(|why| panic!("{text}\n{why}"));
    }
    assert_eq!(PAGE.matches("```json\n").count(), Way::ALL.map(|way| sections(way).len()).iter().sum::<usize>());
}

#[test]
fn every_message_type_has_a_section_with_all_its_fields_and_an_example() {
    for way in Way::ALL {
        let types = fields_by_type(way);
        let sections = sections(way);
        assert_eq!(types.keys().collect::<Vec<_>>(), sections.keys().collect::<Vec<_>>(), "{way:?}");
        for (kind, fields) in types {
            let section = sections[&kind];
            assert!(section.contains("```json\n"), "{way:?} `{kind}` has no example");
            for field in fields.iter().filter(|field| !matches!(field.as_str(), "type" | "seq")) {
                assert!(section.contains(&format!("`{field}`")), "{way:?} `{kind}` does not explain `{field}`");
            }
        }
    }
}

#[test]
fn the_schema_refuses_what_the_decoder_refuses() {
    for text in [
        r#"{"type":"playout"}"#,
        r#"{"type":"playout","pos":-1}"#,
        r#"{"type":"mic","on":"yes"}"#,
        r#"{"type":"dtmf","digits":"12x"}"#,
        r#"{"type":"message","id":"","text":"x"}"#,
        r#"{"pos":1}"#,
    ] {
        let validator = jsonschema::validator_for(&schema::direction("from_client")).unwrap();
        assert!(!validator.is_valid(&serde_json::from_str(text).unwrap()), "the schema takes {text}");
        assert!(codec::decode_from_client(text).is_err(), "the decoder takes {text}");
    }
}

#[test]
fn the_schema_lets_newer_peers_add_fields() {
    for text in [
        r#"{"type":"start","setup":{"voice":"cedar","mood":"gay","turns":{"detect":"server","ms":3}},"later":1}"#,
        r#"{"type":"ping","t":1,"later":{"x":[]}}"#,
    ] {
        let validator = jsonschema::validator_for(&schema::direction("from_client")).unwrap();
        assert!(validator.is_valid(&serde_json::from_str(text).unwrap()), "the schema refuses {text}");
        assert!(codec::decode_from_client(text).is_ok(), "the decoder refuses {text}");
    }
}

#[test]
fn the_page_names_every_close_code() {
    let ending = PAGE.split("\n## Ending\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let reasons = crate::message::CloseReason::ALL.map(|reason| reason.code());
    let errors = crate::message::ErrorCode::ALL.map(|code| code.close_code());
    for code in reasons.into_iter().chain(errors) {
        assert!(ending.contains(&format!("| {code} |")), "close code {code} is not in the page");
    }
}

#[test]
fn the_lists_of_codes_and_reasons_are_complete() {
    let document = schema::document();
    let names = |name: &str| -> Vec<String> {
        let variants = document["$defs"][name]["oneOf"].as_array().unwrap();
        variants.iter().map(|variant| variant["const"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("ErrorCode"), crate::message::ErrorCode::ALL.map(|code| code.label()));
    assert_eq!(names("CloseReason"), crate::message::CloseReason::ALL.map(|reason| reason.label()));
}
