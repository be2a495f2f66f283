//! Work that the model hands over, and what comes of it.

use serde_json::{Value, json};

use super::delegations::Answer;
use super::{LiveAgent, usage};
use crate::agent::openai::failures::{class_of, code_of};
use crate::message::{FromAgent, ToolResult};

impl LiveAgent {
    pub(super) fn handle_delegation(&mut self, delegation: &Value) {
        let id = delegation["id"].as_str().unwrap_or_default();
        if delegation["target"] != "client" {
            return self.out.tell(FromAgent::Thinking);
        }
        if !self.delegates {
            return self.append("commentary", Some(id), "Nobody is there to do this now.");
        }
        if let Some(call) = self.delegations.ask(id) {
            self.out.tell(FromAgent::ToolCall(call));
        }
    }

    /// An event of the Responses model behind the session.
    pub(super) fn handle_response(&mut self, event: &Value) {
        let key = event["delegation_id"].as_str().unwrap_or_default().to_owned();
        let inner = &event["event"];
        match inner["type"].as_str().unwrap_or_default() {
            "response.output_item.done" if inner["item"]["type"] == "function_call" => {
                if let Some(call) = self.delegations.call(&key, &inner["item"]) {
                    self.out.tell(FromAgent::ToolCall(call));
                }
            }
            kind @ ("response.completed" | "response.incomplete" | "response.failed") => {
                let response = &inner["response"];
                if let Some(usage) = usage::of_backend(&response["usage"]) {
                    self.out.tell(FromAgent::Usage(usage));
                }
                if kind != "response.completed" {
                    let error = &response["error"];
                    let message = error["message"].as_str().unwrap_or("the model behind the session gave no answer");
                    self.out.tell_error(class_of(error), code_of(error), message);
                }
                if self.delegations.finish(&key) {
                    self.out.say(&json!({"type": "response.create"}));
                }
            }
            _ => {}
        }
    }

    pub(super) fn handle_tool_result(&mut self, result: &ToolResult) {
        match self.delegations.answer(result) {
            Answer::Function { go_on } => {
                let (id, output) = (result.call_id.as_str(), &result.output);
                let item = json!({"type": "function_call_output", "call_id": id, "output": output});
                self.out.say(&json!({"type": "response.item.create", "item": item}));
                if go_on {
                    self.out.say(&json!({"type": "response.create"}));
                }
            }
            Answer::Delegation => {
                let text = if result.output.is_empty() { "It is done." } else { &result.output };
                self.append("commentary", Some(result.call_id.as_str()), text);
            }
            Answer::Unknown => self.ignored += 1,
        }
    }
}
