//! One flush: a cut and a commit, and what is done differently when either fails for a reason that says so.
use super::Flusher;
use crate::error::{Error, ErrorKind, Result};
use crate::path::RelPath;
use crate::state::absent::Gathering;
use crate::state::commit::{CommitError, Receipt};
use crate::state::cut::{Cut, CutError};
use crate::state::dirty::Extent;
use crate::state::source::is_of_one_file;
use std::sync::Arc;

/// Helpers that one flush may lose before it fails.
const HELPERS_MAX: u32 = 3;
/// So often one flush brings what was moved, when directories are moved all the time.
const MOVES_MAX: u32 = 8;
/// So often one flush begins anew without what it could not read: from the second time on nothing is sent
/// that was not read once before, so that only a disk that is just failing gets any further.
const UNREADABLE_MAX: u32 = 5;
/// After a flush of so many entries or bytes the memory it took is given back.
const LARGE_FLUSH: u64 = 1000;
const LARGE_FLUSH_BYTES: u64 = 16 << 20;

impl Flusher {
    /// One failure that says what to do differently is no reason to wait:
    /// - Layout single learns of another writer only after its archive is sent: then the same goes to the fork.
    /// - A file that cannot be read spoils the layer that is being sent: the next is made without it, and the
    ///   one after that without any such file.
    /// - A layer that refers to what was let go meanwhile is made anew.
    pub(super) fn attempt(&self, has_time: bool) -> Result<Receipt> {
        let (mut forked, mut let_go, mut unreadable) = (false, false, 0);
        let result = loop {
            match self.attempt_once(has_time) {
                Err(Failure::Forked(e)) if !forked => {
                    tracing::info!(error = %e, "saving to the fork");
                    forked = true;
                }
                Err(Failure::LetGo(e)) if !let_go => {
                    tracing::info!(error = %e, "saving without what was let go");
                    let_go = true;
                }
                Err(Failure::Unreadable(path, e)) if unreadable < UNREADABLE_MAX => {
                    tracing::warn!(error = %e, "saving without a file that cannot be read");
                    unreadable += 1;
                    self.cutter.distrust(path, unreadable > 1);
                }
                Ok(receipt) => break Ok(receipt),
                Err(
                    Failure::Forked(e) | Failure::LetGo(e) | Failure::Unreadable(_, e) | Failure::Other(e),
                ) => break Err(e),
            }
        };
        if unreadable > 1 {
            self.cutter.relax();
        }
        result
    }

    fn attempt_once(&self, has_time: bool) -> Result<Receipt, Failure> {
        if !self.committer.is_settled() {
            match self.within_limit(self.committer.settle()) {
                Some(settled) => settled.map_err(Error::from)?,
                None => return Err(out_of_time().into()),
            }
        }
        for path in self.status.lock().stuck.keys() {
            self.live.dirty().mark(path.clone(), Extent::Subtree);
        }
        let gathering = self.gathering.as_ref().filter(|_| has_time);
        let along = gathering.map_or_else(Vec::new, Gathering::files);
        let cut = Arc::new(self.cut(|| self.cutter.cut(&self.records, &along))?);
        let committed = self.within_limit(self.committer.commit(cut.plan.clone(), cut.clone(), cut.instant));
        let Some(committed) = committed else {
            self.live.dirty().restore(cut.marks.clone());
            return Err(out_of_time().into());
        };
        match committed {
            Ok(receipt) => {
                self.live.dirty().saved();
                self.note_stuck(&cut, &receipt);
                if let Some(gathering) = gathering.filter(|_| receipt.committed && cut.plan.carries()) {
                    tracing::info!(files = along.len(), "what is read first stands together now");
                    gathering.done();
                }
                drop(cut);
                if receipt.changed + receipt.removed >= LARGE_FLUSH || receipt.raw_bytes >= LARGE_FLUSH_BYTES
                {
                    crate::memory::give_back();
                }
                Ok(receipt)
            }
            Err(e) => {
                self.live.dirty().restore(cut.marks.clone());
                Err(match e {
                    CommitError::Diverged(ref fork) => {
                        self.status.lock().fork = Some(fork.clone());
                        Failure::Forked(e.into())
                    }
                    CommitError::LetGo => Failure::LetGo(e.into()),
                    CommitError::Source { ref path, ref source } if is_of_one_file(source) => {
                        Failure::Unreadable(path.clone(), e.into())
                    }
                    e => Failure::Other(e.into()),
                })
            }
        }
    }

    /// Cuts, with another helper if one is lost.
    pub(super) fn cut(&self, cut: impl Fn() -> Result<Cut, CutError>) -> Result<Cut> {
        let (mut helpers, mut moves) = (0, 0);
        loop {
            self.bring_moved()?;
            self.ensure_barrier()?;
            match cut() {
                Err(CutError::HelperLost) if helpers + 1 < HELPERS_MAX => helpers += 1,
                Err(CutError::Moved) if moves < MOVES_MAX => moves += 1,
                other => return Ok(other?),
            }
        }
    }

    /// What is not here in directories that were moved is in no version at its new place.
    fn bring_moved(&self) -> Result<()> {
        let Some(hydrator) = &self.hydrator else { return Ok(()) };
        match self.within_limit(hydrator.bring_moved()) {
            None => Err(out_of_time()),
            Some(brought) => brought.map_err(|e| {
                let message = "cannot bring what is to be saved at another place";
                Error::new(ErrorKind::Unavailable, message).with_source(e)
            }),
        }
    }

    fn ensure_barrier(&self) -> Result<()> {
        if self.cutter.has_barrier() {
            return Ok(());
        }
        match (self.start_barrier)() {
            Some(Ok(barrier)) => self.cutter.set_barrier(Some(barrier)),
            Some(Err(e)) => return Err(Error::io("cannot start the helper of the cut", e)),
            None => {}
        }
        Ok(())
    }

    /// What could not be read stays as the last version has it and is tried again.
    fn note_stuck(&self, cut: &Cut, receipt: &Receipt) {
        let unreadable = cut.plan.unreadable().iter().map(|(path, e)| (path.clone(), e.to_string()));
        let skipped = receipt.skipped.iter().map(|(path, why)| (path.clone(), why.clone()));
        self.status.lock().stuck = unreadable.chain(skipped).collect();
    }
}

/// Why one attempt failed.
enum Failure {
    /// The next one goes to a fork.
    Forked(Error),
    /// The next one refers to nothing that was let go.
    LetGo(Error),
    /// This file can be opened, but not read.
    Unreadable(RelPath, Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Other(e)
    }
}

fn out_of_time() -> Error {
    Error::new(ErrorKind::Unavailable, "the remote did not answer within the time limit")
}
