//! [`Live`]: what a cut needs of the living tree. The mounted file system implements it; a cut of
//! an unmounted directory uses one on which every call is trivial.
use super::dirty::DirtySet;
use super::identity::FileId;
use super::plan::Plan;
use crate::layer::content::Content;
use crate::path::RelPath;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

/// A file that a handle or a mapping may still write.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The number by which it is held.
    pub node: u64,
    /// One of its names.
    pub path: RelPath,
    /// Device and inode number on the backing.
    pub id: FileId,
    /// Its data passes the mount's daemon, though that of others may not: what is stored through a mapping
    /// reaches the backing when the kernel writes it back.
    pub passing: bool,
}

/// The living tree as a cut sees it.
pub trait Live: Send + Sync {
    /// The root of the backing.
    fn root(&self) -> BorrowedFd<'_>;
    /// Where changes are marked.
    fn dirty(&self) -> &DirtySet;
    /// The files that may be written without our seeing it. Files that nothing can write any more
    /// leave this list by a mark in the dirty set, so that they are looked at once more.
    /// `find` gives a name to a file that has lost every name known here.
    fn writers(&self, find: &dyn Fn(FileId) -> Option<RelPath>) -> Vec<Writer>;
    /// Whether [`writers`](Self::writers) takes long and mostly finds nobody. Then a cut asks once, when nothing moves,
    /// and only if there are any it begins anew and copies ahead.
    fn writers_are_rare(&self) -> bool {
        false
    }
    /// Whether all [`writers`](Self::writers) are files that somebody has mapped, or may have; else the mappings tell which
    /// are.
    fn writers_are_mapped(&self) -> bool {
        false
    }
    /// The helper of the cut is gone: its process number may become anybody's.
    fn without_helper(&self);
    /// Closes the gate: no operation that changes the tree runs until [`open`](Self::open). `false`
    /// if those under way did not end by the deadline; the gate is then open.
    fn close(&self, deadline: Instant) -> bool;
    /// Opens the gate.
    fn open(&self);
    /// So many files are about to be held: what is needed for that is made ready, before anybody has
    /// to stand still for it.
    fn expect_held(&self, count: usize);
    /// Asks for these files to be held: whoever calls fsync on one is not answered.
    fn hold(&self, nodes: &[u64]);
    /// Waits until all are held and returns those that are not by the deadline.
    fn wait_held(&self, deadline: Instant) -> Vec<u64>;
    /// Lets writers of one file go on.
    fn release(&self, node: u64);
    /// Lets all writers go on.
    fn release_all(&self);
    /// Keeps the content of these files as it is now, whatever is done to
    /// the tree, until [`abandon`](Self::abandon). Call it with the gate closed.
    fn shelter(&self, files: Vec<FileId>);
    /// The content of a sheltered file.
    fn content(&self, path: &RelPath, file: FileId) -> io::Result<Box<dyn Content>>;
    /// The content of this file is needed no more.
    fn unshelter(&self, file: FileId);
    /// All content of this plan has been read; its commit goes on in the remote.
    fn all_read(&self, _plan: &Arc<Plan>) {}
    /// Ends every shelter.
    fn abandon(&self);
}
