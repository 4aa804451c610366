//! [`Lake`]: which tables there are, and which version of each is shown.
use super::known::Known;
use super::stores::Stores;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Mutex, RwLock};
use icecache_iceberg::catalog::{Change, Options};
use icecache_iceberg::publication::LiveFile;
use icecache_iceberg::{
    Catalog, CatalogAddress, CatalogError, Difference, Mapping, Objects, Place, Publication, TableError,
    TableId, Token, difference, mapping,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The names of tables are asked for anew no more often.
const NAMES_FRESH: Duration = Duration::from_secs(1);
/// So many versions of a table stay readable: whoever has opened one goes on with it.
const VERSIONS_KEPT: usize = 16;
/// A table that could not be shown is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// What a lake is made of.
#[derive(Debug)]
pub struct LakeOptions {
    /// Catalogs and single tables.
    pub catalogs: Vec<(CatalogAddress, Options)>,
    /// Where the mount is.
    pub mapping: Mapping,
    /// Where rewritten metadata is kept.
    pub folder: PathBuf,
}

#[derive(Debug)]
struct Named {
    name: String,
    catalog: Arc<dyn Catalog>,
}

/// See the module. Owner of its locks.
#[derive(Debug)]
pub struct Lake {
    catalogs: Vec<Named>,
    stores: Arc<Stores>,
    mapping: Mapping,
    folder: PathBuf,
    names: RwLock<Names>,
    /// When the names were asked for last; held by who asks.
    asked: tokio::sync::Mutex<Option<Instant>>,
    known: Known,
    start: Instant,
}

/// Tables by their paths below the mount, and the folders above them.
#[derive(Debug, Default)]
struct Names {
    tables: BTreeMap<String, Arc<Slot>>,
    folders: BTreeSet<String>,
}

/// A table, whether anybody has looked into it or not. Owner of its locks.
#[derive(Debug)]
pub struct Slot {
    /// Number of its catalog.
    catalog: usize,
    id: TableId,
    path: String,
    /// Held by who publishes.
    turn: tokio::sync::Mutex<()>,
    state: RwLock<State>,
    /// Branches and tags that somebody has looked into: they move with the table.
    references: Mutex<BTreeSet<String>>,
    /// Milliseconds after the start at which it was last looked into.
    used_ms: AtomicU64,
}

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Unopened,
    Shown(Arc<Shown>),
    Failed {
        why: String,
        at: Instant,
    },
}

/// The version of a table that is shown.
#[derive(Debug)]
pub struct Shown {
    /// What is published.
    pub publication: Publication,
    token: Token,
    /// Snapshots whose files are known.
    pub(super) learned: Mutex<BTreeSet<i64>>,
}

/// What became of a table.
#[derive(Debug)]
pub enum Event {
    /// Another version is shown.
    Turned {
        /// Its path below the mount.
        path: String,
        /// What came and went; none if it could not be told.
        difference: Option<Difference>,
    },
    /// The catalog has it no more.
    Dropped {
        /// The path it had.
        path: String,
    },
    /// Its new version cannot be shown; the old one stays.
    Failed {
        /// Its path.
        path: String,
        /// Why.
        why: String,
    },
}

impl Lake {
    /// Opens the catalogs; sends no request.
    ///
    /// # Errors
    /// An address that cannot be used, or two of one name.
    pub fn new(options: LakeOptions, stores: Arc<Stores>) -> Result<Self> {
        let LakeOptions { catalogs, mapping, folder } = options;
        let mut named: Vec<Named> = Vec::new();
        for (address, options) in catalogs {
            if named.iter().any(|other| other.name == address.name) {
                let message = format!("two catalogs have the same name: {}", address.name);
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            let objects: Arc<dyn Objects> = stores.clone();
            let catalog = address.open(&options, objects).map_err(|e| {
                Error::new(ErrorKind::Invalid, format!("cannot use catalog: {address}")).with_source(e)
            })?;
            named.push(Named { name: address.name, catalog });
        }
        let folder = folder.join(mapping.id());
        Ok(Self {
            catalogs: named,
            stores,
            mapping,
            folder,
            names: RwLock::default(),
            asked: tokio::sync::Mutex::default(),
            known: Known::default(),
            start: Instant::now(),
        })
    }

    /// Where objects come from.
    pub fn stores(&self) -> &Arc<Stores> {
        &self.stores
    }

    /// How locations become paths.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    pub(super) fn catalogs(&self) -> usize {
        self.catalogs.len()
    }

    /// Asks all catalogs which tables they have. One that does not answer keeps those that it had.
    ///
    /// # Errors
    /// The first failure; the others were asked all the same.
    pub async fn ask_names(&self) -> Result<(), CatalogError> {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < NAMES_FRESH) {
            return Ok(());
        }
        let mut failed = None;
        for number in 0..self.catalogs.len() {
            if let Err(error) = self.ask_names_of(number).await {
                tracing::warn!(catalog = self.catalogs[number].name, %error, "cannot ask for names of tables");
                failed = failed.or(Some(error));
            }
        }
        *asked = Some(Instant::now());
        failed.map_or(Ok(()), Err)
    }

    async fn ask_names_of(&self, number: usize) -> Result<(), CatalogError> {
        let Named { name, catalog } = &self.catalogs[number];
        let prefix = (self.catalogs.len() > 1).then_some(name.as_str());
        let top = prefix.map_or_else(
            || mapping::TABLES.to_owned(),
            |name| format!("{}/{}", mapping::TABLES, mapping::escape_name(name)),
        );
        let (mut found, mut folders) = (Vec::new(), BTreeSet::from([top.clone()]));
        let mut namespaces = catalog.namespaces().await?;
        namespaces.push(Vec::new()); // tables without any
        for namespace in namespaces {
            let levels = namespace.iter().map(|level| mapping::escape_name(level));
            let mut folder = top.clone();
            for level in levels {
                folder = format!("{folder}/{level}");
                folders.insert(folder.clone());
            }
            match catalog.tables(&namespace).await {
                Ok(tables) => found.extend(tables),
                Err(CatalogError::NotFound { .. }) => {} // it went, or nothing stands at the top
                Err(error) => return Err(error),
            }
        }
        let mut names = self.names.write();
        names.tables.retain(|_, slot| slot.catalog != number || found.contains(&slot.id));
        for id in found {
            let path = self.mapping.table_path(prefix, &id);
            names.tables.entry(path.clone()).or_insert_with(|| Arc::new(Slot::new(number, id, path)));
        }
        let below = format!("{top}/");
        names.folders.retain(|folder| prefix.is_some() && *folder != top && !folder.starts_with(&below));
        names.folders.extend(folders);
        Ok(())
    }

    /// The table at a path, or the one that a path leads into, and the rest of the path.
    pub(super) fn table<'a>(&self, path: &'a str) -> Option<(Arc<Slot>, &'a str)> {
        let names = self.names.read();
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            if let Some(slot) = names.tables.get(&path[..end]) {
                return Some((slot.clone(), path[end..].trim_start_matches('/')));
            }
        }
        None
    }

    /// Whether a path is a folder above tables.
    pub(super) fn is_folder(&self, path: &str) -> bool {
        self.names.read().folders.contains(path)
    }

    /// What stands in a folder above tables.
    pub(super) fn children(&self, folder: &str) -> Vec<String> {
        let names = self.names.read();
        let below = format!("{folder}/");
        let all = names.tables.keys().chain(&names.folders);
        let names: BTreeSet<&str> = all
            .filter_map(|path| path.strip_prefix(&below))
            .map(|rest| rest.split('/').next().unwrap_or(rest))
            .collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// The version of a table that is shown; who comes first publishes it.
    ///
    /// # Errors
    /// Why it cannot be shown.
    pub(super) async fn open(&self, slot: &Slot) -> Result<Arc<Shown>, String> {
        slot.used_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        if let Some(shown) = slot.shown()? {
            return Ok(shown);
        }
        let _turn = slot.turn.lock().await;
        if let Some(shown) = slot.shown()? {
            return Ok(shown);
        }
        match self.publish(slot).await {
            Ok(shown) => {
                *slot.state.write() = State::Shown(shown.clone());
                Ok(shown)
            }
            Err(why) => {
                tracing::warn!(table = %slot.id, why, "a table cannot be shown");
                *slot.state.write() = State::Failed { why: why.clone(), at: Instant::now() };
                Err(why)
            }
        }
    }

    async fn publish(&self, slot: &Slot) -> Result<Arc<Shown>, String> {
        let said = |e: &dyn std::error::Error| e.to_string();
        let catalog = &self.catalogs[slot.catalog].catalog;
        let table = catalog.load(&slot.id).await.map_err(|e| said(&e))?;
        let folder = slot.path.split('/').fold(self.folder.clone(), |folder, name| folder.join(name));
        let place = Place { mapping: self.mapping.clone(), path: slot.path.clone(), folder };
        let objects: Arc<dyn Objects> = self.stores.clone();
        let publication = Publication::prepare(objects, place, &table).await.map_err(|e| said(&e))?;
        publication.publish().await.map_err(|e| said(&e))?;
        let wanted = slot.references.lock().clone();
        for name in wanted {
            match publication.reference(&name).await {
                Ok(_) => {}
                Err(TableError::NoSuch { .. }) => drop(slot.references.lock().remove(&name)),
                Err(e) => return Err(said(&e)),
            }
        }
        if let Some(current) = publication.metadata().current_snapshot {
            self.learn(&publication, &publication.files(current).await.map_err(|e| said(&e))?);
        }
        let learned = Mutex::new(publication.metadata().current_snapshot.into_iter().collect());
        Ok(Arc::new(Shown { publication, token: table.token, learned }))
    }

    /// Remembers files: what they are called below the mount.
    pub(super) fn learn(&self, publication: &Publication, files: &[LiveFile]) {
        let own = |file: &LiveFile| publication.data_path(&file.location);
        let path = &publication.place().path;
        self.known.add(files.iter().flat_map(|file| {
            let object = self.mapping.object_path(&file.location);
            let own = own(file).map(|data| format!("{path}/{data}"));
            [Some(object), own].into_iter().flatten().map(|path| (path, file.location.clone(), file.size))
        }));
    }

    /// Tables that were looked into, and how long ago the last was.
    pub(super) fn watched(&self, catalog: usize) -> (Vec<(TableId, Token)>, Option<Duration>) {
        let names = self.names.read();
        let slots = names.tables.values().filter(|slot| slot.catalog == catalog);
        let (mut known, mut last) = (Vec::new(), None);
        for slot in slots {
            let State::Shown(shown) = &*slot.state.read() else { continue };
            known.push((slot.id.clone(), shown.token.clone()));
            last = last.max(Some(slot.used_ms.load(Ordering::Relaxed)));
        }
        let now = self.start.elapsed().as_millis() as u64;
        (known, last.map(|ms| Duration::from_millis(now.saturating_sub(ms))))
    }

    /// Asks a catalog what has changed of what is shown, and shows it. The events, in order.
    ///
    /// # Errors
    /// The catalog does not answer: what is shown stays.
    pub(super) async fn turn(&self, number: usize) -> Result<Vec<Event>, CatalogError> {
        let (known, _) = self.watched(number);
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let changes = self.catalogs[number].catalog.poll(&known).await?;
        let mut events = Vec::new();
        for (id, error) in changes.failed {
            tracing::debug!(table = %id, %error, "cannot ask whether a table has changed");
        }
        for change in changes.changes {
            let (Change::Changed(id) | Change::Dropped(id)) = &change;
            let slot =
                self.names.read().tables.values().find(|s| s.catalog == number && s.id == *id).cloned();
            let Some(slot) = slot else { continue };
            events.push(match change {
                Change::Changed(_) => self.turn_over(&slot).await,
                Change::Dropped(_) => {
                    self.names.write().tables.remove(&slot.path);
                    Event::Dropped { path: slot.path.clone() }
                }
            });
        }
        Ok(events)
    }

    async fn turn_over(&self, slot: &Slot) -> Event {
        let _turn = slot.turn.lock().await;
        let old = match &*slot.state.read() {
            State::Shown(shown) => Some(shown.clone()),
            State::Unopened | State::Failed { .. } => None,
        };
        match self.publish(slot).await {
            Ok(new) => {
                *slot.state.write() = State::Shown(new.clone());
                let difference = match &old {
                    Some(old) => difference(&old.publication, &new.publication).await.ok(),
                    None => None,
                };
                if let Err(error) = new.publication.sweep(VERSIONS_KEPT).await {
                    tracing::warn!(table = %slot.id, %error, "older versions could not be removed");
                }
                Event::Turned { path: slot.path.clone(), difference }
            }
            Err(why) => Event::Failed { path: slot.path.clone(), why },
        }
    }
}

impl Slot {
    fn new(catalog: usize, id: TableId, path: String) -> Self {
        Self {
            catalog,
            id,
            path,
            turn: tokio::sync::Mutex::default(),
            state: RwLock::default(),
            references: Mutex::default(),
            used_ms: AtomicU64::new(0),
        }
    }

    fn shown(&self) -> Result<Option<Arc<Shown>>, String> {
        match &*self.state.read() {
            State::Shown(shown) => Ok(Some(shown.clone())),
            State::Failed { why, at } if at.elapsed() < TRY_AGAIN => Err(why.clone()),
            State::Unopened | State::Failed { .. } => Ok(None),
        }
    }

    /// From now on this branch or tag moves with the table.
    pub(super) fn follow(&self, reference: &str) -> bool {
        self.references.lock().insert(reference.to_owned())
    }
}
