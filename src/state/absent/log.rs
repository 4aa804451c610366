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
const VERSION: u32 = 2;
/// The first format: without moves.
const VERSION_STILL: u32 = 1;
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

/// A directory left its place with absent entries in it: its number follows, and in the next two records
/// the halves of its inode number.
const MOVED: u8 = 4;
const INODE_LOW: u8 = 5;
const INODE_HIGH: u8 = 6;

/// What a log says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// What became of entries, oldest first.
    pub fates: Vec<(Fate, u32)>,
    /// Directories that were moved, by their inode numbers.
    pub moves: Vec<(u32, u64)>,
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

fn header(version: u32, belongs: &[u8; 32]) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[16..48].copy_from_slice(belongs);
    let check = blake3::hash(&bytes[..48]);
    bytes[48..].copy_from_slice(&check.as_bytes()[..16]);
    bytes
}

fn record(kind: u8, number: u32) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[0] = kind;
    bytes[4..8].copy_from_slice(&number.to_le_bytes());
    let check = blake3::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&check.as_bytes()[..8]);
    bytes
}

impl Log {
    /// A new log, for what `belongs` is the digest of.
    pub fn create(path: &Path, belongs: &[u8; 32]) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(&header(VERSION, belongs))?;
        Ok(Self { file })
    }

    /// Opens the log at `path` and returns what it says, oldest first. What was cut off by a failure
    /// of the machine at its end is dropped; `InvalidData` if it is not a log of what `belongs` says.
    pub fn open(path: &Path, belongs: &[u8; 32]) -> io::Result<(Self, Said)> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        let begins = |version| bytes.get(..HEADER_BYTES) == Some(&header(version, belongs)[..]);
        if begins(VERSION_STILL) {
            // In a write of its own: a file opened to be appended to takes none elsewhere.
            let file = File::options().write(true).open(path)?;
            std::os::unix::fs::FileExt::write_all_at(&file, &header(VERSION, belongs), 0)?;
        } else if !begins(VERSION) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no log of these layers"));
        }
        let (mut said, mut moved, mut low) = (Said::default(), None, None);
        // Records that were understood; of a move that is cut off, none.
        let (mut count, mut whole) = (0, 0);
        for bytes in bytes[HEADER_BYTES..].chunks_exact(RECORD_BYTES) {
            let (kind, number) = (bytes[0], u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]));
            if record(kind, number) != bytes {
                break;
            }
            match (Fate::from_byte(kind), kind, moved, low) {
                (Some(fate), _, None, None) => {
                    // A move that came to nothing.
                    if fate == Fate::Here {
                        said.moves.retain(|(node, _)| *node != number);
                    }
                    said.fates.push((fate, number));
                }
                (None, MOVED, None, None) => moved = Some(number),
                (None, INODE_LOW, Some(_), None) => low = Some(number),
                (None, INODE_HIGH, Some(node), Some(half)) => {
                    said.moves.retain(|(other, _)| *other != node);
                    said.moves.push((node, u64::from(number) << 32 | u64::from(half)));
                    (moved, low) = (None, None);
                }
                _ => break,
            }
            count += 1;
            if moved.is_none() {
                whole = count;
            }
        }
        let file = File::from(rustix::fs::open(
            path,
            OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
        file.set_len((HEADER_BYTES + whole * RECORD_BYTES) as u64)?;
        Ok((Self { file }, said))
    }

    /// Appends what became of some entries, in one write.
    pub fn append(&mut self, fates: impl IntoIterator<Item = (Fate, u32)>) -> io::Result<()> {
        let bytes: Vec<u8> = fates.into_iter().flat_map(|(fate, node)| record(fate as u8, node)).collect();
        self.file.write_all(&bytes)
    }

    /// Appends which directories leave their places, by their inode numbers, in one write.
    pub fn append_moves(&mut self, moves: impl IntoIterator<Item = (u32, u64)>) -> io::Result<()> {
        let bytes: Vec<u8> = moves
            .into_iter()
            .flat_map(|(node, ino)| {
                let halves = [record(INODE_LOW, ino as u32), record(INODE_HIGH, (ino >> 32) as u32)];
                let records = [record(MOVED, node), halves[0], halves[1]];
                [records.concat(), record(Fate::Removed as u8, node).to_vec()].concat()
            })
            .collect();
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
        let header = header(VERSION, &[7; 32]);
        assert_eq!(&header[..16], b"ICABSENT\x02\0\0\0\0\0\0\0");
        assert_eq!(header[16..48], [7; 32]);
        let removed = record(Fate::Removed as u8, 258);
        assert_eq!(removed[..8], [2, 0, 0, 0, 2, 1, 0, 0]);
        assert_eq!(removed[8..], blake3::hash(&[2, 0, 0, 0, 2, 1, 0, 0]).as_bytes()[..8]);
    }

    #[test]
    fn a_move_is_these_records_and_whole_or_nothing() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let mut log = Log::create(&path, &[1; 32])?;
        log.append([(Fate::Here, 7)])?;
        log.append_moves([(7, 0x0102_0304_0506_0708)])?;
        let whole = std::fs::read(&path)?;
        let kinds: Vec<(u8, u32)> = whole[HEADER_BYTES..]
            .chunks(RECORD_BYTES)
            .map(|r| (r[0], u32::from_le_bytes([r[4], r[5], r[6], r[7]])))
            .collect();
        assert_eq!(kinds, [(1, 7), (4, 7), (5, 0x0506_0708), (6, 0x0102_0304), (2, 7)]);
        for records in 1..=5usize {
            std::fs::write(&path, &whole[..HEADER_BYTES + records * RECORD_BYTES])?;
            let said = Log::open(&path, &[1; 32])?.1;
            assert_eq!(said.moves.len(), usize::from(records >= 4), "{records}");
            let kept = (std::fs::metadata(&path)?.len() as usize - HEADER_BYTES) / RECORD_BYTES;
            assert_eq!(kept, if records < 4 { 1 } else { records });
        }
        let (mut log, said) = Log::open(&path, &[1; 32])?;
        assert_eq!(said.moves, [(7, 0x0102_0304_0506_0708)]);
        assert_eq!(said.fates, [(Fate::Here, 7), (Fate::Removed, 7)]);
        log.append([(Fate::Here, 7)])?;
        assert!(Log::open(&path, &[1; 32])?.1.moves.is_empty(), "it came to nothing");
        Ok(())
    }

    #[test]
    fn a_log_of_the_first_format_goes_on() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        std::fs::write(&path, [header(VERSION_STILL, &[1; 32]).as_slice(), &record(1, 9)].concat())?;
        let (mut log, said) = Log::open(&path, &[1; 32])?;
        assert_eq!(said.fates, [(Fate::Here, 9)]);
        log.append_moves([(9, 1)])?;
        assert_eq!(Log::open(&path, &[1; 32])?.1.moves, [(9, 1)]);
        assert_eq!(std::fs::read(&path)?[8], 2);
        Ok(())
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
        assert_eq!(Log::open(&path, &[1; 32])?.1.fates, said);
        for end in HEADER_BYTES..whole.len() {
            std::fs::write(&path, &whole[..end])?;
            let (mut log, read) = Log::open(&path, &[1; 32])?;
            assert_eq!(read.fates, said[..(end - HEADER_BYTES) / RECORD_BYTES]);
            log.append([(Fate::Here, 9)])?;
            assert_eq!(Log::open(&path, &[1; 32])?.1.fates.last(), Some(&(Fate::Here, 9)));
        }
        assert!(Log::open(&path, &[2; 32]).is_err(), "it belongs to other layers");
        Ok(())
    }
}
