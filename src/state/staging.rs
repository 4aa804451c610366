//! Staged copies: files that were being written when the cut was made, as they stood then.
use crate::layer::content::Content as _;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes compared or copied at a time. A chunk that did not change is not written again.
const CHUNK_BYTES: usize = 128 * 1024;

/// A directory for copies that have no name: a crash leaves nothing behind.
#[derive(Debug)]
pub struct Staging {
    dir: OwnedFd,
}

impl Staging {
    /// Uses `dir`, which must not lie beneath a mount of ours.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: rustix::fs::open(dir, flags, Mode::empty())? })
    }

    /// An empty file without a name.
    fn create(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.dir, ".", flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(fd.into()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let name = uuid::Uuid::new_v4().to_string();
                let flags = flags | OFlags::CREATE | OFlags::EXCL;
                let fd = rustix::fs::openat(&self.dir, &name, flags, Mode::RUSR | Mode::WUSR)?;
                rustix::fs::unlinkat(&self.dir, &name, rustix::fs::AtFlags::empty())?;
                Ok(fd.into())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Copies `source`: by reflink where the file systems allow it, else in the kernel, holes kept.
    pub fn copy(&self, source: &File) -> io::Result<File> {
        let copy = self.create()?;
        if rustix::fs::ioctl_ficlone(&copy, source).is_ok() {
            return Ok(copy);
        }
        let size = source.metadata()?.len();
        copy.set_len(size)?;
        let mut at = 0;
        while let Some(data) = source.data_after(at)? {
            let end = data.end.min(size);
            if data.start >= end {
                break; // it grew meanwhile: the caller compares sizes
            }
            copy_range(source, &copy, data.start, end)?;
            at = end;
        }
        Ok(copy)
    }

    /// Brings an earlier copy up to date; only chunks that differ are written. Returns how many
    /// bytes differed.
    pub fn refresh(&self, copy: &mut File, source: &File) -> io::Result<u64> {
        if rustix::fs::ioctl_ficlone(&*copy, source).is_ok() {
            return Ok(0);
        }
        let size = source.metadata()?.len();
        copy.set_len(size)?;
        let mut buffers = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
        let mut changed = 0;
        let mut at = 0;
        // Where both have a hole they are equal; where either has data they are compared.
        loop {
            let next = match (source.data_after(at)?, copy.data_after(at)?) {
                (None, None) => break,
                (Some(a), None) => a,
                (None, Some(b)) => b,
                (Some(a), Some(b)) => a.start.min(b.start)..a.end.max(b.end),
            };
            let next = next.start..next.end.min(size);
            if next.is_empty() {
                break; // it grew meanwhile: the caller compares sizes
            }
            at = next.start;
            while at < next.end {
                let want = CHUNK_BYTES.min((next.end - at) as usize);
                let got = FileExt::read_at(source, &mut buffers.0[..want], at)?;
                if got == 0 {
                    break;
                }
                let had = FileExt::read_at(copy, &mut buffers.1[..got], at)?;
                if buffers.0[..got] != buffers.1[..had] {
                    copy.write_all_at(&buffers.0[..got], at)?;
                    changed += got as u64;
                }
                at += got as u64;
            }
            if at < next.end {
                break; // shorter than a moment ago: the caller compares sizes
            }
        }
        Ok(changed)
    }
}

fn copy_range(source: &File, copy: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let want = usize::try_from(end - from).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source.as_fd(), Some(&mut from), copy.as_fd(), Some(&mut to), want)
        {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                return copy_by_hand(source, copy, from, end);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, copy: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    while at < end {
        let want = CHUNK_BYTES.min((end - at) as usize);
        let got = FileExt::read_at(source, &mut buffer[..want], at)?;
        if got == 0 {
            return Ok(());
        }
        copy.write_all_at(&buffer[..got], at)?;
        at += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refresh_writes_only_what_differs_and_follows_truncation() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let staging = Staging::open(&dir.path().join("staging"))?;
        let source = File::options().create_new(true).read(true).write(true).open(dir.path().join("f"))?;
        source.set_len(10 << 20)?;
        source.write_all_at(&[7; 300_000], 1 << 20)?;
        let mut copy = staging.copy(&source)?;
        let equal = |copy: &File| -> io::Result<bool> {
            let (mut a, mut b) = (vec![0; 11 << 20], vec![0; 11 << 20]);
            let (n, m) = (FileExt::read_at(&source, &mut a, 0)?, FileExt::read_at(copy, &mut b, 0)?);
            Ok(n == m && a == b)
        };
        assert!(equal(&copy)?);
        source.write_all_at(b"x", 1 << 20)?;
        source.write_all_at(b"y", 9 << 20)?;
        let changed = staging.refresh(&mut copy, &source)?;
        assert!(equal(&copy)?);
        assert!(changed <= 2 * CHUNK_BYTES as u64, "{changed}");
        source.set_len(2 << 20)?;
        staging.refresh(&mut copy, &source)?;
        assert!(equal(&copy)?);
        source.set_len(5 << 20)?;
        staging.refresh(&mut copy, &source)?;
        assert!(equal(&copy)?);
        Ok(())
    }

    /// Grows by a page with each look at its length, as a log under a fast writer does.
    #[test]
    fn a_file_that_grows_while_it_is_refreshed_ends_the_refresh() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let staging = Staging::open(&dir.path().join("staging"))?;
        let source = File::options().create_new(true).read(true).write(true).open(dir.path().join("f"))?;
        source.write_all_at(&[1; 4096], 0)?;
        let mut copy = staging.copy(&source)?;
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 4096;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) && at < 256 << 20 {
                    let _written = source.write_all_at(&[2; 4096], at);
                    at += 4096;
                }
            });
            let refreshed = (0..50).try_for_each(|_| staging.refresh(&mut copy, &source).map(drop));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            refreshed
        })
    }
}
