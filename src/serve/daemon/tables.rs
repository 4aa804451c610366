//! A mount that shows Iceberg tables and nothing else.
//!
//! It has no remote of its own and nothing to save: it ends when the kernel ends the mount.
mod controller;
#[cfg(not(feature = "redis"))]
mod hintless;
#[cfg(feature = "redis")]
mod hints;

use super::metrics::Listening;
use super::mounting::allow_other;
use super::{RUNTIME_THREADS, serve_control, signals};
use crate::cache::{Cache, Config, Tier};
use crate::config::{Environment, MountSettings, Passthrough, TablesSettings, Transport as TransportSetting};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::connection::Connection;
use crate::fuse::mount::{
    Backing, MountOptions, Mounted, NoPassthrough, Restrictions, mount, probe_passthrough,
};
use crate::fuse::tables::{IO_BYTES, TablesAdapter, WITHHELD, wanted};
use crate::fuse::transport::{Offer, attach};
use crate::remote::Counters;
use crate::serve::registry::{Registered, Registry};
use crate::serve::start::lock::Locks;
use crate::serve::start::open_directory;
use crate::serve::startup::{Ended, Progress, Ready, StatusPipe};
use crate::tables::{Lake, LakeOptions, Stores, View, track};
use controller::TablesController;
#[cfg(not(feature = "redis"))]
use hintless::Shared;
#[cfg(feature = "redis")]
use hints::Shared;
use icecache_iceberg::catalog::Options;
use icecache_iceberg::publication::Retention;
use icecache_iceberg::{CatalogAddress, Mapping};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// How often a busy mount is tried again before it counts as busy.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// What ends a mount.
enum End {
    Signal,
    /// The kernel has ended it.
    Session(io::Result<()>),
}

/// Runs the mount until it ends.
pub(super) fn run(
    settings: &Arc<MountSettings>,
    tables: &TablesSettings,
    status: &StatusPipe,
) -> Result<Ended> {
    let signals = signals::Signals::catch()?;
    let locks = Locks::take(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("tables")
        .enable_all()
        .build()
        .map_err(|e| Error::io("cannot start runtime", e))?;
    let metered = Listening::begin(&runtime, settings)?;
    let requests: Arc<Counters> = Arc::default();
    let cache_dir = settings.state_dir.join("cache");
    let config = Config { max_bytes: tables.cache_bytes, ..Config::new(&cache_dir) };
    let cache = runtime.block_on(Cache::open(config))?;
    let shared = runtime.block_on(Shared::open(tables.redis.as_deref()))?;
    let lake = Arc::new(lake(settings, tables, &cache, &requests, shared.tiers())?);
    status.progress(Progress { phase: "asking catalogs".into(), ..Progress::default() });
    if let Err(error) = runtime.block_on(lake.ask_names()) {
        status.notice(format!("not all catalogs answer yet: {error}"));
    }

    let disk = open_directory(&cache_dir)?;
    let classic = match settings.passthrough {
        Passthrough::Off => Some(NoPassthrough::TurnedOff),
        Passthrough::Auto => probe_passthrough(&disk, &settings.state_dir.join("probe")).err(),
    };
    let depth =
        Backing::probe(&disk).map_err(|e| Error::io("cannot look at the disk of the cache", e))?.depth;
    let rings = match settings.transport {
        TransportSetting::Device => None,
        TransportSetting::Auto => Offer::make(IO_BYTES as usize, WITHHELD).ok(),
    };
    let options = MountOptions {
        source: "icecache:tables".into(),
        allow_other: allow_other(settings, &locks)?,
        flags: Restrictions { nosuid: true, nodev: true, noexec: false, read_only: true },
    };
    let adapter =
        TablesAdapter::new(View::new(lake.clone()), runtime.handle().clone(), classic.is_none(), disk);
    let (device, mounted) = mount(&settings.dir, &options)?;
    let asked = wanted(classic.is_none(), depth, rings.is_some());
    let attached = Connection::handshake(device, &asked)
        .and_then(|c| attach(c, Arc::new(adapter.clone()), rings, settings.fuse_threads as usize))
        .map_err(|e| {
            let _detached = mounted.unmount(true);
            Error::io("the kernel refused the mount's handshake", e)
        })?;
    adapter.set_kernel(attached.link);
    let mounted = Arc::new(mounted);

    let (ends, ended) = channel();
    let (transport, session) = (attached.transport.name(), ends.clone());
    let started = std::thread::Builder::new().name("session".into()).spawn(move || {
        let _nobody_waits = session.send(End::Session(attached.transport.run()));
    });
    started.map_err(|e| {
        let _detached = mounted.unmount(true);
        Error::io("cannot start thread", e)
    })?;
    let (stop, stopping) = watch::channel(false);
    lake.on_turn(move |path| adapter.turned(path));
    let tracker = runtime.spawn(track(lake.clone(), stopping));
    let hints = shared.exchange(&lake, &runtime);

    let (mode, mode_reason) = match &classic {
        None => ("passthrough".to_owned(), "kernel and privileges allow it".to_owned()),
        Some(why) => ("classic".to_owned(), why.to_string()),
    };
    let controller = TablesController {
        settings: settings.clone(),
        catalogs: tables.shown()?,
        mounted: mounted.clone(),
        mode: (mode.clone(), mode_reason.clone()),
        transport,
        requests,
        lake,
        started: Instant::now(),
    };
    let (closed, shutdown) = oneshot::channel::<()>();
    let socket = serve_control(&runtime, settings, Arc::new(controller), shutdown)?;
    let registration = Registry::of(&Environment::of_process())?.register(&Registered {
        dir: settings.dir.clone(),
        state_dir: settings.state_dir.clone(),
        pid: std::process::id(),
        read_only: true,
    })?;
    forward(signals, ends)?;
    tracing::info!(dir = %settings.dir.display(), mode, transport, "tables are mounted");
    status.ready(Ready {
        pid: std::process::id(),
        mode,
        mode_reason,
        version: None,
        dir: settings.dir.clone(),
        metrics: metered.as_ref().map(Listening::address),
    });
    let metrics = metered.map(|at| at.serve_cache(&runtime, cache.clone()));

    let outcome = wait(&ended, &mounted);
    let _told = stop.send(true);
    let _ended = runtime.block_on(tracker);
    drop(hints);
    if let Some(metrics) = metrics {
        metrics.end(&runtime);
    }
    drop(registration);
    let _gone = closed.send(());
    let _drained = runtime.block_on(socket);
    let closed = runtime.block_on(cache.close());
    runtime.shutdown_timeout(Duration::from_secs(5));
    if let Err(error) = closed {
        tracing::warn!(%error, "the next start looks through the cache");
    }
    drop(locks);
    outcome.map(|()| Ended::Saved)
}

fn lake(
    settings: &MountSettings,
    tables: &TablesSettings,
    cache: &Cache,
    requests: &Arc<Counters>,
    tiers: Vec<Arc<dyn Tier>>,
) -> Result<Lake> {
    let mapping = Mapping::new(&settings.dir)
        .map_err(|e| Error::new(ErrorKind::Invalid, "cannot show tables here").with_source(e))?;
    let stores = Arc::new(Stores::new(settings.s3.clone(), cache.clone(), tiers, requests.clone()));
    let catalogs = tables
        .addresses()?
        .into_iter()
        .map(|address| {
            let own = tables.options.iter().filter(|(catalog, ..)| *catalog == address.name);
            let options: Options = own.map(|(_, key, value)| (key.clone(), value.clone())).collect();
            (address, options)
        })
        .collect();
    let keep = tables.keep;
    let retention = Retention {
        versions: keep.count.map_or(Retention::default().versions, |count| count as usize),
        age: keep.age_s.map(Duration::from_secs),
        bytes: keep.bytes,
    };
    let folder = settings.state_dir.join("tables");
    Lake::new(LakeOptions { catalogs, mapping, folder, retention }, stores)
}

fn forward(signals: signals::Signals, ends: Sender<End>) -> Result<()> {
    signals.forward_to(move || {
        let _nobody_waits = ends.send(End::Signal);
    })
}

/// Waits for the end; a signal unmounts, even from under somebody.
fn wait(ended: &std::sync::mpsc::Receiver<End>, mounted: &Mounted) -> Result<()> {
    let mut detached = false;
    loop {
        let end = if detached { ended.recv_timeout(BUSY_PATIENCE).ok() } else { ended.recv().ok() };
        match end {
            Some(End::Signal) if !detached => {
                if mounted.unmount(false).is_err()
                    && let Err(e) = mounted.unmount(true)
                {
                    tracing::error!(error = %e, "cannot unmount");
                }
                detached = true;
            }
            Some(End::Signal) => {}
            Some(End::Session(result)) => {
                let _gone = mounted.unmount(true); // after umount -f a dead mount would stay
                return result.map_err(|e| Error::io("serving the mount failed", e));
            }
            None => return Ok(()), // programs keep a detached mount alive
        }
    }
}

impl TablesSettings {
    fn addresses(&self) -> Result<Vec<CatalogAddress>> {
        let parse = |text: &String| {
            text.parse::<CatalogAddress>()
                .map_err(|e| Error::new(ErrorKind::Invalid, "cannot use catalog").with_source(e))
        };
        self.catalogs.iter().map(parse).collect()
    }

    /// The catalogs without secrets.
    fn shown(&self) -> Result<String> {
        Ok(self.addresses()?.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }
}
