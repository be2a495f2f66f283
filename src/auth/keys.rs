//! Keys that tokens are verified by: a set of public keys (JWKS, RFC 7517), one public key (PEM), or a shared secret.
//!
//! Each key has one algorithm, whatever a token says.

use std::fmt;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Keys of a set at most.
const MAX_KEYS: usize = 128;
/// Bytes of a shared secret at least (RFC 7518 section 3.2).
pub const MIN_SECRET: usize = 32;

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// `alg` of a token's header.
    pub const fn label(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// The same for the library.
    pub(super) const fn wire(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither form.
    #[error("neither a JWK set (`{{\"keys\": [...]}}`) nor a public key in PEM: {0}")]
    Unreadable(String),
    /// Read, and nothing of use in it.
    #[error(
        "no key in it can verify tokens ({left_out} left out): RS256 of 2048 bits or more, ES256 or EdDSA is needed"
    )]
    Empty {
        /// Keys for other algorithms or purposes.
        left_out: usize,
    },
    /// More keys than anybody has.
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
    /// Anybody could guess it.
    #[error("a secret of {0} bytes; HS256 needs {MIN_SECRET} at least, as `openssl rand -base64 48` gives")]
    ShortSecret(usize),
}

/// A key and its one algorithm.
#[derive(Clone)]
pub struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Key {
    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether `signature` (base64url) is this key's of `signed`.
    pub fn verifies(&self, signed: &str, signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.key, self.algorithm.wire()).unwrap_or(false)
    }
}

/// The keys of one issuer. Never empty.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// A shared secret: HS256, for tokens with any `kid` or none.
    ///
    /// # Errors
    /// If it is too short.
    pub fn of_secret(secret: &SecretString) -> Result<KeySet, KeyError> {
        let secret = secret.expose_secret().as_bytes();
        if secret.len() < MIN_SECRET {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        Ok(KeySet { keys: vec![Key { id: None, algorithm: Algorithm::Hs256, key: DecodingKey::from_secret(secret) }] })
    }

    /// Public keys: a JWK set, or one key in PEM. With `wanted`, only those for this algorithm. Shared secrets (`oct`) are
    /// left out: a set of public keys is no place for them.
    ///
    /// # Errors
    /// If there is no usable key in it.
    pub fn parse(text: &str, wanted: Option<Algorithm>) -> Result<KeySet, KeyError> {
        let (keys, left_out) = if text.trim_start().starts_with("-----BEGIN") { (pem(text)?, 0) } else { jwks(text)? };
        let found = keys.len();
        let keys: Vec<Key> =
            keys.into_iter().filter(|key| wanted.is_none_or(|wanted| wanted == key.algorithm)).collect();
        if keys.is_empty() {
            return Err(KeyError::Empty { left_out: left_out + found });
        }
        Ok(KeySet { keys })
    }

    /// The key that a token names. One that names none means the only one that there is.
    pub fn find(&self, id: Option<&str>) -> Option<&Key> {
        match (id, self.keys.as_slice()) {
            // A lone key without a name is meant by every name.
            (_, [only]) if id.is_none() || only.id.is_none() => Some(only),
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            (None, _) => None,
        }
    }
}

fn jwks(text: &str) -> Result<(Vec<Key>, usize), KeyError> {
    let unreadable = |why: &str| KeyError::Unreadable(why.to_owned());
    let mut set: Value = serde_json::from_str(text).map_err(|error| unreadable(&error.to_string()))?;
    let Some(Value::Array(all)) = set.get_mut("keys").map(Value::take) else {
        return Err(unreadable("there is no list `keys`"));
    };
    if all.len() > MAX_KEYS {
        return Err(KeyError::TooMany);
    }
    let count = all.len();
    // One key of a new kind must not make the others useless.
    let keys: Vec<Key> = all.into_iter().filter_map(|key| usable(&serde_json::from_value(key).ok()?)).collect();
    let left_out = count - keys.len();
    Ok((keys, left_out))
}

fn usable(jwk: &Jwk) -> Option<Key> {
    let verifies = jwk.common.key_operations.as_ref().is_none_or(|ops| ops.contains(&KeyOperations::Verify));
    if !verifies || jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return None;
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::Rs256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::Es256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDsa, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    if jwk.common.key_algorithm.is_some_and(|told| told != named) {
        return None;
    }
    Some(Key { id: jwk.common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
}

fn pem(text: &str) -> Result<Vec<Key>, KeyError> {
    if !text.contains("PUBLIC KEY-----") {
        return Err(KeyError::Unreadable("it is no public key; a private one must not lie here".into()));
    }
    let text = text.as_bytes();
    let found = [
        (Algorithm::Rs256, DecodingKey::from_rsa_pem(text)),
        (Algorithm::Es256, DecodingKey::from_ec_pem(text)),
        (Algorithm::EdDsa, DecodingKey::from_ed_pem(text)),
    ];
    let key = found.into_iter().find_map(|(algorithm, key)| Some(Key { id: None, algorithm, key: key.ok()? }));
    key.map(|key| vec![key]).ok_or_else(|| KeyError::Unreadable("it is no public key of RSA, P-256 or Ed25519".into()))
}
