//! The cut: one true instant of the whole tree, while programs go on writing it.
//!
//! In order: copy what is being written without stopping anybody; close the gate for operations
//! that change the tree; hold every file that a handle could write, so that at one moment nothing
//! moves; look at what changed since; copy again only that, and let each file go as its copy ends;
//! open the gate. Files that nobody writes are not copied: they are sheltered until packed.
//!
//! Two kinds of writers escape a hold. Stores through a mapping pass no system call: mapped files
//! are written back and copied until their change time stands still, else marked fuzzy. And what
//! cannot be held within the deadline is let go, and the cut is tried again after more copying.
use super::barrier::{self, Barrier};
use super::dirty::{Extent, Marks};
use super::live::{Live, Writer};
use super::mapped::mapped_inodes;
use super::plan::{Captured, Change, LookOptions, Plan, PlanError};
use super::record::Records;
use super::source::ContentSource;
use super::staging::Staging;
use crate::clock::Timestamp;
use crate::layer::content::Content;
use crate::path::RelPath;
use crate::state::identity::Identity;
use crate::sync::Mutex;
use rustix::fs::{Mode, OFlags};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a cut is tried before it takes as long as it takes.
const ATTEMPTS_MAX: u32 = 5;
/// How much longer than the deadline the last attempt may stop writers.
const LAST_ATTEMPT_FACTOR: u32 = 20;
/// Copying without a hold ends when a round finds less than this changed...
const SETTLED_BYTES: u64 = 4 << 20;
/// ...or after so many rounds.
const ROUNDS_MAX: u32 = 3;
/// How long the helper may take before anybody stands still.
const HELPER_MAX: Duration = Duration::from_secs(30);
/// How often a mapped file is copied in the hope that nobody stores meanwhile.
const MAPPED_COPIES_MAX: u32 = 3;

/// How to cut.
#[derive(Debug, Clone)]
pub struct CutOptions {
    /// How long writers may stand still before an attempt is given up.
    pub deadline: Duration,
    /// Device of the mount, as mappings name it; 0 if there is none.
    pub mount_dev: u64,
    /// Whether writers pass no gate, so that they must be held.
    pub hold: bool,
    /// How the tree is looked at.
    pub look: LookOptions,
}

/// Why there is no cut. Nothing is lost: the marks are back in the dirty set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// The tree could not be looked at.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file that is being written could not be copied.
    #[error("cannot copy a file that is being written: {path}")]
    Copy {
        /// The file.
        path: RelPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Operations under way did not end in time.
    #[error("operations under way did not end within the deadline")]
    Busy,
    /// The helper died or did not answer; another one has to be started.
    #[error("the helper of the cut was lost")]
    HelperLost,
}

impl From<CutError> for crate::Error {
    fn from(e: CutError) -> Self {
        match e {
            CutError::Plan(e) => e.into(),
            CutError::Copy { path, source } => {
                Self::io(format!("cannot copy a file that is being written: {path}"), source)
            }
            CutError::Busy | CutError::HelperLost => Self::new(crate::ErrorKind::Busy, e.to_string()),
        }
    }
}

/// What cuts have cost since the start.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct CutStats {
    /// Cuts made.
    pub cuts: u64,
    /// Attempts given up at the deadline.
    pub retries: u64,
    /// How long writers stood still in the last cut, microseconds.
    pub last_pause_us: u64,
    /// The longest such time, microseconds.
    pub max_pause_us: u64,
    /// Files held in the last cut.
    pub last_held: u64,
    /// Files that were mapped and moved while they were copied, since the start.
    pub fuzzy: u64,
}

struct Copied {
    file: File,
    /// The lstat before the copy was made.
    ident: Identity,
}

/// One instant of the tree, ready to be packed. Dropping it ends the shelter.
pub struct Cut {
    /// What the next layer has to say.
    pub plan: Arc<Plan>,
    /// When.
    pub instant: Timestamp,
    /// Every mark that led here, to be put back if the flush fails.
    pub marks: Marks,
    copies: HashMap<u64, Arc<File>>,
    live: Arc<dyn Live>,
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cut").field("changes", &self.plan.len()).finish_non_exhaustive()
    }
}

impl ContentSource for Cut {
    fn open(&self, path: &RelPath, captured: &Captured) -> io::Result<Box<dyn Content>> {
        match self.copies.get(&captured.ident.ino) {
            Some(copy) => Ok(Box::new(copy.clone())),
            None => self.live.content(path, captured.ident.ino),
        }
    }

    fn done(&self, _path: &RelPath, captured: &Captured) {
        self.live.unshelter(captured.ident.ino);
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.live.abandon();
    }
}

/// What a look at files that may be written unseen found.
#[derive(Debug, Default)]
pub struct Observed {
    /// How many such files there are.
    pub open: usize,
    /// Those that differ from their record, as they are now.
    pub changed: Vec<(Writer, Identity)>,
}

/// Makes cuts of one tree, one at a time.
pub struct Cutter {
    live: Arc<dyn Live>,
    staging: Staging,
    options: CutOptions,
    /// Absent where writes pass the gate anyway.
    barrier: Mutex<Option<Barrier>>,
    stats: Mutex<CutStats>,
}

impl std::fmt::Debug for Cutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cutter").field("options", &self.options).finish_non_exhaustive()
    }
}

/// An attempt that did not stand.
enum Attempt {
    /// Not everything could be held, or copied, in time.
    GiveUp,
    Failed(CutError),
}

impl From<PlanError> for Attempt {
    fn from(e: PlanError) -> Self {
        Self::Failed(e.into())
    }
}

impl From<CutError> for Attempt {
    fn from(e: CutError) -> Self {
        Self::Failed(e)
    }
}

/// What an attempt builds on and leaves behind for the next.
struct Progress {
    plan: Plan,
    marks: Marks,
    /// Marks that came after the plan was made and that it has not been looked at for: an attempt
    /// may be given up in between.
    late: Marks,
    copies: HashMap<u64, Copied>,
    look: LookOptions,
}

impl Cutter {
    /// Cuts `live`, copying into `staging`.
    pub fn new(live: Arc<dyn Live>, staging: Staging, options: CutOptions, barrier: Option<Barrier>) -> Self {
        Self { live, staging, options, barrier: Mutex::new(barrier), stats: Mutex::default() }
    }

    /// What cuts have cost.
    pub fn stats(&self) -> CutStats {
        *self.stats.lock()
    }

    /// Replaces a helper that has died.
    pub fn set_barrier(&self, barrier: Option<Barrier>) {
        *self.barrier.lock() = barrier;
    }

    /// Whether the helper has been lost.
    pub fn has_barrier(&self) -> bool {
        self.barrier.lock().is_some()
    }

    /// Makes a cut. Blocks for as long as copying takes; writers stand still for the last part only.
    pub fn cut(&self, records: &Records) -> Result<Cut, CutError> {
        self.cut_by(records, self.options.look.clone())
    }

    /// Makes a cut whose plan has every path, changed or not.
    pub fn cut_whole(&self, records: &Records) -> Result<Cut, CutError> {
        self.cut_by(records, LookOptions { whole: true, ..self.options.look.clone() })
    }

    fn cut_by(&self, records: &Records, look_options: LookOptions) -> Result<Cut, CutError> {
        let writers = self.writers(records); // first: files nobody writes any more become marks
        let marks = self.live.dirty().take();
        let mut look = with_writers(marks.clone(), &writers);
        if look_options.whole {
            look.insert(RelPath::root(), Extent::Subtree);
        }
        let plan = match Plan::capture(self.live.root(), records, &look, &look_options) {
            Ok(plan) => plan,
            Err(e) => {
                self.live.dirty().restore(marks);
                return Err(e.into());
            }
        };
        let mut progress =
            Progress { plan, marks, late: Marks::new(), copies: HashMap::new(), look: look_options };
        for attempt in 1..=ATTEMPTS_MAX {
            let last = attempt == ATTEMPTS_MAX;
            match self.attempt(records, &mut progress, last) {
                Ok(instant) => return Ok(self.stand(progress, instant)),
                Err(Attempt::GiveUp) => self.stats.lock().retries += 1,
                Err(Attempt::Failed(e)) => {
                    self.live.dirty().restore(progress.marks);
                    return Err(e);
                }
            }
        }
        self.live.dirty().restore(progress.marks);
        Err(CutError::Busy)
    }

    fn stand(&self, progress: Progress, instant: Timestamp) -> Cut {
        self.stats.lock().cuts += 1;
        let copies = progress.copies.into_iter().map(|(ino, copied)| (ino, Arc::new(copied.file))).collect();
        Cut { plan: Arc::new(progress.plan), instant, marks: progress.marks, copies, live: self.live.clone() }
    }

    fn attempt(&self, records: &Records, progress: &mut Progress, last: bool) -> Result<Timestamp, Attempt> {
        let writers = self.writers(records);
        let mapped = if writers.is_empty() { HashSet::new() } else { mapped_inodes(self.options.mount_dev) };
        self.copy_ahead(records, progress, &writers)?;
        let mut barrier = self.barrier.lock();
        let mut prepared = HashSet::new();
        // Nobody stands still yet, and with many files on a busy machine this takes its time.
        let patient = Instant::now() + HELPER_MAX;
        if self.options.hold {
            self.prepare(&mut barrier, &writers, &mut prepared, patient)?;
        } else {
            self.push_mapped(&mut barrier, &writers, &mapped, patient)?;
        }

        let allowed = self.options.deadline * if last { LAST_ATTEMPT_FACTOR } else { 1 };
        let deadline = Instant::now() + allowed;
        if !self.live.close(deadline) {
            self.finish(&mut barrier);
            return Err(Attempt::GiveUp);
        }
        let began = Instant::now();
        let result = self.closed(records, progress, &mut barrier, &mut prepared, &mapped, deadline, last);
        self.live.release_all();
        self.live.open();
        let pause = began.elapsed();
        self.finish(&mut barrier);
        if result.is_ok() && !progress.copies.is_empty() {
            self.note_mapped_since(progress, &mapped);
        }
        let mut stats = self.stats.lock();
        if result.is_ok() {
            stats.last_pause_us = pause.as_micros() as u64;
            stats.max_pause_us = stats.max_pause_us.max(stats.last_pause_us);
            stats.last_held = prepared.len() as u64;
        }
        result
    }

    /// Copies what is being written, without stopping anybody, until little moves.
    ///
    /// A write moves the change time before the bytes, so a copy can be older than the time beside it
    /// if it is made in the middle of one. It is not: each copy asks for the first data after a stat,
    /// or clones, and both wait in the file system for the write under way (checked on ext4, XFS,
    /// btrfs and tmpfs by their sources).
    fn copy_ahead(
        &self,
        records: &Records,
        progress: &mut Progress,
        writers: &[Writer],
    ) -> Result<(), Attempt> {
        if writers.is_empty() {
            return Ok(());
        }
        for _ in 0..ROUNDS_MAX {
            let look = with_writers(Marks::new(), writers);
            progress.plan.refresh(self.live.root(), records, &look, &progress.look)?;
            let mut moved = 0;
            for writer in writers {
                // A file that vanishes meanwhile is no error here: the closed gate decides.
                moved += self.copy(progress, writer, false).unwrap_or(0);
            }
            if moved < SETTLED_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// The part with the gate closed: from the hold to the last copy.
    #[allow(clippy::too_many_arguments)] // one caller; a struct would only repeat the names
    fn closed(
        &self,
        records: &Records,
        progress: &mut Progress,
        barrier: &mut Option<Barrier>,
        prepared: &mut HashSet<u64>,
        mapped: &HashSet<u64>,
        deadline: Instant,
        last: bool,
    ) -> Result<Timestamp, Attempt> {
        let writers = self.writers(records);
        for (path, extent) in self.live.dirty().take() {
            for marks in [&mut progress.marks, &mut progress.late] {
                let slot = marks.entry(path.clone()).or_insert(extent);
                *slot = (*slot).max(extent);
            }
        }
        if self.options.hold {
            self.prepare(barrier, &writers, prepared, deadline)?;
        }
        let mut unheld = HashSet::new();
        if let Some(helper) = barrier.as_mut().filter(|_| self.options.hold) {
            let nodes: Vec<u64> = writers.iter().map(|w| w.node).filter(|n| prepared.contains(n)).collect();
            unheld.extend(writers.iter().map(|w| w.node).filter(|n| !prepared.contains(n)));
            self.live.hold(&nodes);
            if helper.sync().is_err() {
                *barrier = None; // it died
                return Err(CutError::HelperLost.into());
            }
            let free = self.live.wait_held(deadline);
            if !free.is_empty() && !last {
                return Err(Attempt::GiveUp);
            }
            unheld.extend(free);
        }
        // From here to the release of the first file nothing moves: this is the instant.
        let instant = Timestamp::now();
        let look = with_writers(progress.late.clone(), &writers);
        progress.plan.refresh(self.live.root(), records, &look, &progress.look)?;
        progress.late.clear();
        // What was copied ahead and is no writer's any more may have been written after its copy, and
        // its inode number may be another file's by now. It stands still, so it is sheltered.
        let written: HashSet<u64> = writers.iter().map(|w| w.ino).collect();
        progress.copies.retain(|ino, _| written.contains(ino));
        for writer in &writers {
            if mapped.contains(&writer.ino) {
                self.copy_mapped(progress, writer)?;
            } else {
                self.copy(progress, writer, true).map_err(|source| copy_error(writer, source))?;
                if unheld.contains(&writer.node) {
                    progress.plan.set_fuzzy(&writer.path);
                }
            }
            self.live.release(writer.node);
            if Instant::now() > deadline && !last {
                return Err(Attempt::GiveUp);
            }
        }
        let copies = &progress.copies;
        let rest =
            progress.plan.puts().filter(|(_, c)| c.has_content() && !copies.contains_key(&c.ident.ino));
        self.live.shelter(rest.map(|(path, c)| (path.clone(), c.ident.ino)).collect());
        Ok(instant)
    }

    fn prepare(
        &self,
        barrier: &mut Option<Barrier>,
        writers: &[Writer],
        prepared: &mut HashSet<u64>,
        deadline: Instant,
    ) -> Result<(), CutError> {
        let Some(helper) = barrier.as_mut() else { return Ok(()) };
        let new: Vec<&Writer> = writers.iter().filter(|w| !prepared.contains(&w.node)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let room = barrier::FILES_MAX.saturating_sub(prepared.len());
        let new = &new[..new.len().min(room)];
        match helper.prepare(new.iter().map(|w| &w.path), deadline) {
            Ok(()) => {
                prepared.extend(new.iter().map(|w| w.node));
                Ok(())
            }
            // Without it nothing would be held: that is no cut.
            Err(e) => {
                tracing::warn!(error = %e, "barrier helper lost; a new one is started");
                *barrier = None;
                Err(CutError::HelperLost)
            }
        }
    }

    /// Where data passes us, stores through a mapping do so only when the kernel writes them back:
    /// the helper's fsync makes it do that now, while the gate is open.
    fn push_mapped(
        &self,
        barrier: &mut Option<Barrier>,
        writers: &[Writer],
        mapped: &HashSet<u64>,
        deadline: Instant,
    ) -> Result<(), CutError> {
        let Some(helper) = barrier.as_mut() else { return Ok(()) };
        let mut paths = writers.iter().filter(|w| mapped.contains(&w.ino)).map(|w| &w.path).peekable();
        if paths.peek().is_none() {
            return Ok(());
        }
        let pushed = helper.prepare(paths, deadline).and_then(|()| helper.sync());
        pushed.and_then(|()| helper.finish()).and_then(|()| helper.settle(deadline)).map_err(|e| {
            tracing::warn!(error = %e, "barrier helper lost; a new one is started");
            *barrier = None;
            CutError::HelperLost
        })
    }

    /// The files that may be written unseen. Where none of the names is left that the mount knows,
    /// the records may know another one.
    fn writers(&self, records: &Records) -> Vec<Writer> {
        self.live.writers(&|ino| {
            let names = records.links(ino).unwrap_or_default();
            names.into_iter().find(|path| {
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::statat(self.live.root(), path.to_cstring(), flags).is_ok_and(|s| s.st_ino == ino)
            })
        })
    }

    fn finish(&self, barrier: &mut Option<Barrier>) {
        if let Some(helper) = barrier.as_mut()
            && let Err(e) = helper.finish()
        {
            tracing::warn!(error = %e, "barrier helper lost; a new one is started");
            *barrier = None;
        }
    }

    /// Brings the copy of a file up to date if the plan needs its content. Returns how many bytes
    /// differed. `sure`: the file is held, so what the plan saw is what is copied.
    fn copy(&self, progress: &mut Progress, writer: &Writer, sure: bool) -> io::Result<u64> {
        let Some(Change::Put(captured)) = progress.plan.get(&writer.path) else { return Ok(0) };
        if !captured.ident.file_type().is_file() {
            return Ok(0);
        }
        let ident = captured.ident;
        let prove = self.options.look.tick.is_zero() || !sure;
        if let Some(copied) = progress.copies.get(&writer.ino)
            && prove
            && ident.unchanged_since(&copied.ident)
        {
            return Ok(0);
        }
        let source = self.open(&writer.path, writer.ino)?;
        let moved = match progress.copies.get_mut(&writer.ino) {
            Some(copied) => {
                let moved = self.staging.refresh(&mut copied.file, &source)?;
                copied.ident = ident;
                moved
            }
            None => {
                let file = self.staging.copy(&source)?;
                progress.copies.insert(writer.ino, Copied { file, ident });
                ident.size
            }
        };
        Ok(moved)
    }

    /// Copies a file that is mapped for writing: what has been stored is written back first, so
    /// that a store during the copy moves the change time.
    fn copy_mapped(&self, progress: &mut Progress, writer: &Writer) -> Result<(), Attempt> {
        let source = match self.open(&writer.path, writer.ino) {
            Ok(source) => source,
            Err(e) => return Err(copy_error(writer, e).into()),
        };
        for _ in 0..MAPPED_COPIES_MAX {
            // In this order: a store before the writing back is in the copy, one after it moves the
            // change time beyond the one seen here. The other way round a first store could move the
            // time before it is seen, and a second one to the same page would move nothing.
            let before = rustix::fs::fstat(&source).map_err(|e| copy_error(writer, e.into()))?;
            let before = Identity::from(&before);
            write_back(&source);
            let moved = match progress.copies.get_mut(&writer.ino) {
                Some(copied) => {
                    self.staging.refresh(&mut copied.file, &source).map(|_| copied.ident = before)
                }
                None => self.staging.copy(&source).map(|file| {
                    progress.copies.insert(writer.ino, Copied { file, ident: before });
                }),
            };
            moved.map_err(|e| copy_error(writer, e))?;
            let after = rustix::fs::fstat(&source).map_err(|e| copy_error(writer, e.into()))?;
            if Identity::from(&after).unchanged_since(&before) {
                return Ok(());
            }
        }
        progress.plan.set_fuzzy(&writer.path);
        self.stats.lock().fuzzy += 1;
        Ok(())
    }

    /// Files that have been mapped only since this attempt began were copied as if they were not: a
    /// store to a page that was dirty already would leave no trace.
    fn note_mapped_since(&self, progress: &mut Progress, before: &HashSet<u64>) {
        let now = mapped_inodes(self.options.mount_dev);
        let is_new =
            |c: &Captured| c.has_content() && now.contains(&c.ident.ino) && !before.contains(&c.ident.ino);
        let paths: Vec<RelPath> =
            progress.plan.puts().filter(|(_, c)| is_new(c)).map(|(path, _)| path.clone()).collect();
        for path in &paths {
            progress.plan.set_fuzzy(path);
        }
        self.stats.lock().fuzzy += paths.len() as u64;
    }

    fn open(&self, path: &RelPath, ino: u64) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.live.root(), path.to_cstring(), flags, Mode::empty())?;
        if rustix::fs::fstat(&file)?.st_ino != ino {
            return Err(io::Error::other("another file stands there now"));
        }
        Ok(file.into())
    }

    /// Looks at the files that may be written unseen: returns those that differ from their record.
    /// `deep` also brings stores through mappings to light, which costs a write-back.
    pub fn observe(&self, records: &Records, deep: bool) -> Observed {
        let writers = self.writers(records);
        if writers.is_empty() {
            return Observed::default();
        }
        let open = writers.len();
        let mapped = if deep { mapped_inodes(self.options.mount_dev) } else { HashSet::new() };
        let changed = |writer: Writer| {
            let path = writer.path.to_cstring();
            if mapped.contains(&writer.ino)
                && let Ok(file) = self.open(&writer.path, writer.ino)
            {
                write_back(&file);
            }
            let stat = rustix::fs::statat(self.live.root(), &path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
            let ident = Identity::from(&stat.ok()?);
            let record = records.get(&writer.path).ok()?;
            let clean = record.is_some_and(|record| ident.unchanged_since(&record));
            (!clean).then_some((writer, ident))
        };
        Observed { open, changed: writers.into_iter().filter_map(changed).collect() }
    }
}

fn copy_error(writer: &Writer, source: io::Error) -> CutError {
    CutError::Copy { path: writer.path.clone(), source }
}

/// Writes back dirty pages and makes every mapping read-only once, so that the next store is seen.
fn write_back(file: &File) {
    let all =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: takes integers only; the descriptor is borrowed for the call. A failure means that
    // the file system cannot, and then the file is found changed at the next look.
    let _done = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, all) };
}

fn with_writers(mut marks: Marks, writers: &[Writer]) -> Marks {
    for writer in writers {
        marks.entry(writer.path.clone()).or_insert(Extent::Entry);
    }
    marks
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::panic)] // a test may panic
mod tests;
