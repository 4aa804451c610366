//! [`Partial`] files: what waits for its parts in older layers.
use super::Run;
use crate::layer::extract::NewFile;
use crate::layer::{Entry, Kind, LayerError, LayerReader, Metadata, Part, References, Tap};
use crate::path::RelPath;
use crate::state::head::layer_id;
use crate::state::restore::lenders::Want;
use crate::state::restore::{LayerSource, RestoreError};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// The most files that are completed at once: each has a descriptor.
const PARTIAL_AT_ONCE: usize = 128;

/// A file without the parts that other layers have. It has no name before it has them: whatever ends the restore, nobody
/// finds it as if it were whole.
pub(super) struct Partial {
    pub(super) path: RelPath,
    meta: Metadata,
    refs: References,
    pub(super) new: NewFile,
    /// The layers whose parts it has got.
    got: Vec<Uuid>,
}

impl Run {
    /// What files of newer layers want of one that is about to go by: what is read for its entries need not be read
    /// again for them.
    pub(super) fn tap(&mut self, layer: &LayerSource) -> Result<Tap, LayerError> {
        self.tapped = self.partial.len();
        let Some(id) = layer_id(&layer.key) else { return Ok(Tap::default()) };
        let wanting = self.partial.iter_mut().filter(|partial| partial.refs.iter().any(|r| r.layer == id));
        let mut parts = Vec::new();
        for partial in wanting {
            let cloned = partial.new.file.try_clone();
            let file =
                Arc::new(cloned.map_err(|e| LayerError::io(format!("cannot open: {}", partial.path), e))?);
            let wants = Want::all(0, &partial.refs).filter(|want| want.layer == id);
            parts.extend(wants.map(|Want { from, length, at, .. }| Part {
                from,
                length,
                at,
                file: file.clone(),
            }));
            partial.got.push(id);
        }
        Ok(Tap::new(parts))
    }

    /// There is room for an entry. A file that other layers have parts of waits for these.
    pub(super) fn put<R: io::Read + Send>(
        &mut self,
        entry: &Entry,
        reader: &mut LayerReader<R>,
    ) -> Result<(), LayerError> {
        let Kind::File { refs, .. } = &entry.kind else { return self.extractor.place(entry, reader) };
        if refs.is_empty() {
            return self.extractor.place(entry, reader);
        }
        if self.partial.len() >= self.tapped + PARTIAL_AT_ONCE {
            self.complete_new()?;
        }
        let new = self.extractor.begin_file(&entry.path, reader)?;
        let (path, meta, refs) = (entry.path.clone(), entry.meta.clone(), refs.clone());
        self.partial.push(Partial { path, meta, refs, new, got: Vec::new() });
        Ok(())
    }

    /// The same archive has another entry for the path.
    pub(super) fn drop_partial(&mut self, path: &RelPath) {
        let same = |partial: &Partial| partial.path == *path;
        if let Some(number) = self.partial.iter().skip(self.tapped).position(same) {
            let Partial { path, new, .. } = self.partial.remove(self.tapped + number);
            self.extractor.abandon_file(&path, &new);
        }
    }

    /// A file that is to get another name must have its first one. Both are of this layer.
    pub(super) fn complete_target(&mut self, target: &RelPath) -> Result<(), LayerError> {
        let waits = self.partial.iter().skip(self.tapped).any(|partial| partial.path == *target);
        if waits { self.complete_new() } else { Ok(()) }
    }

    /// Completes what has come since this layer began. What it gives others they have only when it has gone by.
    fn complete_new(&mut self) -> Result<(), LayerError> {
        self.complete(self.tapped).map_err(|failure| {
            self.failure = Some(failure);
            LayerError::io("parts of files", io::ErrorKind::Other)
        })
    }

    /// Gives all files but the first `kept` of those that wait the parts that stand in other layers and did not go by
    /// after them, and then their attributes and names.
    pub(super) fn complete(&mut self, kept: usize) -> Result<(), RestoreError> {
        let partial = self.partial.split_off(kept.min(self.partial.len()));
        for (number, group) in partial.chunks(PARTIAL_AT_ONCE).enumerate() {
            if let Err(e) = self.fill(group) {
                for Partial { path, new, .. } in &partial[number * PARTIAL_AT_ONCE..] {
                    self.extractor.abandon_file(path, new);
                }
                return Err(e);
            }
            let placed = self.extractor.take_placed();
            self.hand_over(placed, 0);
        }
        Ok(())
    }

    fn fill(&mut self, group: &[Partial]) -> Result<(), RestoreError> {
        let wants = group.iter().enumerate().flat_map(|(n, partial)| {
            Want::all(n, &partial.refs).filter(|want| !partial.got.contains(&want.layer))
        });
        let stop = &self.counters.stop;
        self.policy.lenders.read(&self.source, wants, |want, bytes| {
            if stop.load(Ordering::Relaxed) {
                return Err(LayerError::io("restore was stopped", io::ErrorKind::Interrupted));
            }
            let Partial { path, new, .. } = &group[want.file];
            let written = new.file.write_all_at(bytes, want.at);
            written.map_err(|e| LayerError::io(format!("cannot write: {path}"), e))
        })?;
        for Partial { path, meta, refs, new, .. } in group {
            let seen = self.passing.completed(&new.file, refs);
            let failed = |e| LayerError::io(format!("cannot read: {path}"), e);
            seen.map_err(|e| RestoreError::Finish { source: failed(e) })?;
            let named = self.extractor.name_file(path, new, meta);
            named.map_err(|source| RestoreError::Finish { source })?;
        }
        Ok(())
    }
}
