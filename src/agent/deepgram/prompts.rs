//! What the service is asked for and told beside the conversation.

use std::collections::VecDeque;

use serde_json::json;

use super::Deepgram;
use crate::agent::recap::recap;
use crate::message::{ContextItem, Setup};

/// Requests whose echoes are awaited.
const MAX_HIDDEN: usize = 4;

/// The instructions in force, and what was asked without the caller having said it.
#[derive(Debug, Default)]
pub(super) struct Prompts {
    pub instructions: String,
    /// What it was told after them of what was said.
    recap: String,
    /// Asked of it: the service tells it as if the caller had said it.
    hidden: VecDeque<String>,
}

impl Prompts {
    /// Whether what the caller is said to have said is what was asked here.
    pub fn is_echo(&mut self, content: &str) -> bool {
        let echo = self.hidden.front().is_some_and(|hidden| hidden == content);
        if echo {
            self.hidden.pop_front();
        }
        echo
    }
}

impl Deepgram {
    /// Asks for an answer to what the caller has not said.
    pub(super) fn ask(&mut self, text: String) {
        self.out.say(&json!({ "type": "InjectUserMessage", "content": text }));
        if self.prompts.hidden.len() == MAX_HIDDEN {
            self.prompts.hidden.pop_front();
        }
        self.prompts.hidden.push_back(text);
    }

    /// What was said meanwhile: context is taken at the start only, instructions at any time.
    pub(super) fn remember(&mut self, items: &[ContextItem]) {
        let Some(said) = recap(items) else { return };
        self.prompts.recap = [self.prompts.recap.as_str(), &said].join("\n\n");
        self.say_instructions();
    }

    fn say_instructions(&mut self) {
        let prompt = format!("{}{}", self.prompts.instructions, self.prompts.recap);
        self.out.say(&json!({ "type": "UpdatePrompt", "prompt": prompt }));
    }

    pub(super) fn update(&mut self, mut setup: Setup) {
        if let Some(instructions) = setup.instructions.take() {
            self.prompts.instructions = instructions;
            self.say_instructions();
        }
        if let Some(voice) = setup.voice.take() {
            let provider = json!({ "type": "deepgram", "model": voice });
            self.out.say(&json!({ "type": "UpdateSpeak", "speak": { "provider": provider } }));
        }
        self.out.refuse(setup.set_fields());
    }
}
