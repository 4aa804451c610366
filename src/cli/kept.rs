//! [`Kept`]: a directory while a command runs on it, mounted or not.
mod mounted;
mod unread;

pub(super) use unread::{ANSWER_MAX, UNREADABLE, Unreadable, unreadable};

use super::flags::{Flags, MountScope};
use super::mount::Waiting;
use super::output::{bytes, safe, safe_path};
use super::progress::View;
use super::{Context, Output, mount};
use crate::config::{Environment, Merged, MountSettings, place};
use crate::serve::directory::{Claim, Saved, Session, Stray};
use crate::serve::run::probe::Way;
use crate::serve::startup::{StartupLine, StatusPipe};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use mounted::Mounted;
use rustix::process::Pid;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use unread::Unread;

/// Where functions may write.
const FUNCTION_DIR: &str = "/tmp";
/// What a start needs.
pub(super) struct Start {
    pub(super) settings: MountSettings,
    pub(super) way: Way,
    pub(super) stray: Stray,
    pub(super) json: bool,
    /// When a remote is not waited for any longer that has not even said what it has. Who mounts waits.
    pub(super) answer: Option<Instant>,
    /// The process that shows it, as soon as there is one.
    pub(super) daemon: Arc<OnceLock<Pid>>,
}

/// See the module.
pub(super) struct Kept {
    settings: MountSettings,
    #[cfg_attr(not(feature = "lambda"), allow(dead_code, reason = "only a function begins anew"))]
    stray: Stray,
    json: bool,
    /// Held while it is saved: by one at a time.
    turn: Mutex<()>,
    /// A newer version cannot come beneath files that are open; what is here can be saved still.
    #[cfg(feature = "lambda")]
    barred: AtomicBool,
    /// The end has nothing to save: what differs is of programs that were open, and nobody was told of it.
    left: AtomicBool,
    /// Never held for long, so that it can be asked how things are while it is saved.
    state: Mutex<State>,
}

#[derive(Clone)]
enum State {
    /// A daemon shows it.
    Mounted(Arc<Mounted>),
    /// It was restored.
    Restored(Arc<Session>),
    /// Nobody knows what the remote has.
    Unread(Arc<Unread>),
}

/// What an end has to know of the command.
#[derive(Debug, Clone, Copy)]
pub(super) struct After {
    /// Processes of it still run, which may write what nobody sees.
    pub(super) left_behind: bool,
    /// There has to be a version, if only of an empty directory: it is to have a tag.
    pub(super) wants_version: bool,
}

/// How a save went, or the end.
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
        let state = if self.way == Way::Directory {
            if self.settings.tables.is_some() {
                Output::of_process(self.json).warn("tables are shown by a mount alone, and this is none");
            }
            let claim = Claim::take(&self.settings)?;
            State::Restored(Arc::new(claim.start(self.stray, self.answer, &status(self.json))?))
        } else {
            let context =
                Context { output: Output::of_process(self.json), environment: Environment::of_process() };
            let started = |pid| {
                let _the_first = self.daemon.set(pid);
            };
            let settings = MountSettings { owner: Some(std::process::id()), ..self.settings.clone() };
            match mount::start(&settings, started, &context)?.and_then(|_| self.daemon.get()) {
                Some(pid) => State::Mounted(Arc::new(Mounted::by(*pid, &self.settings))),
                None => return Err(Error::new(ErrorKind::Unavailable, "a signal ended the start")),
            }
        };
        Ok(Kept::new(self.settings, self.stray, self.json, state))
    }
}

/// The settings of a directory: the one that is given, that of the environment, or that of a function. A daemon that still
/// has it, and ends by itself, is waited for by `waiting`.
pub(super) fn settings(
    given: Option<&Path>,
    flags: &Flags<MountScope>,
    waiting: Waiting<'_>,
    context: &Context,
) -> Result<(MountSettings, Merged)> {
    let is_function = context.environment.get("AWS_LAMBDA_FUNCTION_NAME").is_some();
    let dir =
        given.map(Path::to_owned).or_else(|| context.environment.get("ICECACHE_DIR").map(PathBuf::from));
    let dir = dir.or_else(|| is_function.then(|| PathBuf::from(FUNCTION_DIR))).ok_or_else(|| {
        let message = "which directory is to be kept? give --dir DIR, or set ICECACHE_DIR";
        Error::new(ErrorKind::Invalid, message)
    })?;
    // A sandbox begins with an empty /tmp. Where there is a state that outlives the directory it is not made: an empty one
    // would be one of which everything was removed.
    if is_function && !dir.exists() && !has_state(&dir, flags, context)? {
        make(&dir)?;
    }
    let dir = mount::directory(&dir, waiting, context)?;
    let mut merged = flags.merge(context, Some(&dir))?;
    if is_function {
        // Instances of it come and go, some at once.
        merged.prefer("on-conflict", "merge");
    }
    if context.environment.get("AWS_LAMBDA_RUNTIME_API").is_some() && merged.get("remote").is_none() {
        let message = "a function needs a remote: set S3_BUCKET (and S3_PREFIX), or ICECACHE_REMOTE; the usual place without \
                       one is a directory of the sandbox, and goes with it";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    if merged.get("state-dir").is_none() && !has_place_for_state(&dir, context) {
        merged.derive("state-dir", place::NO_STATE);
    }
    let settings = MountSettings::resolve(&dir, &mut merged, &context.environment, false)?;
    if settings.is_of_tables_only() {
        let message = "a command runs on a directory that is kept: leave --tables-only out";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    if settings.keeps_state() {
        mount::prepare(&settings)?;
    }
    Ok((settings, merged))
}

fn has_state(dir: &Path, flags: &Flags<MountScope>, context: &Context) -> Result<bool> {
    Ok(match flags.merge(context, None)?.get("state-dir") {
        Some(given) => given.value != place::NO_STATE,
        None => place::default_state_dir(dir, &context.environment).is_ok_and(|state| state.exists()),
    })
}

fn make(dir: &Path) -> Result<()> {
    let made = std::fs::create_dir_all(dir);
    made.map_err(|e| Error::io(format!("cannot make directory: {}", safe_path(dir)), e))
}

/// Whether the usual place for the state of a directory can be written, and is not in the directory.
fn has_place_for_state(dir: &Path, context: &Context) -> bool {
    let Ok(state) = place::default_state_dir(dir, &context.environment) else { return false };
    if place::overlap(&state, dir) {
        return false;
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&state).is_ok();
    made && rustix::fs::access(&state, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// Tells a person how a restore goes.
fn status(json: bool) -> StatusPipe {
    let mut phase = String::new();
    StatusPipe::new(Box::new(move |line| {
        let output = Output::of_process(json);
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

impl Kept {
    /// A directory whose state in the remote cannot be read.
    pub(super) fn unread(settings: &MountSettings, stray: Stray, json: bool) -> Result<Self> {
        let state = State::Unread(Arc::new(Unread::claim(settings)?));
        Ok(Self::new(settings.clone(), stray, json, state))
    }

    fn new(settings: MountSettings, stray: Stray, json: bool, state: State) -> Self {
        Self {
            settings,
            stray,
            json,
            turn: Mutex::default(),
            #[cfg(feature = "lambda")]
            barred: AtomicBool::new(false),
            left: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// What there is to work with, for who has the turn. Others must not: what is let go of meanwhile ends with the last who
    /// has it, and it has threads that are waited for.
    fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Whether it is one.
    #[cfg(feature = "lambda")]
    pub(super) fn is_unread(&self) -> bool {
        matches!(&*self.state.lock(), State::Unread(_))
    }

    /// The process that shows it.
    pub(super) fn daemon(&self) -> Option<Pid> {
        match &*self.state.lock() {
            State::Mounted(mounted) => Some(mounted.daemon),
            _ => None,
        }
    }

    /// Saves what changed. If nobody could read the remote before, that is tried again first.
    pub(super) fn save(&self, limit: Option<Instant>) -> Result<End> {
        let _turn = self.turn.lock();
        match self.state() {
            State::Mounted(_) => mounted::flush(&self.settings, limit),
            State::Restored(session) => session.save(limit).map(End::from),
            State::Unread(unread) => {
                let (session, saved) = unread.save(limit, self.json)?;
                *self.state.lock() = State::Restored(Arc::new(session));
                Ok(saved)
            }
        }
    }

    /// Saves what changed, and unmounts.
    pub(super) fn end(&self, limit: Option<Instant>, after: After) -> Result<End> {
        if let State::Mounted(mounted) = self.state() {
            return mounted.end(&self.settings, limit, after);
        }
        if let (true, State::Restored(session)) = (self.left.load(Ordering::Acquire), self.state()) {
            return Ok(End { version: session.version(), ..End::default() });
        }
        self.save(limit)
    }

    /// Puts in order what saves have left in the remote, until `limit`, if there is one. A mount does that by itself, until
    /// its daemon ends.
    pub(super) fn tidy(&self, limit: Option<Instant>) {
        match self.state() {
            State::Mounted(mounted) => mounted.wait(limit),
            State::Restored(session) => {
                session.tidy_until(limit);
                let _turn = self.turn.lock();
                session.tidy();
            }
            State::Unread(_) => {}
        }
    }
}

#[cfg(feature = "lambda")]
impl crate::lambda::Keep for Kept {
    fn save(&self, limit: Option<Instant>) -> Result<()> {
        let end = Self::save(self, limit)?;
        for notice in end.notices.iter().chain(&end.unsaved) {
            tracing::warn!("{}", safe(notice));
        }
        if let Some(fork) = &end.fork {
            tracing::warn!("{}", super::forked(fork));
        }
        match end.unsaved.first() {
            None => Ok(()),
            Some(first) => {
                let more = end.unsaved.len() - 1;
                let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
                Err(Error::new(ErrorKind::Io, format!("not everything is saved: {first}{more}")))
            }
        }
    }

    fn tidy(&self) {
        let _turn = self.turn.lock();
        if let State::Restored(session) = self.state() {
            session.tidy();
        }
    }

    fn tidy_until(&self, limit: Option<Instant>) {
        if let State::Restored(session) = self.state() {
            session.tidy_until(limit);
        }
    }

    fn renew(&self, limit: Option<Instant>) -> Result<()> {
        let _turn = self.turn.lock();
        let renewed = match self.state() {
            State::Mounted(_) => None, // it finds out when it saves
            State::Restored(session) => {
                let renewed = session.anew(&status(self.json), limit);
                if renewed.as_ref().is_err_and(|e| e.kind() == ErrorKind::Busy) {
                    self.barred.store(true, Ordering::Release);
                }
                Some(renewed?)
            }
            State::Unread(unread) => unread.restore(self.stray, limit, self.json)?,
        };
        if let Some(renewed) = renewed {
            *self.state.lock() = State::Restored(Arc::new(renewed));
        }
        Ok(())
    }

    fn is_torn(&self) -> bool {
        match &*self.state.lock() {
            State::Mounted(_) => false,
            State::Restored(session) => session.is_torn() || self.barred.load(Ordering::Acquire),
            State::Unread(unread) => unread.is_overtaken(),
        }
    }

    fn leave(&self) {
        // Otherwise a save says itself why it cannot be one.
        self.left.store(self.barred.load(Ordering::Acquire), Ordering::Release);
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
