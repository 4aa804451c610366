//! [`Index`]: a map that many threads look into at once.
use crate::sync::RwLock;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

/// How many parts it has, each with a lock of its own.
const SHARDS: usize = 64;

type Map<K, V> = HashMap<K, V, RandomState>;

/// A concurrent map. Locks are held for one operation and never across another's.
#[derive(Debug)]
pub struct Index<K, V> {
    shards: Box<[RwLock<Map<K, V>>]>,
    hasher: RandomState,
}

impl<K: Hash + Eq, V> Default for Index<K, V> {
    fn default() -> Self {
        let hasher = RandomState::new();
        let shards = (0..SHARDS).map(|_| RwLock::new(HashMap::with_hasher(hasher.clone()))).collect();
        Self { shards, hasher }
    }
}

impl<K: Hash + Eq + Clone, V> Index<K, V> {
    /// Puts many in at once, of each key the last one; says which others were there before.
    pub fn fill(&self, entries: impl ExactSizeIterator<Item = (K, V)>) -> Vec<V> {
        if entries.len() == 0 {
            return Vec::new();
        }
        // What is moved when a map grows costs more than what is put in.
        let each = entries.len() / SHARDS;
        self.shards.iter().for_each(|shard| shard.write().reserve(each + each / 8));
        entries.filter_map(|(key, value)| self.shard(&key).write().insert(key, value)).collect()
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &RwLock<Map<K, V>> {
        // The map uses the low bits and the top seven.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }

    /// What `look` makes of a value; nobody changes the map meanwhile.
    pub fn get<Q, R>(&self, key: &Q, look: impl FnOnce(&V) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shard(key).read().get(key).map(look)
    }

    /// Runs `change` on the part of the map in which the key is; nobody else looks at it meanwhile.
    pub fn change<Q, R>(&self, key: &Q, change: impl FnOnce(&mut Map<K, V>) -> R) -> R
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        change(&mut self.shard(key).write())
    }

    /// What `pick` makes of each value, one part of the map after the other: changes made meanwhile may or
    /// may not show.
    pub fn collect<R>(&self, mut pick: impl FnMut(&K, &V) -> Option<R>) -> Vec<R> {
        let mut found = Vec::new();
        for shard in &self.shards {
            found.extend(shard.read().iter().filter_map(|(key, value)| pick(key, value)));
        }
        found
    }
}
