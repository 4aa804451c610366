//! What the kernel is told when an operation fails.
use fuser::Errno;
use std::io;

/// The errno of an error; the backing's own wherever it has one.
pub fn errno(error: &io::Error) -> Errno {
    if let Some(code) = error.raw_os_error() {
        return Errno::from_i32(code);
    }
    match error.kind() {
        io::ErrorKind::NotFound => Errno::ENOENT,
        io::ErrorKind::PermissionDenied => Errno::EACCES,
        io::ErrorKind::AlreadyExists => Errno::EEXIST,
        io::ErrorKind::InvalidInput => Errno::EINVAL,
        io::ErrorKind::StorageFull | io::ErrorKind::WriteZero => Errno::ENOSPC,
        io::ErrorKind::TimedOut => Errno::ETIMEDOUT,
        io::ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        _ => Errno::EIO,
    }
}
