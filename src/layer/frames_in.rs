//! [`FramesIn`]: the tar stream of a layer, checked frame by frame, as a [`Read`].
use super::LayerError;
use super::dictionary::{Dictionary, Unpacker};
use super::frame::{self, FRAME_RAW_MAX, Next};
use super::pipeline::Pipeline;
use super::table::{self, Counts};
use std::io::{self, BufReader, Read};

/// Bytes read from the source at once.
const SOURCE_BUFFER: usize = 256 << 10;

struct Frame {
    raw: Vec<u8>,
    compressed: Vec<u8>,
    digest: [u8; 32],
}

/// Reads frames ahead of the caller and decompresses them on worker threads.
pub(super) struct FramesIn<R> {
    source: BufReader<R>,
    frames: Unpacking,
    version: u32,
    /// The dictionary that it needs and was not given yet.
    missing: Option<[u8; 32]>,
    first: bool,
    /// The header of what follows the last data frame, once it was met.
    tail: Option<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    spare: Vec<Vec<u8>>,
    rows: blake3::Hasher,
    counts: Counts,
}

impl<R: Read> FramesIn<R> {
    /// Reads and checks the preamble.
    pub(super) fn new(source: R, threads: usize) -> Result<Self, LayerError> {
        let mut source = BufReader::with_capacity(SOURCE_BUFFER, source);
        let mut first = [0; frame::PREAMBLE_BYTES];
        source.read_exact(&mut first[..4]).map_err(|e| LayerError::from_stream("preamble", e))?;
        if first[..4] != frame::PREAMBLE_MAGIC {
            return Err(LayerError::NotALayer); // however short it is
        }
        source.read_exact(&mut first[4..]).map_err(|e| LayerError::from_stream("preamble", e))?;
        let frame::Preamble { version, dictionary } = frame::check_preamble(&first)?;
        Ok(Self {
            source,
            frames: frames(threads, None),
            version,
            missing: dictionary,
            first: true,
            tail: None,
            current: Vec::new(),
            at: 0,
            spare: Vec::new(),
            rows: blake3::Hasher::new(),
            counts: Counts::default(),
        })
    }

    /// Gives the dictionary with which it was compressed; before anything is read. Another one does no harm.
    pub(super) fn with_dictionary(mut self, dictionary: &Dictionary, threads: usize) -> Self {
        if self.missing == Some(dictionary.digest()) {
            self.frames = frames(threads, Some(dictionary.clone()));
            self.missing = None;
        }
        self
    }

    fn read_ahead(&mut self) -> Result<(), LayerError> {
        if let Some(digest) = self.missing {
            return Err(LayerError::Dictionary {
                which: blake3::Hash::from_bytes(digest).to_hex().to_string(),
            });
        }
        while self.tail.is_none() && !self.frames.is_full() {
            let mut buf = self.spare.pop().unwrap_or_default();
            match frame::read_frame(&mut self.source, &mut buf)? {
                Next::Tail => self.tail = Some(buf),
                // The first frame is often the only one, and its reader waits for it.
                Next::Data if self.first => {
                    self.first = false;
                    self.frames.submit_inline(buf);
                    return Ok(());
                }
                Next::Data => self.frames.submit(buf),
            }
        }
        Ok(())
    }

    /// The next frame's content into `current`; false at the end of the stream.
    fn advance(&mut self) -> Result<bool, LayerError> {
        self.read_ahead()?;
        let Some(result) = self.frames.next() else { return Ok(false) };
        let frame =
            result.map_err(|_| LayerError::io("decompression thread died", io::ErrorKind::Other))??;
        let (compressed, raw) = (frame.compressed.len() as u32, frame.raw.len() as u32);
        self.rows.update(&table::row(compressed, raw, &frame.digest));
        self.counts.frames += 1;
        self.counts.raw_bytes += u64::from(raw);
        self.spare.push(frame.compressed);
        self.current = frame.raw;
        self.at = 0;
        Ok(true)
    }

    /// After the last entry: the stream must be over, and the tail must say what was read.
    pub(super) fn finish(&mut self, entries: u64) -> Result<(), LayerError> {
        let over = self.at == self.current.len() && !self.advance()?;
        let Some(header) = self.tail.take().filter(|_| over) else {
            return Err(LayerError::corrupt("data after the end of the tar stream"));
        };
        self.counts.entries = entries;
        table::check_tail(&mut self.source, &header, self.version, self.counts, self.rows.clone())
    }
}

impl<R: Read> Read for FramesIn<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            if !self.advance().map_err(LayerError::into_stream)? {
                return Ok(0);
            }
        }
        let n = buf.len().min(self.current.len() - self.at);
        buf[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

type Unpacking = Pipeline<Vec<u8>, Result<Frame, LayerError>>;

fn frames(threads: usize, dictionary: Option<Dictionary>) -> Unpacking {
    Pipeline::new(threads, move || {
        let mut unpacker = Unpacker::new(dictionary.as_ref());
        Box::new(move |compressed: Vec<u8>| {
            let mut raw = Vec::new();
            unpacker.unpack(&compressed, FRAME_RAW_MAX, &mut raw)?;
            let digest = *blake3::hash(&compressed).as_bytes();
            Ok(Frame { raw, compressed, digest })
        })
    })
}

impl<R> std::fmt::Debug for FramesIn<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FramesIn").field("counts", &self.counts).finish_non_exhaustive()
    }
}
