//! [`Contents`]: the rows of a layer, piece by piece.
use super::{END_BYTES, HEADERS_MAX, PIECE_HEADER_BYTES, PIECE_ROWS_MAX, Row, XATTR_OVERHEAD, kind};
use crate::clock::Timestamp;
use crate::layer::dictionary::Unpacker;
use crate::layer::frame::SKIPPABLE_HEADER_BYTES;
use crate::layer::number::{self, Bad};
use crate::layer::reference::References;
use crate::layer::table::{Counts, FrameRow, ROW_BYTES};
use crate::layer::tar::BLOCK;
use crate::layer::{Entry, Kind, LayerError, Metadata};
use crate::path::RelPath;

/// The rows in the order of the stream, decoded as they are asked for: one piece (256 KiB, with one
/// row that is longer: 8 MiB) is in memory.
///
/// Every row is checked: its range follows that of the row before, it names no more bytes than its
/// entry has in the stream, and at the end rows and stream end together. After an error there is no
/// further row; without one, `None` says that all rows were there.
pub struct Contents<'a> {
    /// What the table says of the pieces to come, and the pieces.
    listed: &'a [u8],
    frames: &'a [u8],
    unpacker: Unpacker,
    raw: Vec<u8>,
    at: usize,
    /// Rows to come of this piece, and of all.
    rows: u64,
    entries: u64,
    /// Where the next row begins in the tar stream, and where the last one must end.
    offset: u64,
    end: u64,
    /// Path and seconds of the row before, in this piece.
    path: Vec<u8>,
    sec: i64,
    over: bool,
}

impl<'a> Contents<'a> {
    /// `frames` are the frames that `listed` describes, which was checked, digests included.
    pub(in crate::layer) fn new(listed: &'a [u8], frames: &'a [u8], counts: Counts) -> Self {
        Self {
            listed,
            frames,
            unpacker: Unpacker::new(None),
            raw: Vec::new(),
            at: 0,
            rows: 0,
            entries: counts.entries,
            offset: 0,
            end: counts.raw_bytes.saturating_sub(END_BYTES),
            path: Vec::new(),
            sec: 0,
            over: false,
        }
    }

    fn advance(&mut self) -> Result<Option<Row>, LayerError> {
        if self.rows == 0 {
            if self.at != self.raw.len() {
                return Err(wrong("bytes after the last row of a piece"));
            }
            if !self.next_piece()? {
                return if self.entries > 0 {
                    Err(wrong("fewer rows than entries"))
                } else if self.offset != self.end {
                    Err(wrong("rows end before the stream"))
                } else {
                    Ok(None)
                };
            }
        }
        let mut fields = Fields { bytes: &self.raw[self.at..], budget: 0 };
        let row = fields.row(&mut self.path, &mut self.sec, self.offset, self.end)?;
        self.at = self.raw.len() - fields.bytes.len();
        self.offset += row.length;
        self.rows -= 1;
        self.entries -= 1;
        Ok(Some(row))
    }

    fn next_piece(&mut self) -> Result<bool, LayerError> {
        let Some((listed, rest)) = self.listed.split_first_chunk::<ROW_BYTES>() else { return Ok(false) };
        let piece = FrameRow::parse(listed);
        let (frame, frames) = self
            .frames
            .split_at_checked(piece.length as usize)
            .filter(|(frame, _)| frame.len() >= SKIPPABLE_HEADER_BYTES)
            .ok_or_else(|| wrong("a piece is not there"))?;
        (self.listed, self.frames) = (rest, frames);
        self.unpacker.unpack(&frame[SKIPPABLE_HEADER_BYTES..], piece.raw as usize, &mut self.raw)?;
        let mut fields = Fields { bytes: &self.raw, budget: 0 };
        let (first, rows) = (fields.fixed()?, fields.fixed()?);
        if self.raw.len() != piece.raw as usize {
            return Err(wrong("a piece has another length"));
        }
        if rows == 0 || (rows > 1 && self.raw.len() > PIECE_ROWS_MAX) {
            return Err(wrong("a piece has too few rows or is too long"));
        }
        if rows > self.entries {
            return Err(wrong("more rows than entries"));
        }
        if first != self.offset {
            return Err(wrong("a piece begins elsewhere"));
        }
        (self.at, self.rows, self.sec) = (PIECE_HEADER_BYTES, rows, 0);
        self.path.clear();
        Ok(true)
    }
}

impl Iterator for Contents<'_> {
    type Item = Result<Row, LayerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.advance().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

impl std::iter::FusedIterator for Contents<'_> {}

impl std::fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("entries", &self.entries).finish_non_exhaustive()
    }
}

fn wrong(what: &str) -> LayerError {
    LayerError::corrupt(format!("contents do not hold: {what}"))
}

/// The fields of one row.
struct Fields<'a> {
    bytes: &'a [u8],
    /// How many bytes of names and values the entry may still have: its headers hold them all.
    /// Bounds what a row allocates, and what all rows do by the length of the stream.
    budget: u64,
}

impl<'a> Fields<'a> {
    fn row(&mut self, path: &mut Vec<u8>, sec: &mut i64, offset: u64, end: u64) -> Result<Row, LayerError> {
        let length = self
            .number()?
            .checked_mul(BLOCK as u64)
            .filter(|n| *n > 0 && *n <= end - offset)
            .ok_or_else(|| wrong("a row lies outside the stream"))?;
        self.budget = length.min(HEADERS_MAX);
        let shared = self.number()?;
        if shared > path.len() as u64 {
            return Err(wrong("a path shares more than there is"));
        }
        self.spend(shared)?;
        path.truncate(shared as usize);
        path.extend_from_slice(self.bytes()?);
        let entry = self.entry(path, sec)?;
        if length > HEADERS_MAX && !matches!(entry.kind, Kind::File { .. }) {
            return Err(wrong("an entry without data is too long").in_entry(&entry.path));
        }
        Ok(Row { entry, offset, length })
    }

    fn entry(&mut self, path: &[u8], sec: &mut i64) -> Result<Entry, LayerError> {
        let path = relative(path)?;
        let kind = self.kind().map_err(|e| e.in_entry(&path))?;
        if path.is_root() && kind != Kind::Directory {
            return Err(wrong("the root is not a directory"));
        }
        let meta = match kind {
            Kind::HardLink { .. } | Kind::Whiteout => Metadata::default(),
            _ => self.meta(sec).map_err(|e| e.in_entry(&path))?,
        };
        Ok(Entry { path, kind, meta })
    }

    fn kind(&mut self) -> Result<Kind, LayerError> {
        let (number, rest) = self.bytes.split_first().ok_or_else(short)?;
        self.bytes = rest;
        Ok(match *number {
            kind @ (kind::FILE | kind::FUZZY_FILE) => {
                let fuzzy = kind == kind::FUZZY_FILE;
                Kind::File { size: self.number()?, fuzzy, refs: References::none() }
            }
            kind @ (kind::PARTIAL_FILE | kind::FUZZY_PARTIAL_FILE) => {
                let (fuzzy, size) = (kind == kind::FUZZY_PARTIAL_FILE, self.number()?);
                let length = self.number()?;
                // In the header they are in hex.
                self.spend(length.saturating_mul(2))?;
                Kind::File { size, fuzzy, refs: References::decode(self.take(length)?, size)? }
            }
            kind::DIRECTORY => Kind::Directory,
            kind::SYMLINK => {
                let target = self.bytes()?;
                if target.is_empty() || target.contains(&0) {
                    return Err(wrong("bad symlink target"));
                }
                Kind::Symlink { target: target.to_vec() }
            }
            kind::HARD_LINK => {
                let target = relative(self.bytes()?)?;
                if target.is_root() {
                    return Err(wrong("hard link to the root"));
                }
                Kind::HardLink { target }
            }
            kind::FIFO => Kind::Fifo,
            kind::CHAR_DEVICE => Kind::CharDevice { rdev: (self.small()?, self.small()?) },
            kind::BLOCK_DEVICE => Kind::BlockDevice { rdev: (self.small()?, self.small()?) },
            kind::WHITEOUT => Kind::Whiteout,
            other => return Err(LayerError::corrupt(format!("contents have an unknown kind: {other}"))),
        })
    }

    fn meta(&mut self, sec: &mut i64) -> Result<Metadata, LayerError> {
        let mode = self.small()?;
        if mode > 0o7777 {
            return Err(wrong("mode out of range"));
        }
        let (uid, gid) = (self.small()?, self.small()?);
        *sec = sec.wrapping_add(number::unzigzag(self.number()?));
        let (nsec, rest) = self.bytes.split_first_chunk().ok_or_else(short)?;
        self.bytes = rest;
        let nsec = u32::from_le_bytes(*nsec);
        if nsec > 999_999_999 {
            return Err(wrong("nanoseconds out of range"));
        }
        let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for _ in 0..self.number()? {
            self.spend(XATTR_OVERHEAD)?;
            let (name, value) = (self.bytes()?, self.bytes()?);
            let in_order = xattrs.last().is_none_or(|(last, _)| last.as_slice() < name);
            if !in_order || name.is_empty() || name.len() > 255 || name.contains(&0) {
                return Err(wrong("bad name of an extended attribute"));
            }
            xattrs.push((name.to_vec(), value.to_vec()));
        }
        Ok(Metadata { mode, uid, gid, mtime: Timestamp { sec: *sec, nsec }, xattrs })
    }

    /// Bytes behind their length.
    fn bytes(&mut self) -> Result<&'a [u8], LayerError> {
        let length = self.number()?;
        self.spend(length)?;
        self.take(length)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], LayerError> {
        let (bytes, rest) =
            usize::try_from(length).ok().and_then(|n| self.bytes.split_at_checked(n)).ok_or_else(short)?;
        self.bytes = rest;
        Ok(bytes)
    }

    fn spend(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.budget =
            self.budget.checked_sub(bytes).ok_or_else(|| wrong("a row names more than its entry has"))?;
        Ok(())
    }

    fn small(&mut self) -> Result<u32, LayerError> {
        u32::try_from(self.number()?).map_err(|_| wrong("number out of range"))
    }

    fn number(&mut self) -> Result<u64, LayerError> {
        number::take(&mut self.bytes).map_err(|e| match e {
            Bad::Short => short(),
            Bad::Malformed => wrong("malformed number"),
        })
    }

    fn fixed(&mut self) -> Result<u64, LayerError> {
        let (bytes, rest) = self.bytes.split_first_chunk().ok_or_else(short)?;
        self.bytes = rest;
        Ok(u64::from_le_bytes(*bytes))
    }
}

fn short() -> LayerError {
    wrong("a piece ends within a row")
}

fn relative(path: &[u8]) -> Result<RelPath, LayerError> {
    RelPath::new(path)
        .map_err(|e| LayerError::Refused { what: e.to_string(), entry: path.escape_ascii().to_string() })
}
