//! [`Flusher`]: the one thread that turns changes into versions.
//!
//! It sleeps until something is marked, waits for the pause the [`Schedule`] asks for, makes a cut
//! and commits it. A failure keeps every mark and is tried again, less and less often, for ever;
//! whoever waits for a flush hears of the failure at once.
mod attempt;
mod observed;
mod patience;
mod pruner;
mod status;

use observed::{OBSERVE_EVERY, Observed};
use patience::Patience;
use pruner::Pruner;
pub use status::{Done, Failed, FlushStatus, Unsaved};

use crate::error::{Error, ErrorKind, Result};
use crate::layer::PackOptions;
use crate::path::RelPath;
use crate::state::absent::{Gathering, Hydrator};
use crate::state::backing::reach;
use crate::state::barrier::Barrier;
use crate::state::commit::pack::{Packed, pack};
use crate::state::commit::{Committer, Receipt, Tidy};
use crate::state::cut::{CutStats, Cutter};
use crate::state::dirty::Extent;
use crate::state::live::Live;
use crate::state::record::Records;
use crate::state::schedule::Schedule;
use crate::state::walindex;
use crate::sync::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

/// The longest sleep; anything that matters ends it early.
const IDLE: Duration = Duration::from_secs(3600);
/// So long after the last flush the helper of the cut is ended: it takes some 7 MB, and another one is
/// there within milliseconds, before a cut stops anybody.
const HELPER_IDLE: Duration = Duration::from_secs(10);
/// Dirty paths that are looked at for a status, at most.
const STATUS_PATHS_MAX: usize = 10_000;

/// Starts a helper for the cut; `None` where none is needed.
pub type StartBarrier = Box<dyn Fn() -> Option<std::io::Result<Barrier>> + Send + Sync>;

/// Called when another writer was faster and nothing will be saved any more.
pub type WhenLost = Box<dyn Fn() + Send + Sync>;

type Answer = oneshot::Sender<Result<Receipt>>;

/// When to flush.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// After so long without a change.
    pub debounce: Duration,
    /// At the latest so long after the first.
    pub max_delay: Duration,
}

/// The flusher of one tree.
pub struct Flusher {
    live: Arc<dyn Live>,
    cutter: Cutter,
    committer: Arc<Committer>,
    records: Arc<Records>,
    start_barrier: StartBarrier,
    timing: Timing,
    runtime: Handle,
    hydrator: Option<Arc<Hydrator>>,
    gathering: Option<Gathering>,
    when_lost: Option<WhenLost>,
    status: Mutex<FlushStatus>,
    waiting: Mutex<Vec<Answer>>,
    stop: AtomicBool,
    /// When whoever ends the mount stops waiting for the remote.
    give_up: watch::Sender<Option<Instant>>,
    /// Somebody waits for a save, and no longer for what others have left to be tidied.
    impatient: watch::Sender<bool>,
    tidy: Tidy,
    pruner: Arc<Pruner>,
    /// Held for the whole of one flush.
    turn: Mutex<()>,
    /// When a merge is tried again that took too long.
    patience: Mutex<Patience>,
}

impl std::fmt::Debug for Flusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flusher").field("timing", &self.timing).finish_non_exhaustive()
    }
}

impl Flusher {
    /// Flushes what `cutter` cuts through `committer`.
    pub fn new(
        live: Arc<dyn Live>,
        cutter: Cutter,
        committer: Arc<Committer>,
        records: Arc<Records>,
        start_barrier: StartBarrier,
        (timing, tidy): (Timing, Tidy),
        runtime: Handle,
    ) -> Self {
        let status = FlushStatus { version: committer.version(), ..FlushStatus::default() };
        Self {
            live,
            cutter,
            committer,
            records,
            start_barrier,
            timing,
            runtime,
            hydrator: None,
            gathering: None,
            when_lost: None,
            status: Mutex::new(status),
            waiting: Mutex::default(),
            stop: AtomicBool::new(false),
            give_up: watch::Sender::new(None),
            impatient: watch::Sender::new(false),
            tidy,
            pruner: Arc::new(Pruner::new(tidy.delete_after)),
            turn: Mutex::new(()),
            patience: Mutex::default(),
        }
    }

    /// What must be on the disk for a cut is brought by `hydrator`.
    #[must_use]
    pub fn bringing(mut self, hydrator: Option<Arc<Hydrator>>) -> Self {
        self.hydrator = hydrator;
        self
    }

    /// What is read first after every mount is put side by side, when nobody waits for the flush.
    #[must_use]
    pub fn gathering(mut self, gathering: Option<Gathering>) -> Self {
        self.gathering = gathering;
        self
    }

    /// Whom to tell when changes are no longer saved, because another writer was faster.
    #[must_use]
    pub fn when_lost(mut self, call: Option<WhenLost>) -> Self {
        self.when_lost = call;
        self
    }

    /// Runs until [`stop`](Self::stop); not on a thread of the runtime.
    pub fn run(&self) {
        let dirty = self.live.dirty();
        let mut schedule = Schedule::new(self.timing.debounce, self.timing.max_delay);
        let mut observed = Observed::default();
        // When the last flush ended, until its traces are cleared.
        let mut flushed: Option<Instant> = None;
        while !self.stop.load(Ordering::Acquire) {
            if !dirty.is_empty() {
                schedule.changed(dirty.changed());
            }
            let now = Instant::now();
            if observed.next <= now && observed.look(&self.cutter, &self.records) {
                schedule.changed(now);
            }
            let asked = !self.waiting.lock().is_empty();
            if asked || schedule.due().is_some_and(|due| due <= now) {
                schedule.begun();
                match self.flush() {
                    Ok(_) => schedule.succeeded(),
                    Err(_) => schedule.failed(Instant::now()),
                }
                observed.next = Instant::now() + OBSERVE_EVERY;
                flushed = Some(Instant::now());
                continue;
            }
            let idle = flushed.map_or(IDLE, |at| (at + HELPER_IDLE).saturating_duration_since(now));
            if idle.is_zero() {
                flushed = None;
                self.rest();
                continue;
            }
            let due = schedule.due().map_or(IDLE, |due| due.saturating_duration_since(now));
            let look = if observed.any { observed.next.saturating_duration_since(now) } else { IDLE };
            dirty.wait(due.min(look).min(idle), schedule.due().is_some());
            // A mark may mean that a file was opened for writing.
            observed.any = true;
        }
    }

    /// Gives back what only flushes need; the next one starts its helper again.
    fn rest(&self) {
        let _turn = self.turn.lock();
        self.cutter.set_barrier(None);
        crate::memory::give_back();
    }

    /// Ends [`run`](Self::run) after the flush under way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.live.dirty().wake();
    }

    /// Asks for a flush that begins after this call; the answer comes when it has ended.
    pub fn request(&self) -> oneshot::Receiver<Result<Receipt>> {
        let (answer, receiver) = oneshot::channel();
        self.waiting.lock().push(answer);
        self.live.dirty().wake();
        receiver
    }

    /// How flushing stands.
    pub fn status(&self) -> FlushStatus {
        self.status.lock().clone()
    }

    /// Why what no version needs was not deleted at the last attempt.
    pub fn prune_error(&self) -> Option<String> {
        self.pruner.failure()
    }

    /// What cuts have cost.
    pub fn cut_stats(&self) -> CutStats {
        self.cutter.stats()
    }

    /// What a stop now would leave unsaved. Looks at the files that are open for writing.
    pub fn unsaved(&self, limit: usize) -> Unsaved {
        let (marks, marked) = self.live.dirty().peek(STATUS_PATHS_MAX);
        let mut paths: BTreeMap<RelPath, ()> = marks.into_iter().map(|path| (path, ())).collect();
        let looked = paths.len();
        paths.retain(|path, ()| !walindex::is_at(self.live.root(), path)); // it will not be saved
        let mut count = (marked - (looked - paths.len())) as u64;
        let written =
            self.cutter.observe(&self.records, false).changed.into_iter().map(|(writer, _)| writer.path);
        for path in written.chain(self.status.lock().stuck.keys().cloned()) {
            count += u64::from(paths.insert(path, ()).is_none());
        }
        let size = |path: &RelPath| {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            reach(self.live.root(), path, |at, name| rustix::fs::statat(at, name, flags))
                .ok()
                .filter(|st| rustix::fs::FileType::from_raw_mode(st.st_mode).is_file())
                .map_or(0, |st| st.st_size as u64)
        };
        let bytes = paths.keys().map(size).sum();
        Unsaved { paths: paths.into_keys().take(limit).collect(), count, bytes }
    }

    /// [Saves](Self::save), and [tidies](Self::tidy) what that leaves.
    pub fn flush(&self) -> Result<Receipt> {
        let result = self.save();
        if result.is_ok() {
            self.tidy();
        }
        result
    }

    /// Cuts and commits once, now. Everybody who has asked until the cut begins gets the result.
    pub fn save(&self) -> Result<Receipt> {
        let _turn = self.turn.lock();
        let asked = std::mem::take(&mut *self.waiting.lock());
        let began = Instant::now();
        if !asked.is_empty() && self.committer.version() == 0 {
            self.live.dirty().mark(RelPath::root(), Extent::Entry); // who asks for a version gets one
        }
        let result = caught(|| self.attempt(asked.is_empty())).unwrap_or_else(|| {
            self.live.dirty().mark(RelPath::root(), Extent::Subtree); // what it was about is not known any more
            Err(Error::new(ErrorKind::Io, "saving failed by a fault of this program; its log says where"))
        });
        {
            let mut status = self.status.lock();
            match &result {
                Ok(receipt) => status.succeeded(receipt, began.elapsed()),
                Err(e) => status.failed(e),
            }
        }
        match &result {
            Ok(receipt) if receipt.committed => {
                tracing::info!(version = receipt.version, bytes = receipt.bytes, "flushed");
            }
            Ok(_) => {}
            Err(e) => tracing::warn!(error = %e, "flush failed; everything is kept and will be tried again"),
        }
        if let Some(when_lost) = self.when_lost.as_ref().filter(|_| self.committer.has_given_way()) {
            when_lost();
        }
        for answer in asked {
            let copy = match &result {
                Ok(receipt) => Ok(receipt.clone()),
                Err(e) => Err(Error::new(e.kind(), e.to_string())),
            };
            let _left = answer.send(copy);
        }
        result
    }

    /// Keeps the chain short, and lets go what nobody needs. Nobody need wait for it: a failure costs nothing but a longer
    /// chain until the next time. What cannot be merged in the time that there is is not tried again at once, since it
    /// grows: the next attempts come after 1, 2, 4 and so on versions.
    pub fn tidy(&self) {
        let _turn = self.turn.lock();
        self.shorten();
        self.pruner.wake(&self.committer, &self.runtime);
    }

    fn shorten(&self) {
        let version = self.committer.version();
        if !self.committer.is_due(&self.tidy) || !self.patience.lock().is_over(version) {
            return;
        }
        let absent = self.records.absent();
        let layers = absent.iter().flat_map(|absent| absent.layers());
        let local: HashSet<String> = layers.map(|layer| layer.source.key.clone()).collect();
        let mut impatient = self.impatient.subscribe();
        let tidied = async {
            tokio::select! {
                biased;
                tidied = self.committer.tidy(&self.tidy, local) => Some(tidied),
                Ok(_) = impatient.wait_for(|impatient| *impatient) => None,
            }
        };
        match self.within_limit(tidied).flatten() {
            Some(Ok(done)) => {
                *self.patience.lock() = Patience::default();
                if let Some(done) = done {
                    tracing::info!(?done, "layers merged");
                }
            }
            None => {
                let next = self.patience.lock().grow(version);
                tracing::warn!(
                    next,
                    "layers could not be merged in the time that there was; it is tried again"
                );
            }
            Some(Err(e)) => tracing::warn!(error = %e, "layers could not be merged; it will be tried again"),
        }
    }

    /// No call to the remote goes on after this; `None`: they take the time they need. A store that
    /// takes connections and never answers would else hold up the end of a mount for minutes.
    pub fn give_up_at(&self, limit: Option<Instant>) {
        self.give_up.send_replace(limit);
    }

    /// From now on nothing is tidied, or it is again. What is under way then is cut short, since a save waits for its end.
    pub fn be_impatient(&self, impatient: bool) {
        self.impatient.send_replace(impatient);
    }

    /// Runs a call to the remote; `None` if the limit passed before its end. The committer knows how
    /// to go on after a call that was dropped.
    fn within_limit<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        let mut limits = self.give_up.subscribe();
        self.runtime.block_on(async move {
            let passed = async move {
                loop {
                    let limit = *limits.borrow_and_update();
                    let reached = async move {
                        match limit {
                            Some(limit) => tokio::time::sleep_until(limit.into()).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = reached => return,
                        changed = limits.changed() => if changed.is_err() { std::future::pending().await },
                    }
                }
            };
            tokio::select! {
                biased;
                result = call => Some(result),
                () = passed => None,
            }
        })
    }

    /// Writes the whole tree, as of one instant, into `to` as an archive; nothing is committed.
    pub fn export(&self, to: std::fs::File, options: PackOptions) -> Result<Packed> {
        let _turn = self.turn.lock();
        let cut = self.cut(|| self.cutter.cut_whole(&self.records))?;
        let packed = pack(&cut.plan, &cut, to, options, None);
        self.live.dirty().restore(cut.marks.clone()); // they are still to be committed
        Ok(packed?)
    }

    /// Nothing is mounted any more: there is nobody to hold.
    pub fn unmounted(&self) {
        let _turn = self.turn.lock();
        self.cutter.set_barrier(None);
    }

    /// What is committed to.
    pub fn committer(&self) -> &Arc<Committer> {
        &self.committer
    }
}

/// What `attempt` returns. A fault of ours (a panic) ends that attempt, and not the thread that makes the next.
fn caught<T>(attempt: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(attempt)).ok()
}

#[cfg(test)]
#[allow(clippy::panic)] // that is what it is about
mod tests {
    use super::*;

    #[test]
    fn a_fault_ends_an_attempt_and_not_its_thread() {
        assert_eq!(caught(|| 1), Some(1));
        assert_eq!(caught(|| -> u8 { panic!("a fault") }), None);
    }
}
