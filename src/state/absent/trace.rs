//! [`Trace`]: what programs read first after a mount, in order, so that the next cold start brings it
//! first. docs/FORMAT.md has the bytes.
use crate::path::RelPath;
use std::collections::HashSet;
use std::ops::Range;

const MAGIC: &[u8; 8] = b"ICETRACE";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 32;
/// Bytes of an entry besides its path.
const FIELDS_BYTES: usize = 2 + 1 + 4 + 4;
/// The longest trace, in bytes.
pub const TRACE_BYTES_MAX: usize = 1 << 20;
/// The most entries of a trace.
pub const ENTRIES_MAX: usize = 16 * 1024;
/// A longer path is not remembered.
const PATH_BYTES_MAX: usize = 4096;
/// What was not read after so many mounts is forgotten.
const AGE_MAX: u8 = 8;
/// Ranges are remembered in units of so many bytes.
pub const UNIT_BYTES: u64 = 1 << 20;

/// A file that was read, or a part of a large one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Traced {
    /// Which file.
    pub path: RelPath,
    /// Which part, in units of [`UNIT_BYTES`]; `None`: all of it.
    pub units: Option<Range<u32>>,
    /// How many mounts it was not read after since.
    pub age: u8,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// First what was read first.
    pub entries: Vec<Traced>,
}

/// Why bytes are no trace.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceError {
    /// Longer than any trace.
    #[error("trace is longer than {TRACE_BYTES_MAX} bytes: {bytes}")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// A newer program wrote it.
    #[error("trace has a format version this program does not know: {found}")]
    UnknownVersion {
        /// The version it names.
        found: u32,
    },
    /// The bytes are not what checksum and format promise.
    #[error("trace is corrupt: {what}")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
    },
}

impl Trace {
    /// Puts what an earlier trace has besides this one behind it, one mount older.
    #[must_use]
    pub fn after(mut self, earlier: Self) -> Self {
        let known: HashSet<(RelPath, Option<Range<u32>>)> =
            self.entries.iter().map(|e| (e.path.clone(), e.units.clone())).collect();
        let old = earlier.entries.into_iter().filter(|e| e.age < AGE_MAX);
        let old = old.filter(|e| !known.contains(&(e.path.clone(), e.units.clone())));
        self.entries.extend(old.map(|e| Traced { age: e.age + 1, ..e }));
        self.entries.truncate(ENTRIES_MAX);
        self
    }

    /// The object. What does not fit is left out at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &[0; 4]].concat();
        let (mut count, mut last) = (0u32, None);
        for Traced { path, units, age } in self.entries.iter().take(ENTRIES_MAX) {
            let name = path.as_bytes();
            if name.is_empty() || name.len() > PATH_BYTES_MAX {
                continue;
            }
            let name = if last == Some(path) { &[] } else { name };
            if bytes.len() + name.len() + FIELDS_BYTES + CHECKSUM_BYTES > TRACE_BYTES_MAX {
                break;
            }
            bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.push(*age);
            let units = units.clone().unwrap_or(0..0);
            bytes.extend_from_slice(&units.start.to_le_bytes());
            bytes.extend_from_slice(&(units.end.saturating_sub(units.start)).to_le_bytes());
            (count, last) = (count + 1, Some(path));
        }
        bytes[12..HEADER_BYTES].copy_from_slice(&count.to_le_bytes());
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    /// Reads the object.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it is used then.
    pub fn parse(bytes: &[u8]) -> Result<Self, TraceError> {
        let wrong = |what| TraceError::Corrupt { what };
        if bytes.len() > TRACE_BYTES_MAX {
            return Err(TraceError::TooLong { bytes: bytes.len() as u64 });
        }
        let (content, checksum) = bytes
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .and_then(|at| bytes.split_at_checked(at))
            .ok_or_else(|| wrong("too short"))?;
        if !content.starts_with(MAGIC) {
            return Err(wrong("magic"));
        }
        let mut fields = Fields(content.get(MAGIC.len()..).unwrap_or_default());
        let version = fields.u32()?;
        if version != VERSION {
            return Err(TraceError::UnknownVersion { found: version });
        }
        if blake3::hash(content).as_bytes() != checksum {
            return Err(wrong("checksum"));
        }
        let count = fields.u32()? as usize;
        if count > ENTRIES_MAX {
            return Err(wrong("number of entries"));
        }
        let mut entries: Vec<Traced> = Vec::new();
        for _ in 0..count {
            let length = usize::from(fields.u16()?);
            let path = match length {
                0 => entries.last().map(|e| e.path.clone()).ok_or_else(|| wrong("first path"))?,
                _ if length > PATH_BYTES_MAX => return Err(wrong("length of a path")),
                _ => RelPath::new(fields.take(length)?).map_err(|_| wrong("path"))?,
            };
            if path.is_root() {
                return Err(wrong("path"));
            }
            let age = fields.take(1)?.first().copied().unwrap_or_default();
            let (start, length) = (fields.u32()?, fields.u32()?);
            let units = match (start, length) {
                (0, 0) => None,
                (_, 0) => return Err(wrong("range")),
                _ => Some(start..start.checked_add(length).ok_or_else(|| wrong("range"))?),
            };
            entries.push(Traced { path, units, age });
        }
        if !fields.0.is_empty() {
            return Err(wrong("bytes after the last entry"));
        }
        Ok(Self { entries })
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], TraceError> {
        let (bytes, rest) =
            self.0.split_at_checked(n).ok_or(TraceError::Corrupt { what: "it ends within an entry" })?;
        self.0 = rest;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, TraceError> {
        self.take(2).map(|b| b.iter().rev().fold(0, |n, b| n << 8 | u16::from(*b)))
    }

    fn u32(&mut self) -> Result<u32, TraceError> {
        self.take(4).map(|b| b.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)))
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn traced(path: &str, units: Option<Range<u32>>, age: u8) -> Traced {
        Traced { path: RelPath::new(path).expect("path"), units, age }
    }

    fn trace() -> Trace {
        let entries =
            vec![traced("a/b", None, 0), traced("large", Some(3..5), 0), traced("large", Some(0..1), 2)];
        Trace { entries }
    }

    #[test]
    fn a_trace_is_these_bytes() {
        let mut expected = b"ICETRACE\x01\0\0\0\x03\0\0\0".to_vec();
        expected.extend(b"\x03\0a/b\0\0\0\0\0\0\0\0\0");
        expected.extend(b"\x05\0large\0\x03\0\0\0\x02\0\0\0");
        expected.extend(b"\0\0\x02\0\0\0\0\x01\0\0\0");
        let checksum = blake3::hash(&expected);
        expected.extend_from_slice(checksum.as_bytes());
        assert_eq!(trace().to_bytes(), expected);
        assert_eq!(Trace::parse(&expected), Ok(trace()));
    }

    #[test]
    fn every_other_byte_and_length_is_refused() {
        let bytes = trace().to_bytes();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(Trace::parse(&other).is_err(), "byte {at}");
            assert!(Trace::parse(&bytes[..at]).is_err(), "length {at}");
        }
        assert!(matches!(Trace::parse(&vec![0; TRACE_BYTES_MAX + 1]), Err(TraceError::TooLong { .. })));
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(Trace::parse(&newer), Err(TraceError::UnknownVersion { found: 2 }));
    }

    #[test]
    fn what_is_recent_goes_first_and_what_is_old_is_forgotten() {
        let recent = Trace { entries: vec![traced("new", None, 0), traced("large", Some(0..1), 0)] };
        let mut earlier = trace();
        earlier.entries.push(traced("old", None, AGE_MAX));
        let expected = vec![
            traced("new", None, 0),
            traced("large", Some(0..1), 0),
            traced("a/b", None, 1),
            traced("large", Some(3..5), 1),
        ];
        assert_eq!(recent.after(earlier).entries, expected);
    }

    #[test]
    fn it_is_bounded() {
        let long = "x".repeat(200);
        let entries = (0..2 * ENTRIES_MAX).map(|n| traced(&format!("{long}/{n}"), None, 0)).collect();
        let bytes = Trace { entries }.to_bytes();
        assert!(bytes.len() <= TRACE_BYTES_MAX);
        let read = Trace::parse(&bytes).expect("readable");
        assert!(read.entries.len() > 4000 && read.entries.len() <= ENTRIES_MAX);
        let many = Trace { entries: (0..2 * ENTRIES_MAX).map(|n| traced(&n.to_string(), None, 0)).collect() };
        assert_eq!(Trace::parse(&many.to_bytes()).expect("readable").entries.len(), ENTRIES_MAX);
    }
}
