//! [`OriginFiles`]: the objects of a store, by what the store says they are, and read through the cache.
use super::cache::Cache;
use super::{Blob, CacheError, EntryName, ObjectId, Origin};
use crate::clock::Timestamp;
use crate::remote::{Properties, RemoteError, Store, Tag};
use crate::sync::Mutex;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Of so many objects it is remembered what they are.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// A store that does not answer within this time is away.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long one that is away is not asked about what is known.
const AWAY: Duration = Duration::from_secs(5);

/// When an object was changed last, if nobody has said.
const UNKNOWN: Timestamp = Timestamp { sec: -1, nsec: 0 };
/// So many changes wait for who tells others of them.
const CHANGES_MAX: usize = 1024;

/// What is known of an object.
#[derive(Debug, Default)]
struct Known {
    /// One asks, the others wait for the answer.
    answer: tokio::sync::Mutex<Option<Answer>>,
    /// Grows with each time that somebody says that it is another one by now.
    epoch: AtomicU64,
    /// When asking failed last, and why: that goes for all who waited for the answer meanwhile.
    failed: Mutex<Option<(Instant, String)>>,
}

#[derive(Debug, Clone)]
struct Answer {
    properties: Properties,
    /// When the store said so; `None` if another process was told.
    at: Option<Instant>,
    /// The epoch in which it was asked.
    epoch: u64,
}

impl Answer {
    fn of_cached(id: &ObjectId) -> Self {
        let (length, tag) = (id.size, Tag(id.tag.clone()));
        Self {
            properties: Properties {
                length,
                tag,
                modified: UNKNOWN,
                content_type: None,
                content_encoding: None,
            },
            at: None,
            epoch: 0,
        }
    }
}

/// See the module.
pub struct OriginFiles {
    cache: Cache,
    store: Store,
    origin: Arc<dyn Origin>,
    /// What tells this store from others, in the identities of objects.
    bucket: String,
    /// An answer is good for so long.
    fresh: Duration,
    /// Owner of its lock.
    known: Mutex<LruCache<String, Arc<Known>>>,
    /// Until when the store is taken to be away. Owner of its lock.
    away: Mutex<Option<Instant>>,
    /// Keys of objects that turned out to be others than was known.
    changes: broadcast::Sender<Arc<str>>,
}

impl std::fmt::Debug for OriginFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OriginFiles").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl OriginFiles {
    /// The objects of `store`, read through `cache` from `origin` (the store itself, perhaps behind tiers).
    /// That an object is the same version is believed for `fresh`; while the store is away, until it is back.
    pub fn new(cache: Cache, store: Store, origin: Arc<dyn Origin>, fresh: Duration) -> Self {
        let bucket = store.identity();
        let known = Mutex::new(LruCache::new(KNOWN_MAX));
        let changes = broadcast::Sender::new(CHANGES_MAX);
        let this = Self { cache, store, origin, bucket, fresh, known, away: Mutex::default(), changes };
        this.remember();
        this
    }

    /// The versions that the cache has from before: good enough while the store is away.
    fn remember(&self) {
        let mut entries = self.cache.entries();
        // Of several what was read last is newest; those before are gone but for what was still being read.
        entries.sort_by_key(|info| (info.used, info.created));
        for info in entries {
            let EntryName::Object(id) = info.name else { continue };
            if id.bucket == self.bucket {
                let answer = tokio::sync::Mutex::new(Some(Answer::of_cached(&id)));
                let known = Known { answer, ..Known::default() };
                self.known.lock().put(id.key.clone(), Arc::new(known));
            }
        }
    }

    /// The version of an object that the cache has, if of so many objects this one was forgotten.
    fn recall(&self, key: &str) -> Option<Answer> {
        let entries = self.cache.entries().into_iter();
        let of_key = entries.filter_map(|info| match info.name {
            EntryName::Object(id) if id.bucket == self.bucket && id.key == key => Some((info.used, id)),
            _ => None,
        });
        of_key.max_by_key(|(used, _)| *used).map(|(_, id)| Answer::of_cached(&id))
    }

    /// The object of this key, if there is one, as the store says it is, or said lately.
    ///
    /// # Errors
    /// The store does not answer, and nothing is known of the object.
    pub async fn object(&self, key: &str) -> Result<Option<(ObjectId, Properties)>, RemoteError> {
        let shared = self.known.lock().get_or_insert(key.to_owned(), Arc::default).clone();
        let came = Instant::now();
        let mut known = shared.answer.lock().await;
        let epoch = shared.epoch.load(SeqCst);
        let is_fresh =
            |answer: &&Answer| answer.epoch == epoch && answer.at.is_some_and(|at| at.elapsed() < self.fresh);
        if let Some(Answer { properties, .. }) = known.as_ref().filter(is_fresh) {
            return Ok(Some(self.identified(key, properties)));
        }
        if let Some((at, message)) = &*shared.failed.lock()
            && *at >= came
            && known.is_none()
        {
            return Err(RemoteError::Unavailable { message: message.clone() });
        }
        if let Some(Answer { properties, .. }) = &*known
            && self.away.lock().is_some_and(|until| Instant::now() < until)
        {
            return Ok(Some(self.identified(key, properties)));
        }
        let asked = tokio::time::timeout(PATIENCE, self.store.head(key)).await;
        let late = |_| Err(RemoteError::Unavailable { message: "the origin does not answer".into() });
        let (before, now) = match asked.unwrap_or_else(late) {
            Ok(properties) => {
                let found = self.identified(key, &properties);
                (known.replace(Answer { properties, at: Some(Instant::now()), epoch }), Some(found))
            }
            Err(RemoteError::NotFound { .. }) => {
                let mut all = self.known.lock();
                if all.peek(key).is_some_and(|found| Arc::ptr_eq(found, &shared)) {
                    all.pop(key); // what is not there takes no room among what is
                }
                (known.take(), None)
            }
            Err(e) if e.is_transient() => {
                *self.away.lock() = Some(Instant::now() + AWAY);
                if known.is_none() {
                    *known = self.recall(key);
                }
                let Some(Answer { properties, .. }) = &*known else {
                    *shared.failed.lock() = Some((Instant::now(), e.to_string()));
                    return Err(e);
                };
                tracing::warn!(error = %e, key, "served as it was when the origin was last heard of");
                return Ok(Some(self.identified(key, properties)));
            }
            Err(e) => return Err(e),
        };
        drop(known);
        *self.away.lock() = None;
        // Of what came before nobody is given any more, nor is it taken for the newest after a restart.
        let before = before.map(|answer| self.identified(key, &answer.properties).0);
        if let Some(before) = before.filter(|before| now.as_ref().is_none_or(|(id, _)| id != before)) {
            self.tell(key);
            self.cache.remove_object(&before).await;
        }
        Ok(now)
    }

    fn tell(&self, key: &str) {
        let _nobody_listens = self.changes.send(key.into());
    }

    /// Keys of objects that turned out to be others than was known, from now on.
    pub fn changes(&self) -> broadcast::Receiver<Arc<str>> {
        self.changes.subscribe()
    }

    /// What tells this store from others.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Any of them may be another version by now: the store is asked again.
    pub fn forget_all(&self) {
        for (_, known) in self.known.lock().iter() {
            known.epoch.fetch_add(1, SeqCst);
        }
    }

    /// It turned out to be another version by now: the store is asked again.
    pub fn forget(&self, key: &str) {
        if let Some(known) = self.known.lock().get(key) {
            known.epoch.fetch_add(1, SeqCst);
        }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// As for [`Cache::blob`].
    pub fn blob(&self, id: &ObjectId) -> Result<Blob, CacheError> {
        self.cache.blob(id, self.origin.clone())
    }

    fn identified(&self, key: &str, properties: &Properties) -> (ObjectId, Properties) {
        let id = ObjectId {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            tag: properties.tag.0.clone(),
            size: properties.length,
        };
        (id, properties.clone())
    }
}
