//! `icecache exec [--dir DIR] -- COMMAND…`: restores a directory, runs a command on it, saves it at its end.
#[cfg(feature = "lambda")]
mod function;
#[cfg(not(feature = "lambda"))]
#[path = "exec/functionless.rs"]
mod function;

use super::flags::{Flags, MountScope};
use super::kept::{self, After, End, Kept, Unreadable};
use super::mount::Orphan;
use super::output::{safe, safe_os, safe_path};
use super::{Context, Exit, locate, mount, offline};
use crate::config::{MountSettings, OnConflict, RemoteSettings, Scan, text, words};
use crate::serve::directory::Stray;
use crate::serve::run::probe::{Probe, Step, Way, probe};
use crate::serve::run::{Ended, Grace, SpawnError, Supervisor, namespace, tidying_until};
use crate::{Error, ErrorKind, Result};
use function::Function;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The time from SIGTERM to the end, unless it is given.
const GRACE: Duration = Duration::from_secs(10);
/// How long a process may take to end that was killed.
const EXIT_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

#[derive(Debug, clap::Args)]
pub struct Exec {
    /// The directory [default: $ICECACHE_DIR; in a function /tmp]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Mount the directory; or restore and scan it; or mount it where that works
    #[arg(long, env = "ICECACHE_MODE", value_name = "auto|mount|directory", default_value = "auto")]
    mode: Mode,
    /// After SIGTERM end within this time: half of it is for the command, the rest for saving [default: 10s; in a
    /// function 1.5s, of which the command has 0.25s]
    #[arg(long, env = "ICECACHE_GRACE", value_name = "TIME", value_parser = text::duration)]
    grace: Option<Duration>,
    /// Give the version at the end this tag
    #[arg(long)]
    tag: Option<String>,
    /// Without a mount: what to do with files that are there and that the version does not have
    #[arg(long, env = "ICECACHE_STRAY", value_name = "keep|delete", default_value = "keep")]
    stray: Stray,
    /// If the remote cannot be read at the start: run the command without its state and save nothing over it,
    /// or do not run it
    #[arg(long, env = "ICECACHE_UNREADABLE", value_name = "run|fail", default_value = "run")]
    unreadable: Unreadable,
    #[command(flatten)]
    flags: Flags<MountScope>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

words! {
    /// How the directory is kept.
    Mode {
        /// Mounted if that can be done.
        Auto = "auto",
        /// Mounted.
        Mount = "mount",
        /// Restored before, scanned and saved after.
        Directory = "directory",
    }
}

/// The words of --mode.
pub(super) const MODES: &[&str] = Mode::WORDS;

impl Exec {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let began = Instant::now();
        // First of all: no thread may be there yet.
        let mut supervisor = Supervisor::begin(self.grace(context))?;
        // By its name, as long as it has one: a mount of before that covers it may go.
        let here = std::env::current_dir().ok();
        match self.supervised(&mut supervisor, (began, here), context) {
            // As with `env` or `nice`: the codes below are the command's.
            Err(e) => {
                context.output.error(&e);
                Ok(Exit::ExecFailed)
            }
            done => done,
        }
    }

    fn grace(&self, context: &Context) -> Grace {
        match self.grace {
            Some(given) => Grace::halved(given),
            None => Function::grace(context).unwrap_or(Grace::halved(GRACE)),
        }
    }

    fn supervised(
        self,
        supervisor: &mut Supervisor,
        (began, here): (Instant, Option<PathBuf>),
        context: &Context,
    ) -> Result<Exit> {
        require_proc()?;
        let function = Function::of(context)?;
        // A signal is heard meanwhile.
        let mut waiting = |orphan: Orphan| {
            let ended = supervisor.until_asked_to_end(move || orphan.wait(), || ())?;
            ended.ok_or_else(signalled)
        };
        let (settings, merged) = kept::settings(self.dir.as_deref(), &self.flags, &mut waiting, context)?;
        // What the command before has left running may have written since.
        let settings = MountSettings { scan: Scan::Always, ..settings };
        if let Some(tag) = &self.tag {
            offline::check_tag(settings.layout, tag)?;
        }
        let (way, why) = self.way(&settings)?;
        if way == Way::Directory && settings.backing.is_some() {
            let message = "without a mount the files are in the directory itself: leave --backing out";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if way == Way::Private {
            namespace::enter()?;
        }
        mount::announce(&settings, mount::is_default(&merged, "remote"), context);
        context.output.say(&safe(&said_of(way, why.as_deref())));

        let daemon: Arc<OnceLock<Pid>> = Arc::default();
        let (stray, json) = (self.stray, context.output.json);
        let of_function = function.is_some();
        let (given, of_start) = (settings.clone(), daemon.clone());
        let start = move || {
            if of_function {
                Function::claim(&given.dir);
            }
            let answer = of_function.then(|| Instant::now() + kept::ANSWER_MAX);
            let settings = given.clone();
            let start = kept::Start { settings, way, stray, json, answer, daemon: of_start };
            start.start().map_err(|e| kept::unreadable(&given, e, answer, json))
        };
        // Nothing is to be saved yet, and a restore may be cut off anywhere. A daemon would first bring it to its end.
        let stop = || {
            let _gone_already = daemon.get().map(|pid| kill_child(*pid));
        };
        let started = supervisor.until_asked_to_end(start, stop)?;
        let mut is_read = true;
        let kept = match started {
            None => {
                if locate::is_dead_mount(&settings.dir) {
                    locate::detach_dead_mount(&settings.dir)?;
                }
                return Err(signalled());
            }
            Some(Ok(kept)) => kept,
            Some(Err((true, e))) if self.unreadable == Unreadable::Run => {
                context.output.error(&e);
                context.output.warn(kept::UNREADABLE);
                is_read = false;
                Kept::unread(&settings, stray, json)?
            }
            Some(Err((_, e))) => return Err(e),
        };
        let kept = Arc::new(kept);
        supervisor.owns(kept.daemon());
        let is_mounted = kept.daemon().is_some();
        let mut command = self.command(way, here);
        let proxied = function.map(|function| function.stand_before(&mut command, &kept)).transpose()?;
        let ended = supervisor.run(&mut command);
        let after = After {
            left_behind: ended.as_ref().is_ok_and(|ended| ended.left_behind),
            wants_version: self.tag.is_some(),
        };
        let (ending, hurry) = (kept.clone(), supervisor.hurry());
        let limit = hurry.limit();
        let end = supervisor.during(move || {
            if let Some(proxied) = proxied {
                proxied.finish();
            }
            ending.end(hurry.limit(), after)
        })?;
        let tidies = is_mounted || matches!(end, Some(Ok(_)));
        // Who comes second may have chosen to lose that; nobody has chosen to work without the state.
        let may_lose = is_read && settings.on_conflict == OnConflict::ReadOnly;
        let exit = self.report(&ended, end, (may_lose, &settings), supervisor, context)?;
        // Who asks for the end when only saving is left asks for no more than that.
        if tidies && supervisor.hurry().limit() == limit {
            // Nobody waits for that: neither its failure nor a signal changes how it ended.
            let until = tidying_until(began, settings.unmount_timeout);
            let _cut_short = supervisor.until_asked_to_end(move || kept.tidy(Some(until)), || ());
        }
        Ok(exit)
    }

    /// What is to be done, and why not something better.
    fn way(&self, settings: &MountSettings) -> Result<(Way, Option<String>)> {
        if self.mode == Mode::Directory {
            return Ok((Way::Directory, None));
        }
        if !settings.keeps_state() {
            let why = "no place for a state directory, so it is kept in memory (--state-dir)".to_owned();
            return match self.mode {
                Mode::Mount => Err(Error::new(ErrorKind::Unsupported, format!("cannot mount: {why}"))),
                _ => Ok((Way::Directory, Some(why))),
            };
        }
        let probe = self.kept_whole(probed(settings), settings);
        let why = probe.reason();
        if probe.way == Way::Directory && self.mode == Mode::Mount {
            let message = format!("cannot mount: {}", why.unwrap_or_default());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok((probe.way, why))
    }

    /// `probe`, but no namespace in which files of others would look like nobody's, and be saved so.
    fn kept_whole(&self, mut probe: Probe, settings: &MountSettings) -> Probe {
        if probe.way == Way::Private
            && let Some(path) = namespace::displaced(&settings.dir)
        {
            let detail = format!("it has no place for the owner or the group of {}", safe_path(&path));
            probe.steps.push(Step { what: "keep owners in a private namespace", ok: false, detail });
            probe.way = Way::Directory;
        }
        probe
    }

    fn command(&self, way: Way, here: Option<PathBuf>) -> Command {
        let mut arguments = self.command.iter();
        let mut command = Command::new(arguments.next().map(OsString::as_os_str).unwrap_or_default());
        command.args(arguments);
        // Beneath the mount, if there is one now, not beside it.
        if let Some(here) = here.filter(|here| here.is_dir()) {
            command.current_dir(here);
        }
        if way == Way::Private {
            // SAFETY: between fork and exec one system call is made.
            unsafe { command.pre_exec(namespace::give_up) };
        }
        command
    }

    fn report(
        &self,
        ended: &std::result::Result<Ended, SpawnError>,
        end: Option<Result<End>>,
        (may_lose, settings): (bool, &MountSettings),
        supervisor: &mut Supervisor,
        context: &Context,
    ) -> Result<Exit> {
        let output = &context.output;
        let (exit, said) = match ended {
            Ok(ended) => (Exit::Command(ended.code), format!("the command ended with {}", ended.code)),
            Err(error) => {
                let (exit, why) = match error {
                    SpawnError::NotFound(e) => (Exit::NoSuchCommand, e),
                    SpawnError::Refused(e) => (Exit::CannotRun, e),
                };
                let said = match self.command.first().filter(|name| !name.is_empty()) {
                    Some(program) => format!("the command could not be run: {}: {why}", safe_os(program)),
                    None => "the command could not be run: it is empty".to_owned(),
                };
                output.warn(&said);
                (exit, said)
            }
        };
        let failed = |why: &str| {
            output.warn(&format!("not everything is saved: {why}; {said}"));
            Ok(Exit::ExecFailed)
        };
        let end = match end {
            None => return failed("the time was up (--grace)"),
            Some(Err(e)) if e.kind() == ErrorKind::Conflict && may_lose => {
                output.warn(&format!(
                    "nothing is saved, it is in {}: {}",
                    safe_path(&settings.dir),
                    safe(&e.to_string())
                ));
                return Ok(exit);
            }
            Some(Err(e)) => {
                output.error(&e);
                return failed(&format!("what changed is in {}", safe_path(&settings.dir)));
            }
            Some(Ok(end)) => end,
        };
        if let Some(fork) = &end.fork {
            output.warn(&super::forked(fork));
        }
        for notice in &end.notices {
            output.warn(&safe(notice));
        }
        if ended.as_ref().is_ok_and(|ended| ended.left_behind) {
            output.warn("processes of the command still run; what they write from now on the next exec or mount saves");
        }
        if !end.unsaved.is_empty() {
            for line in &end.unsaved {
                output.say(&format!("not saved: {}", safe(line)));
            }
            if end.lost && may_lose {
                return Ok(exit);
            }
            return failed(&format!("{} entries", end.unsaved.len()));
        }
        output.say(&safe(&end.sentence()));
        if let Err(e) = self.tag(&end, settings, supervisor) {
            output.error(&e);
            output.warn(&format!("the version has no tag; {said}"));
            return Ok(Exit::ExecFailed);
        }
        Ok(exit)
    }

    /// Gives the version at the end its tag, while signals are heeded.
    fn tag(&self, end: &End, settings: &MountSettings, supervisor: &mut Supervisor) -> Result<()> {
        let Some(tag) = self.tag.clone() else { return Ok(()) };
        let Some(version) = &end.version else {
            return Err(Error::new(ErrorKind::NotFound, "there is no version that could have the tag"));
        };
        let name = match &end.fork {
            Some(fork) => fork.parse().map_err(|e: String| Error::new(ErrorKind::Invalid, e))?,
            None => settings.name.clone(),
        };
        let remote = RemoteSettings { name, ..settings.remote_settings() };
        let choice = offline::Choice::of(Some(version.clone()));
        let tagged = supervisor.during(move || offline::tag(&remote, &tag, Some(&choice)).map(drop))?;
        tagged.unwrap_or_else(|| {
            let message = "the time was up (--grace) before the version at the end had its tag: 'icecache tag' gives it one";
            Err(Error::new(ErrorKind::Io, message))
        })
    }
}

/// What the command leaves could not be read without it, nor a daemon be started.
fn require_proc() -> Result<()> {
    if Path::new("/proc/self/fd").exists() {
        return Ok(());
    }
    let message =
        "/proc is not mounted, and nothing can be saved without it: mount it (mount -t proc proc /proc)";
    Err(Error::new(ErrorKind::Unsupported, message))
}

fn signalled() -> Error {
    Error::new(ErrorKind::Unavailable, "a signal ended the start")
}

/// Kills a process and waits for its end, if it is a child of ours: one that has ended may be reaped by now, and its number
/// be another's.
fn kill_child(pid: Pid) -> std::io::Result<()> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    if parent != Some(std::process::id()) {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    pidfd_send_signal(&process, Signal::KILL)?;
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&EXIT_MAX))?;
    Ok(())
}

/// Tries to mount, on an empty directory that nobody sees.
fn probed(settings: &MountSettings) -> Probe {
    let place = settings.state_dir.join("probe");
    let _there_already = fs::DirBuilder::new().recursive(true).mode(0o700).create(&place);
    probe(Ok(&place))
}

/// One line: what is done, and what failed before.
fn said_of(way: Way, why: Option<&str>) -> String {
    let what = match way {
        Way::Mount => "mode mount",
        Way::Private => "mode mount, in a namespace of the command's own",
        Way::Directory => "mode directory: restored and scanned, not mounted",
    };
    match why {
        Some(why) => format!("{what} ({why})"),
        None => what.to_owned(),
    }
}
