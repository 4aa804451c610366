//! How a table comes to be shown, and turns over to its next version.
//!
//! What is new is written, its files become known, then the hint is flipped: who reads the new hint finds all that
//! it leads to.
use super::counted::Counted;
use super::feed::What;
use super::lake::{Lake, Turned};
use super::lent::{folders, lent};
use super::remembered::Remembered;
use super::slot::{Shown, Slot, State};
use icecache_iceberg::catalog::{Change, Changes};
use icecache_iceberg::metadata::Metadata;
use icecache_iceberg::{
    CatalogError, ChangeKind, Difference, Location, ObjectError, Objects, Place, Publication, Table,
    TableError, TableId, Token, write_next,
};
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A version that can be published.
struct Prepared {
    new: Arc<Shown>,
    /// With its metadata.
    table: Table,
    counted: Arc<Counted>,
}

/// A version that can be shown.
struct Next {
    old: Arc<Shown>,
    prepared: Prepared,
    difference: Difference,
}

/// Why a table cannot be shown.
#[derive(Debug, thiserror::Error)]
enum Unshown {
    /// Its catalog does not say what is current.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// What is current cannot be published.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl Unshown {
    /// Whether a catalog or a store is away: then what they said before is all there is.
    fn is_away(&self) -> bool {
        match self {
            Self::Catalog(error) => error.is_transient(),
            Self::Table(error) => matches!(error, TableError::Object(ObjectError::Unavailable { .. })),
        }
    }
}

impl Lake {
    /// Shows the version of a table that is current, after a start or a failure.
    pub(super) async fn publish_first(&self, slot: &Slot) -> Result<Arc<Shown>, String> {
        if *slot.is_dropped.lock() {
            return Err("the catalog has no such table any more".to_owned());
        }
        if self.table(&slot.path).is_some_and(|(_, rest)| !rest.is_empty()) {
            return Err("another table has this path for what it has itself".to_owned());
        }
        // Of a catalog that is known to be away nobody waits for what is known already; it is asked by the poll.
        let is_away = self.catalogs[slot.catalog].error().is_some();
        if is_away && let Ok(Some(shown)) = self.publish_remembered(slot).await {
            return Ok(shown);
        }
        let shown = match self.publish_current(slot).await {
            Err(away) if away.is_away() => match self.publish_remembered(slot).await {
                Ok(Some(shown)) => Ok(shown),
                Ok(None) => Err(away.to_string()),
                Err(error) => Err(format!("{away}; and what was shown before: {error}")),
            },
            current => current.map_err(|error| error.to_string()),
        }?;
        if self.is_to_be_swept(slot, &shown).await || self.pins.has(&slot.path) {
            self.keeper.call(slot);
        }
        Ok(shown)
    }

    async fn publish_current(&self, slot: &Slot) -> Result<Arc<Shown>, Unshown> {
        let catalog = &self.catalogs[slot.catalog];
        let table = match catalog.catalog.load(&slot.id).await {
            Err(error) if error.is_transient() => catalog.hear(Err(error)),
            loaded => loaded,
        }?;
        Ok(self.publish_version(slot, self.prepare_new(slot, table).await?).await?)
    }

    /// Shows what was shown before the start, if that is known, and whole.
    async fn publish_remembered(&self, slot: &Slot) -> Result<Option<Arc<Shown>>, TableError> {
        let (folder, catalog, id) =
            (self.folder_of(slot), self.catalogs[slot.catalog].identity.clone(), slot.id.clone());
        let read = tokio::task::spawn_blocking(move || Remembered::shown(&folder, &catalog, &id));
        let Some(table) = read.await.ok().flatten() else { return Ok(None) };
        // What is newer, if anything is, was never shown: that is remembered first.
        let Some(prepared) = self.prepare(slot, table, true).await? else { return Ok(None) };
        if !prepared.new.publication.is_there().await? {
            return Ok(None);
        }
        let shown = self.publish_version(slot, prepared).await?;
        tracing::warn!(table = %slot.id, "shown is what was shown before the start");
        Ok(Some(shown))
    }

    /// Shows a version where none is shown.
    async fn publish_version(&self, slot: &Slot, prepared: Prepared) -> Result<Arc<Shown>, TableError> {
        let Prepared { new, table, .. } = prepared;
        new.publication.write().await?;
        if let Some(current) = new.publication.metadata().current_snapshot {
            self.learn(&new.publication, &new.publication.files(current).await?, true);
        }
        self.learn_statistics(&new.publication);
        self.remember_shown(slot, &new, table).await;
        self.bring_references(slot, &new, None).await?;
        self.flip(slot, &new).await?;
        Ok(new)
    }

    fn folder_of(&self, slot: &Slot) -> PathBuf {
        self.folder_at(&slot.path)
    }

    async fn prepare_new(&self, slot: &Slot, table: Table) -> Result<Prepared, TableError> {
        let none = || TableError::NoSuch { what: "version that could be published".to_owned() };
        self.prepare(slot, table, false).await?.ok_or_else(none)
    }

    /// `None`: it is remembered, and not there as what was shown.
    async fn prepare(
        &self,
        slot: &Slot,
        table: Table,
        is_remembered: bool,
    ) -> Result<Option<Prepared>, TableError> {
        let (folder, path) = (self.folder_of(slot), slot.path.clone());
        let place = Place { mapping: self.mapping().clone(), path, folder };
        self.borrow(slot, &table, None, is_remembered)?;
        let counted = Arc::new(Counted::new(self.stores().clone()));
        let table = table.with_metadata(&*counted).await?;
        let objects: Arc<dyn Objects> = counted.clone();
        let publication = match is_remembered {
            true => Publication::resume(objects, place, &table).await?,
            false => Some(Publication::prepare(objects, place, &table).await?),
        };
        let Some(publication) = publication else { return Ok(None) };
        self.borrow(slot, &table, Some(publication.metadata()), is_remembered)?;
        let new = Arc::new(Shown::new(publication, &table, is_remembered));
        Ok(Some(Prepared { new, table, counted }))
    }

    /// What its catalog lends for a table opens its files, as far as it is known where these are.
    fn borrow(
        &self,
        slot: &Slot,
        table: &Table,
        metadata: Option<&Metadata>,
        is_remembered: bool,
    ) -> Result<(), TableError> {
        let folders = folders(&table.metadata_location, metadata);
        let lent = lent(&self.catalogs[slot.catalog].catalog, table, &folders, is_remembered);
        self.stores().lend(&slot.is_dropped, lent)
    }

    /// The same where it is shown whether it can be remembered or not.
    async fn remember_shown(&self, slot: &Slot, new: &Shown, table: Table) {
        if let Err(error) = self.remember(slot, new, table).await {
            tracing::warn!(table = %slot.id, %error, "cannot remember which version is shown");
        }
    }

    /// Everything that the version names is there: a start while nobody answers may show it from now on.
    async fn remember(&self, slot: &Slot, new: &Shown, table: Table) -> io::Result<()> {
        if new.is_remembered.load(Ordering::Acquire) {
            return Ok(());
        }
        let (folder, catalog) = (self.folder_of(slot), self.catalogs[slot.catalog].identity.clone());
        let is_dropped = slot.is_dropped.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let is_dropped = is_dropped.lock();
            if *is_dropped { Ok(()) } else { Remembered::keep_shown(&folder, &catalog, &table) }
        });
        kept.await.unwrap_or(Ok(()))
    }

    /// Everything that the version names is there, and known: from now on it is the current one.
    async fn flip(&self, slot: &Slot, new: &Arc<Shown>) -> Result<(), TableError> {
        // Whoever reads the new hint must find the new snapshots.
        slot.set(State::Shown(new.clone()));
        new.publication.flip().await
    }

    /// Asks a catalog what has changed of what is shown, and hands it on; how many tables have changed. `with_names`: by
    /// the same question also which tables there are.
    ///
    /// # Errors
    /// The catalog does not answer: what is shown stays.
    pub(super) async fn poll(&self, number: usize, with_names: bool) -> Result<usize, CatalogError> {
        let (known, _) = self.watched(number);
        let asked = self.shown_of(number);
        let polled = match (with_names, known.is_empty()) {
            (true, _) => self.ask_all_of(number, &known).await?,
            (false, true) => return Ok(0),
            (false, false) => self.ask_changes_of(number, &known).await?,
        };
        note_current(&asked, &polled);
        Ok(self.hand_on(number, polled).await)
    }

    /// What has changed is turned over, and nobody waits for it; how much of it is news.
    pub(super) async fn hand_on(&self, number: usize, polled: Changes) -> usize {
        for (id, error) in polled.failed {
            tracing::debug!(table = %id, %error, "cannot ask whether a table has changed");
        }
        let mut changed = 0;
        for change in polled.changes {
            let (Change::Changed(id) | Change::Dropped(id)) = &change;
            let slot =
                self.names.read().tables.values().find(|s| s.catalog == number && s.id == *id).cloned();
            let Some(slot) = slot else { continue };
            match change {
                Change::Changed(_) if slot.retry.lock().is_early() => {}
                Change::Changed(_) => changed += usize::from(self.turning.add(&slot)),
                Change::Dropped(_) => {
                    self.drop_table(&slot).await;
                    changed += 1;
                }
            }
        }
        changed
    }

    pub(super) async fn ask_changes_of(
        &self,
        number: usize,
        known: &[(TableId, Token)],
    ) -> Result<Changes, CatalogError> {
        let catalog = &self.catalogs[number];
        // Some are asked about each table by itself: who answers about none is away.
        let answer = catalog.catalog.poll(known).await.and_then(|mut polled| match polled.failed.len() {
            failed if failed < known.len() => Ok(polled),
            _ => Err(polled.failed.swap_remove(0).1),
        });
        catalog.hear(answer)
    }

    /// Asks the catalog about one table now, and shows what has changed; whether anything has.
    ///
    /// # Errors
    /// Why that cannot be told, or the new version cannot be shown: what is shown stays.
    pub(super) async fn refresh(&self, slot: &Arc<Slot>) -> Result<bool, String> {
        let Some(shown) = slot.current() else {
            return self.show(slot).await.map(|_| true);
        };
        let catalog = &self.catalogs[slot.catalog].catalog;
        let known = [(slot.id.clone(), shown.asked_with())];
        let mut polled = catalog.poll(&known).await.map_err(|error| error.to_string())?;
        if let Some((_, error)) = polled.failed.pop() {
            return Err(error.to_string());
        }
        match polled.changes.pop() {
            None => {
                slot.retry.lock().note(Ok(()));
                Ok(false)
            }
            Some(Change::Changed(_)) => {
                self.turn_over(slot).await?;
                // Somebody else may have been first; and what a catalog says otherwise may be the same version.
                Ok(slot.current().is_none_or(|now| !Arc::ptr_eq(&now, &shown)))
            }
            Some(Change::Dropped(_)) => {
                self.drop_table(slot).await;
                Ok(true)
            }
        }
    }

    async fn drop_table(&self, slot: &Slot) {
        // Whoever asks for names may have noticed it first.
        let is_first = self.names.write().tables.remove(&slot.path).is_some();
        if is_first {
            self.forget_table(slot);
            let left = self.slots().into_iter().filter(|other| other.catalog == slot.catalog);
            self.remember_names_of(slot.catalog, left.map(|other| other.id.clone()).collect()).await;
        }
    }

    /// The catalog has a table no longer, and neither have the names. Another one may come in its place, with files of the
    /// same names.
    pub(super) fn forget_table(&self, slot: &Slot) {
        let was = slot.current();
        {
            let mut is_dropped = slot.is_dropped.lock();
            *is_dropped = true;
            Remembered::forget_shown(&self.folder_of(slot));
        }
        self.held.forget(&slot.path);
        let folder = was.as_ref().map(|was| &was.publication.metadata().location);
        let paths = self.forget_files(&slot.path, folder);
        self.stores().give_back();
        self.turned(Turned::Files(&paths));
        self.turned(Turned::Below(slot.path.rsplit_once('/').map_or(&slot.path, |(folder, _)| folder)));
        if was.is_some() {
            self.feed().tell(&slot.path, What::Dropped);
        }
        self.dropped.add(&slot.path, slot.writing.clone());
    }

    pub(super) async fn turn_over(&self, slot: &Slot) -> Result<(), String> {
        let turn = slot.writing.turn.lock().await;
        if *slot.is_dropped.lock() {
            return Ok(()); // what has its path now is another table
        }
        let turned = self.turn_to_next(slot).await;
        drop(turn);
        slot.retry.lock().note(turned.as_ref().map(|_| ()).map_err(String::as_str));
        match turned {
            Ok(has_turned) => {
                if has_turned {
                    self.keeper.call(slot);
                }
                Ok(())
            }
            Err(why) => {
                tracing::warn!(table = %slot.id, why, "a new version cannot be shown; the old one stays");
                self.feed().tell(&slot.path, What::Failed { why: why.clone() });
                Err(why)
            }
        }
    }

    /// Whether there is a next one.
    async fn turn_to_next(&self, slot: &Slot) -> Result<bool, String> {
        let start = Instant::now();
        let late =
            || format!("nothing has come of it within {} s (--tables-timeout)", self.patience.as_secs());
        let brought = tokio::time::timeout(self.patience, self.bring_next(slot)).await;
        let Some(next) = brought.map_err(|_| late())?? else { return Ok(false) };
        let Next { old, prepared: Prepared { new, table, counted }, difference } = next;
        let publish = async {
            let remembered = self.remember(slot, &new, table).await;
            remembered.map_err(|error| format!("cannot remember which version is shown: {error}"))?;
            let doubted = self.learn_next(slot, (&old, &new), &difference);
            // Whoever reads the new hint finds none of the files that had these names before.
            self.turned(Turned::Files(&doubted));
            self.flip(slot, &new).await.map_err(|error| error.to_string())
        };
        publish.await.inspect_err(|_: &String| {
            slot.set(State::Shown(old.clone())); // the hint names the old one
        })?;
        let came: HashSet<&Location> = difference.added.iter().map(|file| &file.location).collect();
        let gone = difference.removed.iter().filter(|file| !came.contains(&file.location));
        self.retire(&old.publication, gone);
        if !new.publication.metadata().has_all_of(old.publication.metadata()) {
            // What is left of older snapshots is learned again when somebody looks.
            self.forget_older(&slot.path);
        }
        let took = start.elapsed();
        self.turned(Turned::Below(&slot.path));
        self.tell(slot, (&old, &new), &difference, counted.counts(), took.as_millis() as u64);
        Ok(true)
    }

    /// The next version, and all that it names, but nobody is shown it yet. `None`: there is none, or none was shown.
    async fn bring_next(&self, slot: &Slot) -> Result<Option<Next>, String> {
        let loaded = self.catalogs[slot.catalog].catalog.load(&slot.id).await;
        let table = loaded.map_err(|error| error.to_string())?;
        let Some(old) = slot.current() else {
            return self.publish_first(slot).await.map(|_| None);
        };
        if old.is_called(&table.token) {
            // Somebody else was told of it first; or it is what was remembered.
            let metadata = old.publication.metadata();
            self.borrow(slot, &table, Some(metadata), false).map_err(|error| error.to_string())?;
            self.confirm(slot, &old);
            return Ok(None);
        }
        let prepared = self.prepare_new(slot, table).await.map_err(|error| error.to_string())?;
        if prepared.new.publication.is_same_as(&old.publication) {
            // A catalog may say the same version in other words.
            old.call(prepared.table.token.clone());
            self.confirm(slot, &old);
            self.remember_shown(slot, &old, prepared.table).await;
            return Ok(None);
        }
        let bring = async {
            let difference = write_next(&old.publication, &prepared.new.publication).await?;
            self.bring_references(slot, &prepared.new, Some(&old)).await?;
            Ok(difference)
        };
        let difference = bring.await.map_err(|error: TableError| error.to_string())?;
        Ok(Some(Next { old, prepared, difference }))
    }

    /// Its catalog says that what is shown is current. Of what was remembered that is news, and what opens its files may be
    /// there by now.
    fn confirm(&self, slot: &Slot, shown: &Shown) {
        if shown.is_remembered.swap(false, Ordering::AcqRel) {
            self.keeper.call(slot);
        }
    }

    /// The files of the next version are known from now on. The paths at which others may stand than before: a file that
    /// came may have the name of one that was there, in an older version or in another table.
    fn learn_next(&self, slot: &Slot, (old, new): (&Shown, &Shown), difference: &Difference) -> Vec<String> {
        self.learn(&new.publication, &difference.added, true);
        self.learn_statistics(&new.publication);
        if new.publication.metadata().has_all_of(old.publication.metadata()) {
            new.learned.lock().extend(old.learned.lock().iter());
        }
        self.doubt_files(&difference.added);
        let added = difference.added.iter();
        let mut paths: Vec<_> =
            added.clone().flat_map(|file| self.paths(&new.publication, &file.location)).collect();
        if difference.kind != ChangeKind::Replaced {
            let came: HashSet<&Location> = added.map(|file| &file.location).collect();
            self.held.let_go(&slot.path, |location| !came.contains(location));
            return paths;
        }
        self.held.let_go(&slot.path, |_| false); // what is held is of the old one
        paths.extend(self.doubt_table(&slot.path, Some(&old.publication.metadata().location)));
        paths
    }
}

/// Those of which an answer says nothing are shown as they are in the catalog, also if a version between could not be.
pub(super) fn note_current(asked: &[Arc<Slot>], answer: &Changes) {
    for slot in asked {
        let is_named = |id: &TableId| *id == slot.id;
        let has_changed = answer.changes.iter().any(|change| match change {
            Change::Changed(id) | Change::Dropped(id) => is_named(id),
        });
        if !has_changed && !answer.failed.iter().any(|(id, _)| is_named(id)) {
            slot.retry.lock().note(Ok(()));
        }
    }
}
