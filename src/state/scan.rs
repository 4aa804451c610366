//! [`scan`]: what differs from the records, found by one parallel walk: after an unclean stop, and wherever
//! nobody tells of changes.
mod seen;

pub use seen::Seen;

use crate::clock::Timestamp;
use crate::path::RelPath;
use crate::state::absent::Referred;
use crate::state::backing::{Backing, is_closed_to_all_but_root};
use crate::state::dirty::{Extent, Marks};
use crate::state::identity::Identity;
use crate::state::plan::{LookOptions, PlanError};
use crate::state::record::Records;
use crate::sync::{Condvar, Mutex};
use rustix::fs::AtFlags;
use seen::{Brief, Directory, Listing, News};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

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

    /// Nothing stands there. If a directory does again by the time somebody looks, all that was below it has to be looked at:
    /// no mark tells of what went with it.
    fn is_gone(&mut self, path: RelPath) {
        self.marks.insert(path, Extent::Subtree);
    }

    fn add(&mut self, other: Self) {
        self.marks.extend(other.marks);
        self.unreadable.extend(other.unreadable);
        self.looked += other.looked;
        self.newest = self.newest.max(other.newest);
    }
}

/// A directory that is to be looked into, and its lstat.
type Task = (RelPath, Identity);

#[derive(Default)]
struct Shared {
    todo: Vec<Task>,
    /// Threads that may still add to `todo`.
    working: usize,
    found: Scan,
    news: Vec<News>,
    failed: Option<PlanError>,
}

/// Compares the whole backing with the records. Blocks on the file system.
pub fn scan(root: BorrowedFd<'_>, records: &Records, options: &LookOptions) -> Result<Scan, PlanError> {
    walk(root, records, options, None).map(|shared| shared.found)
}

/// The same for who does it again and again: what was `seen` clean and looks as it did then needs no look at the
/// records. The records may only be changed by commits meanwhile.
pub fn scan_again(
    root: BorrowedFd<'_>,
    records: &Records,
    options: &LookOptions,
    seen: &mut Seen,
) -> Result<Scan, PlanError> {
    let shared = walk(root, records, options, Some(seen))?;
    seen.take_in(shared.news);
    Ok(shared.found)
}

fn walk(
    root: BorrowedFd<'_>,
    records: &Records,
    options: &LookOptions,
    seen: Option<&Seen>,
) -> Result<Shared, PlanError> {
    let began = Timestamp::now();
    let mut first = Shared::default();
    let top = RelPath::root();
    let ident = Backing::new(root, None).stat(&top).map_err(PlanError::Backing)?;
    let record = records.get(&top)?;
    match ident {
        Some(now) if record.is_some_and(|then| now.unchanged_since(&then)) => {}
        Some(now) => first.found.differs(top.clone(), &now),
        None => first.found.is_gone(top.clone()),
    }
    first.found.looked = 1;
    first.todo.extend(ident.map(|ident| (top, ident)));
    let shared = Mutex::new(first);
    let more = Condvar::new();
    // Found out once: to know it the limits of the container are read out of several files.
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    let threads = *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    let work = || {
        let backing = Backing::new(root, options.exclude.as_ref());
        Walk { backing, records, options, seen, began }.run(&shared, &more);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(*THREADS.start(), *THREADS.end()) {
            scope.spawn(work);
        }
        work();
    });
    let mut shared = shared.into_inner();
    match shared.failed.take() {
        Some(e) => Err(e),
        None => Ok(shared),
    }
}

/// One thread of a scan.
struct Walk<'a> {
    backing: Backing<'a>,
    records: &'a Records,
    options: &'a LookOptions,
    seen: Option<&'a Seen>,
    /// Before anything was looked at.
    began: Timestamp,
}

/// What one directory had to say.
#[derive(Default)]
struct Found {
    scan: Scan,
    below: Vec<Task>,
    news: Option<News>,
}

/// How an entry stands to its record.
enum Standing {
    /// It is as the record has it.
    Clean(Identity),
    /// Something else, or nothing.
    Other,
}

impl Walk<'_> {
    fn run(mut self, shared: &Mutex<Shared>, more: &Condvar) {
        let mut guard = shared.lock();
        loop {
            if guard.failed.is_some() {
                return;
            }
            let Some((dir, ident)) = guard.todo.pop() else {
                if guard.working == 0 {
                    return;
                }
                more.wait(&mut guard);
                continue;
            };
            guard.working += 1;
            drop(guard);
            let result = self.look_into(&dir, &ident);
            guard = shared.lock();
            guard.working -= 1;
            match result {
                Ok(found) => {
                    guard.found.add(found.scan);
                    guard.todo.extend(found.below);
                    guard.news.extend(found.news);
                }
                Err(e) => guard.failed = Some(e),
            }
            more.notify_all();
        }
    }

    fn look_into(&mut self, dir: &RelPath, ident: &Identity) -> Result<Found, PlanError> {
        match self.seen.and_then(|seen| seen.get(dir)).filter(|known| known.holds(ident)) {
            Some(known) => self.look_again(dir, known),
            None => self.list(dir, ident),
        }
    }

    /// The names in a directory are as they were: each is looked at, and the records are asked only of those that do
    /// not look as they did.
    fn look_again(&mut self, dir: &RelPath, known: &Directory) -> Result<Found, PlanError> {
        let mut found = Found::default();
        let mut others = Vec::new();
        match self.backing.directory(dir) {
            Ok(Some(fd)) => {
                for (number, (name, clean)) in known.entries().enumerate() {
                    let looked = clean.and_then(|clean| {
                        let stat = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                        let ident = Identity::from(&stat);
                        (Brief::from(&ident) == clean).then_some(ident)
                    });
                    match looked {
                        Some(ident) if ident.file_type().is_dir() => {
                            found.below.push((dir.join(name.to_bytes()), ident));
                        }
                        Some(_) => {}
                        None => others.push((number, dir.join(name.to_bytes()))),
                    }
                    found.scan.looked += 1;
                }
            }
            Ok(None) => found.scan.is_gone(dir.clone()),
            Err(e) => return unlooked(found, dir, e),
        }
        found.scan.looked -= others.len() as u64;
        let mut cleaned = Vec::new();
        for (number, path) in others {
            let record = self.records.get(&path)?;
            let known = record.is_some() || self.records.any_within(&path)?;
            if let Standing::Clean(ident) = self.judge(&mut found, &path, known.then_some(record)) {
                cleaned.push((number, Brief::from(&ident)));
            }
        }
        if !cleaned.is_empty() {
            found.news = Some(News::Cleaned(dir.clone(), cleaned));
        }
        Ok(found)
    }

    /// Compares the names directly in one directory.
    fn list(&mut self, dir: &RelPath, ident: &Identity) -> Result<Found, PlanError> {
        let mut found = Found::default();
        let mut listing = self.seen.and_then(|_| Listing::of(ident, self.began, self.options.tick));
        let names = match self.backing.list(dir) {
            Ok(Some(names)) => names,
            Ok(None) => {
                found.scan.is_gone(dir.clone());
                return Ok(found);
            }
            Err(e) => return unlooked(found, dir, e),
        };
        let mut recorded = self.records.children(dir).peekable();
        for name in names {
            while let Some(gone) = recorded.next_if(|r| !matches!(r, Ok((n, _)) if *n >= name)) {
                self.note_gone(&mut found, dir, gone?);
            }
            let known = recorded.next_if(|r| matches!(r, Ok((n, _)) if *n == name)).transpose()?;
            let standing = self.judge(&mut found, &dir.join(&name), known.map(|(_, record)| record));
            if let Some(listing) = &mut listing {
                let clean = match &standing {
                    Standing::Clean(ident) => Some(ident),
                    Standing::Other => None,
                };
                listing.add(&name, clean);
            }
        }
        for gone in recorded {
            self.note_gone(&mut found, dir, gone?);
        }
        found.news = listing.map(|listing| News::Listed(dir.clone(), listing));
        Ok(found)
    }

    /// Compares what stands at a path with its record; `known` is `None` if it has none and nothing below it has.
    fn judge(&mut self, found: &mut Found, path: &RelPath, known: Option<Option<Identity>>) -> Standing {
        let ident = match self.backing.stat(path) {
            Ok(Some(ident)) => ident,
            Ok(None) => {
                if known.is_some() {
                    found.scan.is_gone(path.clone());
                }
                return Standing::Other;
            }
            Err(e) => {
                found.scan.unreadable.insert(path.clone(), e);
                return Standing::Other;
            }
        };
        found.scan.looked += 1;
        let is_dir = ident.file_type().is_dir();
        let was_dir = known.is_some_and(|record| record.is_none_or(|r| r.file_type().is_dir()));
        if is_dir && !was_dir {
            found.scan.is_new(path.clone());
            return Standing::Other;
        }
        if is_dir {
            found.below.push((path.clone(), ident));
        }
        if known.flatten().is_some_and(|record| ident.unchanged_since(&record)) {
            return Standing::Clean(ident);
        }
        found.scan.differs(path.clone(), &ident);
        if was_dir && !is_dir {
            found.scan.is_gone(path.clone()); // what was below it
        }
        Standing::Other
    }

    /// A recorded name is not on the disk: it is gone, unless it was not there when it was recorded and still is
    /// not.
    fn note_gone(&self, found: &mut Found, dir: &RelPath, (name, record): (Vec<u8>, Option<Identity>)) {
        let path = dir.join(&name);
        let absent = record.is_some_and(|record| Referred::is_record(&record))
            && self.records.absent().is_none_or(|absent| absent.restated_file(&path).is_some());
        if !absent {
            found.scan.is_gone(path);
        }
    }
}

/// What cannot be looked at is told; the directory itself must be.
fn unlooked(mut found: Found, dir: &RelPath, e: io::Error) -> Result<Found, PlanError> {
    if dir.is_root() {
        return Err(PlanError::Backing(e));
    }
    if !is_closed_to_all_but_root(dir, &e) {
        found.scan.unreadable.insert(dir.clone(), e);
    }
    Ok(found)
}
