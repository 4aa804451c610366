//! A disk that others have filled before the cache was opened: its journal needs some room to open at all,
//! and without the journal nothing can be thrown out in good order.
use super::budget::Disk;
use super::store::Store;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a journal takes to open, beyond what its snapshots have now.
const JOURNAL_BYTES: u64 = 8 << 20;
/// And so many files.
const JOURNAL_FILES: u64 = 16;
/// `st_blocks` counts in these.
const STAT_BLOCK: u64 = 512;

/// Gives up what was admitted longest ago until the journal, which could not be opened, has room for that; `false` if
/// it had. Only by whoever has its lock: so nobody holds anything. The check after the start finds what is missing.
pub fn relieve(store: &Store, journal: &Path, disk: &dyn Disk) -> bool {
    let snapshots: u64 = plain(journal).filter(|file| file.is_snapshot()).map(|file| file.bytes).sum();
    let wanted = JOURNAL_BYTES + 2 * snapshots;
    let mut missing = disk.free().map_or(0, |free| wanted.saturating_sub(free));
    let mut missing_files = disk.free_files().map_or(0, |free| JOURNAL_FILES.saturating_sub(free));
    if (missing, missing_files) == (0, 0) {
        return false;
    }
    let mut oldest: Vec<_> = store.directories().flat_map(|(_, directory)| plain(&directory)).collect();
    oldest.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
    let mut removed = 0_u64;
    for file in oldest {
        if (missing, missing_files) == (0, 0) {
            break;
        }
        if std::fs::remove_file(&file.path).is_ok() {
            missing = missing.saturating_sub(file.bytes);
            missing_files = missing_files.saturating_sub(1);
            removed += 1;
        }
    }
    if removed == 0 {
        return false;
    }
    tracing::warn!(removed, directory = %store.root().display(),
        "the disk is full: the oldest files of the cache were removed so that its journal can be opened");
    true
}

struct Plain {
    path: PathBuf,
    modified: SystemTime,
    bytes: u64,
}

impl Plain {
    fn is_snapshot(&self) -> bool {
        self.path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"snap."))
    }
}

fn plain(directory: &Path) -> impl Iterator<Item = Plain> + use<> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let found = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Some(Plain { path: entry.path(), modified, bytes: found.blocks() * STAT_BLOCK })
    })
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::cache::key::{Identity, Key};
    use crate::cache::store::Name;
    use std::time::Duration;

    #[derive(Debug)]
    struct Free(Option<u64>, Option<u64>);

    impl Disk for Free {
        fn free(&self) -> Option<u64> {
            self.0
        }

        fn free_files(&self) -> Option<u64> {
            self.1
        }
    }

    #[test]
    fn the_oldest_go_and_no_more_than_is_needed() {
        let dir = tempfile::tempdir().expect("directory");
        let store = Store::open_directory(dir.path()).expect("opens");
        let (journal, mib) = (dir.path().join("journal"), 1 << 20);
        std::fs::create_dir(&journal).expect("makes");
        std::fs::write(journal.join("snap.01"), vec![1; mib]).expect("writes");
        std::fs::write(journal.join("db"), vec![1; mib]).expect("writes");
        let paths: Vec<_> = (0..4_u64)
            .map(|n| {
                let key = Key::new(n.to_string()).expect("a key");
                let path = store.path(&Name::new(&Identity::File { key, size: mib as u64 }, n));
                std::fs::write(&path, vec![n as u8; mib]).expect("writes");
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - n);
                std::fs::File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|f| f.set_modified(time))
                    .expect("ages");
                path
            })
            .collect();
        let there = || paths.iter().map(|path| path.exists()).collect::<Vec<_>>();
        for nothing_to_do in [None, Some(JOURNAL_BYTES + 2 * mib as u64)] {
            assert!(!relieve(&store, &journal, &Free(nothing_to_do, None)));
            assert_eq!(there(), [true; 4]);
        }
        assert!(relieve(&store, &journal, &Free(Some(JOURNAL_BYTES + mib as u64 / 2), Some(100))));
        assert_eq!(there(), [true, true, false, false], "one and a half are missing: the two oldest go");
        assert!(relieve(&store, &journal, &Free(None, Some(JOURNAL_FILES - 1))));
        assert_eq!(there(), [true, false, false, false], "a file is missing");
        assert!(relieve(&store, &journal, &Free(Some(0), None)));
        assert_eq!(there(), [false; 4]);
        assert!(journal.join("db").exists());
    }
}
