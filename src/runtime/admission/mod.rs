//! What admission waits for or remembers: key sets, hooks, single uses, and who fails too often.

pub mod allowance;
pub mod hooks;
pub mod keyring;
pub mod uses;

use std::sync::Arc;
use std::time::Duration;

use crate::auth::keys::KeySet;
use crate::auth::{Denied, Principal, Unverified, Use, Verifier};
use crate::config::auth::{AuthSettings, KeySource};
use keyring::{Keyring, Keyrings};

/// How long a caller waits for keys that are being fetched.
const KEY_PATIENCE: Duration = Duration::from_secs(2);

/// Who is let in by a configuration.
#[derive(Debug)]
pub struct Gatekeeper {
    verifier: Verifier,
    /// By issuer.
    keys: Vec<Keys>,
}

#[derive(Debug)]
enum Keys {
    Fixed(Arc<KeySet>),
    Watched(Arc<Keyring>),
}

impl Keys {
    fn now(&self) -> Option<Arc<KeySet>> {
        match self {
            Keys::Fixed(set) => Some(set.clone()),
            Keys::Watched(ring) => ring.keys(),
        }
    }
}

impl Gatekeeper {
    /// One for these settings; their key sets are read from now on.
    pub fn new(settings: &AuthSettings, keyrings: &Keyrings) -> Gatekeeper {
        let verifier = settings.verifier(keyrings.own_secret());
        let keys = settings.issuers.iter().map(|issuer| match &issuer.source {
            KeySource::Fixed(set) => Keys::Fixed(set.clone()),
            KeySource::Watched(source) => Keys::Watched(keyrings.keyring(&issuer.issuer.name, source)),
        });
        Gatekeeper { keys: keys.collect(), verifier }
    }

    /// What makes client tokens, and knows API keys.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Who shows `shown`; `now` is Unix time in seconds. Waits for a key set that may just have got a new key.
    ///
    /// # Errors
    /// Why it is nobody.
    pub async fn identify(&self, shown: &str, purpose: Use, now: u64) -> Result<Principal, Denied> {
        let missing = match self.verify(shown, purpose, now) {
            Ok(principal) => return Ok(principal),
            Err(Unverified::Denied(why)) => return Err(why),
            Err(Unverified::Keys { issuers, why }) => (issuers, why),
        };
        let (issuers, why) = missing;
        let fetching = issuers.iter().filter_map(|index| match self.keys.get(*index)? {
            Keys::Watched(ring) => Some(ring.renew()),
            Keys::Fixed(_) => None,
        });
        let fetched = tokio::time::timeout(KEY_PATIENCE, futures_util::future::join_all(fetching)).await;
        if !fetched.is_ok_and(|fetched| fetched.contains(&true)) {
            return Err(why);
        }
        self.verify(shown, purpose, now).map_err(|failed| failed.why())
    }

    fn verify(&self, shown: &str, purpose: Use, now: u64) -> Result<Principal, Unverified> {
        let sets: Vec<_> = self.keys.iter().map(Keys::now).collect();
        self.verifier.verify(shown, &sets, purpose, now)
    }
}
