//! [`Names`]: which tables there are, as the catalogs have said, and when they are asked again.
use super::dropped::folder_of;
use super::lake::{Lake, Named};
use super::slot::{Slot, Writing};
use crate::sync::Mutex;
use icecache_iceberg::catalog::{self, Changes};
use icecache_iceberg::{CatalogError, TableId, Token, mapping};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A catalog is asked no more often.
const FRESH: Duration = Duration::from_secs(1);
/// One that did not answer is asked again after this time.
const AGAIN: Duration = Duration::from_secs(10);
/// Whoever looks at a folder or a name waits no longer for a catalog: what is known is shown.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many paths that have no table any more may be known.
const PATHS_MIN: usize = 1000;

/// Tables by their paths below the mount, and the folders above them.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) tables: BTreeMap<String, Arc<Slot>>,
    folders: BTreeSet<String>,
    /// Who writes at a path, for as long as somebody knows a table of it: one that was dropped may still be at it.
    writing: HashMap<String, Weak<Writing>>,
}

/// The folders above a path.
fn above(path: &str) -> impl Iterator<Item = String> {
    path.match_indices('/').map(|(at, _)| path[..at].to_owned())
}

impl Names {
    /// A table, and the folders above it; what is made for it, if it is new.
    fn add(&mut self, catalog: usize, path: String, id: TableId) -> Option<Arc<Slot>> {
        self.folders.extend(above(&path));
        if self.tables.contains_key(&path) {
            return None;
        }
        let writing = self.writing_at(&path);
        let slot = Arc::new(Slot::new(catalog, id, path.clone(), writing));
        self.tables.insert(path, slot.clone());
        Some(slot)
    }

    /// Who writes at a path.
    pub(super) fn writing_at(&mut self, path: &str) -> Arc<Writing> {
        if self.writing.len() > 2 * self.tables.len() + PATHS_MIN {
            self.writing.retain(|_, writing| writing.strong_count() > 0);
        }
        let writing = self.writing.get(path).and_then(Weak::upgrade).unwrap_or_default();
        self.writing.insert(path.to_owned(), Arc::downgrade(&writing));
        writing
    }
}

/// What stands in the folder of a table, whatever tables there are in a namespace of its name.
const OWN: [&str; 6] = ["ERROR", "data", "deletes", "metadata", "refs", "snapshots"];

/// Whether a path below the folder of a table leads to what the table has itself, shown or not.
pub(super) fn is_own(rest: &str) -> bool {
    rest.starts_with('.') || OWN.contains(&rest.split('/').next().unwrap_or(rest))
}

/// When a catalog was asked for its names. Owner of its locks.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// When last, and whether it did not answer. Held by who asks.
    last: tokio::sync::Mutex<Option<(Instant, bool)>>,
    /// Since when somebody asks.
    since: Mutex<Option<Instant>>,
    /// What could not be told when it was asked last.
    shut: Mutex<Shut>,
}

/// Namespaces of which it cannot be told what they have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shut {
    /// Which tables.
    tables: BTreeSet<Vec<String>>,
    /// Which other namespaces, on any level.
    below: BTreeSet<Vec<String>>,
}

impl Shut {
    /// Whether nobody can tell which tables a namespace has.
    fn hides(&self, namespace: &[String]) -> bool {
        self.tables.contains(namespace) || self.above(namespace).is_some()
    }

    /// The one that does not say whether there is this one in it.
    fn above(&self, namespace: &[String]) -> Option<&Vec<String>> {
        (1..namespace.len()).find_map(|level| self.below.get(&namespace[..level]))
    }

    /// Whether nobody can tell what stands in a folder, which is one of those below `top`.
    pub(super) fn hides_folder(&self, top: &str, folder: &str) -> bool {
        self.tables.iter().any(|namespace| folder_of(top, namespace) == folder)
            || self.hides_as_below(top, folder)
    }

    /// The same, because nobody can tell which namespaces one has.
    fn hides_as_below(&self, top: &str, folder: &str) -> bool {
        let is_in = |namespace: &Vec<String>| {
            folder.strip_prefix(&folder_of(top, namespace)).is_some_and(|rest| rest.starts_with('/'))
        };
        self.below.iter().any(is_in)
    }
}

/// Somebody asks, for as long as this lives: whoever asks may be given up.
struct Begun<'a>(&'a Asking);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        *self.0.since.lock() = None;
    }
}

impl Asking {
    fn begin(&self) -> Begun<'_> {
        *self.since.lock() = Some(Instant::now());
        Begun(self)
    }

    /// How old what is known of it is; it is being asked for while somebody asks.
    pub(super) fn age(&self) -> Duration {
        self.last.try_lock().map_or(Duration::ZERO, |last| last.map_or(Duration::MAX, |(at, _)| at.elapsed()))
    }

    /// Says of which namespaces nobody can tell what they have, if these are others than before.
    /// `stays`: those of which namespaces stay that are known so far. Most that do not say which they have have none.
    fn tell_shut(&self, catalog: &str, shut: Shut, stays: &BTreeSet<Vec<String>>) {
        let mut told = self.shut.lock();
        for namespace in shut.tables.difference(&told.tables) {
            let namespace = namespace.join(".");
            tracing::warn!(catalog, namespace, "cannot tell which tables there are: those known so far stay");
        }
        for namespace in stays.difference(&told.below) {
            let namespace = namespace.join(".");
            tracing::warn!(
                catalog,
                namespace,
                "cannot tell which namespaces there are: those known so far stay, and their tables"
            );
        }
        *told = shut;
    }

    /// What could not be told.
    pub(super) fn shut(&self) -> Shut {
        self.shut.lock().clone()
    }

    /// Whether an answer has not come for so long that nobody else should wait for it.
    fn is_late(&self) -> bool {
        self.since.lock().is_some_and(|since| since.elapsed() >= PATIENCE)
    }
}

impl Lake {
    /// Asks all catalogs which tables they have, at the same time. One that does not answer keeps those that it had,
    /// and is not asked again for a while.
    ///
    /// # Errors
    /// The first failure; the others were asked all the same.
    pub async fn ask_names(&self) -> Result<(), CatalogError> {
        let all = (0..self.catalogs.len()).map(|number| self.ask_names_of(number));
        futures::future::join_all(all).await.into_iter().collect()
    }

    /// Whoever looks at this path wants to know what is there now, but does not wait long, and not for catalogs of
    /// other folders.
    pub(super) async fn look_around(self: &Arc<Self>, path: &str) {
        let all = (0..self.catalogs.len()).filter(|number| {
            let named = &self.catalogs[*number];
            self.concerns(named, path) && !named.asking.is_late()
        });
        // What nobody waits for any more is heard all the same.
        let asking: Vec<_> = all
            .map(|number| {
                let lake = self.clone();
                tokio::spawn(async move { drop(lake.ask_names_of(number).await) })
            })
            .collect();
        let _in_time = tokio::time::timeout(PATIENCE, futures::future::join_all(asking)).await;
    }

    /// Whether a path lies in the folder of a catalog, or is the one above those of all catalogs.
    fn concerns(&self, named: &Named, path: &str) -> bool {
        let below = |folder: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.prefix(named).is_none() || path == mapping::TABLES || below(&self.top(named))
    }

    /// Why nobody can say that nothing stands at a path: its catalog does not answer.
    pub(super) fn doubt(&self, path: &str) -> Option<String> {
        let mut concerned = self.catalogs.iter().filter(|named| self.concerns(named, path));
        concerned.find_map(|named| Some(format!("{}: {}", named.name, named.error()?)))
    }

    pub(super) async fn ask_names_of(&self, number: usize) -> Result<(), CatalogError> {
        let named = &self.catalogs[number];
        let mut last = named.asking.last.lock().await;
        let fresh = |failed| if failed { AGAIN } else { FRESH };
        if last.is_some_and(|(at, failed)| at.elapsed() < fresh(failed)) {
            return Ok(());
        }
        let asking = named.asking.begin();
        let answer = named.hear(named.catalog.names().await);
        self.heard_names_of(number, answer, asking, &mut last).await
    }

    /// Asks a catalog which tables it has and which of these have changed, by one question.
    pub(super) async fn ask_all_of(
        &self,
        number: usize,
        known: &[(TableId, Token)],
    ) -> Result<Changes, CatalogError> {
        let named = &self.catalogs[number];
        let mut last = named.asking.last.lock().await;
        let asking = named.asking.begin();
        let answer = named.hear(named.catalog.names_and_changes(known).await);
        let (answer, changes) = match answer {
            Ok((names, changes)) => (Ok(names), changes),
            Err(error) => (Err(error), Changes::default()),
        };
        self.heard_names_of(number, answer, asking, &mut last).await?;
        Ok(changes)
    }

    /// A catalog has said its names, or not.
    async fn heard_names_of(
        &self,
        number: usize,
        answer: Result<catalog::Names, CatalogError>,
        asking: Begun<'_>,
        last: &mut Option<(Instant, bool)>,
    ) -> Result<(), CatalogError> {
        let failed = match answer {
            Ok(names) => {
                self.take_names_of(number, names).await;
                None
            }
            Err(error) => {
                tracing::warn!(catalog = self.catalogs[number].name, %error, "cannot ask for names of tables");
                Some(error)
            }
        };
        drop(asking);
        *last = Some((Instant::now(), failed.is_some()));
        failed.map_or(Ok(()), Err)
    }

    /// What stands between the folder of all tables and the namespaces of a catalog.
    fn prefix<'a>(&self, named: &'a Named) -> Option<&'a str> {
        (self.catalogs.len() > 1).then_some(named.name.as_str())
    }

    /// The folder of the namespaces of a catalog.
    pub(super) fn top(&self, named: &Named) -> String {
        match self.prefix(named) {
            Some(name) => format!("{}/{}", mapping::TABLES, mapping::escape_name(name)),
            None => mapping::TABLES.to_owned(),
        }
    }

    async fn take_names_of(&self, number: usize, all: catalog::Names) {
        let named = &self.catalogs[number];
        let (prefix, top) = (self.prefix(named), self.top(named));
        let (mut found, mut folders) = (BTreeSet::new(), BTreeSet::from([top.clone()]));
        let mut shut = Shut { below: all.shut_below, ..Shut::default() };
        let mut told = BTreeSet::new();
        for (namespace, tables) in all.namespaces {
            let folder = folder_of(&top, &namespace);
            if !namespace.is_empty() {
                folders.extend(above(&folder));
                folders.insert(folder);
            }
            match tables {
                Some(tables) => {
                    found.extend(tables);
                    told.insert(namespace);
                }
                None => drop(shut.tables.insert(namespace)),
            }
        }
        let mut stay = BTreeSet::new();
        if shut != Shut::default() {
            // What it had stays, until somebody can tell.
            let names = self.names.read();
            let is_hidden = |id: &TableId| !told.contains(&id.namespace) && shut.hides(&id.namespace);
            let stays = |slot: &&Arc<Slot>| slot.catalog == number && is_hidden(&slot.id);
            for slot in names.tables.values().filter(stays) {
                found.insert(slot.id.clone());
                stay.extend(shut.above(&slot.id.namespace).cloned());
            }
            let below = names.folders.iter().filter(|folder| shut.hides_as_below(&top, folder));
            folders.extend(below.cloned());
        }
        named.asking.tell_shut(&named.name, shut, &stay);
        self.remember_names_of(number, found.clone()).await;
        let (gone, new) = {
            let mut names = self.names.write();
            let is_gone = |slot: &Slot| slot.catalog == number && !found.contains(&slot.id);
            let gone: Vec<Arc<Slot>> = names.tables.values().filter(|slot| is_gone(slot)).cloned().collect();
            for slot in &gone {
                names.tables.remove(&slot.path);
            }
            let below = format!("{top}/");
            names.folders.retain(|folder| prefix.is_some() && *folder != top && !folder.starts_with(&below));
            names.folders.extend(folders);
            let added = found.into_iter().filter_map(|id| {
                let path = self.mapping().table_path(prefix, &id);
                names.add(number, path, id)
            });
            let new: Vec<Arc<Slot>> = added.collect();
            (gone, new)
        };
        for slot in gone {
            self.forget_table(&slot);
        }
        // One that was made again is pinned still: it is not brought only when somebody looks into it.
        for slot in new.iter().filter(|slot| self.pins.has(&slot.path)) {
            self.keeper.call(slot);
        }
        self.find_dropped(number).await;
    }

    /// A catalog has these tables now.
    pub(super) async fn remember_names_of(&self, number: usize, names: BTreeSet<TableId>) {
        let (remembered, catalog) = (self.remembered.clone(), self.catalogs[number].identity.clone());
        let kept = tokio::task::spawn_blocking(move || remembered.keep_names(&catalog, &names));
        let _ended = kept.await;
    }

    /// Catalogs that were asked, and have said nothing so far, are away until they do.
    pub fn doubt_who_is_silent(&self) {
        for named in &self.catalogs {
            named.doubt_if_silent();
        }
    }

    /// What the catalogs had when they were asked last, until they are asked now.
    pub(super) fn remember_names(&self) {
        let mut names = self.names.write();
        for (number, named) in self.catalogs.iter().enumerate() {
            for id in self.remembered.names(&named.identity) {
                names.add(number, self.mapping().table_path(self.prefix(named), &id), id);
            }
        }
    }

    /// The table at a path, or the one that a path leads into, and the rest of the path. A namespace may have the name
    /// of a table: what the table has itself comes first, then the tables of the namespace.
    pub(super) fn table<'a>(&self, path: &'a str) -> Option<(Arc<Slot>, &'a str)> {
        let names = self.names.read();
        let mut found: Option<(&Arc<Slot>, &str)> = None;
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
            let rest = path[end..].trim_start_matches('/');
            match names.tables.get(&path[..end]) {
                Some(slot) => found = Some((slot, rest)),
                None => continue,
            }
            if is_own(rest) {
                break;
            }
        }
        found.map(|(slot, rest)| (slot.clone(), rest))
    }

    /// Whether a path leads into a table, and to nothing else, or to a folder above tables of which all names are known.
    pub(super) fn is_known(&self, path: &str) -> bool {
        match self.table(path) {
            // Other tables may be in a namespace of its name.
            Some((slot, rest)) => {
                rest.is_empty() || is_own(rest) || !self.is_folder(&slot.path) || self.is_folder(path)
            }
            None => self.is_folder(path),
        }
    }

    /// Whether a path is a folder above tables.
    pub(super) fn is_folder(&self, path: &str) -> bool {
        self.names.read().folders.contains(path)
    }

    /// What stands in a folder above tables.
    pub(super) fn children(&self, folder: &str) -> Vec<String> {
        let names = self.names.read();
        let below = format!("{folder}/");
        let tables = names.tables.range(below.clone()..).map(|(path, _)| path);
        let folders = names.folders.range(below.clone()..);
        let inside = |path: &&String| path.starts_with(&below);
        let all = tables.take_while(inside).chain(folders.take_while(inside));
        let names: BTreeSet<&str> = all
            .filter_map(|path| path.strip_prefix(&below))
            .map(|rest| rest.split('/').next().unwrap_or(rest))
            .collect();
        names.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_namespace_does_not_tell_hides_what_is_in_it_and_no_more() {
        let levels = |text: &str| -> Vec<String> { text.split('.').map(str::to_owned).collect() };
        let shut = Shut { tables: [levels("t.x")].into(), below: [levels("a.b")].into() };
        for (namespace, is_hidden, is_below) in [
            ("t.x", true, false),
            ("t", false, false),
            ("t.x.y", false, false),
            ("a.b", false, false),
            ("a.b.c", true, true),
            ("a.b.c.d", true, true),
            ("a.bc.d", false, false),
            ("a", false, false),
        ] {
            let namespace = levels(namespace);
            assert_eq!(shut.hides(&namespace), is_hidden, "{namespace:?}");
            assert_eq!(shut.above(&namespace).is_some(), is_below, "{namespace:?}");
            let folder = folder_of("iceberg/c", &namespace);
            assert_eq!(shut.hides_folder("iceberg/c", &folder), is_hidden, "{folder}");
            assert_eq!(shut.hides_as_below("iceberg/c", &folder), is_below, "{folder}");
        }
    }
}
