//! [`Copied`]: the content of a file, read from the layers that have it.
use crate::layer::LayerError;
use crate::layer::content::Content;
use crate::state::restore::RestoreError;
use crate::state::restore::fetch::Source;
use crate::state::restore::lenders::{Lenders, Want};
use crate::sync::Mutex;
use std::io;
use std::ops::Range;
use uuid::Uuid;

/// The most bytes of one file that are read at once.
pub(super) const WINDOW_BYTES: u64 = 4 << 20;

/// A range of a file, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: u64,
    pub(super) length: u64,
    pub(super) layer: Uuid,
    /// Where it begins in the tar stream of the layer.
    pub(super) from: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.at + self.length
    }

    /// What of it lies within a range of the file, as number `file`.
    fn want(&self, file: usize, range: &Range<u64>) -> Option<Want> {
        let (at, end) = (self.at.max(range.start), self.end().min(range.end));
        (at < end).then(|| Want::part(file, at, self.layer, self.from + (at - self.at), end - at))
    }
}

/// A part of the file that is in memory; what no piece has is zeros.
#[derive(Debug, Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

/// See the module. What is no piece is a hole (or not to be copied).
pub(super) struct Copied<'a> {
    lenders: &'a Lenders,
    source: &'a Source,
    size: u64,
    /// In the order of the file.
    pieces: Vec<Piece>,
    window: Mutex<Window>,
    /// Why reading failed, if it was not the content.
    failure: Mutex<Option<RestoreError>>,
}

impl<'a> Copied<'a> {
    pub(super) fn new(lenders: &'a Lenders, source: &'a Source, size: u64, pieces: Vec<Piece>) -> Self {
        Self { lenders, source, size, pieces, window: Mutex::default(), failure: Mutex::default() }
    }

    /// Bytes that are to be copied.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.length).sum()
    }

    pub(super) fn take_failure(&self) -> Option<RestoreError> {
        self.failure.lock().take()
    }

    /// Reads all of several small files, together.
    pub(super) fn read_ahead(
        lenders: &Lenders,
        source: &Source,
        files: &[Option<Copied<'_>>],
    ) -> Result<(), RestoreError> {
        let small = |file: &&Copied<'_>| file.size <= WINDOW_BYTES && !file.pieces.is_empty();
        let numbered = || files.iter().enumerate().filter_map(|(n, f)| Some((n, f.as_ref().filter(small)?)));
        for (_, file) in numbered() {
            *file.window.lock() = Window { start: 0, bytes: vec![0; file.size as usize] };
        }
        let wants =
            numbered().flat_map(|(n, f)| f.pieces.iter().filter_map(move |p| p.want(n, &(0..u64::MAX))));
        lenders.read(source, wants.collect::<Vec<_>>(), |want, bytes| {
            if let Some(Some(file)) = files.get(want.file) {
                put(&mut file.window.lock(), want, bytes);
            }
            Ok(())
        })
    }

    fn fill(&self, window: &mut Window, start: u64) -> io::Result<()> {
        let range = start..(start + WINDOW_BYTES).min(self.size);
        *window = Window { start, bytes: vec![0; (range.end - range.start) as usize] };
        let wants: Vec<Want> = self.pieces.iter().filter_map(|piece| piece.want(0, &range)).collect();
        let read = self.lenders.read(self.source, wants, |want, bytes| {
            put(window, want, bytes);
            Ok::<(), LayerError>(())
        });
        read.map_err(|failure| {
            let error = io::Error::other(failure.to_string());
            self.failure.lock().get_or_insert(failure);
            error
        })
    }
}

fn put(window: &mut Window, want: &Want, bytes: &[u8]) {
    let at = (want.at - window.start) as usize;
    if let Some(place) = window.bytes.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

impl Content for Copied<'_> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.size {
            return Ok(0);
        }
        let mut window = self.window.lock();
        let end = window.start + window.bytes.len() as u64;
        if offset < window.start || offset >= end {
            self.fill(&mut window, offset)?;
        }
        let there = &window.bytes[(offset - window.start) as usize..];
        let n = buffer.len().min(there.len());
        buffer[..n].copy_from_slice(&there[..n]);
        Ok(n)
    }

    fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let first = self.pieces.partition_point(|piece| piece.end() <= offset);
        Ok(self.pieces.get(first).map(|piece| piece.at.max(offset)..piece.end()))
    }
}
