//! Whether the disk has room for sled to begin anew.
//!
//! Opening a database writes to it: what was torn is cut off, and a snapshot is made. On a disk with a little room that is
//! torn once more, and after some rounds sled takes its own files for damaged. So it is not tried before there is room.
use crate::journal::JournalError;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::path::Path;

/// sled writes in segments of so many bytes.
const SEGMENT_BYTES: u64 = 512 << 10;
/// So many segments may be begun before an old one is free.
const SEGMENTS: u64 = 4;

/// Fails if there is no room for a journal in this directory to be opened, and for so many bytes to be applied to it.
pub fn require(journal: &Path, bytes: usize) -> Result<(), JournalError> {
    let wanted = 2 * bytes as u64 + SEGMENTS * SEGMENT_BYTES + 2 * snapshot_bytes(journal);
    let place = journal.with_extension("room");
    let taken = take(&place, wanted);
    let _nobody_else_has_it = fs::remove_file(&place);
    match taken {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()), // where it cannot be asked for
        Err(e) => Err(JournalError::Io { action: "find room for the", source: e.into() }),
    }
}

fn take(place: &Path, bytes: u64) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(place, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)
}

/// What the newest snapshots take; another one is written before they go.
fn snapshot_bytes(journal: &Path) -> u64 {
    let entries = fs::read_dir(journal).into_iter().flatten().flatten();
    let snapshots = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"snap."));
    snapshots.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).max().unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn room_is_asked_for_and_given_back() {
        let dir = tempfile::tempdir().expect("dir");
        let journal = dir.path().join("journal");
        fs::create_dir(&journal).expect("dir");
        fs::write(journal.join("snap.0001"), vec![0; 1000]).expect("writes");
        assert_eq!(snapshot_bytes(&journal), 1000);
        require(&journal, 1 << 20).expect("there is room");
        let names: Vec<_> =
            fs::read_dir(dir.path()).expect("lists").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["journal"]);
        let error = require(&journal, 1 << 55).expect_err("no disk is that large");
        assert!(matches!(error, JournalError::Io { .. }), "{error}");
        assert!(!dir.path().join("journal.room").exists());
    }
}
