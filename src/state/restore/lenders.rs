//! [`Lenders`]: the layers that parts of files stand in, and how these parts are read.
use super::fetch::Source;
use super::{LayerSource, RestoreError};
use crate::layer::{LayerError, LayerIndex, References, Section};
use crate::state::head::{Head, TableRef, layer_id};
use crate::sync::Mutex;
use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

/// The most bytes of a stream that are read at once; two such runs are in memory.
const RUN_BYTES: u64 = 8 << 20;
/// Parts this close to each other are read together: most share a frame.
const GAP_BYTES: u64 = 1 << 20;

/// The layers of a version, and those they refer to, by id.
#[derive(Debug, Default)]
pub struct Lenders {
    layers: HashMap<Uuid, Lender>,
    /// Where the frames of those are that were needed. Owner of its lock.
    indexes: Mutex<HashMap<Uuid, Arc<LayerIndex>>>,
}

#[derive(Debug)]
struct Lender {
    source: LayerSource,
    table: Option<TableRef>,
}

/// A part of a file that somebody wants.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// Whose it is: a number that means something to the caller.
    pub file: usize,
    /// Where it belongs in the file.
    pub at: u64,
    /// The layer that has it.
    pub layer: Uuid,
    /// Where it begins in the tar stream of that layer.
    pub from: u64,
    /// How many bytes.
    pub length: u64,
}

impl Want {
    /// The parts of a file that stand elsewhere.
    pub fn all(file: usize, refs: &References) -> impl Iterator<Item = Self> + '_ {
        refs.iter().map(move |r| Self { file, at: r.at, layer: r.layer, from: r.from, length: r.length })
    }

    /// One part of a file.
    pub fn part(file: usize, at: u64, layer: Uuid, from: u64, length: u64) -> Self {
        Self { file, at, layer, from, length }
    }

    /// In pieces that fit a run.
    fn pieces(self) -> impl Iterator<Item = Self> {
        (0..self.length.div_ceil(RUN_BYTES)).map(move |n| {
            let skip = n * RUN_BYTES;
            let length = (self.length - skip).min(RUN_BYTES);
            Self { at: self.at + skip, from: self.from + skip, length, ..self }
        })
    }
}

impl Lenders {
    /// Those of a version.
    pub fn of(head: &Head) -> Self {
        let layers = head.all_layers().filter_map(|(_, layer)| {
            let lender = Lender { source: LayerSource::of(layer), table: layer.table.clone() };
            Some((layer_id(&layer.key)?, lender))
        });
        Self { layers: layers.collect(), indexes: Mutex::default() }
    }

    /// Spares one request for a layer whose table was read already.
    pub fn know(&self, key: &str, index: &Arc<LayerIndex>) {
        if let Some(id) = layer_id(key) {
            self.indexes.lock().insert(id, index.clone());
        }
    }

    /// Reads parts of files, those that lie together in one request, and hands over each with its bytes, in
    /// any order. Waits: not for the runtime's own threads.
    ///
    /// # Errors
    /// [`RestoreError::Layer`] if they lead to a layer that HEAD does not list or outside of its stream;
    /// otherwise as any read of a layer.
    pub(in crate::state) fn read(
        &self,
        source: &Source,
        wants: impl IntoIterator<Item = Want>,
        mut put: impl FnMut(&Want, &[u8]) -> Result<(), LayerError>,
    ) -> Result<(), RestoreError> {
        let mut wants: Vec<Want> = wants.into_iter().flat_map(Want::pieces).collect();
        wants.sort_unstable_by_key(|want| (want.layer, want.from));
        let mut runs = Vec::new();
        for group in wants.chunk_by(|a, b| a.layer == b.layer) {
            let Some(first) = group.first() else { continue };
            let index = self.index(source, first.layer)?;
            let Some(last) = group.iter().map(|want| want.from + want.length).max() else { continue };
            if last > index.raw_bytes() {
                return Err(self.refused(first.layer, "a file refers to what lies outside of it"));
            }
            let run = |(span, wants)| Run { index: index.clone(), span, wants };
            runs.extend(joined(group).into_iter().map(run));
        }
        // The next run is on its way while one is used.
        let mut runs = runs.into_iter();
        let open = |run: &Run<'_>| {
            let lender = self.layers.get(&run.wants.first()?.layer)?;
            Some((lender, source.open_range(&lender.source.key, run.index.range(run.span.clone()))))
        };
        let mut next = runs.next().map(|run| (open(&run), run));
        while let Some((opened, Run { index, span, wants })) = next {
            next = runs.next().map(|run| (open(&run), run));
            let Some((lender, mut bytes)) = opened else {
                return Err(RestoreError::Stopped); // cannot be: its index was found
            };
            let failed = |source: LayerError| RestoreError::Layer { key: lender.source.key.clone(), source };
            let dictionary = source.dictionary(&lender.source)?;
            let mut read = vec![0; (span.end - span.start) as usize];
            let whole = Section::bytes(&mut bytes, &index, span.clone()).and_then(|section| {
                let mut section = section.with_dictionary(dictionary.as_ref());
                section.read_exact(&mut read).map_err(|e| LayerError::from_stream("part of a file", e))
            });
            match (whole, bytes.take_failure()) {
                (_, Some(failure)) => return Err(failure),
                (Err(e), None) => return Err(failed(e)),
                (Ok(()), None) => {}
            }
            for want in wants {
                let start = (want.from - span.start) as usize;
                put(want, &read[start..start + want.length as usize]).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A layer and where its frames are. Waits, as [`read`](Self::read).
    pub(in crate::state) fn layer(
        &self,
        source: &Source,
        layer: Uuid,
    ) -> Result<(LayerSource, Arc<LayerIndex>), RestoreError> {
        let index = self.index(source, layer)?;
        let lender = self.layers.get(&layer).ok_or(RestoreError::Stopped)?;
        Ok((lender.source.clone(), index))
    }

    fn index(&self, source: &Source, layer: Uuid) -> Result<Arc<LayerIndex>, RestoreError> {
        if let Some(index) = self.indexes.lock().get(&layer) {
            return Ok(index.clone());
        }
        let refused = |what| self.refused(layer, what);
        let lender = self.layers.get(&layer).ok_or_else(|| refused("HEAD does not list it"))?;
        let table =
            lender.table.as_ref().ok_or_else(|| refused("a file refers to it, and it has no table"))?;
        let whole = lender.source.bytes;
        let mut bytes = source.open_range(&lender.source.key, whole - table.bytes..whole);
        let mut tail = Vec::new();
        let read = bytes.read_to_end(&mut tail);
        if let Some(failure) = bytes.take_failure() {
            return Err(failure);
        }
        if read.is_err() || *blake3::hash(&tail).as_bytes() != table.digest.0 {
            return Err(refused("its table differs from HEAD"));
        }
        let (index, _) = LayerIndex::read(&tail, whole)
            .map_err(|source| RestoreError::Layer { key: lender.source.key.clone(), source })?;
        let index = Arc::new(index);
        self.indexes.lock().insert(layer, index.clone());
        Ok(index)
    }

    fn refused(&self, layer: Uuid, what: &str) -> RestoreError {
        let key = self.layers.get(&layer).map_or_else(|| layer.to_string(), |l| l.source.key.clone());
        RestoreError::Layer { key, source: LayerError::corrupt(what) }
    }
}

/// What is read at once.
struct Run<'a> {
    index: Arc<LayerIndex>,
    span: Range<u64>,
    wants: &'a [Want],
}

/// Wants of one layer, by their place, in runs of bounded length.
fn joined(wants: &[Want]) -> Vec<(Range<u64>, &[Want])> {
    let mut runs: Vec<(Range<u64>, &[Want])> = Vec::new();
    let (mut start, mut span) = (0, 0..0);
    for (n, want) in wants.iter().enumerate() {
        let end = want.from + want.length;
        let joins = want.from <= span.end + GAP_BYTES && end.max(span.end) - span.start <= RUN_BYTES;
        if n > start && !joins {
            runs.push((span.clone(), &wants[start..n]));
            start = n;
        }
        span = if n == start { want.from..end } else { span.start..span.end.max(end) };
    }
    if start < wants.len() {
        runs.push((span, &wants[start..]));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_together_is_read_together() {
        let mib = 1 << 20;
        let want = |from, length| Want { file: 0, at: 0, layer: Uuid::nil(), from, length };
        let wants = [want(0, 10), want(5, 100), want(mib, 1), want(5 * mib, 4 * mib), want(9 * mib, mib)];
        let spans: Vec<_> = joined(&wants).into_iter().map(|(span, wants)| (span, wants.len())).collect();
        assert_eq!(spans, [(0..mib + 1, 3), (5 * mib..10 * mib, 2)]);
        assert!(joined(&[]).is_empty());
        // No run is longer than one may be, whatever joins.
        let many: Vec<Want> = (0..40).map(|n| want(n * mib, mib)).collect();
        let runs = joined(&many);
        assert!(runs.iter().all(|(span, _)| span.end - span.start <= RUN_BYTES));
        assert_eq!(runs.iter().map(|(_, wants)| wants.len()).sum::<usize>(), 40);
        let pieces: Vec<_> = want(3, 20 * mib).pieces().map(|w| (w.at, w.from, w.length)).collect();
        assert_eq!(
            pieces,
            [(0, 3, 8 * mib), (8 * mib, 3 + 8 * mib, 8 * mib), (16 * mib, 3 + 16 * mib, 4 * mib)]
        );
    }
}
