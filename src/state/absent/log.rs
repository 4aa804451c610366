//! [`Log`]: what became of the entries that were not on the disk, since the tree was laid out.
//!
//! A record is written by one write(2) before the operation it is of is answered, so that it outlives
//! the daemon exactly as the backing's own change does; fsync(2) of a directory syncs both. The sled
//! journal cannot stand in for it: it writes behind, and a killed daemon would forget an unlink that
//! the backing has nothing to show for.
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"ICABSENT";
const VERSION: u32 = 1;
/// Magic, version, zeros, the digest of what it belongs to, and the checksum of all these.
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 16;

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// It is on the disk now, whole.
    Here = 1,
    /// It was removed, or another took its place, before it was ever on the disk.
    Removed = 2,
    /// A committed version says that it is gone.
    Saved = 3,
}

impl Fate {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Here, Self::Removed, Self::Saved].into_iter().find(|fate| *fate as u8 == byte)
    }
}

/// An open log. Appended to by one owner.
#[derive(Debug)]
pub struct Log {
    file: File,
}

fn header(belongs: &[u8; 32]) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..48].copy_from_slice(belongs);
    let check = blake3::hash(&bytes[..48]);
    bytes[48..].copy_from_slice(&check.as_bytes()[..16]);
    bytes
}

fn record(fate: Fate, node: u32) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[0] = fate as u8;
    bytes[4..8].copy_from_slice(&node.to_le_bytes());
    let check = blake3::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&check.as_bytes()[..8]);
    bytes
}

impl Log {
    /// A new log, for what `belongs` is the digest of.
    pub fn create(path: &Path, belongs: &[u8; 32]) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(&header(belongs))?;
        Ok(Self { file })
    }

    /// Opens the log at `path` and returns what it says, oldest first. What was cut off by a failure
    /// of the machine at its end is dropped; `InvalidData` if it is not a log of what `belongs` says.
    pub fn open(path: &Path, belongs: &[u8; 32]) -> io::Result<(Self, Vec<(Fate, u32)>)> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        if bytes.get(..HEADER_BYTES) != Some(&header(belongs)[..]) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no log of these layers"));
        }
        let mut records = Vec::new();
        for bytes in bytes[HEADER_BYTES..].chunks_exact(RECORD_BYTES) {
            let node = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            match Fate::from_byte(bytes[0]).filter(|fate| record(*fate, node) == bytes) {
                Some(fate) => records.push((fate, node)),
                None => break,
            }
        }
        let file = File::from(rustix::fs::open(
            path,
            OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
        file.set_len((HEADER_BYTES + records.len() * RECORD_BYTES) as u64)?;
        Ok((Self { file }, records))
    }

    /// Appends what became of some entries, in one write.
    pub fn append(&mut self, fates: impl IntoIterator<Item = (Fate, u32)>) -> io::Result<()> {
        let bytes: Vec<u8> = fates.into_iter().flat_map(|(fate, node)| record(fate, node)).collect();
        self.file.write_all(&bytes)
    }

    /// Waits until the disk has all of it.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_and_a_record_are_these_bytes() {
        let header = header(&[7; 32]);
        assert_eq!(&header[..16], b"ICABSENT\x01\0\0\0\0\0\0\0");
        assert_eq!(header[16..48], [7; 32]);
        assert_eq!(record(Fate::Removed, 258)[..8], [2, 0, 0, 0, 2, 1, 0, 0]);
        assert_eq!(record(Fate::Removed, 258)[8..], blake3::hash(&[2, 0, 0, 0, 2, 1, 0, 0]).as_bytes()[..8]);
    }

    #[test]
    fn what_was_appended_is_read_and_a_torn_end_is_dropped() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let said = [(Fate::Here, 1), (Fate::Removed, 70_000), (Fate::Saved, 70_000)];
        let mut log = Log::create(&path, &[1; 32])?;
        log.append(said)?;
        drop(log);
        let whole = std::fs::read(&path)?;
        assert_eq!(Log::open(&path, &[1; 32])?.1, said);
        for end in HEADER_BYTES..whole.len() {
            std::fs::write(&path, &whole[..end])?;
            let (mut log, read) = Log::open(&path, &[1; 32])?;
            assert_eq!(read, said[..(end - HEADER_BYTES) / RECORD_BYTES]);
            log.append([(Fate::Here, 9)])?;
            assert_eq!(Log::open(&path, &[1; 32])?.1.last(), Some(&(Fate::Here, 9)));
        }
        assert!(Log::open(&path, &[2; 32]).is_err(), "it belongs to other layers");
        Ok(())
    }
}
