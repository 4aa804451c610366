//! [`LayerReader`]: a layer, or any `tar.zst`, back into entries.
use super::buffers::Buffers;
use super::dictionary::Dictionary;
use super::entry::Entry;
use super::frames_in::FramesIn;
use super::index::LayerIndex;
use super::section::Section;
use super::tap::{Tap, Through};
use super::tar::{Decoder, Dialect, Extent, SparseMap, padding};
use super::{LayerError, frame, writer};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes copied to a file at once.
const COPY_BUFFER: usize = 256 << 10;
/// zstd window of foreign archives: 128 MiB, what plain `zstd -d` allows.
const WINDOW_LOG_MAX: u32 = 27;

enum Stream<R: Read> {
    Layer(Box<FramesIn<R>>),
    Layered(Box<FramesIn<Begun<R>>>),
    Section(Box<Section<R>>),
    Zstd(zstd::Decoder<'static, io::BufReader<Begun<R>>>),
    Plain(io::BufReader<Begun<R>>),
}

/// A source whose first bytes were looked at.
type Begun<R> = io::Chain<Cursor<Vec<u8>>, R>;

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Layer(s) => s.read(buf),
            Self::Layered(s) => s.read(buf),
            Self::Section(s) => s.read(buf),
            Self::Zstd(s) => s.read(buf),
            Self::Plain(s) => s.read(buf),
        }
    }
}

/// Sees the content of entries as it is read, and where in its file it belongs.
pub type Watch = Box<dyn FnMut(u64, &[u8]) + Send>;

/// Reads a layer as a stream, without seeking; decompression runs ahead on a few threads.
///
/// Each frame is checked before its bytes are used; that the layer is whole is certain only when
/// [`next_entry`](Self::next_entry) has returned `None`.
pub struct LayerReader<R: Read> {
    stream: Stream<R>,
    tap: Tap,
    watch: Option<Watch>,
    decoder: Decoder,
    map: SparseMap,
    /// The next extent of `map`, and how much of it was read.
    extent: usize,
    within: u64,
    padding: usize,
    entries: u64,
    ended: bool,
    failed: bool,
    buffer: Vec<u8>,
}

impl<R: Read + Send> LayerReader<R> {
    /// A layer as this program writes it.
    ///
    /// # Errors
    /// [`LayerError::NotALayer`], [`LayerError::UnknownVersion`], or the source's failure.
    pub fn new(source: R) -> Result<Self, LayerError> {
        let frames = FramesIn::new(source, writer::threads())?;
        Ok(Self::of(Stream::Layer(Box::new(frames)), Dialect::Layer))
    }

    /// A part of a layer: the entries that stand in `span`, a range of the tar stream that begins
    /// where an entry does and ends where one does (as rows of the contents say). `source` yields the
    /// bytes that [`index.range(span)`](LayerIndex::range) names, from their first; no byte of a frame
    /// is used before the frame's length and digest were found to be those of the index. Few frames are
    /// decompressed on the caller's thread, many run ahead on threads.
    ///
    /// [`next_entry`](Self::next_entry) returns `None` at the end of the span.
    ///
    /// # Errors
    /// [`LayerError::Io`] (`InvalidInput`) if the span is not within the tar stream. An entry that goes
    /// on behind the span is [`LayerError::Truncated`] when that is met.
    pub fn section(source: R, index: &LayerIndex, span: Range<u64>) -> Result<Self, LayerError> {
        let section = Section::new(source, index, span, writer::threads())?;
        Ok(Self::of(Stream::Section(Box::new(section)), Dialect::Layer))
    }

    /// Gives the dictionary with which the layer was compressed, if it was; to be called before anything is
    /// read. Without it reading fails with [`LayerError::Dictionary`].
    #[must_use]
    pub fn with_dictionary(mut self, dictionary: Option<&Dictionary>) -> Self {
        let (Some(dictionary), threads) = (dictionary, writer::threads()) else { return self };
        self.stream = match self.stream {
            Stream::Layer(s) => Stream::Layer(Box::new(s.with_dictionary(dictionary, threads))),
            Stream::Layered(s) => Stream::Layered(Box::new(s.with_dictionary(dictionary, threads))),
            Stream::Section(s) => Stream::Section(Box::new(s.with_dictionary(Some(dictionary)))),
            foreign => foreign,
        };
        self
    }

    /// A layer, or any `tar.zst` or plain tar: ustar, PAX, GNU. In a foreign archive a `.wh.` file
    /// is a file, and there is no table that tells truncation at a frame's end; GNU tar's own rule
    /// then is the only one (a tar ends with zero blocks; without them the end is taken as is).
    pub fn lenient(mut source: R) -> Result<Self, LayerError> {
        let mut head = vec![0; 4];
        source.read_exact(&mut head).map_err(|e| LayerError::from_stream("archive", e))?;
        let zstd = head == frame::ZSTD_MAGIC;
        let skippable = head[1..] == frame::TABLE_MAGIC[1..] && head[0] & 0xF0 == 0x50;
        if skippable {
            let mut rest = Vec::new();
            source
                .by_ref()
                .take(frame::PREAMBLE_BYTES as u64 - 4)
                .read_to_end(&mut rest)
                .map_err(|e| LayerError::from_stream("archive", e))?;
            head.extend(rest);
        }
        let ours = frame::is_ours(&head);
        let begun = Cursor::new(head).chain(source);
        if ours {
            let frames = FramesIn::new(begun, writer::threads())?;
            return Ok(Self::of(Stream::Layered(Box::new(frames)), Dialect::Layer));
        }
        if zstd || skippable {
            let open = || {
                let mut d = zstd::Decoder::new(begun)?;
                d.window_log_max(WINDOW_LOG_MAX)?;
                Ok(d)
            };
            let decoder = open().map_err(|e: io::Error| LayerError::io("cannot decompress", e))?;
            return Ok(Self::of(Stream::Zstd(decoder), Dialect::Foreign));
        }
        Ok(Self::of(Stream::Plain(io::BufReader::new(begun)), Dialect::Foreign))
    }

    /// Uses memory of `buffers` for the frames of a section, and leaves it there; to be called before anything is
    /// read.
    #[must_use]
    pub fn with_buffers(mut self, buffers: &Buffers) -> Self {
        if let Stream::Section(section) = self.stream {
            self.stream = Stream::Section(Box::new(section.with_buffers(buffers)));
        }
        self
    }

    /// Hands parts of the stream to whoever wants them while it is read; to be called before anything is read.
    #[must_use]
    pub fn with_tap(mut self, tap: Tap) -> Self {
        self.tap = tap;
        self
    }

    /// Shows all content that is read to somebody.
    #[must_use]
    pub fn with_watch(mut self, watch: Option<Watch>) -> Self {
        self.watch = watch;
        self
    }

    /// The tap, when all was read.
    pub fn take_tap(&mut self) -> Tap {
        std::mem::take(&mut self.tap)
    }

    fn of(stream: Stream<R>, dialect: Dialect) -> Self {
        Self {
            stream,
            tap: Tap::default(),
            watch: None,
            decoder: Decoder::new(dialect),
            map: SparseMap::dense(0),
            extent: 0,
            within: 0,
            padding: 0,
            entries: 0,
            ended: false,
            failed: false,
            buffer: Vec::new(),
        }
    }

    /// Whether this is a layer of ours (whiteouts have a meaning, the end is proven).
    pub fn is_layer(&self) -> bool {
        matches!(self.stream, Stream::Layer(_) | Stream::Layered(_) | Stream::Section(_))
    }

    /// The next entry; content of the last one that was not read is skipped. `None` says that the
    /// whole layer (or section) was read and is what its writer wrote. After an error there is only that error.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        if self.failed {
            return Err(LayerError::corrupt("reading went on after an error"));
        }
        if self.ended {
            return Ok(None);
        }
        let result = self.advance();
        self.failed = result.is_err();
        result
    }

    fn advance(&mut self) -> Result<Option<Entry>, LayerError> {
        while self.next_data()?.is_some() {}
        let padding = std::mem::take(&mut self.padding);
        let mut zeros = [0; super::tar::BLOCK];
        let mut stream = Through { stream: &mut self.stream, tap: &mut self.tap };
        stream
            .read_exact(&mut zeros[..padding])
            .map_err(|e| LayerError::from_stream("padding of an entry", e))?;
        if matches!(&self.stream, Stream::Section(s) if s.is_over()) {
            self.ended = true;
            return Ok(None);
        }
        let mut stream = Through { stream: &mut self.stream, tap: &mut self.tap };
        if let Some(next) = self.decoder.next(&mut stream)? {
            self.entries += 1;
            self.padding = padding_of(&next.map);
            (self.map, self.extent, self.within) = (next.map, 0, 0);
            return Ok(Some(next.entry));
        }
        self.ended = true;
        match &mut self.stream {
            Stream::Layer(s) => s.finish(self.entries)?,
            Stream::Layered(s) => s.finish(self.entries)?,
            Stream::Section(s) => s.finish()?,
            // The rest of a record of zeros, and the checksum at the end of the frame.
            rest @ (Stream::Zstd(_) | Stream::Plain(_)) => {
                io::copy(rest, &mut io::sink()).map_err(|e| LayerError::from_stream("end of archive", e))?;
            }
        }
        Ok(None)
    }

    /// Up to [`COPY_BUFFER`] bytes of data into `buffer`; where they belong.
    fn next_data(&mut self) -> Result<Option<u64>, LayerError> {
        let Some(&Extent { offset, len }) = self.map.extents.get(self.extent) else { return Ok(None) };
        let n = (len - self.within).min(COPY_BUFFER as u64) as usize;
        self.buffer.resize(n, 0);
        let mut stream = Through { stream: &mut self.stream, tap: &mut self.tap };
        if let Err(e) = stream.read_exact(&mut self.buffer) {
            self.failed = true;
            return Err(LayerError::from_stream("content of a file", e));
        }
        let at = offset + self.within;
        if let Some(watch) = &mut self.watch {
            watch(at, &self.buffer);
        }
        self.within += n as u64;
        if self.within == len {
            (self.extent, self.within) = (self.extent + 1, 0);
        }
        Ok(Some(at))
    }

    /// Writes the content of the entry just returned to an empty file; holes stay holes.
    pub fn content_to_file(&mut self, file: &File) -> Result<(), LayerError> {
        self.content_watched(file, |_, _| ())
    }

    /// The same, and shows what is written and where.
    pub fn content_watched(
        &mut self,
        file: &File,
        mut seen: impl FnMut(u64, &[u8]),
    ) -> Result<(), LayerError> {
        while let Some(at) = self.next_data()? {
            seen(at, &self.buffer);
            file.write_all_at(&self.buffer, at).map_err(|e| LayerError::io("cannot write file", e))?;
        }
        let ends_in_data = self.map.extents.last().is_some_and(|e| e.offset + e.len == self.map.size);
        if !ends_in_data {
            file.set_len(self.map.size).map_err(|e| LayerError::io("cannot set a file's length", e))?;
        }
        Ok(())
    }

    /// Shows the data of the entry just returned, and where they belong. Ends with the first failure of `take`.
    pub fn each_data(
        &mut self,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        while let Some(at) = self.next_data()? {
            take(at, &self.buffer)?;
        }
        Ok(())
    }

    /// Appends the content of the entry just returned to `out`, holes as zeros.
    ///
    /// # Errors
    /// [`LayerError::Io`] (`FileTooLarge`) if it is longer than `limit`; nothing was read then.
    pub fn read_content(&mut self, out: &mut Vec<u8>, limit: u64) -> Result<(), LayerError> {
        if self.map.size > limit {
            return Err(LayerError::io("content is longer than asked for", io::ErrorKind::FileTooLarge));
        }
        let start = out.len();
        out.resize(start + self.map.size as usize, 0);
        while let Some(at) = self.next_data()? {
            let at = start + at as usize;
            out[at..at + self.buffer.len()].copy_from_slice(&self.buffer);
        }
        Ok(())
    }

    /// How many bytes of the tar stream (or section) were read: after an entry was returned, where its data begin.
    pub fn position(&self) -> u64 {
        self.tap.position()
    }

    /// Which parts of a file the entry just returned has; they stand in the stream one after the other,
    /// and nothing but padding behind them.
    pub fn data(&self) -> &[Extent] {
        &self.map.extents
    }

    /// Whether the entry just returned has holes.
    pub fn has_holes(&self) -> bool {
        !self.map.is_dense()
    }
}

fn padding_of(map: &SparseMap) -> usize {
    padding(map.data_len())
}

impl<R: Read> std::fmt::Debug for LayerReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerReader").field("entries", &self.entries).finish_non_exhaustive()
    }
}
