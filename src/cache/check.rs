//! What happens behind a start: every file is compared with what the journal says of it.
//!
//! One walk through the directories. An entry whose file, size or witness is not right is dropped. A file
//! that nothing names is adopted if its witness is right, else deleted. Look-ups do not wait for it: what
//! they hand out they verify themselves.
use super::blob_entry::BlobEntry;
use super::core::{Core, Slot};
use super::error::CacheError;
use super::events::Event;
use super::evictor::{Held, now};
use super::file_entry::{FileEntry, Parts};
use super::key::Identity;
use super::record::{BLOCKS, BlockRecord, ENTRIES, EntryRecord, Used, block_key, entry_key};
use super::stats::Meters;
use super::store::{Found, Name, Place};
use super::witness::Witness;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// How many steps it has: the directories, and what was in none of them.
pub const CHECKS: u32 = 257;

/// Checks everything that was found at the start. Blocks; minutes if there are millions of files.
pub fn check(core: &Arc<Core>) {
    if check_all(core) {
        core.certain.store(true, SeqCst);
    }
    core.checked.send_replace(CHECKS);
    core.departed.lock().clear();
    core.deleted.lock().clear();
}

/// `false` if the cache was closed before its end.
fn check_all(core: &Arc<Core>) -> bool {
    let mut complete = true;
    for (number, directory) in core.store.directories() {
        core.checked.send_replace(number.into());
        if *core.closed.read() {
            return false;
        }
        if let Err(error) = check_directory(core, number, &directory) {
            tracing::warn!(path = %directory.display(), %error, "a directory of the cache cannot be checked");
            complete = false;
        }
    }
    for held in core.evictor.all() {
        let old = match &held {
            Held::File(file) => file.generation < core.first_generation && !file.is_seen(),
            Held::Blob(blob) => blob.generation < core.first_generation && !blob.is_seen(),
        };
        if old && !*core.closed.read() {
            lost(core, &held);
        }
    }
    core.shrink_to(u64::MAX, None);
    complete && !*core.closed.read()
}

/// Drops what is not there.
fn lost(core: &Arc<Core>, held: &Held) {
    if dropped(core, held) {
        Meters::count(&core.meters.lost);
    }
}

/// `false` if it has left meanwhile in some other way.
fn dropped(core: &Arc<Core>, held: &Held) -> bool {
    match held {
        Held::File(file) => core.drop_file(file),
        Held::Blob(blob) => core.drop_blob(blob),
    }
}

/// Drops what is there and is not what was written.
fn damaged(core: &Arc<Core>, held: &Held) {
    if !dropped(core, held) {
        return;
    }
    Meters::count(&core.meters.corrupt_drops);
    let subject = match held {
        Held::File(file) => file.subject(),
        Held::Blob(blob) => blob.subject(0),
    };
    tracing::warn!(what = ?subject, "a file of the cache is damaged and is dropped");
    core.events.send(|| Event::Corrupt(subject));
}

fn check_directory(core: &Arc<Core>, number: u8, directory: &Path) -> std::io::Result<()> {
    let (mut entries, mut witnesses) = (HashSet::new(), Vec::new());
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match Found::parse(number, &entry.file_name()) {
            Found::Bytes(name) if name.generation < core.first_generation => {
                entries.insert(name);
            }
            Found::Witness(name) if name.generation < core.first_generation => witnesses.push(name),
            Found::Bytes(_) | Found::Witness(_) => {}
            Found::Foreign => {
                Meters::count(&core.meters.strays_deleted);
                let _stays = std::fs::remove_file(entry.path());
            }
        }
    }
    for name in &entries {
        check_entry(core, name);
    }
    for name in witnesses.iter().filter(|name| !entries.contains(name)) {
        Meters::count(&core.meters.strays_deleted);
        core.store.remove(name);
    }
    Ok(())
}

fn check_entry(core: &Arc<Core>, name: &Name) {
    match core.evictor.held(name.generation) {
        Some(held @ Held::File(_)) => {
            let Held::File(file) = &held else { return };
            let looked = if file.name() == *name { looked_at(file) } else { Err(foreign()) };
            judge(core, &held, looked, || file.see());
        }
        Some(held @ Held::Blob(_)) => {
            let Held::Blob(blob) = &held else { return };
            let looked = if blob.name() == *name { audit(core, blob) } else { Err(foreign()) };
            judge(core, &held, looked, || blob.see());
        }
        // Whoever holds it still reads it.
        None if core.departed.lock().contains(&name.generation) => {}
        None => {
            // It may have been evicted since the directory was read; then there is nothing to adopt either.
            if !adopt(core, name) {
                Meters::count(&core.meters.strays_deleted);
                core.store.remove(name);
            }
        }
    }
}

/// Of a file that has the number of an entry and not its name.
fn foreign() -> CacheError {
    CacheError::Corrupt { what: "a file with the number of another one".into() }
}

/// Keeps what is right, and what could not be looked at: whoever asks for it verifies it.
fn judge(core: &Arc<Core>, held: &Held, looked: Result<(), CacheError>, see: impl FnOnce()) {
    match looked {
        Ok(()) => see(),
        Err(error) if error.is_shortage() => {
            tracing::warn!(%error, "an entry of the cache could not be checked");
            see();
        }
        // Deleted while somebody held it, or being so at this moment.
        Err(CacheError::Deleted) => lost(core, held),
        Err(CacheError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            lost(core, held);
        }
        Err(_) => damaged(core, held),
    }
}

/// Whether size and witness are those of the entry.
fn looked_at(file: &FileEntry) -> Result<(), CacheError> {
    let path = file.path();
    let found = std::fs::symlink_metadata(&path).map_err(|e| CacheError::io("look at", &path, e))?;
    if !found.is_file() || found.len() != file.size {
        return Err(CacheError::Corrupt { what: file.key.to_string() });
    }
    file.witnessed().map(drop)
}

/// Brings an object's entry and its file together.
fn audit(core: &Arc<Core>, blob: &Arc<BlobEntry>) -> Result<(), CacheError> {
    let audit = blob.audit(&core.budget, core.evictor.tick())?;
    core.meters.lost.fetch_add(audit.lost.len() as u64 - audit.damaged, Relaxed);
    core.meters.corrupt_drops.fetch_add(audit.damaged, Relaxed);
    core.meters.adopted.fetch_add(audit.adopted.len() as u64, Relaxed);
    for block in &audit.lost {
        core.evictor.forget(blob.unit(block));
    }
    let now = now();
    for block in &audit.adopted {
        core.evictor.admit(blob.unit(block), blob.facts(block, now));
    }
    core.ledger.record(|batch| {
        for block in &audit.lost {
            batch.delete(BLOCKS, &block_key(blob.generation, block.number));
        }
        for block in &audit.adopted {
            let record = BlockRecord { digest: block.digest, used: block.usage.used() };
            let key = block_key(blob.generation, block.number);
            batch.put(BLOCKS, &key, record.encode(blob.generation, block.number));
        }
    });
    if blob.blocks_here() == 0 {
        core.drop_idle(blob);
    }
    Ok(())
}

/// Takes a file in that nothing names, if its witness is right; `false` if it is not.
fn adopt(core: &Arc<Core>, name: &Name) -> bool {
    let Ok((witness, place)) = core.store.get_witness(name) else { return false };
    let header = &witness.header;
    if header.generation != name.generation || header.identity.digest() != name.digest {
        return false;
    }
    let length = std::fs::symlink_metadata(core.store.path(name)).map(|m| (m.is_file(), m.len()));
    if !length.is_ok_and(|length| length == (true, header.identity.size())) {
        return false;
    }
    match header.identity {
        Identity::File { .. } => adopt_file(core, &witness, place),
        Identity::Object(_) => adopt_object(core, witness, place),
    }
}

fn adopt_file(core: &Arc<Core>, witness: &Witness, place: Place) -> bool {
    let header = &witness.header;
    let record = EntryRecord {
        identity: header.identity.clone(),
        block_bytes: header.block_bytes,
        whole: header.whole,
        created: now(),
        sidecar: place == Place::Sidecar,
        used: Used { tick: core.evictor.tick(), ..Used::default() },
    };
    let generation = header.generation;
    let value = record.encode(generation);
    let parts = Parts { record, generation, store: core.store.clone(), verified: false };
    let Some(file) = FileEntry::found(parts, &core.budget) else { return false };
    file.see();
    let file = Arc::new(file);
    if core.deleted.lock().contains(&file.key) {
        return false;
    }
    // The journal may not have learned that the key was given up and filled anew: what came later counts.
    let earlier = core.files.get(&file.key, |slot| match slot {
        Slot::File(held) if held.generation < generation => Some(held.clone()),
        _ => None,
    });
    if let Some(earlier) = earlier.flatten() {
        core.drop_file(&earlier);
    }
    core.files.change(&file.key, |map| {
        if map.contains_key(&file.key) || core.deleted.lock().contains(&file.key) {
            return false; // the key was filled anew, or deleted
        }
        map.insert(file.key.clone(), Slot::File(file.clone()));
        core.evictor.hold(generation, Held::File(file.clone()));
        core.evictor.admit(file.unit(), file.facts(now()));
        core.ledger.record(|batch| batch.put(ENTRIES, &entry_key(generation), value));
        Meters::count(&core.meters.adopted);
        true
    })
}

fn adopt_object(core: &Arc<Core>, witness: Witness, place: Place) -> bool {
    let Witness { header, slots, .. } = witness;
    let Identity::Object(id) = header.identity else { return false };
    if slots.iter().all(Option::is_none) {
        return false;
    }
    let id = Arc::new(id);
    let blob = BlobEntry::new(id.clone(), header.generation, now(), header.block_bytes, core.store.clone());
    blob.see();
    blob.restore(place, Vec::new(), &core.budget);
    let blob = Arc::new(blob);
    let earlier = core.blobs.get(&*id, Arc::clone).filter(|held| held.generation < blob.generation);
    if let Some(earlier) = earlier {
        core.drop_blob(&earlier);
    }
    let taken = core.blobs.change(&*id, |map| {
        if map.contains_key(&*id) {
            return false;
        }
        map.insert(id.clone(), blob.clone());
        core.evictor.hold(blob.generation, Held::Blob(blob.clone()));
        core.ledger.record(|batch| {
            if blob.to_record() {
                batch.put(ENTRIES, &entry_key(blob.generation), blob.record().encode(blob.generation));
            }
        });
        true
    });
    if !taken {
        return false;
    }
    if audit(core, &blob).is_err() {
        core.drop_blob(&blob);
        return false;
    }
    true
}
