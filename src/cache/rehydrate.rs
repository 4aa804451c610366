//! Coming back after a restart: everything the journal names is there again at once, in the order in which
//! it was used. Whether the disk agrees is checked behind it; see [`check`](super::check).
use super::blob_entry::BlobEntry;
use super::budget::Budget;
use super::codec::Malformed;
use super::core::Slot;
use super::error::CacheError;
use super::evict::{Facts, Unit};
use super::evictor::{Evictor, Held, now};
use super::file_entry::{FileEntry, Parts};
use super::index::Index;
use super::key::{Identity, Key, ObjectId};
use super::reading::Reading;
use super::record::{
    BLOCKS, BlockRecord, CLEAN, ENTRIES, EntryRecord, FORMAT, FORMAT_VALUE, META, SESSION, decode_session,
    encode_session, entry_key,
};
use super::spread::ByNumber;
use super::store::{Place, Store};
use crate::journal::{Batch, Journal, JournalError, Tree};
use std::sync::Arc;

/// What comes back, and where it is put.
#[derive(Debug)]
pub struct Ground<'a> {
    pub journal: &'a dyn Journal,
    pub store: &'a Arc<Store>,
    pub budget: &'a Arc<Budget>,
    pub evictor: &'a Evictor,
    pub files: &'a Index<Key, Slot>,
    pub blobs: &'a Index<Arc<ObjectId>, Arc<BlobEntry>>,
    /// Seconds since 1970: what comes back is as good as used now.
    pub now: u64,
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rehydrated {
    /// How many entries.
    pub entries: u64,
    /// How many records were of no use.
    pub lost: u64,
    /// The first generation of this session.
    pub first_generation: u64,
    /// Whether the journal is a new one beside files of an old one.
    pub rebuilt: bool,
    /// Whether there can be nothing that the journal does not know.
    pub clean: bool,
}

/// Says whether a journal is of this format and was used before; an empty one becomes it.
fn claim(journal: &dyn Journal) -> Result<bool, JournalError> {
    match journal.get(META, FORMAT)? {
        Some(value) if value == FORMAT_VALUE => Ok(true),
        Some(value) => match value.split_last_chunk::<4>() {
            Some((magic, version)) if FORMAT_VALUE.starts_with(magic) && magic.len() == 8 => {
                Err(JournalError::Version { path: "journal".into(), found: u32::from_le_bytes(*version) })
            }
            _ => Err(JournalError::corrupt("the format record of the cache is not ours")),
        },
        None => {
            let mut batch = Batch::new();
            batch.put(META, FORMAT, FORMAT_VALUE);
            journal.apply(batch)?;
            Ok(false)
        }
    }
}

/// The number of this session, which is written down: larger than all before, even if the journal was lost. And
/// whether the journal knows all that is there, because the session before has ended in good order.
fn begin_session(journal: &dyn Journal, store: &Store) -> Result<(u32, bool), JournalError> {
    let read = |key| -> Result<_, JournalError> {
        Ok(journal.get(META, key)?.map(|value| decode_session(key, &value)))
    };
    let (last, clean) = match read(SESSION)? {
        Some(Ok(last)) => (last, read(CLEAN)? == Some(Ok(last))),
        // Files may be of sessions that nobody remembers.
        Some(Err(_)) | None => {
            let last = store.newest_session();
            (last, last == 0)
        }
    };
    let session = last.saturating_add(1).max(u32::try_from(now()).unwrap_or(0));
    let mut batch = Batch::new();
    batch.put(META, SESSION, encode_session(session));
    batch.delete(META, CLEAN);
    journal.apply(batch)?;
    journal.flush()?;
    Ok((session, clean))
}

/// What the journal names is there again.
pub fn rehydrate(ground: &Ground<'_>) -> Result<Rehydrated, CacheError> {
    let used_before = claim(ground.journal)?;
    let rebuilt = !used_before && ground.store.newest_session() > 0;
    if rebuilt {
        tracing::warn!(path = %ground.store.root().display(), "the journal of the cache is lost; it is rebuilt from the files");
    }
    let (session, clean) = begin_session(ground.journal, ground.store)?;
    let mut useless = Batch::new();
    let mut returned = Returned::default();
    std::thread::scope(|scope| {
        let mut entries = Reading::begin(scope, ground.journal, ENTRIES);
        let mut blocks = Blocks::new(Reading::begin(scope, ground.journal, BLOCKS));
        while let Some((key, value)) = entries.pair()? {
            let result = match EntryRecord::decode(key, value) {
                Ok((generation, record)) => match record.identity {
                    Identity::File { .. } => returned.file(ground, generation, record),
                    Identity::Object(_) => {
                        let found = blocks.of(generation, &mut useless)?;
                        if found.is_empty() {
                            useless.delete(ENTRIES, key); // a kill came before its first block, or after its last
                            Ok(())
                        } else {
                            returned.object(ground, generation, record, found)
                        }
                    }
                },
                Err(why) => Err(why),
            };
            if let Err(why) = result {
                drop_record(&mut useless, ENTRIES, key, why);
            }
            entries.advance();
        }
        blocks.rest(&mut useless)
    })?;
    let Returned { files, held, mut units, mut replaced } = returned;
    // The index and the policy's order have nothing in common: each on a processor of its own.
    std::thread::scope(|scope| {
        let slots = files.into_iter().map(|file| (file.key.clone(), Slot::File(file)));
        let indexing = scope.spawn(|| ground.files.fill(slots));
        units.sort_unstable_by_key(|(tick, unit, _)| (*tick, *unit));
        ground.evictor.resume(units.last().map_or(0, |(tick, ..)| *tick));
        ground.evictor.admit_all(held, units.into_iter().map(|(_, unit, facts)| (unit, facts)));
        let replacing = indexing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for older in replacing {
            if let Slot::File(older) = older {
                older.remove();
                ground.evictor.forget(older.unit());
                replaced.push(older.generation);
            }
        }
    });
    for generation in replaced {
        useless.delete(ENTRIES, &entry_key(generation));
    }
    let lost = useless.len() as u64;
    if !useless.is_empty() {
        ground.journal.apply(useless)?;
    }
    let entries = ground.evictor.count();
    Ok(Rehydrated { entries, lost, first_generation: u64::from(session) << 32, rebuilt, clean })
}

fn drop_record(useless: &mut Batch, tree: Tree, key: &[u8], why: Malformed) {
    tracing::warn!(%why, "a record of the cache's journal is of no use and is dropped");
    useless.delete(tree, key);
}

/// The blocks, which lie in the order of the entries that they are of.
struct Blocks<'s>(Reading<'s>);

impl<'s> Blocks<'s> {
    fn new(reading: Reading<'s>) -> Self {
        Self(reading)
    }

    /// Those of this entry; each call is for a later one. Those of none are of no use.
    fn of(&mut self, generation: u64, useless: &mut Batch) -> Result<Vec<(u32, BlockRecord)>, JournalError> {
        let mut found = Vec::new();
        while let Some((key, value)) = self.0.pair()? {
            if key.first_chunk::<8>().is_some_and(|own| u64::from_be_bytes(*own) > generation) {
                break;
            }
            match BlockRecord::decode(key, value) {
                Ok((own, number, record)) if own == generation => found.push((number, record)),
                Ok(_) => useless.delete(BLOCKS, key),
                Err(why) => drop_record(useless, BLOCKS, key, why),
            }
            self.0.advance();
        }
        Ok(found)
    }

    /// No entry is left that any could be of.
    fn rest(mut self, useless: &mut Batch) -> Result<(), JournalError> {
        while let Some((key, _)) = self.0.pair()? {
            useless.delete(BLOCKS, key);
            self.0.advance();
        }
        Ok(())
    }
}

#[derive(Default)]
struct Returned {
    /// In the order of their generations.
    files: Vec<Arc<FileEntry>>,
    held: ByNumber<u64, Held>,
    /// With the tick of their last use.
    units: Vec<(u64, Unit, Facts)>,
    /// Older generations of what has a newer one.
    replaced: Vec<u64>,
}

impl Returned {
    fn file(&mut self, ground: &Ground<'_>, generation: u64, record: EntryRecord) -> Result<(), Malformed> {
        let parts = Parts { record, generation, store: ground.store.clone(), verified: false };
        let file = Arc::new(FileEntry::found(parts, ground.budget).ok_or(Malformed("it is no file"))?);
        self.units.push((file.usage.tick(), file.unit(), file.facts(ground.now)));
        self.held.insert(generation, Held::File(file.clone()));
        self.files.push(file);
        Ok(())
    }

    fn object(
        &mut self,
        ground: &Ground<'_>,
        generation: u64,
        record: EntryRecord,
        blocks: Vec<(u32, BlockRecord)>,
    ) -> Result<(), Malformed> {
        let Identity::Object(id) = record.identity else { return Err(Malformed("it is no object")) };
        let id = Arc::new(id);
        let blob =
            BlobEntry::new(id.clone(), generation, record.created, record.block_bytes, ground.store.clone());
        let place = if record.sidecar { Place::Sidecar } else { Place::Attribute };
        blob.restore(place, blocks, ground.budget);
        let _has_one = blob.to_record();
        let blob = Arc::new(blob);
        let older = ground.blobs.change(&*id, |map| map.insert(id.clone(), blob.clone()));
        if let Some(older) = older {
            older.remove();
            self.replaced.push(older.generation);
            self.held.remove(&older.generation);
            self.units.retain(|(_, unit, _)| unit.generation != older.generation);
        }
        for block in blob.blocks() {
            self.units.push((block.usage.tick(), blob.unit(&block), blob.facts(&block, ground.now)));
        }
        self.held.insert(generation, Held::Blob(blob));
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use crate::cache::config::Config;
    use crate::cache::evict::PolicyKind;
    use crate::cache::fill::{Begun, Fill, FillOptions};
    use crate::cache::key::Key;
    use crate::cache::opening::open_on;
    use crate::journal::MemoryJournal;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_restart_is_no_end_of_a_time_to_live() {
        for policy in PolicyKind::ALL {
            let dir = tempfile::tempdir().expect("directory");
            let (journal, runtime) = (Arc::new(MemoryJournal::new()), tokio::runtime::Handle::current());
            let open = || {
                let config = Config { policy, min_free: 0, ..Config::new(dir.path()) };
                open_on(config, journal.clone(), &runtime).expect("opens")
            };
            let core = open();
            for n in 0..20 {
                let key = Key::new(n.to_string()).expect("a key");
                let begun = Fill::begin(&core, &key, FillOptions::default()).expect("begins");
                let Begun::Fill(fill) = begun else { unreachable!("nobody else fills") };
                drop(fill.finish_blocking().expect("ends"));
            }
            core.ledger.end().expect("ends");
            drop(core);
            let core = open();
            core.expire();
            assert_eq!(core.evictor.count(), 20, "{policy:?}");
        }
    }
}
