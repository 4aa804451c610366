//! [`Lake`]: which tables there are, and which version of each is shown.
use super::dropped::Dropped;
use super::feed::Feed;
use super::held::Held;
use super::hinted::{HintCounts, Hinted};
use super::keeper::Keeper;
use super::known::{Known, NamedFile};
use super::names::{Asking, Names};
use super::pins::Pins;
use super::remembered::{Remembered, identity};
use super::slot::{Brought, Shown, Slot, State};
use super::stores::Stores;
use super::tracker::LATELY;
use super::turning::Turning;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Mutex, RwLock};
use icecache_iceberg::catalog::Options;
use icecache_iceberg::publication::{LiveFile, Retention};
use icecache_iceberg::{
    Catalog, CatalogAddress, CatalogError, Location, Mapping, Objects, Publication, TableId, Token,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What a lake is made of.
#[derive(Debug)]
pub struct LakeOptions {
    /// Catalogs and single tables.
    pub catalogs: Vec<(CatalogAddress, Options)>,
    /// Where the mount is.
    pub mapping: Mapping,
    /// Where rewritten metadata is kept.
    pub folder: PathBuf,
    /// Which versions of a table stay readable.
    pub retention: Retention,
    /// What a catalog or a store has not brought within that time does not come.
    pub patience: Duration,
}

#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    /// What it is called where it is remembered.
    pub(super) identity: String,
    pub(super) catalog: Arc<dyn Catalog>,
    heard: Mutex<Heard>,
    pub(super) asking: Asking,
    /// What is left on the disk of tables that it has not was looked for.
    pub(super) is_looked_through: AtomicBool,
    /// When somebody looked into one of its tables last, in milliseconds after the start.
    used_ms: AtomicU64,
    /// Somebody looks where nobody had looked lately.
    pub(super) wanted: Notify,
    /// Somebody says that its tables have changed.
    pub(super) hinted: Hinted,
}

/// When a catalog answered last, and why it does not now.
#[derive(Debug, Default)]
struct Heard {
    at: Option<Instant>,
    error: Option<String>,
}

impl Named {
    /// Why it does not answer now.
    pub(super) fn error(&self) -> Option<String> {
        self.heard.lock().error.clone()
    }

    /// It was asked, and has said nothing so far.
    pub(super) fn doubt_if_silent(&self) {
        let mut heard = self.heard.lock();
        if heard.at.is_none() && heard.error.is_none() {
            heard.error = Some("no answer so far".to_owned());
        }
    }

    /// It has answered, or not.
    pub(super) fn hear<T>(&self, answer: Result<T, CatalogError>) -> Result<T, CatalogError> {
        let mut heard = self.heard.lock();
        match &answer {
            Ok(_) => *heard = Heard { at: Some(Instant::now()), error: None },
            Err(error) => heard.error = Some(error.to_string()),
        }
        answer
    }
}

/// What the kernel may know is no longer so.
#[derive(Debug, Clone, Copy)]
pub enum Turned<'a> {
    /// What stands at a path below the mount, and below it, may be something else.
    Below(&'a str),
    /// At each of these paths stands another file.
    Files(&'a [String]),
}

/// Who is told of it.
type OnTurn = Box<dyn Fn(Turned<'_>) + Send + Sync>;

/// See the module. Owner of its locks.
pub struct Lake {
    pub(super) catalogs: Vec<Named>,
    stores: Arc<Stores>,
    mapping: Mapping,
    /// Where rewritten metadata is kept.
    pub(super) folder: PathBuf,
    pub(super) retention: Retention,
    pub(super) names: RwLock<Names>,
    /// What is known of a catalog that is away.
    pub(super) remembered: Arc<Remembered>,
    known: Known,
    feed: Feed,
    pub(super) hints: HintCounts,
    /// What is to stay in the cache.
    pub(super) pins: Pins,
    /// What is held because of them.
    pub(super) held: Held,
    /// Who brings what is to be there.
    pub(super) keeper: Keeper,
    /// What is to be turned over.
    pub(super) turning: Turning,
    /// What is to be cleared away.
    pub(super) dropped: Dropped,
    /// What a catalog or a store has not brought within that time does not come.
    pub(super) patience: Duration,
    /// Files that were brought, and that nobody has read since.
    pub(super) brought: Mutex<HashMap<Location, Brought>>,
    on_turn: OnceLock<OnTurn>,
    start: Instant,
}

impl std::fmt::Debug for Lake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lake").field("catalogs", &self.catalogs).finish_non_exhaustive()
    }
}

impl Lake {
    /// Opens the catalogs; sends no request.
    ///
    /// # Errors
    /// An address that cannot be used, or two of one name; a list of pins that cannot be read.
    pub fn new(options: LakeOptions, stores: Arc<Stores>) -> Result<Self> {
        let LakeOptions { catalogs, mapping, folder, retention, patience } = options;
        let mut named: Vec<Named> = Vec::new();
        let account = Arc::new(stores.account());
        for (address, options) in catalogs {
            if named.iter().any(|other| other.name == address.name) {
                let message = format!("two catalogs have the same name: {}", address.name);
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            let objects: Arc<dyn Objects> = stores.clone();
            let catalog = address.open_with(&options, objects, account.clone()).map_err(|e| {
                Error::new(ErrorKind::Invalid, format!("cannot use catalog: {address}")).with_source(e)
            })?;
            named.push(Named {
                identity: identity(&address, &options, stores.endpoint()),
                name: address.name,
                catalog,
                heard: Mutex::default(),
                asking: Asking::default(),
                is_looked_through: AtomicBool::new(false),
                used_ms: AtomicU64::new(0),
                wanted: Notify::new(),
                hinted: Hinted::default(),
            });
        }
        let folder = folder.join(mapping.id());
        let pins = Pins::open(&folder)?;
        let remembered = Arc::new(Remembered::new(folder.clone()));
        let lake = Self {
            catalogs: named,
            stores,
            mapping,
            folder,
            retention,
            names: RwLock::default(),
            remembered,
            known: Known::default(),
            feed: Feed::default(),
            hints: HintCounts::default(),
            pins,
            held: Held::default(),
            keeper: Keeper::default(),
            turning: Turning::default(),
            dropped: Dropped::default(),
            patience,
            brought: Mutex::default(),
            on_turn: OnceLock::new(),
            start: Instant::now(),
        };
        lake.remember_names();
        Ok(lake)
    }

    /// Where objects come from.
    pub fn stores(&self) -> &Arc<Stores> {
        &self.stores
    }

    /// How locations become paths.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// What becomes of the tables.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// From now on `told` is told what the kernel may know wrongly; once. It does not wait for the kernel: that may wait
    /// for a look-up which waits for us.
    pub fn on_turn(&self, told: impl Fn(Turned<'_>) + Send + Sync + 'static) {
        let _already = self.on_turn.set(Box::new(told));
    }

    pub(super) fn turned(&self, what: Turned<'_>) {
        if let Some(told) = self.on_turn.get() {
            told(what);
        }
    }

    /// Somebody opens a file.
    pub fn opened(&self, location: &Location) {
        self.brought.lock().remove(location);
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    pub(super) fn catalogs(&self) -> usize {
        self.catalogs.len()
    }

    /// The version of a table that is shown; who comes first publishes it.
    ///
    /// # Errors
    /// Why it cannot be shown.
    pub(super) async fn open(&self, slot: &Slot) -> Result<Arc<Shown>, String> {
        let (catalog, now) = (&self.catalogs[slot.catalog], self.now_ms());
        let own = slot.used_ms.swap(now, Ordering::Relaxed);
        let any = catalog.used_ms.swap(now, Ordering::Relaxed);
        let before = if catalog.catalog.has_one_question() { any } else { own };
        if before == 0 || self.ago(before) >= LATELY {
            catalog.wanted.notify_one(); // it is asked seldom by now
        }
        self.show(slot).await
    }

    /// The same for who does not look into it.
    pub(super) async fn show(&self, slot: &Slot) -> Result<Arc<Shown>, String> {
        if let Some(shown) = slot.shown()? {
            return Ok(shown);
        }
        let _turn = slot.writing.turn.lock().await;
        if let Some(shown) = slot.shown()? {
            return Ok(shown);
        }
        let had_failed = matches!(slot.state(), State::Failed { .. });
        let opened = self.publish_first(slot).await;
        match &opened {
            Ok(_) => {
                if had_failed {
                    self.turned(Turned::Below(&slot.path)); // there is more than ERROR now
                }
                self.catalogs[slot.catalog].wanted.notify_one(); // there is one more to ask about
            }
            Err(why) => {
                tracing::warn!(table = %slot.id, why, "a table cannot be shown");
                slot.set(State::Failed { why: why.clone(), at: Instant::now() });
            }
        }
        opened
    }

    /// Remembers files: what they are called below the mount.
    pub(super) fn learn(&self, publication: &Publication, files: &[LiveFile], are_live: bool) {
        // What lies in a bucket may be written by somebody who must not read the files of this machine.
        let is_here = publication.is_here();
        let files = files.iter().filter(|file| is_here || file.location.file_path().is_none());
        let all = files.flat_map(|file| {
            let paths = self.paths(publication, &file.location);
            paths.into_iter().map(|path| NamedFile {
                path,
                location: file.location.clone(),
                size: file.size,
                partition: file.partition.clone(),
            })
        });
        self.known.add(&publication.place().path, all, are_live);
    }

    /// Remembers the files of this machine that hold statistics: of a bucket nobody needs to.
    pub(super) fn learn_statistics(&self, publication: &Publication) {
        if publication.is_here() {
            let all = publication.metadata().statistics.iter();
            let all = all.map(|(location, size)| NamedFile {
                path: self.mapping.object_path(location),
                location: location.clone(),
                size: *size,
                partition: "".into(),
            });
            self.known.add(&publication.place().path, all, false);
        }
    }

    /// At the places of these files stand others by now, or may: nobody is given what was there before. What the kernel
    /// has of them it is told of by [`Turned::Files`].
    pub(super) fn doubt_files(&self, files: &[LiveFile]) {
        for file in files.iter().filter(|file| file.location.file_path().is_none()) {
            self.stores.changed(&file.location);
        }
    }

    /// The version that is shown has these files no longer.
    pub(super) fn retire<'a>(
        &self,
        publication: &Publication,
        files: impl IntoIterator<Item = &'a LiveFile>,
    ) {
        let paths = files.into_iter().flat_map(|file| self.paths(publication, &file.location));
        self.known.retire(&publication.place().path, paths);
    }

    /// What a file of a table is called below the mount.
    pub(super) fn paths(&self, publication: &Publication, location: &Location) -> Vec<String> {
        let own = publication.data_path(location).map(|data| format!("{}/{data}", publication.place().path));
        [Some(self.mapping.object_path(location)), own].into_iter().flatten().collect()
    }

    /// Forgets of the files of a table what the version that is shown has not, wherever they are.
    pub(super) fn forget_older(&self, table: &str) {
        for (path, location) in self.known.retired(table) {
            self.release(table, &location, path);
        }
    }

    /// A table that is gone names nothing any more: none of its files is what it was. The paths that they had.
    pub(super) fn forget_files(&self, table: &str, folder: Option<&Location>) -> Vec<String> {
        let paths = self.doubt_table(table, folder);
        for (path, location) in self.known.of(table) {
            self.brought.lock().remove(&location);
            self.release(table, &location, path);
        }
        paths
    }

    fn release(&self, table: &str, location: &Location, path: String) {
        let is_own = path.strip_prefix(table).is_some_and(|rest| rest.starts_with("/data/"));
        match location.file_path() {
            // Who has its metadata open finds it at the path of all objects, and there only if it is known.
            Some(_) if !is_own => self.known.retire(table, [path]),
            _ => self.known.release(table, &path),
        }
    }

    /// In the place of a table there may be another one: at all places that it named there may be other files, in its
    /// folder also at those that nobody has heard of. The paths of what it named.
    pub(super) fn doubt_table(&self, table: &str, folder: Option<&Location>) -> Vec<String> {
        if let Some(folder) = folder.filter(|folder| folder.file_path().is_none()) {
            self.stores.changed_below(folder);
        }
        let mut paths = Vec::new();
        for (path, location) in self.known.of(table) {
            if location.file_path().is_none() {
                self.stores.changed(&location);
            }
            paths.push(path);
        }
        paths
    }

    /// Tables that were looked into, and how long ago the last was.
    pub(super) fn watched(&self, catalog: usize) -> (Vec<(TableId, Token)>, Option<Duration>) {
        let names = self.names.read();
        let slots = names.tables.values().filter(|slot| slot.catalog == catalog);
        let (mut known, mut last) = (Vec::new(), None);
        for slot in slots {
            let Some(shown) = slot.current() else { continue };
            known.push((slot.id.clone(), shown.asked_with()));
            last = last.max(slot.used());
        }
        (known, last.map(|ms| self.ago(ms)))
    }

    /// Milliseconds after the start; never 0.
    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    /// How long ago a moment is, given in milliseconds after the start.
    pub(super) fn ago(&self, ms: u64) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(ms))
    }

    /// How many tables there are, are shown, cannot be shown, and are shown while their current version cannot be.
    pub fn count(&self) -> (u64, u64, u64, u64) {
        let (mut known, mut shown, mut failed, mut behind) = (0, 0, 0, 0);
        for slot in self.slots() {
            known += 1;
            match slot.state() {
                State::Unopened => {}
                State::Shown(_) => {
                    shown += 1;
                    behind += u64::from(slot.retry.lock().why().is_some());
                }
                State::Failed { .. } => failed += 1,
            }
        }
        (known, shown, failed, behind)
    }

    /// Each catalog, how long ago it answered last, and why it does not now.
    pub fn heard(&self) -> Vec<(String, Option<Duration>, Option<String>)> {
        let of = |named: &Named| {
            let heard = named.heard.lock();
            (named.name.clone(), heard.at.map(|at| at.elapsed()), heard.error.clone())
        };
        self.catalogs.iter().map(of).collect()
    }

    /// All tables that the catalogs have named.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.names.read().tables.values().cloned().collect()
    }
}
