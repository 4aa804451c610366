//! A directory without a mount: restored at the start, saved when somebody says so.
//!
//! It is the engine of a mount: the same journal, the same cut, the same commit. Only what changed is found
//! otherwise. Nobody tells of changes here, so each save begins with a [scan](crate::state::scan) of all
//! metadata against the records. What a scan finds unchanged has not moved its change time, which nobody can
//! set back; a save sees to it that no two changes share one.
mod beside;
mod stray;

pub use stray::Stray;

use super::start::lock::Locks;
use super::start::reconcile::{Found, Start};
use super::start::store_check::StoreCheck;
use super::start::{ASIDE, commit_options, open_records, version, within};
use super::startup::StatusPipe;
use crate::clock::Timestamp;
use crate::config::{Layout, MountSettings, OnExisting, Restore, Scan as When};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::MemoryJournal;
use crate::path::RelPath;
use crate::remote::{self, Counters};
use crate::state::absent::{Hydrator, Pace, Source};
use crate::state::commit::{CommitOptions, Committer, Merge, Receipt, Relation, Tidy};
use crate::state::cut::{CutOptions, Cutter};
use crate::state::dirty::Marks;
use crate::state::flusher::{Flusher, Timing};
use crate::state::identity::Identity;
use crate::state::live::Live;
use crate::state::plain::Plain;
use crate::state::plan::{LookOptions, change_tick};
use crate::state::record::Records;
use crate::state::staging::Staging;
use beside::Beside;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Threads of the runtime: it moves bytes to and from the remote.
const RUNTIME_THREADS: usize = 2;
/// So often a save begins anew because something was written while it went on.
const ROUNDS_MAX: u32 = 4;
/// Where local files go that the remote has otherwise, if there is no state directory: beneath the directory.
const ASIDE_WITHIN: &str = ".icecache-conflicts";

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

/// How a session begins.
#[derive(Debug, Clone, Copy, Default)]
struct Begin<'a> {
    /// Somebody has worked on the directory already.
    late: bool,
    /// When the remote is not waited for any longer.
    limit: Option<Instant>,
    /// Whom to tell that the directory may be between two versions.
    torn: Option<&'a AtomicBool>,
}

impl Session {
    /// Restores the newest version into the directory, beside what it has. Progress goes to `status`.
    pub fn open(settings: &MountSettings, stray: Stray, status: &StatusPipe) -> Result<Self> {
        Self::begin(settings, stray, status, false)
    }

    /// Opens a directory that was worked in although nobody knew what the remote has. Fails with `Conflict` if
    /// that turns out to be something else than what the directory was made from.
    pub fn open_late(settings: &MountSettings, status: &StatusPipe) -> Result<Self> {
        Self::begin(settings, Stray::Keep, status, true)
    }

    fn begin(settings: &MountSettings, stray: Stray, status: &StatusPipe, late: bool) -> Result<Self> {
        // Whatever was done here since the last session nobody has seen.
        let settings = MountSettings { restore: Restore::Eager, scan: When::Always, ..settings.clone() };
        let locks =
            if settings.keeps_state() { Locks::take(&settings) } else { Locks::without_state(&settings) }?;
        let known = records_of(&settings, status)?;
        Self::on(settings, Arc::new(locks), known, stray, status, Begin { late, ..Begin::default() })
    }

    /// The same session anew, where this process may have been copied and resumed, and others have gone on: with what
    /// they have saved since, with connections of its own, and as a writer of its own. What changed here and is not saved
    /// stays. If that fails, or the remote has not given everything by `limit`, this one goes on, and overwrites
    /// nothing; unless it [`is_torn`](Self::is_torn).
    pub fn anew(&self, status: &StatusPipe, limit: Option<Instant>) -> Result<Self> {
        if self.is_torn() {
            return Err(torn());
        }
        self.records.become_another()?;
        let known = (self.records.clone(), false);
        let begin = Begin { limit, torn: Some(&self.torn), ..Begin::default() };
        Self::on(self.settings.clone(), self.locks.clone(), known, Stray::Keep, status, begin)
    }

    /// Whether the directory may be between two versions, because the way from one to the other was cut short. Then
    /// nobody may work on it, and no save of it succeeds.
    pub fn is_torn(&self) -> bool {
        self.torn.load(Ordering::Acquire)
    }

    /// On a directory that is locked, and of which this is known; whether it was more before.
    fn on(
        settings: MountSettings,
        locks: Arc<Locks>,
        (records, lost): (Arc<Records>, bool),
        stray: Stray,
        status: &StatusPipe,
        Begin { late, limit, torn }: Begin<'_>,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("remote")
            .enable_all()
            .build()
            .map_err(|e| Error::io("cannot start runtime", e))?;
        let requests: Arc<Counters> = Arc::default();
        let store = remote::open_configured(&settings.remote, &settings.s3, requests.clone());
        let store = runtime.block_on(store)?;
        let check = StoreCheck::begin(&runtime, &settings, &store, &records);
        let at_once = settings.layout == Layout::Layered;
        let options = CommitOptions { at_once, ..commit_options(&settings) };
        let opened = Committer::open(store.clone(), records.clone(), options.clone());
        let opened = runtime.block_on(within(limit, opened))?;
        let (committer, opening) = match opened {
            // Where a missing object looks like a forbidden one a first version can be made all the same: under
            // the condition that there is none.
            Err(e) if late && e.is_denied() && records.meta().base.is_none() => {
                Committer::unread(store.clone(), records.clone(), options)
            }
            other => other?,
        };
        if late && !matches!(opening.relation, Relation::Fresh | Relation::Same) {
            let message = format!(
                "the remote has versions of {}, but the command ran without them: nothing is saved over them, and what \
                 it wrote is in {}",
                settings.name,
                settings.dir.display()
            );
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        if opening.name != settings.name.as_str() {
            status.notice(format!(
                "another writer had moved the name {}: versions of this directory go to its fork {}",
                settings.name, opening.name
            ));
        }
        let is_first = records.meta().base.is_none() && opening.relation == Relation::Moved;
        let aside = match settings.keeps_state() {
            true => settings.state_dir.join(ASIDE),
            false => settings.dir.join(ASIDE_WITHIN),
        };
        // What is to be deleted need not agree with anything.
        let existing = if stray == Stray::Delete { OnExisting::Merge } else { settings.on_existing };
        let settings = MountSettings { on_existing: existing, ..settings };
        let start = Start {
            settings: &settings,
            store: &store,
            records: &records,
            status,
            check: &check,
            aside,
            limit,
        };
        let found = start.reconcile(&runtime, &committer, &opening, &locks, lost);
        if let (Err(_), Some(torn)) = (&found, torn) {
            torn.fetch_or(opening.relation == Relation::Moved, Ordering::AcqRel);
        }
        let Found { mut marks, absent } = found?;
        check.passed()?;
        drop(check);
        if let Some(absent) = absent {
            // A mount has left it in the remote.
            let (store, handle) = (store.clone(), runtime.handle().clone());
            let hydrator = Arc::new(Hydrator::new(absent.clone(), store, handle, false, Pace::default()));
            runtime.block_on(hydrator.bring_all(false, || ())).map_err(|e| {
                Error::new(ErrorKind::Unavailable, "cannot bring what is only in the remote").with_source(e)
            })?;
            if absent.is_complete() {
                Source::forget(&settings.state_dir.join("absent"));
            }
        }
        if is_first && stray == Stray::Delete {
            stray::delete(locks.backing().as_fd(), &records, &mut marks)?;
        }
        let live = Arc::new(Plain::new(locks.backing_fd()?, &settings.dir));
        live.dirty().restore(marks);
        let look = LookOptions {
            tick: change_tick(locks.backing().as_fd()),
            whole: settings.layout == Layout::Single,
            ..LookOptions::default()
        };
        let flusher = flusher(&settings, &live, &look, (records.clone(), committer), &runtime)?;
        let beside = Beside::new(&live, records.clone(), look.clone(), settings.dir.clone());
        let torn = AtomicBool::new(false);
        let session =
            Self { settings, live, flusher, records, requests, look, beside, torn, _runtime: runtime, locks };
        if opening.relation == Relation::Moved {
            session.settle(Some(Timestamp::now())); // of what was restored as well
        }
        Ok(session)
    }

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
            match self.flusher.flush() {
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
        for (path, error) in &found.unreadable {
            tracing::warn!(%path, %error, "cannot look at entry");
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
         (the next start saves what is there then): {}",
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

/// The records: in the state directory, or in memory for as long as this lives.
fn records_of(settings: &MountSettings, status: &StatusPipe) -> Result<(Arc<Records>, bool)> {
    if settings.keeps_state() {
        return open_records(settings, status);
    }
    let journal = Arc::new(MemoryJournal::new());
    let records = Records::open(journal, &settings.remote, settings.name.as_str())?;
    Ok((Arc::new(records), false))
}

fn flusher(
    settings: &MountSettings,
    live: &Arc<Plain>,
    look: &LookOptions,
    (records, committer): (Arc<Records>, Committer),
    runtime: &Runtime,
) -> Result<Arc<Flusher>> {
    // Files without a name: they are seen nowhere, and a crash leaves none.
    let place =
        if settings.keeps_state() { settings.state_dir.join("staging") } else { settings.dir.clone() };
    let staging =
        Staging::open(&place).map_err(|e| Error::io(format!("cannot use {}", place.display()), e))?;
    let options = CutOptions {
        deadline: settings.cut_deadline,
        mount_dev: device(live)?,
        hold: false,
        look: look.clone(),
    };
    let flusher = Flusher::new(
        live.clone(),
        Cutter::new(live.clone(), staging, options, None),
        Arc::new(committer),
        records,
        Box::new(|| None),
        (
            Timing { debounce: settings.debounce, max_delay: settings.max_delay },
            Tidy {
                chain: settings.chain as usize,
                keep: settings.keep as usize,
                keep_for: settings.keep_for,
                delete_after: settings.delete_after,
                amplification: u64::from(settings.amplification),
            },
        ),
        runtime.handle().clone(),
    );
    Ok(Arc::new(flusher))
}

fn device(live: &Arc<Plain>) -> Result<u64> {
    let stat =
        rustix::fs::fstat(live.root()).map_err(|e| Error::io("cannot look at the directory", e.into()))?;
    Ok(stat.st_dev)
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
