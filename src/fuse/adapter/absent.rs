//! Operations that need content which is not on the disk yet: they begin when it is there.
use super::Adapter;
use crate::fs::Volume;
use crate::fs::absent::Need;
use crate::fuse::interrupts::{Interruptible, ended};
use crate::fuse::transport::Reply;
use crate::state::absent::Hydrator;
use std::sync::Arc;
use std::time::Duration;

/// When no byte has come from the store for so long, the wait ends with `EIO`: no program waits without
/// end, and a large file may take as long as it is large.
const PATIENCE: Duration = Duration::from_secs(120);

impl Adapter {
    /// Runs `op` when what it needs is on the disk; at once, on this thread, if nothing is missing.
    pub(super) fn when_here<T: Send + 'static>(
        &self,
        need: Need,
        reply: Reply<T>,
        op: impl FnOnce(&Self, Reply<T>) + Send + 'static,
    ) {
        let (Some(hydrator), false) = (&self.hydrator, need == Need::Nothing) else {
            return op(self, reply);
        };
        let (this, hydrator) = (self.clone(), hydrator.clone());
        hydrator.handle().clone().spawn(async move {
            let waiting = reply.interruptible();
            match while_it_comes(&hydrator, waiting, bring(&hydrator, need)).await {
                // The operation itself may wait for a disk.
                Ok(()) => drop(tokio::task::spawn_blocking(move || op(&this, reply))),
                // To be told whatever the threads that wait for disks are doing.
                Err(unbrought) => reply.error(unbrought.told()),
            }
        });
    }
}

impl Adapter {
    /// The same for what changes an inode, inside the gate. A file that it cuts comes to its places in the same pass,
    /// without the rest: whoever is told that it failed has changed nothing, and only what must be brought for it can
    /// be interrupted. `trusted`: the caller has it open to write.
    pub(super) fn when_here_gated<T: Send + 'static>(
        &self,
        inode: u64,
        (need, trusted): (Need, bool),
        reply: Reply<T>,
        op: impl FnOnce(&Volume, Reply<T>) + Send + 'static,
    ) {
        let cut = match (&self.hydrator, &need) {
            (Some(hydrator), Need::Shortened(file, length)) => Some((hydrator.clone(), *file, *length)),
            _ => None,
        };
        let Some((hydrator, file, length)) = cut else {
            return self.when_here(need, reply, move |this, reply| {
                this.gated_copying(inode, move |volume| op(volume, reply));
            });
        };
        let this = self.clone();
        hydrator.handle().clone().spawn(async move {
            let own = hydrator.clone();
            let beginning = async {
                if !trusted {
                    blocking(move || own.may_cut(file).map_err(|e| Unbrought::refused(&e))).await?;
                }
                hydrator.beginning(file, length).await.map_err(|e| Unbrought::of(&*e))
            };
            let beginning = match while_it_comes(&hydrator, reply.interruptible(), beginning).await {
                Ok(beginning) => beginning,
                Err(unbrought) => return reply.error(unbrought.told()),
            };
            let cut = move |volume: &Volume| match hydrator.cut(&beginning) {
                Ok(()) => op(volume, reply),
                Err(e) => reply.error(Unbrought::of(&*e).told()),
            };
            drop(tokio::task::spawn_blocking(move || this.gated_copying(inode, cut)));
        });
    }
}

/// Why content did not come.
pub(super) struct Unbrought {
    pub(super) errno: i32,
    why: String,
}

impl Unbrought {
    /// A full disk is told as such; whatever else it was, the program cannot have its content now.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut why = error.to_string();
        let mut errno = libc::EIO;
        let mut cause = Some(error);
        while let Some(error) = cause {
            let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            if let Some(full @ (libc::ENOSPC | libc::EDQUOT)) = io {
                errno = full;
            }
            cause = error.source();
            if let Some(cause) = cause.map(ToString::to_string).filter(|cause| !why.contains(cause)) {
                why = format!("{why}: {cause}");
            }
        }
        Self { errno, why }
    }

    /// It would fail when it is here; so it need not come.
    fn refused(e: &std::io::Error) -> Self {
        Self { errno: e.raw_os_error().unwrap_or(libc::EIO), why: e.to_string() }
    }

    /// What the program is told; the log is told why.
    pub(super) fn told(self) -> i32 {
        match self.errno {
            libc::EACCES | libc::EPERM | libc::EINTR => {
                tracing::debug!(error = self.why, "a program does not get what it asked for");
            }
            _ => tracing::warn!(error = self.why, "content could not be brought"),
        }
        self.errno
    }
}

/// Waits for content, but not longer than a program that is ended meanwhile.
pub(super) async fn while_it_comes<T>(
    hydrator: &Hydrator,
    waiting: Option<Interruptible>,
    brought: impl Future<Output = Result<T, Unbrought>>,
) -> Result<T, Unbrought> {
    tokio::select! {
        brought = while_bytes_come(hydrator, brought) => brought,
        () = ended(waiting.as_ref()) => Err(Unbrought { errno: libc::EINTR, why: "who asked was ended".to_owned() }),
    }
}

async fn while_bytes_come<T>(
    hydrator: &Hydrator,
    brought: impl Future<Output = Result<T, Unbrought>>,
) -> Result<T, Unbrought> {
    let mut brought = std::pin::pin!(brought);
    let mut bytes = hydrator.bytes();
    loop {
        if let Ok(brought) = tokio::time::timeout(PATIENCE, &mut brought).await {
            return brought;
        }
        if hydrator.bytes() == std::mem::replace(&mut bytes, hydrator.bytes()) {
            let why = "the store has sent nothing for too long".to_owned();
            return Err(Unbrought { errno: libc::EIO, why });
        }
    }
}

async fn bring(hydrator: &Arc<Hydrator>, need: Need) -> Result<(), Unbrought> {
    let all = |files| async { hydrator.bring(files).await.map_err(|e| Unbrought::of(&*e)) };
    match need {
        Need::Nothing | Need::Disk => Ok(()),
        Need::Files(files) => all(files).await,
        Need::Shortened(file, _) => all(vec![file]).await,
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), Unbrought> + Send + 'static) -> Result<(), Unbrought> {
    let ending = |_| Err(Unbrought { errno: libc::EIO, why: "the daemon is ending".to_owned() });
    tokio::task::spawn_blocking(work).await.unwrap_or_else(ending)
}
