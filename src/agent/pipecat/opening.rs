//! What a bot is told at the start, and texts for its context.

use serde_json::json;

use super::{Pipecat, rtvi};
use crate::agent::native::merge;
use crate::agent::recap::recap;
use crate::message::{AgentStart, ContextItem, Greeting};

impl Pipecat {
    pub(super) fn start(&mut self, start: &AgentStart) {
        let about = json!({ "library": "antiphon", "library_version": env!("CARGO_PKG_VERSION") });
        let mut data = json!({ "version": rtvi::VERSION, "about": about });
        if self.vendor.is_object() {
            merge(&mut data, &self.vendor);
        }
        self.say("client-ready", &data);
        self.announce();
        self.remember(&start.context);
        let prompt = match &start.setup.greeting {
            Some(Greeting::Prompt(prompt)) => Some(prompt),
            _ => None,
        };
        if let Some(prompt) = prompt.filter(|_| start.greet) {
            self.send_text(prompt, true);
        }
        let mut missing = start.setup.set_fields();
        missing.retain(|field| prompt.is_none() || field != "greeting");
        self.out.not_apply(missing);
    }

    pub(super) fn remember(&mut self, items: &[ContextItem]) {
        if let Some(said) = recap(items) {
            self.send_text(&said, false);
        }
    }

    /// A text for the bot's context, to be answered or not.
    pub(super) fn send_text(&mut self, content: &str, answer: bool) {
        let options = json!({ "run_immediately": answer, "audio_response": true });
        self.say("send-text", &json!({ "content": content, "options": options }));
    }
}
