//! [`SledJournal`]: the journal on disk.
//!
//! sled is quick and survives kills, and it is beta: damage, or a panic of its own, must cost no
//! more than the index. So every call into it is fenced against panics, and a journal that cannot
//! be opened is moved aside and begun anew; the caller is told, and rebuilds.
use super::{Batch, Journal, JournalError, Pairs, Tree, full_key};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Upper bound of sled's page cache, in bytes as on disk. It is a bound, not a reservation: one
/// smaller than the data was measured to make memory grow with every write, so it is generous.
const CACHE_CAPACITY: u64 = 1 << 30;
/// Time between two attempts to get the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(25);
/// Where the format is written down.
const FORMAT_TREE: Tree = Tree("icecache");
const FORMAT_KEY: &[u8] = b"format";
/// First bytes of the format record; the format number follows, u32, little endian.
const FORMAT_MAGIC: &[u8; 8] = b"ICECACHE";
/// The format written and understood.
const FORMAT_VERSION: u32 = 1;

/// A journal in a directory, held by one process.
#[derive(Debug)]
pub struct SledJournal {
    db: ::sled::Db,
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
        let give_up = Instant::now() + patience;
        let lock = lock(path, patience)?;
        // Threads of the library may hold its own lock a moment longer than their owner holds ours.
        let opened = loop {
            match open_checked(path) {
                Err(JournalError::Busy { .. }) if Instant::now() < give_up => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                opened => break opened,
            }
        };
        match opened {
            Ok(db) => Ok(Opened { journal: Self { db, path: path.into(), _lock: lock }, damage: None }),
            Err(JournalError::Corrupt { message }) => {
                let moved_to = move_aside(path)?;
                let db = open_checked(path)?;
                let journal = Self { db, path: path.into(), _lock: lock };
                Ok(Opened { journal, damage: Some(Damage { moved_to, reason: message }) })
            }
            Err(e) => Err(e),
        }
    }

    /// Bytes on disk.
    pub fn size_on_disk(&self) -> Result<u64, JournalError> {
        fenced("measure", || self.db.size_on_disk())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Journal for SledJournal {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        fenced("read", || Ok(self.db.get(full_key(tree, key))?.map(|value| value.to_vec())))
    }

    fn apply(&self, batch: Batch) -> Result<(), JournalError> {
        let mut own = ::sled::Batch::default();
        for (key, value) in batch.into_operations() {
            match value {
                Some(value) => own.insert(key, value),
                None => own.remove(key),
            }
        }
        fenced("write", || self.db.apply_batch(own))
    }

    fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> Pairs<'_> {
        let skip = full_key(tree, b"").len();
        let prefix = full_key(tree, prefix);
        let start = full_key(tree, from).max(prefix.clone());
        let mut pairs = Some(self.db.range(start..));
        Box::new(std::iter::from_fn(move || {
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

    fn flush(&self) -> Result<(), JournalError> {
        fenced("flush", || self.db.flush().map(|_| ()))
    }
}

/// Runs one call into sled; its panics become errors.
fn fenced<T>(action: &'static str, call: impl FnOnce() -> ::sled::Result<T>) -> Result<T, JournalError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(::sled::Error::Io(source))) if !is_damage(&source) => Err(JournalError::Io { action, source }),
        Ok(Err(e)) => Err(JournalError::corrupt(e.to_string())),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(JournalError::corrupt(format!("sled panicked: {text}")))
        }
    }
}

/// Errors by which sled says that its files are not what it wrote.
fn is_damage(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        || e.to_string().contains("corrupt")
}

/// How late the library's own threads may notice the time, in nanoseconds. They wake once a second
/// each, only to see that there is nothing to do; new work wakes them at once.
const IDLE_SLACK_NS: libc::c_ulong = 3_600_000_000_000;

/// Runs `start` so that threads it starts are not punctual (timer slack is inherited, prctl(2)).
fn lazily<T>(start: impl FnOnce() -> T) -> T {
    let set = |slack: libc::c_ulong| {
        // SAFETY: PR_SET_TIMERSLACK takes an integer and changes only this thread.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack, 0, 0, 0) };
    };
    set(IDLE_SLACK_NS);
    let started = start();
    set(0); // the default of this thread
    started
}

fn open_checked(path: &Path) -> Result<::sled::Db, JournalError> {
    let config = ::sled::Config::new().path(path).cache_capacity(CACHE_CAPACITY).flush_every_ms(None);
    let db = fenced("open", || lazily(|| config.open())).map_err(|e| match e {
        JournalError::Io { source, .. } if source.to_string().contains("acquire lock") => {
            JournalError::Busy { path: path.into(), pid: None }
        }
        other => other,
    })?;
    let key = full_key(FORMAT_TREE, FORMAT_KEY);
    let found = fenced("read", || db.get(&key))?;
    match found.as_deref() {
        Some(value) => match value.split_at_checked(FORMAT_MAGIC.len()) {
            Some((magic, number)) if magic == FORMAT_MAGIC => {
                let number = number
                    .try_into()
                    .map(u32::from_le_bytes)
                    .map_err(|_| JournalError::corrupt("format record has a wrong length"))?;
                if number != FORMAT_VERSION {
                    return Err(JournalError::Version { path: path.into(), found: number });
                }
            }
            _ => return Err(JournalError::corrupt("format record is not ours")),
        },
        None if fenced("read", || Ok(db.is_empty()))? => {
            let value = [&FORMAT_MAGIC[..], &FORMAT_VERSION.to_le_bytes()].concat();
            fenced("write", || {
                db.insert(&key, value)?;
                db.flush()
            })?;
        }
        None => return Err(JournalError::corrupt("format record is missing")),
    }
    Ok(db)
}

fn move_aside(path: &Path) -> Result<PathBuf, JournalError> {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.9fZ").to_string();
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".corrupt-{time}"));
    let target = path.with_file_name(name);
    std::fs::rename(path, &target).map_err(|source| JournalError::Io { action: "move aside", source })?;
    Ok(target)
}

/// A lock of our own beside the journal: it names its holder, and it outlives moving aside.
fn lock(path: &Path, patience: Duration) -> Result<File, JournalError> {
    let io = |source: rustix::io::Errno| JournalError::Io { action: "lock", source: source.into() };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".lock");
    let fd: OwnedFd = rustix::fs::open(
        path.with_file_name(name),
        OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .map_err(io)?;
    let mut file = File::from(fd);
    let deadline = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(JournalError::Busy { path: path.into(), pid: holder(&mut file) });
            }
            Err(e) => return Err(io(e)),
        }
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|source| JournalError::Io { action: "lock", source })?;
    Ok(file)
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    let pid = text.trim().parse().ok()?;
    let alive = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)
        .is_some_and(|p| rustix::process::test_kill_process(p) != Err(rustix::io::Errno::SRCH));
    alive.then_some(pid)
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
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
            journal.db.insert(full_key(FORMAT_TREE, FORMAT_KEY), value).expect("writes");
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
        let pairs: Vec<_> = journal.db.iter().map(|p| p.expect("reads")).collect();
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].0, b"icecache\0format");
        assert_eq!(pairs[0].1, b"ICECACHE\x01\0\0\0");
    }
}
