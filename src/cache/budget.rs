//! [`Budget`]: the one place where room is counted. It is charged before anything is written, and a
//! [`Charge`] that is dropped gives it back.
use crate::sync::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Disks give room in pages of this many bytes, and so is it counted.
pub const DISK_UNIT: u64 = 4096;
/// After so many bytes charged the free space is looked at again …
const FREE_EVERY_BYTES: u64 = 64 << 20;
/// … or after this long, because others write to the disk as well.
const FREE_EVERY: Duration = Duration::from_secs(1);

/// Of so many bytes it is asked beforehand whether they can fit at all.
const LARGE_BYTES: u64 = 8 << 20;

/// What a file of `length` bytes takes.
pub fn on_disk(length: u64) -> u64 {
    length.div_ceil(DISK_UNIT).saturating_mul(DISK_UNIT)
}

/// What may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on the disk.
    pub max_bytes: u64,
    /// Entries.
    pub max_entries: u64,
    /// Bytes of the disk that stay free.
    pub min_free: u64,
}

/// What is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Used {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Which limit does not permit a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// `max_bytes`
    Bytes,
    /// `max_entries`
    Entries,
    /// `min_free`
    Free,
}

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes => "max-bytes is reached",
            Self::Entries => "max-entries is reached",
            Self::Free => "the disk would have less than min-free left",
        })
    }
}

/// Says how many bytes of the disk are free.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Bytes that this process may still write; `None` if nobody can say.
    fn free(&self) -> Option<u64>;

    /// Files that may still be made; `None` if nobody can say.
    fn free_files(&self) -> Option<u64> {
        None
    }
}

/// The file system of a directory.
#[derive(Debug)]
pub struct FileSystem(pub std::path::PathBuf);

impl Disk for FileSystem {
    fn free(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.0).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn free_files(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.0).ok()?;
        // Some file systems make inodes as they need them, and say that there are none.
        (found.f_files > 0).then_some(found.f_favail)
    }
}

/// Counts what is used against the limits.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    disk: Box<dyn Disk>,
    totals: Mutex<Totals>, // the one lock; held for an addition, rarely for one statvfs
}

#[derive(Debug)]
struct Totals {
    used: Used,
    /// Free when last looked at, less what was charged since.
    free: u64,
    looked: Option<Instant>,
    charged_since: u64,
    /// Of what is charged, what is not on the disk yet: it is not free, whatever the disk says.
    unwritten: u64,
}

impl Budget {
    /// Nothing is used yet.
    pub fn new(limits: Limits, disk: Box<dyn Disk>) -> Arc<Self> {
        let totals = Totals { used: Used::default(), free: 0, looked: None, charged_since: 0, unwritten: 0 };
        Arc::new(Self { limits, disk, totals: Mutex::new(totals) })
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What is used now.
    pub fn used(&self) -> Used {
        self.totals.lock().used
    }

    /// Which limit is exceeded as it is, if any: after a restart with lower ones.
    pub fn exceeded(&self) -> Option<Short> {
        let used = self.used();
        match used {
            u if u.bytes > self.limits.max_bytes => Some(Short::Bytes),
            u if u.entries > self.limits.max_entries => Some(Short::Entries),
            _ => None,
        }
    }

    /// How many bytes more of the disk should be free, because others have written to it.
    pub fn missing(&self) -> u64 {
        if self.limits.min_free == 0 {
            return 0;
        }
        let unwritten = self.totals.lock().unwritten;
        let missing = |free: u64| self.limits.min_free.saturating_add(unwritten).saturating_sub(free);
        self.disk.free().map_or(0, missing)
    }

    /// The limit that does not permit so many bytes even if everything else went.
    pub fn forbids(&self, bytes: u64) -> Option<Short> {
        if bytes > self.limits.max_bytes {
            return Some(Short::Bytes);
        }
        if bytes < LARGE_BYTES {
            return None;
        }
        let free = self.disk.free()?;
        let (used, unwritten) = {
            let totals = self.totals.lock();
            (totals.used.bytes, totals.unwritten)
        };
        let most = free.saturating_add(used).saturating_sub(unwritten);
        (most < self.limits.min_free.saturating_add(bytes)).then_some(Short::Free)
    }

    /// The most bytes that there could be if all that is there went, and the limit that permits no more of them.
    pub fn most(&self) -> (u64, Short) {
        let free = if self.limits.min_free == 0 { None } else { self.disk.free() };
        let (used, unwritten) = {
            let totals = self.totals.lock();
            (totals.used.bytes, totals.unwritten)
        };
        let of_disk = free.map_or(u64::MAX, |free| {
            free.saturating_add(used).saturating_sub(unwritten).saturating_sub(self.limits.min_free)
        });
        if of_disk < self.limits.max_bytes {
            (of_disk, Short::Free)
        } else {
            (self.limits.max_bytes, Short::Bytes)
        }
    }

    /// A charge of `bytes` for `entries`, or the limit that does not permit it.
    pub fn charge(self: &Arc<Self>, bytes: u64, entries: u64) -> Result<Charge, Short> {
        self.add(bytes, entries)?;
        Ok(Charge { budget: self.clone(), bytes, entries, unwritten: bytes })
    }

    /// A charge for what is on the disk already, whatever the limits.
    pub fn found(self: &Arc<Self>, bytes: u64, entries: u64) -> Charge {
        let mut totals = self.totals.lock();
        totals.used.bytes += bytes;
        totals.used.entries += entries;
        drop(totals);
        Charge { budget: self.clone(), bytes, entries, unwritten: 0 }
    }

    fn add(&self, bytes: u64, entries: u64) -> Result<(), Short> {
        let mut totals = self.totals.lock();
        let after = Used { bytes: totals.used.bytes + bytes, entries: totals.used.entries + entries };
        if bytes > 0 && after.bytes > self.limits.max_bytes {
            return Err(Short::Bytes);
        }
        if entries > 0 && after.entries > self.limits.max_entries {
            return Err(Short::Entries);
        }
        if bytes > 0 && self.limits.min_free > 0 {
            let old = totals.looked.is_none_or(|at| at.elapsed() >= FREE_EVERY)
                || totals.charged_since >= FREE_EVERY_BYTES
                // Close to the limit, what was freed meanwhile counts.
                || totals.free < self.limits.min_free.saturating_add(bytes);
            if old {
                let free = self.disk.free().unwrap_or(u64::MAX);
                totals.free = free.saturating_sub(totals.unwritten);
                totals.looked = Some(Instant::now());
                totals.charged_since = 0;
            }
            if totals.free < self.limits.min_free.saturating_add(bytes) {
                return Err(Short::Free);
            }
            totals.free -= bytes;
            totals.charged_since += bytes;
        }
        totals.used = after;
        totals.unwritten += bytes;
        Ok(())
    }

    fn release(&self, bytes: u64, entries: u64, unwritten: u64) {
        let mut totals = self.totals.lock();
        totals.used.bytes -= bytes;
        totals.used.entries -= entries;
        totals.unwritten -= unwritten;
    }
}

/// Room that is taken. Dropping it gives it back.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
    entries: u64,
    unwritten: u64,
}

impl Charge {
    /// How many bytes it is for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more; on an error it is what it was.
    pub fn grow(&mut self, bytes: u64, entries: u64) -> Result<(), Short> {
        self.budget.add(bytes, entries)?;
        self.bytes += bytes;
        self.entries += entries;
        self.unwritten += bytes;
        Ok(())
    }

    /// So many of its bytes are on the disk now, at most all.
    pub fn written(&mut self, bytes: u64) {
        let written = bytes.min(self.unwritten);
        self.unwritten -= written;
        self.budget.release(0, 0, written);
    }

    /// Gives some back.
    pub fn shrink(&mut self, bytes: u64, entries: u64) {
        let (bytes, entries) = (bytes.min(self.bytes), entries.min(self.entries));
        self.bytes -= bytes;
        self.entries -= entries;
        let unwritten = bytes.min(self.unwritten);
        self.unwritten -= unwritten;
        self.budget.release(bytes, entries, unwritten);
    }

    /// Gives so many of its bytes to a charge of their own.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let unwritten = bytes.min(self.unwritten);
        self.unwritten -= unwritten;
        Self { budget: self.budget.clone(), bytes, entries: 0, unwritten }
    }

    /// Takes over what another is for.
    pub fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.entries += std::mem::take(&mut other.entries);
        self.unwritten += std::mem::take(&mut other.unwritten);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.release(self.bytes, self.entries, self.unwritten);
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[derive(Debug, Clone)]
    struct Free(Arc<AtomicU64>);

    impl Disk for Free {
        fn free(&self) -> Option<u64> {
            Some(self.0.load(Relaxed))
        }
    }

    fn budget(max_bytes: u64, max_entries: u64, min_free: u64, free: u64) -> (Arc<Budget>, Free) {
        let free = Free(Arc::new(free.into()));
        (Budget::new(Limits { max_bytes, max_entries, min_free }, Box::new(free.clone())), free)
    }

    #[test]
    fn a_dropped_charge_gives_everything_back() {
        let (budget, _) = budget(100, 2, 0, 0);
        let mut charge = budget.charge(60, 1).expect("fits");
        assert_eq!(charge.grow(41, 0), Err(Short::Bytes));
        charge.grow(40, 1).expect("fits");
        assert_eq!(budget.used(), Used { bytes: 100, entries: 2 });
        charge.shrink(30, 1);
        let other = budget.charge(30, 1).expect("fits");
        charge.absorb(other);
        assert_eq!(budget.used(), Used { bytes: 100, entries: 2 });
        assert_eq!(budget.charge(0, 1).err(), Some(Short::Entries));
        drop(charge);
        assert_eq!(budget.used(), Used::default());
    }

    #[test]
    fn the_disk_keeps_what_it_is_to_keep() {
        let (budget, free) = budget(1000, 10, 50, 100);
        let mut charge = budget.charge(50, 1).expect("fits");
        assert_eq!(budget.charge(1, 1).err(), Some(Short::Free), "what was promised is not free");
        charge.written(50);
        assert!(budget.charge(1, 1).is_ok(), "and the disk says 100");
        free.0.store(99, Relaxed);
        assert_eq!(budget.charge(50, 1).err(), Some(Short::Free), "others have written");
        assert!(budget.charge(0, 1).is_ok(), "no bytes, no question");
        free.0.store(100, Relaxed);
        drop(charge);
        assert!(budget.charge(50, 1).is_ok(), "somebody has freed something");
    }

    #[test]
    fn what_could_be_there_is_bounded_by_the_disk_too() {
        let (budget, free) = budget(1000, 10, 50, 2000);
        assert_eq!(budget.most(), (1000, Short::Bytes));
        free.0.store(300, Relaxed);
        assert_eq!(budget.most(), (250, Short::Free));
        let mut charge = budget.charge(100, 1).expect("fits");
        assert_eq!(budget.most(), (250, Short::Free), "it is not written yet");
        charge.written(100);
        free.0.store(200, Relaxed);
        assert_eq!(budget.most(), (250, Short::Free), "what is there could go");
        free.0.store(0, Relaxed);
        assert_eq!(budget.most(), (50, Short::Free));
    }

    #[test]
    fn pages_are_counted() {
        assert_eq!([0, 1, 4096, 4097].map(on_disk), [0, 4096, 4096, 8192]);
    }
}
