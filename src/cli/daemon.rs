//! `icecache daemon` (hidden): what `mount` starts. Settings come as JSON on stdin, start-up lines go to
//! stdout, the log to stderr.
use super::{Context, Exit};
use crate::config::MountSettings;
use crate::serve::startup::{Ended, StatusPipe};
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

/// What the log has when nobody says. The FUSE library warns of each call that a file system leaves
/// out, and programs ask for some at every open (`ioctl` for a terminal): the log would be of nothing else.
const LOG_DEFAULT: &str = "info";

/// More than this is no set of settings.
const SETTINGS_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub struct Daemon {}

impl Daemon {
    pub fn run(self, _: &Context) -> Result<Exit> {
        // Who starts us may wait for signals in a way that we inherit.
        crate::serve::run::unblock().map_err(|e| Error::io("cannot unblock signals", e))?;
        let settings = read_settings()?;
        // The daemon of a command ends with that; one of its own would keep for good what belongs to whoever mounts: a
        // lock, the end of a pipe.
        if settings.owner.is_none() {
            close_inherited();
        }
        let status = StatusPipe::to_writer(take_stdout()?);
        let started = leave_session().and_then(|()| enter(&settings));
        match started.and_then(|()| crate::serve::daemon::run(settings, &status)) {
            Ok(Ended::Saved) => Ok(Exit::Done),
            Ok(Ended::Unsaved(_)) => Ok(Exit::Unsaved),
            Err(e) => {
                // The parent shows it if it still waits; the log keeps it in any case.
                status.failed(&e);
                tracing::error!("daemon failed: {e}");
                Ok(Exit::of(&e))
            }
        }
    }
}

fn read_settings() -> Result<MountSettings> {
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(SETTINGS_MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(|e| Error::io("cannot read settings", e))?;
    serde_json::from_slice(&text).map_err(|e| {
        Error::new(ErrorKind::Invalid, "malformed settings (this verb is not for people)").with_source(e)
    })
}

/// Closes what we inherited besides the standard descriptors. Call it before anything is opened.
fn close_inherited() {
    let (first, last) = (libc::STDERR_FILENO as libc::c_uint + 1, libc::c_uint::MAX);
    // SAFETY: nothing of this process owns any of them yet. A kernel that does not know the call closes none.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Takes the pipe to the parent out of stdout, so that no helper process inherits it and the parent
/// sees its end; stdout becomes the log.
fn take_stdout() -> Result<File> {
    let failed = |e| Error::io("cannot take over stdout", e);
    let pipe = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    // SAFETY: both are open descriptors of this process and nothing here owns stdout's number.
    if unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) } < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    let null = File::open("/dev/null").map_err(failed)?;
    // SAFETY: as above, for stdin, which has been read to its end.
    if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), libc::STDIN_FILENO) } < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    Ok(File::from(pipe))
}

/// A terminal that closes must not take the daemon along.
fn leave_session() -> Result<()> {
    match rustix::process::setsid() {
        // Already a leader (started by a supervisor): as good.
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(e) => Err(Error::io("cannot start a session", e.into())),
    }
}

/// What the process of a mount needs before anything else runs: a log, and a place for temporary
/// files that is not beneath the mount. Call it before any thread is started.
pub fn enter(settings: &MountSettings) -> Result<()> {
    super::log_to_stderr(LOG_DEFAULT);
    // SAFETY: no other thread runs yet, see above.
    unsafe { std::env::set_var("TMPDIR", settings.temp_dir()) };
    std::env::set_current_dir("/").map_err(|e| Error::io("cannot leave the working directory", e))
}
