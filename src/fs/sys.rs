//! The few system calls that no library offers in the form needed here. All `unsafe` of `fs` is in
//! this file.
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// fcntl(2), of Linux; the library does not name it.
const F_SETSIG: libc::c_int = 10;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether any descriptor or mapping can write the file behind this read-only descriptor.
///
/// Where leases are not supported the answer is yes: looking once too often loses nothing.
pub fn has_writer(file: &impl AsFd) -> bool {
    let fd = file.as_fd().as_raw_fd();
    // Whoever opens the file for writing in the moment between the two calls makes the kernel send
    // a signal: by default SIGIO, which would end the process; this one is ignored by default.
    // SAFETY: F_SETSIG takes an int and touches no memory of ours; the descriptor is borrowed.
    unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) };
    // SAFETY: F_SETLEASE takes an int and touches no memory of ours; the descriptor is borrowed.
    if unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) } < 0 {
        return true;
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
    false
}

/// A path that reaches `name` below `dir` for calls that have no `at` form. Without a name it is a link of the
/// kernel's to the file itself, which calls must follow.
fn proc_path(dir: &impl AsFd, name: &CStr) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()).into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name.to_bytes());
    }
    CString::new(path).map_err(|_| Errno::INVAL.into())
}

/// Reads an extended attribute of `name` in `dir`, or of `dir` itself without a name, into `value` and returns its length;
/// with an empty buffer only the length. Symbolic links are not followed.
pub fn get_xattr(dir: &impl AsFd, name: &CStr, attr: &CStr, value: &mut [u8]) -> io::Result<usize> {
    let path = proc_path(dir, name)?;
    let get = if name.is_empty() { libc::getxattr } else { libc::lgetxattr };
    // SAFETY: both strings are NUL-terminated, value is writable for its whole length.
    let n = unsafe { get(path.as_ptr(), attr.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Lists extended attribute names (NUL-terminated); as [`get_xattr`] about the length.
pub fn list_xattr(dir: &impl AsFd, name: &CStr, list: &mut [u8]) -> io::Result<usize> {
    let path = proc_path(dir, name)?;
    let names = if name.is_empty() { libc::listxattr } else { libc::llistxattr };
    // SAFETY: path is NUL-terminated, list is writable for its whole length.
    let n = unsafe { names(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Sets an extended attribute; `flags` as in setxattr(2).
pub fn set_xattr(dir: &impl AsFd, name: &CStr, attr: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
    let path = proc_path(dir, name)?;
    let set = if name.is_empty() { libc::setxattr } else { libc::lsetxattr };
    // SAFETY: both strings are NUL-terminated, value is readable for its whole length.
    check(unsafe { set(path.as_ptr(), attr.as_ptr(), value.as_ptr().cast(), value.len(), flags) })
}

/// Removes an extended attribute.
pub fn remove_xattr(dir: &impl AsFd, name: &CStr, attr: &CStr) -> io::Result<()> {
    let path = proc_path(dir, name)?;
    let removed = if name.is_empty() {
        rustix::fs::removexattr(path, attr)
    } else {
        rustix::fs::lremovexattr(path, attr)
    };
    Ok(removed?)
}

/// fallocate(2) with the mode bits as the caller gave them, those we do not know included: the
/// backing decides what it supports.
pub fn fallocate(file: &impl AsFd, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    // SAFETY: takes integers only; the descriptor is borrowed.
    check(unsafe { libc::fallocate(file.as_fd().as_raw_fd(), mode, offset as i64, length as i64) })
}

/// lseek(2) with the kernel's own `whence`.
pub fn seek(file: &impl AsFd, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: takes integers only; the descriptor is borrowed.
    let at = unsafe { libc::lseek(file.as_fd().as_raw_fd(), offset, whence) };
    if at < 0 { Err(io::Error::last_os_error()) } else { Ok(at) }
}

/// mknod(2) for every type a directory entry can have, sockets included.
pub fn mknod(dir: &impl AsFd, name: &CStr, mode: u32, rdev: u64) -> io::Result<()> {
    // SAFETY: name is NUL-terminated; the descriptor is borrowed.
    check(unsafe { libc::mknodat(dir.as_fd().as_raw_fd(), name.as_ptr(), mode, rdev) })
}

/// renameat2(2) with the flags as the caller gave them.
pub fn rename(from: &impl AsFd, name: &CStr, to: &impl AsFd, new_name: &CStr, flags: u32) -> io::Result<()> {
    // The call itself, because musl has no function for it.
    // SAFETY: both names are NUL-terminated; the descriptors are borrowed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from.as_fd().as_raw_fd(),
            name.as_ptr(),
            to.as_fd().as_raw_fd(),
            new_name.as_ptr(),
            flags,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn an_open_for_writing_in_the_middle_of_the_test_harms_nobody() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("f");
        std::fs::write(&path, b"x").expect("write");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    drop(std::fs::OpenOptions::new().write(true).open(&path).expect("open"));
                }
                ended.store(true, Ordering::Relaxed);
            });
            // A signal that nobody catches would end the whole test program here.
            while !ended.load(Ordering::Relaxed) {
                let file = std::fs::File::open(&path).expect("open");
                let _either = has_writer(&file);
            }
        });
        assert!(!has_writer(&std::fs::File::open(&path).expect("open")));
        let _writer = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
        assert!(has_writer(&std::fs::File::open(&path).expect("open")));
    }
}
