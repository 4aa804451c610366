//! [`LayerWriter`]: entries into a layer.
use super::content::Content;
use super::contents::Encoder;
use super::dictionary::Dictionary;
use super::entry::{Entry, Kind};
use super::frames_out::FramesOut;
pub use super::frames_out::Tail;
use super::tar::{BLOCK, Extent, SparseMap, encode, padding};
use super::{LayerError, pipeline};
use std::io::{self, Write};
use std::sync::OnceLock;

/// The most bytes read from a file at once.
const READ_MAX: usize = 256 << 10;

/// How to pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackOptions {
    /// zstd level: 3 by default, 1 under pressure.
    pub level: i32,
    /// Compressing threads, at most 4.
    pub threads: usize,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self { level: 3, threads: threads() }
    }
}

pub(super) fn threads() -> usize {
    // Who asks the kernel reads a dozen files of control groups: as long as to make a small file.
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        std::thread::available_parallelism().map_or(1, usize::from).min(pipeline::THREADS_MAX)
    })
}

/// What a finished layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Length of the layer.
    pub bytes: u64,
    /// Length of the tar stream in it.
    pub raw_bytes: u64,
    /// Entries, whiteouts included.
    pub entries: u64,
    /// BLAKE3 of the layer.
    pub digest: [u8; 32],
    /// What of it a reader of parts needs first.
    pub tail: Tail,
}

/// Where the data of an entry are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Where they begin in the tar stream, one part after the other.
    pub from: u64,
    /// Which parts of the file they are.
    pub data: Vec<Extent>,
}

/// Writes a layer to `sink`. Memory stays below 32 MiB, plus the frame table (40 bytes for each
/// MiB packed) and the compressed contents (tens of bytes for each entry). What was written of a
/// layer that is dropped before it is finished is useless.
///
/// A file with several names goes in once as a file, then as hard links.
pub struct LayerWriter<W> {
    frames: FramesOut<W>,
    contents: Encoder,
    entries: u64,
    /// Where the next entry begins in the tar stream.
    at: u64,
    /// An entry was begun and not ended: what follows would be read as its content.
    broken: bool,
}

impl<W: Write + Send> LayerWriter<W> {
    /// Writes nothing yet.
    pub fn new(sink: W, options: PackOptions) -> Self {
        Self::with_dictionary(sink, options, None)
    }

    /// The same, compressed with a dictionary if there is one: no plain tar reads the layer then.
    pub fn with_dictionary(sink: W, options: PackOptions, dictionary: Option<Dictionary>) -> Self {
        Self {
            frames: FramesOut::new(sink, options.level, options.threads, dictionary),
            contents: Encoder::new(options.level),
            entries: 0,
            at: 0,
            broken: false,
        }
    }

    /// Appends an entry. A regular file needs its `content`, unless nothing of it is to be read (its
    /// size is 0, or its references give all of it): exactly `size` bytes less those of its references
    /// are read from their positions, holes stay holes. Tells where its data are.
    ///
    /// # Errors
    /// [`LayerError::Unstorable`] if the entry has no form in the format: nothing was written, go
    /// on without it. [`LayerError::Changed`] if the file is shorter than promised: like every
    /// other error it spoils the layer, which can no longer be finished, unless nothing was written
    /// yet (the file was already too short).
    pub fn append(&mut self, entry: &Entry, content: Option<&dyn Content>) -> Result<Appended, LayerError> {
        self.check_whole()?;
        let Kind::File { size, refs, .. } = &entry.kind else {
            let header = encode(entry, None)?;
            self.broken = true;
            self.frames.write(&header)?;
            return self.end_entry(entry, header.len() as u64, Vec::new());
        };
        let size = *size;
        // A file that lost its end looks like one that ends in a hole.
        let check_length = || match content {
            Some(file) => match file.length() {
                Ok(now) if now < size => Err(LayerError::Changed { path: entry.path.clone() }),
                Ok(_) => Ok(()),
                Err(e) => Err(LayerError::content(&entry.path, e)),
            },
            None => Ok(()),
        };
        check_length()?;
        let map = match content {
            Some(file) => SparseMap::of(file, size).map_err(|e| LayerError::content(&entry.path, e))?,
            None if refs.bytes() == size => SparseMap { size, extents: Vec::new() },
            None => return Err(LayerError::unstorable("file without its content", &entry.path)),
        };
        // A map of a few bytes' saving costs more than it saves.
        let map = if size - map.data_len() < BLOCK as u64 * 4 { SparseMap::dense(size) } else { map };
        let map = map.without(refs);
        let header = encode(entry, Some(&map))?;
        self.broken = true;
        self.frames.write(&header)?;
        if let Some(file) = content {
            for extent in &map.extents {
                self.copy(entry, file, extent.offset, extent.len)?;
            }
        }
        if !map.is_dense() {
            check_length()?;
        }
        let (data, fill) = (map.data_len(), padding(map.data_len()));
        self.frames.write(&[0; BLOCK][..fill])?;
        let length = header.len() as u64 + data + fill as u64;
        self.end_entry(entry, length, map.extents)
    }

    /// After the last byte of an entry that takes `length` bytes of the tar stream.
    fn end_entry(&mut self, entry: &Entry, length: u64, data: Vec<Extent>) -> Result<Appended, LayerError> {
        self.contents.push(entry, length)?;
        self.broken = false;
        self.entries += 1;
        self.at += length;
        let bytes = data.iter().map(|extent| extent.len).sum::<u64>();
        Ok(Appended { from: self.at - padding(bytes) as u64 - bytes, data })
    }

    fn check_whole(&self) -> Result<(), LayerError> {
        if self.broken {
            return Err(LayerError::corrupt("writing went on after an error"));
        }
        Ok(())
    }

    fn copy(
        &mut self,
        entry: &Entry,
        file: &dyn Content,
        mut at: u64,
        mut left: u64,
    ) -> Result<(), LayerError> {
        while left > 0 {
            let want = left.min(READ_MAX as u64) as usize;
            let room = self.frames.room(want)?;
            let mut filled = 0;
            while filled < room.len() {
                match file.read_at(&mut room[filled..], at) {
                    Ok(0) => return Err(LayerError::Changed { path: entry.path.clone() }),
                    Ok(n) => {
                        filled += n;
                        at += n as u64;
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(LayerError::content(&entry.path, e)),
                }
            }
            left -= filled as u64;
        }
        Ok(())
    }

    /// Ends the layer and returns the sink, flushed.
    pub fn finish(mut self) -> Result<(W, Summary), LayerError> {
        self.check_whole()?;
        self.frames.write(&[0; 2 * BLOCK])?;
        let contents = self.contents.finish()?;
        let w = self.frames.finish(self.entries, &contents)?;
        let summary = Summary {
            bytes: w.bytes,
            raw_bytes: w.raw_bytes,
            entries: self.entries,
            digest: w.digest,
            tail: w.tail,
        };
        Ok((w.sink, summary))
    }
}

impl<W> std::fmt::Debug for LayerWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter").field("entries", &self.entries).finish_non_exhaustive()
    }
}
