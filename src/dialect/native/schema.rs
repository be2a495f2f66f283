//! The JSON Schema of `antiphon.v1`: `docs/protocol.schema.json`, derived from the types of [`crate::message`].

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::dialect::native::limits;
use crate::message::{FromClient, Start, ToClient};

/// The schema of any control message, as a JSON document (draft 2020-12). `$defs/from_client` and `$defs/to_client`
/// hold one direction each; every message type has its own entry under `$defs`.
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let from_client = messages::<FromClient>(&mut generator, Some(generator_start));
    let to_client = messages::<ToClient>(&mut generator, None);
    let mut defs: Map<String, Value> = generator.take_definitions(true);
    defs.values_mut().for_each(open_up);
    add_limits(&mut defs);
    defs.insert("from_client".to_owned(), json!({ "description": FROM_CLIENT, "oneOf": from_client }));
    defs.insert("to_client".to_owned(), json!({ "description": TO_CLIENT, "oneOf": to_client }));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "antiphon.v1",
        "description": DESCRIPTION,
        "anyOf": [{ "$ref": "#/$defs/from_client" }, { "$ref": "#/$defs/to_client" }],
        "$defs": defs,
    })
}

/// The schema of one direction, for a validator.
pub fn direction(name: &str) -> Value {
    let mut document = document();
    if let Some(fields) = document.as_object_mut() {
        fields.remove("anyOf");
        fields.insert("$ref".to_owned(), json!(format!("#/$defs/{name}")));
    }
    document
}

const DESCRIPTION: &str = "One control message of the native protocol. Unknown fields and message types are ignored, so \
                           that either side may be newer.";
const FROM_CLIENT: &str = "From a client to the relay (or from the relay to an agent server).";
const TO_CLIENT: &str = "From the relay to a client (or from an agent server to the relay). Messages that are kept for a \
                         resume also carry `seq`.";

fn generator_start(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Start>()
}

/// One schema per message type of an enum tagged by `type`, `start` first where there is one.
fn messages<T: JsonSchema>(
    generator: &mut SchemaGenerator,
    start: Option<fn(&mut SchemaGenerator) -> Schema>,
) -> Vec<Value> {
    let mut all = Vec::new();
    if let Some(start) = start {
        let mut schema = start(generator).to_value();
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("type".to_owned(), json!("object"));
            fields.insert("properties".to_owned(), json!({ "type": { "type": "string", "const": "start" } }));
            fields.insert("required".to_owned(), json!(["type"]));
        }
        all.push(schema);
    }
    let tagged = T::json_schema(generator).to_value();
    all.extend(tagged.get("oneOf").and_then(Value::as_array).into_iter().flatten().cloned());
    all
}

/// Types that the configuration reads strictly are open on the wire, like all others; and open maps of numbers lie
/// beside the envelope's own fields.
fn open_up(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    match fields.get("additionalProperties") {
        Some(Value::Bool(false)) => {
            fields.remove("additionalProperties");
        }
        Some(Value::Object(_)) => {
            let properties = fields.entry("properties").or_insert_with(|| json!({}));
            properties["type"] = json!({ "type": "string" });
            properties["seq"] = json!({ "type": "integer", "minimum": 0 });
        }
        _ => {}
    }
}

fn add_limits(defs: &mut Map<String, Value>) {
    for id in ["AgentName", "CallId", "ConversationId", "ItemId", "MessageId", "SessionId"] {
        if let Some(schema) = defs.get_mut(id) {
            schema["minLength"] = json!(1);
            schema["maxLength"] = json!(limits::MAX_ID_CHARS);
        }
    }
    let Some(dtmf) = defs.get_mut("Dtmf") else { return };
    dtmf["properties"]["digits"]["pattern"] = json!(format!("^[0-9*#A-D]{{1,{}}}$", limits::MAX_DTMF_DIGITS));
}
