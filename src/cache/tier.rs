//! Where blocks come from that are not on the disk: an [`Origin`], perhaps with a chain of [`Tier`]s
//! before it. Other crates and modules bring their own: the traits know bytes and identities, no protocol.
use super::key::ObjectId;
use crate::error::ErrorKind;
use crate::remote::{ByteStream, RemoteError, Store};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::Semaphore;

/// How many values are on their way into tiers at once; those beyond are not kept there.
const OFFERS_MAX: usize = 64;

/// Why an origin did not give the bytes. Everybody who waits for them is told the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There is no such object any more.
    #[error("no such object: {key}")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// The object is another version by now: whoever asks must look up its identity anew.
    #[error("object changed: {key}: expected {expected}, found {found}")]
    Changed {
        /// Its key.
        key: String,
        /// The tag of the identity that was asked for.
        expected: String,
        /// The tag, or the size in bytes, that the origin has.
        found: String,
    },
    /// Credentials do not permit it.
    #[error("access denied: {message}")]
    Denied {
        /// What the origin said.
        message: String,
    },
    /// The origin asks to slow down. It is no statement about the object.
    #[error("origin asks to slow down: {message}")]
    Throttled {
        /// What the origin said.
        message: String,
    },
    /// It cannot be reached, or broke off: a later attempt may work.
    #[error("origin unavailable: {message}")]
    Unavailable {
        /// What happened.
        message: String,
    },
    /// It answered something that no retry mends.
    #[error("origin refused the request: {message}")]
    Refused {
        /// What it said.
        message: String,
    },
}

impl FetchError {
    /// What a caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Changed { .. } => ErrorKind::Conflict,
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Throttled { .. } | Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Refused { .. } => ErrorKind::Io,
        }
    }
}

impl From<RemoteError> for FetchError {
    fn from(e: RemoteError) -> Self {
        let message = e.to_string();
        match e {
            RemoteError::NotFound { key } => Self::NotFound { key },
            RemoteError::Denied { .. } => Self::Denied { message },
            RemoteError::Unavailable { message } if slow_down(&message) => Self::Throttled { message },
            RemoteError::Unavailable { message } => Self::Unavailable { message },
            RemoteError::NoBucket { .. } => Self::Unavailable { message },
            _ => Self::Refused { message },
        }
    }
}

/// The codes by which S3 and its kin ask to slow down.
fn slow_down(message: &str) -> bool {
    ["SlowDown", "Throttl", "TooManyRequests", "RequestLimitExceeded", "429"]
        .iter()
        .any(|code| message.contains(code))
}

/// A source of the bytes of identified objects.
#[async_trait]
pub trait Origin: Send + Sync + std::fmt::Debug {
    /// The bytes of `range` of the object, as they come. The range is within the object and not empty.
    /// The stream carries exactly as many bytes, or ends with an error; if the origin has another
    /// version of the object, [`FetchError::Changed`].
    async fn fetch(&self, object: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError>;
}

/// The bytes of a range, as they come.
pub struct Fetched {
    /// The bytes.
    pub body: ByteStream,
    /// Who gives them: `origin`, or the name of a tier.
    pub source: &'static str,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched").field("source", &self.source).finish_non_exhaustive()
    }
}

/// The origin's name in [`Fetched::source`].
pub const ORIGIN: &str = "origin";

/// An [`Origin`] over an object store.
#[derive(Debug, Clone)]
pub struct StoreOrigin {
    store: Store,
}

impl StoreOrigin {
    /// Fetches from `store`; the keys of identities are the keys of its objects.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Origin for StoreOrigin {
    async fn fetch(&self, object: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError> {
        let wanted = range.end - range.start;
        let download = match self.store.download(&object.key, Some(range)).await {
            // Of one that is shorter by now there is no such range.
            Err(refused @ RemoteError::Refused { .. }) => match self.store.head(&object.key).await {
                Ok(now) if now.tag.0 != object.tag => {
                    let (key, expected, found) = (object.key.clone(), object.tag.clone(), now.tag.0);
                    return Err(FetchError::Changed { key, expected, found });
                }
                _ => return Err(refused.into()),
            },
            download => download?,
        };
        let changed = |found: String| FetchError::Changed {
            key: object.key.clone(),
            expected: object.tag.clone(),
            found,
        };
        if download.tag.0 != object.tag {
            return Err(changed(download.tag.0));
        }
        if download.length != wanted {
            return Err(changed(format!("{} bytes of {wanted}", download.length)));
        }
        Ok(Fetched { body: download.body, source: ORIGIN })
    }
}

/// Why a tier did not answer. It never reaches a reader: an error is a miss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TierError {
    /// What happened.
    pub message: String,
    /// Whether it was asked at all: one that is left out for a while, or has enough to do, is not.
    pub asked: bool,
}

impl TierError {
    /// It was asked, and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), asked: true }
    }

    /// It was not asked.
    pub fn not_asked(message: impl Into<String>) -> Self {
        Self { message: message.into(), asked: false }
    }
}

/// A store of blocks between the disk and the origin, such as Redis. Its keys carry the immutable identity,
/// so what it has can never be stale. It bounds its own time: a call that takes longer than the origin
/// would is worse than a miss.
#[async_trait]
pub trait Tier: Send + Sync + std::fmt::Debug {
    /// One word, for statistics.
    fn name(&self) -> &'static str;
    /// The bytes of `range` of the object, if it has them all.
    async fn get(&self, object: &ObjectId, range: Range<u64>) -> Result<Option<Bytes>, TierError>;
    /// Keeps the bytes of `range`, if it likes.
    async fn put(&self, object: &ObjectId, range: Range<u64>, bytes: Bytes) -> Result<(), TierError>;
    /// How often so far it had other bytes than those that were written; each time is a miss.
    fn corrupt(&self) -> u64 {
        0
    }
}

/// Tiers, asked one after the other, and the origin at their end.
#[derive(Debug)]
pub struct Chain {
    tiers: Vec<Arc<dyn Tier>>,
    origin: Arc<dyn Origin>,
    counters: Vec<TierCounters>,
    offers: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct TierCounters {
    hits: AtomicU64,
    misses: AtomicU64,
    errors: AtomicU64,
    skipped: AtomicU64,
}

/// What a tier has answered so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct TierStats {
    /// Its name.
    pub name: &'static str,
    /// How often it had the bytes.
    pub hits: u64,
    /// How often it had not.
    pub misses: u64,
    /// How often it could not say; each counts as a miss to the reader.
    pub errors: u64,
    /// How often it was not asked, because it is left out or has enough to do.
    pub skipped: u64,
    /// How often it had other bytes than those that were written; each is a miss as well.
    pub corrupt: u64,
}

impl Chain {
    /// Asks `tiers` in this order, then `origin`.
    pub fn new(tiers: Vec<Arc<dyn Tier>>, origin: Arc<dyn Origin>) -> Self {
        let counters = tiers.iter().map(|_| TierCounters::default()).collect();
        Self { tiers, origin, counters, offers: Arc::new(Semaphore::new(OFFERS_MAX)) }
    }

    /// What each tier has answered so far.
    pub fn stats(&self) -> Vec<TierStats> {
        let pairs = self.tiers.iter().zip(&self.counters);
        pairs
            .map(|(tier, c)| TierStats {
                name: tier.name(),
                hits: c.hits.load(Relaxed),
                misses: c.misses.load(Relaxed),
                errors: c.errors.load(Relaxed),
                skipped: c.skipped.load(Relaxed),
                corrupt: tier.corrupt(),
            })
            .collect()
    }

    /// For the tiers before the one that has a block.
    fn offer(&self, tiers: usize, object: &ObjectId, range: &Range<u64>) -> Offer {
        let (offers, object, range) = (self.offers.clone(), object.clone(), range.clone());
        Offer { tiers: self.tiers[..tiers].to_vec(), offers, object, range }
    }
}

/// Tiers that have not got a block yet which is on its way.
#[derive(Debug)]
struct Offer {
    tiers: Vec<Arc<dyn Tier>>,
    offers: Arc<Semaphore>,
    object: ObjectId,
    range: Range<u64>,
}

impl Offer {
    /// Gives them the bytes, without waiting for them.
    fn make(&self, bytes: &Bytes) {
        for tier in &self.tiers {
            let Ok(permit) = self.offers.clone().try_acquire_owned() else { return };
            let (tier, object, range, bytes) =
                (tier.clone(), self.object.clone(), self.range.clone(), bytes.clone());
            tokio::spawn(async move {
                if let Err(error) = tier.put(&object, range, bytes).await {
                    tracing::debug!(tier = tier.name(), %error, "a tier did not keep a block");
                }
                drop(permit);
            });
        }
    }

    /// Hands the pieces on as they come, so that whoever waits for them sees that they do; the tiers get the whole,
    /// if it is one.
    fn at_the_end_of(self, body: ByteStream) -> ByteStream {
        let pieces: Vec<Bytes> = Vec::new();
        let passing =
            futures::stream::unfold((self, body, pieces), |(offer, mut body, mut pieces)| async move {
                let piece = body.next().await;
                match &piece {
                    Some(Ok(bytes)) => pieces.push(bytes.clone()),
                    Some(Err(_)) => pieces.clear(),
                    None => offer.made_of(&pieces),
                }
                piece.map(|piece| (piece, (offer, body, pieces)))
            });
        passing.boxed()
    }

    fn made_of(&self, pieces: &[Bytes]) {
        if pieces.iter().map(Bytes::len).sum::<usize>() as u64 != self.range.end - self.range.start {
            return;
        }
        match pieces {
            [whole] => self.make(whole),
            pieces => self.make(&pieces.concat().into()),
        }
    }
}

#[async_trait]
impl Origin for Chain {
    async fn fetch(&self, object: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError> {
        let length = range.end - range.start;
        for (n, (tier, counters)) in self.tiers.iter().zip(&self.counters).enumerate() {
            let counter = match tier.get(object, range.clone()).await {
                Ok(Some(bytes)) if bytes.len() as u64 == length => {
                    counters.hits.fetch_add(1, Relaxed);
                    self.offer(n, object, &range).make(&bytes);
                    let body = futures::stream::once(std::future::ready(Ok(bytes))).boxed();
                    return Ok(Fetched { body, source: tier.name() });
                }
                Ok(None) => &counters.misses,
                Err(TierError { asked: false, .. }) => &counters.skipped,
                Ok(Some(_)) | Err(_) => &counters.errors,
            };
            counter.fetch_add(1, Relaxed);
        }
        let fetched = self.origin.fetch(object, range.clone()).await?;
        if self.tiers.is_empty() {
            return Ok(fetched);
        }
        let body = self.offer(self.tiers.len(), object, &range).at_the_end_of(fetched.body);
        Ok(Fetched { body, source: fetched.source })
    }
}
