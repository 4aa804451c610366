//! [`Encoder`]: entries into pieces of the contents.
use super::{PIECE_HEADER_BYTES, PIECE_ROWS_MAX, kind};
use crate::layer::frame::{CONTENTS_MAGIC, SKIPPABLE_HEADER_BYTES};
use crate::layer::number::{put as put_number, zigzag};
use crate::layer::table::skippable;
use crate::layer::tar::BLOCK;
use crate::layer::{Entry, Kind, LayerError, Metadata};
use std::borrow::Cow;
use std::io;

/// One frame of the contents.
#[derive(Debug)]
pub(in crate::layer) struct Piece {
    /// As it is stored, with its header.
    pub(in crate::layer) frame: Vec<u8>,
    /// Bytes of its rows before compression.
    pub(in crate::layer) raw: u32,
}

/// Takes a row for each entry, in the order of the stream. Holds one piece, and those before it
/// compressed.
pub(in crate::layer) struct Encoder {
    level: i32,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    pieces: Vec<Piece>,
    /// The piece under way, room for its header included.
    raw: Vec<u8>,
    rows: u64,
    /// Where the first row of the piece and the next one begin in the tar stream.
    first: u64,
    next: u64,
    /// Path and seconds of the row before, in this piece.
    path: Vec<u8>,
    sec: i64,
}

impl Encoder {
    pub(in crate::layer) fn new(level: i32) -> Self {
        Self {
            level,
            zstd: None,
            pieces: Vec::new(),
            raw: vec![0; PIECE_HEADER_BYTES],
            rows: 0,
            first: 0,
            next: 0,
            path: Vec::new(),
            sec: 0,
        }
    }

    /// Adds the entry that takes the next `length` bytes of the tar stream.
    pub(in crate::layer) fn push(&mut self, entry: &Entry, length: u64) -> Result<(), LayerError> {
        let before = self.raw.len();
        self.put_row(entry, length);
        if self.raw.len() > PIECE_ROWS_MAX && self.rows > 0 {
            // Too much together: this row begins the next piece.
            self.raw.truncate(before);
            self.cut()?;
            self.put_row(entry, length);
        }
        self.rows += 1;
        self.next += length;
        self.path.clear();
        self.path.extend_from_slice(entry.path.as_bytes());
        if let Some(meta) = meta_of(entry) {
            self.sec = meta.mtime.sec;
        }
        Ok(())
    }

    /// All pieces; none if there was no row.
    pub(in crate::layer) fn finish(mut self) -> Result<Vec<Piece>, LayerError> {
        if self.rows > 0 {
            self.cut()?;
        }
        Ok(self.pieces)
    }

    fn put_row(&mut self, entry: &Entry, length: u64) {
        let raw = &mut self.raw;
        put_number(raw, length / BLOCK as u64);
        let path = entry.path.as_bytes();
        let shared = self.path.iter().zip(path).take_while(|(a, b)| a == b).count();
        put_number(raw, shared as u64);
        put_bytes(raw, &path[shared..]);
        match &entry.kind {
            Kind::File { size, fuzzy, refs } => {
                raw.push(match (fuzzy, refs.is_empty()) {
                    (false, true) => kind::FILE,
                    (true, true) => kind::FUZZY_FILE,
                    (false, false) => kind::PARTIAL_FILE,
                    (true, false) => kind::FUZZY_PARTIAL_FILE,
                });
                put_number(raw, *size);
                if !refs.is_empty() {
                    put_bytes(raw, &refs.encode());
                }
            }
            Kind::Directory => raw.push(kind::DIRECTORY),
            Kind::Symlink { target } => {
                raw.push(kind::SYMLINK);
                put_bytes(raw, target);
            }
            Kind::HardLink { target } => {
                raw.push(kind::HARD_LINK);
                put_bytes(raw, target.as_bytes());
            }
            Kind::Fifo => raw.push(kind::FIFO),
            Kind::CharDevice { rdev } | Kind::BlockDevice { rdev } => {
                let char = matches!(entry.kind, Kind::CharDevice { .. });
                raw.push(if char { kind::CHAR_DEVICE } else { kind::BLOCK_DEVICE });
                put_number(raw, u64::from(rdev.0));
                put_number(raw, u64::from(rdev.1));
            }
            Kind::Whiteout => raw.push(kind::WHITEOUT),
        }
        let Some(meta) = meta_of(entry) else { return };
        put_number(raw, u64::from(meta.mode & 0o7777));
        put_number(raw, u64::from(meta.uid));
        put_number(raw, u64::from(meta.gid));
        put_number(raw, zigzag(meta.mtime.sec.wrapping_sub(self.sec)));
        raw.extend_from_slice(&meta.mtime.nsec.to_le_bytes());
        let xattrs = in_order(&meta.xattrs);
        put_number(raw, xattrs.len() as u64);
        for (name, value) in xattrs.iter() {
            put_bytes(raw, name);
            put_bytes(raw, value);
        }
    }

    /// Compresses the piece under way and begins the next.
    fn cut(&mut self) -> Result<(), LayerError> {
        let failed = |e: io::Error| LayerError::io("cannot compress contents", e);
        self.raw[..8].copy_from_slice(&self.first.to_le_bytes());
        self.raw[8..PIECE_HEADER_BYTES].copy_from_slice(&self.rows.to_le_bytes());
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(zstd::bulk::Compressor::new(self.level).map_err(failed)?),
        };
        let payload = zstd.compress(&self.raw).map_err(failed)?;
        let mut frame = Vec::with_capacity(SKIPPABLE_HEADER_BYTES + payload.len());
        frame.extend_from_slice(&skippable(CONTENTS_MAGIC, payload.len() as u32));
        frame.extend_from_slice(&payload);
        self.pieces.push(Piece { frame, raw: self.raw.len() as u32 });
        self.raw.truncate(PIECE_HEADER_BYTES);
        (self.rows, self.first, self.sec) = (0, self.next, 0);
        self.path.clear();
        Ok(())
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("pieces", &self.pieces.len()).finish_non_exhaustive()
    }
}

/// The attributes that mean something in the stream.
fn meta_of(entry: &Entry) -> Option<&Metadata> {
    (!matches!(entry.kind, Kind::HardLink { .. } | Kind::Whiteout)).then_some(&entry.meta)
}

type Xattrs = [(Vec<u8>, Vec<u8>)];

/// Sorted and each name once, as a reader of the stream sees them: the last value of a name stands.
fn in_order(xattrs: &Xattrs) -> Cow<'_, Xattrs> {
    if xattrs.is_sorted_by(|a, b| a.0 < b.0) {
        return Cow::Borrowed(xattrs);
    }
    let mut last: std::collections::BTreeMap<&[u8], &[u8]> = std::collections::BTreeMap::new();
    for (name, value) in xattrs {
        last.insert(name, value);
    }
    Cow::Owned(last.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
