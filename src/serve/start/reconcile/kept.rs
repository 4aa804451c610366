//! [`Kept`]: what the version has where something else stays.
use super::restored::Restored;
use crate::layer::{Entry, Kind};
use crate::path::RelPath;
use crate::state::identity::Identity;
use crate::state::record::{overruled, overruled_as};
use std::collections::{BTreeMap, HashMap};

/// See the module. What stays is not recorded as saved: the scan finds it. That the version has something there is, or
/// nobody would tell it if what stays goes.
#[derive(Debug, Default)]
pub struct Kept {
    /// Each as a record.
    overruled: BTreeMap<RelPath, Identity>,
    /// Where those lead that are links.
    links: HashMap<RelPath, RelPath>,
}

impl Kept {
    /// Something stays in the place of an entry.
    pub fn stay(&mut self, entry: &Entry) {
        self.overruled.insert(entry.path.clone(), overruled(entry));
        if let Kind::HardLink { target } = &entry.kind {
            self.links.insert(entry.path.clone(), target.clone());
        }
    }

    /// Whether what stands at a path stays.
    pub fn stays(&self, path: &RelPath) -> bool {
        self.overruled.contains_key(path)
    }

    /// After the restore: what the version has and is not what stands there. That is taken out of what was found.
    pub fn settle(self, found: &mut Restored) -> Restored {
        let mut kept = self.overruled;
        found.retain(|path, _| !kept.contains_key(path));
        for (path, target) in self.links {
            if let Some(ident) = found.get(&target).or_else(|| kept.get(&target)).copied() {
                kept.entry(path).and_modify(|record| *record = overruled_as(&ident));
            }
        }
        kept
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::layer::{Metadata, References};

    fn path(p: &str) -> RelPath {
        RelPath::new(p).expect("valid path")
    }

    fn entry(p: &str, kind: Kind) -> Entry {
        let mtime = Timestamp { sec: 1_600_000_000, nsec: 5 };
        let meta = Metadata { mode: 0o640, uid: 1, gid: 2, mtime, xattrs: Vec::new() };
        Entry { path: path(p), kind, meta }
    }

    fn file(p: &str, size: u64) -> Entry {
        entry(p, Kind::File { size, fuzzy: false, refs: References::none() })
    }

    #[test]
    fn what_stays_is_told_by_what_the_version_has_and_equals_nothing_that_stands() {
        let mut kept = Kept::default();
        let (other, dir) = (file("other", 7), entry("dir", Kind::Directory));
        let link = entry("link", Kind::HardLink { target: path("other") });
        let further = entry("further", Kind::HardLink { target: path("same") });
        let symlink = entry("symlink", Kind::Symlink { target: b"there".to_vec() });
        let same = file("same", 8);
        for entry in [&other, &dir, &link, &further, &symlink] {
            kept.stay(entry);
        }
        assert!(kept.stays(&dir.path) && !kept.stays(&same.path) && !kept.stays(&path("none")));
        // As they would stand if they did.
        let stands = |entry: &Entry| {
            let ctime = Timestamp { sec: 1_700_000_000, nsec: 6 };
            Identity { dev: 3, ino: 4, nlink: 2, ctime, ..overruled(entry) }
        };
        let mut found = Restored::from([(path("same"), stands(&same)), (path("dir"), stands(&dir))]);
        let records = kept.settle(&mut found);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&path("same")]);
        for entry in [&other, &dir, &symlink] {
            let record = records.get(&entry.path).expect("has a record");
            assert!(record.may_be(entry), "{record:?} does not tell of {entry:?}");
            assert!(!stands(entry).unchanged_since(record), "{record:?} is that of what stands");
        }
        for (link, target) in [(&link, &other), (&further, &same)] {
            let record = records.get(&link.path).expect("has a record");
            assert!(record.may_be(target), "{record:?} is not that of {target:?}");
        }
        assert_eq!(records.len(), 5);
    }
}
