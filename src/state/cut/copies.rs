//! [`Copies`]: files that are being written, copied.
use crate::path::RelPath;
use crate::state::backing::{is_overlayfs, reach};
use crate::state::identity::{FileId, Identity};
use crate::state::live::Writer;
use crate::state::plan::{Captured, Change, Plan};
use crate::state::staging::Staging;
use rustix::fs::{Mode, OFlags};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

/// How often a mapped file is copied in the hope that nobody stores meanwhile.
const MAPPED_COPIES_MAX: u32 = 3;

struct Copied {
    file: File,
    /// The lstat before the copy was made.
    ident: Identity,
}

/// The copies of one cut.
pub(super) struct Copies<'a> {
    /// The root of the backing.
    root: BorrowedFd<'a>,
    staging: &'a Staging,
    /// Every write moves the change time, so that an unchanged one proves that a copy is up to date.
    exact_times: bool,
    by_id: HashMap<FileId, Copied>,
}

impl<'a> Copies<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, staging: &'a Staging, exact_times: bool) -> Self {
        Self { root, staging, exact_times, by_id: HashMap::new() }
    }

    /// Whether there is a copy of this inode.
    pub(super) fn has(&self, id: FileId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Forgets the copies of all other inodes.
    pub(super) fn keep_only(&mut self, inodes: &HashSet<FileId>) {
        self.by_id.retain(|id, _| inodes.contains(id));
    }

    /// Forgets the copy of one: it is not what it should be.
    pub(super) fn forget(&mut self, id: FileId) {
        self.by_id.remove(&id);
    }

    /// The files.
    pub(super) fn into_files(self) -> HashMap<FileId, Arc<File>> {
        self.by_id.into_iter().map(|(id, copied)| (id, Arc::new(copied.file))).collect()
    }

    /// Brings the copy of a file up to date if the plan needs its content. Returns how many bytes
    /// differed. `sure`: the file is held, so what the plan saw is what is copied.
    pub(super) fn update(&mut self, plan: &Plan, writer: &Writer, sure: bool) -> io::Result<u64> {
        let Some(ident) = content_of(plan, writer) else { return Ok(0) };
        let prove = self.exact_times || !sure;
        if let Some(copied) = self.by_id.get(&writer.id)
            && prove
            && ident.unchanged_since(&copied.ident)
        {
            return Ok(0);
        }
        let source = open_writer(self.root, writer)?;
        self.copy(writer.id, &source, ident)
    }

    /// Copies a file that is mapped for writing: what has been stored is written back first, so
    /// that a store during the copy moves the change time. Returns whether the file stood still.
    ///
    /// One that is not in the plan is as the last version has it, or never stored: the stores since
    /// it was last written back would have moved its change time.
    pub(super) fn update_mapped(&mut self, plan: &Plan, writer: &Writer) -> io::Result<bool> {
        if content_of(plan, writer).is_none() {
            return Ok(true);
        }
        let source = open_writer(self.root, writer)?;
        for _ in 0..MAPPED_COPIES_MAX {
            // In this order: a store before the writing back is in the copy, one after it moves the
            // change time beyond the one seen here. The other way round a first store could move the
            // time before it is seen, and a second one to the same page would move nothing.
            let before = Identity::from(&rustix::fs::fstat(&source)?);
            write_back(&source);
            self.copy(writer.id, &source, before)?;
            if Identity::from(&rustix::fs::fstat(&source)?).unchanged_since(&before) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Files that have been mapped only since `before` was seen were copied as if they were not: a
    /// store to a page that was dirty already would leave no trace. Marks them; returns how many.
    pub(super) fn note_mapped_since(
        &self,
        plan: &mut Plan,
        before: &HashSet<u64>,
        mapped: impl FnOnce() -> HashSet<u64>,
    ) -> usize {
        if self.by_id.is_empty() {
            return 0;
        }
        let now = mapped();
        let is_new =
            |c: &Captured| c.has_content() && now.contains(&c.ident.ino) && !before.contains(&c.ident.ino);
        let paths: Vec<RelPath> =
            plan.puts().filter(|(_, c)| is_new(c)).map(|(path, _)| path.clone()).collect();
        for path in &paths {
            plan.set_fuzzy(path);
        }
        paths.len()
    }

    /// `ident` is what the source was before. Returns how many bytes differed.
    fn copy(&mut self, id: FileId, source: &File, ident: Identity) -> io::Result<u64> {
        match self.by_id.get_mut(&id) {
            Some(copied) => {
                let moved = self.staging.refresh(&mut copied.file, source)?;
                copied.ident = ident;
                Ok(moved)
            }
            None => {
                let file = self.staging.copy(source)?;
                self.by_id.insert(id, Copied { file, ident });
                Ok(ident.size)
            }
        }
    }
}

/// The lstat of a file whose content the plan needs.
fn content_of(plan: &Plan, writer: &Writer) -> Option<Identity> {
    match plan.get(&writer.path) {
        Some(Change::Put(captured)) if captured.ident.file_type().is_file() => Some(captured.ident),
        _ => None,
    }
}

/// Opens a file on the backing by the name its writer has, if it still has it.
pub(super) fn open_writer(root: BorrowedFd<'_>, writer: &Writer) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = reach(root, &writer.path, |at, name| rustix::fs::openat(at, name, flags, Mode::empty()))?;
    if Identity::from(&rustix::fs::fstat(&file)?).id() != writer.id {
        return Err(io::Error::other("another file stands there now"));
    }
    Ok(file.into())
}

/// Writes back dirty pages and makes every mapping read-only once, so that the next store is seen.
pub(super) fn write_back(file: &File) {
    let all =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: takes integers only; the descriptor is borrowed for the call. A failure means that
    // the file system cannot, and then the file is found changed at the next look.
    let _done = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, all) };
    // The pages are those of a file of another layer, which only a sync of all of it reaches.
    if is_overlayfs(file) {
        let _done = rustix::fs::fdatasync(file);
    }
}
