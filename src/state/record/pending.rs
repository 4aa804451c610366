//! The flush under way: what it will change in the records once HEAD has its layer.
//!
//! A conditional PUT whose reply was lost may have been applied, or may be applied later. So what
//! a flush meant to do is kept until HEAD shows either its layer, or a version that excludes it.
use super::{Base, Records, Writer};
use crate::journal::{Batch, JournalError, Tree};
use crate::path::RelPath;
use crate::state::head::VersionId;
use crate::state::identity::Identity;
use serde::{Deserialize, Serialize};

pub(super) const PENDING: Tree = Tree("pending");
/// How many flushes of unknown end are kept; the oldest makes room.
pub const PENDING_MAX: u8 = 8;
/// How many changes one journal value holds.
const CHUNK: usize = 64;
/// The number in every pending header.
const HEADER_VERSION: u32 = 1;

/// A flush whose end is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    header_version: u32,
    /// Which of the bounded places it has.
    slot: u8,
    /// Counts flushes, so that the oldest is known.
    sequence: u64,
    /// The name whose HEAD it swaps.
    pub target: String,
    /// Its layer (layout single: its archive).
    pub layer: String,
    /// BLAKE3 of that object.
    pub digest: [u8; 32],
    /// Length of that object.
    pub bytes: u64,
    /// The version it makes.
    pub version: VersionId,
    /// HEAD has it; applying it may have been interrupted.
    swapped: bool,
    chunks: u32,
    /// Its layer goes on top of what another writer made: the version has more than the tree.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    merged: bool,
}

impl Pending {
    /// Whether its version has more than the tree it was made of.
    pub fn is_merged(&self) -> bool {
        self.merged
    }
}

/// One change of the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delta {
    /// Nothing is at this path any more, nor below it.
    Remove(Vec<u8>),
    /// Nothing is below this path any more.
    RemoveBelow(Vec<u8>),
    /// This is at the path.
    Put(Vec<u8>, Identity),
}

impl Records {
    /// The flushes of unknown end, oldest first.
    pub fn pending(&self) -> Result<Vec<Pending>, JournalError> {
        let mut all = Vec::new();
        for slot in 0..PENDING_MAX {
            if let Some(bytes) = self.journal.get(PENDING, &[slot])? {
                let header: Pending = serde_json::from_slice(&bytes)
                    .map_err(|e| JournalError::corrupt(format!("pending flush: {e}")))?;
                if header.header_version != HEADER_VERSION || header.slot != slot {
                    return Err(JournalError::corrupt("pending flush of an unknown version"));
                }
                all.push(header);
            }
        }
        all.sort_by_key(|p| p.sequence);
        Ok(all)
    }

    /// Writes down what a flush will change, durably, and with it what it was made of that no file shows. To be called
    /// before HEAD is swapped.
    pub fn stage(
        &self,
        target: &str,
        layer: &str,
        object: ([u8; 32], u64),
        version: VersionId,
        deltas: impl Iterator<Item = Delta>,
    ) -> Result<Pending, JournalError> {
        let existing = self.pending()?;
        let used = |slot: &u8| existing.iter().any(|p| p.slot == *slot);
        let slot = match (0..PENDING_MAX).find(|slot| !used(slot)) {
            Some(free) => free,
            None => {
                let oldest = &existing[0];
                self.discard(oldest)?;
                oldest.slot
            }
        };
        let mut header = Pending {
            header_version: HEADER_VERSION,
            slot,
            sequence: existing.last().map_or(1, |p| p.sequence + 1),
            target: target.into(),
            layer: layer.into(),
            digest: object.0,
            bytes: object.1,
            version,
            swapped: false,
            chunks: 0,
            merged: false,
        };
        let mut deltas = deltas.peekable();
        let mut batch = Batch::new();
        while deltas.peek().is_some() {
            let chunk: Vec<Delta> = deltas.by_ref().take(CHUNK).collect();
            let bytes = postcard::to_stdvec(&chunk).map_err(|e| JournalError::corrupt(e.to_string()))?;
            batch.put(PENDING, &chunk_key(slot, header.chunks), bytes);
            header.chunks += 1;
            if batch.len() >= CHUNK {
                self.journal.apply(std::mem::take(&mut batch))?;
            }
        }
        // The header counts; chunks without one are nothing and will be overwritten.
        put_header(&mut batch, &header)?;
        self.journal.apply(batch)?;
        self.sync_absent()?;
        self.journal.flush()?;
        Ok(header)
    }

    /// Notes that a staged flush goes to another name, durably. To be called before that HEAD is written.
    pub fn retarget(
        &self,
        pending: &mut Pending,
        target: &str,
        version: VersionId,
    ) -> Result<(), JournalError> {
        target.clone_into(&mut pending.target);
        (pending.version, pending.merged) = (version, false);
        self.put_pending(pending)
    }

    /// Notes that a staged flush goes on top of another writer's version, durably. To be called before that HEAD
    /// is written. The tree it was made of stays the base of the records.
    pub fn merge(&self, pending: &mut Pending, version: VersionId) -> Result<(), JournalError> {
        (pending.version, pending.merged) = (version, true);
        self.put_pending(pending)
    }

    fn put_pending(&self, pending: &Pending) -> Result<(), JournalError> {
        let mut batch = Batch::new();
        put_header(&mut batch, pending)?;
        self.journal.apply(batch)?;
        self.journal.flush()
    }

    /// HEAD has this flush's layer: its changes become the records and all other pending flushes,
    /// which HEAD now excludes, are dropped. Work goes on under the name it was for.
    ///
    /// Interrupted anywhere, it is to be called again at the next start (see
    /// [`interrupted`](Self::interrupted)).
    pub fn promote(&self, pending: &Pending, base: Base) -> Result<(), JournalError> {
        let mut writer = Writer::new(self);
        let mut header = pending.clone();
        header.swapped = true;
        put_header(&mut writer.batch, &header)?;
        let mut gone = Vec::new();
        for n in 0..pending.chunks {
            let bytes = self
                .journal
                .get(PENDING, &chunk_key(pending.slot, n))?
                .ok_or_else(|| JournalError::corrupt("pending flush is incomplete"))?;
            let chunk: Vec<Delta> = postcard::from_bytes(&bytes)
                .map_err(|e| JournalError::corrupt(format!("pending flush: {e}")))?;
            for delta in chunk {
                match delta {
                    Delta::Remove(path) => {
                        let path = checked(path)?;
                        writer.remove_below(&path)?;
                        writer.remove(&path)?;
                        gone.push(path);
                    }
                    Delta::RemoveBelow(path) => writer.remove_below(&checked(path)?)?,
                    Delta::Put(path, ident) => writer.put(&checked(path)?, &ident)?,
                }
            }
        }
        let mut batch = std::mem::take(&mut writer.batch);
        for other in self.pending()? {
            self.drop_keys(&mut batch, &other)?;
        }
        self.drop_keys(&mut batch, pending)?;
        self.edit_meta(batch, |meta| {
            meta.fork = (pending.target != meta.name).then(|| pending.target.clone());
            if !pending.merged {
                meta.base = Some(base);
            }
        })?;
        self.follow_touched()?;
        self.journal.flush()?;
        if let Some(absent) = self.absent() {
            // If this is lost, the next version says once more that they are gone.
            let saved = gone.iter().try_for_each(|path| absent.saved_removal(path));
            saved.map_err(|source| JournalError::Io {
                action: "note what was removed in the log beside the",
                source,
            })?;
        }
        self.sync_absent()
    }

    /// What programs did to what is not on the disk stands in another log. A version that has it is not to outlive it:
    /// the next one would take it back.
    fn sync_absent(&self) -> Result<(), JournalError> {
        let synced = self.absent().map_or(Ok(()), |absent| absent.sync());
        synced.map_err(|source| JournalError::Io { action: "flush the log beside the", source })
    }

    /// A flush that HEAD had, but whose promotion was cut off: promote it again, whatever HEAD
    /// says now.
    pub fn interrupted(&self) -> Result<Option<Pending>, JournalError> {
        Ok(self.pending()?.into_iter().find(|p| p.swapped))
    }

    /// A flush that certainly did not happen and cannot happen any more.
    pub fn discard(&self, pending: &Pending) -> Result<(), JournalError> {
        let mut batch = Batch::new();
        self.drop_keys(&mut batch, pending)?;
        self.journal.apply(batch)
    }

    /// From now on the work goes to the fork `name`, whose first version is still to be written.
    pub fn move_to_fork(&self, name: &str) -> Result<(), JournalError> {
        let mut batch = Batch::new();
        for pending in self.pending()? {
            self.drop_keys(&mut batch, &pending)?;
        }
        self.edit_meta(batch, |meta| meta.fork = Some(name.into()))?;
        self.journal.flush()
    }

    /// Deletes what the journal has in a flush's place. The header's count is not asked: it is only
    /// what was read, and chunks that a longer flush left there unfinished have to go as well.
    pub(super) fn drop_keys(&self, batch: &mut Batch, pending: &Pending) -> Result<(), JournalError> {
        let place = [pending.slot];
        batch.delete(PENDING, &place);
        for pair in self.journal.scan_prefix(PENDING, &place) {
            let (key, _) = pair?;
            if key != place {
                batch.delete(PENDING, &key);
            }
        }
        Ok(())
    }
}

fn checked(path: Vec<u8>) -> Result<RelPath, JournalError> {
    RelPath::new(path).map_err(|e| JournalError::corrupt(format!("pending flush: {e}")))
}

fn put_header(batch: &mut Batch, header: &Pending) -> Result<(), JournalError> {
    let bytes = serde_json::to_vec(header).map_err(|e| JournalError::corrupt(e.to_string()))?;
    batch.put(PENDING, &[header.slot], bytes);
    Ok(())
}

fn chunk_key(slot: u8, n: u32) -> Vec<u8> {
    [&[slot][..], &n.to_be_bytes()].concat()
}
