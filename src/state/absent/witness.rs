//! [`Witness`]: tells whether what stands on the disk is what was put there, when no record does.
//!
//! Records are written behind, and a killed daemon loses the last of them. What it had brought would then
//! look like something that programs made. The [`log`](super::log) says what each arrival was, so that
//! whoever goes on can tell.
use super::log::Seen;
use super::tree::{Node, ROOT, What};
use super::{Absent, Fate};
use crate::clock::Timestamp;
use crate::path::RelPath;
use crate::state::identity::Identity;
use crate::state::record::Records;
use rustix::fs::{AtFlags, FileType, Timespec, Timestamps};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

/// 56 bits of the digest of an [`Identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness(pub(super) [u8; 7]);

impl Witness {
    /// Of what is still to be made.
    pub const UNKNOWN: Self = Self([0; 7]);

    /// Of what lstat says.
    pub fn of(ident: &Identity) -> Self {
        let mut hasher = blake3::Hasher::new();
        for number in [
            ident.ino,
            u64::from(ident.mode),
            ident.size,
            ident.mtime.sec as u64,
            u64::from(ident.mtime.nsec),
            ident.ctime.sec as u64,
            u64::from(ident.ctime.nsec),
        ] {
            hasher.update(&number.to_le_bytes());
        }
        let mut bits = [0; 7];
        bits.copy_from_slice(&hasher.finalize().as_bytes()[..7]);
        Self(bits)
    }

    /// Of what lstat will say when it has a name, but for the change time that it gets with that.
    pub fn coming(ident: &Identity) -> Self {
        Self::of(&Identity { ctime: Timestamp::default(), ..*ident })
    }
}

/// What a log says of one node.
#[derive(Debug, Default)]
struct Trail {
    coming: Option<Witness>,
    came: Option<Witness>,
    /// What we made of a directory, step by step; of the last one perhaps only what was before.
    steps: Vec<(Witness, Option<Witness>)>,
}

impl Trail {
    /// From what was known, by what we did.
    fn follow(&self, first: Witness) -> Witness {
        let step = |at, (before, after): &(Witness, Option<Witness>)| match after {
            Some(after) if at == *before => *after,
            _ => at,
        };
        self.steps.iter().fold(first, step)
    }

    /// Whether names were coming to it, as it was then, when the daemon was killed.
    fn was_touched(&self, at: Witness) -> bool {
        self.steps.last().is_some_and(|(before, after)| *before == at && after.is_none())
    }
}

impl Absent {
    /// Gives what an earlier daemon has brought the records that it had no time to write. What anybody changed
    /// since then gets none.
    pub(super) fn recover(&self, seen: &[Seen]) -> io::Result<()> {
        let Some(records) = &self.records else { return Ok(()) };
        let mut trails: BTreeMap<Node, Trail> = BTreeMap::new();
        for seen in seen {
            let (Seen::Coming(node, _)
            | Seen::Came(node, _)
            | Seen::Touching(node, _)
            | Seen::Touched(node, ..)) = *seen;
            let trail = trails.entry(node).or_default();
            match *seen {
                Seen::Coming(_, witness) => trail.coming = Some(witness),
                Seen::Came(_, witness) => trail.came = Some(witness),
                Seen::Touching(_, before) => trail.steps.push((before, None)),
                Seen::Touched(_, before, after) => trail.steps.push((before, Some(after))),
            }
        }
        let mut recovered = 0u64;
        for (node, trail) in trails {
            recovered += u64::from(self.recover_one(records, node, &trail)?);
        }
        if recovered > 0 {
            tracing::info!(recovered, "records that a killed daemon had no time to write");
        }
        Ok(())
    }

    /// Whether it got a record.
    fn recover_one(&self, records: &Records, node: Node, trail: &Trail) -> io::Result<bool> {
        // Where all of a directory that was moved is here nobody follows it any more: it may be anywhere, also back at its
        // first place, where the newest version has nothing of it.
        if !self.leads_to(self.tree.parent(node)) {
            return Ok(false);
        }
        let Some(mut now) = self.stat(node) else { return Ok(false) };
        if self.is_absent(node) && trail.coming == Some(Witness::UNKNOWN) {
            return self.finish(records, node, &now);
        }
        if self.is_absent(node) && trail.coming == Some(Witness::coming(&now)) {
            // Nobody could see it before the log said that it is there.
            self.note(&mut self.turn.lock(), Fate::Here, &[node])?;
        } else if self.fate(node) != Some(Fate::Here) {
            return Ok(false);
        }
        let Some(path) = self.path_to_record(node) else { return Ok(false) };
        let record = records.get(&path).map_err(io::Error::other)?;
        if record == Some(now) {
            return Ok(false);
        }
        let known = record.as_ref().map(Witness::of).or(trail.came);
        let was = known.map(|known| trail.follow(known));
        let as_made = || self.tree.directory_meta(node).map(|meta| meta.mtime);
        if was.is_some_and(|was| trail.was_touched(was))
            && record.is_none_or(|record| record.ino == now.ino)
            && let Some(mtime) = record.map(|record| record.mtime).or_else(as_made)
        {
            // Names were coming to it: its times are still to be set back.
            let time = Timespec { tv_sec: mtime.sec, tv_nsec: i64::from(mtime.nsec) };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(self.dir_of(node)?, c".", &times, AtFlags::empty())?;
            let Some(after) = self.stat(node) else { return Ok(false) };
            now = after;
        } else if let Some(whole) = self.torn(node, &now, was) {
            now = whole;
        } else if was != Some(Witness::of(&now))
            && (known.is_some() || trail.coming != Some(Witness::coming(&now)))
        {
            return Ok(false); // somebody changed it
        }
        match record {
            None => records.arrived([(path, now)]),
            Some(before) => records.touched(&path, &before, &now),
        }
        .map_err(io::Error::other)?;
        Ok(true)
    }

    /// What a file was of which a failure of the machine has left all but the end: its record is to say so, and then it is
    /// brought again.
    fn torn(&self, node: Node, now: &Identity, was: Option<Witness>) -> Option<Identity> {
        let What::File(file) = self.tree.what(node) else { return None };
        let whole = Identity { size: self.tree.file(file).size, ..*now };
        (now.size < whole.size && was == Some(Witness::of(&whole))).then_some(whole)
    }

    /// A directory that was being made gets the rest of its attributes; a link or node is made anew, when it is
    /// needed. Nobody could see either.
    fn finish(&self, records: &Records, node: Node, now: &Identity) -> io::Result<bool> {
        let (dir, name) = (self.dir_of(self.tree.parent(node))?, self.tree.name(node));
        let is_dir = now.file_type() == FileType::Directory;
        match self.tree.what(node) {
            What::Directory if is_dir => {
                let made = self.ground.placer.finish_directory(dir.as_fd(), name, &self.attributes(node))?;
                self.note(&mut self.turn.lock(), Fate::Here, &[node])?;
                let Some(path) = self.path_to_record(node) else { return Ok(false) };
                records.arrived([(path, Identity::from(&made))]).map_err(io::Error::other)?;
                Ok(true)
            }
            What::Special(_) if !is_dir => {
                self.in_directory(self.tree.parent(node), dir.as_fd(), None, || {
                    rustix::fs::unlinkat(&dir, name, AtFlags::empty())
                })?;
                Ok(false)
            }
            _ => Ok(false), // somebody put something else there
        }
    }

    /// What stands at a node.
    fn stat(&self, node: Node) -> Option<Identity> {
        if node == ROOT {
            let root = self.ground.dirs.lock().get(&RelPath::root(), false).ok()?;
            return Some(Identity::from(&rustix::fs::fstat(&root).ok()?));
        }
        let dir = self.dir_of(self.tree.parent(node)).ok()?;
        let stat = rustix::fs::statat(&dir, self.tree.name(node), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(Identity::from(&stat))
    }
}
