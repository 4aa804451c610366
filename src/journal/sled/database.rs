//! sled itself: opening a database, its format record, and the fence around every call.
use crate::journal::{JournalError, Tree, full_key};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Upper bound of sled's page cache, in bytes as on disk. It is a bound, not a reservation: one
/// smaller than the data was measured to make memory grow with every write, so it is generous.
const CACHE_CAPACITY: u64 = 1 << 30;
/// Time between two attempts to get sled's lock.
const LOCK_PAUSE: Duration = Duration::from_millis(25);
/// Where the format is written down.
pub const FORMAT_TREE: Tree = Tree("icecache");
/// Its key.
pub const FORMAT_KEY: &[u8] = b"format";
/// First bytes of the format record; the format number follows, u32, little endian.
const FORMAT_MAGIC: &[u8; 8] = b"ICECACHE";
/// The format written and understood.
const FORMAT_VERSION: u32 = 1;

/// Runs one call into sled; its panics become errors.
pub fn fenced<T>(action: &'static str, call: impl FnOnce() -> ::sled::Result<T>) -> Result<T, JournalError> {
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

/// What a directory without a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// One that is to be created.
    New,
    /// Damage: there was one.
    Lost,
}

/// Opens the database in a directory and checks its format; [`JournalError::Busy`] while another has it.
pub fn open(path: &Path, missing: Missing) -> Result<::sled::Db, JournalError> {
    let config = ::sled::Config::new().path(path).cache_capacity(CACHE_CAPACITY).flush_every_ms(None);
    let db = fenced("open", || config.open()).map_err(|e| match e {
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
        None if missing == Missing::New && fenced("read", || Ok(db.is_empty()))? => {
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

/// Opens it, trying again until `give_up`: tasks of sled's threads may hold its lock a moment longer than
/// their owner did.
pub fn open_patiently(path: &Path, missing: Missing, give_up: Instant) -> Result<::sled::Db, JournalError> {
    loop {
        match open(path, missing) {
            Err(JournalError::Busy { .. }) if Instant::now() < give_up => std::thread::sleep(LOCK_PAUSE),
            opened => return opened,
        }
    }
}
