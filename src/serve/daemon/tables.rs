//! A mount that shows Iceberg tables and nothing else; and what a mount shows of them beside a directory.
//!
//! The former has no remote of its own and nothing to save: it ends when the kernel ends the mount.
mod controller;
mod desk;
#[cfg_attr(not(feature = "redis"), allow(unused, reason = "nobody is there to be heard"))]
mod hints;
#[cfg(feature = "http")]
mod notification;
mod shelf;
#[cfg(feature = "http")]
mod webhook;
#[cfg(not(feature = "http"))]
#[path = "tables/webhookless.rs"]
mod webhook;

use super::metrics::Listening;
use super::mounting::allow_other;
use super::{RUNTIME_THREADS, serve_control, signals};
use crate::config::{Environment, MountSettings, Transport as TransportSetting};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::connection::Connection;
use crate::fuse::mount::{MountOptions, Mounted, Restrictions, mount};
use crate::fuse::transport::{Offer, attach};
use crate::runtime;
use crate::serve::registry::{Registered, Registry};
use crate::serve::start::lock::Locks;
use crate::serve::startup::{Ended, Ready, StatusPipe};
use controller::TablesController;
pub use desk::Desk;
pub use shelf::{Shelf, Shown};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

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
pub(super) fn run(settings: &Arc<MountSettings>, status: &StatusPipe) -> Result<Ended> {
    let signals = signals::Signals::catch()?;
    let locks = Locks::take(settings)?;
    let runtime = runtime::start("tables", RUNTIME_THREADS)?;
    let metered = Listening::begin(&runtime, settings)?;
    let none = || Error::new(ErrorKind::Invalid, "no tables are named");
    let shelf = Shelf::open(settings, &runtime, status)?.ok_or_else(none)?;
    let rings = match settings.transport {
        TransportSetting::Device => None,
        TransportSetting::Auto => Offer::make(shelf.io_bytes() as usize, shelf.withheld()).ok(),
    };
    let options = MountOptions {
        source: "icecache:tables".into(),
        allow_other: allow_other(settings, &locks)?,
        flags: Restrictions { nosuid: true, nodev: true, noexec: false, read_only: true },
    };
    let (device, mounted) = mount(&settings.dir, &options)?;
    let attached = Connection::handshake(device, &shelf.wanted(rings.is_some()))
        .and_then(|c| attach(c, shelf.alone(), rings, settings.fuse_threads as usize))
        .map_err(|e| {
            let _detached = mounted.unmount(true);
            Error::io("the kernel refused the mount's handshake", e)
        })?;
    shelf.set_kernel(attached.link);
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
    let (mode, mode_reason) = match shelf.classic() {
        None => ("passthrough".to_owned(), "kernel and privileges allow it".to_owned()),
        Some(why) => ("classic".to_owned(), why.to_string()),
    };
    let shown = shelf.show(&runtime);
    let controller = TablesController {
        settings: settings.clone(),
        mounted: mounted.clone(),
        mode: (mode.clone(), mode_reason.clone()),
        transport,
        desk: shown.desk(),
        started: Instant::now(),
    };
    let (closed, shutdown) = oneshot::channel::<()>();
    let socket = serve_control(&runtime, settings, Arc::new(controller), shutdown)?;
    let registration = Registry::of(&Environment::of_process()).register(&Registered {
        dir: settings.dir.clone(),
        state_dir: settings.state_dir.clone(),
        pid: std::process::id(),
        owner: settings.owner,
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
        hints: shown.desk().hints(),
    });
    crate::memory::be_quick();
    let metrics = metered.map(|at| at.serve_tables(&runtime, shown.desk()));

    let outcome = wait(&ended, &mounted);
    if let Some(metrics) = metrics {
        metrics.end(&runtime);
    }
    drop(registration);
    let _gone = closed.send(());
    let _drained = runtime.block_on(socket);
    shown.end(&runtime);
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(locks);
    outcome.map(|()| Ended::Saved)
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
