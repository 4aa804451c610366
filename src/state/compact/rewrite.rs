//! [`rewrite`]: the merged layer, written.
use super::content::{Copied, Piece, WINDOW_BYTES};
use super::merge::{Merge, Merged, Tail};
use crate::layer::content::Content;
use crate::layer::{
    Entry, Kind, LayerError, LayerWriter, Located, Metadata, PackOptions, Reference, References,
};
use crate::layer::{Row, Section, Summary, locate};
use crate::state::chunk::{self, Digested, Known};
use crate::state::commit::CommitError;
use crate::state::head::{Head, LayerRef, layer_id, layer_key};
use crate::state::restore::RestoreError;
use crate::state::restore::fetch::Source;
use crate::state::restore::lenders::Lenders;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{Read, Write};
use std::ops::Range;
use uuid::Uuid;

/// Content is copied out of layers up to this size, in bytes, whatever is left of it.
const SMALL_BYTES: u64 = 4 << 20;
/// How many entries are read ahead together.
const TOGETHER: usize = 512;
/// Of an entry with holes or references so many bytes are read to find its headers, then four times more.
const HEADERS_LIKELY: u64 = 16 << 10;

/// What a merge is for, which decides what is copied. Small layers always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Fewer layers: of one that is mostly alive the content stays where it is.
    Shorter,
    /// Less that is dead: only of one that is nearly all alive it stays.
    Leaner,
}

/// What was written.
#[derive(Debug)]
pub struct Rewritten {
    /// The layer.
    pub summary: Summary,
    /// Entries it sets.
    pub changed: u64,
    /// Paths it removes.
    pub removed: u64,
    /// Files that may not be of one instant.
    pub fuzzy: u64,
    /// Keys of the layers it refers to.
    pub refers: Vec<String>,
    /// Bytes of files that were copied.
    pub copied: u64,
}

/// What a rewrite works with.
struct Work<'a> {
    lenders: &'a Lenders,
    source: &'a Source,
    /// The layers that are merged, oldest first.
    ids: Vec<Uuid>,
    /// Those out of which content is copied.
    copies: HashSet<Uuid>,
}

/// A file of the merged layer: what is referred to is in the entry.
struct File<'a> {
    entry: Entry,
    content: Option<Copied<'a>>,
}

/// Merges layers `run` of a version into one that is called `own`, reading what it needs by `source`. `tails`
/// are theirs. Where content stands then is told to `known`. Waits: not for the runtime's own threads.
///
/// # Errors
/// As reading and writing layers; a layer that is not ours cannot be merged.
pub(in crate::state) fn rewrite<W: Write + Send>(
    (head, run, tails, aim): (&Head, Range<usize>, &[bytes::Bytes], Aim),
    (lenders, source): (&Lenders, &Source),
    (known, own): (Option<&Known>, Uuid),
    (sink, options): (W, PackOptions),
) -> Result<Rewritten, CommitError> {
    let layers = head.layers.get(run.clone()).unwrap_or_default();
    let foreign = || LayerError::corrupt("a layer has no id and cannot be merged");
    let ids: Vec<Uuid> =
        layers.iter().map(|l| layer_id(&l.key).ok_or_else(foreign)).collect::<Result<_, _>>()?;
    let tails: Vec<Tail<'_>> =
        tails.iter().zip(layers).map(|(bytes, l)| Tail { bytes, layer_bytes: l.bytes }).collect();

    let mut merge = Merge::new(&tails)?;
    let (mut live, mut changed, mut fuzzy) = (HashMap::<Uuid, u64>::new(), 0, 0);
    for merged in &mut merge {
        let merged = merged?;
        changed += 1;
        let Kind::File { size, refs, fuzzy: is_fuzzy } = &merged.entry.kind else { continue };
        fuzzy += u64::from(*is_fuzzy);
        let own = ids.get(merged.layer).copied().unwrap_or_default();
        *live.entry(own).or_default() += size.saturating_sub(refs.bytes()).min(merged.row.length);
        for part in refs.iter() {
            *live.entry(part.layer).or_default() += part.length;
        }
    }
    // On top of nothing there is nothing to take away.
    let whiteouts = match run.start {
        0 => {
            drop(merge); // perhaps it holds rows, and is made once more
            Vec::new()
        }
        _ => merge.into_whiteouts(),
    };

    let copies = copied_layers(head, &run, &live, aim);
    let work = Work { lenders, source, ids, copies };
    let mut writer = LayerWriter::new(sink, options);
    for path in &whiteouts {
        let entry = Entry { path: path.clone(), kind: Kind::Whiteout, meta: Metadata::default() };
        writer.append(&entry, None)?;
    }
    let (mut refers, mut copied, mut waiting, mut bytes) = (BTreeSet::new(), 0, Vec::new(), 0);
    for merged in Merge::new(&tails)? {
        let file = work.file(merged?)?;
        bytes += file.content.as_ref().map_or(0, |content| content.bytes().min(WINDOW_BYTES));
        waiting.push(file);
        if waiting.len() >= TOGETHER || bytes >= WINDOW_BYTES {
            copied += work.append(&mut writer, std::mem::take(&mut waiting), known, own, &mut refers)?;
            bytes = 0;
        }
    }
    copied += work.append(&mut writer, waiting, known, own, &mut refers)?;
    let (mut sink, summary) = writer.finish()?;
    sink.flush().map_err(|e| LayerError::io("cannot send", e))?;
    let refers = refers.into_iter().map(layer_key).collect();
    Ok(Rewritten { summary, changed, removed: whiteouts.len() as u64, fuzzy, refers, copied })
}

/// Those that are small, or of which too much is dead, and that will not stay anyway.
fn copied_layers(head: &Head, run: &Range<usize>, live: &HashMap<Uuid, u64>, aim: Aim) -> HashSet<Uuid> {
    let enough = |layer: &LayerRef| match aim {
        Aim::Shorter => layer.raw_bytes / 2,
        Aim::Leaner => layer.raw_bytes / 6 * 5,
    };
    let stays: HashSet<&str> = head
        .layers
        .iter()
        .enumerate()
        .filter(|(n, _)| !run.contains(n))
        .map(|(_, layer)| layer.key.as_str())
        .collect();
    let leaves = head.all_layers().filter(|(_, layer)| !stays.contains(layer.key.as_str()));
    leaves
        .filter_map(|(_, layer)| Some((layer_id(&layer.key)?, layer)))
        .filter(|(id, layer)| {
            let live = live.get(id).copied().unwrap_or(0);
            layer.bytes <= SMALL_BYTES || live < enough(layer)
        })
        .map(|(id, _)| id)
        .collect()
}

impl<'a> Work<'a> {
    /// What an entry of the merged layer refers to, and what is copied.
    fn file(&self, merged: Merged) -> Result<File<'a>, CommitError> {
        let Merged { layer, row, mut entry } = merged;
        let Kind::File { size, refs, .. } = &mut entry.kind else { return Ok(File { entry, content: None }) };
        if *size == 0 {
            return Ok(File { entry, content: None });
        }
        let own = self.ids.get(layer).copied().unwrap_or_default();
        let mut pieces: Vec<Piece> = self.own_data(own, &row)?;
        pieces.extend(refs.iter().map(|r| Piece {
            at: r.at,
            length: r.length,
            layer: r.layer,
            from: r.from,
        }));
        pieces.sort_unstable_by_key(|piece| piece.at);
        let (copy, refer): (Vec<Piece>, Vec<Piece>) =
            pieces.into_iter().partition(|piece| self.copies.contains(&piece.layer));
        let reference = |p: Piece| Reference { at: p.at, length: p.length, layer: p.layer, from: p.from };
        let size = *size;
        *refs = References::new(refer.into_iter().map(reference), size).ok_or_else(|| {
            LayerError::corrupt("references of a file cannot be joined").in_entry(&entry.path)
        })?;
        let content = Copied::new(self.lenders, self.source, size, copy);
        Ok(File { entry, content: Some(content) })
    }

    /// Where in its own layer the data of a file are.
    fn own_data(&self, layer: Uuid, row: &Row) -> Result<Vec<Piece>, CommitError> {
        if let Some(from) = row.dense_data() {
            let Kind::File { size, .. } = row.entry.kind else { return Ok(Vec::new()) };
            return Ok(vec![Piece { at: 0, length: size, layer, from }]);
        }
        let located = self.headers(layer, row)?;
        let mut from = row.offset + located.headers;
        let piece = |extent: &crate::layer::tar::Extent| {
            let piece = Piece { at: extent.offset, length: extent.len, layer, from };
            from += extent.len;
            piece
        };
        Ok(located.map.extents.iter().map(piece).collect())
    }

    /// Reads the headers of an entry that is more than headers and content.
    fn headers(&self, layer: Uuid, row: &Row) -> Result<Located, CommitError> {
        let mut length = HEADERS_LIKELY.min(row.length);
        loop {
            let span = row.offset..row.offset + length;
            let (lender, index) = self.lenders.layer(self.source, layer).map_err(failed)?;
            let dictionary = self.source.dictionary(&lender).map_err(failed)?;
            let mut bytes = self.source.open_range(&lender.key, index.range(span.clone()));
            let mut begun = Vec::new();
            let read = Section::bytes(&mut bytes, &index, span).and_then(|s| {
                let mut s = s.with_dictionary(dictionary.as_ref());
                s.read_to_end(&mut begun).map_err(|e| LayerError::from_stream("headers", e))
            });
            if let Some(failure) = bytes.take_failure() {
                return Err(failed(failure));
            }
            read?;
            match locate(&begun)? {
                Some(located) => return Ok(located),
                None if length < row.length => length = (length * 4).min(row.length),
                None => {
                    return Err(LayerError::truncated("headers of an entry")
                        .in_entry(&row.entry.path)
                        .into());
                }
            }
        }
    }

    fn append<W: Write + Send>(
        &self,
        writer: &mut LayerWriter<W>,
        files: Vec<File<'a>>,
        known: Option<&Known>,
        own: Uuid,
        refers: &mut BTreeSet<Uuid>,
    ) -> Result<u64, CommitError> {
        let (entries, contents): (Vec<Entry>, Vec<Option<Copied<'_>>>) =
            files.into_iter().map(|file| (file.entry, file.content)).unzip();
        Copied::read_ahead(self.lenders, self.source, &contents).map_err(failed)?;
        let mut copied = 0;
        for (entry, content) in entries.iter().zip(contents) {
            let Some(content) = content else {
                writer.append(entry, None)?;
                continue;
            };
            let Kind::File { size, refs, .. } = &entry.kind else { continue };
            copied += content.bytes();
            refers.extend(refs.iter().map(|part| part.layer));
            let digested = Digested::new(&content as &dyn Content, *size);
            let appended = writer.append(entry, Some(&digested));
            let chunks = digested.chunks();
            if let Some(failure) = content.take_failure() {
                return Err(failed(failure));
            }
            let appended = appended?;
            if let Some(known) = known {
                known.add(chunk::places(own, appended.from, &appended.data, chunks))?;
            }
        }
        Ok(copied)
    }
}

fn failed(failure: RestoreError) -> CommitError {
    match failure {
        RestoreError::Remote { source, .. } => CommitError::Remote(source),
        RestoreError::Layer { source, .. } | RestoreError::Finish { source } => CommitError::Layer(source),
        RestoreError::Mismatch { key, what } => {
            CommitError::Layer(LayerError::corrupt(format!("layer {key} is not what HEAD names: {what}")))
        }
        e @ RestoreError::Dictionary { .. } => {
            CommitError::Layer(LayerError::io(e.to_string(), std::io::ErrorKind::NotFound))
        }
        RestoreError::Stopped => CommitError::Stopped,
    }
}
