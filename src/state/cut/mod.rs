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
mod copies;
mod distrust;
mod error;
mod helper;
mod observe;

pub use error::CutError;
pub use observe::Observed;

use super::backing::reach;
use super::barrier::Barrier;
use super::dirty::{Extent, Marks};
use super::live::{Live, Writer};
use super::mapped::mapped_writers;
use super::plan::{Captured, LookOptions, Plan, PlanError};
use super::record::Records;
use super::source::{ContentSource, is_of_one_file};
use super::staging::Staging;
use crate::clock::Timestamp;
use crate::layer::content::Content;
use crate::metrics::Latency;
use crate::path::RelPath;
use crate::sync::Mutex;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use copies::Copies;
use distrust::Distrust;
use helper::Helper;

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
    /// How long writers stood still in all cuts.
    #[serde(skip)]
    pub pauses: Latency,
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
    /// What could not be copied, by inode, and why.
    uncopied: HashMap<u64, io::Error>,
    distrust: Arc<Distrust>,
    live: Arc<dyn Live>,
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cut").field("changes", &self.plan.len()).finish_non_exhaustive()
    }
}

impl ContentSource for Cut {
    fn open(&self, path: &RelPath, captured: &Captured) -> io::Result<Box<dyn Content>> {
        let ino = captured.ident.ino;
        if let Some(e) = self.uncopied.get(&ino) {
            return Err(e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error));
        }
        match self.copies.get(&ino) {
            Some(copy) => Ok(Box::new(copy.clone())),
            None => self.distrust.check(path, self.live.content(path, ino)?),
        }
    }

    fn done(&self, _path: &RelPath, captured: &Captured) {
        self.live.unshelter(captured.ident.ino);
    }

    fn all_read(&self) {
        self.live.all_read(&self.plan);
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.live.abandon();
    }
}

/// Makes cuts of one tree, one at a time.
pub struct Cutter {
    live: Arc<dyn Live>,
    staging: Staging,
    options: CutOptions,
    /// Absent where writes pass the gate anyway.
    barrier: Mutex<Option<Barrier>>,
    stats: Mutex<CutStats>,
    told: observe::Told,
    distrust: Arc<Distrust>,
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
struct Progress<'a> {
    plan: Plan,
    marks: Marks,
    /// Marks that came after the plan was made and that it has not been looked at for: an attempt
    /// may be given up in between.
    late: Marks,
    copies: Copies<'a>,
    /// What the last attempt could not copy, by inode.
    uncopied: HashMap<u64, io::Error>,
    look: LookOptions,
}

impl Progress<'_> {
    /// A copy that failed for a reason of that file alone costs only that file.
    fn copied<T>(&mut self, writer: &Writer, copied: io::Result<T>) -> Result<Option<T>, CutError> {
        match copied {
            Ok(done) => {
                self.uncopied.remove(&writer.ino);
                Ok(Some(done))
            }
            Err(e) if is_of_one_file(&e) => {
                self.copies.forget(writer.ino);
                self.uncopied.insert(writer.ino, e);
                Ok(None)
            }
            Err(e) => Err(CutError::copy(writer, e)),
        }
    }
}

impl Cutter {
    /// Cuts `live`, copying into `staging`.
    pub fn new(live: Arc<dyn Live>, staging: Staging, options: CutOptions, barrier: Option<Barrier>) -> Self {
        Self {
            live,
            staging,
            options,
            barrier: Mutex::new(barrier),
            stats: Mutex::default(),
            told: observe::Told::default(),
            distrust: Arc::default(),
        }
    }

    /// The next cuts give the content of this file, or with `everybody` of any, only if all of it can be read.
    pub fn distrust(&self, path: RelPath, everybody: bool) {
        self.distrust.add(path, everybody);
    }

    /// Of all files only those are still distrusted that could not be read.
    pub fn relax(&self) {
        self.distrust.relax();
    }

    /// What cuts have cost.
    pub fn stats(&self) -> CutStats {
        *self.stats.lock()
    }

    /// Replaces a helper that has died, or ends it.
    pub fn set_barrier(&self, barrier: Option<Barrier>) {
        if barrier.is_none() {
            self.live.without_helper();
        }
        *self.barrier.lock() = barrier;
    }

    /// Whether the helper has been lost.
    pub fn has_barrier(&self) -> bool {
        self.barrier.lock().is_some()
    }

    /// Makes a cut. Blocks for as long as copying takes; writers stand still for the last part only. If
    /// anything changed, the files `along` go in as well.
    pub fn cut(&self, records: &Records, along: &[RelPath]) -> Result<Cut, CutError> {
        self.cut_by(records, self.options.look.clone(), along)
    }

    /// Makes a cut whose plan has every path, changed or not.
    pub fn cut_whole(&self, records: &Records) -> Result<Cut, CutError> {
        self.cut_by(records, LookOptions { whole: true, ..self.options.look.clone() }, &[])
    }

    fn cut_by(
        &self,
        records: &Records,
        look_options: LookOptions,
        along: &[RelPath],
    ) -> Result<Cut, CutError> {
        let writers = self.writers_ahead(records, 1); // first: files nobody writes any more become marks
        let marks = self.live.dirty().take();
        let mut look = with_writers(marks.clone(), &writers);
        if look_options.whole {
            look.insert(RelPath::root(), Extent::Subtree);
        }
        let root = self.live.root();
        let planned = Plan::capture(root, records, &look, &look_options).and_then(|mut plan| {
            if !plan.is_empty() && !along.is_empty() {
                plan.carry(root, records, along, &look_options)?;
            }
            Ok(plan)
        });
        let plan = match planned {
            Ok(plan) => plan,
            Err(e) => {
                self.live.dirty().restore(marks);
                return Err(e.into());
            }
        };
        let copies = Copies::new(self.live.root(), &self.staging, look_options.tick.is_zero());
        let late = Marks::new();
        let mut progress =
            Progress { plan, marks, late, copies, uncopied: HashMap::new(), look: look_options };
        for attempt in 1..=ATTEMPTS_MAX {
            match self.attempt(records, &mut progress, attempt) {
                Ok(instant) => return Ok(self.stand(progress, instant)),
                Err(Attempt::GiveUp) => self.stats.lock().retries += 1,
                Err(Attempt::Failed(e)) => {
                    if matches!(e, CutError::HelperLost) {
                        self.live.without_helper();
                    }
                    self.live.dirty().restore(progress.marks);
                    return Err(e);
                }
            }
        }
        self.live.dirty().restore(progress.marks);
        Err(CutError::Busy)
    }

    fn stand(&self, progress: Progress<'_>, instant: Timestamp) -> Cut {
        self.stats.lock().cuts += 1;
        Cut {
            plan: Arc::new(progress.plan),
            instant,
            marks: progress.marks,
            copies: progress.copies.into_files(),
            uncopied: progress.uncopied,
            distrust: self.distrust.clone(),
            live: self.live.clone(),
        }
    }

    fn attempt(
        &self,
        records: &Records,
        progress: &mut Progress<'_>,
        number: u32,
    ) -> Result<Timestamp, Attempt> {
        let writers = self.writers_ahead(records, number);
        let mapped = match &writers[..] {
            [] => HashSet::new(),
            some => mapped_writers(self.options.mount_dev, some),
        };
        self.copy_ahead(records, progress, &writers)?;
        let mut helper = Helper::new(self.barrier.lock());
        // Nobody stands still yet, and with many files on a busy machine this takes its time.
        let patient = Instant::now() + HELPER_MAX;
        let hold = self.options.hold;
        let passing = writers.iter().filter(|w| (!hold || w.passing) && mapped.contains(&w.ino));
        helper.push(passing.map(|w| &w.path), patient)?;
        if hold {
            helper.prepare(&writers, patient)?;
            self.live.expect_held(helper.len());
        }

        let last = number == ATTEMPTS_MAX;
        let allowed = self.options.deadline * if last { LAST_ATTEMPT_FACTOR } else { 1 };
        let deadline = Instant::now() + allowed;
        if !self.live.close(deadline) {
            helper.finish();
            return Err(Attempt::GiveUp);
        }
        let began = Instant::now();
        let result = self.closed(records, progress, &mut helper, &mapped, deadline, number);
        self.live.release_all();
        self.live.open();
        let pause = began.elapsed();
        helper.finish();
        if result.is_ok() {
            let doubtful = progress.copies.note_mapped_since(
                &mut progress.plan,
                &mapped,
                self.options.mount_dev,
                &writers,
            );
            let mut stats = self.stats.lock();
            stats.fuzzy += doubtful as u64;
            stats.last_pause_us = pause.as_micros() as u64;
            stats.max_pause_us = stats.max_pause_us.max(stats.last_pause_us);
            stats.last_held = helper.len() as u64;
            stats.pauses.add(pause);
        }
        result
    }

    /// Copies what is being written, without stopping anybody, until little moves.
    ///
    /// A write moves the change time before the bytes, so a copy made in the middle of one could be
    /// older than the time beside it. Each copy begins with a SEEK_DATA or a clone, which wait for a
    /// write(2) under way because they take the inode's lock (ext4, tmpfs).
    fn copy_ahead(
        &self,
        records: &Records,
        progress: &mut Progress<'_>,
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
                moved += progress.copies.update(&progress.plan, writer, false).unwrap_or(0);
            }
            if moved < SETTLED_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// The part with the gate closed: from the hold to the last copy.
    fn closed(
        &self,
        records: &Records,
        progress: &mut Progress<'_>,
        helper: &mut Helper<'_>,
        mapped: &HashSet<u64>,
        deadline: Instant,
        number: u32,
    ) -> Result<Timestamp, Attempt> {
        let (writers, last) = (self.writers(records), number == ATTEMPTS_MAX);
        if !writers.is_empty() && self.looks_late(number) {
            return Err(Attempt::GiveUp);
        }
        for (path, extent) in self.live.dirty().take() {
            for marks in [&mut progress.marks, &mut progress.late] {
                let slot = marks.entry(path.clone()).or_insert(extent);
                *slot = (*slot).max(extent);
            }
        }
        if self.options.hold {
            helper.prepare(&writers, deadline)?;
        }
        let mut unheld = HashSet::new();
        if self.options.hold && helper.is_there() {
            let (ready, missing): (Vec<u64>, Vec<u64>) =
                writers.iter().map(|w| w.node).partition(|node| helper.has(*node));
            unheld.extend(missing);
            self.live.hold(&ready);
            helper.sync()?;
            let free = self.live.wait_held(deadline);
            if !free.is_empty() && !last {
                return Err(Attempt::GiveUp);
            }
            unheld.extend(free);
        }
        // What is not on the disk is as the last version has it; where a directory took it, it must be such
        // that the next one can refer to it.
        if records.absent().is_some_and(|absent| !absent.moved_unmade().is_empty()) {
            return Err(CutError::Moved.into());
        }
        // From here to the release of the first file nothing moves: this is the instant.
        let instant = Timestamp::now();
        let look = with_writers(progress.late.clone(), &writers);
        progress.plan.refresh(self.live.root(), records, &look, &progress.look)?;
        progress.late.clear();
        // What was copied ahead and is no writer's any more may have been written after its copy, and
        // its inode number may be another file's by now. It stands still, so it is sheltered.
        let written: HashSet<u64> = writers.iter().map(|w| w.ino).collect();
        progress.copies.keep_only(&written);
        for writer in &writers {
            if mapped.contains(&writer.ino) {
                let still = progress.copies.update_mapped(&progress.plan, writer);
                if progress.copied(writer, still)? == Some(false) {
                    progress.plan.set_fuzzy(&writer.path);
                    self.stats.lock().fuzzy += 1;
                }
            } else {
                let copied = progress.copies.update(&progress.plan, writer, true);
                progress.copied(writer, copied)?;
                if unheld.contains(&writer.node) {
                    progress.plan.set_fuzzy(&writer.path);
                }
            }
            self.live.release(writer.node);
            if Instant::now() > deadline && !last {
                return Err(Attempt::GiveUp);
            }
        }
        progress.uncopied.retain(|ino, _| written.contains(ino));
        let (copies, uncopied) = (&progress.copies, &progress.uncopied);
        let is_elsewhere = |ino| copies.has(ino) || uncopied.contains_key(&ino);
        let rest = progress.plan.puts().filter(|(_, c)| c.has_content() && !is_elsewhere(c.ident.ino));
        self.live.shelter(rest.map(|(path, c)| (path.clone(), c.ident.ino)).collect());
        Ok(instant)
    }

    /// Whether the attempt of this number takes it that nobody writes unseen, until nothing moves.
    fn looks_late(&self, number: u32) -> bool {
        number == 1 && self.live.writers_are_rare()
    }

    /// The files that may be written unseen, as far as an attempt wants to know before nothing moves.
    fn writers_ahead(&self, records: &Records, number: u32) -> Vec<Writer> {
        if self.looks_late(number) { Vec::new() } else { self.writers(records) }
    }

    /// The files that may be written unseen. Where none of the names is left that the mount knows,
    /// the records may know another one.
    fn writers(&self, records: &Records) -> Vec<Writer> {
        self.live.writers(&|ino| {
            self.told.names(records, ino, |path| {
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                reach(self.live.root(), path, |at, name| rustix::fs::statat(at, name, flags))
                    .is_ok_and(|s| s.st_ino == ino)
            })
        })
    }
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
