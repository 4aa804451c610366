//! [`Doubt`]: a mark in a state directory that somebody may write to its directory while no daemon sees it. The next start
//! compares everything then, as after a stop that was not orderly.
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const NAME: &str = "unwatched";

/// See the module. It stays behind if its owner is killed.
#[derive(Debug)]
pub struct Doubt {
    path: PathBuf,
    /// Kept open, so that no other file has its number.
    file: File,
}

impl Doubt {
    /// Leaves the mark.
    pub fn raise(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(NAME);
        settle(state_dir)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file })
    }

    /// Takes it away: nobody can have written unseen. Not that of another, who has come since.
    pub fn lift(self) -> io::Result<()> {
        let (ours, there) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
        if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

/// Whether there is one.
pub fn is_in(state_dir: &Path) -> bool {
    state_dir.join(NAME).symlink_metadata().is_ok()
}

/// Takes it away, whoever left it: the journal itself says by now that everything is to be compared.
pub fn settle(state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(state_dir.join(NAME)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stays_until_its_owner_or_a_start_takes_it_away() {
        let place = tempfile::tempdir().expect("temp");
        let place = place.path();
        assert!(!is_in(place));
        drop(Doubt::raise(place).expect("raised"));
        assert!(is_in(place), "it goes with its owner");
        let first = Doubt::raise(place).expect("raised over what a killed one has left");
        first.lift().expect("lifted");
        assert!(!is_in(place));

        let first = Doubt::raise(place).expect("raised");
        settle(place).expect("a start has seen it");
        assert!(!is_in(place));
        let second = Doubt::raise(place).expect("raised by the next");
        first.lift().expect("not its own");
        assert!(is_in(place), "one takes away that of another");
        second.lift().expect("lifted");
        assert!(!is_in(place));
    }
}
