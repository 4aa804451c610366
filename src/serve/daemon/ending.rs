//! [`Ending`]: how a mount ends without losing anything, whoever asks for it.
use super::served::Served;
use crate::config::MountSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::serve::control::{UNSAVED_LISTED_MAX, UnmountReply, Unsaved};
use crate::serve::run::tidying_until;
use crate::serve::startup::{Ended, WireError};
use crate::state::absent::Source;
use crate::state::flusher::Flusher;
use crate::state::record::Records;
use crate::sync::{Condvar, Mutex};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a busy mount is tried again before it counts as busy: programs that were just closing
/// files, and the helper of the cut, let go within moments.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How long the final flush waits after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    /// Somebody asked for the end, by a signal.
    asked: bool,
    /// When the final flushes, before and after the unmount, give up together.
    deadline: Option<Instant>,
    /// The kernel has ended the mount.
    unmounted: bool,
    /// The end: what was said to everybody who asks.
    outcome: Option<UnmountReply>,
    /// Whom the mount was for waits no longer for what is done after that.
    hurried: bool,
}

/// What a mount is of.
pub enum Content {
    /// Of what may change: it is saved before the end.
    Living {
        /// Saves it.
        flusher: Arc<Flusher>,
        /// Learn that everything is saved.
        records: Arc<Records>,
    },
    /// Of this version, which nobody changes.
    Version(String),
}

/// The end of one mount. Owner of its lock.
pub struct Ending {
    settings: Arc<MountSettings>,
    served: Arc<Served>,
    content: Content,
    kept_in: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").finish_non_exhaustive()
    }
}

impl Ending {
    /// The end of `served`.
    pub fn new(settings: Arc<MountSettings>, served: Arc<Served>, content: Content) -> Self {
        let kept_in = settings.backing.as_ref().unwrap_or(&settings.dir).clone();
        Self { settings, served, content, kept_in, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Asks for the end, busy or not (a signal, or whom the mount was for is gone).
    pub fn begin(&self) {
        let mut state = self.state.lock();
        state.asked = true;
        if state.outcome.is_some() {
            state.hurried = true;
            self.give_up_at(Some(Instant::now()));
        }
        self.changed.notify_all();
    }

    /// The verb: flushes, then unmounts. While the directory is in use it stays mounted and the
    /// answer says so.
    pub fn unmount(&self) -> Result<UnmountReply> {
        let failure = self.flush_until(self.deadline()).err();
        let give_up = Instant::now() + BUSY_PATIENCE;
        while let Err(e) = self.served.unmount(false) {
            if e.raw_os_error() != Some(rustix::io::Errno::BUSY.raw_os_error())
                && e.kind() != std::io::ErrorKind::ResourceBusy
            {
                return Err(Error::io(format!("cannot unmount {}", self.settings.dir.display()), e));
            }
            if Instant::now() > give_up {
                let message =
                    format!("still in use: {} (lsof or fuser tells by whom)", self.settings.dir.display());
                let busy = Error::new(ErrorKind::Busy, message);
                self.state.lock().deadline = None; // it goes on; the next end has its own
                self.give_up_at(None);
                self.be_patient();
                return Ok(self.reply(false, Some(failure.as_ref().unwrap_or(&busy))));
            }
            std::thread::sleep(BUSY_PAUSE);
        }
        let give_up = Instant::now() + BUSY_PATIENCE;
        let mut state = self.state.lock();
        while !state.unmounted && !self.changed.wait_until(&mut state, give_up).timed_out() {}
        // It lives on where nobody can unmount it from here: in another mount namespace, as of a container.
        state.asked |= !state.unmounted;
        self.changed.notify_all();
        loop {
            if let Some(outcome) = &state.outcome {
                return Ok(outcome.clone());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits for the end, however it comes, and completes it.
    pub fn wait(self: &Arc<Self>) -> Result<Ended> {
        let watched = self.clone();
        let watcher = std::thread::Builder::new().name("unmounted".into()).spawn(move || {
            let served = watched.served.wait_unmounted();
            if let Err(e) = &served {
                tracing::error!(error = %e, "the mount ended by a failure");
            }
            watched.state.lock().unmounted = true;
            watched.changed.notify_all();
        });
        watcher.map_err(|e| Error::io("cannot start thread", e))?;
        let mut detached = false;
        loop {
            {
                let mut state = self.state.lock();
                while !state.unmounted && (detached || !state.asked) {
                    self.changed.wait(&mut state);
                }
                if state.unmounted {
                    break;
                }
            }
            // A signal: save while files can still be held, then go, even from under somebody.
            let _failed = self.flush_until(self.deadline());
            if self.served.unmount(false).is_err()
                && let Err(e) = self.served.unmount(true)
            {
                tracing::error!(error = %e, "cannot unmount");
            }
            detached = true;
            if self.is_detached_but_used() {
                tracing::warn!("programs still use the directory; what they write from now on is not saved");
                break;
            }
        }
        Ok(self.complete())
    }

    /// Detached, but programs keep it alive: the session will not end while they do.
    fn is_detached_but_used(&self) -> bool {
        let give_up = Instant::now() + BUSY_PATIENCE;
        let mut state = self.state.lock();
        while !state.unmounted {
            if self.changed.wait_until(&mut state, give_up).timed_out() {
                return true;
            }
        }
        false
    }

    /// The last flush, of what came between the one before and the end of the mount.
    fn complete(&self) -> Ended {
        self.served.stop_flusher();
        if let Some(hydrator) = self.served.hydrator() {
            hydrator.stop();
        }
        // Gone already, unless the connection was ended otherwise (umount -f, a failed transport): then
        // a dead mount would hide the files.
        if let Err(error) = self.served.unmount(true) {
            tracing::warn!(%error, "cannot take the dead mount away");
        }
        let failure = self.flush_until(self.deadline()).err();
        let reply = self.reply(true, failure.as_ref());
        let ended = match reply.unsaved_total {
            0 => Ended::Saved,
            count => Ended::Unsaved(count),
        };
        if let (Ended::Saved, Content::Living { records, .. }) = (&ended, &self.content) {
            self.close(records);
            self.served.save_learned();
        }
        if let Ended::Unsaved(count) = ended {
            tracing::error!(count, kept_in = %self.kept_in.display(),
                "entries are not in the remote; the next mount here saves them");
        }
        let tidies = {
            let mut state = self.state.lock();
            state.outcome = Some(reply);
            ended == Ended::Saved && !state.asked
        };
        self.changed.notify_all();
        if tidies && self.is_of_command() {
            self.tidy();
        }
        ended
    }

    /// Whether it is the mount of a command, whose end waits for nothing but that all is saved.
    fn is_of_command(&self) -> bool {
        self.settings.owner.is_some()
    }

    /// Does what the last flush has left to be done, when everybody has heard how the mount ended.
    fn tidy(&self) {
        let Content::Living { flusher, .. } = &self.content else { return };
        {
            let state = self.state.lock();
            if state.hurried {
                return;
            }
            self.give_up_at(Some(tidying_until(self.served.started(), self.settings.unmount_timeout)));
        }
        self.be_patient();
        flusher.tidy();
    }

    /// Nobody waits for a save any more.
    fn be_patient(&self) {
        if let Content::Living { flusher, .. } = &self.content {
            flusher.be_impatient(false);
        }
    }

    /// Everything is saved: the next start need not look for changes.
    fn close(&self, records: &Records) {
        // What the background was bringing, or somebody waited for, may still be under way, and a store that hangs must
        // not hold up the end: it comes to nothing.
        if let Some(hydrator) = self.served.hydrator() {
            hydrator.absent().close();
        }
        if let Err(e) = records.close_clean() {
            tracing::warn!(error = %e, "the next start will compare everything");
        }
        if let Some(hydrator) = self.served.hydrator() {
            match hydrator.absent().is_complete() {
                true => Source::forget(&self.settings.state_dir.join("absent")),
                false => drop(hydrator.absent().sync()),
            }
        }
    }

    /// The time limit of this end, from the first time somebody asks for it.
    fn deadline(&self) -> Instant {
        let limit = Instant::now() + self.settings.unmount_timeout;
        let limit = *self.state.lock().deadline.get_or_insert(limit);
        self.give_up_at(Some(limit));
        limit
    }

    fn give_up_at(&self, limit: Option<Instant>) {
        if let Content::Living { flusher, .. } = &self.content {
            flusher.give_up_at(limit);
        }
    }

    /// Flushes until nothing is left to save; the last failure if the time is up.
    fn flush_until(&self, deadline: Instant) -> Result<()> {
        let Content::Living { flusher, .. } = &self.content else { return Ok(()) };
        flusher.be_impatient(self.is_of_command());
        loop {
            match if self.is_of_command() { flusher.save() } else { flusher.flush() } {
                Ok(_) => return Ok(()),
                // Waiting does not bring a lost race back.
                Err(e) if e.kind() == ErrorKind::Conflict => return Err(e),
                Err(e) if Instant::now() + RETRY_PAUSE > deadline => return Err(e),
                Err(_) => std::thread::sleep(RETRY_PAUSE),
            }
        }
    }

    fn reply(&self, unmounted: bool, failure: Option<&Error>) -> UnmountReply {
        let flusher = match &self.content {
            Content::Living { flusher, .. } => flusher,
            Content::Version(version) => {
                return UnmountReply {
                    version: Some(version.clone()),
                    unmounted,
                    unsaved_total: 0,
                    unsaved: Vec::new(),
                    kept_in: self.kept_in.clone(),
                    error: failure.map(WireError::from),
                    absent_files: 0,
                    fork: None,
                    merged: None,
                };
            }
        };
        let status = flusher.status();
        let unsaved = flusher.unsaved(UNSAVED_LISTED_MAX);
        let entry = |path: crate::path::RelPath| Unsaved {
            reason: status.stuck.get(&path).cloned(),
            path: PathBuf::from(OsStr::from_bytes(path.as_bytes())),
        };
        UnmountReply {
            version: super::version(status.version),
            unmounted,
            unsaved_total: unsaved.count,
            unsaved: unsaved.paths.into_iter().map(entry).collect(),
            kept_in: self.kept_in.clone(),
            error: failure.map(WireError::from),
            absent_files: self.served.hydrator().map_or(0, |hydrator| hydrator.absent().left().files),
            fork: Some(flusher.committer().name()).filter(|name| name != self.settings.name.as_str()),
            merged: status.merge.as_ref().map(ToString::to_string),
        }
    }
}
