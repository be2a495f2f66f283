//! Whoever has shown credentials, or has none.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::ids::{AgentName, RouteName};
use crate::message::Setup;

/// A caller as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// How it is known.
    pub means: Means,
    /// The user.
    pub user: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The claims, for routes and templates; `null` without credentials.
    pub claims: Value,
    /// Unix time in seconds at which its session ends at the latest.
    pub until: Option<u64>,
    /// What its token is limited to, and sets up.
    pub scope: Scope,
    /// Set if the token is good for one session.
    pub once: Option<SingleUse>,
    /// Whether it may make client tokens.
    pub may_mint: bool,
}

/// How a caller is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// Not at all.
    Anonymous,
    /// By a token of this issuer, `[auth.jwt.NAME]`.
    Jwt(Arc<str>),
    /// By this key, `[auth.key.NAME]`.
    ApiKey(Arc<str>),
    /// By a client token.
    ClientToken,
}

/// What a client token is limited to, and sets up. Empty lists are no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// Routes that may take the call.
    pub routes: Vec<RouteName>,
    /// Agents that may be asked for. Whoever names none asks for the first.
    pub agents: Vec<AgentName>,
    /// Sets of limits, beside the route's.
    pub limits: Vec<String>,
    /// The session's longest.
    pub max: Option<Duration>,
    /// Set-up fields, over the route's.
    pub setup: Setup,
    /// For the call record and hooks.
    pub metadata: Option<Map<String, Value>>,
}

/// A token that is good for one session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SingleUse {
    /// Its id.
    pub id: String,
    /// Unix time in seconds after which it is worth nothing any more.
    pub until: u64,
}

impl Principal {
    /// Whoever shows no credentials.
    pub fn anonymous() -> Principal {
        Principal {
            means: Means::Anonymous,
            user: None,
            tenant: None,
            claims: Value::Null,
            until: None,
            scope: Scope::default(),
            once: None,
            may_mint: false,
        }
    }

    /// Whether credentials were shown.
    pub fn is_authenticated(&self) -> bool {
        self.means != Means::Anonymous
    }

    /// Whoever has the same name is the same caller: what resume tokens are bound to.
    pub fn name(&self) -> Arc<str> {
        let of = |what: &str| {
            let text = |part: &Option<String>| part.as_deref().map(|part| format!("{}:{part}", part.len()));
            // With their lengths, so that no two callers can be made to look alike.
            format!("{what} {}/{}", text(&self.tenant).unwrap_or_default(), text(&self.user).unwrap_or_default()).into()
        };
        match &self.means {
            Means::Anonymous => "anonymous".into(),
            // A user of one's own service is the same by whatever token.
            Means::Jwt(_) | Means::ClientToken if self.user.is_some() => of("user"),
            Means::Jwt(issuer) => of(&format!("jwt {issuer}")),
            Means::ClientToken => of("client token"),
            Means::ApiKey(name) => of(&format!("key {name}")),
        }
    }
}
