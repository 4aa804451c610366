//! [`Place`]: which directory records describe.
use crate::clock::Timestamp;
use rustix::fs::{AtFlags, StatxFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;

/// Which directory it is: another one at the same path has another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its inode number.
    pub ino: u64,
    /// When it was made, if its file system says so. All directories that a memory file system is mounted with have the
    /// same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<Timestamp>,
}

impl Place {
    /// That of an open directory.
    pub fn of(dir: impl AsFd) -> rustix::io::Result<Self> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, wanted)?;
        let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let born = told.then_some(Timestamp { sec: stat.stx_btime.tv_sec, nsec: stat.stx_btime.tv_nsec });
        Ok(Self { ino: stat.stx_ino, born })
    }
}
