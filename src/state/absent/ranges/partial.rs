//! [`Partial`]: a large file of which parts are on the disk, under no name.
//!
//! Parts are kept in the very file that will get the name when it is whole, so that nothing is brought
//! twice. Until then nobody but this module writes it; from then on this module never does.
use super::fetch::Flight;
use super::present::Present;
use crate::layer::extract::Placer;
use crate::layer::{LayerError, Metadata};
use crate::state::absent::content::Content;
use crate::state::absent::tree::FileRow;
use crate::sync::{Mutex, RwLock};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::OnceCell;

/// The number of a layer and of a frame in it.
pub(super) type Frame = (u32, usize);

#[derive(Debug, Default)]
struct State {
    /// All of it is there: it is a file like any other.
    whole: bool,
    present: Present,
}

/// See the module.
pub struct Partial {
    number: u32,
    row: FileRow,
    file: File,
    /// Where its content is; found when somebody reads it first.
    pub(super) content: OnceCell<Arc<Content>>,
    /// Held alone by who writes parts or ends that, shared by who reads what is there.
    state: RwLock<State>,
    /// Frames under way. Owner: [`fetch`](super::fetch).
    pub(super) flights: Mutex<HashMap<Frame, Flight>>,
    /// Somebody has begun to give it its names because all of it is there.
    ending: AtomicBool,
    /// How often a full disk made it forget what was there.
    discards: AtomicU64,
}

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partial").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Partial {
    pub(super) fn new(number: u32, row: FileRow, file: File) -> Self {
        Self {
            number,
            row,
            file,
            content: OnceCell::new(),
            state: RwLock::default(),
            flights: Mutex::default(),
            ending: AtomicBool::new(false),
            discards: AtomicU64::new(0),
        }
    }

    pub(in crate::state::absent) fn number(&self) -> u32 {
        self.number
    }

    /// Where its content is, if that is known.
    pub(in crate::state::absent) fn content(&self) -> Option<&Arc<Content>> {
        self.content.get()
    }

    pub(super) fn row(&self) -> &FileRow {
        &self.row
    }

    /// What it is kept in; the file itself once it is whole.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.state.read().whole
    }

    /// Whether all of it is there and nobody has begun to give it its names: the caller does.
    pub(super) fn begin_end(&self) -> bool {
        let all_there = {
            let state = self.state.read();
            !state.whole && state.present.has(&(0..self.row.size))
        };
        all_there && !self.ending.swap(true, Ordering::Relaxed)
    }

    /// How often a full disk made it forget what was there.
    pub(super) fn discards(&self) -> u64 {
        self.discards.load(Ordering::Relaxed)
    }

    /// What of a range still has to be brought.
    pub(super) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let state = self.state.read();
        if state.whole {
            return Vec::new();
        }
        state.present.missing(range.start..range.end.min(self.row.size))
    }

    /// Reads what is there; `None` if not all that was asked for is.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let state = self.state.read();
        let mut length = buffer.len();
        if !state.whole {
            let end = offset.saturating_add(length as u64).min(self.row.size);
            length = end.saturating_sub(offset) as usize;
            if !state.present.has(&(offset..offset.max(end))) {
                return Ok(None);
            }
        }
        let mut done = 0;
        while done < length {
            match self.file.read_at(&mut buffer[done..length], offset + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(Some(done))
    }

    /// Now that it is known where its content is: the holes are there.
    pub(super) fn lay_out(&self, content: &Content) -> Result<(), LayerError> {
        let mut state = self.state.write();
        if state.whole { Ok(()) } else { self.clear(&mut state, content) }
    }

    fn clear(&self, state: &mut State, content: &Content) -> Result<(), LayerError> {
        let failed = |e| LayerError::io("cannot set a file's length", e);
        state.present = Present::default();
        self.file.set_len(0).map_err(failed)?;
        self.file.set_len(content.size()).map_err(failed)?;
        content.holes().for_each(|hole| state.present.add(hole));
        Ok(())
    }

    /// Writes what it has of a frame that stands at `span` in the stream of `layer`.
    pub(super) fn store(
        &self,
        content: &Content,
        layer: u32,
        span: Range<u64>,
        raw: &[u8],
    ) -> Result<(), LayerError> {
        let mut state = self.state.write();
        if state.whole {
            return Ok(());
        }
        match self.write(&mut state, content, layer, span.clone(), raw) {
            // What was read by range can be brought again, so it need not fill a disk that is full.
            Err(e) if is_full(&e) => {
                self.discards.fetch_add(1, Ordering::Relaxed);
                self.clear(&mut state, content)?;
                self.write(&mut state, content, layer, span, raw)
                    .map_err(|e| LayerError::io("cannot write file", e))
            }
            other => other.map_err(|e| LayerError::io("cannot write file", e)),
        }
    }

    fn write(
        &self,
        state: &mut State,
        content: &Content,
        layer: u32,
        span: Range<u64>,
        raw: &[u8],
    ) -> io::Result<()> {
        for piece in content.standing_in(layer, span.clone()) {
            if state.present.has(&piece.range()) {
                continue;
            }
            let from = (piece.stream - span.start) as usize;
            let bytes = raw.get(from..from + piece.length as usize).ok_or(Errno::IO)?;
            self.file.write_all_at(bytes, piece.at)?;
            state.present.add(piece.range());
        }
        Ok(())
    }

    /// It is about to get its name: all of it is there, or with `emptied` none of it is wanted.
    pub(in crate::state::absent) fn end(
        &self,
        placer: &Placer,
        meta: &Metadata,
        emptied: bool,
    ) -> Result<(), LayerError> {
        let mut state = self.state.write();
        if state.whole {
            return Ok(());
        }
        let failed = |e| LayerError::io("cannot end a file", e);
        if emptied {
            self.file.set_len(0).map_err(failed)?;
        } else if !state.present.has(&(0..self.row.size)) {
            return Err(failed(io::ErrorKind::Interrupted.into()));
        }
        placer.apply(&self.file, meta).map_err(|e| failed(e.into()))?;
        state.whole = true;
        Ok(())
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::state::absent::content::Piece;
    use crate::state::absent::tree::Place;

    fn partial(size: u64) -> Partial {
        let place = Place { layer: 0, offset: 0, length: size };
        let row = FileRow { place, size, mode: 0o640, uid: 0, gid: 0, mtime: Timestamp::default() };
        Partial::new(3, row, tempfile::tempfile().expect("file"))
    }

    /// Data from 10 to 40 and from 60 to 100, a hole between.
    fn content() -> Content {
        let piece = |at, length, stream| Piece { at, length, layer: 0, stream };
        Content::new(100, vec![piece(10, 30, 500), piece(60, 40, 530)]).expect("content")
    }

    fn read(partial: &Partial, range: Range<u64>) -> Option<Vec<u8>> {
        let mut buffer = vec![9; (range.end - range.start) as usize];
        let length = partial.read(&mut buffer, range.start).expect("read")?;
        buffer.truncate(length);
        Some(buffer)
    }

    #[test]
    fn only_what_is_there_is_read_and_the_rest_is_never_zeros() {
        let (partial, content) = (partial(100), content());
        assert_eq!(read(&partial, 0..10), None);
        partial.lay_out(&content).expect("length");
        assert_eq!(read(&partial, 0..10), Some(vec![0; 10]));
        assert_eq!(read(&partial, 0..11), None);
        // A frame with the end of the first piece and the beginning of the second.
        partial.store(&content, 0, 520..540, &[7; 20]).expect("store");
        assert_eq!(partial.missing(0..1000), [10..30, 70..100]);
        assert_eq!(read(&partial, 30..70), Some([vec![7; 10], vec![0; 20], vec![7; 10]].concat()));
        assert_eq!(read(&partial, 29..70), None);
        assert_eq!(read(&partial, 30..71), None);
        assert_eq!(read(&partial, 100..200), Some(vec![]));
        let meta = Metadata { mode: 0o640, ..Metadata::default() };
        assert!(partial.end(&Placer::default(), &meta, false).is_err(), "parts are missing");
        partial.store(&content, 0, 500..520, &[6; 20]).expect("store");
        partial.store(&content, 0, 540..570, &[8; 30]).expect("store");
        assert_eq!(read(&partial, 90..200), Some(vec![8; 10]));
        partial.end(&Placer::default(), &meta, false).expect("end");
        assert!(partial.is_whole());
    }

    #[test]
    fn what_is_whole_is_written_no_more() {
        for emptied in [false, true] {
            let (partial, content) = (partial(100), content());
            partial.lay_out(&content).expect("length");
            if !emptied {
                partial.store(&content, 0, 500..570, &[1; 70]).expect("store");
            }
            partial.end(&Placer::default(), &Metadata::default(), emptied).expect("end");
            partial.file().set_len(5).expect("somebody truncates it");
            partial.store(&content, 0, 500..570, &[2; 70]).expect("too late");
            partial.lay_out(&content).expect("too late");
            assert_eq!(partial.file().metadata().expect("stat").len(), 5);
            assert_eq!(read(&partial, 0..100).map(|bytes| bytes.len()), Some(5));
            assert!(partial.missing(0..100).is_empty());
        }
    }
}
