//! [`Gathering`]: what is read first after every mount is put side by side.
//!
//! A small file can only be had with the frame that it stands in, so that a few of them, scattered over a large
//! layer, cost most of it. Those that two mounts have read first are here already when the second one saves
//! something: its layer carries them once more, next to each other, and the next cold start has them for what
//! they weigh.
use super::trace::Trace;
use super::tree::What;
use super::{Absent, Fate, Learned};
use crate::layer::frame::FRAME_RAW_MAX;
use crate::path::RelPath;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most bytes of files that are put side by side.
pub const GATHERED_MAX: u64 = 512 << 20;
/// A larger file is had in parts, wherever it stands.
const FILE_MAX: u64 = 1 << 20;
/// It is worth it if bringing them costs so many times what they weigh...
const WASTE_FACTOR: u64 = 2;
/// ...and so many bytes more.
const WASTE_MIN: u64 = 8 << 20;

/// See the module.
#[derive(Debug)]
pub struct Gathering {
    absent: Arc<Absent>,
    learned: Arc<Learned>,
    done: AtomicBool,
}

impl Gathering {
    /// Of what is `learned`.
    pub fn new(absent: Arc<Absent>, learned: Arc<Learned>) -> Self {
        Self { absent, learned, done: AtomicBool::new(false) }
    }

    /// The files that the next layer should carry although they did not change; none if it is not worth it,
    /// not known yet, or [`done`](Self::done).
    pub fn files(&self) -> Vec<RelPath> {
        match self.learned.known() {
            Some(earlier) if !self.done.load(Ordering::Relaxed) => self.absent.scattered(earlier),
            _ => Vec::new(),
        }
    }

    /// A layer carries them: not again before the next mount.
    pub fn done(&self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

impl Absent {
    /// Small files that were read first after an earlier mount and again since this one, if they stand so far
    /// apart that it is worth to put them side by side.
    fn scattered(&self, earlier: &Trace) -> Vec<RelPath> {
        let recorded = self.recorder().files();
        let last: Vec<&RelPath> =
            earlier.entries.iter().filter(|e| e.units.is_none() && e.age == 0).map(|e| &e.path).collect();
        let number = |path: &RelPath| match self.tree.find(path) {
            Some(node) if self.fate(node) == Some(Fate::Here) => match self.tree.what(node) {
                What::File(file) if recorded.contains(&file) => Some(file),
                _ => None,
            },
            _ => None,
        };
        let (mut files, mut paths, mut wanted, mut bytes) = (BTreeSet::new(), Vec::new(), 0, 0);
        let again = last.iter().filter_map(|path| Some((*path, number(path)?)));
        let mut seen = 0;
        for (path, file) in again {
            seen += 1;
            let row = self.tree.file(file);
            if row.size <= FILE_MAX && files.insert(file) {
                wanted += row.place.length;
                if bytes + row.place.length <= GATHERED_MAX {
                    bytes += row.place.length;
                    paths.push(path.clone());
                }
            }
        }
        // Until then it is still at it.
        let is_known = seen * 2 >= last.len();
        // Of all that is wanted, whether there is room for it or not: who reads most of a layer wants it as it is.
        let cost = self.frames(&files).len() as u64 * FRAME_RAW_MAX as u64;
        if is_known && cost >= wanted * WASTE_FACTOR + WASTE_MIN { paths } else { Vec::new() }
    }

    /// The frames that these files stand in, by layer.
    fn frames(&self, files: &BTreeSet<u32>) -> HashSet<(u32, usize)> {
        files.iter().flat_map(|file| self.frames_of(*file)).collect()
    }

    /// The frames that a file stands in, each with its layer.
    pub(super) fn frames_of(&self, file: u32) -> impl Iterator<Item = (u32, usize)> + use<> {
        let place = self.tree.file(file).place;
        let layer = self.layers().get(place.layer as usize);
        let frames = layer.map(|layer| layer.index.covering(&(place.offset..place.offset + place.length)));
        frames.into_iter().flatten().map(move |frame| (place.layer, frame))
    }
}
