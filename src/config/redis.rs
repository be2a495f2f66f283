//! `[redis]`, from raw to checked.

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::config::checker::Checker;
use crate::config::shape::OneOrMany;

/// As it is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRedis {
    #[serde(skip_serializing_if = "is_empty")]
    url: OneOrMany<String>,
    mode: RedisMode,
    service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    prefix: String,
    nodes: u32,
}

fn is_empty(urls: &OneOrMany<String>) -> bool {
    urls.0.is_empty()
}

impl Default for RawRedis {
    fn default() -> Self {
        Self {
            url: OneOrMany::default(),
            mode: RedisMode::Single,
            service: "antiphon".into(),
            username: None,
            password: None,
            prefix: "antiphon".into(),
            nodes: 1,
        }
    }
}

/// What stands behind `redis.url`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedisMode {
    /// One server.
    #[default]
    Single,
    /// Some nodes of a Redis Cluster.
    Cluster,
    /// Sentinels that know where the server is.
    Sentinel,
}

/// `[redis]`.
#[derive(Clone, Debug, Default)]
pub struct RedisSettings {
    /// `redis://` or `rediss://`; may hold passwords. Empty: there is none.
    pub urls: Vec<SecretString>,
    /// What stands behind them.
    pub mode: RedisMode,
    /// The name by which sentinels know the server.
    pub service: String,
    /// Overrides what the URLs say; behind sentinels the URLs speak of the sentinels only.
    pub username: Option<String>,
    /// As [`RedisSettings::username`].
    pub password: Option<SecretString>,
    /// What all keys begin with.
    pub prefix: String,
    /// How many nodes share the limits at least, when nobody can be asked.
    pub nodes: u32,
}

pub fn check(raw: &RawRedis, check: &mut Checker<'_>) -> RedisSettings {
    let urls: Vec<SecretString> = raw
        .url
        .0
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let index = index.to_string();
            let listed = ["redis", "url", &index];
            let at: &[&str] = if check.is_set(&listed) { &listed } else { &listed[..2] };
            check.url(at, text, &["redis", "rediss"]).map(|url| String::from(url).into())
        })
        .collect();
    if urls.len() > 1 && raw.mode == RedisMode::Single {
        let help = "add `mode = \"cluster\"` or `mode = \"sentinel\"`, or name one".to_owned();
        check.wrong(&["redis", "url"], "several URLs, but `mode` is \"single\"", help);
    }
    if raw.prefix.is_empty() || !raw.prefix.bytes().all(|b| b.is_ascii_graphic() && !b"{}".contains(&b)) {
        check.wrong(
            &["redis", "prefix"],
            "a prefix is of visible ASCII without braces",
            "like \"antiphon\"".to_owned(),
        );
    }
    RedisSettings {
        urls,
        mode: raw.mode,
        service: raw.service.clone(),
        username: raw.username.as_ref().and_then(|text| check.text(&["redis", "username"], text)),
        password: raw.password.as_ref().and_then(|text| check.secret(&["redis", "password"], text)),
        prefix: raw.prefix.clone(),
        nodes: raw.nodes,
    }
}
