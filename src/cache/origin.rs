//! [`OriginFiles`]: the objects of a store, by what the store says they are, and read through the cache.
mod absence;
mod coming;
mod versions;

use super::cache::Cache;
use super::{Blob, CacheError, EntryName, Hedged, ObjectId, Origin};
use crate::clock::Timestamp;
use crate::remote::{ByteStream, Download, Properties, RemoteError, Store, Tag};
use crate::sync::Mutex;
use absence::Absence;
pub(super) use coming::Coming;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, broadcast};
pub use versions::Versions;

/// Of so many objects it is remembered what they are.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// A store that does not answer within this time is away, where anything is known of what it is asked about, or where
/// nobody says that he waits longer.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// When somebody said so last.
    doubted: Mutex<Option<Instant>>,
    /// When asking failed last, until there is an answer: that goes for all who waited for it meanwhile.
    failed: Mutex<Option<Failed>>,
}

/// A question that had no answer.
#[derive(Debug)]
struct Failed {
    begun: Instant,
    at: Instant,
    why: String,
}

impl Known {
    /// It is another one by now, or may be.
    fn doubt(&self) {
        self.epoch.fetch_add(1, SeqCst);
        *self.doubted.lock() = Some(Instant::now());
    }

    /// Whether a question that had no answer says that the store is not there to be asked about it: it may be back since,
    /// if somebody knew of a change later.
    fn is_in_vain(&self, begun: Instant) -> bool {
        self.doubted.lock().is_none_or(|doubted| begun >= doubted)
    }
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
        Self { properties: bare(id.size, Tag(id.tag.clone())), at: None, epoch: 0 }
    }
}

/// Of an object nothing but what identifies it is known.
fn bare(length: u64, tag: Tag) -> Properties {
    Properties { length, tag, modified: UNKNOWN, content_type: None, content_encoding: None }
}

/// What came of a question.
struct Settled {
    found: Option<(ObjectId, Properties)>,
    /// The version that was known until then.
    outdated: Option<ObjectId>,
}

/// See the module.
pub struct OriginFiles {
    cache: Cache,
    store: Store,
    origin: Arc<dyn Origin>,
    /// Where the store is asked a second time when its answer is late.
    hedged: Option<Arc<Hedged>>,
    /// What tells this store from others, in the identities of objects.
    bucket: String,
    /// An answer is good for so long.
    fresh: Duration,
    /// So long an answer is waited for where nothing is known.
    patience: Duration,
    /// The same where something is.
    soon: Duration,
    /// Owner of its lock.
    known: Mutex<LruCache<String, Arc<Known>>>,
    absence: Absence,
    /// Of whoever asks in the background.
    turn: Arc<Semaphore>,
    /// Keys of objects that turned out to be others than was known; made for the first who listens.
    changes: OnceLock<broadcast::Sender<Arc<str>>>,
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
        let versions = Versions::of(&cache);
        Self::below(cache, store, origin, fresh, (&versions, ""))
    }

    /// The same of objects below a prefix (a whole name, or several up to a slash), of which the cache has had these
    /// versions lately.
    pub fn below(
        cache: Cache,
        store: Store,
        origin: Arc<dyn Origin>,
        fresh: Duration,
        (versions, prefix): (&Versions, &str),
    ) -> Self {
        let bucket = store.identity();
        // There may be very many of these, and each knows little as a rule: room is made when it is needed.
        let mut known = LruCache::unbounded();
        known.resize(KNOWN_MAX);
        // Good enough while the store is away.
        for id in versions.newest(&bucket, prefix, KNOWN_MAX.get()) {
            let answer = tokio::sync::Mutex::new(Some(Answer::of_cached(id)));
            known.put(id.key.clone(), Arc::new(Known { answer, ..Known::default() }));
        }
        Self {
            cache,
            store,
            origin,
            hedged: None,
            bucket,
            fresh,
            patience: PATIENCE,
            soon: PATIENCE,
            known: Mutex::new(known),
            absence: Absence::default(),
            turn: Arc::new(Semaphore::new(1)),
            changes: OnceLock::new(),
        }
    }

    /// Also the block that comes with what an object is is asked for a second time when the answer is late.
    pub fn hedged_by(self, hedged: Arc<Hedged>) -> Self {
        Self { hedged: Some(hedged), ..self }
    }

    /// Of what nothing is known whoever asks waits so long for an answer. Of what is known nobody waits longer for it than
    /// ten seconds.
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Sends a question to the store, about what nothing is known of.
    async fn sent<T, F: Future<Output = Result<T, RemoteError>>>(
        &self,
        unknown: &str,
        ask: impl Fn() -> F,
    ) -> Result<T, RemoteError> {
        let answer = async {
            match &self.hedged {
                Some(hedged) => hedged.hedged(&ask).await,
                None => ask().await,
            }
        };
        self.patient(Some(unknown), answer).await
    }

    /// What comes of a question: there is more patience with one about what nothing is known of, given by its key.
    async fn patient<T>(
        &self,
        unknown: Option<&str>,
        answer: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let mut answer = std::pin::pin!(answer);
        if let Ok(answer) = tokio::time::timeout(self.patience.min(self.soon), &mut answer).await {
            return answer;
        }
        match unknown.filter(|key| self.patience > self.soon && self.recall(key).is_none()) {
            Some(_) => tokio::time::timeout(self.patience - self.soon, answer).await.unwrap_or_else(late),
            None => late(()),
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

    /// The object of this key, if there is one, as the store says it is, or said lately. Of what is known nobody waits
    /// for a store that is away.
    ///
    /// # Errors
    /// The store does not answer, and nothing is known of the object.
    pub async fn object(self: &Arc<Self>, key: &str) -> Result<Option<(ObjectId, Properties)>, RemoteError> {
        let shared = self.known.lock().get_or_insert(key.to_owned(), Arc::default).clone();
        let came = Instant::now();
        let mut known = shared.answer.lock().await;
        let epoch = shared.epoch.load(SeqCst);
        if let Some(Answer { properties, at, epoch: asked_in }) = &*known {
            let is_fresh = *asked_in == epoch && at.is_some_and(|at| at.elapsed() < self.fresh);
            let failed = shared.failed.lock().as_ref().map(|failed| failed.begun);
            let in_vain =
                || [failed, self.absence.asked()].into_iter().flatten().any(|b| shared.is_in_vain(b));
            if is_fresh || in_vain() {
                if !is_fresh {
                    self.look_again(key, &shared);
                }
                return Ok(Some(self.identified(key, properties)));
            }
        } else if let Some(failed) = &*shared.failed.lock()
            && failed.at >= came
        {
            return Err(RemoteError::Unavailable { message: failed.why.clone() });
        }
        let begun = Instant::now();
        let asked = self.ask(key, known.is_some()).await;
        let settled = self.settle(key, &shared, &mut known, (epoch, begun), asked);
        drop(known);
        self.concluded(key, settled?).await
    }

    /// The object of this key, of which somebody states that it has so many bytes. If nothing is known of it, its last
    /// block comes with the answer: where a file has its directory at the end that is what is read first, and of a small
    /// one it is all. Only for who reads it from the store itself, and not by the properties of [`object`](Self::object).
    ///
    /// # Errors
    /// As for [`object`](Self::object).
    pub async fn stated(self: &Arc<Self>, key: &str, size: u64) -> Result<Option<ObjectId>, RemoteError> {
        let shared = self.known.lock().get_or_insert(key.to_owned(), Arc::default).clone();
        let mut known = shared.answer.lock().await;
        if known.is_some() || size == 0 || shared.failed.lock().is_some() {
            drop(known);
            return self.object(key).await.map(|found| found.map(|(id, _)| id));
        }
        let (epoch, begun) = (shared.epoch.load(SeqCst), Instant::now());
        let number = (size - 1) / self.cache.block_bytes();
        let start = number * self.cache.block_bytes();
        let (asked, body) = match self.ask_with(key, start..size).await {
            Ok(Download { tag, body, .. }) => (Ok(bare(size, tag)), Some(body)),
            // It has another size, and who states it is to be told which.
            Err(RemoteError::Refused { .. }) => (self.ask(key, false).await, None),
            Err(e) => (Err(e), None),
        };
        let settled = self.settle(key, &shared, &mut known, (epoch, begun), asked);
        drop(known);
        let found = self.concluded(key, settled?).await?.map(|(id, _)| id);
        if let Some((id, body)) = found.as_ref().zip(body) {
            self.take_coming(id, number as u32, body);
        }
        Ok(found)
    }

    /// Asks what an object is by asking for its last bytes; `Refused` if it does not end where they do.
    async fn ask_with(&self, key: &str, range: Range<u64>) -> Result<Download, RemoteError> {
        // One byte more: there is none.
        let wanted = range.end - range.start;
        match self.sent(key, || self.store.download(key, Some(range.start..range.end + 1))).await? {
            download if download.length == wanted => Ok(download),
            _ => Err(RemoteError::Refused { message: format!("it does not end where it should: {key}") }),
        }
    }

    /// Who opens it finds the block on its way.
    fn take_coming(&self, id: &ObjectId, number: u32, body: ByteStream) {
        match self.blob(id) {
            Ok(blob) if blob.block_bytes() == self.cache.block_bytes() => blob.take_coming(number, body),
            Ok(_) => {} // the cache has it in blocks of another size
            Err(error) => tracing::debug!(%error, object = %id, "not read through the cache"),
        }
    }

    /// Asks about what somebody was given although it may be another version by now; one question at a time.
    fn look_again(self: &Arc<Self>, key: &str, shared: &Arc<Known>) {
        let Ok(turn) = self.turn.clone().try_acquire_owned() else { return };
        let (this, shared, key) = (self.clone(), shared.clone(), key.to_owned());
        tokio::spawn(async move {
            let _turn = turn;
            let when = (shared.epoch.load(SeqCst), Instant::now());
            let asked = this.ask(&key, true).await;
            let settled = this.settle(&key, &shared, &mut *shared.answer.lock().await, when, asked);
            if let Ok(settled) = settled {
                let _nobody_waits = this.concluded(&key, settled).await;
            }
        });
    }

    async fn ask(&self, key: &str, is_known: bool) -> Result<Properties, RemoteError> {
        self.patient(Some(key).filter(|_| !is_known), self.store.head(key)).await
    }

    /// What is known of an object after the store was asked, in this epoch and from that moment on.
    fn settle(
        &self,
        key: &str,
        shared: &Arc<Known>,
        known: &mut Option<Answer>,
        (epoch, begun): (u64, Instant),
        asked: Result<Properties, RemoteError>,
    ) -> Result<Settled, RemoteError> {
        let (before, found) = match asked {
            Ok(properties) => {
                let found = self.identified(key, &properties);
                (known.replace(Answer { properties, at: Some(Instant::now()), epoch }), Some(found))
            }
            Err(RemoteError::NotFound { .. }) => {
                let mut all = self.known.lock();
                if all.peek(key).is_some_and(|found| Arc::ptr_eq(found, shared)) {
                    all.pop(key); // what is not there takes no room among what is
                }
                (known.take(), None)
            }
            // A disk that is not mounted may be back later, too.
            Err(e) if e.is_transient() || matches!(e, RemoteError::NoBucket { .. }) => {
                self.absence.unanswered(key, begun);
                *shared.failed.lock() = Some(Failed { begun, at: Instant::now(), why: e.to_string() });
                if known.is_none() {
                    *known = self.recall(key);
                }
                let Some(Answer { properties, .. }) = &*known else { return Err(e) };
                tracing::warn!(error = %e, key, "served as it was when the origin was last heard of");
                return Ok(Settled { found: Some(self.identified(key, properties)), outdated: None });
            }
            Err(e) => return Err(e),
        };
        *shared.failed.lock() = None;
        self.absence.answered();
        let before = before.map(|answer| self.identified(key, &answer.properties).0);
        let outdated = before.filter(|before| found.as_ref().is_none_or(|(id, _)| id != before));
        Ok(Settled { found, outdated })
    }

    /// Of what came before nobody is given any more, nor is it taken for the newest after a restart.
    async fn concluded(
        &self,
        key: &str,
        settled: Settled,
    ) -> Result<Option<(ObjectId, Properties)>, RemoteError> {
        if let Some(outdated) = settled.outdated {
            self.tell(key);
            self.cache.remove_object(&outdated).await;
        }
        Ok(settled.found)
    }

    fn tell(&self, key: &str) {
        let _nobody_listens = self.changes.get().map(|changes| changes.send(key.into()));
    }

    /// Keys of objects that turned out to be others than was known, from now on.
    pub fn changes(&self) -> broadcast::Receiver<Arc<str>> {
        self.changes.get_or_init(|| broadcast::Sender::new(CHANGES_MAX)).subscribe()
    }

    /// What tells this store from others.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Any of them may be another version by now: the store is asked again.
    pub fn forget_all(&self) {
        for (_, known) in self.known.lock().iter() {
            known.doubt();
        }
    }

    /// It turned out to be another version by now: the store is asked again.
    pub fn forget(&self, key: &str) {
        if let Some(known) = self.known.lock().get(key) {
            known.doubt();
        }
    }

    /// The same of all whose keys begin so.
    pub fn forget_below(&self, prefix: &str) {
        for (_, known) in self.known.lock().iter().filter(|(key, _)| key.starts_with(prefix)) {
            known.doubt();
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

fn late<T, E>(_: E) -> Result<T, RemoteError> {
    Err(RemoteError::Unavailable { message: "the origin does not answer".into() })
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
