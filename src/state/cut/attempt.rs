//! One attempt at a cut: it stands, or too much moved.
use super::copies::Copies;
use super::helper::Helper;
use super::{CutError, Cutter};
use crate::clock::Timestamp;
use crate::state::backing::reach;
use crate::state::dirty::{Extent, Marks};
use crate::state::identity::{FileId, Identity};
use crate::state::live::Writer;
use crate::state::mapped::mapped_writers;
use crate::state::plan::{LookOptions, Plan, PlanError};
use crate::state::record::Records;
use crate::state::source::is_of_one_file;
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

/// How often a cut is tried before it takes as long as it takes.
pub(super) const ATTEMPTS_MAX: u32 = 5;
/// How much longer than the deadline the last attempt may stop writers.
const LAST_ATTEMPT_FACTOR: u32 = 20;
/// Copying without a hold ends when a round finds less than this changed...
const SETTLED_BYTES: u64 = 4 << 20;
/// ...or after so many rounds.
const ROUNDS_MAX: u32 = 3;
/// How long the helper may take before anybody stands still.
const HELPER_MAX: Duration = Duration::from_secs(30);

/// An attempt that did not stand.
pub(super) enum Attempt {
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
pub(super) struct Progress<'a> {
    pub(super) plan: Plan,
    pub(super) marks: Marks,
    /// Marks that came after the plan was made and that it has not been looked at for: an attempt
    /// may be given up in between.
    pub(super) late: Marks,
    pub(super) copies: Copies<'a>,
    /// What the last attempt could not copy.
    pub(super) uncopied: HashMap<FileId, io::Error>,
    pub(super) look: LookOptions,
}

impl Progress<'_> {
    /// A copy that failed for a reason of that file alone costs only that file.
    fn copied<T>(&mut self, writer: &Writer, copied: io::Result<T>) -> Result<Option<T>, CutError> {
        match copied {
            Ok(done) => {
                self.uncopied.remove(&writer.id);
                Ok(Some(done))
            }
            Err(e) if is_of_one_file(&e) => {
                self.copies.forget(writer.id);
                self.uncopied.insert(writer.id, e);
                Ok(None)
            }
            Err(e) => Err(CutError::copy(writer, e)),
        }
    }
}

impl Cutter {
    /// The inode numbers of those writers that somebody has mapped.
    pub(super) fn mapped(&self, writers: &[Writer]) -> HashSet<u64> {
        match writers {
            [] => HashSet::new(),
            all if self.live.writers_are_mapped() => all.iter().map(|writer| writer.id.1).collect(),
            some => mapped_writers(self.options.mount_dev, some),
        }
    }

    pub(super) fn attempt(
        &self,
        records: &Records,
        progress: &mut Progress<'_>,
        number: u32,
    ) -> Result<Timestamp, Attempt> {
        let writers = self.writers_ahead(records, number);
        let mapped = self.mapped(&writers);
        self.copy_ahead(records, progress, &writers)?;
        let mut helper = Helper::new(self.barrier.lock());
        // Nobody stands still yet, and with many files on a busy machine this takes its time.
        let patient = Instant::now() + HELPER_MAX;
        let hold = self.options.hold;
        let passing = writers.iter().filter(|w| (!hold || w.passing) && mapped.contains(&w.id.1));
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
            let doubtful =
                progress.copies.note_mapped_since(&mut progress.plan, &mapped, || self.mapped(&writers));
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
        let written: HashSet<FileId> = writers.iter().map(|w| w.id).collect();
        progress.copies.keep_only(&written);
        for writer in &writers {
            if mapped.contains(&writer.id.1) {
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
        progress.uncopied.retain(|id, _| written.contains(id));
        let (copies, uncopied) = (&progress.copies, &progress.uncopied);
        let is_elsewhere = |id| copies.has(id) || uncopied.contains_key(&id);
        let rest = progress.plan.puts().filter(|(_, c)| c.has_content() && !is_elsewhere(c.ident.id()));
        self.live.shelter(rest.map(|(_, c)| c.ident.id()).collect());
        Ok(instant)
    }

    /// Whether the attempt of this number takes it that nobody writes unseen, until nothing moves.
    fn looks_late(&self, number: u32) -> bool {
        number == 1 && self.live.writers_are_rare()
    }

    /// The files that may be written unseen, as far as an attempt wants to know before nothing moves.
    pub(super) fn writers_ahead(&self, records: &Records, number: u32) -> Vec<Writer> {
        if self.looks_late(number) { Vec::new() } else { self.writers(records) }
    }

    /// The files that may be written unseen. Where none of the names is left that the mount knows,
    /// the records may know another one.
    pub(super) fn writers(&self, records: &Records) -> Vec<Writer> {
        self.live.writers(&|file| {
            self.told.names(records, file, |path| {
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                reach(self.live.root(), path, |at, name| rustix::fs::statat(at, name, flags))
                    .is_ok_and(|s| Identity::from(&s).id() == file)
            })
        })
    }
}

pub(super) fn with_writers(mut marks: Marks, writers: &[Writer]) -> Marks {
    for writer in writers {
        marks.entry(writer.path.clone()).or_insert(Extent::Entry);
    }
    marks
}
