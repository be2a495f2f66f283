//! A bounded table of cells, in shards: looked into when a session begins, never per frame.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use super::key::Key;
use crate::time::Micros;

/// A cell that a table holds.
pub trait Entry {
    /// A cell of which nothing is spent.
    fn new(key: Key) -> Self;
    /// Its name.
    fn key(&self) -> Key;
    /// Whether it says nothing that a new one would not say.
    fn is_spare(&self, now: Micros) -> bool;
    /// The lightest are given up first, where there is no other way.
    fn weight(&self) -> u64;
}

/// Few cells in each, so that to tidy one up takes microseconds.
const SHARDS: usize = 1024;

/// A key is a digest: its bits are as good as any hash of it. Those that choose the shard are not among these: all cells of a
/// shard have them in common, and would begin their search at the same place.
const fn hash_of(key: Key) -> u64 {
    key.0 as u64
}

const fn shard_of(key: Key) -> usize {
    (key.0 >> 64) as usize % SHARDS
}

/// At most so many cells; those that somebody holds are never given up, and do not count.
#[derive(Debug)]
pub struct Table<T> {
    shards: Vec<Mutex<HashTable<Arc<T>>>>,
    most: AtomicUsize,
    evicted: AtomicU64,
}

impl<T: Entry> Table<T> {
    /// A table for `most` cells.
    pub fn new(most: usize) -> Table<T> {
        Table {
            shards: (0..SHARDS).map(|_| Mutex::new(HashTable::new())).collect(),
            most: AtomicUsize::new(most),
            evicted: AtomicU64::new(0),
        }
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, HashTable<Arc<T>>> {
        // No change of it can panic half done.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cell of this name; a new one if there is none. Others that look into its shard wait.
    pub fn find(&self, key: Key, now: Micros) -> Arc<T> {
        let hash = hash_of(key);
        let mut shard = self.shard(shard_of(key));
        if let Some(found) = shard.find(hash, |entry| entry.key() == key) {
            return found.clone();
        }
        if shard.len() >= self.most.load(Relaxed).div_ceil(SHARDS).max(1) {
            self.make_room(&mut shard, now);
        }
        let entry = Arc::new(T::new(key));
        shard.insert_unique(hash, entry.clone(), |entry| hash_of(entry.key()));
        entry
    }

    /// Drops what says nothing; if that is less than an eighth, also the lightest of the rest.
    fn make_room(&self, shard: &mut HashTable<Arc<T>>, now: Micros) {
        let goal = shard.len() - shard.len().div_ceil(8);
        let free = |entry: &Arc<T>| Arc::strong_count(entry) == 1;
        shard.retain(|entry| !(free(entry) && entry.is_spare(now)));
        if shard.len() <= goal {
            return;
        }
        let mut weights: Vec<u64> = shard.iter().filter(|entry| free(entry)).map(|entry| entry.weight()).collect();
        let surplus = (shard.len() - goal).min(weights.len());
        if surplus == 0 {
            return;
        }
        let (_, heaviest, _) = weights.select_nth_unstable(surplus - 1);
        let (heaviest, before) = (*heaviest, shard.len());
        shard.retain(|entry| !(free(entry) && entry.weight() <= heaviest));
        self.evicted.fetch_add((before - shard.len()) as u64, Relaxed);
    }

    /// Drops what says nothing of one shard, and gives its memory back.
    pub fn tidy(&self, shard: usize, now: Micros) {
        let mut shard = self.shard(shard % SHARDS);
        shard.retain(|entry| !(Arc::strong_count(entry) == 1 && entry.is_spare(now)));
        if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
            let room = shard.len() * 2;
            shard.shrink_to(room, |entry| hash_of(entry.key()));
        }
    }

    /// How many shards there are to tidy.
    pub const fn shards(&self) -> usize {
        SHARDS
    }

    /// Holds so many from now on.
    pub fn resize(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// Cells in it.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cells that were given up although something was spent of them.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }
}
