//! [`Seen`]: what the last scan found as the records have it, so that the next one need not ask them.
//!
//! A name whose lstat is what it was when its record said the same is clean still: a record changes only with what
//! a commit found changed on the disk, and that has moved the change time. A directory whose times did not move has
//! the names it had.
use crate::clock::Timestamp;
use crate::path::RelPath;
use crate::state::identity::Identity;
use rustix::fs::Stat;
use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many names are remembered, at some 80 bytes each. Of the rest the records are asked every time.
const NAMES_MAX: usize = 200_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Seen {
    directories: HashMap<RelPath, Directory>,
    names: usize,
    /// Counts scans.
    now: u64,
}

/// The part of an [`Identity`] that tells a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Brief {
    ino: u64,
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
    mode: u32,
}

impl From<&Identity> for Brief {
    fn from(i: &Identity) -> Self {
        Self { ino: i.ino, size: i.size, mtime: i.mtime, ctime: i.ctime, mode: i.mode }
    }
}

impl From<&Stat> for Brief {
    fn from(stat: &Stat) -> Self {
        Self::from(&Identity::from(stat))
    }
}

/// The names of one directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// Its lstat before it was listed.
    brief: Brief,
    /// The names, each with its NUL.
    names: Box<[u8]>,
    entries: Box<[Entry]>,
    /// The last scan that was here.
    visited: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where its name begins.
    at: u32,
    /// Its lstat if it is as its record has it.
    clean: Option<Brief>,
}

impl Directory {
    /// Whether a directory that lstat shows so has these names still.
    pub(super) fn holds(&self, ident: &Identity) -> bool {
        self.brief == Brief::from(ident)
    }

    /// Its names, in order, and how they looked when they were clean.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&CStr, Option<Brief>)> {
        self.entries.iter().map(|entry| {
            let name = self.names.get(entry.at as usize..).unwrap_or_default();
            (CStr::from_bytes_until_nul(name).unwrap_or_default(), entry.clean)
        })
    }
}

/// Collects what there is to remember of one directory while it is compared.
#[derive(Debug)]
pub(super) struct Listing {
    brief: Brief,
    names: Vec<u8>,
    entries: Vec<Entry>,
}

impl Listing {
    /// `None` if the directory changed so recently that a later change may not move its times. `looked` is from before
    /// its lstat, `tick` how long the clock may stand still.
    pub(super) fn of(ident: &Identity, looked: Timestamp, tick: Duration) -> Option<Self> {
        let settled = tick.is_zero() || looked.since(ident.ctime) >= tick;
        settled.then(|| Self { brief: ident.into(), names: Vec::new(), entries: Vec::new() })
    }

    /// The next name.
    pub(super) fn add(&mut self, name: &[u8], clean: Option<&Identity>) {
        let Ok(at) = u32::try_from(self.names.len()) else { return };
        self.names.extend_from_slice(name);
        self.names.push(0);
        self.entries.push(Entry { at, clean: clean.map(Brief::from) });
    }
}

/// What there is to remember of one directory.
#[derive(Debug)]
pub(super) enum News {
    /// All of it.
    Listed(RelPath, Listing),
    /// These of its names, by number, are clean, and look so.
    Cleaned(RelPath, Vec<(usize, Brief)>),
}

impl Seen {
    /// What is known of a directory.
    pub(super) fn get(&self, path: &RelPath) -> Option<&Directory> {
        let known = self.directories.get(path)?;
        known.visited.store(self.now, Ordering::Relaxed);
        Some(known)
    }

    /// Takes in what a scan has found, and forgets the directories it did not come to.
    pub(super) fn take_in(&mut self, news: Vec<News>) {
        let now = self.now;
        for one in news {
            match one {
                News::Listed(path, listing) => self.list(path, listing),
                News::Cleaned(path, clean) => {
                    let Some(known) = self.directories.get_mut(&path) else { continue };
                    for (number, brief) in clean {
                        if let Some(entry) = known.entries.get_mut(number) {
                            entry.clean = Some(brief);
                        }
                    }
                }
            }
        }
        let names = &mut self.names;
        self.directories.retain(|_, known| {
            let stays = *known.visited.get_mut() == now;
            if !stays {
                *names -= known.entries.len();
            }
            stays
        });
        self.now += 1;
    }

    fn list(&mut self, path: RelPath, listing: Listing) {
        if let Some(old) = self.directories.remove(&path) {
            self.names -= old.entries.len();
        }
        if self.names + listing.entries.len() > NAMES_MAX {
            return;
        }
        self.names += listing.entries.len();
        let known = Directory {
            brief: listing.brief,
            names: listing.names.into(),
            entries: listing.entries.into(),
            visited: AtomicU64::new(self.now),
        };
        self.directories.insert(path, known);
    }
}
