//! [`SledJournal`]: the journal on disk.
//!
//! sled is quick and survives kills, and it is beta: damage, or a panic of its own, must cost no
//! more than the index. So every call into it is fenced against panics, and a journal that cannot
//! be opened is moved aside and begun anew; the caller is told, and rebuilds.
//!
//! An idle journal costs no wake-up and little memory; see `keeper`.
mod database;
mod garbage;
mod keeper;
mod lock;
mod threads;

use super::{Batch, Journal, JournalError, Pairs, Tree, full_key};
use database::{Missing, fenced};
use keeper::{Keeper, MANNERS};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A journal in a directory, held by one process.
#[derive(Debug)]
pub struct SledJournal {
    keeper: Keeper,
    path: PathBuf,
    /// Held until the journal is dropped; declared last, so that sled is closed before.
    _lock: File,
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
            Err(JournalError::Corrupt { message }) => {
                let moved_to = move_aside(path)?;
                (database::open(path, Missing::New)?, Some(Damage { moved_to, reason: message }))
            }
            Err(e) => return Err(e),
        };
        let keeper =
            Keeper::new(db, path, MANNERS).map_err(|source| JournalError::Io { action: "keep", source })?;
        Ok(Opened { journal: Self { keeper, path: path.into(), _lock: lock }, damage })
    }

    /// Bytes on disk.
    pub fn size_on_disk(&self) -> Result<u64, JournalError> {
        let db = self.keeper.enter()?;
        fenced("measure", || db.size_on_disk())
    }

    /// Waits until it is at rest, at most for `patience`: whether it is, and how often the database was
    /// opened anew until then.
    pub fn wait_rest(&self, patience: Duration) -> (bool, u64) {
        self.keeper.wait_rest(patience)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Journal for SledJournal {
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

    fn recover(&self) -> Result<(), JournalError> {
        self.keeper.recover()
    }
}

/// Gives a journal that is of no use another name, for whoever wants to know what happened to it. Of those only the
/// newest stays: each may be as large as what it described.
///
/// # Errors
/// [`JournalError::Io`] if it cannot be renamed.
pub fn move_aside(path: &Path) -> Result<PathBuf, JournalError> {
    for earlier in moved_aside(path) {
        if let Err(error) = std::fs::remove_dir_all(&earlier) {
            tracing::warn!(path = %earlier.display(), %error, "cannot remove a damaged journal of before");
        }
    }
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.9fZ").to_string();
    let mut target = aside(path);
    target.push(time);
    let target = path.with_file_name(target);
    std::fs::rename(path, &target).map_err(|source| JournalError::Io { action: "move aside", source })?;
    Ok(target)
}

/// How the names begin of those that were moved aside.
fn aside(path: &Path) -> OsString {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".corrupt-");
    name
}

/// The journals that were moved aside for this one.
pub fn moved_aside(path: &Path) -> Vec<PathBuf> {
    let entries = path.parent().and_then(|parent| std::fs::read_dir(parent).ok());
    let prefix = aside(path);
    let is_one = |name: &OsStr| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
    let entries = entries.into_iter().flatten().flatten();
    entries.filter(|entry| is_one(&entry.file_name())).map(|entry| entry.path()).collect()
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
                .keeper
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
            journal.keeper.enter().expect("opens").iter().map(|p| p.expect("reads")).collect();
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].0, b"icecache\0format");
        assert_eq!(pairs[0].1, b"ICECACHE\x01\0\0\0");
    }
}
