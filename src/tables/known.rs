//! [`Known`]: the files that published tables name, by their paths below the mount.
use crate::sync::RwLock;
use icecache_iceberg::Location;
use std::collections::BTreeMap;
use std::ops::Bound;

/// See the module. Owner of its lock.
#[derive(Debug, Default)]
pub(super) struct Known(RwLock<BTreeMap<String, (Location, u64)>>);

impl Known {
    /// Adds files: paths below the mount, where they are, and their sizes in bytes.
    pub(super) fn add(&self, files: impl IntoIterator<Item = (String, Location, u64)>) {
        let files = files.into_iter().map(|(path, location, size)| (path, (location, size)));
        self.0.write().extend(files);
    }

    /// The file of a path.
    pub(super) fn file(&self, path: &str) -> Option<(Location, u64)> {
        self.0.read().get(path).cloned()
    }

    /// Whether files lie below a path.
    pub(super) fn is_folder(&self, path: &str) -> bool {
        self.below(path, "").is_some()
    }

    /// The names that stand in a folder, each once; whether it is a folder.
    pub(super) fn children(&self, folder: &str) -> Vec<(String, bool)> {
        let (mut names, mut after) = (Vec::new(), String::new());
        while let Some((name, is_folder)) = self.below(folder, &after) {
            // Past all that lies below it: a slash is followed by a zero.
            after = if is_folder { format!("{name}0") } else { format!("{name}\u{1}") };
            names.push((name, is_folder));
        }
        names.dedup_by(|a, b| a.0 == b.0);
        names
    }

    fn below(&self, folder: &str, after: &str) -> Option<(String, bool)> {
        let start = format!("{folder}/{after}");
        let known = self.0.read();
        let (path, _) = known.range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded)).next()?;
        let rest = path.strip_prefix(folder)?.strip_prefix('/')?;
        Some(match rest.split_once('/') {
            Some((name, _)) => (name.to_owned(), true),
            None => (rest.to_owned(), false),
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn folders_are_what_lies_above_files() {
        let known = Known::default();
        let at = |path: &str| -> (String, Location, u64) {
            (path.to_owned(), "s3://b/k".parse().expect("a location"), 1)
        };
        known.add(["o/b/a.x", "o/b/a/1", "o/b/a/2", "o/b/a-b", "o/b/z", "p"].map(at));
        let names = |folder| -> Vec<String> { known.children(folder).into_iter().map(|(n, _)| n).collect() };
        assert_eq!(names("o"), ["b"]);
        assert_eq!(names("o/b"), ["a-b", "a.x", "a", "z"]);
        assert_eq!(known.children("o/b/a"), [("1".to_owned(), false), ("2".to_owned(), false)]);
        assert!(known.is_folder("o/b/a") && !known.is_folder("o/b/z") && !known.is_folder("o/b/a/1"));
        assert!(known.file("o/b/a/1").is_some() && known.file("o/b/a").is_none());
        assert!(names("q").is_empty());
    }
}
