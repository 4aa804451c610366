//! What the kernel is told of what stands at a path: its number, its size, its times.
use super::nodes::Node;
use super::{IO_BYTES, Inner};
use crate::clock::Timestamp;
use crate::fs::attr::{Attr, FileKey};
use crate::tables::Found;
use rustix::fs::FileType;
use std::io;
use std::path::Path;

impl Inner {
    /// The number of what stands at a path, and its attributes; counts one reference of the kernel. A file of this machine
    /// that took the place of another one has another number.
    pub(super) fn interned(&self, path: &str, found: &Found, changes: bool) -> io::Result<(u64, Attr)> {
        let looked = || {
            let node = self.nodes.intern(path, found.clone(), changes);
            let attr = self.attr(&node);
            let is_still = match (&node.found, &attr) {
                (Found::Local(file), Ok(_)) if !changes => {
                    std::fs::metadata(file).is_ok_and(|there| node.is_still(&version_of(&there)))
                }
                _ => true,
            };
            (node, attr, is_still)
        };
        let (node, attr, is_still) = looked();
        if is_still {
            return attr.map(|attr| (node.id, attr));
        }
        self.nodes.retire(&node);
        self.nodes.forget(node.id, 1);
        let (node, attr, _) = looked();
        attr.map(|attr| (node.id, attr))
    }

    pub(super) fn attr(&self, node: &Node) -> io::Result<Attr> {
        let file = |size: u64, mtime| self.plain(node.id, (FileType::RegularFile, 0o444), size, mtime);
        Ok(match &node.found {
            Found::Folder => self.plain(node.id, (FileType::Directory, 0o555), 0, self.since),
            Found::Link(target) => {
                self.plain(node.id, (FileType::Symlink, 0o777), target.len() as u64, self.since)
            }
            Found::Text(text) => file(text.len() as u64, self.since),
            Found::Object { size, .. } => file(*size, self.since),
            Found::Local(path) => {
                let (size, mtime) = stat(path)?;
                file(size, mtime)
            }
        })
    }

    fn plain(&self, id: u64, (kind, mode): (FileType, u32), size: u64, time: Timestamp) -> Attr {
        Attr {
            key: FileKey { dev: 0, ino: id },
            mount: 0,
            generation: 0,
            mode: kind.as_raw_mode() | mode,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            size,
            blocks: size.div_ceil(512),
            blksize: IO_BYTES,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }
}

/// Which file of this machine one is: another one that takes its name has another, and so has the same one that is
/// written anew, whatever time of change somebody gives it.
pub(super) fn version_of(there: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    let changed = (there.ctime(), there.ctime_nsec());
    format!(
        "{}.{}.{}.{}.{}.{}",
        there.ino(),
        there.len(),
        there.mtime(),
        there.mtime_nsec(),
        changed.0,
        changed.1
    )
}

fn stat(path: &Path) -> io::Result<(u64, Timestamp)> {
    use std::os::unix::fs::MetadataExt;
    let there = std::fs::metadata(path)?;
    Ok((there.len(), Timestamp { sec: there.mtime(), nsec: there.mtime_nsec() as u32 }))
}
