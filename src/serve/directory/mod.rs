//! A directory without a mount: restored at the start, saved when somebody says so.
//!
//! It is the engine of a mount: the same journal, the same cut, the same commit. Only what changed is found
//! otherwise. Nobody tells of changes here, so each save begins with a [scan](crate::state::scan) of all
//! metadata against the records. What a scan finds unchanged has not moved its change time, which nobody can
//! set back; a save sees to it that no two changes share one.
mod beside;
mod opening;
mod stray;

pub use opening::{Claim, look};
pub use stray::Stray;

use super::start::lock::Locks;
use super::start::version;
use crate::clock::Timestamp;
use crate::config::MountSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::path::RelPath;
use crate::remote::Counters;
use crate::state::commit::{Committer, Merge, Receipt};
use crate::state::dirty::{Extent, Marks};
use crate::state::flusher::Flusher;
use crate::state::identity::Identity;
use crate::state::live::Live;
use crate::state::plain::Plain;
use crate::state::plan::LookOptions;
use crate::state::record::Records;
use beside::Beside;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// So often a save begins anew because something was written while it went on.
const ROUNDS_MAX: u32 = 4;

/// A directory that is kept in a remote, between its restore and its last save.
pub struct Session {
    settings: MountSettings,
    live: Arc<Plain>,
    flusher: Arc<Flusher>,
    records: Arc<Records>,
    requests: Arc<Counters>,
    look: LookOptions,
    beside: Arc<Beside>,
    /// It has files of another version, but not all of them.
    torn: AtomicBool,
    /// Last, so that they outlive what needs them.
    _runtime: Runtime,
    locks: Arc<Locks>,
}

/// What a save did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The newest version now; `None` before the first one.
    pub version: Option<String>,
    /// Whether this save made it.
    pub committed: bool,
    /// Paths it set or removed.
    pub entries: u64,
    /// Bytes it sent.
    pub bytes: u64,
    /// The fork that versions go to, if another writer was faster.
    pub fork: Option<String>,
    /// The version of another writer that it was put on top of.
    pub merge: Option<Merge>,
    /// What could not be read, and why. It stays as the last version has it.
    pub stuck: BTreeMap<RelPath, String>,
    /// Something was written all the time, so that the version may not be of one instant.
    pub restless: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("dir", &self.settings.dir).finish_non_exhaustive()
    }
}

impl Session {
    /// What requests were made of the remote so far.
    pub fn requests(&self) -> &Counters {
        &self.requests
    }

    /// What is committed to.
    pub fn committer(&self) -> &Arc<Committer> {
        self.flusher.committer()
    }

    /// The newest version; `None` before the first one.
    pub fn version(&self) -> Option<String> {
        version(self.committer().version())
    }

    /// Finds out what changed and makes it the next version. If nothing did nothing is sent. Until `limit`,
    /// if there is one; nothing is lost by a failure, and the next save begins anew.
    ///
    /// A version is of one instant if nobody wrote while it was made. So it is looked once more, and what was
    /// written meanwhile is saved as well, up to a bound.
    pub fn save(&self, limit: Option<Instant>) -> Result<Saved> {
        if self.is_torn() {
            return Err(torn());
        }
        self.flusher.give_up_at(limit);
        let mut made: Option<Receipt> = None;
        let mut restless = false;
        for round in 1..=ROUNDS_MAX {
            if made.is_some() && self.committer().is_settled() && self.beside.found_nothing(&self.live)? {
                restless = false;
                break;
            }
            let (marks, newest) = self.changed()?;
            let stuck = self.flusher.status().stuck;
            let is_new = marks.keys().any(|path| !stuck.contains_key(path));
            restless = is_new && made.is_some();
            // What could not be read is tried once in a save.
            if !restless && (made.is_some() || marks.is_empty()) && self.committer().is_settled() {
                break;
            }
            self.settle(newest);
            self.live.dirty().restore(marks);
            self.live.be_lenient(round == ROUNDS_MAX);
            match self.flusher.save() {
                Ok(receipt) => {
                    let (goes_on, fuzzy) = (receipt.committed, receipt.fuzzy > 0);
                    made = Some(joined(made, receipt));
                    // What is mapped and written is never found unchanged.
                    if fuzzy || !goes_on {
                        restless = fuzzy;
                        break;
                    }
                }
                Err(e) if is_of_a_writer(&e) && round < ROUNDS_MAX && !self.may_not(limit) => {
                    tracing::info!(error = %e, "saving anew");
                }
                Err(e) => return Err(e),
            }
        }
        let committer = self.committer();
        let (committed, entries, bytes) = match &made {
            Some(made) => (made.committed, made.changed + made.removed, made.bytes),
            None => (false, 0, 0),
        };
        Ok(Saved {
            version: self.version(),
            committed,
            entries,
            bytes,
            fork: Some(committer.name()).filter(|name| name != self.settings.name.as_str()),
            merge: made.and_then(|made| made.merge),
            stuck: self.flusher.status().stuck,
            restless,
        })
    }

    /// Keeps the chain of versions short and lets go what nobody needs. Nobody need wait for it, and it fails without harm.
    pub fn tidy(&self) {
        self.flusher.tidy();
    }

    /// When a `tidy` gives up, the next one or the one that is under way; `None`: it takes its time.
    pub fn tidy_until(&self, limit: Option<Instant>) {
        self.flusher.give_up_at(limit);
    }

    /// Whether another attempt is out of the question.
    fn may_not(&self, limit: Option<Instant>) -> bool {
        self.committer().has_given_way() || limit.is_some_and(|limit| Instant::now() >= limit)
    }

    /// What differs from the records, and when the newest of it changed.
    fn changed(&self) -> Result<(Marks, Option<Timestamp>)> {
        self.beside.forget();
        require_place(&self.live, &self.settings.dir)?;
        let mut marks = self.live.dirty().take();
        self.live.dirty().saved();
        let found = self.beside.scan(&self.live)?;
        for (path, error) in found.unreadable {
            tracing::warn!(%path, %error, "cannot look at entry");
            // Nobody knows what has changed there: the cut looks once more, and tells of what it cannot read either.
            marks.insert(path, Extent::Subtree);
        }
        for (path, extent) in found.marks {
            let slot = marks.entry(path).or_insert(extent);
            *slot = (*slot).max(extent);
        }
        Ok((marks, found.newest))
    }

    /// Where the clock of change times stands still for a while, waits until it has moved on since `newest`:
    /// a change that comes later than the look at a file has another time then.
    fn settle(&self, newest: Option<Timestamp>) {
        let tick = self.look.tick;
        let Some(newest) = newest.filter(|_| !tick.is_zero()) else { return };
        let age = Timestamp::now().since(newest);
        if let Some(left) = tick.checked_sub(age) {
            std::thread::sleep(left.min(tick) + Duration::from_millis(1));
        }
    }
}

/// Fails if the directory is no longer where it was: then what we have open is nobody's, and empty.
fn require_place(live: &Plain, dir: &Path) -> Result<()> {
    let failed = |e: Errno| Error::io("cannot look at the directory", e.into());
    let ours = Identity::from(&rustix::fs::fstat(live.root()).map_err(failed)?);
    let there = match rustix::fs::stat(dir) {
        Err(Errno::NOENT | Errno::NOTDIR) => None,
        other => Some(Identity::from(&other.map_err(failed)?)),
    };
    if there.is_some_and(|there| (there.dev, there.ino) == (ours.dev, ours.ino)) {
        return Ok(());
    }
    let message = format!(
        "the directory was removed or replaced since it was restored, nothing is saved over what the remote has \
         (the next start brings the newest version back): {}",
        dir.display()
    );
    Err(Error::new(ErrorKind::NotFound, message))
}

fn torn() -> Error {
    let message = "the directory is between two versions, since the way to the newer one was cut short: nothing of it is \
                   saved, the next start completes it";
    Error::new(ErrorKind::Unavailable, message)
}

/// Whether something was cut short while it was read.
fn is_of_a_writer(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Io | ErrorKind::Conflict)
}

/// What several commits of one save did together.
fn joined(before: Option<Receipt>, now: Receipt) -> Receipt {
    let Some(before) = before else { return now };
    Receipt {
        committed: before.committed || now.committed,
        bytes: before.bytes + now.bytes,
        raw_bytes: before.raw_bytes + now.raw_bytes,
        changed: before.changed + now.changed,
        removed: before.removed + now.removed,
        fork: now.fork.or(before.fork),
        merge: now.merge.or(before.merge),
        ..now
    }
}
