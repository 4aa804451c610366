//! [`Partial`]: a large file of which parts are on the disk, under no name.
//!
//! Parts are kept in the very file that will get the name when it is whole, so that nothing is brought
//! twice. Until then nobody but this module writes it; from then on this module never does.
use super::fetch::Flight;
use super::present::Present;
use crate::layer::LayerError;
use crate::state::absent::content::Content;
use crate::state::absent::tree::FileRow;
use crate::sync::{Mutex, RwLock};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, OnceCell};

/// As what a large file gets its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::state::absent) enum Ending {
    /// As the version has it.
    Whole,
    /// Cut.
    Cut,
    /// It had ended before, and may have been written since: some names are missing.
    Again,
}

/// The number of a layer and of a frame in it.
pub(super) type Frame = (u32, usize);

#[derive(Debug, Default)]
struct State {
    /// All of it is there, or as much as a cut has left: it is a file like any other.
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
    /// The one that has its names, if a daemon that was killed had brought that.
    instead: OnceLock<File>,
    /// Held alone by who writes parts or ends that, shared by who reads what is there.
    state: RwLock<State>,
    /// Frames under way. Owner: [`fetch`](super::fetch).
    pub(super) flights: Mutex<HashMap<Frame, Flight>>,
    /// Somebody has begun to give it its names because all of it is there.
    ending: AtomicBool,
    /// Told when it is whole.
    ended: Notify,
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
            instead: OnceLock::new(),
            state: RwLock::default(),
            flights: Mutex::default(),
            ending: AtomicBool::new(false),
            ended: Notify::new(),
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
        self.instead.get().unwrap_or(&self.file)
    }

    /// The same content has its names already: whoever has it open reads and writes that.
    pub(in crate::state::absent) fn is_instead(&self, named: File) {
        let _first = self.instead.set(named);
    }

    /// Whether all of it is there that is wanted.
    pub fn is_whole(&self) -> bool {
        self.state.read().whole
    }

    /// Waits until it is whole. Who cuts it asks nobody who waits for its content, and those may hold what the cut of a
    /// flush wants to hold: they go on then, whatever the store does.
    pub(super) async fn ended(&self) {
        loop {
            let mut told = std::pin::pin!(self.ended.notified());
            told.as_mut().enable();
            if self.is_whole() {
                return;
            }
            told.await;
        }
    }

    /// Fills a buffer with what the version has there; `false` if that is not here, or if programs may have written it.
    pub(in crate::state::absent) fn read_of_version(
        &self,
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<bool> {
        let state = self.state.read();
        let is_here = !state.whole && state.present.has(&(offset..offset + buffer.len() as u64));
        if is_here {
            self.file.read_exact_at(buffer, offset)?;
        }
        Ok(is_here)
    }

    /// Does something that is only right while no program can have written it.
    pub(in crate::state::absent) fn unless_whole(&self, work: impl FnOnce()) {
        let state = self.state.read();
        if !state.whole {
            work();
        }
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
            match self.file().read_at(&mut buffer[done..length], offset + done as u64)? {
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

    /// Ends it: all of it is there or, with a `cut`, as much of its beginning as that leaves. `place` gives it its
    /// attributes and names, and nobody reads it meanwhile. As what it ends, the first one decides; if he fails it
    /// is as it was, unless it has a name by then.
    pub(in crate::state::absent) fn end(
        &self,
        cut: Option<u64>,
        place: impl FnOnce(Ending) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let failed = |e| LayerError::io("cannot end a file", e);
        let mut state = self.state.write();
        if state.whole {
            return place(Ending::Again);
        }
        let Some(length) = cut.filter(|length| *length < self.row.size) else {
            if !state.present.has(&(0..self.row.size)) {
                return Err(failed(io::ErrorKind::Interrupted.into()));
            }
            let placed = place(Ending::Whole);
            self.is_ended(&mut state, placed.is_ok());
            return placed;
        };
        if !state.present.has(&(0..length)) {
            return Err(failed(io::ErrorKind::Interrupted.into()));
        }
        let placed = self.file.set_len(length).map_err(failed).and_then(|()| place(Ending::Cut));
        if self.is_ended(&mut state, placed.is_ok()) {
            return Ok(()); // whoever can see it sees it cut
        }
        self.take_back(&mut state, length);
        placed
    }

    /// Whether it is whole from now on: it is in its places, or at least in one of them.
    fn is_ended(&self, state: &mut State, is_placed: bool) -> bool {
        let has_name = || rustix::fs::fstat(self.file()).is_ok_and(|stat| stat.st_nlink > 0);
        state.whole = is_placed || has_name();
        if state.whole {
            self.ended.notify_waiters();
        }
        state.whole
    }

    /// It was cut for nobody: what it lost by that is missing again.
    fn take_back(&self, state: &mut State, length: u64) {
        state.present.cut(length);
        self.ending.store(false, Ordering::Relaxed);
        // Where that fails nothing of the rest is there, and what is written makes it longer again.
        if self.file.set_len(self.row.size).is_ok()
            && let Some(content) = self.content.get()
        {
            content.holes().for_each(|hole| state.present.add(hole));
        }
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
        let end = |cut, placed| {
            partial.end(cut, |ending| {
                assert_eq!(ending, placed);
                Ok(())
            })
        };
        assert!(end(None, Ending::Whole).is_err(), "parts are missing");
        assert!(end(Some(20), Ending::Cut).is_err(), "so they are of its beginning");
        partial.store(&content, 0, 500..520, &[6; 20]).expect("store");
        partial.store(&content, 0, 540..570, &[8; 30]).expect("store");
        assert_eq!(read(&partial, 90..200), Some(vec![8; 10]));
        end(None, Ending::Whole).expect("end");
        assert!(partial.is_whole());
        end(Some(20), Ending::Again).expect("again");
        assert_eq!(partial.file().metadata().expect("stat").len(), 100);
    }

    /// A program that is told that its truncation failed has changed nothing.
    #[test]
    fn what_was_cut_and_not_named_is_as_it_was() {
        let full = || Err(LayerError::io("cannot name", Errno::NOSPC));
        for cut in [0, 20, 45] {
            let (partial, content) = (partial(100), Arc::new(content()));
            partial.content.set(content.clone()).expect("content");
            partial.lay_out(&content).expect("length");
            partial.store(&content, 0, 500..530, &[1; 30]).expect("store");
            partial.store(&content, 0, 560..570, &[3; 10]).expect("store");
            partial.end(Some(cut), |_| full()).expect_err("no name");
            assert!(!partial.is_whole());
            assert_eq!(partial.file().metadata().expect("stat").len(), 100);
            assert_eq!(read(&partial, 95..100), None, "{cut}: it was cut off");
            assert_eq!(
                read(&partial, cut.max(40)..60),
                Some(vec![0; 60 - cut.max(40) as usize]),
                "{cut}: a hole"
            );
            partial.store(&content, 0, 500..570, &[[1; 30].as_slice(), &[2; 40]].concat()).expect("store");
            assert_eq!(
                read(&partial, 10..100),
                Some([vec![1; 30], vec![0; 20], vec![2; 40]].concat()),
                "{cut}"
            );
            assert!(partial.begin_end(), "{cut}: it is all there");
            partial.end(None, |_| full()).expect_err("no name");
            assert!(!partial.is_whole(), "{cut}: nobody can write it");
            partial.end(None, |_| Ok(())).expect("end");
        }
        // Nothing of it was known yet.
        let partial = partial(100);
        partial.end(Some(0), |_| full()).expect_err("no name");
        assert_eq!(read(&partial, 0..1), None);
    }

    #[test]
    fn what_is_whole_is_written_no_more() {
        for cut in [None, Some(45), Some(0)] {
            let (partial, content) = (partial(100), content());
            partial.lay_out(&content).expect("length");
            match cut {
                None => partial.store(&content, 0, 500..570, &[1; 70]).expect("store"),
                Some(45) => partial.store(&content, 0, 500..530, &[1; 30]).expect("store"),
                Some(_) => {}
            }
            let length = || partial.file().metadata().expect("stat").len();
            partial.end(cut, |_| Ok(())).expect("end");
            assert_eq!(length(), cut.unwrap_or(100));
            partial.file().set_len(5).expect("somebody truncates it");
            partial.store(&content, 0, 500..570, &[2; 70]).expect("too late");
            partial.lay_out(&content).expect("too late");
            assert_eq!(length(), 5);
            assert_eq!(read(&partial, 0..100).map(|bytes| bytes.len()), Some(5));
            assert!(partial.missing(0..100).is_empty());
        }
    }
}
