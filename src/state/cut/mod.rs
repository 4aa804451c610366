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
mod attempt;
mod copies;
mod distrust;
mod error;
mod helper;
mod observe;

pub use error::CutError;
pub use observe::Observed;

use super::barrier::Barrier;
use super::dirty::{Extent, Marks};
use super::identity::FileId;
use super::live::Live;
use super::plan::{Captured, LookOptions, Plan};
use super::record::Records;
use super::source::ContentSource;
use super::staging::Staging;
use crate::clock::Timestamp;
use crate::layer::content::Content;
use crate::metrics::Latency;
use crate::path::RelPath;
use crate::sync::Mutex;
use attempt::{ATTEMPTS_MAX, Attempt, Progress, with_writers};
use copies::Copies;
use distrust::Distrust;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

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
    copies: HashMap<FileId, Arc<File>>,
    /// What could not be copied, and why.
    uncopied: HashMap<FileId, io::Error>,
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
        let id = captured.ident.id();
        if let Some(e) = self.uncopied.get(&id) {
            return Err(e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error));
        }
        match self.copies.get(&id) {
            Some(copy) => Ok(Box::new(copy.clone())),
            None => self.distrust.check(path, self.live.content(path, id)?),
        }
    }

    fn done(&self, _path: &RelPath, captured: &Captured) {
        self.live.unshelter(captured.ident.id());
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
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::panic)] // a test may panic
mod tests;
