//! What the kernel is told when an operation fails.
use std::io;

/// Errnos that the kernel takes in a reply. Some file systems leak others, meant for its inside.
const VALID: std::ops::Range<i32> = 1..512;

/// The errno of an error; the backing's own wherever it has one.
pub fn errno(error: &io::Error) -> i32 {
    if let Some(code) = error.raw_os_error() {
        return if VALID.contains(&code) { code } else { libc::EIO };
    }
    match error.kind() {
        io::ErrorKind::NotFound => libc::ENOENT,
        io::ErrorKind::PermissionDenied => libc::EACCES,
        io::ErrorKind::AlreadyExists => libc::EEXIST,
        io::ErrorKind::InvalidInput => libc::EINVAL,
        io::ErrorKind::StorageFull | io::ErrorKind::WriteZero => libc::ENOSPC,
        io::ErrorKind::TimedOut => libc::ETIMEDOUT,
        io::ErrorKind::Unsupported => libc::EOPNOTSUPP,
        _ => libc::EIO,
    }
}
