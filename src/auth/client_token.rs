//! Client tokens: made by an operator's server for one of its clients, signed with a secret that all nodes share, so that
//! every node takes them and none has to be asked.
//!
//! A token is a JWT (HS256) behind the prefix `ek_`, by which OpenAI's clients know short-lived keys. It is signed, not
//! encrypted: whoever holds it can read it.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::auth::jwt::{Compact, Rules};
use crate::auth::keys::Algorithm;
use crate::auth::{Denied, Scope};
use crate::message::Setup;

/// What client tokens begin with.
pub const PREFIX: &str = "ek_";
/// `typ`: nothing else that is signed with the same secret can pass for a client token.
const KIND: &str = "antiphon-client";
/// `iss`.
const ISSUER: &str = "antiphon";

/// What a client token says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grant {
    /// The user.
    pub user: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// For routes and templates.
    pub claims: Map<String, Value>,
    /// What it is limited to, and sets up.
    pub scope: Scope,
    /// Whether it is good for one session.
    pub once: bool,
}

/// A client token that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    /// What it says.
    pub grant: Grant,
    /// Its id.
    pub id: String,
    /// Until when a session can be started with it, in seconds of Unix time.
    pub expires: u64,
}

/// The claims on the wire.
#[derive(Serialize, Deserialize)]
struct Wire {
    iss: String,
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    claims: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    route: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    agent: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    limits: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_s: Option<u64>,
    #[serde(default)]
    once: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    setup: Setup,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Map<String, Value>>,
}

fn is_default(setup: &Setup) -> bool {
    *setup == Setup::default()
}

/// A secret, and the key made of it.
#[derive(Clone)]
struct Signer {
    id: String,
    signs: EncodingKey,
    verifies: DecodingKey,
}

impl Signer {
    fn new(secret: &SecretString) -> Signer {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        let key = hmac::sign(&secret, b"antiphon client token, version 1");
        let id = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), b"key id");
        Signer {
            id: URL_SAFE_NO_PAD.encode(&id.as_ref()[..6]),
            signs: EncodingKey::from_secret(key.as_ref()),
            verifies: DecodingKey::from_secret(key.as_ref()),
        }
    }
}

/// Makes and verifies client tokens.
#[derive(Clone)]
pub struct Mint {
    /// The first one signs; all verify, so that a secret can be replaced.
    signers: Vec<Signer>,
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.signers.iter().map(|signer| &signer.id)).finish()
    }
}

impl Mint {
    /// One that signs with the first secret.
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s SecretString>) -> Mint {
        Mint { signers: secrets.into_iter().map(Signer::new).collect() }
    }

    /// A token with the id `id`, which nobody can guess, for sessions that begin within `lifetime` seconds from `now`.
    /// `None` without a secret.
    pub fn make(&self, grant: &Grant, id: &str, now: u64, lifetime: u64) -> Option<String> {
        let signer = self.signers.first()?;
        let Grant { user, tenant, claims, scope, once } = grant.clone();
        let wire = Wire {
            iss: ISSUER.into(),
            iat: now,
            exp: now.saturating_add(lifetime),
            jti: id.to_owned(),
            sub: user,
            tenant,
            claims,
            route: scope.routes.iter().map(ToString::to_string).collect(),
            agent: scope.agents.iter().map(ToString::to_string).collect(),
            limits: scope.limits,
            max_s: scope.max.map(|max| max.as_secs()),
            once,
            setup: scope.setup,
            metadata: scope.metadata,
        };
        let header = json!({ "alg": Algorithm::Hs256.label(), "typ": KIND, "kid": signer.id });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(serde_json::to_value(wire).ok()?));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &signer.signs, Algorithm::Hs256.wire()).ok()?;
        Some(format!("{PREFIX}{signed}.{signature}"))
    }

    /// Reads a token. With `ended` it may be too old to begin a session.
    ///
    /// # Errors
    /// Why it is none that is valid now.
    pub fn read(&self, token: &str, now: u64, leeway: u64, ended: bool) -> Result<Granted, Denied> {
        let compact = Compact::parse(token.strip_prefix(PREFIX).ok_or(Denied::Malformed)?)?;
        if compact.kind.as_deref() != Some(KIND) {
            return Err(Denied::Malformed);
        }
        let signer = self.signers.iter().find(|signer| compact.key.as_deref() == Some(&signer.id));
        let signer = signer.ok_or(Denied::UnknownKey)?;
        if compact.algorithm != Algorithm::Hs256.label() {
            return Err(Denied::Algorithm);
        }
        let (signed, algorithm) = (compact.signed.as_bytes(), Algorithm::Hs256.wire());
        if !jsonwebtoken::crypto::verify(compact.signature, signed, &signer.verifies, algorithm).unwrap_or(false) {
            return Err(Denied::Signature);
        }
        Rules { audience: &[], issuer: &[ISSUER.to_owned()], leeway }.check(&compact.claims, now, ended)?;
        let wire: Wire = serde_json::from_value(Value::Object(compact.claims)).map_err(|_| Denied::Claims)?;
        let scope = Scope {
            routes: wire.route.iter().map(|name| name.as_str().into()).collect(),
            agents: wire.agent.iter().map(|name| name.as_str().into()).collect(),
            limits: wire.limits,
            max: wire.max_s.map(std::time::Duration::from_secs),
            setup: wire.setup,
            metadata: wire.metadata,
        };
        let grant = Grant { user: wire.sub, tenant: wire.tenant, claims: wire.claims, scope, once: wire.once };
        Ok(Granted { grant, id: wire.jti, expires: wire.exp })
    }
}
