//! [`Lent`]: the parts that other layers have of files that are brought together.
use super::Absent;
use super::ranges::WHOLE_BYTES_MAX;
use crate::layer::LayerError;
use crate::state::restore::RestoreError;
use crate::state::restore::fetch::Source;
use crate::state::restore::lenders::Want;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The most bytes of such parts that wait in memory for their files.
const AHEAD_BYTES: u64 = 8 << 20;
/// The most files whose parts wait.
const AHEAD_FILES: usize = 4096;

/// Reads ahead for the files that come next, since the parts of neighbours mostly lie together too.
pub(super) struct Lent<'a> {
    absent: &'a Absent,
    source: &'a Source,
    /// The files that are brought.
    files: Range<u32>,
    waiting: HashMap<u32, Vec<(u64, Vec<u8>)>>,
    failure: Option<RestoreError>,
}

impl<'a> Lent<'a> {
    pub(super) fn new(absent: &'a Absent, source: &'a Source, files: Range<u32>) -> Self {
        Self { absent, source, files, waiting: HashMap::new(), failure: None }
    }

    /// Writes what other layers have of a file.
    pub(super) fn fill(&mut self, file: u32, into: &File) -> Result<(), LayerError> {
        let Some(refs) = self.absent.tree().references(file) else { return Ok(()) };
        let write = |bytes: &[u8], at| {
            into.write_all_at(bytes, at).map_err(|e| LayerError::io("cannot write a part of a file", e))
        };
        if refs.bytes() > AHEAD_BYTES {
            let wants = Want::all(0, refs);
            let read = self.absent.lenders().read(self.source, wants, |want, bytes| {
                self.absent.saw_part(file, want, bytes);
                write(bytes, want.at)
            });
            return read.map_err(|failure| self.failed(failure));
        }
        if !self.waiting.contains_key(&file) {
            self.read_ahead(file)?;
        }
        for (at, bytes) in self.waiting.remove(&file).unwrap_or_default() {
            write(&bytes, at)?;
        }
        Ok(())
    }

    /// Why it failed, if it was not the content.
    pub(super) fn take_failure(&mut self) -> Option<RestoreError> {
        self.failure.take()
    }

    fn failed(&mut self, failure: RestoreError) -> LayerError {
        let what = failure.to_string();
        self.failure = Some(failure);
        LayerError::io(what, std::io::ErrorKind::Other)
    }

    fn read_ahead(&mut self, first: u32) -> Result<(), LayerError> {
        let (absent, tree) = (self.absent, self.absent.tree());
        self.waiting.clear();
        let (mut bytes, mut wants) = (0, Vec::new());
        let later = first + 1..self.files.end.max(first + 1);
        // Large ones mostly come another way.
        let later = later.filter(|file| absent.wants(*file) && tree.file(*file).size <= WHOLE_BYTES_MAX);
        for file in std::iter::once(first).chain(later) {
            let Some(refs) = tree.references(file) else { continue };
            bytes += refs.bytes();
            if bytes > AHEAD_BYTES && file != first || self.waiting.len() == AHEAD_FILES {
                break;
            }
            self.waiting.insert(file, Vec::new());
            wants.extend(Want::all(file as usize, refs));
        }
        let waiting = &mut self.waiting;
        let read = absent.lenders().read(self.source, wants, |want, bytes| {
            absent.saw_part(want.file as u32, want, bytes);
            if let Some(parts) = waiting.get_mut(&(want.file as u32)) {
                parts.push((want.at, bytes.to_vec()));
            }
            Ok(())
        });
        read.map_err(|failure| self.failed(failure))
    }
}
