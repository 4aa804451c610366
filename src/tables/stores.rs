//! [`Stores`]: the buckets that tables lie in, opened when they are first named.
use super::aws::Account;
use super::lent::Lent;
use crate::cache::{
    Blob, Cache, CacheError, Chain, FetchError, Hedged, Hedges, ObjectId, OriginFiles, Removed, StoreOrigin,
    Tier,
};
use crate::config::S3Settings;
use crate::remote::{Counters, RemoteError, Store, open_borrowing, open_configured};
use crate::sync::RwLock;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use icecache_iceberg::objects::{Listing, LocalObjects, ObjectInfo};
use icecache_iceberg::{Location, ObjectError, Objects};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The most entries of one part of a listing by folder.
const LISTED_MAX: usize = 1000;
/// Files of tables never change: what one is is believed for so long.
const FRESH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// See the module. Owner of its locks.
pub struct Stores {
    s3: S3Settings,
    cache: Cache,
    counters: Arc<Counters>,
    hedges: Arc<Hedges>,
    tiers: Vec<Arc<dyn Tier>>,
    local: LocalObjects,
    /// So long an answer is waited for.
    patience: Duration,
    /// What catalogs lend, by prefix.
    lent: RwLock<BTreeMap<String, Lent>>,
    /// By authority, or by the prefix that credentials were lent for.
    buckets: tokio::sync::Mutex<HashMap<(String, String), Arc<Bucket>>>,
}

struct Bucket {
    store: Store,
    files: Arc<OriginFiles>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stores").field("s3", &self.s3).finish_non_exhaustive()
    }
}

impl Stores {
    /// Buckets of S3 as `s3` says, read through `cache` and, before the bucket is asked, through `tiers`.
    /// What has not been said within `patience` is not said.
    pub fn new(
        s3: S3Settings,
        cache: Cache,
        tiers: Vec<Arc<dyn Tier>>,
        counters: Arc<Counters>,
        patience: Duration,
    ) -> Self {
        let local = LocalObjects::new();
        let (lent, buckets) = (RwLock::default(), tokio::sync::Mutex::default());
        Self { s3, cache, counters, hedges: Arc::default(), tiers, local, patience, lent, buckets }
    }

    /// Requests that were sent a second time because the answer was late.
    pub fn hedges(&self) -> &Hedges {
        &self.hedges
    }

    /// Where buckets are that no catalog lends keys for, if that is said.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.s3.endpoint.as_deref()
    }

    /// What catalogs at AWS must be told.
    pub(super) fn account(&self) -> Account {
        Account::new(&self.s3)
    }

    /// What objects are read through.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    async fn bucket(&self, location: &Location) -> Result<Arc<Bucket>, ObjectError> {
        let failed = |why: String| ObjectError::Failed { location: location.clone(), why };
        if location.scheme() != "s3" {
            return Err(failed(format!("no store for {}://", location.scheme())));
        }
        let lent = self.lent_for(location);
        // What is lent may be for several buckets.
        let prefix = lent.as_ref().map(|lent| lent.prefix.clone()).unwrap_or_default();
        let key = (location.authority().to_owned(), prefix);
        let mut buckets = self.buckets.lock().await;
        if let Some(bucket) = buckets.get(&key) {
            return Ok(bucket.clone());
        }
        let (url, counters) = (format!("s3://{}", location.authority()), self.counters.clone());
        let store = match &lent {
            None => open_configured(&url, &self.s3, counters).await,
            Some(lent) => open_borrowing(&url, &self.reached(&lent.s3), lent.source.clone(), counters).await,
        };
        let store = store.map_err(|e| failed(e.to_string()))?;
        let asked = Hedged::new(Arc::new(StoreOrigin::new(store.clone())), self.hedges.clone());
        let asked = Arc::new(asked);
        let origin = Arc::new(Chain::new(self.tiers.clone(), asked.clone()));
        let files = OriginFiles::new(self.cache.clone(), store.clone(), origin, FRESH);
        let files = Arc::new(files.hedged_by(asked).patient_for(self.patience));
        let bucket = Arc::new(Bucket { store, files });
        buckets.insert(key, bucket.clone());
        Ok(bucket)
    }

    /// What a catalog lends for a table.
    pub(super) fn lend(&self, lent: Vec<Lent>) {
        let mut all = self.lent.write();
        for lent in lent {
            match all.get(&lent.prefix) {
                // Who reads has the client of the one before.
                Some(before) => before.source.join(&lent.source),
                None => drop(all.insert(lent.prefix.clone(), lent)),
            }
        }
    }

    /// The credentials that were lent for a location: the longest prefix is the one.
    fn lent_for(&self, location: &Location) -> Option<Lent> {
        let all = self.lent.read();
        let lent = all.values().filter(|lent| covers(&lent.prefix, location.as_str()));
        lent.max_by_key(|lent| lent.prefix.len()).cloned()
    }

    /// Where a store is: as the settings say, which may know a way that the catalog does not, else as it says.
    fn reached(&self, lent: &S3Settings) -> S3Settings {
        let own = self.s3.clone();
        S3Settings {
            endpoint: own.endpoint.or_else(|| lent.endpoint.clone()),
            region: own.region.or_else(|| lent.region.clone()),
            path_style: own.path_style.or(lent.path_style),
            profile: own.profile,
        }
    }

    /// An object, to be read through the cache. Its size must be the one that the table states, if it states one.
    ///
    /// # Errors
    /// As for [`Objects::head`]; [`ObjectError::Failed`] if it has another size.
    pub async fn blob(&self, location: &Location, size: Option<u64>) -> Result<Blob, ObjectError> {
        let failed = |why: String| ObjectError::Failed { location: location.clone(), why };
        let bucket = self.bucket(location).await?;
        let mut id = match size {
            // What tiers have is cheaper than what comes with the answer.
            Some(size) if self.tiers.is_empty() => {
                let found =
                    bucket.files.stated(location.key(), size).await.map_err(|e| told(location, &e))?;
                found.ok_or_else(|| ObjectError::NotFound { location: location.clone() })?
            }
            _ => self.identity(&bucket, location).await?,
        };
        if size.is_some_and(|size| size != id.size) {
            // What is known of it may be old.
            bucket.files.forget(location.key());
            id = self.identity(&bucket, location).await?;
        }
        if let Some(size) = size.filter(|size| *size != id.size) {
            return Err(failed(format!("the table says that it has {size} bytes, it has {}", id.size)));
        }
        bucket.files.blob(&id).map_err(|e| self.failed(location, &e))
    }

    async fn identity(&self, bucket: &Bucket, location: &Location) -> Result<ObjectId, ObjectError> {
        let found = bucket.files.object(location.key()).await.map_err(|e| told(location, &e))?;
        found.map(|(id, _)| id).ok_or_else(|| ObjectError::NotFound { location: location.clone() })
    }

    /// It turned out to be another object by now. What is read of the one before is an error from now on; whoever
    /// opens it gets the new one.
    pub async fn changed(&self, location: &Location) {
        if let Ok(bucket) = self.bucket(location).await {
            bucket.files.forget(location.key());
        }
    }

    /// What the cache says of an object that it could not bring. If that is another one by now, it is known from now on.
    pub(super) async fn gone_wrong(&self, location: &Location, error: &CacheError) -> ObjectError {
        if matches!(error, CacheError::Fetch(FetchError::Changed { .. })) {
            self.changed(location).await;
        }
        self.failed(location, error)
    }

    /// Each object below a folder may be another one by now.
    pub(super) async fn changed_below(&self, folder: &Location) {
        let prefix = match folder.key().trim_end_matches('/') {
            "" => String::new(),
            key => format!("{key}/"),
        };
        let buckets = self.buckets.lock().await;
        let of_it = buckets.iter().filter(|((authority, _), _)| authority == folder.authority());
        of_it.for_each(|(_, bucket)| bucket.files.forget_below(&prefix));
    }

    /// What is known of an object, and what the cache has of it, is forgotten; whether there was anything.
    pub async fn forget(&self, location: &Location, id: Option<&ObjectId>) -> bool {
        self.changed(location).await;
        match id {
            Some(id) => self.cache.remove_object(id).await != Removed::Absent,
            None => false,
        }
    }

    /// What the cache says of an object.
    pub(super) fn failed(&self, location: &Location, error: &CacheError) -> ObjectError {
        ObjectError::Failed { location: location.clone(), why: error.to_string() }
    }
}

/// Whether what is lent for a prefix is for a location. It ends between two names: `s3://b/t` is not for `s3://b/t2`.
fn covers(prefix: &str, location: &str) -> bool {
    let ends = |rest: &str| {
        prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/') || rest.starts_with("://")
    };
    prefix.is_empty() || location.strip_prefix(prefix).is_some_and(ends)
}

fn told(location: &Location, error: &RemoteError) -> ObjectError {
    let (location, why) = (location.clone(), error.to_string());
    match error {
        RemoteError::NotFound { .. } => ObjectError::NotFound { location },
        RemoteError::Denied { .. } => ObjectError::Denied { location, why },
        RemoteError::Unavailable { .. } => ObjectError::Unavailable { location, why },
        _ => ObjectError::Failed { location, why },
    }
}

async fn read(
    bucket: &Bucket,
    location: &Location,
    range: Option<Range<u64>>,
    limit: u64,
) -> Result<Bytes, ObjectError> {
    let error = |e: RemoteError| told(location, &e);
    let mut download = bucket.store.download(location.key(), range).await.map_err(error)?;
    if download.length > limit {
        return Err(ObjectError::TooLarge { location: location.clone(), size: download.length, limit });
    }
    let mut bytes = BytesMut::with_capacity(download.length as usize);
    while let Some(chunk) = download.body.next().await {
        bytes.extend_from_slice(&chunk.map_err(error)?);
    }
    if bytes.len() as u64 != download.length {
        let why = format!("it ended after {} of {} bytes", bytes.len(), download.length);
        return Err(ObjectError::Unavailable { location: location.clone(), why });
    }
    Ok(bytes.freeze())
}

#[async_trait]
impl Objects for Stores {
    async fn get(&self, location: &Location, limit: u64) -> Result<Bytes, ObjectError> {
        if location.file_path().is_some() {
            return self.local.get(location, limit).await;
        }
        let bucket = self.bucket(location).await?;
        read(&bucket, location, None, limit).await
    }

    async fn get_range(&self, location: &Location, range: Range<u64>) -> Result<Bytes, ObjectError> {
        if location.file_path().is_some() {
            return self.local.get_range(location, range).await;
        }
        let (bucket, length) = (self.bucket(location).await?, range.end - range.start);
        let bytes = read(&bucket, location, Some(range), length).await?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        let why = format!("the range ended after {} of {length} bytes", bytes.len());
        Err(ObjectError::Failed { location: location.clone(), why })
    }

    async fn head(&self, location: &Location) -> Result<ObjectInfo, ObjectError> {
        if location.file_path().is_some() {
            return self.local.head(location).await;
        }
        let bucket = self.bucket(location).await?;
        let properties = bucket.store.head(location.key()).await.map_err(|e| told(location, &e))?;
        Ok(ObjectInfo { size: properties.length, etag: Some(properties.tag.0) })
    }

    async fn list(
        &self,
        prefix: &Location,
        by_folder: bool,
        after: Option<&str>,
    ) -> Result<Listing, ObjectError> {
        if prefix.file_path().is_some() {
            return self.local.list(prefix, by_folder, after).await;
        }
        let (bucket, mut listing) = (self.bucket(prefix).await?, Listing::default());
        let root = format!("s3://{}/", prefix.authority());
        let location = |key: &str| format!("{root}{key}").parse::<Location>().ok();
        let mut after = after.map(str::to_owned);
        loop {
            let (objects, next) = match by_folder {
                true => {
                    let level = bucket.store.level(prefix.key(), after.as_deref()).await;
                    let level = level.map_err(|e| told(prefix, &e))?;
                    listing.folders.extend(level.folders.iter().filter_map(|folder| location(folder)));
                    (level.objects, level.next)
                }
                false => {
                    let page = bucket.store.list(prefix.key(), after.as_deref()).await;
                    let page = page.map_err(|e| told(prefix, &e))?;
                    let next = page.objects.last().filter(|_| page.more).map(|last| last.key.clone());
                    (page.objects, next)
                }
            };
            let objects = objects.iter();
            listing.objects.extend(objects.filter_map(|one| Some((location(&one.key)?, one.length))));
            after = next;
            if after.is_none() || listing.folders.len() + listing.objects.len() >= LISTED_MAX {
                return Ok(Listing { next: after, ..listing });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn what_is_lent_ends_between_two_names() {
        for (prefix, inside, outside) in [
            ("s3://lake", "s3://lake/k", "s3://lake2/k"),
            ("s3://lake/wh/t", "s3://lake/wh/t/data/f", "s3://lake/wh/t2/data/f"),
            ("s3://lake/wh/", "s3://lake/wh/t", "s3://lake/wh"),
            ("s3", "s3://any/k", "s3x://any/k"),
        ] {
            assert!(covers(prefix, inside) && !covers(prefix, outside), "{prefix}");
        }
        assert!(covers("", "s3://any/k") && covers("s3://lake/wh/t", "s3://lake/wh/t"));
    }
}
