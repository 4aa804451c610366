//! One pass over a directory, kept between READDIR requests so that a listing is one `open`.
use super::inode::Inode;
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// Bytes asked of the backing per getdents64 call.
const BUFFER_BYTES: usize = 32 * 1024;

/// A directory entry as the backing lists it.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// The name.
    pub name: CString,
    /// The backing's inode number.
    pub ino: u64,
    /// The backing's idea of the type (`DT_*` as a file type).
    pub file_type: rustix::fs::FileType,
    /// The cookie that continues after this entry.
    pub next: u64,
}

/// An open listing: entries read from the backing and not yet given to the kernel.
#[derive(Debug)]
pub struct Listing {
    fd: OwnedFd,
    ahead: std::collections::VecDeque<DirEntry>,
    /// The cookie at which the next entry stands.
    at: u64,
    ended: bool,
}

impl Listing {
    fn open(dir: &Inode, at: u64) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir.dir()?, c".", flags, Mode::empty())?;
        if at != 0 {
            rustix::fs::seek(&fd, SeekFrom::Start(at))?;
        }
        Ok(Self { fd, ahead: std::collections::VecDeque::new(), at, ended: false })
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); BUFFER_BYTES];
        let mut raw = RawDir::new(&self.fd, &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            self.ahead.push_back(DirEntry {
                name: entry.file_name().to_owned(),
                ino: entry.ino(),
                file_type: entry.file_type(),
                next: entry.next_entry_cookie(),
            });
            if raw.is_buffer_empty() {
                return Ok(());
            }
        }
        self.ended = true;
        Ok(())
    }
}

/// Calls `add` for each entry from cookie `at` on, until it returns `false` (that entry was not
/// taken) or the directory ends.
pub fn list(dir: &Inode, at: u64, mut add: impl FnMut(&CStr, &DirEntry) -> bool) -> io::Result<()> {
    let kept = dir.listing.lock().take().filter(|l| l.at == at && at != 0);
    let mut listing = match kept {
        Some(listing) => listing,
        None => Box::new(Listing::open(dir, at)?),
    };
    loop {
        if listing.ahead.is_empty() {
            if listing.ended {
                return Ok(()); // the pass is over: its descriptor closes here
            }
            listing.fill()?;
            continue;
        }
        let Some(entry) = listing.ahead.front() else { continue };
        if !add(&entry.name, entry) {
            break;
        }
        listing.at = entry.next;
        listing.ahead.pop_front();
    }
    *dir.listing.lock() = Some(listing);
    Ok(())
}
