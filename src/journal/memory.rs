//! [`MemoryJournal`]: a journal without a disk, for tests and for mounts that keep no state.
use super::{Batch, Journal, JournalError, Pairs, Tree, full_key};
use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;

/// How many pairs a scan takes under one lock.
const SCAN_PAGE: usize = 256;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default, Clone)]
struct Inner {
    live: Map,
    durable: Map,
    unflushed: Vec<Batch>,
}

/// Keeps everything in memory, and what was flushed apart, so that a crash can be played.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    inner: Mutex<Inner>,
}

impl MemoryJournal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a crash of the machine now would leave: everything up to the last flush.
    #[must_use]
    pub fn crashed(&self) -> Self {
        let durable = self.inner.lock().durable.clone();
        Self { inner: Mutex::new(Inner { live: durable.clone(), durable, unflushed: Vec::new() }) }
    }

    /// What a crash of the process alone would leave: everything applied.
    #[must_use]
    pub fn killed(&self) -> Self {
        let live = self.inner.lock().live.clone();
        Self { inner: Mutex::new(Inner { durable: live.clone(), live, unflushed: Vec::new() }) }
    }
}

fn apply_to(map: &mut Map, batch: Batch) {
    for (key, value) in batch.into_operations() {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

impl Journal for MemoryJournal {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self.inner.lock().live.get(&full_key(tree, key)).cloned())
    }

    fn apply(&self, batch: Batch) -> Result<(), JournalError> {
        let mut inner = self.inner.lock();
        apply_to(&mut inner.live, batch.clone());
        inner.unflushed.push(batch);
        Ok(())
    }

    fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> Pairs<'_> {
        let skip = full_key(tree, b"").len();
        let prefix = full_key(tree, prefix);
        let mut next = Some(Bound::Included(full_key(tree, from).max(prefix.clone())));
        let pages = std::iter::from_fn(move || {
            let start = next.take()?;
            let inner = self.inner.lock();
            let page: Vec<_> = inner
                .live
                .range((start, Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(&prefix))
                .take(SCAN_PAGE)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            if page.len() == SCAN_PAGE {
                next = page.last().map(|(key, _)| Bound::Excluded(key.clone()));
            }
            Some(page)
        });
        Box::new(pages.flatten().map(move |(key, value)| Ok((key[skip..].to_vec(), value))))
    }

    fn flush(&self) -> Result<(), JournalError> {
        let mut inner = self.inner.lock();
        for batch in std::mem::take(&mut inner.unflushed) {
            apply_to(&mut inner.durable, batch);
        }
        Ok(())
    }
}
