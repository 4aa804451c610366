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

/// No layer.
const NONE: u32 = u32::MAX;

/// What is known of a path: indexes of layers, 0 is the newest.
#[derive(Debug, Clone, Copy)]
struct Fate {
    /// Which layer says what stands there.
    decided: u32,
    /// From which layer on everything below it is gone: whiteouts, and what is no directory. It
    /// holds for older layers only: a layer may remove a directory and fill it anew.
    hides: u32,
    /// The newest layer that has something below it.
    holds: u32,
}

/// Paths and the layers that decided them: about 100 bytes and the path for each.
#[derive(Debug, Default)]
pub(super) struct Seen {
    fates: HashMap<RelPath, Fate>,
    orphans: BTreeMap<RelPath, Vec<RelPath>>,
}

impl Seen {
    /// Judges an entry of layer `index`; layers come newest first.
    pub(super) fn judge(&mut self, entry: &Entry, index: usize) -> Result<Verdict, LayerError> {
        let (path, index) = (&entry.path, index as u32);
        let before = self.fate(path);
        if before.hides < index || self.hidden_above(path, index) {
            return Ok(Verdict::Hidden);
        }
        let mut fate = before;
        if !matches!(entry.kind, Kind::Directory) {
            // Even where a newer layer decided the path itself: before that, nothing was below it.
            fate.hides = fate.hides.min(index);
        }
        let whiteout = matches!(entry.kind, Kind::Whiteout);
        if !whiteout {
            fate.decided = fate.decided.min(index);
        }
        self.fates.insert(path.clone(), fate);
        if whiteout {
            return Ok(Verdict::Ours);
        }
        if before.decided < index {
            return Ok(Verdict::Hidden);
        }
        if before.holds < index && !matches!(entry.kind, Kind::Directory) {
            // A newer layer has entries below it, and none says that it is a directory now.
            return Err(LayerError::corrupt(format!("newer layers need a directory here: {path}")));
        }
        self.hold(path, index);
        if before.decided == index {
            return Ok(Verdict::Again);
        }
        if let Kind::HardLink { target } = &entry.kind
            && self.fate(target).decided != index
        {
            let fate = self.fate(target);
            if fate.decided == NONE && fate.hides == NONE && !self.hidden_above(target, index) {
                let what = format!("hard link to a file that is not there: {target}: {path}");
                return Err(LayerError::corrupt(what));
            }
            self.orphan(target, path);
            return Ok(Verdict::Orphan);
        }
        Ok(Verdict::Ours)
    }

    /// Tells the directories above `path` that they hold something.
    fn hold(&mut self, path: &RelPath, index: u32) {
        for dir in path.ancestors() {
            let mut fate = self.fate(&dir);
            if fate.holds != NONE {
                break; // and so it is for those above it
            }
            fate.holds = index;
            self.fates.insert(dir, fate);
        }
    }

    fn fate(&self, path: &RelPath) -> Fate {
        self.fates.get(path).copied().unwrap_or(Fate { decided: NONE, hides: NONE, holds: NONE })
    }

    fn hidden_above(&self, path: &RelPath, index: u32) -> bool {
        path.ancestors().any(|dir| self.fate(&dir).hides < index)
    }

    /// A hard link needs the content that its layer has at another name, and that does not stand there.
    pub(super) fn orphan(&mut self, content: &RelPath, path: &RelPath) {
        self.orphans.entry(content.clone()).or_default().push(path.clone());
    }

    /// Hard links of the layer just read that still need their content, by the name that has it.
    pub(super) fn take_orphans(&mut self) -> BTreeMap<RelPath, Vec<RelPath>> {
        std::mem::take(&mut self.orphans)
    }

    /// The layer that decided a path.
    pub(super) fn layer_of(&self, path: &RelPath) -> Option<usize> {
        Some(self.fate(path).decided).filter(|layer| *layer != NONE).map(|layer| layer as usize)
    }
}
