//! A disk that others have filled before the cache was opened: its journal needs some room to open at all,
//! and without the journal nothing can be thrown out in good order.
use super::budget::Disk;
use super::store::Store;
use crate::journal::{moved_aside, remove_aside};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a journal takes to open, beyond what its snapshots have now.
const JOURNAL_BYTES: u64 = 8 << 20;
/// And so many files.
const JOURNAL_FILES: u64 = 16;
/// `st_blocks` counts in these.
const STAT_BLOCK: u64 = 512;

/// What is missing of the room that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Missing {
    bytes: u64,
    files: u64,
}

impl Missing {
    const NOTHING: Self = Self { bytes: 0, files: 0 };

    fn of(disk: &dyn Disk, wanted: u64) -> Self {
        Self {
            bytes: disk.free().map_or(0, |free| wanted.saturating_sub(free)),
            files: disk.free_files().map_or(0, |free| JOURNAL_FILES.saturating_sub(free)),
        }
    }
}

/// Makes room for the journal, which could not be opened; `false` if it had what it needs, or nothing could be done.
/// Half a file and a damaged journal go first, then what was admitted longest ago until there is enough. Only by whoever
/// has the lock of the journal: so nobody holds anything. The check after the start finds what is missing.
pub fn relieve(store: &Store, journal: &Path, disk: &dyn Disk) -> bool {
    let snapshots: u64 = plain(journal).filter(|file| file.is_snapshot()).map(|file| file.bytes).sum();
    let wanted = JOURNAL_BYTES + 2 * snapshots;
    if Missing::of(disk, wanted) == Missing::NOTHING {
        return false;
    }
    let mut useless = store.empty_tmp().unwrap_or_default();
    useless += moved_aside(journal).iter().filter(|path| remove_aside(path).is_ok()).count() as u64;
    let removed = give_up_oldest(store, Missing::of(disk, wanted));
    if removed > 0 {
        tracing::warn!(removed, directory = %store.root().display(),
            "the disk is full: the oldest files of the cache were removed so that its journal can be opened");
    }
    useless + removed > 0
}

/// How many files it took to make that room.
fn give_up_oldest(store: &Store, mut missing: Missing) -> u64 {
    if missing == Missing::NOTHING {
        return 0;
    }
    let mut oldest: Vec<_> = store.directories().flat_map(|(_, directory)| plain(&directory)).collect();
    oldest.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
    let mut removed = 0_u64;
    for file in oldest {
        if missing == Missing::NOTHING {
            break;
        }
        if std::fs::remove_file(&file.path).is_ok() {
            missing.bytes = missing.bytes.saturating_sub(file.bytes);
            missing.files = missing.files.saturating_sub(1);
            removed += 1;
        }
    }
    removed
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

    /// A disk with so many bytes free, and as many more when these are gone.
    #[derive(Debug)]
    struct Filled(u64, Vec<PathBuf>);

    impl Disk for Filled {
        fn free(&self) -> Option<u64> {
            let gone = self.1.iter().filter(|path| !path.exists()).count();
            Some(self.0 + gone as u64 * JOURNAL_BYTES / 2)
        }

        fn free_files(&self) -> Option<u64> {
            None
        }
    }

    #[test]
    fn what_is_of_no_use_goes_first() {
        let dir = tempfile::tempdir().expect("directory");
        let store = Store::open_directory(dir.path()).expect("opens");
        let journal = dir.path().join("journal");
        let key = Key::new("good").expect("a key");
        let good = store.path(&Name::new(&Identity::File { key, size: 4 }, 1));
        let (half, damaged) = (store.tmp(2), dir.path().join("journal.corrupt-then"));
        let fill = || {
            std::fs::write(&good, b"good").expect("writes");
            std::fs::write(&half, b"half").expect("writes");
            std::fs::create_dir(&damaged).expect("makes");
            std::fs::write(damaged.join("db"), b"damaged").expect("writes");
            vec![half.clone(), damaged.clone()]
        };
        let disk = Filled(0, fill());
        assert!(relieve(&store, &journal, &disk));
        assert_eq!((good.exists(), half.exists(), damaged.exists()), (true, false, false));
        assert!(!relieve(&store, &journal, &disk), "there is room now");
        let mut disk = Filled(0, fill());
        disk.1.pop();
        assert!(relieve(&store, &journal, &disk));
        assert_eq!((good.exists(), half.exists(), damaged.exists()), (false, false, false));
    }
}
