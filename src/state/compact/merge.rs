//! [`Merge`]: the rows of several layers that follow each other, as those of one.
//!
//! Rows come in path order from each layer, so that they are merged as they are read and nothing but
//! whiteouts and the first names of files with several is held in memory (and the rows of a layer that has another order:
//! `order`). Of a path the newest layer that
//! has it decides, unless a newer one has taken away what was there.
use super::order::{self, Rows};
use crate::layer::{Entry, Kind, LayerError, LayerIndex, Row};
use crate::path::RelPath;
use std::collections::{BTreeSet, HashMap};

/// A layer as it is read: its tail, and the length of the object.
#[derive(Debug, Clone, Copy)]
pub struct Tail<'a> {
    /// All of the object after its last data frame.
    pub bytes: &'a [u8],
    /// Length of the object.
    pub layer_bytes: u64,
}

/// What is left of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// Which of the layers has it, oldest first.
    pub layer: usize,
    /// The row as it is there: its entry may have another path.
    pub row: Row,
    /// The entry of the merged layer.
    pub entry: Entry,
}

/// The rows of layers, oldest first.
pub struct Merge<'a> {
    sources: Vec<Source<'a>>,
    /// The newest layer that takes away a path and all below it.
    whiteouts: HashMap<RelPath, usize>,
    /// First names of files with several, by layer.
    leaders: Vec<HashMap<RelPath, Leader>>,
    /// Non-directories on the way to the present path, each with the newest layer that has one there.
    covers: Vec<(RelPath, usize)>,
    /// Where something that was no directory became one: older layers may have content below it.
    reborn: BTreeSet<RelPath>,
}

/// The first name of a file with several.
#[derive(Debug, Default)]
struct Leader {
    row: Option<Row>,
    /// The name it goes by in the merged layer.
    name: Option<RelPath>,
}

struct Source<'a> {
    rows: Rows<'a>,
    next: Option<Row>,
}

impl Source<'_> {
    fn advance(&mut self) -> Result<Option<Row>, LayerError> {
        let next = self.rows.next().transpose()?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}

impl<'a> Merge<'a> {
    /// Begins. Reads all rows once.
    pub fn new(tails: &[Tail<'a>]) -> Result<Self, LayerError> {
        let (mut whiteouts, mut leaders, mut sources) = (HashMap::new(), Vec::new(), Vec::new());
        for (layer, tail) in tails.iter().enumerate() {
            let (_, rows) = LayerIndex::read(tail.bytes, tail.layer_bytes)?;
            let mut first: HashMap<RelPath, Leader> = HashMap::new();
            let (mut last, mut in_order) = (None::<RelPath>, true);
            for row in rows {
                let Entry { path, kind, .. } = row?.entry;
                match kind {
                    Kind::Whiteout => {
                        whiteouts.insert(path, layer);
                        continue;
                    }
                    Kind::HardLink { target } => drop(first.entry(target).or_default()),
                    _ => {}
                }
                in_order &= last.is_none_or(|last| last < path);
                last = Some(path);
            }
            let mut rows = order::rows(tail)?;
            if !in_order {
                let sorted = order::sorted(rows)?;
                let targets = sorted.iter().filter_map(|row| match &row.entry.kind {
                    Kind::HardLink { target } => Some((target.clone(), Leader::default())),
                    _ => None,
                });
                first = targets.collect();
                rows = Box::new(sorted.into_iter().map(Ok));
            }
            leaders.push(first);
            let mut source = Source { rows, next: None };
            source.advance()?;
            sources.push(source);
        }
        Ok(Self { sources, whiteouts, leaders, covers: Vec::new(), reborn: BTreeSet::new() })
    }

    /// After the last row: what the merged layer must take away of the layers below it, in path order.
    pub fn into_whiteouts(self) -> Vec<RelPath> {
        let mut all: BTreeSet<RelPath> = self.whiteouts.into_keys().collect();
        all.extend(self.reborn);
        let mut kept: Vec<RelPath> = Vec::new();
        for path in all {
            if !kept.last().is_some_and(|above| path.starts_with(above)) {
                kept.push(path);
            }
        }
        kept
    }

    fn step(&mut self) -> Result<Option<Merged>, LayerError> {
        loop {
            let Some(path) = self.sources.iter().filter_map(|s| s.next.as_ref()).map(|r| &r.entry.path).min()
            else {
                return Ok(None);
            };
            let path = path.clone();
            while self.covers.last().is_some_and(|(above, _)| !path.starts_with(above)) {
                self.covers.pop();
            }
            let gone = self.gone_since(&path);
            let (mut newest, mut other) = (None, None);
            for layer in 0..self.sources.len() {
                if self.sources[layer].next.as_ref().is_none_or(|row| row.entry.path != path) {
                    continue;
                }
                let Some(row) = self.sources[layer].advance()? else { continue };
                if self.sources[layer].next.as_ref().is_some_and(|next| next.entry.path <= path) {
                    return Err(LayerError::corrupt("rows are not in order").in_entry(&path));
                }
                if let Some(leader) = self.leaders[layer].get_mut(&path) {
                    leader.row = Some(row.clone());
                }
                if row.entry.kind != Kind::Directory {
                    other = Some(layer);
                }
                newest = Some((layer, row));
            }
            if let Some(layer) = other {
                self.covers.push((path.clone(), layer));
            }
            let Some((layer, row)) = newest.filter(|(layer, _)| gone.is_none_or(|gone| gone <= *layer))
            else {
                continue;
            };
            if row.entry.kind == Kind::Directory && other.is_some() {
                self.reborn.insert(path);
            }
            return self.named(layer, row).map(Some);
        }
    }

    /// The newest layer that takes away what older ones have at a path.
    fn gone_since(&self, path: &RelPath) -> Option<usize> {
        let covered = self.covers.iter().map(|(_, layer)| *layer).max();
        if self.whiteouts.is_empty() {
            return covered;
        }
        let own = self.whiteouts.get(path).copied();
        let above = path.ancestors().filter_map(|dir| self.whiteouts.get(&dir).copied()).max();
        covered.max(own).max(above)
    }

    /// Names of one file stay together: the first that is left is the file.
    fn named(&mut self, layer: usize, row: Row) -> Result<Merged, LayerError> {
        let path = row.entry.path.clone();
        if let Some(leader) = self.leaders[layer].get_mut(&path) {
            leader.name = Some(path);
        } else if let Kind::HardLink { target } = &row.entry.kind {
            let missing = || {
                let what = format!("hard link to a file that is not there: {target}: {path}");
                LayerError::corrupt(what)
            };
            let leader = self.leaders[layer].get_mut(target).ok_or_else(missing)?;
            let first = leader.row.as_ref().ok_or_else(missing)?;
            if let Some(name) = &leader.name {
                let kind = Kind::HardLink { target: name.clone() };
                return Ok(Merged { layer, entry: Entry { kind, ..row.entry.clone() }, row });
            }
            let (entry, row) = (Entry { path: path.clone(), ..first.entry.clone() }, first.clone());
            leader.name = Some(path);
            return Ok(Merged { layer, row, entry });
        }
        Ok(Merged { layer, entry: row.entry.clone(), row })
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Merged, LayerError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

impl std::fmt::Debug for Merge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merge").field("layers", &self.sources.len()).finish_non_exhaustive()
    }
}
