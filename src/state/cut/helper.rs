//! [`Helper`]: the barrier helper as one attempt at a cut uses it.
use super::CutError;
use crate::path::RelPath;
use crate::state::barrier::{self, Barrier};
use crate::state::live::Writer;
use crate::sync::MutexGuard;
use std::collections::HashSet;
use std::io;
use std::time::Instant;

/// The helper, if there is one, and what it has ready. One that fails is dropped: nobody knows
/// what it still does, and another one has to be started.
pub(super) struct Helper<'a> {
    barrier: MutexGuard<'a, Option<Barrier>>,
    /// Nodes of the files that it has opened in this attempt.
    prepared: HashSet<u64>,
}

impl<'a> Helper<'a> {
    pub(super) fn new(barrier: MutexGuard<'a, Option<Barrier>>) -> Self {
        Self { barrier, prepared: HashSet::new() }
    }

    /// Whether there is one. Without, nothing can be held.
    pub(super) fn is_there(&self) -> bool {
        self.barrier.is_some()
    }

    /// How many files it has ready.
    pub(super) fn len(&self) -> usize {
        self.prepared.len()
    }

    /// Whether the file of this node can be held.
    pub(super) fn has(&self, node: u64) -> bool {
        self.prepared.contains(&node)
    }

    /// Readies those of `writers` that are not yet, as far as there is room.
    pub(super) fn prepare(&mut self, writers: &[Writer], deadline: Instant) -> Result<(), CutError> {
        let Some(helper) = self.barrier.as_mut() else { return Ok(()) };
        let new: Vec<&Writer> = writers.iter().filter(|w| !self.prepared.contains(&w.node)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let room = barrier::FILES_MAX.saturating_sub(self.prepared.len());
        let new = &new[..new.len().min(room)];
        // Without it nothing would be held: that is no cut.
        helper.prepare(new.iter().map(|w| &w.path), deadline).map_err(|e| self.lost(&e))?;
        self.prepared.extend(new.iter().map(|w| w.node));
        Ok(())
    }

    /// Calls fsync on all that is ready.
    pub(super) fn sync(&mut self) -> Result<(), CutError> {
        let Some(helper) = self.barrier.as_mut() else { return Ok(()) };
        helper.sync().map_err(|e| self.lost(&e))
    }

    /// Where data passes us, stores through a mapping do so only when the kernel writes them back:
    /// the helper's fsync of these files makes it do that now, while the gate is open.
    pub(super) fn push<'p>(
        &mut self,
        paths: impl Iterator<Item = &'p RelPath>,
        deadline: Instant,
    ) -> Result<(), CutError> {
        let Some(helper) = self.barrier.as_mut() else { return Ok(()) };
        let mut paths = paths.peekable();
        if paths.peek().is_none() {
            return Ok(());
        }
        let pushed = helper.prepare(paths, deadline).and_then(|()| helper.sync());
        let pushed = pushed.and_then(|()| helper.finish()).and_then(|()| helper.settle(deadline));
        pushed.map_err(|e| self.lost(&e))
    }

    /// Lets it close its files; nobody waits for that. A loss shows at the next cut.
    pub(super) fn finish(&mut self) {
        if let Some(helper) = self.barrier.as_mut()
            && let Err(e) = helper.finish()
        {
            let _later = self.lost(&e);
        }
    }

    fn lost(&mut self, error: &io::Error) -> CutError {
        tracing::warn!(%error, "barrier helper lost; a new one is started");
        *self.barrier = None;
        CutError::HelperLost
    }
}
