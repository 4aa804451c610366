//! [`Touched`]: directories whose change time moved though they are what they were.
//!
//! What a lazy restore brings comes to directories behind the back of programs. Their times are set back, but
//! nobody can set back the change time. The record of a directory follows it, else the next scan would take
//! all that was only read for changed here.
use super::{CLEAN, Records, encode, record_key};
use crate::journal::{Batch, JournalError};
use crate::path::RelPath;
use crate::state::identity::Identity;
use std::collections::BTreeMap;

/// Directories that differ from their records and are remembered. Of more than these the next scan may find
/// one changed that is not.
const TOUCHED_MAX: usize = 1 << 16;

/// Directories with unsaved changes: what they were before and after what came to them since. A flush that
/// looked at one meanwhile may record it as it was then. Owner of its lock: [`Records`].
#[derive(Debug, Default)]
pub(super) struct Touched(BTreeMap<RelPath, Span>);

/// Between the two only change times differ, and nobody but us moved them.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: Identity,
    last: Identity,
}

impl Span {
    fn holds(&self, ident: &Identity) -> bool {
        Identity { ctime: self.last.ctime, ..*ident }.unchanged_since(&self.last)
            && (self.first.ctime..=self.last.ctime).contains(&ident.ctime)
    }
}

impl Records {
    /// A directory is what it was `before`, but its change time has moved: if its record said so, it says so
    /// now as well. The caller sees to it that nobody else changed it between the two.
    pub fn touched(&self, dir: &RelPath, before: &Identity, after: &Identity) -> Result<(), JournalError> {
        let mut touched = self.touched.lock();
        if self.get(dir)?.is_some_and(|record| before.unchanged_since(&record)) {
            touched.0.remove(dir);
            return self.set(dir, after);
        }
        let span = Span { first: *before, last: *after };
        let full = touched.0.len() >= TOUCHED_MAX;
        match touched.0.get_mut(dir) {
            Some(known) if before.unchanged_since(&known.last) => known.last = *after,
            Some(known) => *known = span,
            None if full => {}
            None => drop(touched.0.insert(dir.clone(), span)),
        }
        Ok(())
    }

    /// After a commit: directories that were touched since the flush looked at them.
    pub(super) fn follow_touched(&self) -> Result<(), JournalError> {
        let mut touched = self.touched.lock();
        let mut followed = Vec::new();
        for (dir, span) in &touched.0 {
            if self.get(dir)?.is_some_and(|record| span.holds(&record)) {
                self.set(dir, &span.last)?;
                followed.push(dir.clone());
            }
        }
        for dir in followed {
            touched.0.remove(&dir);
        }
        Ok(())
    }

    fn set(&self, dir: &RelPath, ident: &Identity) -> Result<(), JournalError> {
        let mut batch = Batch::new();
        batch.put(CLEAN, &record_key(dir), encode(ident)?);
        self.journal.apply(batch)
    }
}
