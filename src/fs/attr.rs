//! [`Attr`]: what a stat of the backing says, in our own terms.
use crate::clock::Timestamp;
use crate::state::identity::FileId;
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

/// A device and an inode number on it: what names a file of the backing for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Device number, as the kernel keeps it (12 bits major, 20 bits minor).
    pub dev: u32,
    /// Inode number.
    pub ino: u64,
}

impl FileKey {
    /// The file of this device, as stat(2) shows it, and number.
    pub fn of((dev, ino): FileId) -> Self {
        Self { dev: encode_dev(rustix::fs::major(dev), rustix::fs::minor(dev)), ino }
    }

    /// Its device, as stat(2) shows it, and number.
    pub fn id(&self) -> FileId {
        (decode_dev(self.dev), self.ino)
    }
}

/// Attributes of one file of the backing.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// Which file.
    pub key: FileKey,
    /// The mount that leads to it; 0 where the kernel does not tell (before Linux 5.8).
    pub mount: u64,
    /// Birth time in nanoseconds: tells a file from a later one that got the same inode number.
    /// Zero where the backing keeps no birth time.
    pub generation: u64,
    /// File type and permission bits.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as the kernel encodes it for FUSE (32 bits).
    pub rdev: u32,
    /// Length in bytes.
    pub size: u64,
    /// Allocated size in 512-byte blocks.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub blksize: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or metadata.
    pub ctime: Timestamp,
}

impl Attr {
    /// Stats `name` below `dir`, never following a symbolic link. An empty name stats `dir` itself.
    pub fn at(dir: impl AsFd, name: &CStr) -> io::Result<Self> {
        let mut flags = AtFlags::SYMLINK_NOFOLLOW;
        if name.is_empty() {
            flags |= AtFlags::EMPTY_PATH;
        }
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let st = rustix::fs::statx(dir, name, flags, wanted)?;
        Ok(Self::from(&st))
    }

    /// The file type.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }
}

impl From<&Statx> for Attr {
    fn from(st: &Statx) -> Self {
        let time = |t: rustix::fs::StatxTimestamp| Timestamp { sec: t.tv_sec, nsec: t.tv_nsec };
        let born = st.stx_btime;
        Self {
            key: FileKey { dev: encode_dev(st.stx_dev_major, st.stx_dev_minor), ino: st.stx_ino },
            mount: if StatxFlags::from_bits_retain(st.stx_mask).contains(StatxFlags::MNT_ID) {
                st.stx_mnt_id
            } else {
                0
            },
            generation: (born.tv_sec as u64)
                .wrapping_mul(1_000_000_000)
                .wrapping_add(u64::from(born.tv_nsec)),
            mode: u32::from(st.stx_mode),
            nlink: st.stx_nlink,
            uid: st.stx_uid,
            gid: st.stx_gid,
            rdev: encode_dev(st.stx_rdev_major, st.stx_rdev_minor),
            size: st.stx_size,
            blocks: st.stx_blocks,
            blksize: st.stx_blksize,
            atime: time(st.stx_atime),
            mtime: time(st.stx_mtime),
            ctime: time(st.stx_ctime),
        }
    }
}

/// The kernel's `new_encode_dev`: 12 bits of major, 20 of minor.
fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The inverse of the kernel's `new_encode_dev`, as `mknod(2)` wants it.
pub fn decode_dev(dev: u32) -> u64 {
    rustix::fs::makedev((dev & 0xf_ff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_kernel_encoding() {
        for (major, minor) in [(1, 3), (8, 0), (259, 70_000), (4095, 1_048_575)] {
            assert_eq!(decode_dev(encode_dev(major, minor)), rustix::fs::makedev(major, minor));
        }
    }
}
