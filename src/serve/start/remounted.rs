//! Whether the file system of a directory was mounted anew: then the machine may have failed in between, and what the kernel
//! had not written to the disk is gone.
use rustix::fs::{AtFlags, StatxFlags};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// The number of a mount that no other gets until the machine starts anew (`STATX_MNT_ID_UNIQUE`, Linux 6.8).
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// In the state directory: which mount it was, of which start of the machine.
const FILE: &str = "mounting";

/// The mount that leads to a directory.
#[derive(Debug)]
pub(super) struct Mounting(String);

impl Mounting {
    pub(super) fn of(dir: impl AsFd) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, UNIQUE)?;
        let knows = StatxFlags::from_bits_retain(stat.stx_mask).contains(UNIQUE);
        Ok(Self(format!("{} {}\n", boot.trim(), if knows { stat.stx_mnt_id } else { 0 })))
    }

    /// Whether it is not the one that was noted. That none was counts so.
    pub(super) fn is_anew(&self, state_dir: &Path) -> bool {
        fs::read(state_dir.join(FILE)).map_or(true, |before| before != self.0.as_bytes())
    }

    /// Where nothing is kept nothing is noted.
    pub(super) fn note(&self, state_dir: &Path) -> io::Result<()> {
        if state_dir.is_dir() { fs::write(state_dir.join(FILE), &self.0) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_another_one_until_it_was_noted() {
        let dir = tempfile::tempdir().expect("dir");
        let mounting = Mounting::of(fs::File::open(dir.path()).expect("opens")).expect("stat");
        assert!(mounting.is_anew(dir.path()));
        mounting.note(dir.path()).expect("notes");
        assert!(!mounting.is_anew(dir.path()));
        fs::write(dir.path().join(FILE), "another").expect("writes");
        assert!(mounting.is_anew(dir.path()));
    }
}
