//! [`Served`]: a mounted directory, and the threads behind it.
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Volume;
use crate::fuse::mount::{Mounted, NoPassthrough};
use crate::fuse::transport::Transport;
use crate::state::absent::{Hydrator, Learned};
use crate::state::flusher::Flusher;
use crate::sync::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the end of a mount waits for what was read first to be written.
const LEARNED_PATIENCE: Duration = Duration::from_secs(2);

/// A mounted directory, being served.
pub struct Served {
    parts: Parts,
    transport: &'static str,
    threads: Mutex<Threads>,
    started: Instant,
}

/// What it is made of.
pub(super) struct Parts {
    pub(super) volume: Arc<Volume>,
    /// Saves what changes; a mount that shows a version has none.
    pub(super) flusher: Option<Arc<Flusher>>,
    pub(super) mounted: Mounted,
    /// Why file data passes us, if it does.
    pub(super) classic: Option<NoPassthrough>,
    pub(super) hydrator: Option<Arc<Hydrator>>,
    /// What was read first.
    pub(super) learned: Option<Arc<Learned>>,
}

#[derive(Default)]
struct Threads {
    session: Option<JoinHandle<std::io::Result<()>>>,
    flusher: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("mounted", &self.parts.mounted).finish_non_exhaustive()
    }
}

impl Served {
    /// Answers requests that come by `transport`, and flushes.
    pub(super) fn start(parts: Parts, transport: Box<dyn Transport>) -> Result<Self> {
        let (name, threads, started) = (transport.name(), Mutex::default(), Instant::now());
        let served = Self { parts, transport: name, threads, started };
        if let Err(e) = served.start_threads(transport) {
            let _detached = served.unmount(true); // else a dead mount hides the files
            return Err(e);
        }
        Ok(served)
    }

    fn start_threads(&self, transport: Box<dyn Transport>) -> Result<()> {
        let failed = |e| Error::io("cannot start thread", e);
        let session = std::thread::Builder::new().name("session".into()).spawn(move || transport.run());
        let flushing = self.parts.flusher.clone().map(|flusher| {
            std::thread::Builder::new().name("flush".into()).spawn(move || flusher.run()).map_err(failed)
        });
        *self.threads.lock() =
            Threads { session: Some(session.map_err(failed)?), flusher: flushing.transpose()? };
        Ok(())
    }

    /// The volume that is shown.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.parts.volume
    }

    /// What saves its changes; a mount that shows a version has none.
    #[cfg(feature = "http")]
    pub fn flusher(&self) -> Option<&Arc<Flusher>> {
        self.parts.flusher.as_ref()
    }

    /// Since when.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// `passthrough` or `classic`, and why.
    pub fn mode(&self) -> (String, String) {
        match &self.parts.classic {
            None => ("passthrough".into(), "kernel and privileges allow it".into()),
            Some(why) => ("classic".into(), why.to_string()),
        }
    }

    /// Brings what is not on the disk yet, if there was anything at the start.
    pub fn hydrator(&self) -> Option<&Arc<Hydrator>> {
        self.parts.hydrator.as_ref()
    }

    /// Writes what was read first since the mount, for the next one.
    pub fn save_learned(&self) {
        if let (Some(learned), Some(hydrator)) = (&self.parts.learned, &self.parts.hydrator) {
            let saved = async { tokio::time::timeout(LEARNED_PATIENCE, learned.save()).await };
            if hydrator.handle().block_on(saved).is_err() {
                tracing::warn!("what was read first could not be saved in time");
            }
        }
    }

    /// How requests arrive: `io_uring` or `device`.
    pub fn transport(&self) -> &'static str {
        self.transport
    }

    /// Unmounts; see [`Mounted::unmount`].
    pub fn unmount(&self, lazy: bool) -> std::io::Result<()> {
        self.parts.mounted.unmount(lazy)
    }

    /// Waits until the kernel has ended the mount.
    pub fn wait_unmounted(&self) -> Result<()> {
        let session = self.threads.lock().session.take();
        match session.map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(e))) => Err(Error::io("serving the mount failed", e)),
            Some(Err(_)) => Err(Error::new(ErrorKind::Io, "serving the mount failed: a thread panicked")),
        }
    }

    /// Stops flushing in the background; nothing is mounted any more.
    pub fn stop_flusher(&self) {
        let Some(flusher) = &self.parts.flusher else { return };
        flusher.stop();
        if let Some(thread) = self.threads.lock().flusher.take() {
            let _panicked = thread.join();
        }
        flusher.unmounted();
    }
}
