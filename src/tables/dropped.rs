//! [`Dropped`]: tables that their catalogs have no longer, and what was rewritten of them.
//!
//! All of it goes but for what numbers are taken from: the newest version of the table, and of each snapshot that somebody
//! has looked into. One that comes under the same name goes on from there, and a path is never that of other bytes. Whoever
//! has a file open reads on. If the table was not gone after all, what it needs is rewritten.
use super::lake::{Lake, Turned};
use super::names::is_own;
use super::remembered::Remembered;
use super::slot::Writing;
use crate::sync::Mutex;
use icecache_iceberg::mapping;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;

/// Who still writes in the folder of a table that is gone is waited for so long, and others wait for that.
const PATIENCE: Duration = Duration::from_secs(1);
/// Then it is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// What each folder of a table has.
const MARK: &str = ".aside";
/// What goes is put there first, below the folder of the table.
const GONE: &str = ".gone";
const METADATA: &str = "metadata";
const HINT: &str = "version-hint.text";

/// See the module. Owner of its lock.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    due: Mutex<HashMap<String, Arc<Writing>>>,
    more: Notify,
}

impl Dropped {
    /// What is left of the table at this path may go.
    pub(super) fn add(&self, path: &str, writing: Arc<Writing>) {
        self.due.lock().insert(path.to_owned(), writing);
        self.more.notify_one();
    }
}

impl Lake {
    /// Removes what is left of dropped tables, until it is dropped itself.
    pub(super) async fn clear_dropped(&self) -> Infallible {
        loop {
            let due = std::mem::take(&mut *self.dropped.due.lock());
            for (path, writing) in due {
                if !self.clear(&path, &writing).await {
                    self.dropped.due.lock().entry(path).or_insert(writing);
                }
            }
            let pause = if self.dropped.due.lock().is_empty() { Duration::MAX } else { AGAIN };
            let _in_time = tokio::time::timeout(pause, self.dropped.more.notified()).await;
        }
    }

    /// `false` if somebody is at it still.
    async fn clear(&self, path: &str, writing: &Writing) -> bool {
        let Ok(_turn) = tokio::time::timeout(PATIENCE, writing.turn.lock()).await else { return false };
        let Ok(_alone) = tokio::time::timeout(PATIENCE, writing.older.write()).await else { return false };
        // One that is there by now has its turn when this is over, or sweeps what is left when it changes.
        if self.is_taken(path) {
            return true;
        }
        let folder = self.folder_at(path);
        match tokio::task::spawn_blocking(move || clear(&folder)).await {
            Ok(Ok(gone)) if gone.is_empty() => {}
            Ok(Ok(gone)) => {
                tracing::debug!(
                    table = path,
                    files = gone.len(),
                    "what was left of a dropped table was removed"
                );
                let paths: Vec<String> = gone.into_iter().map(|file| format!("{path}/{file}")).collect();
                self.turned(Turned::Files(&paths));
            }
            Ok(Err(error)) => {
                tracing::warn!(table = path, %error, "what is left of a dropped table cannot be removed");
            }
            Err(_) => {} // the program ends
        }
        true
    }

    /// Whether there is a table at this path, or one in what a table there would have itself.
    fn is_taken(&self, path: &str) -> bool {
        let names = self.names.read();
        let below = format!("{path}/");
        let inside = names.tables.range(below.clone()..).map_while(|(other, _)| other.strip_prefix(&below));
        names.tables.contains_key(path) || inside.into_iter().any(is_own)
    }

    pub(super) fn folder_at(&self, path: &str) -> PathBuf {
        path.split('/').fold(self.folder.clone(), |folder, name| folder.join(name))
    }

    /// A catalog has answered: once after a start what is left of tables that it does not name is looked for. It may have
    /// dropped them while nobody asked.
    pub(super) async fn find_dropped(&self, number: usize) {
        let named = &self.catalogs[number];
        if named.is_looked_through.swap(true, Ordering::Relaxed) {
            return;
        }
        let top = self.top(named);
        let root = self.folder.clone();
        let named_paths: HashSet<String> = self.names.read().tables.keys().cloned().collect();
        let found = tokio::task::spawn_blocking({
            let (top, catalog) = (top.clone(), named.identity.clone());
            move || left(&root, &top, |path| named_paths.contains(path), &catalog)
        });
        let mut found = found.await.unwrap_or_default();
        let shut = named.asking.shut();
        found.retain(|path| {
            let above = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            !shut.hides_folder(&top, above)
        });
        let mut names = self.names.write();
        for path in found {
            if !names.tables.contains_key(&path) {
                self.dropped.add(&path, names.writing_at(&path));
            }
        }
    }
}

/// The folder of a namespace, below that of all of its catalog.
pub(super) fn folder_of(top: &str, namespace: &[String]) -> String {
    namespace.iter().fold(top.to_owned(), |folder, level| format!("{folder}/{}", mapping::escape_name(level)))
}

/// The paths of tables below `top` of which something is left that could go, but for those that are `named`, and those that
/// another catalog than this one has shown. What cannot be looked at is left alone.
fn left(root: &Path, top: &str, is_named: impl Fn(&str) -> bool, catalog: &str) -> BTreeSet<String> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![top.to_owned()]);
    while let Some(path) = folders.pop() {
        let folder = root.join(&path);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let is_table = folder.join(MARK).is_dir();
        for entry in entries.filter_map(Result::ok) {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && !name.starts_with('.') && !(is_table && is_own(&name)) {
                folders.push(format!("{path}/{name}"));
            }
        }
        let is_others = || Remembered::catalog_of(&folder).is_some_and(|other| other != catalog);
        if is_table && !is_named(&path) && has_more(&folder) && !is_others() {
            found.insert(path);
        }
    }
    found
}

/// Whether there is more in the folder of a table than stays of one that is gone.
fn has_more(folder: &Path) -> bool {
    let files = fs::read_dir(folder.join(METADATA)).map_or(0, |entries| entries.take(2).count());
    files > 1 || ["deletes", "refs", GONE].iter().any(|name| folder.join(name).exists())
}

/// Removes from the folder of a table that is gone what is not needed; the paths of the files that are gone. After a loss of
/// power at any moment nothing is there that leads to what is not, but for a number: that of a version that stays.
fn clear(folder: &Path) -> io::Result<Vec<String>> {
    let mut gone = Vec::new();
    if !folder.join(MARK).is_dir() {
        return Ok(gone);
    }
    Remembered::forget_shown(folder);
    let aside = folder.join(GONE);
    remove_all(&aside)?; // another process may have ended before it was done
    let snapshots = folder.join("snapshots");
    if is_ours(&snapshots)? {
        for snapshot in folders(&snapshots)? {
            clear_view(folder, &format!("snapshots/{snapshot}/{METADATA}"), &mut gone)?;
        }
    }
    fs::create_dir(&aside)?;
    let refs = folder.join("refs");
    if is_ours(&refs)? {
        list(folder, "refs", &mut gone)?;
        fs::rename(&refs, aside.join("refs"))?;
    }
    clear_metadata(folder, &aside, &mut gone)?;
    let deletes = folder.join("deletes");
    if is_ours(&deletes)? {
        list(folder, "deletes", &mut gone)?;
        fs::rename(&deletes, aside.join("deletes"))?;
    }
    remove_all(&aside)?;
    Ok(gone)
}

/// Lists, manifests and all versions but the newest go at one moment: a list that is there is taken to have all that it
/// leads to.
fn clear_metadata(folder: &Path, aside: &Path, gone: &mut Vec<String>) -> io::Result<()> {
    let metadata = folder.join(METADATA);
    if !is_ours(&metadata)? {
        return Ok(());
    }
    let mut names = Vec::new();
    list(folder, METADATA, &mut names)?;
    let newest = newest(&metadata)?.map(|name| format!("{METADATA}/{name}"));
    names.retain(|name| Some(name) != newest.as_ref());
    if names.is_empty() {
        return Ok(());
    }
    let stays = aside.join(METADATA);
    fs::create_dir(&stays)?;
    if let Some(newest) = &newest {
        fs::hard_link(folder.join(newest), aside.join(newest))?;
    }
    File::open(&stays)?.sync_all()?;
    renameat_with(CWD, &stays, CWD, &metadata, RenameFlags::EXCHANGE)?;
    gone.append(&mut names);
    Ok(())
}

/// Of a view the newest version stays; the hint goes first, as if it had never been shown.
fn clear_view(folder: &Path, path: &str, gone: &mut Vec<String>) -> io::Result<()> {
    let view = folder.join(path);
    let (newest, mut names) = (newest(&view)?, files(&view)?);
    names.sort_by_key(|name| name != HINT);
    for name in names.into_iter().filter(|name| Some(name) != newest.as_ref()) {
        fs::remove_file(view.join(&name))?;
        gone.push(format!("{path}/{name}"));
    }
    Ok(())
}

/// The name of the version with the greatest number.
fn newest(metadata: &Path) -> io::Result<Option<String>> {
    let number = |name: &String| -> Option<u64> {
        name.strip_prefix('v')?.strip_suffix(".metadata.json")?.parse().ok()
    };
    Ok(files(metadata)?.into_iter().filter(|name| number(name).is_some()).max_by_key(number))
}

/// Whether a folder is there, and none below it is that of a table in a namespace of this name.
fn is_ours(folder: &Path) -> io::Result<bool> {
    let mut below = vec![folder.to_owned()];
    if !folder.is_dir() {
        return Ok(false);
    }
    while let Some(folder) = below.pop() {
        let inside = folders(&folder)?;
        if inside.iter().any(|name| name == MARK) {
            return Ok(false);
        }
        below.extend(inside.into_iter().map(|name| folder.join(name)));
    }
    Ok(true)
}

/// All files below a folder of this one.
fn list(root: &Path, path: &str, all: &mut Vec<String>) -> io::Result<()> {
    let folder = root.join(path);
    all.extend(files(&folder)?.into_iter().map(|name| format!("{path}/{name}")));
    folders(&folder)?.into_iter().try_for_each(|name| list(root, &format!("{path}/{name}"), all))
}

fn files(folder: &Path) -> io::Result<Vec<String>> {
    names(folder, false)
}

fn folders(folder: &Path) -> io::Result<Vec<String>> {
    names(folder, true)
}

fn names(folder: &Path, of_folders: bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() == of_folders {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

fn remove_all(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn write(root: &Path, path: &str) {
        let file = root.join(path);
        fs::create_dir_all(file.parent().expect("a folder")).expect("makes");
        fs::write(file, path).expect("writes");
    }

    fn all(root: &Path) -> BTreeSet<String> {
        let (mut found, mut folders) = (BTreeSet::new(), vec![root.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("lists") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
                }
            }
        }
        found
    }

    const STAYS: [&str; 2] = ["metadata/v10.metadata.json", "snapshots/7/metadata/v2.metadata.json"];
    const GOES: [&str; 9] = [
        "deletes/d.parquet",
        "metadata/list.avro",
        "metadata/manifest.avro",
        "metadata/v9.metadata.json",
        "metadata/version-hint.text",
        "refs/long~+/er/metadata/v10.metadata.json",
        "refs/main/metadata/version-hint.text",
        "snapshots/7/metadata/v1.metadata.json",
        "snapshots/7/metadata/version-hint.text",
    ];

    /// Only what no number is taken from goes, and it is not there a second time.
    #[test]
    fn numbers_stay_and_the_rest_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let table = dir.path().join("iceberg/db/t");
        fs::create_dir_all(table.join(MARK)).expect("makes");
        STAYS.iter().chain(&GOES).for_each(|path| write(&table, path));
        // A process that was killed while it did the same.
        write(&table, ".gone/metadata/half.avro");
        let open = File::open(table.join("metadata/list.avro")).expect("opens");
        let mut gone = clear(&table).expect("clears");
        gone.sort();
        assert_eq!(gone, GOES);
        assert_eq!(all(&table), BTreeSet::from(STAYS.map(str::to_owned)));
        assert_eq!(io::read_to_string(open).expect("reads"), "metadata/list.avro");
        for path in STAYS {
            assert_eq!(fs::read_to_string(table.join(path)).expect("is there"), path);
        }
        assert!(clear(&table).expect("clears").is_empty() && !has_more(&table));
    }

    /// A namespace of the name of a table may have tables whose names are those of its folders.
    #[test]
    fn other_tables_are_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let table = dir.path().join("iceberg/db/t");
        fs::create_dir_all(table.join(MARK)).expect("makes");
        STAYS.iter().chain(&GOES).for_each(|path| write(&table, path));
        for others in [
            ["refs/main/x", "metadata", "snapshots/7", "deletes"],
            ["refs", "metadata/y", "snapshots", "deletes/z"],
        ] {
            for other in others {
                fs::create_dir_all(table.join(other).join(MARK)).expect("makes");
            }
            assert!(clear(&table).expect("clears").is_empty());
            assert_eq!(all(&table).len(), STAYS.len() + GOES.len());
            for other in others {
                fs::remove_dir_all(table.join(other).join(MARK)).expect("removes");
            }
        }
        assert_eq!(clear(&table).expect("clears").len(), GOES.len());
        assert!(clear(&dir.path().join("iceberg/db")).expect("is no table").is_empty());
    }

    #[test]
    fn what_is_left_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let make = |path: &str, files: &[&str]| {
            let table = dir.path().join(path);
            fs::create_dir_all(table.join(MARK)).expect("makes");
            files.iter().for_each(|file| write(&table, file));
        };
        make("iceberg/db/t", &GOES);
        make("iceberg/db/t/u", &GOES);
        make("iceberg/db/t/metadata/of_table", &GOES);
        make("iceberg/db/metadata", &GOES);
        make("iceberg/db/done", &STAYS[..1]);
        make("iceberg/db/only", &["deletes/d.parquet"]);
        make("elsewhere/t", &GOES);
        write(dir.path(), "iceberg/db/none/metadata/v1.metadata.json");
        make("iceberg/db/named", &GOES);
        let found = left(dir.path(), "iceberg", |path| path == "iceberg/db/named", "c");
        let expected = ["iceberg/db/metadata", "iceberg/db/only", "iceberg/db/t", "iceberg/db/t/u"];
        assert_eq!(found, expected.map(str::to_owned).into());
    }
}
