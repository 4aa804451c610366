//! Objects that no version needs: which they are, and their deletion.
//!
//! Layers are shared: forks list those of their origin, and any name may list any. So before anything is
//! deleted the HEAD of every name in the remote is read, after it was decided what might go. One that cannot
//! be read may need anything, and nothing is deleted. An object goes first and its line in `unneeded` after,
//! so that a stop in between leaves a line whose object is deleted once more, which is no error.
use crate::error::{Error, ErrorKind};
use crate::remote::{ObjectStore, RemoteError, list};
use crate::state::dictionary::{dictionary_key, is_dictionary_key};
use crate::state::head::{self, Head, HeadError, LAYERS, Unneeded};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// How many HEADs are read at once.
const HEADS_AT_ONCE: usize = 8;
/// How many objects are deleted at once: few, since flushes go first.
const DELETES_AT_ONCE: usize = 4;
/// What sorts after everything in a directory of that name, and before any other.
const AFTER_SLASH: char = '0';

/// Why nothing was deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The HEAD of some name says nothing, so it may need anything.
    #[error("nothing is deleted while a HEAD in the remote cannot be read: {key}: {source}")]
    Head {
        /// Its key.
        key: String,
        /// Why.
        source: HeadError,
    },
    /// It cannot be found out who uses the remote.
    #[error("nothing is deleted, since the remote cannot be listed: {0}")]
    List(RemoteError),
}

impl From<PruneError> for Error {
    fn from(e: PruneError) -> Self {
        match &e {
            PruneError::Head { source: HeadError::Remote(source), .. } | PruneError::List(source) => {
                let kind = match source {
                    RemoteError::Denied { .. } => ErrorKind::Denied,
                    RemoteError::NoBucket { .. } => ErrorKind::NotFound,
                    RemoteError::Refused { .. } => ErrorKind::Unsupported,
                    _ => ErrorKind::Unavailable,
                };
                Self::new(kind, e.to_string())
            }
            PruneError::Head { source: HeadError::Version(_), .. } => {
                Self::new(ErrorKind::Unsupported, e.to_string())
            }
            PruneError::Head { .. } => Self::new(ErrorKind::Corrupt, e.to_string()),
        }
    }
}

/// What the names in a remote need.
#[derive(Debug, Default)]
pub struct Needed {
    /// How many names have versions.
    pub names: usize,
    /// One of which nothing is deleted, if there is any: it keeps no account of what it no longer needs.
    pub log: Option<String>,
    keys: HashSet<String>,
    unneeded: HashSet<String>,
}

impl Needed {
    /// Reads every HEAD in the remote; but for that of `instead`, which is taken in its place.
    pub async fn by_all(store: &dyn ObjectStore, instead: Option<&Head>) -> Result<Self, PruneError> {
        let mut names = names(store).await.map_err(PruneError::List)?;
        let mut needed = Self::default();
        names.retain(|name| instead.is_none_or(|instead| instead.name != *name));
        let heads = names.into_iter().map(|name| async move {
            let read = head::read_head(store, &name).await;
            read.map_err(|source| PruneError::Head { key: head::head_key(&name), source })
        });
        let mut heads = futures::stream::iter(heads).buffer_unordered(HEADS_AT_ONCE);
        if let Some(instead) = instead {
            needed.add(instead);
        }
        while let Some(found) = heads.try_next().await? {
            if let Some((head, _)) = found {
                needed.add(&head); // else it was removed meanwhile
            }
        }
        Ok(needed)
    }

    fn add(&mut self, head: &Head) {
        self.names += 1;
        if head.log {
            self.log = Some(head.name.clone());
        }
        for (_, layer) in head.all_layers() {
            self.keys.insert(layer.key.clone());
            self.keys.extend(layer.refers.iter().cloned());
            self.keys.extend(layer.dictionary.iter().map(|digest| dictionary_key(&digest.0)));
        }
        self.keys.extend(head.dictionary.iter().map(|digest| dictionary_key(&digest.0)));
        self.unneeded.extend(head.unneeded.iter().map(|unneeded| unneeded.key.clone()));
    }

    /// Whether some name needs the object of this key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Whether some name keeps account of it, be it as unneeded.
    fn knows(&self, key: &str) -> bool {
        self.has(key) || self.unneeded.contains(key)
    }
}

/// The names with a HEAD. What lies beneath `layers/` is passed over, however much it is.
async fn names(store: &dyn ObjectStore) -> Result<BTreeSet<String>, RemoteError> {
    let (mut names, mut after) = (BTreeSet::new(), None);
    loop {
        let page = store.list("", after.as_deref()).await?;
        for object in &page.objects {
            if let Some((name, "HEAD")) = object.key.split_once('/') {
                names.insert(name.to_owned());
            }
        }
        let Some(last) = page.objects.last().filter(|_| page.more) else { break };
        after = Some(match last.key.split_once('/') {
            Some((directory, _)) => {
                // Its HEAD may be on a page that is never asked for; who has none needs nothing.
                names.insert(directory.to_owned());
                format!("{directory}{AFTER_SLASH}")
            }
            None => last.key.clone(),
        });
    }
    names.retain(|name| head::check_name(name).is_ok());
    Ok(names)
}

/// An object that may be deleted, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its key, relative to the remote's prefix.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// Since when nothing needs it; of an orphan, when it was written.
    pub since: jiff::Timestamp,
}

/// What became of candidates.
#[derive(Debug, Default)]
pub struct Deleted {
    /// Objects that are gone.
    pub gone: Vec<Candidate>,
    /// Objects that another name needs.
    pub shared: Vec<Candidate>,
    /// Objects that could not be deleted.
    pub left: Vec<Candidate>,
    /// The first reason for that.
    pub failure: Option<RemoteError>,
}

impl Deleted {
    /// The keys of what is gone.
    pub fn keys(&self) -> HashSet<String> {
        self.gone.iter().map(|object| object.key.clone()).collect()
    }
}

/// What `head` has not needed for longer than `grace`.
pub fn due(head: &Head, grace: Duration, now: jiff::Timestamp) -> Vec<Candidate> {
    let Ok(limit) = now.checked_sub(grace) else { return Vec::new() };
    let old = head.unneeded.iter().filter(|unneeded| !head.log && unneeded.since <= limit);
    old.map(|Unneeded { key, bytes, since, .. }| Candidate { key: key.clone(), bytes: *bytes, since: *since })
        .collect()
}

/// Layers and dictionaries older than `age` that are in the remote, by key. Those that no name knows are
/// orphans: [`of_nobody`] says which, of HEADs that were read later than this.
pub async fn stored(
    store: &dyn ObjectStore,
    age: Duration,
    now: jiff::Timestamp,
) -> Result<BTreeMap<String, Candidate>, PruneError> {
    let Ok(limit) = now.checked_sub(age) else { return Ok(BTreeMap::new()) };
    let mut objects = std::pin::pin!(list::objects(store, LAYERS, None));
    let mut found = BTreeMap::new();
    while let Some(object) = objects.try_next().await.map_err(PruneError::List)? {
        let ours = head::layer_id(&object.key).is_some() || is_dictionary_key(&object.key);
        let since = head::instant(object.modified);
        if ours && since <= limit {
            found.insert(object.key.clone(), Candidate { key: object.key, bytes: object.length, since });
        }
    }
    Ok(found)
}

/// Those of `stored` that no name keeps account of.
pub fn of_nobody(stored: BTreeMap<String, Candidate>, needed: &Needed) -> Vec<Candidate> {
    stored.into_values().filter(|object| !needed.knows(&object.key)).collect()
}

/// Deletes what nobody needs of `candidates`. They must have been chosen before `needed` was read. The first
/// failure stops it: the next object would meet the same.
pub async fn delete(store: &dyn ObjectStore, needed: &Needed, candidates: Vec<Candidate>) -> Deleted {
    let mut done = Deleted::default();
    let (shared, free): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|object| needed.has(&object.key));
    done.shared = shared;
    let mut free = free.into_iter();
    while done.failure.is_none() {
        let some: Vec<_> = free.by_ref().take(DELETES_AT_ONCE).collect();
        if some.is_empty() {
            break;
        }
        let deletes = some.iter().map(|object| store.delete(&object.key));
        let results = futures::future::join_all(deletes).await;
        for (object, result) in some.into_iter().zip(results) {
            match result {
                Ok(()) => done.gone.push(object),
                Err(error) => {
                    done.left.push(object);
                    done.failure.get_or_insert(error);
                }
            }
        }
    }
    done.left.extend(free);
    done
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
