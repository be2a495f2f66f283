//! Agents of vendors: what their kinds have in common, from raw to checked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use figment::value::Dict;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use crate::config::checker::Checker;
use crate::config::raw::{RawAgent, RawProtocol};
use crate::config::secret;
use crate::config::shape::OneOrMany;
use crate::media::format::Format;
use crate::message::{Setup, Tool, ToolDefinition};

/// Kinds of agents of vendors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VendorKind {
    /// OpenAI Realtime, and what speaks the same wire (Azure, xAI).
    Openai,
    /// OpenAI Live.
    Live,
    /// ElevenLabs Conversational AI.
    Elevenlabs,
    /// Deepgram Voice Agent.
    Deepgram,
    /// Gemini Live.
    Gemini,
    /// Pipecat over WebSocket.
    Pipecat,
    /// OpenAI-compatible chat completions.
    Chat,
}

impl VendorKind {
    /// All of them, by their labels.
    pub const ALL: [VendorKind; 7] = [
        VendorKind::Chat,
        VendorKind::Deepgram,
        VendorKind::Elevenlabs,
        VendorKind::Gemini,
        VendorKind::Live,
        VendorKind::Openai,
        VendorKind::Pipecat,
    ];

    /// The `kind` of the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            VendorKind::Openai => "openai",
            VendorKind::Live => "live",
            VendorKind::Elevenlabs => "elevenlabs",
            VendorKind::Deepgram => "deepgram",
            VendorKind::Gemini => "gemini",
            VendorKind::Pipecat => "pipecat",
            VendorKind::Chat => "chat",
        }
    }

    /// By the `kind` of the configuration.
    pub fn named(kind: &str) -> Option<VendorKind> {
        VendorKind::ALL.into_iter().find(|vendor| vendor.label() == kind)
    }

    /// Where it is reached if nobody says otherwise; `None`: the operator must say.
    pub const fn default_url(self) -> Option<&'static str> {
        match self {
            VendorKind::Openai => Some("wss://api.openai.com/v1/realtime"),
            VendorKind::Live => Some("wss://api.openai.com/v1/live/sessions"),
            VendorKind::Elevenlabs => Some("wss://api.elevenlabs.io/v1/convai/conversation"),
            VendorKind::Deepgram => Some("wss://agent.deepgram.com/v1/agent/converse"),
            VendorKind::Gemini => Some(
                "wss://generativelanguage.googleapis.com/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
            ),
            VendorKind::Pipecat => None,
            VendorKind::Chat => Some("https://api.openai.com/v1/chat/completions"),
        }
    }

    const fn schemes(self) -> &'static [&'static str] {
        match self {
            VendorKind::Chat => &["https", "http"],
            _ => &["wss", "ws"],
        }
    }

    /// Units that it reports its usage in; empty for a vendor that reports none.
    pub const fn units(self) -> &'static [&'static str] {
        match self {
            VendorKind::Openai => &[
                "input_text_tokens",
                "input_audio_tokens",
                "input_image_tokens",
                "cached_text_tokens",
                "cached_audio_tokens",
                "output_text_tokens",
                "output_audio_tokens",
                "input_tokens",
                "output_tokens",
                "transcription_seconds",
                "transcription_tokens",
            ],
            VendorKind::Live => &["session_seconds", "input_text_tokens", "cached_text_tokens", "output_text_tokens"],
            VendorKind::Gemini => &[
                "input_text_tokens",
                "input_audio_tokens",
                "input_image_tokens",
                "input_tokens",
                "cached_text_tokens",
                "cached_audio_tokens",
                "output_text_tokens",
                "output_audio_tokens",
                "output_tokens",
                "reasoning_tokens",
            ],
            VendorKind::Pipecat => &["input_tokens", "cached_tokens", "output_tokens", "characters"],
            VendorKind::Chat => &["input_text_tokens", "cached_text_tokens", "output_text_tokens", "reasoning_tokens"],
            VendorKind::Elevenlabs | VendorKind::Deepgram => &[],
        }
    }

    /// Keys that only some kinds have, beside [`KEYS`].
    pub const fn own_keys(self) -> &'static [&'static str] {
        match self {
            VendorKind::Openai | VendorKind::Live | VendorKind::Deepgram => &["audio_in", "audio_out"],
            VendorKind::Elevenlabs => &["agent_id"],
            VendorKind::Gemini => &[],
            VendorKind::Pipecat => &["audio_in", "audio_out", "protocol"],
            VendorKind::Chat => &["history"],
        }
    }
}

/// Keys that all vendors' kinds have.
pub const KEYS: [&str; 8] =
    ["url", "query", "headers", "auth", "api_key", "credential", "connect_timeout_ms", "ping_s"];

/// An agent of a vendor, checked.
#[derive(Clone, Debug)]
pub struct VendorAgent {
    /// Whose.
    pub kind: VendorKind,
    /// Without query.
    pub url: Url,
    /// Added to the URL's query.
    pub query: Vec<(String, String)>,
    /// Of the upgrade request; values may be secret.
    pub headers: Vec<(String, SecretString)>,
    /// How the key is presented.
    pub auth: VendorAuth,
    /// The key.
    pub api_key: Option<SecretString>,
    /// `elevenlabs`: whose conversation it is.
    pub agent_id: Option<String>,
    /// What the agent is to hear; `None`: the kind's usual format.
    pub uplink: Option<Format>,
    /// What the agent is to speak; `None`: the kind's usual format.
    pub downlink: Option<Format>,
    /// `pipecat`: what is spoken on the socket.
    pub wire: PipecatWire,
    /// `chat`: messages of the conversation that are sent along.
    pub history: usize,
    /// Time for name, TCP, TLS and upgrade.
    pub connect_timeout: Duration,
    /// The tools of the configuration, by name.
    pub tools: Arc<BTreeMap<String, ToolDefinition>>,
}

/// How a key is presented.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VendorAuth {
    /// As the vendor usually wants it.
    #[default]
    Usual,
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// `api-key: KEY`.
    ApiKey,
    /// `Authorization: Bearer TOKEN`, where a command prints the token.
    Token(TokenCommand),
}

/// A command that prints a token on standard output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenCommand {
    /// Program and arguments; no shell is involved.
    pub command: Vec<String>,
    /// A token is used for so long, then the command runs again.
    pub refresh: Duration,
}

/// What is spoken on the socket of a `pipecat` agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PipecatWire {
    /// Protobuf frames.
    #[default]
    Protobuf,
    /// RTVI messages in JSON.
    Rtvi,
}

impl VendorAgent {
    /// An agent of a kind with its defaults and no key.
    #[cfg(test)]
    pub fn example(kind: VendorKind) -> VendorAgent {
        VendorAgent {
            kind,
            url: kind.default_url().unwrap_or("ws://127.0.0.1:9/").parse().expect("a URL"),
            query: Vec::new(),
            headers: Vec::new(),
            auth: VendorAuth::Usual,
            api_key: None,
            agent_id: None,
            uplink: None,
            downlink: None,
            wire: PipecatWire::Protobuf,
            history: 20,
            connect_timeout: Duration::from_secs(5),
            tools: Arc::default(),
        }
    }

    /// The header that presents the key, if there is a key; tokens of a command are fetched before the dial.
    pub fn key_header(&self) -> Option<(String, SecretString)> {
        let key = self.api_key.as_ref()?.expose_secret();
        let bearer = || ("authorization", format!("Bearer {key}"));
        let (name, value) = match (&self.auth, self.kind) {
            (VendorAuth::Token(_), _) => return None,
            (VendorAuth::Bearer, _) => bearer(),
            (VendorAuth::ApiKey, _) => ("api-key", key.to_owned()),
            (VendorAuth::Usual, VendorKind::Elevenlabs) => ("xi-api-key", key.to_owned()),
            (VendorAuth::Usual, VendorKind::Deepgram) => ("authorization", format!("Token {key}")),
            (VendorAuth::Usual, VendorKind::Gemini) => ("x-goog-api-key", key.to_owned()),
            (VendorAuth::Usual, _) => bearer(),
        };
        Some((name.to_owned(), value.into()))
    }

    /// The URL with the configured query, and `more` of it where the operator has not set the same name.
    pub fn url_with(&self, more: &[(&str, &str)]) -> Url {
        let mut url = self.url.clone();
        let set: Vec<String> = self
            .query
            .iter()
            .map(|(name, _)| name.clone())
            .chain(url.query_pairs().map(|(n, _)| n.into_owned()))
            .collect();
        let more = more.iter().filter(|(name, _)| !set.iter().any(|set| set == name));
        let mut pairs: Vec<(&str, &str)> = more.copied().collect();
        pairs.extend(self.query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        url
    }

    /// The definitions of a set-up's tools; a name that nothing defines is left out.
    pub fn tools(&self, setup: &Setup) -> Vec<ToolDefinition> {
        let find = |tool: &Tool| match tool {
            Tool::Defined(definition) => Some(definition.clone()),
            Tool::Named(name) => self.tools.get(name).cloned(),
        };
        setup.tools.iter().flatten().filter_map(find).collect()
    }
}

/// How a vendor's key is presented: `"bearer"`, `"api-key"`, or a command that prints a token.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawVendorAuth {
    /// One of two headers.
    Mode(RawAuthMode),
    /// A token that a command prints.
    Command {
        /// Program and arguments.
        token_command: OneOrMany<String>,
        /// How long a token is used.
        refresh_s: Option<u64>,
    },
}

/// Headers for a key.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawAuthMode {
    /// `Authorization: Bearer`.
    Bearer,
    /// `api-key`.
    ApiKey,
}

/// The tool that ends the call, which the relay has by itself.
pub const END_CALL: &str = "end_call";

/// What [`END_CALL`] is to a model.
pub fn end_call() -> ToolDefinition {
    ToolDefinition {
        name: END_CALL.into(),
        description: "Hang up, after having said goodbye.".into(),
        parameters: json!({"type": "object", "properties": {}}),
    }
}

/// Whether the table holds or fetches a secret beside `api_key`.
pub fn has_secret(raw: &RawAgent) -> bool {
    matches!(raw.auth, Some(RawVendorAuth::Command { .. })) || raw.query.values().any(|text| secret::is_reference(text))
}

/// What a vendor's agent has if nobody says otherwise.
pub fn defaults(kind: VendorKind) -> Dict {
    let mut table = json!({"connect_timeout_ms": 5000, "ping_s": 10, "headers": {}, "query": {}});
    if let Some(url) = kind.default_url() {
        table["url"] = url.into();
    }
    match kind {
        VendorKind::Pipecat => table["protocol"] = "protobuf".into(),
        VendorKind::Chat => table["history"] = 20.into(),
        _ => {}
    }
    match figment::value::Value::serialize(&table) {
        Ok(figment::value::Value::Dict(_, dict)) => dict,
        _ => Dict::new(),
    }
}

/// Checks an agent of a vendor; its key comes later.
pub fn vendor(
    name: &str,
    kind: VendorKind,
    raw: &RawAgent,
    headers: Vec<(String, SecretString)>,
    tools: &Arc<BTreeMap<String, ToolDefinition>>,
    check: &mut Checker<'_>,
) -> Option<VendorAgent> {
    let at = |key| ["agent", name, key];
    let mut format = |key: &'static str, text: &Option<String>| match text {
        Some(text) => check.parse::<Format>(&at(key), text).map(Some),
        None => Some(None),
    };
    let (uplink, downlink) = (format("audio_in", &raw.audio_in), format("audio_out", &raw.audio_out));
    let query = query(name, raw, check);
    let auth = auth(name, kind, raw, check);
    let agent_id = raw.agent_id.as_ref().map(|text| check.text(&at("agent_id"), text));
    if kind == VendorKind::Elevenlabs && raw.agent_id.is_none() {
        check.missing(&["agent", name], "agent_id", "add `agent_id = \"…\"`, as the vendor shows it");
        return None;
    }
    let Some(url) = &raw.url else {
        check.missing(&["agent", name], "url", "add `url = \"ws://host:port/path\"`");
        return None;
    };
    let wire = match raw.protocol {
        None | Some(RawProtocol::Protobuf) => PipecatWire::Protobuf,
        Some(RawProtocol::Rtvi) => PipecatWire::Rtvi,
        Some(RawProtocol::Native | RawProtocol::Plain) => {
            check.wrong(&at("protocol"), "is of another kind of agent", "possible: protobuf, rtvi".to_owned());
            return None;
        }
    };
    Some(VendorAgent {
        kind,
        url: check.url(&at("url"), url, kind.schemes())?,
        query: query?,
        headers,
        auth: auth?,
        api_key: None,
        agent_id: agent_id.flatten(),
        uplink: uplink?,
        downlink: downlink?,
        wire,
        history: raw.history.unwrap_or(20),
        connect_timeout: Duration::from_millis(raw.connect_timeout_ms.unwrap_or(5000)),
        tools: tools.clone(),
    })
}

fn query(name: &str, raw: &RawAgent, check: &mut Checker<'_>) -> Option<Vec<(String, String)>> {
    let mut out = Vec::new();
    let mut good = true;
    for (key, text) in &raw.query {
        let at = ["agent", name, "query", key];
        if secret::looks_secret(key) {
            let help = "put it into `api_key` or `headers`".to_owned();
            check.wrong_key(&at, "a secret in a URL ends up in logs", help);
            good = false;
        } else {
            match check.text(&at, text) {
                Some(text) => out.push((key.clone(), text)),
                None => good = false,
            }
        }
    }
    good.then_some(out)
}

fn auth(name: &str, kind: VendorKind, raw: &RawAgent, check: &mut Checker<'_>) -> Option<VendorAuth> {
    let at = ["agent", name, "auth"];
    Some(match &raw.auth {
        None => VendorAuth::Usual,
        Some(RawVendorAuth::Mode(RawAuthMode::Bearer)) => VendorAuth::Bearer,
        Some(RawVendorAuth::Mode(RawAuthMode::ApiKey)) => VendorAuth::ApiKey,
        Some(RawVendorAuth::Command { .. }) if kind == VendorKind::Elevenlabs => {
            // Its conversations are opened by a URL that is signed for them, and that is asked for with a key.
            check.wrong(&at, "this vendor takes no tokens", "put a key into `api_key`".to_owned());
            return None;
        }
        Some(RawVendorAuth::Command { token_command, refresh_s }) => {
            if raw.api_key.is_some() || !raw.credential.is_empty() {
                check.wrong_key(&at, "`api_key` presents another secret", "keep one of the two".to_owned());
                return None;
            }
            if token_command.0.first().is_none_or(String::is_empty) {
                let help = "write token_command = [\"program\", \"argument\"]".to_owned();
                check.wrong(&at, "the `token_command` names no program", help);
                return None;
            }
            VendorAuth::Token(TokenCommand {
                command: token_command.0.clone(),
                refresh: Duration::from_secs(refresh_s.unwrap_or(1800)),
            })
        }
    })
}
