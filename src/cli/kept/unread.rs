//! [`Unread`]: a directory that is worked on although nobody knows what the remote has.
use super::{End, status};
use crate::config::{MountSettings, words};
use crate::serve::directory::{self, Claim, Session};
use crate::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "lambda")]
use crate::serve::directory::Stray;

/// What is said where the state cannot be read at the start.
pub(in crate::cli) const UNREADABLE: &str = "the state cannot be read: the command runs without it, and nothing will be saved \
                                             over it (--unreadable fail does not run it)";
/// A function waits so long for the remote to say what it has: its start has ten seconds in all.
pub(in crate::cli) const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A second look has at least that.
const LOOK_MIN: Duration = Duration::from_secs(1);

words! {
    /// What to do when nobody knows what the remote has.
    pub(in crate::cli) Unreadable {
        /// Run the command without its state, and save nothing over it.
        Run = "run",
        /// Do not run it.
        Fail = "fail",
    }
}

/// Whether a start failed because the remote cannot be read, which is looked at once more; until `limit`, if there is one.
pub(in crate::cli) fn unreadable(
    settings: &MountSettings,
    error: Error,
    limit: Option<Instant>,
    json: bool,
) -> (bool, Error) {
    if !is_of_reading(&error) {
        return (false, error);
    }
    // Of what can be read it is known soon, also where all of the time was spent on reading it.
    let limit = limit.map(|limit| limit.max(Instant::now() + LOOK_MIN));
    match directory::look(settings, limit, &status(json)) {
        None => (true, error),
        Some(Ok(())) => (false, error),
        Some(Err(cause)) => (is_of_reading(&cause), cause),
    }
}

fn is_of_reading(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied)
}

/// See the module. Nobody else can work on it either.
pub(super) struct Unread {
    claim: Claim,
    /// Somebody may have worked on it.
    #[cfg(feature = "lambda")]
    used: AtomicBool,
    /// The remote has versions after all: nothing that was done here will be saved.
    overtaken: AtomicBool,
}

impl Unread {
    pub(super) fn claim(settings: &MountSettings) -> Result<Self> {
        Ok(Self {
            claim: Claim::take(settings)?,
            #[cfg(feature = "lambda")]
            used: AtomicBool::new(false),
            overtaken: AtomicBool::new(false),
        })
    }

    /// Looks at the remote again, and saves what was done. If that fails it is looked again the next time.
    pub(super) fn save(&self, limit: Option<Instant>, json: bool) -> Result<(Session, End)> {
        let joined = self.claim.join_late(limit, &status(json));
        if joined.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Invalid)) {
            self.overtaken.store(true, Ordering::Release);
        }
        let session = joined?;
        let saved = session.save(limit)?;
        Ok((session, saved.into()))
    }

    /// Before anybody has worked on it: restores it, if that can be done by now. `None` if it is too late for that.
    #[cfg(feature = "lambda")]
    pub(super) fn restore(
        &self,
        stray: Stray,
        limit: Option<Instant>,
        json: bool,
    ) -> Result<Option<Session>> {
        if self.used.swap(true, Ordering::AcqRel) {
            return Ok(None); // it is looked before each save
        }
        let restored = self.claim.restore(stray, limit, &self.overtaken, &status(json));
        if restored.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::Invalid | ErrorKind::Busy)) {
            self.overtaken.store(true, Ordering::Release);
        }
        restored.map(Some)
    }

    #[cfg(feature = "lambda")]
    pub(super) fn is_overtaken(&self) -> bool {
        self.overtaken.load(Ordering::Acquire)
    }
}
