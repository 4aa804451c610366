//! [`Locks`]: one icecache for a state directory, one for a backing.
use crate::config::MountSettings;
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "fuse")]
use crate::fuse::mount::{detach_dead, is_on_ours};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a lock is waited for.
const DYING_PATIENCE: Duration = Duration::from_secs(1);
const DYING_PAUSE: Duration = Duration::from_millis(20);

/// Held while the daemon lives; the kernel releases them with the process, however it ends.
#[derive(Debug)]
pub struct Locks {
    _state: Option<File>,
    /// The backing, opened before anything is mounted over it.
    backing: File,
}

impl Locks {
    /// Prepares the state directory and locks both.
    pub fn take(settings: &MountSettings) -> Result<Self> {
        let state = lock_state_dir(&settings.state_dir)?;
        Self::of_backing(settings, Some(state))
    }

    /// Locks the directory alone: nothing is kept beside it.
    pub fn without_state(settings: &MountSettings) -> Result<Self> {
        Self::of_backing(settings, None)
    }

    fn of_backing(settings: &MountSettings, state: Option<File>) -> Result<Self> {
        if detach_dead(&settings.dir)? {
            tracing::info!("took away a mount whose daemon had died");
        }
        let place = settings.backing.as_ref().unwrap_or(&settings.dir);
        if settings.backing.is_some() {
            std::fs::create_dir_all(place)
                .map_err(|e| Error::io(format!("cannot create backing: {}", place.display()), e))?;
        }
        let backing = super::open_directory(place)?;
        if settings.backing.is_some() && is_on_ours(&backing)? {
            let message = format!(
                "the backing is what another icecache shows, so both would save the same files: {}",
                place.display()
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        if !lock(&backing) {
            let message = format!("another icecache uses this directory: {}", place.display());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        Ok(Self { _state: state, backing })
    }

    /// The backing directory.
    pub fn backing(&self) -> &File {
        &self.backing
    }

    /// A second descriptor of the backing.
    pub fn backing_fd(&self) -> Result<OwnedFd> {
        let fd = self.backing.as_fd().try_clone_to_owned();
        fd.map_err(|e| Error::io("cannot use the backing directory", e))
    }
}

/// Makes a directory for its owner alone, whatever the umask and who else may enter the one above.
pub(in crate::serve) fn own_directory(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Error::io(format!("cannot create directory: {}", path.display()), e))
}

/// Takes an exclusive lock; a daemon that was just killed may hold it for a moment still.
fn lock(file: &File) -> bool {
    let give_up = Instant::now() + DYING_PATIENCE;
    while flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > give_up {
            return false;
        }
        std::thread::sleep(DYING_PAUSE);
    }
    true
}

fn lock_state_dir(state_dir: &Path) -> Result<File> {
    own_directory(state_dir)?;
    let state = lock_state(&state_dir.join("lock"))?;
    for name in ["tmp", "staging"] {
        own_directory(&state_dir.join(name))?;
    }
    Ok(state)
}

fn lock_state(path: &Path) -> Result<File> {
    let failed = |e| Error::io(format!("cannot lock state directory: {}", path.display()), e);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    if !lock(&file) {
        let mut holder = String::new();
        let _unknown = file.read_to_string(&mut holder);
        let message = format!("another icecache uses this state directory, pid {}", holder.trim());
        return Err(Error::new(ErrorKind::Busy, message));
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// A build that mounts nothing looks for no mounts.
#[cfg(not(feature = "fuse"))]
fn detach_dead(_: &Path) -> Result<bool> {
    Ok(false)
}

#[cfg(not(feature = "fuse"))]
fn is_on_ours(_: &File) -> Result<bool> {
    Ok(false)
}
