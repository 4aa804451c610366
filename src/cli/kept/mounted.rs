//! [`Mounted`]: a directory that a daemon shows while a command runs on it.
use super::super::locate;
use super::super::output::safe_path;
use super::{After, End};
use crate::config::MountSettings;
use crate::serve::control::Client;
use crate::serve::run::doubt::Doubt;
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a daemon that has said everything may take to end.
const EXIT_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Mounted {
    pub(super) daemon: Pid,
    /// Readable when it has ended.
    process: Option<OwnedFd>,
    /// The file system that is shown.
    device: Option<(u32, u32)>,
    /// Stays until the mount has ended in good order and by us: else the command may have written beside it.
    doubt: Mutex<Option<Doubt>>,
}

impl Mounted {
    /// Shown by `daemon`. Nobody may have written yet.
    pub(super) fn by(daemon: Pid, settings: &MountSettings) -> Self {
        let doubt = Doubt::raise(&settings.state_dir);
        if let Err(error) = &doubt {
            tracing::warn!(%error, "what is written after an early end of the mount only the next exec will find");
        }
        Self {
            daemon,
            process: pidfd_open(daemon, PidfdFlags::empty()).ok(),
            device: device(&settings.dir),
            doubt: Mutex::new(doubt.ok()),
        }
    }

    /// Saves and unmounts.
    pub(super) fn end(&self, settings: &MountSettings, limit: Option<Instant>, after: After) -> Result<End> {
        if device(&settings.dir) != self.device {
            // What it still has to say is of before the end of the mount.
            self.wait(Some(Instant::now() + settings.unmount_timeout));
            return Err(ended_early());
        }
        let mut client = Client::connect(&settings.socket()).map_err(|e| {
            // It has died. What was written is in the directory.
            if locate::is_dead_mount(&settings.dir) {
                drop(locate::detach_dead_mount(&settings.dir));
            }
            if e.kind() == ErrorKind::NotFound { ended_early().with_source(e) } else { e }
        })?;
        if after.wants_version && client.status().is_ok_and(|status| status.version.is_none()) {
            let _said_again_below = flush(settings, limit);
        }
        let reply = client.unmount()?;
        if reply.unmounted && !after.left_behind {
            // Nobody had anything open there.
            let _else_it_is_compared = self.doubt.lock().take().map(Doubt::lift);
        }
        if reply.unsaved_total == 0 && !reply.unmounted {
            // It is saved; processes of the command hold the mount. It goes with its daemon, which ends with us.
            let _gone = kill_process(self.daemon, Signal::TERM);
        }
        let unsaved = reply.unsaved.iter().map(|entry| match &entry.reason {
            Some(why) => format!("{}: {why}", safe_path(&entry.path)),
            None => safe_path(&entry.path),
        });
        let error = reply.error.as_ref().filter(|_| reply.unsaved_total > 0 || reply.unmounted);
        Ok(End {
            version: reply.version,
            fork: reply.fork,
            lost: error.is_some_and(|error| Error::from(error.clone()).kind() == ErrorKind::Conflict),
            unsaved: unsaved.collect(),
            notices: reply.merged.into_iter().chain(error.map(|error| error.message.clone())).collect(),
            saved: None,
        })
    }

    /// Waits for the end of the daemon, for a while longer than `limit`, until which it may have something to do.
    pub(super) fn wait(&self, limit: Option<Instant>) {
        let Some(process) = &self.process else { return };
        let left = limit.map_or(Duration::ZERO, |limit| limit.saturating_duration_since(Instant::now()));
        let most = left + EXIT_MAX;
        let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: i64::from(most.subsec_nanos()) };
        let _at_most_so_long = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&most));
    }
}

/// Saves what changed by now.
pub(super) fn flush(settings: &MountSettings, limit: Option<Instant>) -> Result<End> {
    let left =
        limit.map(|limit| limit.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    let reply = Client::connect(&settings.socket())?.flush(true, left)?;
    if !reply.durable {
        return Err(Error::new(ErrorKind::Unavailable, "not everything is in the remote yet"));
    }
    Ok(End {
        version: reply.version,
        fork: reply.fork,
        notices: reply.merged.into_iter().collect(),
        saved: Some((reply.entries, reply.bytes)),
        ..End::default()
    })
}

/// The file system at a place, as far as it is known without asking who serves it.
fn device(dir: &Path) -> Option<(u32, u32)> {
    let looked = statx(CWD, dir, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
    Some((looked.stx_dev_major, looked.stx_dev_minor))
}

fn ended_early() -> Error {
    let message = "the mount has ended before the command (by a signal to its daemon, or icecache unmount): what was \
                   written since the next exec or mount saves";
    Error::new(ErrorKind::Io, message)
}
