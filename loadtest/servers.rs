//! Real Redis servers, started as the tests start them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/harness/redis.rs"]
pub mod redis;

/// Whatever takes longer than this is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// A fresh folder.
pub fn folder() -> PathBuf {
    let number = FOLDERS.fetch_add(1, Relaxed);
    let path = std::env::temp_dir().join(format!("antiphon-loadtest-redis-{}-{number}", std::process::id()));
    let _ = std::fs::create_dir_all(&path);
    path
}
