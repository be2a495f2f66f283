//! JSON Web Tokens (RFC 7519) in compact form, taken apart by this rule: nothing in a token chooses how it is verified.
//!
//! `jku`, `x5u`, `jwk` and `x5c` are ignored; `crit` is refused (RFC 7515 section 4.1.11: no extension is understood).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::auth::Denied;

/// Longest `kid`.
const MAX_KEY_ID: usize = 128;

/// A token taken apart; nothing of it is to be believed before [`Key::verifies`](super::keys::Key::verifies).
#[derive(Debug)]
pub struct Compact<'a> {
    /// What the signature is of.
    pub signed: &'a str,
    /// In base64url.
    pub signature: &'a str,
    /// `alg`.
    pub algorithm: String,
    /// `kid`.
    pub key: Option<String>,
    /// `typ`.
    pub kind: Option<String>,
    /// The claims.
    pub claims: Map<String, Value>,
}

impl<'a> Compact<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// If it is no token, or has no signature, or its `kid` is none.
    pub fn parse(token: &'a str) -> Result<Compact<'a>, Denied> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Denied::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Denied::Malformed)?;
        let mut header = object(header)?;
        let algorithm = match header.remove("alg") {
            Some(Value::String(algorithm)) if algorithm.eq_ignore_ascii_case("none") => return Err(Denied::Unsigned),
            Some(Value::String(algorithm)) => algorithm,
            _ => return Err(Denied::Malformed),
        };
        if header.contains_key("crit") {
            return Err(Denied::Malformed);
        }
        let key = match header.remove("kid") {
            None => None,
            Some(Value::String(id)) if is_key_id(&id) => Some(id),
            Some(_) => return Err(Denied::KeyId),
        };
        let kind = header.remove("typ").and_then(|kind| kind.as_str().map(str::to_owned));
        Ok(Compact { signed, signature, algorithm, key, kind, claims: object(payload)? })
    }

    /// `iss`, to find out whose keys to take; not to be believed yet.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }
}

/// Ids are compared with the ids of known keys, and used for nothing else; this keeps paths and queries out of logs too.
fn is_key_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_KEY_ID
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+=:".contains(&byte))
}

fn object(part: &str) -> Result<Map<String, Value>, Denied> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Denied::Malformed)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Denied::Malformed),
    }
}

/// What the claims of a verified token must say.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// One of these; none: the token must have no `aud` (RFC 7519 section 4.1.3).
    pub audience: &'a [String],
    /// One of these; none: any.
    pub issuer: &'a [String],
    /// How far clocks may differ, in seconds.
    pub leeway: u64,
}

impl Rules<'_> {
    /// Checks the claims of a verified token; gives its `exp` in seconds of Unix time. With `ended` it may have passed.
    ///
    /// # Errors
    /// Which claim is wrong.
    pub fn check(&self, claims: &Map<String, Value>, now: u64, ended: bool) -> Result<u64, Denied> {
        let (now, leeway) = (now as f64, self.leeway as f64);
        let expires = time(claims, "exp")?.ok_or(Denied::Claims)?;
        if now >= expires + leeway && !ended {
            return Err(Denied::Expired);
        }
        for name in ["nbf", "iat"] {
            if time(claims, name)?.is_some_and(|from| now + leeway < from) {
                return Err(Denied::NotYetValid);
            }
        }
        self.check_issuer(claims)?;
        self.check_audience(claims)?;
        Ok(expires as u64)
    }

    fn check_issuer(&self, claims: &Map<String, Value>) -> Result<(), Denied> {
        match claims.get("iss") {
            None | Some(Value::String(_)) if self.issuer.is_empty() => Ok(()),
            Some(Value::String(issuer)) if self.issuer.contains(issuer) => Ok(()),
            Some(Value::String(_)) => Err(Denied::Issuer),
            _ => Err(Denied::Claims),
        }
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Denied> {
        let named: Vec<&str> = match claims.get("aud") {
            None if self.audience.is_empty() => return Ok(()),
            None => return Err(Denied::Claims),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => {
                several.iter().map(Value::as_str).collect::<Option<_>>().ok_or(Denied::Claims)?
            }
            Some(_) => return Err(Denied::Claims),
        };
        let ours = named.iter().any(|name| self.audience.iter().any(|audience| audience == name));
        if ours { Ok(()) } else { Err(Denied::Audience) }
    }
}

/// A NumericDate: a number, and nothing that looks like one.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, Denied> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => {
            let seconds = number.as_f64().filter(|seconds| (0.0..1e15).contains(seconds));
            seconds.map(Some).ok_or(Denied::Claims)
        }
        Some(_) => Err(Denied::Claims),
    }
}
