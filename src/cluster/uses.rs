//! Tokens that may be used once, on whichever node.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Cluster;
use crate::auth::{Denied, SingleUse};
use crate::limit::Key;
use crate::runtime::admission::uses::{LocalUses, Uses};

/// Remembers the uses on all nodes; while Redis cannot be asked, each node remembers its own.
#[derive(Debug)]
pub struct SharedUses {
    here: LocalUses,
    cluster: Arc<Cluster>,
}

impl SharedUses {
    /// Nothing was used yet, as far as this node knows.
    pub fn new(cluster: Arc<Cluster>) -> SharedUses {
        SharedUses { here: LocalUses::default(), cluster }
    }
}

#[async_trait]
impl Uses for SharedUses {
    async fn take(&self, token: &SingleUse, now: u64) -> Result<(), Denied> {
        self.here.take_here(token, now)?;
        let valid = Duration::from_secs(token.until.saturating_sub(now) + 1);
        let first = self.cluster.first_use(Key::of("once", [("token", token.id.as_bytes())]), valid).await;
        if first { Ok(()) } else { Err(Denied::Used) }
    }
}
