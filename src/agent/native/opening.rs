//! The `start` message towards an agent server.

use serde_json::Value;

use crate::dialect::native::codec;
use crate::message::{
    AgentStart, AudioFormats, ContextItem, FromClient, Greeting, History, Start, TurnDetection, Turns,
};

/// Room that is left for what a server may add when it passes a `start` on.
const MAX_BYTES: usize = codec::MAX_CONTROL_BYTES - 4096;

/// The JSON text of the `start` for this conversation, `vendor` merged in. If it would be longer than a control message
/// may be, the oldest utterances are left out.
pub(crate) fn opening(start: AgentStart, audio: AudioFormats, vendor: &Value) -> String {
    let mut setup = start.setup;
    if setup.turns.is_some_and(|turns| turns.detect == TurnDetection::Relay) {
        // We are the relay, and say so by `input`.
        setup.turns = Some(Turns { detect: TurnDetection::Manual });
    }
    if !start.greet {
        setup.greeting = Some(Greeting::None);
    }
    let mut message = Start {
        conversation_id: Some(start.conversation_id),
        session_id: Some(start.session_id),
        audio: Some(audio),
        context: start.client_context,
        metadata: start.metadata,
        setup: Some(setup),
        history: start.context,
        ..Start::default()
    };
    let mut over = text(&message, vendor).len().saturating_sub(MAX_BYTES);
    let mut skip = 0;
    while over > 0 && skip < message.history.len() {
        over = over.saturating_sub(message.history[skip].text.len());
        skip += 1;
    }
    message.history.drain(..skip);
    text(&message, vendor)
}

/// The `history` message; if it would be longer than a control message may be, the oldest utterances are left out.
pub(crate) fn history(items: Vec<ContextItem>) -> FromClient {
    let mut message = FromClient::History(History { items });
    let length = |message: &FromClient| codec::encode_from_client(message).map_or(0, |text| text.len());
    let mut over = length(&message).saturating_sub(MAX_BYTES);
    if let FromClient::History(history) = &mut message {
        while over > 0 && !history.items.is_empty() {
            over = over.saturating_sub(history.items.remove(0).text.len());
        }
    }
    message
}

fn text(start: &Start, vendor: &Value) -> String {
    let plain = codec::encode_start(start).unwrap_or_else(|| "{\"type\":\"start\"}".to_owned());
    if vendor.as_object().is_none_or(serde_json::Map::is_empty) {
        return plain;
    }
    let mut merged: Value = serde_json::from_str(&plain).unwrap_or_default();
    merge(&mut merged, vendor);
    merged.to_string()
}

/// Lays `over` over `base`: tables field by field, anything else replaced.
pub(crate) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
