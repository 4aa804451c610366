//! [`Kept`]: the directory while the command runs, mounted or not.
use crate::cli::output::{bytes, safe};
use crate::cli::progress::View;
use crate::cli::{Context, locate, mount};
use crate::config::{Environment, MountSettings};
use crate::remote::open_configured;
use crate::serve::control::Client;
use crate::serve::directory::{Saved, Session, Stray};
use crate::serve::run::Hurry;
use crate::serve::run::probe::Way;
use crate::serve::startup::{StartupLine, StatusPipe};
use crate::state::head::read_head;
use crate::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::sync::{Arc, OnceLock};

/// How long a daemon that has said everything may take to end.
const EXIT_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What a start needs.
pub(super) struct Start {
    pub(super) settings: MountSettings,
    pub(super) way: Way,
    pub(super) stray: Stray,
    pub(super) json: bool,
    /// The process that shows it, as soon as there is one.
    pub(super) daemon: Arc<OnceLock<Pid>>,
}

/// See the module.
pub(super) enum Kept {
    /// A daemon shows it.
    Mounted(Pid),
    /// It was restored.
    Restored(Box<Session>),
    /// Nobody knows what the remote has.
    Unread,
}

/// How it ended.
#[derive(Debug, Default)]
pub(super) struct End {
    /// The newest version; `None` if there is none yet.
    pub(super) version: Option<String>,
    /// Where versions go, if it is not the name that was asked for.
    pub(super) fork: Option<String>,
    /// What is not in the remote, and why.
    pub(super) unsaved: Vec<String>,
    /// Another writer was faster, and that is why.
    pub(super) lost: bool,
    /// What else there is to tell.
    pub(super) notices: Vec<String>,
    /// Entries and bytes of what was saved last; `None` if that is not known.
    pub(super) saved: Option<(u64, u64)>,
}

impl End {
    /// How it went.
    pub(super) fn sentence(&self) -> String {
        match (&self.version, self.saved) {
            (None, _) => "nothing is there to save".to_owned(),
            (Some(version), None) => format!("everything is saved: version {version}"),
            (Some(version), Some((0, _))) => format!("nothing changed since version {version}"),
            (Some(version), Some((entries, sent))) => {
                format!("saved as version {version}: {entries} entries, {}", bytes(sent))
            }
        }
    }
}

impl Start {
    /// Makes the directory usable.
    pub(super) fn start(self) -> Result<Kept> {
        if self.way == Way::Directory {
            let session = Session::open(&self.settings, self.stray, &self.status())?;
            return Ok(Kept::Restored(Box::new(session)));
        }
        let context = Context { output: super::output(self.json), environment: Environment::of_process() };
        let started = |pid| {
            let _the_first = self.daemon.set(pid);
        };
        match mount::start(&self.settings, started, &context)?.and_then(|_| self.daemon.get()) {
            Some(pid) => Ok(Kept::Mounted(*pid)),
            None => Err(Error::new(ErrorKind::Unavailable, "a signal ended the start")),
        }
    }

    fn status(&self) -> StatusPipe {
        status(self.json)
    }
}

/// Tells a person how a restore goes.
fn status(json: bool) -> StatusPipe {
    let mut phase = String::new();
    StatusPipe::new(Box::new(move |line| {
        let output = super::output(json);
        match line {
            StartupLine::Progress(progress) if progress.phase != phase => {
                phase.clone_from(&progress.phase);
                View::new(&output).show(progress);
            }
            StartupLine::Notice(text) => output.say(&safe(text)),
            _ => {}
        }
    }))
}

/// Whether a start failed because the remote cannot be read.
pub(super) fn unreadable(settings: &MountSettings, error: Error) -> (bool, Error) {
    if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied) {
        return (false, error);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return (false, error) };
    let read = runtime.block_on(async {
        let store = open_configured(&settings.remote, &settings.s3, Arc::default()).await?;
        read_head(&*store, settings.name.as_str()).await.map_err(Error::from)
    });
    match read {
        Ok(_) => (false, error),
        Err(cause) => (true, cause),
    }
}

impl Kept {
    /// The process that shows it.
    pub(super) fn daemon(&self) -> Option<Pid> {
        match self {
            Self::Mounted(pid) => Some(*pid),
            _ => None,
        }
    }

    /// Saves what changed.
    pub(super) fn end(self, settings: &MountSettings, hurry: &Hurry, json: bool) -> Result<End> {
        match self {
            Self::Mounted(pid) => unmount(settings, pid),
            Self::Restored(session) => session.save(hurry.limit()).map(End::from),
            Self::Unread => {
                let session = Session::open_late(settings, &status(json))?;
                session.save(hurry.limit()).map(End::from)
            }
        }
    }
}

impl From<Saved> for End {
    fn from(saved: Saved) -> Self {
        let restless = "something was written while it was saved: this version may not be of one instant";
        let restless = saved.restless.then(|| restless.to_owned());
        let merged = saved.merge.as_ref().map(ToString::to_string);
        Self {
            version: saved.version,
            fork: saved.fork,
            lost: false,
            unsaved: saved.stuck.iter().map(|(path, why)| format!("{path}: {why}")).collect(),
            notices: merged.into_iter().chain(restless).collect(),
            saved: Some(if saved.committed { (saved.entries, saved.bytes) } else { (0, 0) }),
        }
    }
}

fn unmount(settings: &MountSettings, daemon: Pid) -> Result<End> {
    let process = pidfd_open(daemon, PidfdFlags::empty()).ok();
    let mut client = Client::connect(&settings.socket()).inspect_err(|_| {
        // It has died. What was written is in the directory.
        if locate::is_dead_mount(&settings.dir) {
            drop(locate::detach_dead_mount(&settings.dir));
        }
    })?;
    let reply = client.unmount()?;
    if reply.unsaved_total == 0 && !reply.unmounted {
        // It is saved; processes of the command hold the mount. It goes with its daemon, which ends with us.
        let _gone = rustix::process::kill_process(daemon, rustix::process::Signal::TERM);
    }
    if let Some(process) = process {
        let _at_most_so_long = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&EXIT_MAX));
    }
    let path = |path: &std::path::Path| crate::cli::output::safe_path(path);
    let unsaved = reply.unsaved.iter().map(|entry| match &entry.reason {
        Some(why) => format!("{}: {why}", path(&entry.path)),
        None => path(&entry.path),
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
