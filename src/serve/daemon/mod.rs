//! The daemon of one mount, from its locks to its last flush.
//!
//! A start reads as `lock → journal → remote → reconcile → mount → serve`, an end as
//! `flush → unmount → flush what came in between → say what is unsaved`. A mount that shows a version
//! (`version`) has no journal, reconciles nothing and flushes nothing.
mod controller;
mod ending;
mod file_size;
mod hydrating;
#[cfg(not(feature = "http"))]
mod metricless;
#[cfg(feature = "http")]
mod metrics;
mod mounting;
mod owner;
mod served;
mod signals;
#[cfg(not(feature = "tables"))]
mod tableless;
#[cfg(feature = "tables")]
mod tables;
mod version;

use super::control::{self, Controller};
use super::registry::{Registered, Registry};
use super::shown;
use super::start::lock::Locks;
use super::start::reconcile::Start;
use super::start::store_check::StoreCheck;
use super::start::{ASIDE, answered, commit_options, open_records, version};
use super::startup::{Ended, Ready, StatusPipe};
use crate::config::{Environment, MountSettings};
use crate::descriptors;
use crate::error::Result;
use crate::remote::{self, Counters, Store};
use crate::runtime::{self, Threads};
use crate::state::commit::Committer;
use controller::MountController;
use ending::{Content, Ending};
#[cfg(not(feature = "http"))]
use metricless as metrics;
use metrics::Listening;
use mounting::Mounting;
use served::Served;
use std::sync::Arc;
use std::time::Duration;
#[cfg(not(feature = "tables"))]
use tableless as tables;
use tables::Shelf;
use tokio::runtime::Runtime;

/// What an ordinary user is told, once for each mount.
const NOT_ROOT: &str = "mounted as an ordinary user: file data passes through the daemon (no kernel passthrough), \
                        set-user-id bits and device nodes have no effect here, restored files belong to you, and \
                        others enter only if /etc/fuse.conf has user_allow_other and --access is all";

/// Threads of the runtime: it moves bytes to and from the remote and answers the control socket.
const RUNTIME_THREADS: Threads = Threads::Few(2);

/// Runs a mount until it ends: reports progress and readiness through `status`, returns when the
/// directory is unmounted and the final flush is over.
pub fn run(settings: MountSettings, status: &StatusPipe) -> Result<Ended> {
    let settings = Arc::new(settings);
    crate::memory::be_frugal();
    descriptors::raise();
    file_size::lift();
    if settings.is_of_tables_only() {
        return tables::run(&settings, status);
    }
    let signals = signals::Signals::catch()?; // before threads start, so that all inherit the mask
    let locks = Locks::take(&settings)?;
    let runtime = runtime::start("remote", RUNTIME_THREADS)?;

    let metered = Listening::begin(&runtime, &settings)?;
    let counters: Arc<Counters> = Arc::default();
    let store =
        runtime.block_on(remote::open_configured(&settings.remote, &settings.s3, counters.clone()))?;
    let prepared = Prepared {
        settings: &settings,
        status,
        locks: &locks,
        runtime: &runtime,
        store: &store,
        requests: &counters,
    };
    let Standing { served, ending, controller, version, tables } = match &settings.shows {
        None => prepared.stand()?,
        Some(choice) => version::stand(&prepared, choice)?,
    };
    let (closed, shutdown) = tokio::sync::oneshot::channel::<()>();
    let socket = serve_control(&runtime, &settings, controller, shutdown)?;
    let registration = Registry::of(&Environment::of_process()).register(&Registered {
        dir: settings.dir.clone(),
        state_dir: settings.state_dir.clone(),
        pid: std::process::id(),
        owner: settings.owner,
        read_only: settings.shows.is_some(),
    })?;
    let asked = ending.clone();
    signals.forward_to(move || asked.begin())?;
    if let Some(owner) = settings.owner {
        let alone = ending.clone();
        owner::watch(owner, move || alone.begin())?;
    }
    if !rustix::process::geteuid().is_root() {
        status.notice(NOT_ROOT);
    }
    let mut mounted = ready(&settings, &served, version);
    mounted.metrics = metered.as_ref().map(Listening::address);
    let desk = tables.as_ref().map(tables::Shown::desk);
    mounted.hints = desk.as_ref().and_then(tables::Desk::hints);
    let metrics =
        metered.map(|at| at.serve(&runtime, settings.clone(), served.clone(), counters.clone(), desk));
    tracing::info!(
        dir = %settings.dir.display(), remote = %settings.remote, name = %settings.name, mode = %mounted.mode,
        version = mounted.version.as_deref().unwrap_or("none"), program = env!("CARGO_PKG_VERSION"), "mounted"
    );
    status.ready(mounted);
    crate::memory::be_quick();

    let ended = ending.wait();
    match &ended {
        Ok(Ended::Saved) => tracing::info!("unmounted, everything is saved"),
        Ok(Ended::Unsaved(count)) => tracing::warn!(count, "unmounted with unsaved entries"),
        Err(e) => tracing::error!(error = %e, "the mount ended by a failure"),
    }
    if let Some(metrics) = metrics {
        metrics.end(&runtime);
    }
    drop(registration);
    let _gone = closed.send(());
    let _drained = runtime.block_on(socket);
    if let Some(tables) = tables {
        tables.end(&runtime);
    }
    runtime.shutdown_timeout(Duration::from_secs(5));
    if settings.shows.is_some() {
        shown::remove(&settings.state_dir);
    }
    drop(locks);
    ended
}

/// What a start has whatever it is to show.
struct Prepared<'a> {
    settings: &'a Arc<MountSettings>,
    status: &'a StatusPipe,
    locks: &'a Locks,
    runtime: &'a Runtime,
    store: &'a Store,
    requests: &'a Arc<Counters>,
}

/// A mount that stands.
struct Standing {
    served: Arc<Served>,
    ending: Arc<Ending>,
    controller: Arc<dyn Controller>,
    /// The version that is shown; `None` before the first one.
    version: Option<String>,
    /// What is shown beside the directory.
    tables: Option<tables::Shown>,
}

impl Prepared<'_> {
    /// Shows the newest version together with what the directory has, to be written to.
    fn stand(&self) -> Result<Standing> {
        let Prepared { settings, status, locks, runtime, store, requests } = *self;
        let (records, lost) = open_records(settings, locks, status)?;
        let options = commit_options(settings);
        let check = StoreCheck::begin(runtime, settings, store, &records);
        let opened = Committer::open(store.clone(), records.clone(), options);
        let (committer, opening) = runtime.block_on(answered(settings, status, opened))?;
        if opening.name != settings.name.as_str() {
            status.notice(format!(
                "another writer had moved the name {}: versions of this directory go to its fork {}",
                settings.name, opening.name
            ));
        }
        let aside = settings.state_dir.join(ASIDE);
        let start = Start {
            settings,
            store,
            records: &records,
            status,
            check: &check,
            aside,
            limit: None,
            heeds: None,
        };
        let found = start.reconcile(runtime, &committer, &opening, locks, lost)?;
        check.passed(None)?;

        let (committer, handle) = (Arc::new(committer), runtime.handle());
        let shelf = Shelf::open(settings, runtime, status)?;
        let mounting = Mounting::begin(settings, locks, found, store, handle, shelf.as_ref())?;
        let flusher = mounting.flusher(settings, locks, records.clone(), committer, handle)?;
        let served = mounting.serve(settings, Some(flusher.clone()), handle, shelf.as_ref())?;
        let tables = shelf.map(|shelf| shelf.show(runtime));
        let version = version(flusher.status().version);
        let content = Content::Living { flusher: flusher.clone(), records };
        let ending = Arc::new(Ending::new(settings.clone(), served.clone(), content));
        let controller = Arc::new(MountController::new(
            settings.clone(),
            served.clone(),
            flusher,
            ending.clone(),
            requests.clone(),
            store.clone(),
            tables.as_ref().map(tables::Shown::desk),
        ));
        Ok(Standing { served, ending, controller, version, tables })
    }
}

fn ready(settings: &MountSettings, served: &Served, version: Option<String>) -> Ready {
    let (mode, mode_reason) = served.mode();
    let (pid, dir) = (std::process::id(), settings.dir.clone());
    Ready { pid, mode, mode_reason, version, dir, metrics: None, hints: None }
}

fn serve_control(
    runtime: &Runtime,
    settings: &MountSettings,
    controller: Arc<dyn Controller>,
    shutdown: tokio::sync::oneshot::Receiver<()>,
) -> Result<tokio::task::JoinHandle<()>> {
    let _entered = runtime.enter();
    let listener = control::bind(&settings.socket())?;
    Ok(runtime.spawn(control::serve(controller, listener, async {
        let _closed = shutdown.await;
    })))
}
