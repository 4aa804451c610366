//! How a session begins: the restore, and what a save needs.
use super::beside::Beside;
use super::{Session, Stray, stray, torn};
use crate::clock::Timestamp;
use crate::config::{Layout, MountSettings, OnExisting, Restore, Scan as When};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::MemoryJournal;
use crate::remote;
use crate::remote::Counters;
use crate::runtime::{self, Threads};
use crate::serve::start::lock::Locks;
use crate::serve::start::reconcile::{Found, Start};
use crate::serve::start::store_check::StoreCheck;
use crate::serve::start::{ASIDE, answered, commit_options, open_records, within};
use crate::serve::startup::StatusPipe;
use crate::state::absent::{Hydrator, Pace, Source};
use crate::state::commit::{self, CommitOptions, Committer, Relation, Tidy};
use crate::state::cut::{CutOptions, Cutter};
use crate::state::flusher::{Flusher, Timing};
use crate::state::held::Holders;
use crate::state::live::Live;
use crate::state::plain::Plain;
use crate::state::plan::{LookOptions, change_tick};
use crate::state::record::Records;
use crate::state::staging::Staging;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::runtime::Runtime;

/// Threads of the runtime: it moves bytes to and from the remote.
const RUNTIME_THREADS: Threads = Threads::Few(2);
/// Where local files go that the remote has otherwise, if there is no state directory: beneath the directory.
pub(super) const ASIDE_WITHIN: &str = ".icecache-conflicts";

/// How a session begins.
#[derive(Debug, Clone, Copy, Default)]
struct Begin<'a> {
    /// Somebody has worked on the directory already.
    late: bool,
    /// When a remote that has not even said what it has is not waited for any longer.
    answer: Option<Instant>,
    /// When the remote is not waited for any longer at all.
    limit: Option<Instant>,
    /// Whom to tell that the directory may be between two versions.
    torn: Option<&'a AtomicBool>,
    /// Whose open files nothing may take the place of.
    heeds: Option<Holders>,
}

/// While the directory may be between two versions.
struct Between<'a>(Option<&'a AtomicBool>);

impl Between<'_> {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Between<'_> {
    fn drop(&mut self) {
        if let Some(torn) = self.0 {
            torn.store(true, Ordering::Release);
        }
    }
}

/// A directory that nobody else can work on with us, before its session begins.
#[derive(Debug)]
pub struct Claim {
    settings: MountSettings,
    locks: Arc<Locks>,
}

impl Claim {
    /// Fails with `Busy` while another has it.
    pub fn take(settings: &MountSettings) -> Result<Self> {
        // Whatever was done here since the last session nobody has seen.
        let settings = MountSettings { restore: Restore::Eager, scan: When::Always, ..settings.clone() };
        let locks =
            if settings.keeps_state() { Locks::take(&settings) } else { Locks::without_state(&settings) }?;
        Ok(Self { settings, locks: Arc::new(locks) })
    }

    /// Restores the newest version into the directory, beside what it has. Fails with `Unavailable` if nobody knows by
    /// `answer`, if that is given, what the remote has, and with `Busy`, before anything is changed, if another version is
    /// to take the place of files that some process has open still. Progress goes to `status`.
    pub fn start(&self, stray: Stray, answer: Option<Instant>, status: &StatusPipe) -> Result<Session> {
        self.begin(stray, status, Begin { answer, heeds: Some(Holders::Anybody), ..Begin::default() })
    }

    /// The same where that failed before, and all of the version must be there by `limit`, if there is one. `torn` is told
    /// if it fails although the remote has a version: then the directory may have a part of that, and nothing that anybody
    /// does on it can be saved. So it is if it fails with `Busy`, because the processes that this one has started have
    /// files open there: nothing was changed then.
    pub fn restore(
        &self,
        stray: Stray,
        limit: Option<Instant>,
        torn: &AtomicBool,
        status: &StatusPipe,
    ) -> Result<Session> {
        let heeds = Some(Holders::Offspring);
        self.begin(stray, status, Begin { limit, torn: Some(torn), heeds, ..Begin::default() })
    }

    /// Opens a directory that was worked in although nobody knew what the remote has. Fails with `Conflict` if
    /// that turns out to be something else than what the directory was made from, with `Invalid` if it is in the other
    /// layout, and with `Unavailable` if nobody knows that by `limit`.
    pub fn join_late(&self, limit: Option<Instant>, status: &StatusPipe) -> Result<Session> {
        self.begin(Stray::Keep, status, Begin { late: true, limit, ..Begin::default() })
    }

    fn begin(&self, stray: Stray, status: &StatusPipe, begin: Begin<'_>) -> Result<Session> {
        let known = records_of(&self.settings, &self.locks, status)?;
        Session::on(self.settings.clone(), self.locks.clone(), known, stray, status, begin)
    }
}

impl Session {
    /// Restores the newest version into the directory, beside what it has. Progress goes to `status`.
    pub fn open(settings: &MountSettings, stray: Stray, status: &StatusPipe) -> Result<Self> {
        Claim::take(settings)?.start(stray, None, status)
    }

    /// The same session anew, where this process may have been copied and resumed, and others have gone on: with what
    /// they have saved since, with connections of its own, and as a writer of its own. What changed here and is not saved
    /// stays. If that fails, or the remote has not given everything by `limit`, this one goes on, and overwrites
    /// nothing; unless it [`is_torn`](Self::is_torn). Fails with `Busy`, and changes nothing, if there is a newer version
    /// and the processes that this one has started have files open that it may take the place of.
    pub fn anew(&self, status: &StatusPipe, limit: Option<Instant>) -> Result<Self> {
        if self.is_torn() {
            return Err(torn());
        }
        self.records.become_another()?;
        let known = (self.records.clone(), false);
        let heeds = Some(Holders::Offspring);
        let begin = Begin { limit, torn: Some(&self.torn), heeds, ..Begin::default() };
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
        Begin { late, answer, limit, torn, heeds }: Begin<'_>,
    ) -> Result<Self> {
        let runtime = runtime::start("remote", RUNTIME_THREADS)?;
        let requests: Arc<Counters> = Arc::default();
        let answer = limit.or(answer);
        let store = remote::open_configured(&settings.remote, &settings.s3, requests.clone());
        let store = runtime.block_on(within(answer, store))??;
        let check = StoreCheck::begin(&runtime, &settings, &store, &records);
        let at_once = settings.layout == Layout::Layered;
        let options = CommitOptions { at_once, ..commit_options(&settings) };
        let opened = async {
            match Committer::open(store.clone(), records.clone(), options.clone()).await {
                // Where a missing object looks like a forbidden one a first version can be made all the same: under
                // the condition that there is none.
                Err(e) if late && e.is_denied() && records.meta().base.is_none() => {
                    Committer::unread(store.clone(), records.clone(), options).await
                }
                opened => opened,
            }
        };
        let opened = runtime.block_on(within(answer, answered(&settings, status, opened)));
        let (committer, opening) = match opened {
            Ok(opened) => opened?,
            Err(_late) => {
                drop(check);
                runtime.shutdown_background(); // it may still wait for the address of the remote
                return Err(Error::new(ErrorKind::Unavailable, "the remote did not answer in time"));
            }
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
            heeds,
        };
        let between = Between(torn.filter(|_| opening.relation == Relation::Moved));
        let found = match start.reconcile(&runtime, &committer, &opening, &locks, lost) {
            Err(e) if e.kind() == ErrorKind::Busy => {
                between.end(); // it was looked before anything was changed
                return Err(e);
            }
            found => found?,
        };
        let Found { mut marks, absent } = found;
        check.passed(limit)?;
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
            // A session that ended without a word has perhaps left something that is nowhere else.
            if records.was_clean() {
                stray::delete(locks.backing().as_fd(), &records, &mut marks, status)?;
            } else {
                status.notice(
                    "an earlier session here has ended before it saved anything: no stray file is deleted",
                );
            }
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
        if matches!(opening.relation, Relation::Moved | Relation::Behind | Relation::Other) {
            session.settle(Some(Timestamp::now())); // of what was restored as well
        }
        between.end();
        Ok(session)
    }
}

/// Looks whether it can be known what the remote has: fails if not, or if it has that in the other layout. `None` if it
/// has not said that by `limit`, if there is one.
pub fn look(settings: &MountSettings, limit: Option<Instant>, status: &StatusPipe) -> Option<Result<()>> {
    let runtime = match runtime::start("remote", Threads::Caller) {
        Ok(runtime) => runtime,
        Err(e) => return Some(Err(e)),
    };
    let looked = async {
        let store = remote::open_configured(&settings.remote, &settings.s3, Arc::default()).await?;
        let layout = commit_options(settings).layout;
        Ok(commit::look(&*store, settings.name.as_str(), layout).await?)
    };
    let looked = runtime.block_on(within(limit, answered(settings, status, looked))).ok();
    runtime.shutdown_background(); // it may still wait for the address of the remote
    looked
}

/// The records: in the state directory, or in memory for as long as this lives.
fn records_of(settings: &MountSettings, locks: &Locks, status: &StatusPipe) -> Result<(Arc<Records>, bool)> {
    if settings.keeps_state() {
        return open_records(settings, locks, status);
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
