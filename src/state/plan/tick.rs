//! How coarse change times are.
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// How long a coarse clock may stand still (kernels before 6.13 take the time of a change from
/// the timer tick, 100 a second at the slowest): a file changed this recently may change again
/// without its times moving.
const TICK: Duration = Duration::from_millis(10);
/// The same where a file system has room for seconds only, as ext4 with inodes of 128 bytes. FAT counts by two.
const SECONDS: Duration = Duration::from_millis(2010);

/// How coarse change times are beneath a directory: zero on file systems and kernels where each
/// change that follows a look gets a time of its own.
pub fn change_tick(root: BorrowedFd<'_>) -> Duration {
    /// Magic numbers of the file systems with multigrain times: ext4, xfs, btrfs, tmpfs.
    const MULTIGRAIN: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];
    if has_whole_seconds(root) {
        return SECONDS;
    }
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let known = rustix::fs::fstatfs(root).is_ok_and(|s| MULTIGRAIN.contains(&(s.f_type as u64)));
    if version >= (6, 13) && known { Duration::ZERO } else { TICK }
}

/// Whether change times have no fractions. The kernel does not say, so the directory does, and where that is a matter of
/// chance a file without a name. Where none can be made the answer errs on the side of looking once more.
fn has_whole_seconds(root: BorrowedFd<'_>) -> bool {
    let is_whole = |file: BorrowedFd<'_>| {
        let times = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::CTIME);
        times.is_ok_and(|times| times.stx_ctime.tv_nsec == 0)
    };
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let nameless = || rustix::fs::openat(root, c".", flags, Mode::RUSR | Mode::WUSR);
    is_whole(root) && nameless().map_or(true, |file| is_whole(file.as_fd()))
}
