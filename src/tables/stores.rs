//! [`Stores`]: the buckets that tables lie in, opened when they are first named.
use super::aws::Account;
use super::lent::{Lent, covers};
use crate::cache::{
    Blob, Cache, CacheError, Chain, FetchError, Hedged, Hedges, ObjectId, OriginFiles, Removed, StoreOrigin,
    Tier, Versions,
};
use crate::config::S3Settings;
use crate::error::Error;
use crate::remote::{Counters, RemoteError, Store, open_borrowing, open_configured};
use crate::sync::{Mutex, RwLock};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use icecache_iceberg::objects::{Listing, LocalObjects, ObjectInfo};
use icecache_iceberg::{Location, ObjectError, Objects, TableError};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// The most entries of one part of a listing by folder.
const LISTED_MAX: usize = 1000;
/// Files of tables never change: what one is is believed for so long.
const FRESH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// So long it is good enough to know what the cache had: many buckets may be opened one after the other.
const LOOKED: Duration = Duration::from_secs(60);

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
    lent: RwLock<BTreeMap<String, Borrowed>>,
    /// By authority, and by the prefix that credentials were lent for; opened by who comes first.
    buckets: Mutex<HashMap<(String, String), Opening>>,
    /// What the cache had of all buckets, and when.
    versions: tokio::sync::Mutex<Option<(Instant, Arc<Versions>)>>,
}

/// A bucket that is open, or is being opened.
type Opening = Arc<OnceCell<Arc<Bucket>>>;

/// Whether the catalog has a table no longer.
pub(super) type IsDropped = Arc<Mutex<bool>>;

/// What is lent, and for which tables, each by the address of what is held weakly.
struct Borrowed {
    lent: Lent,
    tables: HashMap<usize, Weak<Mutex<bool>>>,
}

impl Borrowed {
    /// Whether any of them is still there.
    fn is_used(&mut self) -> bool {
        self.tables.retain(|_, table| table.upgrade().is_some_and(|is_dropped| !*is_dropped.lock()));
        !self.tables.is_empty()
    }
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
        let (lent, buckets, versions) = (RwLock::default(), Mutex::default(), tokio::sync::Mutex::default());
        Self { s3, cache, counters, hedges: Arc::default(), tiers, local, patience, lent, buckets, versions }
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
        // None of the others waits for what is asked while one is opened.
        let cell = self.buckets.lock().entry(key_of(location, lent.as_ref())).or_default().clone();
        let opened = cell.get_or_try_init(|| self.open(location.authority(), lent.as_ref())).await;
        opened.cloned().map_err(|e| failed(e.to_string()))
    }

    async fn open(&self, authority: &str, lent: Option<&Lent>) -> Result<Arc<Bucket>, Error> {
        let (url, counters) = (format!("s3://{authority}"), self.counters.clone());
        let store = match lent {
            None => open_configured(&url, &self.s3, counters).await,
            Some(lent) => open_borrowing(&url, &self.reached(&lent.s3), lent.source.clone(), counters).await,
        }?;
        let asked = Hedged::new(Arc::new(StoreOrigin::new(store.clone())), self.hedges.clone());
        let asked = Arc::new(asked);
        let origin = Arc::new(Chain::new(self.tiers.clone(), asked.clone()));
        // What is lent for a prefix serves nothing else: each has what it knows of objects for itself.
        let prefix = lent.and_then(|lent| lent.prefix.strip_prefix(&url)).unwrap_or_default();
        let (versions, prefix) = (self.versions().await, prefix.trim_start_matches('/'));
        let files = OriginFiles::below(self.cache.clone(), store.clone(), origin, FRESH, (&versions, prefix));
        let files = Arc::new(files.hedged_by(asked).patient_for(self.patience));
        Ok(Arc::new(Bucket { store, files }))
    }

    /// What the cache has, or had a moment ago.
    async fn versions(&self) -> Arc<Versions> {
        let mut looked = self.versions.lock().await;
        if let Some((at, versions)) = &*looked
            && at.elapsed() < LOOKED
        {
            return versions.clone();
        }
        let cache = self.cache.clone();
        let versions = tokio::task::spawn_blocking(move || Versions::of(&cache)).await;
        let versions = Arc::new(versions.unwrap_or_default());
        *looked = Some((Instant::now(), versions.clone()));
        versions
    }

    /// The bucket of a location, if anybody has asked for anything of it.
    fn opened(&self, location: &Location) -> Option<Arc<Bucket>> {
        let key = key_of(location, self.lent_for(location).as_ref());
        self.buckets.lock().get(&key)?.get().cloned()
    }

    /// What a catalog lends for a table.
    ///
    /// # Errors
    /// Another catalog lends something for the same locations, of another store.
    pub(super) fn lend(&self, table: &IsDropped, lent: Vec<Lent>) -> Result<(), TableError> {
        if lent.is_empty() || *table.lock() {
            return Ok(());
        }
        let mut all = self.lent.write();
        lent.iter().try_for_each(|lent| self.is_of_one_store(&mut all, lent))?;
        for lent in lent {
            let borrowed = match all.entry(lent.prefix.clone()) {
                Entry::Vacant(none) => none.insert(Borrowed { lent, tables: HashMap::new() }),
                Entry::Occupied(before) => {
                    // Who reads has the client of the one before.
                    before.get().lent.source.join(&lent.source);
                    before.into_mut()
                }
            };
            borrowed.tables.insert(Arc::as_ptr(table) as usize, Arc::downgrade(table));
        }
        Ok(())
    }

    /// A location is one path, and one object: whoever reads it cannot say of which of two stores.
    fn is_of_one_store(&self, all: &mut BTreeMap<String, Borrowed>, lent: &Lent) -> Result<(), TableError> {
        let store = |lent: &Lent| {
            let endpoint = self.reached(&lent.s3).endpoint;
            endpoint.map_or_else(|| "AWS".to_owned(), |at| at.trim_end_matches('/').to_owned())
        };
        let above = prefixes(&lent.prefix).filter(|prefix| all.contains_key(*prefix)).map(str::to_owned);
        let below = format!("{}/", lent.prefix.trim_end_matches('/'));
        let below = all
            .range(below.clone()..)
            .map(|(prefix, _)| prefix.clone())
            .take_while(|p| p.starts_with(&below));
        let near: Vec<String> = above.chain(below).collect();
        for prefix in near {
            let Some(before) = all.get_mut(&prefix) else { continue };
            let (was, is) = (store(&before.lent), store(lent));
            // What one catalog calls its own store is its own affair.
            if was != is && !before.lent.source.have_a_catalog_of(&lent.source) && before.is_used() {
                let at = &lent.prefix;
                return Err(TableError::Unsupported {
                    what: format!(
                        "{at} in two stores, as two catalogs have it ({is}, and for {prefix} {was}),"
                    ),
                    advice: "give one of the catalogs a mount of its own; or, if both stores are one, name it by \
                             --s3-endpoint",
                });
            }
        }
        Ok(())
    }

    /// Whether something was lent for what lies below a location, or for itself.
    pub(super) fn is_above_lent(&self, location: &Location) -> bool {
        let (all, at) = (self.lent.read(), location.as_str().trim_end_matches('/'));
        all.contains_key(at)
            || all.range(format!("{at}/")..).next().is_some_and(|(prefix, _)| covers(at, prefix))
    }

    /// Where something was lent below a folder, if nothing was lent for the folder itself. Who is lent something looks at no
    /// more than that: the bucket may be in a store that only the catalog knows, or none of ours to look into.
    pub(super) fn lent_below(&self, folder: &Location) -> Vec<Location> {
        if self.lent_for(folder).is_some() {
            return Vec::new();
        }
        let (all, at) = (self.lent.read(), format!("{}/", folder.as_str().trim_end_matches('/')));
        let below =
            all.range(at.clone()..).map(|(prefix, _)| prefix).take_while(|prefix| prefix.starts_with(&at));
        below.filter_map(|prefix| prefix.trim_end_matches('/').parse().ok()).collect()
    }

    /// What was lent for tables that are gone by now, and for no other, opens nothing any more, and what is known of their
    /// objects is forgotten.
    pub(super) fn give_back(&self) {
        let mut all = self.lent.write();
        let gone = all.extract_if(.., |_, borrowed| !borrowed.is_used());
        let gone: HashSet<String> = gone.map(|(prefix, _)| prefix).collect();
        drop(all);
        if !gone.is_empty() {
            self.buckets.lock().retain(|(_, prefix), _| !gone.contains(prefix));
        }
    }

    /// The credentials that were lent for a location: the longest prefix is the one.
    fn lent_for(&self, location: &Location) -> Option<Lent> {
        let all = self.lent.read();
        if all.is_empty() {
            return None;
        }
        prefixes(location.as_str()).find_map(|prefix| Some(all.get(prefix)?.lent.clone()))
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
    pub fn changed(&self, location: &Location) {
        if let Some(bucket) = self.opened(location) {
            bucket.files.forget(location.key());
        }
    }

    /// What the cache says of an object that it could not bring. If that is another one by now, it is known from now on.
    pub(super) fn gone_wrong(&self, location: &Location, error: &CacheError) -> ObjectError {
        if matches!(error, CacheError::Fetch(FetchError::Changed { .. })) {
            self.changed(location);
        }
        self.failed(location, error)
    }

    /// Each object below a folder may be another one by now.
    pub(super) fn changed_below(&self, folder: &Location) {
        let prefix = match folder.key().trim_end_matches('/') {
            "" => String::new(),
            key => format!("{key}/"),
        };
        let buckets = self.buckets.lock();
        let of_it = buckets.iter().filter(|((authority, _), _)| authority == folder.authority());
        let of_it: Vec<Arc<Bucket>> = of_it.filter_map(|(_, bucket)| bucket.get().cloned()).collect();
        drop(buckets);
        of_it.iter().for_each(|bucket| bucket.files.forget_below(&prefix));
    }

    /// What is known of an object, and what the cache has of it, is forgotten; whether there was anything.
    pub async fn forget(&self, location: &Location, id: Option<&ObjectId>) -> bool {
        self.changed(location);
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

/// What is lent may be for several buckets.
fn key_of(location: &Location, lent: Option<&Lent>) -> (String, String) {
    let prefix = lent.map(|lent| lent.prefix.clone()).unwrap_or_default();
    (location.authority().to_owned(), prefix)
}

/// What may be lent for a location, the longest first. It ends between two names: `s3://b/t` is not for `s3://b/t2`.
fn prefixes(location: &str) -> impl Iterator<Item = &str> {
    let scheme = location.find("://").unwrap_or_default();
    let slashes = location.rmatch_indices('/').flat_map(|(at, _)| [at + 1, at]);
    let ends = std::iter::once(location.len()).chain(slashes).chain([scheme, 0]);
    ends.map(|end| &location[..end])
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
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::super::lent::lent;
    use super::super::lent::tests::table;
    use super::*;
    use crate::cache::Config;
    use icecache_iceberg::StorageCredential;

    #[test]
    fn what_is_lent_ends_between_two_names() {
        for (prefix, inside, outside) in [
            ("s3://lake", "s3://lake/k", "s3://lake2/k"),
            ("s3://lake/wh/t", "s3://lake/wh/t/data/f", "s3://lake/wh/t2/data/f"),
            ("s3://lake/wh/", "s3://lake/wh/t", "s3://lake/wh"),
            ("s3", "s3://any/k", "s3x://any/k"),
        ] {
            let covers = |location| prefixes(location).any(|own| own == prefix);
            assert!(covers(inside) && !covers(outside), "{prefix}");
        }
        let all: Vec<&str> = prefixes("s3://b/t/f").collect();
        assert!(all.is_sorted_by(|a, b| a.len() >= b.len()) && all[0] == "s3://b/t/f", "{all:?}");
        assert_eq!(all.last(), Some(&""));
    }

    /// Two catalogs may have a bucket of one name, each in a store of its own.
    #[tokio::test]
    async fn a_location_is_of_one_store() {
        let tables = [IsDropped::default(), IsDropped::default()];
        let catalogs = [table(&[]).0, table(&[]).0];
        let named = |n: usize, prefix: &str, at: &str| {
            let of_it = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            let keys = [("s3.access-key-id", "k"), ("s3.secret-access-key", "s"), ("s3.endpoint", at)];
            let properties = keys.map(of_it).to_vec();
            let credential = StorageCredential { prefix: prefix.to_owned(), properties };
            lent(&catalogs[n], &table(&[credential]).1, &[], false)
        };
        for (own, is_refused) in [(None, true), (Some("http://own"), false)] {
            let s3 = S3Settings { endpoint: own.map(str::to_owned), ..S3Settings::default() };
            let dir = tempfile::tempdir().expect("a folder");
            let cache = Cache::open(Config::new(dir.path())).await.expect("a cache");
            let stores = Stores::new(s3, cache, Vec::new(), Arc::default(), Duration::from_secs(1));
            let lend = |n: usize, prefix: &str, at: &str| stores.lend(&tables[n], named(n, prefix, at));
            lend(0, "s3://b/db/t/", "http://a").expect("is the first");
            for near in ["s3://b/db/t/", "s3://b/db/t", "s3://b", "s3://b/db/t/data/"] {
                assert_eq!(lend(1, near, "http://b").is_err(), is_refused, "{near}");
            }
            lend(1, "s3://b/db/t/", "http://a/").expect("the same store");
            lend(1, "s3://b/db/t2/", "http://b").expect("another place");
        }
    }

    /// What is lent for a table is given back when its catalog has it no longer.
    #[test]
    fn what_is_lent_is_used_as_long_as_one_table_is_there() {
        let lent = Lent { prefix: "s3://b/".into(), s3: S3Settings::default(), source: Arc::default() };
        let mut borrowed = Borrowed { lent, tables: HashMap::new() };
        let (a, b) = (IsDropped::default(), IsDropped::default());
        for table in [&a, &b, &a] {
            borrowed.tables.insert(Arc::as_ptr(table) as usize, Arc::downgrade(table));
        }
        *a.lock() = true;
        assert!(borrowed.is_used() && borrowed.tables.len() == 1);
        drop(b);
        assert!(!borrowed.is_used());
    }
}
