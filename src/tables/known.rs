//! [`Known`]: the files that published tables name, by their paths below the mount.
use crate::sync::RwLock;
use icecache_iceberg::Location;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

/// A file.
#[derive(Debug, Clone)]
struct File {
    location: Location,
    /// In bytes.
    size: u64,
    /// The tables that name it; one, as a rule.
    holders: Vec<Holder>,
}

/// A table that names a file.
#[derive(Debug, Clone)]
struct Holder {
    /// Its path below the mount.
    table: Arc<str>,
    /// The version that is shown has it; else one of before, of which somebody may still read.
    is_live: bool,
}

impl File {
    fn is_live(&self) -> bool {
        self.holders.iter().any(|holder| holder.is_live)
    }

    /// A table names it; whether its shown version does.
    fn held_by(&mut self, table: &Arc<str>, is_live: bool) -> bool {
        match self.holders.iter_mut().find(|holder| holder.table == *table) {
            Some(holder) => {
                holder.is_live |= is_live;
                holder.is_live
            }
            None => {
                self.holders.push(Holder { table: table.clone(), is_live });
                is_live
            }
        }
    }
}

/// See the module. Owner of its lock.
#[derive(Debug, Default)]
pub(super) struct Known(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, File>,
    /// By table what it names, and its shown version has not, as far as it may be forgotten: there may be very many others.
    retired: HashMap<Arc<str>, HashSet<String>>,
}

impl State {
    fn note_retired(&mut self, table: &Arc<str>, path: &str) {
        let is_own = path.strip_prefix(&**table).is_some_and(|rest| rest.starts_with('/'));
        let is_local = self.files.get(path).is_some_and(|file| file.location.file_path().is_some());
        if is_local && !is_own {
            return; // who has the metadata open finds it only as long as it is known
        }
        match self.retired.get_mut(table) {
            Some(paths) if paths.contains(path) => {}
            Some(paths) => drop(paths.insert(path.to_owned())),
            None => drop(self.retired.insert(table.clone(), HashSet::from([path.to_owned()]))),
        }
    }

    fn note_back(&mut self, table: &str, path: &str) {
        let Some(paths) = self.retired.get_mut(table) else { return };
        if paths.remove(path) && paths.is_empty() {
            self.retired.remove(table);
        }
    }
}

impl Known {
    /// Adds files of a table: paths below the mount, where they are, and their sizes in bytes. What is live stays so, and
    /// stays what it is: an older snapshot may name another file that had its name.
    pub(super) fn add(
        &self,
        table: &str,
        files: impl IntoIterator<Item = (String, Location, u64)>,
        is_live: bool,
    ) {
        let table: Arc<str> = table.into();
        let mut known = self.0.write();
        for (path, location, size) in files {
            let is_retired = {
                let new = || File { location: location.clone(), size, holders: Vec::with_capacity(1) };
                let file = known.files.entry(path.clone()).or_insert_with(new);
                if is_live || !file.is_live() {
                    (file.location, file.size) = (location, size);
                }
                !file.held_by(&table, is_live)
            };
            match is_retired {
                true => known.note_retired(&table, &path),
                false => known.note_back(&table, &path),
            }
        }
    }

    /// The version of a table that is shown has them no longer: they are found, and not listed.
    pub(super) fn retire(&self, table: &str, paths: impl IntoIterator<Item = String>) {
        let mut known = self.0.write();
        for path in paths {
            let mut holders = known.files.get_mut(&path).into_iter().flat_map(|file| &mut file.holders);
            let Some(holder) = holders.find(|holder| &*holder.table == table) else { continue };
            holder.is_live = false;
            let table = holder.table.clone();
            known.note_retired(&table, &path);
        }
    }

    /// All that a table names: paths, and where they are.
    pub(super) fn of(&self, table: &str) -> Vec<(String, Location)> {
        let known = self.0.read();
        let own =
            known.files.iter().filter(|(_, file)| file.holders.iter().any(|holder| &*holder.table == table));
        own.map(|(path, file)| (path.clone(), file.location.clone())).collect()
    }

    /// What a table names, its shown version has not, and may be forgotten: paths, and where they are.
    pub(super) fn retired(&self, table: &str) -> Vec<(String, Location)> {
        let known = self.0.read();
        let paths = known.retired.get(table).into_iter().flatten();
        paths.filter_map(|path| Some((path.clone(), known.files.get(path)?.location.clone()))).collect()
    }

    /// A table names the file of a path no longer; it is forgotten unless another one does.
    pub(super) fn release(&self, table: &str, path: &str) {
        let mut known = self.0.write();
        known.note_back(table, path);
        let Some(file) = known.files.get_mut(path) else { return };
        file.holders.retain(|holder| &*holder.table != table);
        if file.holders.is_empty() {
            known.files.remove(path);
        }
    }

    /// The file of a path.
    pub(super) fn file(&self, path: &str) -> Option<(Location, u64)> {
        self.0.read().files.get(path).map(|file| (file.location.clone(), file.size))
    }

    /// Whether files lie below a path.
    pub(super) fn is_folder(&self, path: &str) -> bool {
        self.below(path, "", false).is_some()
    }

    /// The names of what is live that stand in a folder, each once; whether it is a folder.
    pub(super) fn children(&self, folder: &str) -> Vec<(String, bool)> {
        let (mut names, mut after) = (Vec::new(), String::new());
        while let Some((name, is_folder)) = self.below(folder, &after, true) {
            // Past all that lies below it: a slash is followed by a zero.
            after = if is_folder { format!("{name}0") } else { format!("{name}\u{1}") };
            names.push((name, is_folder));
        }
        names.dedup_by(|a, b| a.0 == b.0);
        names
    }

    fn below(&self, folder: &str, after: &str, live_only: bool) -> Option<(String, bool)> {
        let start = format!("{folder}/{after}");
        let known = self.0.read();
        let below = known.files.range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded));
        let (path, _) = below
            .take_while(|(path, _)| path.starts_with(folder))
            .find(|(_, file)| file.is_live() || !live_only)?;
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
        known.add("t", ["o/b/a.x", "o/b/a/1", "o/b/a/2", "o/b/a-b", "o/b/z", "p"].map(at), true);
        let names = |folder| -> Vec<String> { known.children(folder).into_iter().map(|(n, _)| n).collect() };
        assert_eq!(names("o"), ["b"]);
        assert_eq!(names("o/b"), ["a-b", "a.x", "a", "z"]);
        assert_eq!(known.children("o/b/a"), [("1".to_owned(), false), ("2".to_owned(), false)]);
        assert!(known.is_folder("o/b/a") && !known.is_folder("o/b/z") && !known.is_folder("o/b/a/1"));
        assert!(known.file("o/b/a/1").is_some() && known.file("o/b/a").is_none());
        assert!(names("q").is_empty());
    }

    #[test]
    fn what_the_shown_version_has_no_more_is_found_and_not_listed() {
        let known = Known::default();
        let at = |path: &str| -> (String, Location, u64) {
            (path.to_owned(), format!("s3://b/{path}").parse().expect("a location"), 1)
        };
        known.add("t", ["t/data/a/1", "t/data/b/2", "t/data/b/3", "t0/data/4", "ta"].map(at), true);
        known.add("t", ["t/data/a/1", "t/data/c/5"].map(at), false);
        let names = |folder| -> Vec<String> { known.children(folder).into_iter().map(|(n, _)| n).collect() };
        assert_eq!(names("t/data"), ["a", "b"], "one of an older version is not of this one");
        known.retire("t", ["t/data/a/1", "t/data/b/3"].map(str::to_owned));
        assert_eq!((names("t/data"), names("t/data/b")), (vec!["b".to_owned()], vec!["2".to_owned()]));
        assert!(
            known.file("t/data/a/1").is_some() && known.is_folder("t/data/a") && known.is_folder("t/data/c")
        );
        known.retire("t", ["t0/data/4".to_owned()]);
        known.add("t", ["t0/data/4"].map(at), true);
        let mut retired: Vec<String> = known.retired("t").into_iter().map(|(path, _)| path).collect();
        retired.sort();
        assert_eq!(
            retired,
            ["t/data/a/1", "t/data/b/3", "t/data/c/5"],
            "wherever they are, and none that is back"
        );
        retired.iter().for_each(|path| known.release("t", path));
        assert!(known.file("t/data/b/2").is_some() && !known.is_folder("t/data/a"));
        assert!(known.retired("t").is_empty() && known.0.read().retired.is_empty());
        known.release("t", "t/data/b/2");
        assert!(known.file("t0/data/4").is_some() && known.file("ta").is_some() && !known.is_folder("t"));
    }

    #[test]
    fn a_file_of_two_tables_is_known_as_long_as_one_of_them_names_it() {
        let known = Known::default();
        let at = |path: &str, size: u64| -> (String, Location, u64) {
            (path.to_owned(), format!("s3://b/{path}").parse().expect("a location"), size)
        };
        known.add("a", [at("o/x", 1), at("o/y", 1)], true);
        known.add("b", [at("o/x", 1)], true);
        assert_eq!(known.of("a").len(), 2);
        known.retire("a", ["o/x".to_owned()]);
        assert_eq!(known.children("o").len(), 2, "the other shows it still");
        known.release("a", "o/x");
        known.release("a", "o/y");
        assert!(known.file("o/x").is_some() && known.file("o/y").is_none() && known.of("a").is_empty());
        // One that had its name in an older snapshot is not what is shown.
        known.add("b", [at("o/x", 7)], false);
        assert_eq!(known.file("o/x").map(|(_, size)| size), Some(1));
        known.add("b", [at("o/x", 7)], true);
        assert_eq!(known.file("o/x").map(|(_, size)| size), Some(7));
        known.release("b", "o/x");
        assert!(known.file("o/x").is_none());
    }
}
