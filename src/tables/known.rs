//! [`Known`]: the files that published tables name, by their paths below the mount.
use super::partitions::Partitions;
use crate::sync::RwLock;
use icecache_iceberg::Location;
use icecache_iceberg::mapping::OBJECTS;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

/// What a table names, as it is added.
#[derive(Debug, Clone)]
pub(super) struct NamedFile {
    /// Below the mount.
    pub path: String,
    pub location: Location,
    /// In bytes.
    pub size: u64,
    /// As text.
    pub partition: Arc<str>,
}

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
    /// The number of its partition, where the file [is counted](is_counted).
    partition: u32,
    /// The version that is shown has it; else one of before, of which somebody may still read.
    is_live: bool,
}

/// Each file is counted by one of its paths, by the one that it has whichever table names it.
fn is_counted(path: &str) -> bool {
    path.strip_prefix(OBJECTS).is_some_and(|rest| rest.starts_with('/'))
}

impl File {
    fn is_live(&self) -> bool {
        self.holders.iter().any(|holder| holder.is_live)
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
    /// By table those of its files.
    partitions: HashMap<Arc<str>, Partitions>,
}

impl State {
    /// A table names a file; whether its shown version does.
    fn put(&mut self, table: &Arc<str>, file: NamedFile, is_live: bool) -> bool {
        let NamedFile { path, location, size, partition } = file;
        let is_counted = is_counted(&path);
        let new = || File { location: location.clone(), size, holders: Vec::with_capacity(1) };
        let file = self.files.entry(path).or_insert_with(new);
        if is_live || !file.is_live() {
            for holder in file.holders.iter().filter(|holder| is_counted && holder.is_live) {
                if let Some(partitions) = self.partitions.get_mut(&holder.table) {
                    partitions.count(holder.partition, size, file.size);
                }
            }
            (file.location, file.size) = (location, size);
        }
        let mut enter = || match is_counted {
            true => self.partitions.entry(table.clone()).or_default().enter(&partition),
            false => 0,
        };
        let at = file.holders.iter().position(|holder| holder.table == *table);
        let holder = match at {
            Some(at) => &mut file.holders[at],
            None => {
                let partition = enter();
                file.holders.push(Holder { table: table.clone(), partition, is_live: false });
                let Some(holder) = file.holders.last_mut() else { return is_live };
                holder
            }
        };
        if is_live && !holder.is_live {
            holder.is_live = true;
            if let Some(partitions) = self.partitions.get_mut(table).filter(|_| is_counted) {
                let number = partitions.enter(&partition); // an older snapshot may have had it in another one
                partitions.leave(std::mem::replace(&mut holder.partition, number));
                partitions.count(number, file.size, 0);
            }
        }
        holder.is_live
    }

    /// The version of a table that is shown has this file no longer, or the table names it no longer (`is_gone`).
    fn uncount(&mut self, path: &str, holder: &Holder, is_gone: bool) {
        if !is_counted(path) {
            return;
        }
        let Some(size) = self.files.get(path).map(|file| file.size) else { return };
        let Some(partitions) = self.partitions.get_mut(&holder.table) else { return };
        if holder.is_live {
            partitions.count(holder.partition, 0, size);
        }
        if is_gone {
            partitions.leave(holder.partition);
            if partitions.is_empty() {
                self.partitions.remove(&holder.table);
            }
        }
    }

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
    /// Adds files of a table. What is live stays so, and stays what it is: an older snapshot may name another file that had
    /// its name.
    pub(super) fn add(&self, table: &str, files: impl IntoIterator<Item = NamedFile>, is_live: bool) {
        let table: Arc<str> = table.into();
        let mut known = self.0.write();
        for file in files {
            let path = file.path.clone();
            match known.put(&table, file, is_live) {
                false => known.note_retired(&table, &path),
                true => known.note_back(&table, &path),
            }
        }
    }

    /// The version of a table that is shown has them no longer: they are found, and not listed.
    pub(super) fn retire(&self, table: &str, paths: impl IntoIterator<Item = String>) {
        let mut known = self.0.write();
        for path in paths {
            let mut holders = known.files.get_mut(&path).into_iter().flat_map(|file| &mut file.holders);
            let Some(holder) = holders.find(|holder| &*holder.table == table) else { continue };
            let was = holder.clone();
            holder.is_live = false;
            known.uncount(&path, &was, false);
            known.note_retired(&was.table, &path);
        }
    }

    /// The partition of a file that the shown version of a table has; by its path among all objects.
    pub(super) fn partition_of(&self, table: &str, path: &str) -> Option<Arc<str>> {
        let known = self.0.read();
        let mut holders = known.files.get(path).filter(|_| is_counted(path))?.holders.iter();
        let holder = holders.find(|holder| &*holder.table == table && holder.is_live)?;
        Some(known.partitions.get(table)?.name(holder.partition).clone())
    }

    /// How many bytes the shown version of a table has in a partition.
    pub(super) fn bytes_in(&self, table: &str, partition: &str) -> u64 {
        self.0.read().partitions.get(table).map_or(0, |partitions| partitions.bytes(partition))
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
        let is_of = |holder: &Holder| &*holder.table == table;
        let Some(file) = known.files.get(path) else { return };
        let Some(holder) = file.holders.iter().find(|holder| is_of(holder)).cloned() else { return };
        known.uncount(path, &holder, true);
        let Some(file) = known.files.get_mut(path) else { return };
        file.holders.retain(|holder| !is_of(holder));
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

    fn named(path: &str, size: u64, partition: &str) -> NamedFile {
        let location = format!("s3://b/{path}").parse().expect("a location");
        NamedFile { path: path.to_owned(), location, size, partition: partition.into() }
    }

    #[test]
    fn folders_are_what_lies_above_files() {
        let known = Known::default();
        let at = |path: &str| named(path, 1, "");
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
        let at = |path: &str| named(path, 1, "");
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
        let at = |path: &str, size: u64| named(path, size, "");
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

    /// What is known of partitions is what the shown version has in them, each file once.
    #[test]
    fn partitions_have_what_is_live() {
        let known = Known::default();
        let of = |path: &str| known.partition_of("t", path).map(|name| name.to_string());
        let bytes = |partition| known.bytes_in("t", partition);
        let object = |name: &str, size, partition| named(&format!("objects/s3/b/{name}"), size, partition);
        known.add("t", [object("1", 10, "p=1"), object("2", 20, "p=1"), object("3", 40, "p=2")], true);
        known.add("t", [named("t/data/1", 10, "p=1")], true);
        known.add("t", [object("1", 10, "p=9"), object("4", 80, "p=1")], false);
        known.add("u", [object("1", 10, "x")], true);
        assert_eq!((bytes("p=1"), bytes("p=2"), bytes("p=9"), bytes("x")), (30, 40, 0, 0));
        assert_eq!(
            (of("objects/s3/b/1"), of("objects/s3/b/4"), of("t/data/1")),
            (Some("p=1".into()), None, None)
        );
        known.retire("t", ["objects/s3/b/2".to_owned(), "objects/s3/b/4".to_owned()]);
        assert_eq!((bytes("p=1"), of("objects/s3/b/2")), (10, None));
        // It comes again, in another partition and of another size.
        known.add("t", [object("2", 7, "p=2")], true);
        known.add("t", [object("1", 11, "p=1")], true);
        assert_eq!((bytes("p=1"), bytes("p=2"), known.bytes_in("u", "x")), (11, 47, 11));
        for n in 1..=4 {
            known.release("t", &format!("objects/s3/b/{n}"));
        }
        assert_eq!((bytes("p=1"), bytes("p=2"), known.bytes_in("u", "x")), (0, 0, 11));
        known.release("u", "objects/s3/b/1");
        assert!(known.0.read().partitions.is_empty());
    }
}
