//! The conversation as its client knows it: the items that it was told, to be asked for again.

use std::collections::VecDeque;

use serde_json::Value;

/// Items that are kept at most, and bytes of text in them; the oldest go first.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 256 << 10;

/// The items of one conversation.
#[derive(Debug, Default)]
pub(crate) struct Items {
    kept: VecDeque<Item>,
    bytes: usize,
    last: Option<String>,
    made: u64,
}

#[derive(Debug)]
struct Item {
    id: String,
    previous: Option<String>,
    value: Value,
    bytes: usize,
}

impl Items {
    /// A name for an item that has none.
    pub fn next_id(&mut self) -> String {
        self.made += 1;
        format!("item_{}", self.made)
    }

    /// The newest item.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Appends an item; gives the one before it.
    pub fn add(&mut self, value: &Value) -> Option<String> {
        let id = id_of(value).to_owned();
        let previous = self.last.replace(id.clone());
        let bytes = text_of(value);
        self.bytes += bytes;
        self.kept.push_back(Item { id, previous: previous.clone(), value: value.clone(), bytes });
        self.trim();
        previous
    }

    /// An item is complete; gives the one before it.
    pub fn complete(&mut self, value: &Value) -> Option<String> {
        let bytes = text_of(value);
        let item = self.kept.iter_mut().rev().find(|item| item.id == id_of(value))?;
        self.bytes = self.bytes - item.bytes + bytes;
        (item.value, item.bytes) = (value.clone(), bytes);
        let previous = item.previous.clone();
        self.trim();
        previous
    }

    /// The text of an item's audio is known, or was cut.
    pub fn set_transcript(&mut self, id: &str, text: &str) {
        let Some(item) = self.kept.iter().rev().find(|item| item.id == id) else { return };
        let mut value = item.value.clone();
        value["content"][0]["transcript"] = text.into();
        self.complete(&value);
    }

    /// The item of this name.
    pub fn find(&self, id: &str) -> Option<&Value> {
        self.kept.iter().rev().find(|item| item.id == id).map(|item| &item.value)
    }

    fn trim(&mut self) {
        while self.kept.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= oldest.bytes;
        }
    }
}

fn id_of(value: &Value) -> &str {
    value["id"].as_str().unwrap_or_default()
}

/// Roughly what an item takes.
fn text_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 16,
        Value::Array(values) => values.iter().map(text_of).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + 16 + text_of(value)).sum(),
        _ => 16,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_stand_where_they_were_added_and_their_text_may_come_late() {
        let mut items = Items::default();
        let spoken = json!({"id": "a", "content": [{"type": "input_audio", "transcript": null}]});
        assert_eq!(items.add(&spoken), None);
        assert_eq!(items.add(&json!({"id": "b"})).as_deref(), Some("a"));
        assert_eq!(items.complete(&json!({"id": "b", "status": "completed"})).as_deref(), Some("a"));
        items.set_transcript("a", "Hello");
        assert_eq!(items.find("a").unwrap()["content"][0]["transcript"], "Hello");
        assert_eq!((items.last(), items.find("c")), (Some("b"), None));
    }

    #[test]
    fn the_oldest_items_are_forgotten_beyond_the_bounds() {
        let mut items = Items::default();
        for n in 0..KEPT + 10 {
            items.add(&json!({"id": format!("i{n}")}));
        }
        assert!(items.find("i9").is_none() && items.find("i10").is_some());
        for n in 0..10 {
            items.add(&json!({"id": format!("long{n}"), "text": "x".repeat(60_000)}));
        }
        assert!(items.bytes <= KEPT_BYTES && items.find("long9").is_some() && items.find("long0").is_none());
    }
}
