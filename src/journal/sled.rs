//! [`SledJournal`]: the journal on disk.
//!
//! sled is quick and survives kills, and it is beta: damage, or a panic of its own, must cost no
//! more than the index. So every call into it is fenced against panics, and a journal that cannot
//! be opened is moved aside and begun anew; the caller is told, and rebuilds.
//!
//! An idle journal costs no wake-up and little memory; see `keeper`. A disk that fails for a while costs nothing that was
//! applied; see [`Redo`].
mod aside;
mod database;
mod garbage;
mod keeper;
mod lock;
mod room;
mod threads;

pub use aside::{move_aside, moved_aside, remove_aside};

use super::{Batch, Journal, JournalError, Pairs, Redo, Tree, full_key};
use database::{Missing, fenced};
use keeper::{Keeper, MANNERS};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A journal in a directory, held by one process.
#[derive(Debug)]
pub struct SledJournal {
    redo: Redo<Database>,
    path: PathBuf,
    /// Held until the journal is dropped; declared last, so that sled is closed before.
    _lock: File,
}

/// The database alone.
#[derive(Debug)]
struct Database {
    keeper: Keeper,
}

/// A journal that could be opened, perhaps only as an empty one.
#[derive(Debug)]
pub struct Opened {
    /// Ready for use.
    pub journal: SledJournal,
    /// Set if the one found was damaged: nothing of it is in `journal`.
    pub damage: Option<Damage>,
}

/// A journal that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where it is now.
    pub moved_to: PathBuf,
    /// What was wrong with it.
    pub reason: String,
}

impl SledJournal {
    /// Opens or creates the journal in the directory `path`, whose parent must exist.
    ///
    /// If another process holds it, tries again until `patience` is over (a dying daemon needs a
    /// moment to let go), then fails with [`JournalError::Busy`].
    pub fn open(path: &Path, patience: Duration) -> Result<Opened, JournalError> {
        Self::open_relieved(path, patience, || false)
    }

    /// The same; if it cannot be opened `relieve` is called, while no other process can have the journal, and
    /// if that has made room it is tried once more.
    pub fn open_relieved(
        path: &Path,
        patience: Duration,
        relieve: impl FnOnce() -> bool,
    ) -> Result<Opened, JournalError> {
        let give_up = Instant::now() + patience;
        let lock = lock::take(path, patience)?;
        let _shift = threads::Shift::begin();
        let open = || database::open_patiently(path, Missing::New, give_up);
        let opened = match open() {
            Err(e @ (JournalError::Busy { .. } | JournalError::Version { .. })) => Err(e),
            Err(_) if relieve() => open(),
            opened => opened,
        };
        let (db, damage) = match opened {
            Ok(db) => (db, None),
            Err(e) if is_lost(&e) => {
                let moved_to = move_aside(path)?;
                (database::open(path, Missing::New)?, Some(Damage { moved_to, reason: e.to_string() }))
            }
            Err(e) => return Err(e),
        };
        let keeper =
            Keeper::new(db, path, MANNERS).map_err(|source| JournalError::Io { action: "keep", source })?;
        let redo = Redo::new(Database { keeper });
        Ok(Opened { journal: Self { redo, path: path.into(), _lock: lock }, damage })
    }

    /// Bytes on disk.
    pub fn size_on_disk(&self) -> Result<u64, JournalError> {
        let db = self.keeper().enter()?;
        fenced("measure", || db.size_on_disk())
    }

    /// Waits until it is at rest, at most for `patience`: whether it is, and how often the database was
    /// opened anew until then.
    pub fn wait_rest(&self, patience: Duration) -> (bool, u64) {
        self.keeper().wait_rest(patience)
    }

    fn keeper(&self) -> &Keeper {
        &self.redo.inner().keeper
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Journal for SledJournal {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.redo.get(tree, key)
    }

    fn apply(&self, batch: Batch) -> Result<(), JournalError> {
        self.redo.apply(batch)
    }

    fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> Pairs<'_> {
        self.redo.scan(tree, prefix, from)
    }

    fn visit(&self, tree: Tree, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), JournalError> {
        self.redo.visit(tree, each)
    }

    fn flush(&self) -> Result<(), JournalError> {
        self.redo.flush()
    }

    fn recover(&self, bytes: usize) -> Result<(), JournalError> {
        self.redo.recover(bytes)
    }
}

impl Journal for Database {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        let db = self.keeper.enter()?;
        db.touch(1);
        fenced("read", || Ok(db.get(full_key(tree, key))?.map(|value| value.to_vec())))
    }

    fn apply(&self, batch: Batch) -> Result<(), JournalError> {
        let db = self.keeper.enter()?;
        db.touch(batch.len());
        let mut own = ::sled::Batch::default();
        for (key, value) in batch.into_operations() {
            match value {
                Some(value) => own.insert(key, value),
                None => own.remove(key),
            }
        }
        fenced("write", || db.apply_batch(own))
    }

    fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> Pairs<'_> {
        let skip = full_key(tree, b"").len();
        let prefix = full_key(tree, prefix);
        let start = full_key(tree, from).max(prefix.clone());
        let db = match self.keeper.enter() {
            Ok(db) => db,
            Err(e) => return Box::new(std::iter::once(Err(e))),
        };
        let mut pairs = Some(db.range(start..));
        Box::new(std::iter::from_fn(move || {
            db.touch(1);
            let step = fenced("read", || pairs.as_mut().and_then(Iterator::next).transpose());
            match step {
                Ok(Some((key, value))) if key.starts_with(&prefix) => {
                    Some(Ok((key[skip..].to_vec(), value.to_vec())))
                }
                Ok(_) => {
                    pairs = None;
                    None
                }
                Err(e) => {
                    pairs = None;
                    Some(Err(e))
                }
            }
        }))
    }

    fn visit(&self, tree: Tree, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), JournalError> {
        let start = full_key(tree, b"");
        let db = self.keeper.enter()?;
        let mut pairs = db.range(&start[..]..);
        while let Some((key, value)) = fenced("read", || pairs.next().transpose())? {
            db.touch(1);
            let ours = key.strip_prefix(&start[..]);
            if !ours.is_some_and(|key| each(key, &value)) {
                break;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), JournalError> {
        let db = self.keeper.enter()?;
        let flushed = fenced("flush", || db.flush().map(|_| ()));
        garbage::hand_over();
        flushed
    }

    fn recover(&self, bytes: usize) -> Result<(), JournalError> {
        self.keeper.recover(bytes)
    }
}

/// Whether a journal that cannot be opened will not be another time either: its bytes are not what they should be, or
/// the disk does not give them, or what is there is no journal. To be short of something passes, and so do rights.
fn is_lost(e: &JournalError) -> bool {
    use std::io::ErrorKind::{
        Interrupted, Other, OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        WouldBlock,
    };
    let source = match e {
        JournalError::Corrupt { .. } => return true,
        JournalError::Busy { .. } | JournalError::Version { .. } => return false,
        JournalError::Io { source, .. } => source,
    };
    // What the library has put into words may be of that kind, too.
    let descriptors = std::io::Error::from_raw_os_error(libc::EMFILE).kind();
    let passing = [
        StorageFull,
        QuotaExceeded,
        OutOfMemory,
        PermissionDenied,
        ReadOnlyFilesystem,
        Interrupted,
        WouldBlock,
    ];
    match source.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => false,
        Some(_) => !passing.contains(&source.kind()),
        None => ![&passing[..], &[Other, descriptors]].concat().contains(&source.kind()),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::database::{FORMAT_KEY, FORMAT_TREE};
    use super::*;

    fn open(path: &Path) -> Opened {
        SledJournal::open(path, Duration::from_secs(10)).expect("opens")
    }

    const T: Tree = Tree("t");

    fn put(journal: &SledJournal, key: &[u8], value: &[u8]) {
        let mut batch = Batch::new();
        batch.put(T, key, value);
        journal.apply(batch).expect("applies");
        journal.flush().expect("flushes");
    }

    #[test]
    fn what_was_flushed_is_there_after_reopening() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal");
        put(&open(&path).journal, b"k", b"v");
        let again = open(&path);
        assert_eq!(again.damage, None);
        assert_eq!(again.journal.get(T, b"k").expect("reads"), Some(b"v".to_vec()));
    }

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal");
        let first = open(&path);
        match SledJournal::open(&path, Duration::ZERO) {
            Err(JournalError::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("not busy: {other:?}"),
        }
        drop(first);
        open(&path);
    }

    #[test]
    fn a_damaged_journal_is_moved_aside_and_reported() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal");
        std::fs::create_dir(&path).expect("dir");
        std::fs::write(path.join("conf"), b"this is not sled's configuration").expect("writes");
        std::fs::write(path.join("db"), vec![0xa5; 2 << 20]).expect("writes");
        let opened = open(&path);
        let damage = opened.damage.expect("reported");
        assert!(damage.moved_to.join("db").exists());
        put(&opened.journal, b"k", b"v");
        assert_eq!(opened.journal.get(T, b"k").expect("reads"), Some(b"v".to_vec()));
    }

    #[test]
    fn what_is_no_journal_is_moved_aside_whatever_it_is() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal");
        let directory_in_place_of_a_file = |path: &Path| std::fs::create_dir_all(path.join("db"));
        let pipe = |path: &Path| {
            std::fs::create_dir(path)?;
            let (at, kind) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
            Ok(rustix::fs::mknodat(at, path.join("db"), kind, rustix::fs::Mode::RWXU, 0)?)
        };
        let file = |path: &Path| std::fs::write(path, b"");
        for make in [&directory_in_place_of_a_file as &dyn Fn(&Path) -> std::io::Result<()>, &pipe, &file] {
            make(&path).expect("makes");
            let opened = open(&path);
            let damage = opened.damage.expect("reported");
            assert_eq!(moved_aside(&path), [damage.moved_to], "the newest is kept");
            put(&opened.journal, b"k", b"v");
            drop(opened.journal);
            assert_eq!(open(&path).damage, None);
            std::fs::remove_dir_all(&path).expect("removes");
        }
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let dir = tempfile::tempdir().expect("dir");
        let (path, victim) = (dir.path().join("journal"), dir.path().join("thesis"));
        std::fs::write(&victim, b"mine").expect("writes");
        std::os::unix::fs::symlink(&victim, dir.path().join("journal.lock")).expect("links");
        SledJournal::open(&path, Duration::ZERO).expect_err("refused");
        assert_eq!(std::fs::read(&victim).expect("reads"), b"mine");
    }

    #[test]
    fn flipped_bytes_never_panic_and_never_lie() {
        for seed in 0..24_usize {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("journal");
            {
                let journal = open(&path).journal;
                for round in 0..4_u8 {
                    let mut batch = Batch::new();
                    for n in 0..200_u32 {
                        batch.put(T, &n.to_be_bytes(), vec![round; 40]);
                    }
                    journal.apply(batch).expect("applies");
                    journal.flush().expect("flushes");
                }
            }
            let db = path.join("db");
            let mut bytes = std::fs::read(&db).expect("reads");
            let end = bytes.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
            for n in 0..8 {
                bytes[(seed * 7919 + n * 104_729) % end] ^= 0x5a;
            }
            std::fs::write(&db, &bytes).expect("writes");
            let opened = open(&path);
            for pair in opened.journal.scan_prefix(T, b"") {
                let Ok((_, value)) = pair else { break };
                assert!(value.len() == 40 && value.iter().all(|b| *b == value[0] && *b < 4));
            }
        }
    }

    #[test]
    fn a_later_format_is_refused_and_a_foreign_one_moved_aside() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal");
        let set = |value: &[u8]| {
            let journal = open(&path).journal;
            journal
                .keeper()
                .enter()
                .expect("opens")
                .insert(full_key(FORMAT_TREE, FORMAT_KEY), value)
                .expect("writes");
            journal.flush().expect("flushes");
        };
        set(b"ICECACHE\x02\0\0\0");
        match SledJournal::open(&path, Duration::ZERO) {
            Err(JournalError::Version { found: 2, .. }) => {}
            other => panic!("not refused: {other:?}"),
        }
        std::fs::remove_dir_all(&path).expect("removes");
        set(b"SOMETHING");
        assert!(open(&path).damage.is_some());
    }

    #[test]
    fn the_format_record_is_these_bytes() {
        let dir = tempfile::tempdir().expect("dir");
        let journal = open(&dir.path().join("journal")).journal;
        let pairs: Vec<_> =
            journal.keeper().enter().expect("opens").iter().map(|p| p.expect("reads")).collect();
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].0, b"icecache\0format");
        assert_eq!(pairs[0].1, b"ICECACHE\x01\0\0\0");
    }
}
