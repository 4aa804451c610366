//! The folder `objects`, for the [`View`]: what tables name, and what buckets have.
use super::lent::covers;
use super::slot::Slot;
use super::view::{Found, Kind, Listed, Stays, View, ViewError};
use crate::sync::Mutex;
use icecache_iceberg::mapping::OBJECTS;
use icecache_iceberg::{Location, ObjectError, Objects};
use lru::LruCache;
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a part of a long name ends in.
const GOES_ON: &str = "~+";
/// The most entries of a listing of objects that no table names: each takes memory, and a thousand of them a request.
const LISTED_MAX: usize = 100_000;
/// So long a folder that was listed is believed to be there.
const SEEN: Duration = Duration::from_secs(5);
/// Of so many folders it is remembered what was listed.
const SEEN_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Folders of buckets that somebody has just seen in a listing: who looks at each of the names, as `ls -F` and `find` do, need
/// not ask for each of them. Owner of its lock.
#[derive(Debug)]
pub(super) struct Seen(Mutex<LruCache<String, (Instant, HashSet<String>)>>);

impl Default for Seen {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(SEEN_MAX)))
    }
}

impl Seen {
    /// These are the names in a folder, in order; one that an object has, too, is that object.
    fn see(&self, path: &str, names: &[Listed]) {
        let same = names.chunk_by(|a, b| a.0 == b.0);
        let folders = same.filter(|same| same.iter().all(|(_, kind)| *kind == Kind::Folder));
        let folders = folders.filter_map(|same| Some(same.first()?.0.clone())).collect();
        self.0.lock().put(path.to_owned(), (Instant::now(), folders));
    }

    /// Whether a path was listed as a folder a moment ago.
    fn has(&self, path: &str) -> bool {
        let Some((folder, name)) = path.rsplit_once('/') else { return false };
        let mut all = self.0.lock();
        all.get(folder).is_some_and(|(at, names)| at.elapsed() < SEEN && names.contains(name))
    }
}

impl View {
    pub(super) async fn find_object(&self, path: &str) -> Result<Option<(Found, Stays)>, ViewError> {
        if let Some(location) = self.lake().mapping().location(path) {
            return self.object(path, location).await;
        }
        let is_folder = self.is_above(path)
            || match self.begun(path).filter(|_| path.ends_with(GOES_ON)) {
                Some(begun) => {
                    let listing = self.lake().stores().list(&begun, true, None).await?;
                    !listing.objects.is_empty() || !listing.folders.is_empty()
                }
                None => false,
            };
        Ok(is_folder.then_some((Found::Folder, Stays::Moment)))
    }

    /// What the keys of all objects of a bucket begin with that have a path below this one.
    fn begun(&self, path: &str) -> Option<Location> {
        let is_bucket = path.matches('/').count() >= 2 && path.starts_with(&format!("{OBJECTS}/s3/"));
        let inside = self.lake().mapping().location(&format!("{path}/-")).filter(|_| is_bucket)?;
        inside.as_str().strip_suffix('-')?.parse().ok()
    }

    /// Whether something known lies below a path, or a bucket may be named next.
    fn is_above(&self, path: &str) -> bool {
        self.lake().known().is_folder(path)
            || path == format!("{OBJECTS}/s3")
            || path.matches('/').count() == 2 && path.starts_with(&format!("{OBJECTS}/s3/"))
    }

    /// Whether a location is the folder of a table, or one above it. What is lent for the table may not open it.
    fn is_above_table(&self, location: &Location) -> bool {
        let is_above = |slot: &Arc<Slot>| {
            let shown = slot.current();
            shown.is_some_and(|shown| {
                covers(location.as_str(), shown.publication.metadata().location.as_str())
            })
        };
        self.lake().stores().is_above_lent(location) || self.lake().slots().iter().any(is_above)
    }

    pub(super) async fn object(
        &self,
        path: &str,
        location: Location,
    ) -> Result<Option<(Found, Stays)>, ViewError> {
        if let Some((location, size)) = self.lake().known().file(path) {
            if let Some(file) = location.file_path()
                && let Ok(there) = std::fs::metadata(file)
                && there.len() != size
            {
                let why = format!("the table says that it has {size} bytes, it has {}", there.len());
                return Err(ObjectError::Failed { location, why }.into());
            }
            return Ok(Some((found(location, size, true), Stays::Ever)));
        }
        if self.lake().known().is_folder(path) {
            return Ok(Some((Found::Folder, Stays::Moment)));
        }
        if location.file_path().is_some() {
            return Ok(None); // of this machine only what a table names
        }
        if self.seen.has(path) || self.is_above_table(&location) {
            return Ok(Some((Found::Folder, Stays::Moment)));
        }
        let stores = self.lake().stores();
        match stores.head(&location).await {
            Ok(info) => return Ok(Some((found(location, info.size, false), Stays::Moment))),
            Err(ObjectError::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let Ok(folder) = format!("{}/", location.as_str()).parse::<Location>() else { return Ok(None) };
        let listing = stores.list(&folder, true, None).await?;
        let is_folder = !listing.objects.is_empty() || !listing.folders.is_empty();
        Ok(is_folder.then_some((Found::Folder, Stays::Moment)))
    }

    pub(super) async fn list_objects(&self, path: &str) -> Result<Vec<Listed>, ViewError> {
        let mut names = self.known(path);
        // A bucket that no table names is looked into only by who names it.
        if let Some(folder) = self.begun(path) {
            let lent = self.lake().stores().lent_below(&folder);
            names.extend(lent.iter().filter_map(|at| self.below(path, at, Kind::Folder)));
            if lent.is_empty() {
                names.extend(self.in_bucket(path, folder).await?);
            }
        }
        names.sort();
        self.seen.see(path, &names);
        names.dedup_by(|a, b| a.0 == b.0);
        Ok(names)
    }

    /// What a bucket has in a folder.
    async fn in_bucket(&self, path: &str, folder: Location) -> Result<Vec<Listed>, ViewError> {
        let (mut names, mut after, mut listed) = (Vec::new(), None, 0);
        loop {
            let listing = self.lake().stores().list(&folder, true, after.as_deref()).await?;
            listed += listing.objects.len() + listing.folders.len();
            if listed > LISTED_MAX {
                // Whoever takes a part of it for all reads too little, and does not know.
                return Err(ViewError::TooMany { folder, most: LISTED_MAX });
            }
            let objects = listing.objects.iter().map(|(at, _)| (at, Kind::File));
            let all = objects.chain(listing.folders.iter().map(|at| (at, Kind::Folder)));
            names.extend(all.filter_map(|(at, kind)| self.below(path, at, kind)));
            after = listing.next;
            if after.is_none() {
                return Ok(names);
            }
        }
    }

    /// What leads from a folder to a location in it.
    fn below(&self, path: &str, at: &Location, kind: Kind) -> Option<Listed> {
        // A folder's location ends in a slash, its path does not.
        let stands = at.as_str().strip_suffix('/').filter(|_| kind == Kind::Folder);
        let at: Location = stands.unwrap_or(at.as_str()).parse().ok()?;
        let own = self.lake().mapping().object_path(&at);
        let below = own.strip_prefix(path)?.strip_prefix('/')?;
        // One part of a long name stands in the other.
        let (name, kind) = below.split_once('/').map_or((below, kind), |(name, _)| (name, Kind::Folder));
        Some((name.to_owned(), kind))
    }
}

fn found(location: Location, size: u64, stated: bool) -> Found {
    match location.file_path() {
        Some(path) => Found::Local(path.into()),
        None => Found::Object { location, size, stated },
    }
}
