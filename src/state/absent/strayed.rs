//! Directories with absent entries in them that somebody moved beneath, while nobody watched: what is absent in
//! them follows them.
//!
//! A record knows a directory by its inode number. One that was made since then has another birth, whatever
//! its number.
use super::moved::birth;
use super::tree::{Node, ROOT, What};
use super::{Absent, Fate};
use crate::path::RelPath;
use crate::state::identity::Identity;
use crate::state::record::Records;
use rustix::fs::AtFlags;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

/// What became of directories that are not where they were.
#[derive(Debug, Default)]
pub struct Strayed {
    /// The places that they have left.
    pub left: Vec<RelPath>,
    /// Those that are nowhere, and with them files that were not here.
    pub lost: Vec<(RelPath, usize)>,
}

impl Absent {
    /// Finds them again, and those within them.
    pub(super) fn find_strayed(&self) -> io::Result<Strayed> {
        let mut strayed = Strayed::default();
        let Some(records) = &self.records else { return Ok(strayed) };
        // Each with the place where its record has it.
        let mut begin = vec![(ROOT, RelPath::root())];
        begin.extend(self.recorded_homes(records)?);
        while !begin.is_empty() {
            let mut away = self.away(records, std::mem::take(&mut begin), &mut strayed)?;
            let mut wanted: HashMap<u64, Node> =
                away.iter().map(|(node, (_, record))| (record.ino, *node)).collect();
            let mut found: Vec<(Node, u64, OwnedFd)> = Vec::new();
            self.search(&mut wanted, |node, ino, fd| {
                let same = away.get(&node).map_or(Ok(false), |(_, record)| is_same(&fd, record))?;
                if same {
                    found.push((node, ino, fd));
                }
                Ok(same)
            })?;
            for node in wanted.into_values() {
                let path = away.remove(&node).map(|(path, _)| path);
                strayed.lost.extend(path.map(|path| (path, self.files_within(node).len())));
            }
            if found.is_empty() {
                break;
            }
            let mut turn = self.turn.lock();
            self.log_births(&mut turn, found.iter().map(|(node, _, fd)| (*node, fd)))?;
            turn.append_moves(found.iter().map(|(node, ino, _)| (*node, *ino)))?;
            turn.sync()?;
            for (node, ino, fd) in found {
                self.settle(node, ino, fd);
                self.set(node, Fate::Removed);
                let path = away.remove(&node).map(|(path, _)| path).unwrap_or_default();
                strayed.left.push(path.clone());
                begin.push((node, path));
            }
        }
        Ok(strayed)
    }

    /// Directories that were moved before, each with the place where its record has it.
    fn recorded_homes(&self, records: &Records) -> io::Result<Vec<(Node, RelPath)>> {
        let mut homes: HashMap<u64, Node> = self.home_inodes();
        let mut recorded = Vec::new();
        if homes.is_empty() {
            return Ok(recorded);
        }
        for item in records.below(&RelPath::root()) {
            let (path, record) = item.map_err(io::Error::other)?;
            if record.file_type().is_dir() {
                recorded.extend(homes.remove(&record.ino).map(|node| (node, path)));
            }
        }
        Ok(recorded)
    }

    /// The directories below some that hold something absent and are not where they were, each with the place
    /// where its record has it, and the record.
    fn away(
        &self,
        records: &Records,
        mut stack: Vec<(Node, RelPath)>,
        strayed: &mut Strayed,
    ) -> io::Result<HashMap<Node, (RelPath, Identity)>> {
        let (mut away, homes) = (HashMap::new(), self.home_inodes());
        while let Some((node, at)) = stack.pop() {
            let Ok(dir) = self.dir_of(node) else { continue };
            let is_here = |child: &Node| {
                self.tree.what(*child) == What::Directory && self.fate(*child) == Some(Fate::Here)
            };
            for child in self.tree.children(node).filter(is_here) {
                let path = at.join(self.tree.name(child));
                let record = records.get(&path).map_err(io::Error::other)?;
                let stat = rustix::fs::statat(&dir, self.tree.name(child), AtFlags::SYMLINK_NOFOLLOW);
                let there =
                    stat.ok().map(|stat| Identity::from(&stat)).filter(|now| now.file_type().is_dir());
                // Where one that was moved stands now there is no other.
                let there = there.filter(|now| homes.get(&now.ino).is_none_or(|home| *home == child));
                match (record, there) {
                    (Some(record), Some(now)) if record.ino == now.ino => stack.push((child, path)),
                    // Nobody knows what stood there; what does now may as well be it.
                    (None, Some(_)) => stack.push((child, path)),
                    // An earlier daemon was killed before it could say so.
                    _ if !self.has_absent_within(child) => {
                        self.note(&mut self.turn.lock(), Fate::Removed, &[child])?;
                    }
                    (Some(record), _) => drop(away.insert(child, (path, record))),
                    (None, None) => strayed.lost.push((path, self.files_within(child).len())),
                }
            }
        }
        Ok(away)
    }
}

/// Whether a directory is the one that was recorded, and not a later one with its number.
fn is_same(dir: &OwnedFd, record: &Identity) -> io::Result<bool> {
    match birth(dir)? {
        Some(birth) => Ok(birth <= record.ctime),
        None => Ok(Identity::from(&rustix::fs::fstat(dir)?).mtime == record.mtime),
    }
}
