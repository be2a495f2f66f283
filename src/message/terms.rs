//! Terms that both sides share: formats, roles, states, the set-up of an agent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::media::format::Format;

/// The two formats of a link, as the client sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AudioFormats {
    /// Client to relay.
    #[serde(rename = "in")]
    pub uplink: Format,
    /// Relay to client.
    #[serde(rename = "out")]
    pub downlink: Format,
    /// QUIC and WebTransport: the flow id of this session's audio, chosen by the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<u64>,
}

/// Who speaks or acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The caller.
    User,
    /// The agent.
    Agent,
}

/// The states of a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing has been said yet.
    #[default]
    Idle,
    /// The caller speaks, or may.
    Listening,
    /// The agent prepares an answer.
    Processing,
    /// The agent speaks.
    Speaking,
    /// The agent has spoken and waits for the caller.
    WaitingForUser,
    /// Something went wrong; the conversation may go on.
    Error,
    /// Over.
    Ended,
}

/// The neutral set-up of an agent. Absent fields keep the agent's own default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// System prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The vendor's name of a voice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voice: Option<String>,
    /// BCP 47 language tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The vendor's name of a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How the conversation is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub greeting: Option<Greeting>,
    /// Whether the agent transcribes the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcribe: Option<bool>,
    /// Who decides that the caller has finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<Turns>,
    /// Tools that the agent may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Tool>>,
}

/// A tool that an agent may call: one of the relay's configuration by name, or one that the client defines and runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Tool {
    /// Of the configuration.
    Named(String),
    /// Of the client.
    Defined(ToolDefinition),
}

impl Tool {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Tool::Named(name) => name,
            Tool::Defined(definition) => &definition.name,
        }
    }
}

impl From<&str> for Tool {
    fn from(name: &str) -> Self {
        Tool::Named(name.to_owned())
    }
}

/// What a model is told of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolDefinition {
    /// What it is called by.
    pub name: String,
    /// What it is for: the model chooses by it.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of its arguments.
    #[serde(default)]
    pub parameters: Value,
}

impl Setup {
    /// The names of the fields that are set: what an agent reports that applies none of them.
    pub fn set_fields(&self) -> Vec<String> {
        let Setup { instructions, voice, language, model, greeting, transcribe, turns, tools } = self;
        let fields = [
            ("instructions", instructions.is_some()),
            ("voice", voice.is_some()),
            ("language", language.is_some()),
            ("model", model.is_some()),
            ("greeting", greeting.is_some()),
            ("transcribe", transcribe.is_some()),
            ("turns", turns.is_some()),
            ("tools", tools.is_some()),
        ];
        fields.iter().filter(|(_, set)| *set).map(|(name, _)| (*name).to_owned()).collect()
    }
}

/// Who decides that the caller has finished speaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// The detector.
    pub detect: TurnDetection,
}

/// Kinds of turn detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnDetection {
    /// The agent's voice activity detection.
    Server,
    /// The agent's detection by meaning.
    Semantic,
    /// The relay's own voice activity detection.
    Relay,
    /// The client says so (`input`).
    Manual,
}

/// How a conversation is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Greeting {
    /// Spoken by the agent, word for word.
    Say(String),
    /// Made up by the agent from this prompt.
    Prompt(String),
    /// An audio file, played by the relay.
    Clip(String),
    /// As the agent does by itself.
    Agent,
    /// None: the caller speaks first.
    None,
}

/// What a figure of heard audio rests on, from exact to estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The client's own report of what left its speaker.
    Reported,
    /// Receipt acknowledged by the client's transport library; playback assumed in real time since.
    Acked,
    /// A mark in the audio, echoed by the player.
    Marked,
    /// The relay's own pacing; nothing came back.
    Paced,
}

/// The status of the agent behind a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// Being dialled.
    Connecting,
    /// Ready to talk.
    Ready,
    /// Another agent has taken over.
    Fallback,
    /// No agent can talk now; this one answers what is written.
    Text,
    /// No agent is available now.
    Down,
}
