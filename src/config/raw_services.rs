//! The tables of tools and hooks as they are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::settings::OnError;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTool {
    pub description: Option<String>,
    pub parameters: Option<Value>,
    pub parameters_file: Option<String>,
    pub run: RawRun,
    pub url: Option<String>,
    pub secret: Option<String>,
    pub timeout_ms: Option<u64>,
    pub filler: Option<RawFiller>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawRun {
    #[default]
    Client,
    Http,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawFiller {
    pub clip: Option<String>,
    pub after_ms: Option<u64>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawHook {
    pub url: Option<String>,
    pub secret: Option<String>,
    pub timeout_ms: Option<u64>,
    pub on_error: OnError,
    pub cache_s: Option<u64>,
}
