//! `icecache mount DIR`: prepares the settings, starts the daemon, returns when the mount is usable.
mod dying;
mod forwarding;
mod orphan;

pub(super) use orphan::{Orphan, Waiting};

use super::flags::{Flags, MountScope};
use super::locate;
use super::output::{safe, safe_path};
use super::progress::View;
use super::{Context, Exit};
use crate::config::{Choice, Merged, MountSettings, Origin};
use crate::serve::registry::{Found, Registry};
use crate::serve::startup::{Ended, Ready, StartupLine, StatusPipe};
use crate::{Error, ErrorKind, Result};
use forwarding::Forwarding;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

/// A longer log is set aside (once) before a daemon starts.
const LOG_MAX_BYTES: u64 = 16 << 20;

/// What is shown of the log of a daemon that did not start.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 8 << 10;

#[derive(Debug, clap::Args)]
pub struct Mount {
    /// The directory
    dir: PathBuf,
    /// Stay in the foreground, log to stderr
    #[arg(long, short = 'f')]
    foreground: bool,
    /// Show this version or tag ('icecache log' lists them), read-only; what the directory has is hidden meanwhile
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Like --version: the newest one that is not after this time: RFC 3339, or how long ago (30m, 2h, 7d)
    #[arg(long, value_name = "TIME", conflicts_with = "version")]
    at: Option<String>,
    #[command(flatten)]
    flags: Flags<MountScope>,
}

impl Mount {
    pub fn run(self, context: &Context) -> Result<Exit> {
        crate::serve::can_mount()?;
        let shown = match (&self.version, &self.at) {
            (Some(version), _) => Some(Choice::Version(version.clone())),
            (None, Some(time)) => Some(Choice::at(time, jiff::Timestamp::now())?),
            (None, None) => None,
        };
        let dir = directory(&self.dir, &mut |orphan| Ok(orphan.wait()), context)?;
        let mut merged = self.flags.merge(context, Some(&dir))?;
        let settings = MountSettings::resolve(&dir, &mut merged, &context.environment, self.foreground)?;
        let typed = |key: &str| merged.get(key).is_some_and(|value| matches!(value.origin, Origin::Flag(_)));
        let settings = match shown {
            Some(_) if settings.is_of_tables_only() || ["catalog", "table"].into_iter().any(typed) => {
                let message = "--version and --at are of a directory, --catalog, --table and --tables-only show \
                               tables: give one of them";
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            // Who looks at a version seldom wants a second copy of all of it.
            Some(version) => settings.showing(version, !is_default(&merged, "no-prefetch")),
            None if settings.is_of_tables_only() => settings.showing_tables_only(),
            None => settings,
        };
        prepare(&settings)?;
        announce(&settings, is_default(&merged, "remote"), context);
        let shows = settings.shows.is_some();
        let log = format!("icecache log --remote {} --name {}", safe(&settings.remote), settings.name);
        let done = if self.foreground {
            in_foreground(settings, context)
        } else {
            in_background(&settings, context)
        };
        if shows && done.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid))
        {
            context.output.say(&format!("the versions that there are: {log}"));
        }
        done
    }
}

/// The directory that was typed, canonical, once no icecache shows it and no dead mount hides it. One that ends by itself
/// is waited for by `waiting`.
pub(super) fn directory(dir: &Path, waiting: Waiting<'_>, context: &Context) -> Result<PathBuf> {
    let registry = Registry::of(&context.environment);
    let dir = locate::canonical(dir, &registry)?;
    match registry.find(&dir) {
        // Of an `exec` that was killed. Numbers of processes say something only where they are those of here.
        Found::Running(entry, client)
            if client.daemon() == Some(entry.pid)
                && entry.is_orphaned()
                && Orphan::ends(&entry, waiting, context)? => {}
        // Its socket takes callers until the kernel has ended it.
        Found::Running(entry, client) if client.daemon() == Some(entry.pid) && dying::has_died(&entry) => {}
        Found::Running(entry, _) => {
            let message = format!("already mounted (pid {}): {}", entry.pid, dir.display());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        Found::Stale(_) | Found::Unknown => {}
    }
    let mut looked = fs::metadata(&dir);
    // It may be dying at this moment, so its own answer counts as well.
    if looked.as_ref().is_err_and(locate::is_of_dead_mount) || locate::is_dead_mount(&dir) {
        locate::detach_dead_mount(&dir)?;
        context.output.say(&format!("took away the mount of a dead daemon: {}", safe_path(&dir)));
        looked = fs::metadata(&dir);
    }
    match looked {
        Ok(there) if there.is_dir() => Ok(dir),
        Ok(_) => Err(Error::new(
            ErrorKind::Invalid,
            format!("there is no directory but a file: {}", dir.display()),
        )),
        Err(e) => Err(Error::io(format!("cannot use directory: {}", dir.display()), e)),
    }
}

pub(super) fn is_default(merged: &Merged, key: &str) -> bool {
    merged.get(key).is_some_and(|value| value.origin == Origin::Default)
}

/// Creates the state directory, for this user only. One that another user could change is refused:
/// what lies there is trusted.
pub(super) fn prepare(settings: &MountSettings) -> Result<()> {
    // That of a mount of a version or of tables lies in another one.
    let within = settings.shows.is_some() || settings.is_of_tables_only();
    let above = settings.state_dir.parent().filter(|_| within).map(Path::to_owned);
    let makes_above = above.as_ref().is_some_and(|dir| !dir.exists());
    for dir in above.iter().chain([&settings.state_dir, &settings.temp_dir()]) {
        let failed = |e| Error::io(format!("cannot use state directory: {}", dir.display()), e);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let there = fs::metadata(dir).map_err(failed)?;
        if there.uid() != rustix::process::geteuid().as_raw() || there.mode() & 0o002 != 0 {
            let message = format!("state directory can be changed by other users: {}", dir.display());
            return Err(Error::new(ErrorKind::Denied, message));
        }
    }
    if makes_above && settings.shows.is_some() {
        let failed = |e| Error::io(format!("cannot use: {}", settings.state_dir.display()), e);
        crate::serve::shown::made_above(&settings.state_dir).map_err(failed)?;
    }
    Ok(())
}

pub(super) fn announce(settings: &MountSettings, by_default: bool, context: &Context) {
    let note = if by_default { " (no remote is configured, so a directory of this machine)" } else { "" };
    if settings.is_of_tables_only() {
        announce_tables(settings, context);
        return;
    }
    if settings.shows.is_some() {
        let (dir, remote) = (safe_path(&settings.dir), safe(&settings.remote));
        context.output.say(&format!("{dir} is to show a version of {} in {remote}{note}", settings.name));
        return;
    }
    context.output.say(&format!(
        "{} is kept in {} as {}{note}",
        safe_path(&settings.dir),
        safe(&settings.remote),
        settings.name
    ));
    announce_tables(settings, context);
}

fn announce_tables(settings: &MountSettings, context: &Context) {
    let Some(tables) = &settings.tables else { return };
    let (dir, number) = (safe_path(&settings.dir), tables.catalogs.len());
    let catalogs = if number == 1 { "catalog" } else { "catalogs" };
    context.output.say(&format!("{dir} is to show the tables of {number} {catalogs}, read-only"));
}

fn report_ready(ready: &Ready, shows: bool, context: &Context) -> Result<()> {
    if context.output.json {
        return context.output.value(ready);
    }
    let mode = format!("{} ({})", safe(&ready.mode), safe(&ready.mode_reason));
    let what = match &ready.version {
        Some(version) if shows => format!("shows version {}, read-only", safe(version)),
        _ => "is ready".to_owned(),
    };
    context.output.say(&format!("{} {what}: {mode}, pid {}", safe_path(&ready.dir), ready.pid));
    if let Some(metrics) = ready.metrics {
        context.output.say(&format!("metrics are at http://{metrics}/metrics"));
    }
    if let Some(hints) = ready.hints {
        context.output.say(&format!("hints are taken at http://{hints}/tables/TABLE/refresh"));
    }
    Ok(())
}

/// Runs the daemon in this process.
fn in_foreground(settings: MountSettings, context: &Context) -> Result<Exit> {
    super::daemon::enter(&settings)?;
    let (json, shows) = (context.output.json, settings.shows.is_some());
    let mut phase = String::new();
    let status = StatusPipe::new(Box::new(move |line| {
        let output = super::Output::of_process(json);
        match line {
            StartupLine::Ready(ready) => {
                let context = Context { output, environment: Default::default() };
                let _ = report_ready(ready, shows, &context);
                let _ = context.output.finish();
            }
            StartupLine::Notice(text) => output.say(&safe(text)),
            // The log shares the terminal: a line for each phase, no bar.
            StartupLine::Progress(progress) if progress.phase != phase => {
                phase.clone_from(&progress.phase);
                output.say(&safe(&phase));
            }
            StartupLine::Progress(_) => {}
            StartupLine::Error(_) => {} // reported by the caller of the daemon
        }
    }));
    let dir = settings.dir.clone();
    match crate::serve::daemon::run(settings, &status)? {
        Ended::Saved => Ok(Exit::Done),
        Ended::Unsaved(count) => {
            context.output.warn(&format!("{count} entries are not saved; they are in {}", safe_path(&dir)));
            Ok(Exit::Unsaved)
        }
    }
}

fn in_background(settings: &MountSettings, context: &Context) -> Result<Exit> {
    match launch(settings, |child| Forwarding::to(child).map(Some), context)? {
        Some(ready) => {
            report_ready(&ready, settings.shows.is_some(), context)?;
            Ok(Exit::Done)
        }
        None => Ok(Exit::Interrupted),
    }
}

/// Starts the daemon as a process of its own, says which one, and waits until the mount is usable. Who calls it sees to
/// signals.
pub(super) fn start(
    settings: &MountSettings,
    started: impl FnOnce(Pid),
    context: &Context,
) -> Result<Option<Ready>> {
    let started = |child: &Child| {
        started(Pid::from_child(child));
        Ok(None)
    };
    launch(settings, started, context)
}

/// The same with signals that are forwarded meanwhile, if `watched` says so. `None`: one of them ended the start.
fn launch(
    settings: &MountSettings,
    watched: impl FnOnce(&Child) -> Result<Option<Forwarding>>,
    context: &Context,
) -> Result<Option<Ready>> {
    let (log, log_start) = open_log(&settings.log_file())?;
    let mut child = spawn(settings, log)?;
    let forwarding = watched(&child)?;
    let outcome = hand_over(&mut child, settings).and_then(|lines| wait_ready(lines, context));
    match outcome {
        Ok(Some(ready)) => return Ok(Some(ready)),
        Ok(None) if forwarding.as_ref().is_some_and(Forwarding::interrupted) => {
            let _ = reap(&mut child, forwarding);
            return Ok(None);
        }
        Ok(None) => {}
        Err(e) => {
            let _ = reap(&mut child, forwarding);
            context.output.say(&format!("the log is {}", safe_path(&settings.log_file())));
            return Err(e);
        }
    }
    // It ended without a word.
    let ended = reap(&mut child, forwarding).map_or_else(|e| e.to_string(), |status| status.to_string());
    for line in tail(&settings.log_file(), log_start) {
        context.output.say(&format!("log: {}", safe(&line)));
    }
    context.output.say(&format!("the log is {}", safe_path(&settings.log_file())));
    Err(Error::new(ErrorKind::Io, format!("daemon ended before the mount was usable: {ended}")))
}

/// Waits for the end of a daemon, to which signals go until then and no longer.
fn reap(child: &mut Child, forwarding: Option<Forwarding>) -> io::Result<ExitStatus> {
    let pid = Pid::from_child(child);
    let ended = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let _told_by_wait = rustix::io::retry_on_intr(ended);
    drop(forwarding);
    child.wait()
}

fn spawn(settings: &MountSettings, log: File) -> Result<Child> {
    let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    Command::new(program)
        .arg("daemon")
        .current_dir("/")
        .env("TMPDIR", settings.temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| Error::io("cannot start daemon", e))
}

/// Gives the daemon its settings (never by argv, which everybody can read) and returns its answers.
fn hand_over(child: &mut Child, settings: &MountSettings) -> Result<BufReader<ChildStdout>> {
    let broken = |e| Error::io("cannot talk to daemon", e);
    let missing = || broken(io::ErrorKind::BrokenPipe.into());
    let text = serde_json::to_vec(settings).map_err(|e| broken(e.into()))?;
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    match stdin.write_all(&text) {
        // It ended already; what it said is in its answers or its log.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(broken(e)),
        _ => {}
    }
    Ok(BufReader::new(child.stdout.take().ok_or_else(missing)?))
}

/// `None`: the daemon ended without a last word.
fn wait_ready(lines: BufReader<ChildStdout>, context: &Context) -> Result<Option<Ready>> {
    let mut view = View::new(&context.output);
    for line in lines.lines() {
        let line = line.map_err(|e| Error::io("cannot talk to daemon", e))?;
        match serde_json::from_str(&line) {
            Ok(StartupLine::Progress(progress)) => view.show(&progress),
            Ok(StartupLine::Notice(text)) => view.say(&safe(&text)),
            Ok(StartupLine::Ready(ready)) => return Ok(Some(ready)),
            Ok(StartupLine::Error(error)) => return Err(error.into()),
            Err(e) => return Err(Error::new(ErrorKind::Corrupt, "malformed word of daemon").with_source(e)),
        }
    }
    Ok(None)
}

/// Opens the log for appending and says how long it is.
fn open_log(path: &Path) -> Result<(File, u64)> {
    let failed = |e| Error::io(format!("cannot open log: {}", path.display()), e);
    if fs::metadata(path).is_ok_and(|m| m.len() > LOG_MAX_BYTES) {
        fs::rename(path, path.with_extension("log.1")).map_err(failed)?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(failed)?;
    let length = log.metadata().map_err(failed)?.len();
    Ok((log, length))
}

/// The last lines that were written since `start`.
fn tail(path: &Path, start: u64) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut log = File::open(path)?;
        let from = start.max(log.metadata()?.len().saturating_sub(TAIL_BYTES));
        log.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        log.take(TAIL_BYTES).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec()
}
