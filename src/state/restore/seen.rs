//! [`Seen`]: which paths newer layers have decided.
use crate::layer::{Entry, Kind, LayerError};
use crate::path::RelPath;
use std::collections::{BTreeMap, HashMap};

/// What to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the newest of its path.
    Ours,
    /// The same layer had the path before (only foreign archives do): the later one wins.
    Again,
    /// A newer layer decided the path, or removed something above it.
    Hidden,
    /// A hard link whose target's name a newer layer decided; see [`Seen::take_orphans`].
    Orphan,
}

/// Paths and the layers (by index, 0 is the newest) that decided them. 20,000 paths take about
/// 4 MB.
#[derive(Debug, Default)]
pub(super) struct Seen {
    decided: HashMap<RelPath, usize>,
    /// From which layer on everything below the path is gone: whiteouts, and what is no directory.
    /// It holds for older layers only: a layer may remove a directory and fill it anew.
    hides: HashMap<RelPath, usize>,
    orphans: BTreeMap<RelPath, Vec<RelPath>>,
}

impl Seen {
    /// Judges an entry of layer `index`; layers come newest first.
    pub(super) fn judge(&mut self, entry: &Entry, index: usize) -> Result<Verdict, LayerError> {
        let path = &entry.path;
        if self.hidden_above(path, index) || self.hides.get(path).is_some_and(|layer| *layer < index) {
            return Ok(Verdict::Hidden);
        }
        if !matches!(entry.kind, Kind::Directory) {
            // Even where a newer layer decided the path itself: before that, nothing was below it.
            self.hides.entry(path.clone()).or_insert(index);
        }
        if matches!(entry.kind, Kind::Whiteout) {
            return Ok(Verdict::Ours);
        }
        match self.decided.get(path) {
            Some(layer) if *layer < index => return Ok(Verdict::Hidden),
            Some(_) => return Ok(Verdict::Again),
            None => {}
        }
        if let Kind::HardLink { target } = &entry.kind
            && self.decided.get(target) != Some(&index)
        {
            let known = self.decided.contains_key(target)
                || self.hides.contains_key(target)
                || self.hidden_above(target, index);
            if !known {
                let what = format!("hard link to a file that is not there: {target}: {path}");
                return Err(LayerError::corrupt(what));
            }
            self.decided.insert(path.clone(), index);
            self.orphans.entry(target.clone()).or_default().push(path.clone());
            return Ok(Verdict::Orphan);
        }
        self.decided.insert(path.clone(), index);
        Ok(Verdict::Ours)
    }

    fn hidden_above(&self, path: &RelPath, index: usize) -> bool {
        path.ancestors().any(|dir| self.hides.get(&dir).is_some_and(|layer| *layer < index))
    }

    /// Hard links of the layer just read that still need their content, by the name that has it.
    pub(super) fn take_orphans(&mut self) -> BTreeMap<RelPath, Vec<RelPath>> {
        std::mem::take(&mut self.orphans)
    }

    /// The layer that decided a path.
    pub(super) fn layer_of(&self, path: &RelPath) -> Option<usize> {
        self.decided.get(path).copied()
    }
}
