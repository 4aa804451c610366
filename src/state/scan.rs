//! [`scan`]: what differs from the records, found by one parallel walk: after an unclean stop, and wherever
//! nobody tells of changes.
use crate::clock::Timestamp;
use crate::path::RelPath;
use crate::state::absent::Referred;
use crate::state::backing::Backing;
use crate::state::dirty::{Extent, Marks};
use crate::state::identity::Identity;
use crate::state::plan::{LookOptions, PlanError};
use crate::state::record::Records;
use crate::sync::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

/// Threads of one scan, at least and at most.
const THREADS: std::ops::RangeInclusive<usize> = 2..=4;

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Paths that differ from their record, are new, or are gone.
    pub marks: Marks,
    /// How many entries of the backing were compared (not counting what is below new directories).
    pub looked: u64,
    /// When the newest of these was changed last, as far as that was looked at; else now.
    pub newest: Option<Timestamp>,
    /// Paths that could not be looked at, and why.
    pub unreadable: BTreeMap<RelPath, io::Error>,
}

impl Scan {
    /// What stands at this path differs.
    fn differs(&mut self, path: RelPath, ident: &Identity) {
        self.newest = self.newest.max(Some(ident.ctime));
        self.marks.insert(path, Extent::Entry);
    }

    /// All below this path is new.
    fn is_new(&mut self, path: RelPath) {
        self.newest = self.newest.max(Some(Timestamp::now()));
        self.marks.insert(path, Extent::Subtree);
    }
}

#[derive(Default)]
struct Shared {
    todo: Vec<RelPath>,
    /// Threads that may still add to `todo`.
    working: usize,
    found: Scan,
    failed: Option<PlanError>,
}

/// Compares the whole backing with the records. Blocks on the file system.
pub fn scan(root: BorrowedFd<'_>, records: &Records, options: &LookOptions) -> Result<Scan, PlanError> {
    let mut first = Shared::default();
    let top = RelPath::root();
    let mut backing = Backing::new(root, None);
    let ident = backing.stat(&top).map_err(PlanError::Backing)?;
    let record = records.get(&top)?;
    match ident {
        Some(now) if record.is_some_and(|then| now.unchanged_since(&then)) => {}
        Some(now) => first.found.differs(top.clone(), &now),
        None => drop(first.found.marks.insert(top.clone(), Extent::Entry)),
    }
    first.found.looked = 1;
    first.todo.push(top);
    let shared = Mutex::new(first);
    let more = Condvar::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(*THREADS.start(), *THREADS.end()) {
            scope.spawn(|| work(root, records, options, &shared, &more));
        }
    });
    let shared = shared.into_inner();
    match shared.failed {
        Some(e) => Err(e),
        None => Ok(shared.found),
    }
}

fn work(
    root: BorrowedFd<'_>,
    records: &Records,
    options: &LookOptions,
    shared: &Mutex<Shared>,
    more: &Condvar,
) {
    let mut backing = Backing::new(root, options.exclude.as_ref());
    let mut guard = shared.lock();
    loop {
        if guard.failed.is_some() {
            return;
        }
        let Some(dir) = guard.todo.pop() else {
            if guard.working == 0 {
                return;
            }
            more.wait(&mut guard);
            continue;
        };
        guard.working += 1;
        drop(guard);
        let result = compare(&mut backing, records, &dir);
        guard = shared.lock();
        guard.working -= 1;
        match result {
            Ok((found, below)) => {
                guard.found.marks.extend(found.marks);
                guard.found.unreadable.extend(found.unreadable);
                guard.found.looked += found.looked;
                guard.found.newest = guard.found.newest.max(found.newest);
                guard.todo.extend(below);
            }
            Err(e) => guard.failed = Some(e),
        }
        more.notify_all();
    }
}

/// Compares the names directly in one directory; returns the directories to go on with.
fn compare(
    backing: &mut Backing<'_>,
    records: &Records,
    dir: &RelPath,
) -> Result<(Scan, Vec<RelPath>), PlanError> {
    let mut found = Scan::default();
    let mut below = Vec::new();
    let names = match backing.list(dir) {
        Ok(Some(names)) => names,
        Ok(None) => {
            found.marks.insert(dir.clone(), Extent::Subtree);
            return Ok((found, below));
        }
        Err(e) if dir.is_root() => return Err(PlanError::Backing(e)),
        Err(e) => {
            found.unreadable.insert(dir.clone(), e);
            return Ok((found, below));
        }
    };
    let mut recorded = records.children(dir).peekable();
    for name in names {
        while let Some(gone) = recorded.next_if(|r| !matches!(r, Ok((n, _)) if *n >= name)) {
            note_gone(&mut found, records, dir, gone?);
        }
        let known = recorded.next_if(|r| matches!(r, Ok((n, _)) if *n == name)).transpose()?;
        let path = dir.join(&name);
        let ident = match backing.stat(&path) {
            Ok(Some(ident)) => ident,
            Ok(None) => {
                if known.is_some() {
                    found.marks.insert(path, Extent::Entry);
                }
                continue;
            }
            Err(e) => {
                found.unreadable.insert(path, e);
                continue;
            }
        };
        found.looked += 1;
        let is_dir = ident.file_type().is_dir();
        let was_dir = known.as_ref().is_some_and(|(_, r)| r.is_none_or(|r| r.file_type().is_dir()));
        if is_dir && !was_dir {
            found.is_new(path);
            continue;
        }
        let record = known.and_then(|(_, record)| record);
        if !record.is_some_and(|record| ident.unchanged_since(&record)) {
            found.differs(path.clone(), &ident);
        }
        if is_dir {
            below.push(path);
        }
    }
    for gone in recorded {
        note_gone(&mut found, records, dir, gone?);
    }
    Ok((found, below))
}

/// A recorded name is not on the disk: it is gone, unless it was not there when it was recorded and still is
/// not.
fn note_gone(
    found: &mut Scan,
    records: &Records,
    dir: &RelPath,
    (name, record): (Vec<u8>, Option<Identity>),
) {
    let path = dir.join(&name);
    let absent = record.is_some_and(|record| Referred::is_record(&record))
        && records.absent().is_none_or(|absent| absent.restated_file(&path).is_some());
    if !absent {
        found.marks.insert(path, Extent::Entry);
    }
}
