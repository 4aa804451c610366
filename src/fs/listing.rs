//! One pass over a directory, kept between READDIR requests so that a listing is one `open`.
use super::inode::{Inode, absent_id};
use crate::state::absent::Absent;
use crate::state::absent::tree::{Node, What};
use crate::sync::Mutex;
use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Bytes asked of the backing per getdents64 call.
const BUFFER_BYTES: usize = 32 * 1024;

/// Cookies of entries of the tree begin here, where no file system has any but its end's.
const TREE_COOKIES: u64 = 0x7fff_ffff_0000_0000;

/// The tree of a lazy restore, and where a directory stands in it.
pub type InTree<'a> = Option<(&'a Absent, Node)>;

/// A directory entry as the backing lists it.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// The name.
    pub name: CString,
    /// The backing's inode number; 0 if it is still to be asked for, and may then not be there.
    pub ino: u64,
    /// The backing's idea of the type (`DT_*` as a file type).
    pub file_type: FileType,
    /// The cookie that continues after this entry.
    pub next: u64,
}

/// An open listing: entries read from the backing and not yet given to the kernel.
#[derive(Debug)]
pub struct Listing {
    fd: OwnedFd,
    ahead: VecDeque<DirEntry>,
    /// The cookie at which the next entry stands.
    at: u64,
    ended: bool,
}

/// Where a directory has the pass under way.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    listing: Mutex<Option<Box<Listing>>>,
    /// It is among those of [`Shelves`].
    counted: AtomicBool,
}

/// Passes that nobody has ended: a reader may stop anywhere, and the kernel does not say so. Each has a descriptor, so
/// only the last ones stay; another one is opened anew where it stood. Owner of its lock.
#[derive(Debug)]
pub(super) struct Shelves {
    max: usize,
    /// Longest ago first.
    kept: Mutex<VecDeque<Weak<Shelf>>>,
}

impl Shelves {
    /// At most so many stay.
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.max(1), kept: Mutex::default() }
    }

    fn keep(&self, shelf: &Arc<Shelf>, listing: Box<Listing>) {
        *shelf.listing.lock() = Some(listing);
        if shelf.counted.swap(true, Ordering::Relaxed) {
            return;
        }
        let oldest = {
            let mut kept = self.kept.lock();
            kept.push_back(Arc::downgrade(shelf));
            if kept.len() > self.max { kept.pop_front() } else { None }
        };
        if let Some(oldest) = oldest.and_then(|oldest| oldest.upgrade()) {
            oldest.counted.store(false, Ordering::Relaxed);
            let ended = oldest.listing.lock().take();
            drop(ended); // outside the lock
        }
    }
}

impl Listing {
    fn open(dir: &Inode, at: u64) -> io::Result<Self> {
        let fd = dir.listed_from()?;
        if at != 0 {
            rustix::fs::seek(&fd, SeekFrom::Start(at))?;
        }
        Ok(Self { fd, ahead: VecDeque::new(), at, ended: false })
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

/// The entry of a node of the tree, told at the place of the first that has its name.
fn tree_entry(tree: &Absent, (dir, child): (Node, Node), place: u64) -> Option<DirEntry> {
    let bytes = tree.tree().name(child);
    let name = CString::new(bytes).ok()?;
    let node = match tree.tree().namesakes(dir, bytes)[..] {
        [only] => only,
        [first, .., newest] if first == child => newest,
        _ => return None,
    };
    let what = tree.tree().what(node);
    let ino = match what {
        What::File(file) if tree.is_absent(node) => absent_id(file),
        _ => 0,
    };
    let file_type = match what {
        What::File(_) => FileType::RegularFile,
        What::Directory => FileType::Directory,
        What::Special(_) => FileType::Unknown,
    };
    Some(DirEntry { name, ino, file_type, next: TREE_COOKIES + place + 1 })
}

/// Calls `add` for each entry from cookie `at` on, until it returns `false` (that entry was not
/// taken) or the directory ends.
///
/// Names of the tree come first and in its order, whatever became of their entries: one that is not absent is asked
/// for on the disk, where it may be gone or another have taken the name. So a name that comes to the disk meanwhile,
/// or of which a version is told that it is gone, is neither left out nor listed twice.
pub fn list(
    dir: &Inode,
    mut at: u64,
    in_tree: InTree<'_>,
    mut add: impl FnMut(&CStr, &DirEntry) -> bool,
) -> io::Result<()> {
    // The end of the backing has a cookie as high.
    let place = at.checked_sub(TREE_COOKIES).filter(|place| *place < u64::from(u32::MAX));
    if let Some((tree, node)) = in_tree
        && (at == 0 || place.is_some())
    {
        let first = place.unwrap_or(0);
        for (place, child) in (0..).zip(tree.tree().children(node)).skip(first as usize) {
            if let Some(entry) = tree_entry(tree, (node, child), place)
                && !add(&entry.name, &entry)
            {
                return Ok(());
            }
        }
        at = 0;
    }
    let named =
        |name: &CStr| in_tree.is_some_and(|(tree, node)| tree.tree().child(node, name.to_bytes()).is_some());
    let directory = dir.directory().ok_or(Errno::NOTDIR)?;
    let kept = directory.shelf.listing.lock().take().filter(|l| l.at == at && at != 0);
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
        if !named(&entry.name) && !add(&entry.name, entry) {
            break;
        }
        listing.at = entry.next;
        listing.ahead.pop_front();
    }
    directory.shelves().keep(&directory.shelf, listing);
    Ok(())
}
