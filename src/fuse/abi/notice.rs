//! Notifications: what we tell the kernel unasked.
use super::OutHeader;
use zerocopy::{Immutable, IntoBytes};

/// Code of a notification that drops cached attributes, data or listing of an inode.
const INVAL_INODE: i32 = 2;

/// Drops what the kernel has cached of an inode.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub struct InvalidateInode {
    header: OutHeader,
    inode: u64,
    offset: i64,
    length: i64,
}

impl InvalidateInode {
    /// Attributes, and data from `offset` on (negative: no data); a length of 0 means to the end.
    pub fn new(inode: u64, offset: i64, length: i64) -> Self {
        let header = OutHeader { len: size_of::<Self>() as u32, error: INVAL_INODE, unique: 0 };
        Self { header, inode, offset, length }
    }
}
