//! What a person may ask of tables: to list, explain, refresh, warm, pin and invalidate them.
use super::held::bytes_of;
use super::keeper::each;
use super::lake::{Lake, Turned};
use super::report::{
    Explanation, FileLine, Outcome, PartitionLine, Refreshed, Sum, TableDetails, TableLine, Why,
};
use super::room::Room;
use super::selection::{Selection, Want, Wanted, live, take_local};
use super::slot::{Brought, Shown, Slot, State};
use super::stock::Stock;
use crate::error::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::stream::{self, StreamExt};
use icecache_iceberg::ObjectError;
use icecache_iceberg::mapping::TABLES;
use icecache_iceberg::publication::LiveFile;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// So many tables are asked about at once by who wants to know of all.
const ASKED_AT_ONCE: usize = 16;
/// So many cached files are listed one by one.
const FILES_LISTED: usize = 10_000;
/// So many snapshots, branches and tags of a table that cannot be shown are listed.
const FAULTS_LISTED: usize = 100;

fn cannot_tell(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot tell which tables there are: {why}"))
}

impl Lake {
    /// The tables that the catalogs have, in order.
    ///
    /// # Errors
    /// None is known, and a catalog does not answer.
    pub async fn tables(&self) -> Result<Vec<TableLine>> {
        let _stays_as_it_is = self.ask_names().await;
        let lines: Vec<_> = self.slots().iter().map(|slot| self.line(slot)).collect();
        match self.doubt(TABLES).filter(|_| lines.is_empty()) {
            Some(why) => Err(cannot_tell(&why)),
            None => Ok(lines),
        }
    }

    fn line(&self, slot: &Slot) -> TableLine {
        let (state, version, snapshot, error) = match slot.state() {
            State::Unopened => ("unopened", None, None, None),
            State::Failed { why, .. } => ("failed", None, None, Some(why)),
            State::Shown(shown) => {
                let publication = &shown.publication;
                let why =
                    slot.retry.lock().why().map(|why| format!("the current version cannot be shown: {why}"));
                ("shown", Some(publication.number()), publication.metadata().current_snapshot, why)
            }
        };
        let faults = slot.current().map(|shown| shown.publication.faults()).unwrap_or_default();
        let broken = faults.into_iter().take(FAULTS_LISTED).collect();
        let pins = self.pins.of(&slot.path);
        let idle = self.held.idle(&slot.path).into_iter().filter(|(pin, _)| pins.contains(pin));
        TableLine {
            table: slot.path.clone(),
            catalog: self.catalogs[slot.catalog].name.clone(),
            id: slot.id.to_string(),
            state: state.to_owned(),
            version,
            snapshot,
            used_s_ago: slot.used().map(|ms| self.ago(ms).as_secs()),
            pinned: !pins.is_empty(),
            idle_pins: idle.map(|(pin, why)| format!("{pin}: {why}")).collect(),
            not_held: self.held.short(&slot.path).filter(|_| !pins.is_empty()),
            error,
            broken,
        }
    }

    /// The table that a person means.
    async fn meant(&self, name: &str) -> Result<Arc<Slot>> {
        let find = || self.slots().into_iter().filter(|slot| self.means(slot, name)).collect::<Vec<_>>();
        let mut found = find();
        if found.is_empty() {
            let _stays_as_it_is = self.ask_names().await; // it may be new
            found = find();
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => match self.doubt(TABLES) {
                // It may have it.
                Some(why) => Err(cannot_tell(&why)),
                None => Err(Error::new(ErrorKind::NotFound, format!("no catalog has such a table: {name}"))),
            },
            _ => {
                let paths: Vec<&str> = found.iter().map(|slot| slot.path.as_str()).collect();
                let message =
                    format!("several tables are called so, give one of these: {}", paths.join(", "));
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }

    /// Whether a table is called so: by its path below the mount, that path without `iceberg/`, or the name that the
    /// catalog has for it, alone or behind that of the catalog.
    pub(super) fn means(&self, slot: &Slot, name: &str) -> bool {
        let (name, id) = (name.trim_matches('/'), slot.id.to_string());
        slot.path == name
            || slot.path.strip_prefix(TABLES).and_then(|rest| rest.strip_prefix('/')) == Some(name)
            || id == name
            || format!("{}.{id}", self.catalogs[slot.catalog].name) == name
    }

    /// Where tables are below the mount.
    ///
    /// # Errors
    /// There is no such table, or several are called so.
    pub async fn paths_of_tables(&self, names: &[String]) -> Result<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        for name in names {
            paths.insert(self.meant(name).await?.path.clone());
        }
        Ok(paths)
    }

    async fn shown(&self, name: &str) -> Result<(Arc<Slot>, Arc<Shown>)> {
        let slot = self.meant(name).await?;
        let shown = self.show(&slot).await.map_err(|why| {
            Error::new(ErrorKind::Io, format!("the table cannot be shown: {}: {why}", slot.path))
        })?;
        Ok((slot, shown))
    }

    /// All that is known of a table.
    ///
    /// # Errors
    /// There is no such table, or it cannot be shown.
    pub async fn details(&self, name: &str) -> Result<TableDetails> {
        let (slot, shown) = self.shown(name).await?;
        let (files, stock) = (live(&shown).await?, Stock::take(self.stores()).await);
        Ok(self.details_of(&slot, &shown, &files, &stock))
    }

    fn details_of(&self, slot: &Slot, shown: &Shown, files: &[LiveFile], stock: &Stock) -> TableDetails {
        let metadata = shown.publication.metadata();
        let (mut all, mut cached, mut held) = (Sum::default(), Sum::default(), Sum::default());
        for file in files {
            all.add(file.size);
            if let Some(info) = stock.of(&file.location) {
                cached.add(info.on_disk.min(file.size));
            }
            if let Some(bytes) = self.held.bytes_of(&slot.path, &file.location) {
                held.add(bytes);
            }
        }
        let (branches, tags): (BTreeMap<_, _>, BTreeMap<_, _>) =
            metadata.refs.iter().partition(|(_, reference)| reference.is_branch);
        let named = |refs: BTreeMap<&String, &icecache_iceberg::metadata::Reference>| {
            refs.into_iter().map(|(name, reference)| (name.clone(), reference.snapshot)).collect()
        };
        TableDetails {
            line: self.line(slot),
            metadata: shown.from.as_str().to_owned(),
            location: metadata.location.as_str().to_owned(),
            uuid: metadata.uuid.clone(),
            format_version: metadata.format_version,
            updated: jiff::Timestamp::from_millisecond(metadata.updated_ms).ok(),
            snapshots: metadata.snapshots.len() as u64,
            branches: named(branches),
            tags: named(tags),
            files: all,
            cached,
            pins: self.pins.of(&slot.path).iter().map(Selection::to_string).collect(),
            held,
            last_change: slot.account.lock().last.clone(),
        }
    }

    /// What of a table is in the cache, and why.
    ///
    /// # Errors
    /// As for [`details`](Self::details).
    pub async fn explain(&self, name: &str) -> Result<Explanation> {
        let (slot, shown) = self.shown(name).await?;
        let (files, stock) = (live(&shown).await?, Stock::take(self.stores()).await);
        let details = self.details_of(&slot, &shown, &files, &stock);
        let brought = self.brought.lock().clone();
        let mut partitions: BTreeMap<&str, PartitionLine> = BTreeMap::new();
        let mut cached_files = Vec::new();
        for file in &files {
            let line = partitions.entry(&file.partition).or_insert_with(|| PartitionLine {
                partition: file.partition.to_string(),
                files: Sum::default(),
                cached: Sum::default(),
                uses: 0,
            });
            line.files.add(file.size);
            let Some(info) = stock.of(&file.location) else { continue };
            line.cached.add(info.on_disk.min(file.size));
            line.uses += info.hits;
            let why = match brought.get(&file.location) {
                _ if self.held.bytes_of(&slot.path, &file.location).is_some() => Why::Pinned,
                Some(brought) => (*brought).into(),
                None => Why::Read,
            };
            cached_files.push(FileLine {
                location: file.location.as_str().to_owned(),
                partition: file.partition.to_string(),
                size: file.size,
                cached_bytes: info.on_disk.min(file.size),
                blocks: info.blocks,
                uses: info.hits,
                why,
            });
        }
        cached_files
            .sort_by(|a, b| b.cached_bytes.cmp(&a.cached_bytes).then_with(|| a.location.cmp(&b.location)));
        let more = cached_files.len() > FILES_LISTED;
        cached_files.truncate(FILES_LISTED);
        Ok(Explanation { details, partitions: partitions.into_values().collect(), cached_files, more })
    }

    /// Asks the catalogs now: about this table, or about all that are shown.
    ///
    /// # Errors
    /// There is no such table. What fails for one table is told with it.
    pub async fn refresh_now(&self, name: Option<&str>) -> Result<Vec<Refreshed>> {
        let slots = match name {
            Some(name) => vec![self.meant(name).await?],
            None => {
                let _said_by_status = self.ask_names().await; // the others are asked all the same
                self.slots().into_iter().filter(|slot| slot.current().is_some()).collect()
            }
        };
        let asked: Vec<_> = slots.into_iter().map(|slot| self.refreshed(slot).boxed()).collect();
        Ok(stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await)
    }

    async fn refreshed(&self, slot: Arc<Slot>) -> Refreshed {
        let start = Instant::now();
        let outcome = self.refresh(&slot).await;
        let there = self.table(&slot.path).is_some();
        Refreshed {
            table: slot.path.clone(),
            changed: outcome == Ok(true),
            version: slot.current().filter(|_| there).map(|shown| shown.publication.number()),
            ms: start.elapsed().as_millis() as u64,
            error: outcome.err(),
        }
    }

    /// The folder that a table has in its store, as other machines know it; `None` if it is not shown.
    pub fn location_of(&self, path: &str) -> Option<String> {
        let (slot, _) = self.table(path)?;
        Some(slot.current()?.publication.metadata().location.as_str().to_owned())
    }

    /// Brings a table, or a part of it, into the cache.
    ///
    /// # Errors
    /// As for [`details`](Self::details), if it has no such part, and if the cache has not enough room: nothing is brought
    /// then. What fails for one file is told in the outcome.
    pub async fn warm(&self, name: &str, part: Selection) -> Result<Outcome> {
        let (slot, shown) = self.shown(name).await?;
        let mut wanted = self.selected(&shown, &part.checked()?).await?;
        let local = take_local(&mut wanted);
        self.is_room_for(&slot, &wanted).await?;
        let mut outcome = Outcome { local, ..self.bring(&wanted, Brought::Warmed).await };
        if outcome.failed_files > 0 {
            return Ok(outcome);
        }
        let files = wanted.len();
        let there = each(wanted.into_values(), |(file, want)| async move {
            match self.meant_of(&file, &want).await? {
                Some((blob, blocks)) if blob.hold(blocks.clone()).is_none() => {
                    Err(ObjectError::NotFound { location: file.location })
                }
                Some((blob, blocks)) => Ok(bytes_of(&blob, &blocks)),
                None => Ok(file.size),
            }
        });
        let there = there.await;
        if there.failed_files > 0 {
            let gone = there.failed_files;
            let room = Room::of(self.stores().cache());
            outcome.failed.push(format!("there is no room for {gone} of {files} files: {room}"));
            (outcome.failed_files, outcome.there) = (gone, there.there);
        }
        Ok(outcome)
    }

    /// What the cache could not keep all of would be fetched to be thrown out at once.
    async fn is_room_for(&self, slot: &Slot, wanted: &Wanted) -> Result<()> {
        let pinned = self.held.bytes_but(|location| wanted.contains_key(location));
        let check = |bytes: u64| {
            let room = Room::of(self.stores().cache());
            if bytes.saturating_add(pinned) <= room.bytes {
                return Ok(());
            }
            let (table, size) = (&slot.path, bytesize::ByteSize);
            let message = format!(
                "there is no room for {} of {table} beside {} that are pinned: {room}",
                size(bytes),
                size(pinned)
            );
            Err(Error::new(ErrorKind::Full, message))
        };
        let whole = wanted.values().filter(|(_, want)| *want == Want::Whole).map(|(file, _)| file.size).sum();
        check(whole)?;
        // How much the others need only they know: their footers have to come first.
        let sizes = each(wanted.values().cloned(), |(file, want)| async move {
            if want == Want::Whole {
                return Ok(file.size);
            }
            self.size_of(&file, &want).await
        });
        check(sizes.await.there.bytes)
    }

    /// Keeps a table, or a part of it, in the cache: what is there now, and what comes.
    ///
    /// # Errors
    /// As for [`warm`](Self::warm), and if the cache has not enough room: nothing is pinned then.
    pub async fn pin(&self, name: &str, part: Selection) -> Result<Outcome> {
        let (slot, shown) = self.shown(name).await?;
        let part = part.checked()?;
        self.selected(&shown, &part).await?;
        let new = self.pins.add(&slot.path, part.clone())?;
        let held = self.hold_pinned(&slot, slot.writing.pinning.lock().await).await;
        match &held {
            Err(_) if new => {
                self.pins.remove(&slot.path, &part)?;
                self.keeper.call(&slot); // it may have held some of it by now
            }
            Ok(_) if !self.pins.of(&slot.path).contains(&part) => {
                return Err(Error::new(ErrorKind::NotFound, format!("it was unpinned meanwhile: {name}")));
            }
            Ok(outcome) if outcome.failed_files > 0 => {
                let kind = if outcome.is_full { ErrorKind::Full } else { ErrorKind::Unavailable };
                self.keeper.call_again(&slot.path, Some(kind)); // it goes on trying
            }
            _ => {}
        }
        held
    }

    /// Takes a pin away; with that of the whole table those of its parts. Whether there was one.
    ///
    /// # Errors
    /// The list cannot be written.
    pub async fn unpin(&self, name: &str, part: Selection) -> Result<bool> {
        // A table that is gone may still be pinned.
        let table = match self.meant(name).await {
            Ok(slot) => slot.path.clone(),
            Err(error) => {
                let name = name.trim_matches('/');
                let paths = [name.to_owned(), format!("{TABLES}/{name}")];
                paths.into_iter().find(|path| self.pins.has(path)).ok_or(error)?
            }
        };
        let part = part.checked()?;
        let removed =
            if part.is_all() { self.pins.remove_all(&table)? } else { self.pins.remove(&table, &part)? };
        if removed {
            match self.table(&table) {
                Some((slot, "")) if self.pins.has(&table) => self.keeper.call(&slot),
                _ => drop(self.held.forget(&table)),
            }
            self.keeper.call_for_room();
        }
        Ok(removed)
    }

    /// Forgets what is cached of a table, and asks the catalog about it; how much was forgotten. What is pinned comes
    /// again.
    ///
    /// # Errors
    /// As for [`details`](Self::details), and if the catalog does not answer.
    pub async fn invalidate(&self, name: &str) -> Result<Sum> {
        let (slot, shown) = self.shown(name).await?;
        let stock = Stock::take(self.stores()).await;
        self.held.let_go(&slot.path, |_| false);
        let (mut forgotten, mut paths) = (Sum::default(), Vec::new());
        for file in live(&shown).await? {
            if self.stores().forget(&file.location, stock.id(&file.location).as_deref()).await {
                forgotten.add(stock.of(&file.location).map_or(0, |info| info.on_disk));
            }
            paths.extend(self.paths(&shown.publication, &file.location));
        }
        self.turned(Turned::Files(&paths));
        if self.pins.has(&slot.path) {
            self.keeper.call(&slot);
        }
        self.refresh(&slot).await.map_err(|why| Error::new(ErrorKind::Unavailable, why))?;
        Ok(forgotten)
    }
}
