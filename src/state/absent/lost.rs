//! [`Lost`]: files that cannot come, since the remote has lost their content or has it damaged, or their
//! extended attributes do not fit.
use super::Absent;
use super::hydrate::Failure;
use crate::error::ErrorKind;
use crate::layer::LayerError;
use crate::state::restore::RestoreError;
use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;

/// All of a file.
const WHOLE: Range<u64> = 0..u64::MAX;

/// How a file failed to come.
#[derive(Debug)]
struct Failed {
    /// The what-th failure it was.
    order: u64,
    /// What of the file was wanted.
    range: Range<u64>,
    failure: Failure,
}

/// Files of which the last attempt met damage. Owner of its lock.
#[derive(Debug, Default)]
pub struct Lost {
    files: Mutex<BTreeMap<u32, Failed>>,
}

/// What there is to tell of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostFiles {
    /// How many.
    pub files: u64,
    /// The content of some is lost or damaged in the remote; else their attributes have no room here.
    pub damaged: bool,
    /// The first failure, with its layer.
    pub first: String,
}

fn is_damage(failure: &Failure) -> bool {
    failure.kind() == ErrorKind::Corrupt
}

/// The file comes nowhere on this file system.
fn is_of_attributes(failure: &Failure) -> bool {
    let source = match &**failure {
        RestoreError::Layer { source, .. } | RestoreError::Finish { source } => Some(source),
        _ => None,
    };
    matches!(source, Some(LayerError::Attributes { .. }))
}

impl Lost {
    /// Notes how it went with a range of some files, of which those that are still absent did not come. An
    /// outage is no loss.
    pub(super) fn note(&self, absent: &Absent, files: Range<u32>, range: &Range<u64>, failure: &Failure) {
        if !is_damage(failure) && !is_of_attributes(failure) {
            return;
        }
        let mut lost = self.files.lock();
        let mut order = lost.values().map(|failed| failed.order + 1).max().unwrap_or_default();
        for file in files.filter(|file| absent.wants(*file)) {
            lost.entry(file).or_insert_with(|| {
                order += 1;
                Failed { order, range: range.clone(), failure: failure.clone() }
            });
        }
    }

    /// The same of files as a whole.
    pub(super) fn note_whole(&self, absent: &Absent, files: Range<u32>, failure: &Failure) {
        self.note(absent, files, &WHOLE, failure);
    }

    /// A range of a file did come.
    pub(super) fn came(&self, file: u32, range: &Range<u64>) {
        let mut lost = self.files.lock();
        let again = |failed: &Failed| failed.range.start < range.end && range.start < failed.range.end;
        if lost.get(&file).is_some_and(|failed| failed.range != WHOLE && again(failed)) {
            lost.remove(&file);
        }
    }

    /// What cannot come; `None` if that is nothing. What came meanwhile, or need not come any more, is not lost.
    pub(super) fn look(&self, absent: &Absent) -> Option<LostFiles> {
        let mut lost = self.files.lock();
        lost.retain(|file, _| absent.wants(*file));
        let first = lost.values().min_by_key(|failed| failed.order)?;
        let damaged = lost.values().any(|failed| is_damage(&failed.failure));
        Some(LostFiles { files: lost.len() as u64, damaged, first: first.failure.to_string() })
    }
}
