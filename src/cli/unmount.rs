//! `icecache unmount DIR`: final flush, then unmount; fails with a list if anything stays unsaved.
use super::output::{safe, safe_path};
use super::{Context, Exit, forked, locate};
use crate::serve::control::UnmountReply;
use crate::serve::registry::{Found, Registered, Registry};
use crate::serve::shown;
use crate::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How long the daemon may take to end after everything is said.
const EXIT_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What became of a dead daemon's mount.
const TAKEN: &str = "its mount is taken away";
const GONE: &str = "nothing is mounted there any more";

#[derive(Debug, clap::Args)]
pub struct Unmount {
    /// The mounted directory
    dir: PathBuf,
}

impl Unmount {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let registry = Registry::of(&context.environment);
        let dir = locate::canonical(&self.dir, &registry)?;
        match registry.find(&dir) {
            Found::Running(entry, mut client) => {
                if let Some(error) = client.status()?.last_error {
                    context.output.say(&format!("saving; the last flush failed: {}", safe(&error.message)));
                }
                let process = watch(&entry);
                let reply = client.unmount()?;
                if reply.unmounted {
                    wait_exit(process, &entry, context);
                }
                report(&reply, &dir, entry.read_only, context)
            }
            Found::Stale(entry) if locate::is_dead_mount(&dir) => {
                locate::detach_dead_mount(&dir)?;
                registry.forget(&entry);
                if entry.read_only {
                    shown::remove(&entry.state_dir);
                    return dead_version(&dir, TAKEN, context);
                }
                dead(&dir, TAKEN, context)
            }
            // Somebody else has taken its mount away, such as umount -l.
            Found::Stale(entry) if !entry.process_exists() => {
                registry.forget(&entry);
                if entry.read_only {
                    shown::remove(&entry.state_dir);
                    return dead_version(&dir, GONE, context);
                }
                dead(&dir, GONE, context)
            }
            Found::Unknown if locate::is_dead_mount(&dir) => {
                locate::detach_dead_mount(&dir)?;
                dead(&dir, TAKEN, context)
            }
            Found::Stale(_) | Found::Unknown => registry.client(&dir).map(|_| Exit::Done),
        }
    }
}

fn report(reply: &UnmountReply, dir: &Path, read_only: bool, context: &Context) -> Result<Exit> {
    if context.output.json {
        context.output.value(reply)?;
    } else {
        for entry in &reply.unsaved {
            let reason = entry.reason.as_deref().map(|r| format!(": {}", safe(r))).unwrap_or_default();
            context.output.line(&format!("{}{reason}", safe_path(&entry.path)));
        }
    }
    if let Some(fork) = &reply.fork {
        context.output.warn(&forked(fork));
    }
    if let Some(merged) = &reply.merged {
        context.output.warn(&safe(merged));
    }
    if reply.unsaved_total == 0 && !reply.unmounted {
        let saved = if read_only { "" } else { "everything is saved, but " };
        let message = format!(
            "{saved}the directory is in use and stays mounted (fuser -m or lsof tell by whom): {}",
            dir.display()
        );
        return Err(Error::new(ErrorKind::Busy, message));
    }
    if let Some(error) = &reply.error {
        context.output.warn(&safe(&error.message));
    }
    if reply.unsaved_total > 0 {
        let then = match reply.unmounted {
            true => format!("they are in {}; mount again to save them", safe_path(&reply.kept_in)),
            false => "the directory is in use, stays mounted and goes on trying".to_owned(),
        };
        context.output.warn(&format!(
            "{} entries are not in the remote (the first {} are listed); {then}",
            reply.unsaved_total,
            reply.unsaved.len()
        ));
        return Ok(Exit::Unsaved);
    }
    if reply.error.is_some() {
        return Ok(Exit::Failure);
    }
    if reply.absent_files > 0 {
        context.output.say(&format!(
            "{} files are only in the remote: nobody touched them here (icecache hydrate brings them before an unmount)",
            reply.absent_files
        ));
    }
    let dir = safe_path(dir);
    context.output.say(&match (read_only, reply.version.as_deref().map(safe)) {
        (true, None) => format!("{dir} is unmounted"),
        (true, Some(version)) => format!("{dir} is unmounted, it showed version {version}"),
        (false, None) => format!("{dir} is unmounted, nothing was there to save"),
        (false, Some(version)) => format!("{dir} is unmounted, everything is saved: {version}"),
    });
    Ok(Exit::Done)
}

/// A mount of a version whose daemon died: there was nothing to save.
fn dead_version(dir: &Path, mount: &str, context: &Context) -> Result<Exit> {
    if context.output.json {
        context.output.value(&serde_json::json!({"unmounted": true, "daemon": "gone", "unsaved": 0}))?;
    }
    context.output.say(&format!("the daemon was gone; {mount}: {}", safe_path(dir)));
    Ok(Exit::Done)
}

/// A mount whose daemon died: the directory is usable again, but nobody knows what was unsaved.
fn dead(dir: &Path, mount: &str, context: &Context) -> Result<Exit> {
    if context.output.json {
        context
            .output
            .value(&serde_json::json!({"unmounted": true, "daemon": "gone", "unsaved": "unknown"}))?;
    }
    context.output.warn(&format!(
        "the daemon was gone; {mount}, and the files are in {}; mount again to save what it had not",
        safe_path(dir)
    ));
    Ok(Exit::Unsaved)
}

fn watch(entry: &Registered) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(entry.pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// So that whoever mounts again at once does not find the state directory still locked.
fn wait_exit(process: Option<OwnedFd>, entry: &Registered, context: &Context) {
    let Some(process) = process else { return };
    let polled = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&EXIT_MAX));
    if matches!(polled, Ok(0)) {
        context.output.warn(&format!("the daemon has not ended yet: pid {}", entry.pid));
    }
}
