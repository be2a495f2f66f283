//! From what a caller shows to who it is.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::auth::api_key::{self, ApiKey};
use crate::auth::client_token::{self, Granted, Mint};
use crate::auth::jwt::{Compact, Rules};
use crate::auth::keys::KeySet;
use crate::auth::{Denied, Means, Principal, Scope, SingleUse};
use crate::route::setup::lookup;

/// One `[auth.jwt.NAME]`, without its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `aud` has one of these; none: there must be no `aud`.
    pub audience: Vec<String>,
    /// `iss` is one of these; none: any.
    pub issuer: Vec<String>,
    /// Whether a session ends when its token does.
    pub ends_session: bool,
}

/// What credentials are shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To start something.
    Start,
    /// To come back to a session: a client token need not be fresh for that, because the session was bound to it when it
    /// was.
    Resume,
}

/// Why credentials are not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unverified {
    /// They are wrong.
    Denied(Denied),
    /// They may be right by keys that these issuers (by index) may have published by now.
    Keys {
        /// Whose keys are missing.
        issuers: Vec<usize>,
        /// What is the matter if they stay so.
        why: Denied,
    },
}

impl From<Denied> for Unverified {
    fn from(why: Denied) -> Self {
        Unverified::Denied(why)
    }
}

impl Unverified {
    /// What is the matter if nothing changes.
    pub fn why(&self) -> Denied {
        match self {
            Unverified::Denied(why) | Unverified::Keys { why, .. } => *why,
        }
    }
}

/// Knows whom to trust.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// Of JWTs, in the order of the key sets that [`Verifier::verify`] gets.
    pub issuers: Vec<Issuer>,
    /// API keys.
    pub keys: Vec<ApiKey>,
    /// Of client tokens.
    pub mint: Mint,
    /// The claim with the user, as a dotted path.
    pub user_claim: String,
    /// The claim with the tenant.
    pub tenant_claim: String,
    /// How far clocks may differ, in seconds.
    pub leeway: u64,
    /// Longest token, in bytes.
    pub max_bytes: usize,
}

impl Verifier {
    /// Who shows `shown`, a JWT, a client token or an API key; `now` is Unix time in seconds.
    ///
    /// # Errors
    /// Why it is nobody.
    pub fn verify(
        &self,
        shown: &str,
        sets: &[Option<Arc<KeySet>>],
        purpose: Use,
        now: u64,
    ) -> Result<Principal, Unverified> {
        if shown.len() > self.max_bytes {
            return Err(Denied::TooLarge.into());
        }
        if shown.starts_with(client_token::PREFIX) {
            let granted = self.mint.read(shown, now, self.leeway, purpose == Use::Resume)?;
            return Ok(self.by_client_token(granted));
        }
        if shown.split('.').count() == 3 {
            return self.by_jwt(&Compact::parse(shown)?, sets, now);
        }
        if shown.is_empty() || !shown.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Denied::Malformed.into());
        }
        Ok(self.by_api_key(api_key::find(&self.keys, shown).ok_or(Denied::UnknownApiKey)?))
    }

    fn by_jwt(&self, token: &Compact<'_>, sets: &[Option<Arc<KeySet>>], now: u64) -> Result<Principal, Unverified> {
        let meant = |issuer: &Issuer| {
            issuer.issuer.is_empty() || token.issuer().is_some_and(|told| issuer.issuer.iter().any(|one| one == told))
        };
        let mut failed = Unverified::Denied(Denied::Issuer);
        for (index, issuer) in self.issuers.iter().enumerate().filter(|(_, issuer)| meant(issuer)) {
            let missing = |why| Unverified::Keys { issuers: vec![index], why };
            let why = match sets.get(index).and_then(Option::as_ref) {
                None => missing(Denied::KeysUnavailable),
                Some(set) => match set.find(token.key.as_deref()) {
                    None => missing(Denied::UnknownKey),
                    Some(key) if key.algorithm().label() != token.algorithm => Denied::Algorithm.into(),
                    Some(key) if !key.verifies(token.signed, token.signature) => Denied::Signature.into(),
                    Some(_) => {
                        let rules = Rules { audience: &issuer.audience, issuer: &issuer.issuer, leeway: self.leeway };
                        let expires = rules.check(&token.claims, now, false)?;
                        return Ok(self.of_issuer(issuer, token.claims.clone(), expires));
                    }
                },
            };
            failed = worse(failed, why);
        }
        Err(failed)
    }

    fn of_issuer(&self, issuer: &Issuer, claims: Map<String, Value>, expires: u64) -> Principal {
        let claims = Value::Object(claims);
        Principal {
            means: Means::Jwt(issuer.name.clone()),
            user: text(&claims, &self.user_claim),
            tenant: text(&claims, &self.tenant_claim),
            claims,
            until: issuer.ends_session.then_some(expires),
            scope: Scope::default(),
            once: None,
            may_mint: false,
        }
    }

    fn by_client_token(&self, granted: Granted) -> Principal {
        let Granted { grant, id, expires } = granted;
        Principal {
            means: Means::ClientToken,
            claims: self.claims(grant.claims, grant.user.as_deref(), grant.tenant.as_deref()),
            user: grant.user,
            tenant: grant.tenant,
            until: None,
            scope: grant.scope,
            once: grant.once.then_some(SingleUse { id, until: expires.saturating_add(self.leeway) }),
            may_mint: false,
        }
    }

    fn by_api_key(&self, key: &ApiKey) -> Principal {
        let claims = key.claims.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Principal {
            means: Means::ApiKey(key.name.clone()),
            claims: self.claims(claims, key.user.as_deref(), key.tenant.as_deref()),
            user: key.user.clone(),
            tenant: key.tenant.clone(),
            until: None,
            scope: Scope::default(),
            once: None,
            may_mint: key.mint,
        }
    }

    /// Claims as a token of an identity provider would have them, so that routes and templates need not care.
    fn claims(&self, mut claims: Map<String, Value>, user: Option<&str>, tenant: Option<&str>) -> Value {
        for (name, value) in [(&self.user_claim, user), (&self.tenant_claim, tenant)] {
            if let Some(value) = value {
                claims.insert(name.clone(), value.into());
            }
        }
        Value::Object(claims)
    }
}

/// Of two failures with different issuers the one that is more to the point: keys that may still come, then a token that
/// was nearly right.
fn worse(one: Unverified, other: Unverified) -> Unverified {
    let rank = |failed: &Unverified| match failed {
        Unverified::Keys { .. } => 3,
        Unverified::Denied(Denied::Signature) => 2,
        Unverified::Denied(Denied::Algorithm) => 1,
        Unverified::Denied(_) => 0,
    };
    match (one, other) {
        (Unverified::Keys { mut issuers, why }, Unverified::Keys { issuers: more, why: other }) => {
            issuers.extend(more);
            let why = if why == Denied::KeysUnavailable { why } else { other };
            Unverified::Keys { issuers, why }
        }
        (one, other) if rank(&other) > rank(&one) => other,
        (one, _) => one,
    }
}

/// A claim that names somebody: a text or a whole number.
fn text(claims: &Value, path: &str) -> Option<String> {
    match lookup(claims, path)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}
