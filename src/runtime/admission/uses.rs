//! Tokens that may be used once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::auth::{Denied, SingleUse};

/// Uses that are remembered at most; each is forgotten when its token expires.
const MAX_USES: usize = 100_000;

/// Remembers which tokens were used.
#[async_trait]
pub trait Uses: Send + Sync + std::fmt::Debug {
    /// Uses a token up; `now` is Unix time in seconds.
    ///
    /// # Errors
    /// [`Denied::Used`] if it was used before, wherever that counts.
    async fn take(&self, token: &SingleUse, now: u64) -> Result<(), Denied>;
}

/// Remembers the uses on this node.
#[derive(Debug, Default)]
pub struct LocalUses {
    used: Mutex<HashMap<String, u64>>,
}

impl LocalUses {
    /// As [`Uses::take`], at once.
    ///
    /// # Errors
    /// As for [`Uses::take`]; also if there are too many to be remembered, because then nobody can tell.
    pub fn take_here(&self, token: &SingleUse, now: u64) -> Result<(), Denied> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= MAX_USES {
            used.retain(|_, until| *until >= now);
        }
        if used.len() >= MAX_USES || used.contains_key(&token.id) {
            return Err(Denied::Used);
        }
        used.insert(token.id.clone(), token.until);
        Ok(())
    }
}

#[async_trait]
impl Uses for LocalUses {
    async fn take(&self, token: &SingleUse, now: u64) -> Result<(), Denied> {
        self.take_here(token, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_once_and_forgotten_when_it_is_worth_nothing_any_more() {
        let uses = LocalUses::default();
        let token = |id: usize| SingleUse { id: id.to_string(), until: 100 };
        assert_eq!(uses.take_here(&token(0), 50), Ok(()));
        assert_eq!(uses.take_here(&token(0), 50), Err(Denied::Used));
        for id in 1..MAX_USES {
            uses.take_here(&token(id), 50).unwrap();
        }
        assert_eq!(uses.take_here(&token(MAX_USES), 100), Err(Denied::Used), "nobody could tell");
        assert_eq!(uses.take_here(&token(MAX_USES), 101), Ok(()));
        assert_eq!(uses.used.lock().unwrap().len(), 1);
    }
}
