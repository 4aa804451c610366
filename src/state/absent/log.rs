//! [`Log`]: what became of the entries that were not on the disk, since the tree was laid out.
//!
//! A record is written by one write(2) before the operation it is of is answered, so that it outlives
//! the daemon exactly as the backing's own change does; fsync(2) of a directory syncs both, and a version is
//! committed only when the disk has what it was made of. The sled journal cannot stand in for it: it writes
//! behind, and a killed daemon would forget an unlink that the backing has nothing to show for.
mod edit;
mod said;

pub use edit::Edit;
pub use said::{Damaged, Event, Said, Seen};

use super::witness::Witness;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"ICABSENT";
const VERSION: u32 = 4;
/// Earlier formats, which have fewer kinds of records.
const VERSIONS_BEFORE: [u32; 3] = [1, 2, 3];
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

/// What the entry of the record before is; or what a directory was.
const WITNESS: u8 = 7;
/// Names come to a directory: what it was before and, when they are there, what it is since then follow.
const TOUCHED: u8 = 8;
/// A file is about to get its name.
const COMING: u8 = 9;

/// Something that programs did to what is not on the disk: so many bytes, which follow, seven in a record.
const EDIT: u8 = 10;
const PIECE: u8 = 11;
/// So much room is asked of the disk at once.
const RESERVED_BYTES: u64 = 16 << 10;
/// The most bytes of it.
const EDIT_BYTES_MAX: usize = 64 << 10;

impl Fate {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Here, Self::Removed, Self::Saved].into_iter().find(|fate| *fate as u8 == byte)
    }
}

/// An open log. Appended to by one owner.
///
/// What could not be appended whole is taken back, so that what is appended later follows a whole record.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// Where the next record goes.
    end: u64,
    /// The disk has room up to here.
    room: u64,
    /// Where what [`append_touching`](Log::append_touching) said last begins.
    touching: u64,
    /// What could not be taken back: nothing may follow it.
    is_torn: bool,
    /// Counts its changes.
    changes: u64,
    /// So many of these are on the disk.
    synced: u64,
}

/// A log that the disk does not have all of.
#[derive(Debug)]
pub struct Unsynced {
    file: File,
    changes: u64,
}

impl Unsynced {
    /// Waits until the disk has it; [`Log::synced_to`] is to learn of it.
    pub fn sync(self) -> io::Result<u64> {
        self.file.sync_data().map(|()| self.changes)
    }
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
    let [a, b, c, d] = number.to_le_bytes();
    sealed([kind, 0, 0, 0, a, b, c, d])
}

fn witness(witness: Witness) -> [u8; RECORD_BYTES] {
    seven(WITNESS, witness.0)
}

fn seven(kind: u8, [a, b, c, d, e, f, g]: [u8; 7]) -> [u8; RECORD_BYTES] {
    sealed([kind, a, b, c, d, e, f, g])
}

fn sealed(said: [u8; 8]) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(&said);
    bytes[8..].copy_from_slice(&blake3::hash(&said).as_bytes()[..8]);
    bytes
}

impl Log {
    /// A new log, for what `belongs` is the digest of.
    pub fn create(path: &Path, belongs: &[u8; 32]) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(&header(VERSION, belongs))?;
        Ok(Self::on(file, HEADER_BYTES as u64))
    }

    fn on(file: File, end: u64) -> Self {
        // Nobody knows whether an earlier daemon has synced what it wrote.
        Self { file, end, room: end, touching: end, is_torn: false, changes: 1, synced: 0 }
    }

    /// Opens the log at `path` and returns what it says, oldest first. What was cut off by a failure
    /// of the machine at its end is dropped; `InvalidData` if it is not a log of what `belongs` says, or is damaged
    /// before its end.
    pub fn open(path: &Path, belongs: &[u8; 32]) -> io::Result<(Self, Said)> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        let begins = |version| bytes.get(..HEADER_BYTES) == Some(&header(version, belongs)[..]);
        if VERSIONS_BEFORE.into_iter().any(begins) {
            // In a write of its own: a file opened to be appended to takes none elsewhere.
            let file = File::options().write(true).open(path)?;
            std::os::unix::fs::FileExt::write_all_at(&file, &header(VERSION, belongs), 0)?;
        } else if !begins(VERSION) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no log of these layers"));
        }
        let (said, whole) = Said::parse(&bytes[HEADER_BYTES..]).map_err(|Damaged { records }| {
            let at = HEADER_BYTES + records * RECORD_BYTES;
            let message = format!("the record at byte {at} is damaged, and others follow");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        let file = File::from(rustix::fs::open(
            path,
            OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
        let end = (HEADER_BYTES + whole * RECORD_BYTES) as u64;
        file.set_len(end)?;
        Ok((Self::on(file, end), said))
    }

    /// Sees to it that so many records will not fail for want of room: what they are to say can then be done before
    /// they say it. File systems that cannot promise it are trusted.
    pub fn reserve(&mut self, records: usize) -> io::Result<()> {
        let wanted = self.end + (records * RECORD_BYTES) as u64;
        if wanted <= self.room {
            return Ok(());
        }
        let needed = wanted - self.end;
        let ask = |bytes| {
            rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.end, bytes).map(|()| bytes)
        };
        match ask(needed.max(RESERVED_BYTES)).or_else(|_| ask(needed)) {
            Ok(bytes) => self.room = self.end + bytes,
            Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(e.into()),
            Err(_) => {}
        }
        Ok(())
    }

    /// Appends in one write, whole or not at all.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put_by(bytes.len(), |file| file.write_all(bytes))
    }

    fn put_by(&mut self, bytes: usize, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        if self.is_torn {
            return Err(io::Error::other(
                "the log of what is not here has an end that is damaged; mount again",
            ));
        }
        self.changes += 1;
        match write(&mut self.file) {
            Ok(()) => {
                self.end += bytes as u64;
                Ok(())
            }
            Err(e) => {
                self.take_back(self.end);
                Err(e)
            }
        }
    }

    /// Takes back what is beyond `end`. That needs no room.
    fn take_back(&mut self, end: u64) {
        (self.end, self.room) = (end, end);
        self.changes += 1;
        if let Err(error) = self.file.set_len(end) {
            self.is_torn = true;
            tracing::error!(%error, "the log of what is not here cannot be mended, nothing more can come");
        }
    }

    /// Appends what became of some entries, in one write.
    pub fn append(&mut self, fates: impl IntoIterator<Item = (Fate, u32)>) -> io::Result<()> {
        let bytes: Vec<u8> = fates.into_iter().flat_map(|(fate, node)| record(fate as u8, node)).collect();
        self.put(&bytes)
    }

    /// Appends which entries came, each with what it is there if nobody else put it there, in one write.
    pub fn append_here(&mut self, came: impl IntoIterator<Item = (u32, Option<Witness>)>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (node, seen) in came {
            bytes.extend_from_slice(&record(Fate::Here as u8, node));
            bytes.extend(seen.into_iter().flat_map(witness));
        }
        self.put(&bytes)
    }

    /// Appends which files are about to get their names, each with what it is but for its change time, in one
    /// write.
    pub fn append_coming(&mut self, coming: impl IntoIterator<Item = (u32, Witness)>) -> io::Result<()> {
        let both = |(node, seen)| [record(COMING, node), witness(seen)].concat();
        self.put(&coming.into_iter().flat_map(both).collect::<Vec<u8>>())
    }

    /// Appends that names are about to come to a directory. [`append_touched`](Self::append_touched) is next.
    pub fn append_touching(&mut self, node: u32, before: Witness) -> io::Result<()> {
        self.touching = self.end;
        self.put(&[record(TOUCHED, node), witness(before)].concat())
    }

    /// Appends what that directory is now that they are there. If that fails the log says nothing of it at all: that
    /// its times are still to be set back would be wrong.
    pub fn append_touched(&mut self, after: Witness) {
        if let Err(error) = self.put(&witness(after)) {
            tracing::debug!(%error, "a directory will look as if it was changed here");
            self.take_back(self.touching);
        }
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
        self.put(&bytes)
    }

    /// Appends what programs did to what is not on the disk, in one write. `E2BIG` if that takes too many bytes.
    pub fn append_edit(&mut self, edit: &Edit) -> io::Result<()> {
        let said = postcard::to_stdvec(edit).map_err(io::Error::other)?;
        if said.len() > EDIT_BYTES_MAX {
            return Err(Errno::TOOBIG.into());
        }
        let mut bytes = record(EDIT, said.len() as u32).to_vec();
        for piece in said.chunks(7) {
            let mut padded = [0; 7];
            padded[..piece.len()].copy_from_slice(piece);
            bytes.extend(seven(PIECE, padded));
        }
        self.put(&bytes)
    }

    /// Waits until the disk has all of it.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.synced < self.changes {
            self.file.sync_data()?;
            self.synced = self.changes;
        }
        Ok(())
    }

    /// What there is to wait for, which others need not wait for as well.
    pub fn unsynced(&self) -> io::Result<Option<Unsynced>> {
        if self.synced == self.changes {
            return Ok(None);
        }
        Ok(Some(Unsynced { file: self.file.try_clone()?, changes: self.changes }))
    }

    /// The disk has it as it was after so many changes.
    pub fn synced_to(&mut self, changes: u64) {
        self.synced = self.synced.max(changes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::state::absent::tree::Look;

    fn fates(said: &Said) -> Vec<(Fate, u32)> {
        let fate = |event: &Event| match event {
            Event::Became(fate, node) => Some((*fate, *node)),
            Event::Edited(_) => None,
        };
        said.events.iter().filter_map(fate).collect()
    }

    #[test]
    fn an_edit_is_these_records_and_whole_or_nothing() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let name = Edit::Name { file: 3, from: Some(300), dir: 2, name: b"new name".to_vec() };
        let time = |sec| Timestamp { sec, nsec: 5 };
        let (atime, mtime, ctime) = (time(1), time(-2), time(3));
        let xattrs = vec![(b"user.a".to_vec(), vec![0, 255])];
        let look = Look { mode: 0o640, uid: 1, gid: 2, atime, mtime, ctime, xattrs };
        let edits =
            [name, Edit::Directory, Edit::Look { file: 3, look }, Edit::Born { node: 9, time: time(4) }];
        let mut log = Log::create(&path, &[1; 32])?;
        log.append([(Fate::Here, 7)])?;
        for edit in &edits {
            log.append_edit(edit)?;
        }
        let whole = std::fs::read(&path)?;
        let said: Vec<&[u8]> = whole[HEADER_BYTES..].chunks(RECORD_BYTES).map(|r| &r[..8]).collect();
        let first: [&[u8]; 4] = [
            &[10, 0, 0, 0, 15, 0, 0, 0],
            &[11, 0, 3, 1, 172, 2, 2, 8],
            b"\x0bnew nam",
            &[11, b'e', 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(said[1..5], first);
        assert_eq!(said[5..7], [&[10, 0, 0, 0, 1, 0, 0, 0][..], &[11, 1, 0, 0, 0, 0, 0, 0]]);
        assert_eq!(said[said.len() - 2..], [&[10, 0, 0, 0, 4, 0, 0, 0][..], &[11, 3, 9, 8, 5, 0, 0, 0]]);
        let ends = [1, 5, 7, said.len() - 2, said.len()];
        for records in 1..=said.len() {
            std::fs::write(&path, &whole[..HEADER_BYTES + records * RECORD_BYTES])?;
            let read = Log::open(&path, &[1; 32])?.1;
            let count = ends.iter().filter(|end| **end <= records).count() - 1;
            let expected: Vec<Event> = std::iter::once(Event::Became(Fate::Here, 7))
                .chain(edits[..count].iter().cloned().map(Event::Edited))
                .collect();
            assert_eq!(read.events, expected, "{records}");
            let left = (std::fs::metadata(&path)?.len() as usize - HEADER_BYTES) / RECORD_BYTES;
            assert_eq!(left, ends[count], "{records}");
        }
        // What makes no sense ends it.
        for wrong in [record(PIECE, 0).to_vec(), record(EDIT, 0).to_vec(), record(EDIT, u32::MAX).to_vec()] {
            std::fs::write(&path, [&whole[..], &wrong, &record(1, 5)].concat())?;
            assert_eq!(Log::open(&path, &[1; 32])?.1.events.len(), 5);
        }
        Ok(())
    }

    #[test]
    fn the_header_and_a_record_are_these_bytes() {
        let header = header(VERSION, &[7; 32]);
        assert_eq!(&header[..16], b"ICABSENT\x04\0\0\0\0\0\0\0");
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
        assert_eq!(fates(&said), [(Fate::Here, 7), (Fate::Removed, 7)]);
        log.append([(Fate::Here, 7)])?;
        assert!(Log::open(&path, &[1; 32])?.1.moves.is_empty(), "it came to nothing");
        Ok(())
    }

    #[test]
    fn logs_of_earlier_formats_go_on() -> io::Result<()> {
        for version in VERSIONS_BEFORE {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("log");
            std::fs::write(&path, [header(version, &[1; 32]).as_slice(), &record(1, 9)].concat())?;
            let (mut log, said) = Log::open(&path, &[1; 32])?;
            assert_eq!(fates(&said), [(Fate::Here, 9)]);
            log.append_moves([(9, 1)])?;
            assert_eq!(Log::open(&path, &[1; 32])?.1.moves, [(9, 1)]);
            assert_eq!(std::fs::read(&path)?[8], 4);
        }
        Ok(())
    }

    #[test]
    fn what_came_is_these_records_and_whole_or_nothing() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let (first, second) = (Witness([1; 7]), Witness([9, 8, 7, 6, 5, 4, 3]));
        let mut log = Log::create(&path, &[1; 32])?;
        log.append_coming([(7, first)])?;
        log.append_touching(3, first)?;
        log.append_touched(second);
        log.append_here([(7, Some(second)), (8, None)])?;
        let whole = std::fs::read(&path)?;
        let said: Vec<&[u8]> = whole[HEADER_BYTES..].chunks(RECORD_BYTES).map(|r| &r[..8]).collect();
        let (one, two) = ([7, 1, 1, 1, 1, 1, 1, 1], [7, 9, 8, 7, 6, 5, 4, 3]);
        let coming = [[9, 0, 0, 0, 7, 0, 0, 0], one];
        let touched = [[8, 0, 0, 0, 3, 0, 0, 0], one, two];
        let came = [[1, 0, 0, 0, 7, 0, 0, 0], two, [1, 0, 0, 0, 8, 0, 0, 0]];
        assert_eq!(said, [&coming[..], &touched, &came].concat());
        let all = [Seen::Coming(7, first), Seen::Touched(3, first, second), Seen::Came(7, second)];
        let cut = [(1, 0, 0), (2, 1, 2), (3, 1, 2), (5, 2, 5), (6, 2, 6), (7, 3, 7), (8, 3, 8)];
        for (records, seen, kept) in cut {
            std::fs::write(&path, &whole[..HEADER_BYTES + records * RECORD_BYTES])?;
            assert_eq!(Log::open(&path, &[1; 32])?.1.seen, all[..seen], "{records}");
            let left = (std::fs::metadata(&path)?.len() as usize - HEADER_BYTES) / RECORD_BYTES;
            assert_eq!(left, kept, "{records}");
        }
        // The daemon was killed, or the disk was full, while names came: that is known, and others go on.
        for more in [&[][..], &record(1, 5)] {
            std::fs::write(&path, [&whole[..HEADER_BYTES + 4 * RECORD_BYTES], more].concat())?;
            let (mut log, said) = Log::open(&path, &[1; 32])?;
            assert_eq!(said.seen, [Seen::Coming(7, first), Seen::Touching(3, first)]);
            log.append([(Fate::Here, 6)])?;
            let said = Log::open(&path, &[1; 32])?.1;
            assert_eq!(fates(&said).last(), Some(&(Fate::Here, 6)));
        }
        // A witness of nothing ends the log.
        std::fs::write(&path, [&whole[..HEADER_BYTES], &witness(first), &record(1, 5)].concat())?;
        assert_eq!(Log::open(&path, &[1; 32])?.1, Said::default());
        Ok(())
    }

    /// The disk was full in the middle of a record: those after it counted for nothing, and the next start forgot them.
    #[test]
    fn what_could_not_be_appended_whole_is_taken_back() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let mut log = Log::create(&path, &[1; 32])?;
        log.append([(Fate::Here, 1)])?;
        log.append_touching(1, Witness([1; 7]))?;
        for whole in [record(EDIT, 20).to_vec(), record(MOVED, 1).to_vec(), record(COMING, 1).to_vec()] {
            for bytes in [whole.len(), whole.len() - 1, 3] {
                let full = |file: &mut File| {
                    file.write_all(&whole[..bytes])?;
                    Err(Errno::NOSPC.into())
                };
                assert_eq!(log.put_by(48, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
                log.append([(Fate::Removed, 7)])?;
            }
        }
        let said = Log::open(&path, &[1; 32])?.1;
        assert_eq!(fates(&said).len(), 10);
        assert_eq!(said.seen, [Seen::Touching(1, Witness([1; 7]))]);
        // What names were coming to is not left as if they still were.
        log.append_touching(2, Witness([2; 7]))?;
        log.take_back(log.touching);
        log.append([(Fate::Here, 8)])?;
        assert_eq!(Log::open(&path, &[1; 32])?.1.seen, said.seen);
        // Nothing follows what cannot be taken back.
        log.file = File::open(&path)?;
        for _ in 0..2 {
            assert!(log.append([(Fate::Here, 9)]).is_err());
        }
        assert!(log.is_torn);
        log.file = File::options().append(true).open(&path)?;
        assert!(log.append([(Fate::Here, 9)]).is_err(), "it goes on behind what may be torn");
        Ok(())
    }

    #[test]
    fn room_is_asked_for_before_it_is_needed() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let mut log = Log::create(&path, &[1; 32])?;
        log.reserve(3)?;
        let room = log.room;
        assert_eq!(std::fs::metadata(&path)?.len(), HEADER_BYTES as u64, "nobody sees it");
        log.append([(Fate::Here, 1)])?;
        log.reserve(2)?;
        assert_eq!(log.room, room, "once for many");
        log.reserve(RESERVED_BYTES as usize)?;
        drop(log);
        assert_eq!(fates(&Log::open(&path, &[1; 32])?.1), [(Fate::Here, 1)]);
        Ok(())
    }

    #[test]
    fn it_is_synced_only_when_it_has_changed() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let waits = |log: &Log| log.unsynced().map(|unsynced| unsynced.is_some());
        let mut log = Log::create(&path, &[1; 32])?;
        assert!(waits(&log)?);
        log.sync()?;
        assert!(!waits(&log)?);
        log.append([(Fate::Removed, 1)])?;
        let Some(unsynced) = log.unsynced()? else { return Err(io::Error::other("nothing to wait for")) };
        let changes = unsynced.sync()?;
        log.append([(Fate::Removed, 2)])?;
        log.synced_to(changes);
        assert!(waits(&log)?, "the second came meanwhile");
        log.sync()?;
        assert!(!waits(&log)?);
        assert!(waits(&Log::open(&path, &[1; 32])?.0)?, "nobody knows what an earlier daemon has synced");
        Ok(())
    }

    #[test]
    fn a_damaged_log_is_left_as_it_is() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let mut log = Log::create(&path, &[1; 32])?;
        log.append([(Fate::Removed, 1), (Fate::Removed, 2)])?;
        let mut bytes = std::fs::read(&path)?;
        bytes[HEADER_BYTES + 4] ^= 1;
        std::fs::write(&path, &bytes)?;
        let refused = Log::open(&path, &[1; 32]).map(drop);
        assert!(refused.is_err_and(|e| e.kind() == io::ErrorKind::InvalidData));
        assert_eq!(std::fs::read(&path)?, bytes);
        Ok(())
    }

    /// Logs of before: the rest of a record that a full disk had cut off is not there, and others follow.
    #[test]
    fn a_record_without_its_end_is_skipped() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let edit = [record(EDIT, 20), seven(PIECE, [1; 7])].concat();
        let moved = record(MOVED, 7).to_vec();
        let low = [record(MOVED, 7), record(INODE_LOW, 1)].concat();
        let born = [record(EDIT, 4), seven(PIECE, [3, 9, 8, 5, 0, 0, 0])].concat();
        let touched = [record(TOUCHED, 3), witness(Witness([1; 7]))].concat();
        for torn in [edit, moved, low, record(COMING, 7).to_vec(), record(TOUCHED, 7).to_vec()] {
            for next in [&record(2, 5)[..], &born, &touched, &torn] {
                let all =
                    [&header(VERSION, &[1; 32])[..], &record(1, 9), &torn, next, &record(2, 6)].concat();
                std::fs::write(&path, &all)?;
                let (mut log, said) = Log::open(&path, &[1; 32])?;
                assert_eq!(fates(&said).last(), Some(&(Fate::Removed, 6)));
                assert_eq!(std::fs::metadata(&path)?.len(), all.len() as u64);
                assert!(said.moves.is_empty());
                log.append([(Fate::Saved, 6)])?;
                assert_eq!(fates(&Log::open(&path, &[1; 32])?.1).last(), Some(&(Fate::Saved, 6)));
            }
            // The end of another is not its end.
            for end in [seven(INODE_HIGH, [0; 7]), seven(WITNESS, [0; 7]), seven(PIECE, [0; 7])] {
                let end = [&end[..], &record(1, 4)].concat();
                let all = [&header(VERSION, &[1; 32])[..], &record(1, 9), &torn, &end].concat();
                std::fs::write(&path, all)?;
                let said = Log::open(&path, &[1; 32])?.1;
                let goes_on = fates(&said).contains(&(Fate::Here, 4));
                let kinds = (torn[torn.len() - RECORD_BYTES], end[0]);
                let is_its_end =
                    matches!(kinds, (INODE_LOW, INODE_HIGH) | (COMING | TOUCHED, WITNESS) | (PIECE, PIECE));
                assert_eq!(goes_on, is_its_end, "{kinds:?}");
            }
        }
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
        assert_eq!(fates(&Log::open(&path, &[1; 32])?.1), said);
        for end in HEADER_BYTES..whole.len() {
            std::fs::write(&path, &whole[..end])?;
            let (mut log, read) = Log::open(&path, &[1; 32])?;
            assert_eq!(fates(&read), said[..(end - HEADER_BYTES) / RECORD_BYTES]);
            log.append([(Fate::Here, 9)])?;
            assert_eq!(fates(&Log::open(&path, &[1; 32])?.1).last(), Some(&(Fate::Here, 9)));
        }
        assert!(Log::open(&path, &[2; 32]).is_err(), "it belongs to other layers");
        Ok(())
    }
}
