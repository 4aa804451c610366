//! [`Held`]: what is in the cache because it is pinned, and is not evicted.
use super::chosen::chosen;
use super::keeper::each;
use super::lake::Lake;
use super::report::Outcome;
use super::room::Room;
use super::selection::{Joint, Selection, Want, Wanted, take_local};
use super::slot::{Brought, Shown, Slot};
use super::stock::Stock;
use crate::cache::{self, Blob, CacheError};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;
use icecache_iceberg::publication::LiveFile;
use icecache_iceberg::{Location, ObjectError};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::MutexGuard;

/// How often a file is brought again because a part of it had to go before all of it was there.
const ATTEMPTS_MAX: usize = 3;
/// So often what is pinned is brought anew because the table or its pins have changed meanwhile.
const ROUNDS_MAX: usize = 3;

/// A file, or a part of it, that is not evicted while this is there.
#[derive(Debug)]
enum Holding {
    Whole(cache::File),
    Part(cache::Part),
}

/// What is held of a table, and for what it was asked.
type OfTable = HashMap<Location, (Want, Holding)>;

/// See the module. Owner of its lock.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By table.
    files: HashMap<String, OfTable>,
    /// How many bytes a table will have when what is on its way has come.
    claimed: HashMap<String, u64>,
    /// The pins of a table that are about nothing, and why.
    idle: HashMap<String, Vec<(Selection, String)>>,
    /// Why not all that is pinned of a table is held.
    short: HashMap<String, String>,
}

/// Room that is kept for a table while what is pinned of it comes.
#[derive(Debug)]
struct Claim<'a> {
    held: &'a Held,
    table: &'a str,
}

impl State {
    /// How many bytes all tables but this one have, or will have.
    fn elsewhere(&self, table: &str) -> u64 {
        let of = |files: &OfTable| files.values().map(|(_, holding)| holding.bytes()).sum::<u64>();
        let claimed = |table: &str| self.claimed.get(table).copied().unwrap_or(0);
        let others = self.files.iter().filter(|(other, _)| *other != table);
        let held: u64 = others.map(|(other, files)| of(files).max(claimed(other))).sum();
        let waiting = self.claimed.iter().filter(|(other, _)| *other != table);
        held + waiting
            .filter(|(other, _)| !self.files.contains_key(*other))
            .map(|(_, bytes)| bytes)
            .sum::<u64>()
    }
}

impl Claim<'_> {
    /// So many bytes of `most` are for this table; or how many the others have, if these are too many.
    fn set(&self, bytes: u64, most: u64) -> Result<(), u64> {
        let mut state = self.held.0.lock();
        let elsewhere = state.elsewhere(self.table);
        if bytes + elsewhere > most {
            return Err(elsewhere);
        }
        state.claimed.insert(self.table.to_owned(), bytes);
        Ok(())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.held.0.lock().claimed.remove(self.table);
    }
}

impl Holding {
    fn bytes(&self) -> u64 {
        match self {
            Self::Whole(file) => file.size(),
            Self::Part(part) => part.bytes(),
        }
    }

    /// Whether the cache has it still: what turned out to be damaged is not there any more.
    fn is_there(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Part(part) => part.is_there(),
        }
    }
}

impl Held {
    fn put(&self, table: &str, location: &Location, want: Want, holding: Holding) {
        let mut held = self.0.lock();
        let before =
            held.files.entry(table.to_owned()).or_default().insert(location.clone(), (want, holding));
        drop(held);
        drop(before); // the lock is free by then
    }

    /// How many bytes of a file are held for a table; `None`: nothing of it.
    pub fn bytes_of(&self, table: &str, location: &Location) -> Option<u64> {
        self.0.lock().files.get(table)?.get(location).map(|(_, holding)| holding.bytes())
    }

    /// The same if what is held is what is wanted.
    fn has(&self, table: &str, location: &Location, want: &Want) -> Option<u64> {
        let held = self.0.lock();
        let (of, holding) = held.files.get(table)?.get(location)?;
        (of == want && holding.is_there()).then(|| holding.bytes())
    }

    /// Lets go of all that a table holds, but for the files that `keep` says; whether that was anything.
    pub fn let_go(&self, table: &str, keep: impl Fn(&Location) -> bool) -> bool {
        let mut held = self.0.lock();
        let Some(files) = held.files.get_mut(table) else { return false };
        let gone: Vec<_> = files.extract_if(|location, _| !keep(location)).collect();
        if files.is_empty() {
            held.files.remove(table);
        }
        drop(held);
        !gone.is_empty() // they are dropped when the lock is free
    }

    /// Nothing of a table is held any more, nor to be.
    pub fn forget(&self, table: &str) -> bool {
        let mut state = self.0.lock();
        state.idle.remove(table);
        state.short.remove(table);
        drop(state);
        self.let_go(table, |_| false)
    }

    /// How many bytes are held of files other than those that `but` says.
    pub fn bytes_but(&self, but: impl Fn(&Location) -> bool) -> u64 {
        let state = self.0.lock();
        let all = state.files.values().flatten().filter(|(location, _)| !but(location));
        all.map(|(_, (_, holding))| holding.bytes()).sum()
    }

    /// Whether anything is held for a table.
    pub fn has_any_of(&self, table: &str) -> bool {
        self.0.lock().files.contains_key(table)
    }

    /// Which pins of a table are about nothing, and why.
    fn note_idle(&self, table: &str, idle: Vec<(Selection, String)>) {
        let mut state = self.0.lock();
        match idle.is_empty() {
            true => state.idle.remove(table),
            false => state.idle.insert(table.to_owned(), idle),
        };
    }

    /// The pins of a table that were about nothing when somebody looked last, and why.
    pub fn idle(&self, table: &str) -> Vec<(Selection, String)> {
        self.0.lock().idle.get(table).cloned().unwrap_or_default()
    }

    /// Whether all that is pinned of a table is held, or why it is not.
    fn note_short(&self, table: &str, why: Option<String>) {
        let mut state = self.0.lock();
        match why {
            Some(why) => drop(state.short.insert(table.to_owned(), why)),
            None => drop(state.short.remove(table)),
        }
    }

    /// Why not all that is pinned of a table was held when somebody tried last.
    pub fn short(&self, table: &str) -> Option<String> {
        self.0.lock().short.get(table).cloned()
    }

    /// Room for a table, none yet. One at a time for each.
    fn claim<'a>(&'a self, table: &'a str) -> Claim<'a> {
        Claim { held: self, table }
    }
}

impl Lake {
    /// Brings the pinned files of a table, and holds them; lets go of what is not pinned any more. Only by whoever has the
    /// turn of [`Writing::pinning`](super::slot::Writing::pinning): who comes later finds what the first has brought.
    ///
    /// # Errors
    /// More would be pinned than the cache has room for. The table is gone, or cannot be shown.
    pub(super) async fn hold_pinned(&self, slot: &Slot, _turn: MutexGuard<'_, ()>) -> Result<Outcome> {
        if *slot.is_dropped.lock() {
            return Err(gone(slot)); // what is held at its path by now is of another table
        }
        let mut rounds = 0;
        loop {
            rounds += 1;
            let shown = self.show(slot).await.map_err(|why| Error::new(ErrorKind::Io, why))?;
            let pins = self.pins.of(&slot.path);
            let held = self.hold_all(slot, &shown, &pins).await;
            self.held.note_short(&slot.path, why_short(&held));
            if self.is_still_so(slot, &shown, &pins).await? {
                return held;
            }
            if rounds == ROUNDS_MAX {
                self.keeper.call(slot); // nobody else has to wait for a table that changes all the time
                return held;
            }
        }
    }

    /// Bringing takes long: pins may have been taken away meanwhile, and the table may have changed. Whoever did that has
    /// let go of what was held by then; this lets go of what has come since. Whether all is as it was.
    async fn is_still_so(&self, slot: &Slot, shown: &Arc<Shown>, pins: &BTreeSet<Selection>) -> Result<bool> {
        if *slot.is_dropped.lock() {
            self.held.forget(&slot.path);
            return Err(gone(slot));
        }
        if !slot.current().is_some_and(|current| Arc::ptr_eq(&current, shown)) {
            // Files of the same names may be others by now.
            self.held.let_go(&slot.path, |_| false);
            return Ok(false);
        }
        let now = self.pins.of(&slot.path);
        if now == *pins {
            return Ok(true);
        }
        let wanted = self.pinned(slot, shown, &now).await?;
        self.held.let_go(&slot.path, |location| wanted.contains_key(location));
        Ok(false)
    }

    /// Whoever brought what is pinned of a table has left before all of it was there, or could not begin.
    pub(super) fn not_held(&self, slot: &Slot, why: &Error) {
        if *slot.is_dropped.lock() {
            // Nobody else looks what has come meanwhile; some of it may be of a table that has its path by now.
            if self.held.forget(&slot.path) {
                self.keeper.call(slot);
            }
        } else if self.pins.has(&slot.path) && self.held.short(&slot.path).is_none() {
            self.held.note_short(&slot.path, Some(why.to_string()));
        }
    }

    async fn hold_all(&self, slot: &Slot, shown: &Shown, pins: &BTreeSet<Selection>) -> Result<Outcome> {
        let mut wanted = self.pinned(slot, shown, pins).await?;
        let local = take_local(&mut wanted);
        if self.held.let_go(&slot.path, |location| wanted.contains_key(location)) {
            self.keeper.call_for_room();
        }
        let claim = self.held.claim(&slot.path);
        let whole = wanted.values().filter(|(_, want)| *want == Want::Whole);
        self.take_room(&claim, whole.map(|(file, _)| file.size).sum())?;
        let is_new = &self.not_cached(&slot.path, &wanted).await;
        // How much the others need only they know: their footers have to come first.
        let sizes = each(wanted.values().cloned(), |(file, want)| async move {
            match self.held.has(&slot.path, &file.location, &want) {
                Some(bytes) => Ok(bytes),
                None => self.size_of(&file, &want).await,
            }
        });
        let sizes = sizes.await;
        self.take_room(&claim, sizes.there.bytes)?;
        // Whatever came after the first that found no room would be fetched for nothing.
        let is_full = &AtomicBool::new(false);
        let held = each(wanted.into_values(), |(file, want)| async move {
            if let Some(bytes) = self.held.has(&slot.path, &file.location, &want) {
                return Ok(bytes);
            }
            if is_full.load(Ordering::Relaxed) {
                return Err(self.no_room(&file.location));
            }
            let Some((holding, size)) = self.hold(&file, &want).await? else {
                is_full.store(true, Ordering::Relaxed);
                return Err(self.no_room(&file.location));
            };
            if let Some(holding) = holding {
                self.held.put(&slot.path, &file.location, want, holding);
            }
            if is_new.contains(&file.location) {
                // Once it is unpinned it is there because somebody asked for it.
                self.brought.lock().entry(file.location).or_insert(Brought::Warmed);
            }
            Ok(size)
        });
        let held = held.await;
        Ok(Outcome { local, is_full: is_full.load(Ordering::Relaxed), ..held })
    }

    /// Those of which nothing is in the cache.
    async fn not_cached(&self, table: &str, wanted: &Wanted) -> HashSet<Location> {
        let is_held = |location: &Location| self.held.bytes_of(table, location).is_some();
        let mut new: HashSet<Location> =
            wanted.keys().filter(|location| !is_held(location)).cloned().collect();
        if !new.is_empty() {
            let stock = Stock::take(self.stores()).await;
            new.retain(|location| stock.of(location).is_none());
        }
        new
    }

    /// What is pinned of a table. A pin of what it does not have any more is one of nothing, until it has that again.
    async fn pinned(&self, slot: &Slot, shown: &Shown, pins: &BTreeSet<Selection>) -> Result<Wanted> {
        let (mut all, mut idle) = (Joint::default(), Vec::new());
        for selection in pins {
            let wanted = match self.selected(shown, selection).await {
                Ok(wanted) => wanted,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
                    tracing::warn!(table = slot.path, pin = %selection, %error, "a pin is about nothing now");
                    idle.push((selection.clone(), error.to_string()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            all.add(wanted);
        }
        self.held.note_idle(&slot.path, idle);
        Ok(all.finished())
    }

    fn take_room(&self, claim: &Claim<'_>, bytes: u64) -> Result<()> {
        let room = Room::of(self.stores().cache());
        let Err(elsewhere) = claim.set(bytes, room.for_pins()) else { return Ok(()) };
        let size = bytesize::ByteSize;
        let message = format!(
            "too much is pinned: {} of {} and {} of other tables, but {}",
            size(bytes),
            claim.table,
            size(elsewhere),
            room.why_no_more_pins()
        );
        Err(Error::new(ErrorKind::Full, message))
    }

    /// How much of the cache a file needs, in bytes.
    pub(super) async fn size_of(&self, file: &LiveFile, want: &Want) -> Result<u64, ObjectError> {
        match self.meant_of(file, want).await? {
            Some((blob, blocks)) => Ok(bytes_of(&blob, &blocks)),
            None => Ok(0),
        }
    }

    /// A file and the blocks of it that are meant; `None` if it is one of this machine.
    pub(super) async fn meant_of(
        &self,
        file: &LiveFile,
        want: &Want,
    ) -> Result<Option<(Blob, BTreeSet<u32>)>, ObjectError> {
        if file.location.file_path().is_some() {
            return Ok(None);
        }
        let blob = self.stores().blob(&file.location, Some(file.size)).await?;
        let blocks = match want {
            Want::Whole => Ok((0..blob.blocks().1).collect()),
            Want::Columns(columns) => chosen(&blob, columns).await,
        };
        match blocks {
            Ok(blocks) => Ok(Some((blob, blocks))),
            Err(error) => Err(self.stores().gone_wrong(&file.location, &error)),
        }
    }

    /// Holds what is wanted of a file, if it is not one of this machine, and says how many bytes it has; `None`: the cache
    /// has no room for it.
    async fn hold(
        &self,
        file: &LiveFile,
        want: &Want,
    ) -> Result<Option<(Option<Holding>, u64)>, ObjectError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some((blob, blocks)) = self.meant_of(file, want).await? else {
                return Ok(Some((None, file.size)));
            };
            let refused = self.refused();
            match held(&blob, blocks, want).await {
                Ok(None) if self.refused() > refused => break, // it would be no other the next time
                Ok(None) => {}
                Ok(Some(holding)) => {
                    let bytes = holding.bytes();
                    return Ok(Some((Some(holding), bytes)));
                }
                Err(error) => return Err(self.stores().gone_wrong(&file.location, &error)),
            }
        }
        Ok(None)
    }

    /// How often the cache has not kept something because it was full.
    fn refused(&self) -> u64 {
        self.stores().cache().stats().totals.not_kept_full
    }

    fn no_room(&self, location: &Location) -> ObjectError {
        let why = format!("there is no room for it: {}", Room::of(self.stores().cache()));
        ObjectError::Failed { location: location.clone(), why }
    }
}

/// Why not all of what was to be held is, if so.
fn why_short(held: &Result<Outcome>) -> Option<String> {
    match held {
        Err(error) => Some(error.to_string()),
        Ok(outcome) if outcome.failed_files == 0 => None,
        Ok(outcome) => {
            let why = outcome.failed.first().map_or("", String::as_str);
            Some(format!("{} files: {why}", outcome.failed_files))
        }
    }
}

fn gone(slot: &Slot) -> Error {
    Error::new(ErrorKind::NotFound, format!("the catalog has no such table any more: {}", slot.path))
}

/// Brings blocks and holds them; `None` if one of them has gone meanwhile.
async fn held(blob: &Blob, blocks: BTreeSet<u32>, want: &Want) -> Result<Option<Holding>, CacheError> {
    blob.warm(blocks.iter().copied()).await?;
    Ok(match want {
        Want::Whole => blob.file().await?.map(Holding::Whole),
        Want::Columns(_) => blob.hold(blocks).map(Holding::Part),
    })
}

/// How many bytes blocks have.
pub(super) fn bytes_of(blob: &Blob, blocks: &BTreeSet<u32>) -> u64 {
    let length = blob.block_bytes();
    blocks.iter().map(|number| length.min(blob.size() - u64::from(*number) * length)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two that come at once do not find the same room.
    #[test]
    fn room_is_claimed_by_one() {
        let held = Held::default();
        let (a, b) = (held.claim("a"), held.claim("b"));
        assert_eq!(a.set(60, 100), Ok(()));
        assert_eq!(b.set(60, 100), Err(60));
        assert_eq!(b.set(40, 100), Ok(()), "that is left");
        assert_eq!(a.set(61, 100), Err(40));
        assert_eq!(a.set(50, 100), Ok(()), "it turns out to be less");
        drop(b);
        assert_eq!(a.set(100, 100), Ok(()));
        drop(a);
        assert_eq!(held.claim("b").set(100, 100), Ok(()));
    }
}
