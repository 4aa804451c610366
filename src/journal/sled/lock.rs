//! The lock beside the journal: it names its holder, and it outlives moving aside and opening anew.
use crate::journal::JournalError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time between two attempts to get the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// Takes the lock of the journal `path`, trying until `patience` is over.
pub fn take(path: &Path, patience: Duration) -> Result<File, JournalError> {
    let io = |source: rustix::io::Errno| JournalError::Io { action: "lock", source: source.into() };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".lock");
    let fd: OwnedFd = rustix::fs::open(
        path.with_file_name(name),
        OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK,
        Mode::RUSR | Mode::WUSR,
    )
    .map_err(io)?;
    let mut file = File::from(fd);
    let deadline = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(JournalError::Busy { path: path.into(), pid: holder(&mut file) });
            }
            Err(e) => return Err(io(e)),
        }
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    match write(&mut file) {
        // The lock holds without the number, which is for the message that others get.
        Err(e) if e.kind() != std::io::ErrorKind::StorageFull => {
            Err(JournalError::Io { action: "lock", source: e })
        }
        _ => Ok(file),
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    let pid = text.trim().parse().ok()?;
    let alive = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)
        .is_some_and(|p| rustix::process::test_kill_process(p) != Err(rustix::io::Errno::SRCH));
    alive.then_some(pid)
}
