//! Tools that the model calls.

use serde_json::{Value, json};

use super::OpenaiAgent;
use crate::ids::CallId;
use crate::message::{FromAgent, ToolCall, ToolResult};

/// Tool calls that are remembered, so that none is told twice.
const CALLS: usize = 128;

impl OpenaiAgent {
    pub(super) fn handle_call(&mut self, call: &Value) {
        let (Some(id), Some(name)) = (call["call_id"].as_str(), call["name"].as_str()) else { return };
        let call_id = CallId::from(id);
        if self.told.contains(&call_id) {
            return;
        }
        if self.told.len() == CALLS {
            let oldest = self.told.pop_front();
            oldest.map(|oldest| self.missing.remove(&oldest));
        }
        self.told.push_back(call_id.clone());
        self.missing.insert(call_id.clone());
        self.answer_after_results = true;
        let arguments = call["arguments"].as_str().unwrap_or("{}").to_owned();
        self.out.tell(FromAgent::ToolCall(ToolCall { call_id, name: name.to_owned(), arguments }));
    }

    pub(super) fn handle_tool_result(&mut self, result: &ToolResult) {
        self.out.say(&json!({
            "type": "conversation.item.create",
            "item": {"type": "function_call_output", "call_id": result.call_id.as_str(), "output": result.output},
        }));
        self.missing.remove(&result.call_id);
        if self.missing.is_empty() && std::mem::take(&mut self.answer_after_results) {
            self.respond(Value::Null);
        }
    }
}
