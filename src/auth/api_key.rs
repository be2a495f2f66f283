//! API keys: long random texts, of which only the SHA-256 is kept.
//!
//! A fast hash is enough, because there is nothing to guess in 256 random bits; slow ones are for passwords. Keys that are
//! too short to be random are refused when their hash is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use serde_json::Value;

/// What keys that we make begin with.
pub const PREFIX: &str = "ak_";
/// Characters of a key at least.
pub const MIN_LENGTH: usize = 32;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; digest::SHA256_OUTPUT_LEN]);

/// One key, `[auth.key.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// Its name.
    pub name: Arc<str>,
    /// Its hash.
    pub hash: Hash,
    /// Who uses it.
    pub user: Option<String>,
    /// For whom.
    pub tenant: Option<String>,
    /// For routes and templates.
    pub claims: BTreeMap<String, Value>,
    /// Whether it may make client tokens.
    pub mint: bool,
}

impl Hash {
    /// Of a key.
    pub fn of(key: &str) -> Hash {
        let mut hash = Hash([0; digest::SHA256_OUTPUT_LEN]);
        hash.0.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
        hash
    }

    /// From `sha256:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Hash> {
        let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut hash = Hash([0; digest::SHA256_OUTPUT_LEN]);
        for (index, byte) in hash.0.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(hash)
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// The key that was shown, if it is one of `keys`. Takes as long whichever it is.
pub fn find<'k>(keys: &'k [ApiKey], shown: &str) -> Option<&'k ApiKey> {
    let hash = Hash::of(shown);
    let mut found = None;
    for key in keys {
        if verify_slices_are_equal(&key.hash.0, &hash.0).is_ok() {
            found = Some(key);
        }
    }
    found
}
