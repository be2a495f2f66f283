//! `[auth]`, from raw to checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::auth::Verifier;
use crate::auth::api_key::{ApiKey, Hash};
use crate::auth::client_token::Mint;
use crate::auth::keys::{Algorithm, KeySet, MIN_SECRET};
use crate::auth::verifier::Issuer;
use crate::config::checker::Checker;
use crate::config::shape::OneOrMany;

/// As it is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAuth {
    claims: RawClaims,
    leeway_s: u64,
    max_token_bytes: usize,
    max_failures_per_minute: u32,
    tokens: RawTokens,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    jwt: BTreeMap<String, RawJwt>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    key: BTreeMap<String, RawKey>,
}

impl Default for RawAuth {
    fn default() -> Self {
        Self {
            claims: RawClaims::default(),
            leeway_s: 10,
            max_token_bytes: 8192,
            max_failures_per_minute: 30,
            tokens: RawTokens::default(),
            jwt: BTreeMap::new(),
            key: BTreeMap::new(),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RawClaims {
    user: String,
    tenant: String,
}

impl Default for RawClaims {
    fn default() -> Self {
        Self { user: "sub".into(), tenant: "tenant".into() }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RawTokens {
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_before: Option<String>,
    expires_s: u64,
    max_expires_s: u64,
}

impl Default for RawTokens {
    fn default() -> Self {
        Self { secret: None, secret_before: None, expires_s: 60, max_expires_s: 7200 }
    }
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RawJwt {
    secret: Option<String>,
    keys_file: Option<String>,
    keys_url: Option<String>,
    algorithm: Option<Algorithm>,
    issuer: OneOrMany<String>,
    audience: OneOrMany<String>,
    ends_session: Option<bool>,
    refresh_s: Option<u64>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RawKey {
    hash: Option<String>,
    user: Option<String>,
    tenant: Option<String>,
    claims: BTreeMap<String, Value>,
    mint: bool,
}

/// `[auth]`: who is let in.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// Claim with the user, a dotted path.
    pub user_claim: String,
    /// Claim with the tenant.
    pub tenant_claim: String,
    /// How far the clocks of issuers may differ from this node's.
    pub leeway: Duration,
    /// Bytes of a token.
    pub max_token_bytes: usize,
    /// Wrong credentials from one address in a minute; beyond it credentials from there are not looked at.
    pub max_failures_per_minute: u32,
    /// Of client tokens.
    pub tokens: TokenSettings,
    /// `[auth.jwt.NAME]`.
    pub issuers: Vec<IssuerSettings>,
    /// `[auth.key.NAME]`.
    pub keys: Vec<ApiKey>,
}

/// `[auth.tokens]`: client tokens.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// What they are signed with; all nodes have the same. The first signs, all verify.
    pub secrets: Vec<SecretString>,
    /// How long they are good to begin a session with, if nobody says otherwise.
    pub expires: Duration,
    /// And at most.
    pub max_expires: Duration,
}

/// `[auth.jwt.NAME]`: an issuer of tokens.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// What its tokens must say.
    pub issuer: Issuer,
    /// Where its keys are.
    pub source: KeySource,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// Here.
    Fixed(Arc<KeySet>),
    /// To be read, and read again.
    Watched(WatchedKeys),
}

/// A key set that changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WatchedKeys {
    /// Where.
    pub place: KeyPlace,
    /// Only keys of this algorithm.
    pub algorithm: Option<Algorithm>,
    /// How often it is read without a reason.
    pub refresh: Duration,
}

/// A file or a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyPlace {
    /// On this machine.
    File(PathBuf),
    /// By HTTP.
    Url(Url),
}

impl AuthSettings {
    /// Whether there are credentials that could be right. Without any, whatever is shown is not looked at.
    pub fn is_configured(&self) -> bool {
        !(self.issuers.is_empty() && self.keys.is_empty() && self.tokens.secrets.is_empty())
    }

    /// What these settings let in; `own` signs client tokens where no secret is configured.
    pub fn verifier(&self, own: &SecretString) -> Verifier {
        let own = self.tokens.secrets.is_empty().then_some(own);
        Verifier {
            issuers: self.issuers.iter().map(|issuer| issuer.issuer.clone()).collect(),
            keys: self.keys.clone(),
            mint: Mint::new(self.tokens.secrets.iter().chain(own)),
            user_claim: self.user_claim.clone(),
            tenant_claim: self.tenant_claim.clone(),
            leeway: self.leeway.as_secs(),
            max_bytes: self.max_token_bytes,
        }
    }
}

/// Checks `[auth]`.
pub fn check(raw: &RawAuth, check: &mut Checker<'_>) -> AuthSettings {
    let tokens = tokens(&raw.tokens, check);
    AuthSettings {
        user_claim: raw.claims.user.clone(),
        tenant_claim: raw.claims.tenant.clone(),
        leeway: Duration::from_secs(raw.leeway_s),
        max_token_bytes: raw.max_token_bytes,
        max_failures_per_minute: raw.max_failures_per_minute,
        tokens,
        issuers: raw.jwt.iter().filter_map(|(name, raw)| issuer(name, raw, check)).collect(),
        keys: raw.key.iter().filter_map(|(name, raw)| key(name, raw, check)).collect(),
    }
}

fn tokens(raw: &RawTokens, check: &mut Checker<'_>) -> TokenSettings {
    let mut secret = |key: &str, text: &Option<String>| {
        let at = ["auth", "tokens", key];
        let secret = check.secret(&at, text.as_ref()?)?;
        if secret.expose_secret().len() < MIN_SECRET {
            let help = "make one by `openssl rand -base64 48`, the same for all nodes".to_owned();
            check.wrong(&at, format!("a secret has {MIN_SECRET} bytes at least"), help);
            return None;
        }
        Some(secret)
    };
    let secrets = [secret("secret", &raw.secret), secret("secret_before", &raw.secret_before)];
    if raw.secret.is_none() && raw.secret_before.is_some() {
        check.missing(&["auth", "tokens"], "secret", "`secret_before` verifies older tokens; new ones need `secret`");
    }
    if raw.expires_s > raw.max_expires_s {
        let message = format!("{} s is longer than `max_expires_s`, {} s", raw.expires_s, raw.max_expires_s);
        check.wrong(&["auth", "tokens", "expires_s"], message, None);
    }
    TokenSettings {
        secrets: secrets.into_iter().flatten().collect(),
        expires: Duration::from_secs(raw.expires_s),
        max_expires: Duration::from_secs(raw.max_expires_s),
    }
}

fn issuer(name: &str, raw: &RawJwt, check: &mut Checker<'_>) -> Option<IssuerSettings> {
    let at = |key| ["auth", "jwt", name, key];
    let given = [
        ("secret", raw.secret.is_some()),
        ("keys_file", raw.keys_file.is_some()),
        ("keys_url", raw.keys_url.is_some()),
    ];
    let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
    match given.as_slice() {
        [] => {
            let help = "add `keys_url` (a JWK set), `keys_file` (one, or a public key in PEM), or `secret` (HS256)";
            check.missing(&["auth", "jwt", name], "keys_url", help);
        }
        [_] => {}
        [first, second, ..] => {
            check.wrong_key(&at(second), format!("`{first}` is given too"), "keep one of the two".to_owned());
        }
    }
    let refresh = Duration::from_secs(raw.refresh_s.unwrap_or(600));
    let watched = |place| WatchedKeys { place, algorithm: raw.algorithm, refresh };
    let source = if let Some(text) = &raw.secret {
        KeySource::Fixed(Arc::new(secret(name, raw, text, check)?))
    } else if raw.algorithm == Some(Algorithm::Hs256) {
        let help = "set `secret`, and no `keys_file` or `keys_url`: they hold public keys".to_owned();
        check.wrong(&at("algorithm"), "HS256 needs a shared secret", help);
        return None;
    } else if let Some(file) = &raw.keys_file {
        let text = check.content(&at("keys_file"), file)?;
        if let Err(error) = KeySet::parse(&text, raw.algorithm) {
            check.wrong(&at("keys_file"), error.to_string(), None);
            return None;
        }
        KeySource::Watched(watched(KeyPlace::File(check.file(&at("keys_file"), file)?.into())))
    } else {
        let url = check.url(&at("keys_url"), raw.keys_url.as_ref()?, &["https", "http"])?;
        KeySource::Watched(watched(KeyPlace::Url(url)))
    };
    let issuer = Issuer {
        name: name.into(),
        audience: raw.audience.0.clone(),
        issuer: raw.issuer.0.clone(),
        ends_session: raw.ends_session.unwrap_or(true),
    };
    Some(IssuerSettings { issuer, source })
}

fn secret(name: &str, raw: &RawJwt, text: &str, check: &mut Checker<'_>) -> Option<KeySet> {
    let at = |key| ["auth", "jwt", name, key];
    if raw.algorithm.is_some_and(|algorithm| algorithm != Algorithm::Hs256) {
        check.wrong(&at("algorithm"), "a shared secret is for HS256", "take `algorithm` out".to_owned());
    }
    let secret = check.secret(&at("secret"), text)?;
    match KeySet::of_secret(&secret) {
        Ok(set) => Some(set),
        Err(error) => {
            check.wrong(&at("secret"), error.to_string(), None);
            None
        }
    }
}

fn key(name: &str, raw: &RawKey, check: &mut Checker<'_>) -> Option<ApiKey> {
    let at = ["auth", "key", name, "hash"];
    let Some(text) = &raw.hash else {
        check.missing(&at[..3], "hash", "`antiphon token key` makes a key and prints its hash");
        return None;
    };
    let text = check.text(&at, text)?;
    let Some(hash) = Hash::parse(&text) else {
        let help = "write `sha256:` and 64 hexadecimal digits, as `antiphon token hash` prints them".to_owned();
        check.wrong(&at, "is not the hash of a key", help);
        return None;
    };
    Some(ApiKey {
        name: name.into(),
        hash,
        user: raw.user.clone(),
        tenant: raw.tenant.clone(),
        claims: raw.claims.clone(),
        mint: raw.mint,
    })
}
