//! Directories with absent entries in them that somebody moved beneath, while nobody watched: what is absent in
//! them follows them.
//!
//! A record knows a directory by its inode number. One that was made since then has another birth, whatever
//! its number.
use super::tree::{Node, ROOT, What};
use super::{Absent, Fate};
use crate::clock::Timestamp;
use crate::path::RelPath;
use crate::state::identity::Identity;
use rustix::fs::{AtFlags, StatxFlags};
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
    /// Finds them again.
    pub(super) fn find_strayed(&self) -> io::Result<Strayed> {
        let mut strayed = Strayed::default();
        let Some(records) = &self.records else { return Ok(strayed) };
        let (mut wanted, mut known) = (HashMap::new(), HashMap::new());
        let mut stack = vec![ROOT];
        while let Some(node) = stack.pop() {
            let Ok(dir) = self.dir_of(node) else { continue };
            let is_here = |child: &Node| {
                self.tree.what(*child) == What::Directory && self.fate(*child) == Some(Fate::Here)
            };
            for child in self.tree.children(node).filter(is_here) {
                let Some(path) = self.path_of(child) else { continue };
                let record = records.get(&path).map_err(io::Error::other)?;
                let stat = rustix::fs::statat(&dir, self.tree.name(child), AtFlags::SYMLINK_NOFOLLOW);
                let there =
                    stat.ok().map(|stat| Identity::from(&stat)).filter(|now| now.file_type().is_dir());
                match (&record, there) {
                    (Some(record), Some(now)) if record.ino == now.ino => stack.push(child),
                    // Nobody knows what stood there; what does now may as well be it.
                    (None, Some(_)) => stack.push(child),
                    _ if !self.has_absent_within(child) => {}
                    (Some(record), _) => {
                        wanted.insert(record.ino, child);
                        known.insert(child, *record);
                    }
                    (None, None) => strayed.lost.push((path, self.files_within(child).len())),
                }
            }
        }
        let mut found: Vec<(Node, u64, OwnedFd)> = Vec::new();
        self.search(&mut wanted, |node, ino, fd| {
            let same = known.get(&node).map_or(Ok(false), |record| is_same(&fd, record))?;
            if same {
                found.push((node, ino, fd));
            }
            Ok(same)
        })?;
        for node in wanted.into_values() {
            strayed.lost.extend(self.path_of(node).map(|path| (path, self.files_within(node).len())));
        }
        if found.is_empty() {
            return Ok(strayed);
        }
        strayed.left.extend(found.iter().filter_map(|(node, ..)| self.path_of(*node)));
        let mut turn = self.turn.lock();
        turn.append_moves(found.iter().map(|(node, ino, _)| (*node, *ino)))?;
        turn.sync()?;
        for (node, ino, fd) in found {
            self.settle(node, ino, fd);
            self.set(node, Fate::Removed);
        }
        Ok(strayed)
    }
}

/// Whether a directory is the one that was recorded, and not a later one with its number.
fn is_same(dir: &OwnedFd, record: &Identity) -> io::Result<bool> {
    let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let time = |time: rustix::fs::StatxTimestamp| Timestamp { sec: time.tv_sec, nsec: time.tv_nsec };
    Ok(match StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME) {
        true => time(stat.stx_btime) <= record.ctime,
        false => time(stat.stx_mtime) == record.mtime,
    })
}
