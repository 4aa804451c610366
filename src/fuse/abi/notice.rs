//! Notifications: what we tell the kernel unasked.
use super::OutHeader;
use std::ffi::CStr;
use zerocopy::{Immutable, IntoBytes};

/// Code of a notification that drops cached attributes, data or listing of an inode.
const INVAL_INODE: i32 = 2;
/// Code of a notification that has a name looked up anew.
const INVAL_ENTRY: i32 = 3;

/// Has a name in a directory looked up anew: the bytes of the notification.
pub fn invalidate_name(dir: u64, name: &CStr) -> Vec<u8> {
    let entry = InvalidateEntry { dir, length: name.count_bytes() as u32, flags: 0 };
    let length = size_of::<OutHeader>() + size_of::<InvalidateEntry>() + name.to_bytes_with_nul().len();
    let header = OutHeader { len: length as u32, error: INVAL_ENTRY, unique: 0 };
    [header.as_bytes(), entry.as_bytes(), name.to_bytes_with_nul()].concat()
}

/// What its name follows.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct InvalidateEntry {
    dir: u64,
    length: u32,
    flags: u32,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_follows_its_length_and_ends_in_a_zero() {
        let bytes = invalidate_name(7, c"ab");
        let words = |at: usize, n: usize| -> Vec<u8> { bytes[at..at + n].to_vec() };
        assert_eq!(words(0, 8), [35, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(words(8, 8), [0; 8]);
        assert_eq!(words(16, 16), [7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[32..], b"ab\0");
    }
}
