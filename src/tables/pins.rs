//! [`Pins`]: which tables and partitions are to stay in the cache, also after a restart.
//!
//! docs/FORMAT.md has the bytes of the file.
use super::sealed::{Lasting, Seal, write};
use super::slot::Slot;
use crate::cache::File;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;
use icecache_iceberg::Location;
use icecache_iceberg::publication::LiveFile;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// The file's name, beside the folders of the tables.
const NAME: &str = "pins";
const SEAL: Seal = Seal { magic: "icecache-pins", version: "1" };
/// A list that is longer, in bytes, was not written by these rules.
const LIST_MAX_BYTES: u64 = 16 << 20;
/// The most pins.
const PINS_MAX: usize = 10_000;

/// A table, or a part of it, that is to stay in the cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pin {
    /// The table's path below the mount.
    pub table: String,
    /// The partition: its first fields, as in `day=2026-01-31`; none: the whole table.
    pub partition: Option<String>,
}

impl Pin {
    /// Whether it is about a file of its table.
    pub fn covers(&self, file: &LiveFile) -> bool {
        self.partition.as_deref().is_none_or(|partition| is_in(file, partition))
    }
}

/// Whether a file is in a partition, or in one that begins with these fields.
pub fn is_in(file: &LiveFile, partition: &str) -> bool {
    let rest = file.partition.strip_prefix(partition.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// See the module. Owner of its locks, and of the file.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    pins: Mutex<BTreeSet<Pin>>,
    /// What is held because of them, by table: it is not evicted.
    held: Mutex<HashMap<String, HashMap<Location, File>>>,
}

impl Pins {
    /// Those that the file in `folder` has; none if there is no file.
    ///
    /// # Errors
    /// It cannot be read, or was damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let pins = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeSet::new(),
            Err(e) => return Err(failed("read", &path, e)),
            Ok(there) if there.len() > LIST_MAX_BYTES => return Err(damaged(&path)),
            Ok(_) => {
                let bytes = std::fs::read(&path).map_err(|e| failed("read", &path, e))?;
                decode(&bytes).ok_or_else(|| damaged(&path))?
            }
        };
        Ok(Self { path, pins: Mutex::new(pins), held: Mutex::default() })
    }

    /// The pins of a table.
    pub fn of(&self, table: &str) -> Vec<Pin> {
        self.pins.lock().iter().filter(|pin| pin.table == table).cloned().collect()
    }

    /// Whether anything of a table is pinned.
    pub fn has(&self, table: &str) -> bool {
        self.pins.lock().iter().any(|pin| pin.table == table)
    }

    /// The tables of which something is pinned.
    pub fn tables(&self) -> BTreeSet<String> {
        self.pins.lock().iter().map(|pin| pin.table.clone()).collect()
    }

    /// Adds one; `false` if it was there. On the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written, or there are too many: nothing has changed.
    pub fn add(&self, pin: Pin) -> Result<bool> {
        self.change(|pins| {
            if pins.len() >= PINS_MAX {
                return Err(Error::new(ErrorKind::Full, format!("there are {PINS_MAX} pins already")));
            }
            Ok(pins.insert(pin))
        })
    }

    /// Takes one away, and with the pin of a whole table all of its partitions; `false` if there was none.
    ///
    /// # Errors
    /// It cannot be written: nothing has changed.
    pub fn remove(&self, pin: &Pin) -> Result<bool> {
        self.change(|pins| {
            let before = pins.len();
            pins.retain(|other| {
                other.table != pin.table || pin.partition.is_some() && other.partition != pin.partition
            });
            Ok(pins.len() < before)
        })
    }

    /// Takes exactly this one away.
    ///
    /// # Errors
    /// It cannot be written: nothing has changed.
    pub fn remove_one(&self, pin: &Pin) -> Result<bool> {
        self.change(|pins| Ok(pins.remove(pin)))
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<Pin>) -> Result<bool>) -> Result<bool> {
        let mut pins = self.pins.lock();
        let mut next = pins.clone();
        let changed = change(&mut next)?;
        if changed {
            write(&self.path, &encode(&next), Lasting::Yes).map_err(|e| failed("write", &self.path, e))?;
            *pins = next;
        }
        Ok(changed)
    }

    /// Holds a file for a table.
    pub(super) fn hold(&self, slot: &Slot, location: &Location, file: File) {
        self.held.lock().entry(slot.path.clone()).or_default().insert(location.clone(), file);
    }

    /// Whether a file is held for a table.
    pub(super) fn holds(&self, table: &str, location: &Location) -> bool {
        self.held.lock().get(table).is_some_and(|files| files.contains_key(location))
    }

    /// Lets go of all that a table holds, but for those that `keep` says.
    pub(super) fn let_go(&self, table: &str, keep: impl Fn(&Location) -> bool) {
        let mut held = self.held.lock();
        let Some(files) = held.get_mut(table) else { return };
        let mut gone = Vec::new();
        files.retain(|location, file| {
            let kept = keep(location);
            if !kept {
                gone.push(file.clone());
            }
            kept
        });
        if files.is_empty() {
            held.remove(table);
        }
        drop(held);
        drop(gone); // the lock is free by then
    }

    /// How many bytes are held for all tables but this one.
    pub(super) fn held_elsewhere(&self, table: &str) -> u64 {
        let held = self.held.lock();
        held.iter()
            .filter(|(other, _)| *other != table)
            .flat_map(|(_, files)| files.values())
            .map(File::size)
            .sum()
    }
}

fn failed(what: &str, path: &Path, e: std::io::Error) -> Error {
    Error::io(format!("cannot {what} the list of pinned tables: {}", path.display()), e)
}

fn damaged(path: &Path) -> Error {
    let message = format!(
        "the list of pinned tables is damaged: {} (remove it, and pin again what is to stay)",
        path.display()
    );
    Error::new(ErrorKind::Corrupt, message)
}

/// The bytes of the file.
fn encode(pins: &BTreeSet<Pin>) -> Vec<u8> {
    let lines: String =
        pins.iter().map(|pin| serde_json::json!([pin.table, pin.partition]).to_string() + "\n").collect();
    SEAL.seal(lines.as_bytes())
}

/// `None` if they were not written by these rules.
pub fn decode(bytes: &[u8]) -> Option<BTreeSet<Pin>> {
    let lines = std::str::from_utf8(SEAL.content(bytes)?).ok()?;
    let pin = |line| {
        let (table, partition) = serde_json::from_str(line).ok()?;
        Some(Pin { table, partition })
    };
    lines.lines().map(pin).collect()
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn pin(table: &str, partition: Option<&str>) -> Pin {
        Pin { table: table.into(), partition: partition.map(str::to_owned) }
    }

    #[test]
    fn the_file_is_these_lines() {
        let pins = BTreeSet::from([pin("iceberg/db/t", None), pin("iceberg/db/t", Some("day=1/kind=\"a\""))]);
        let text = "icecache-pins 1 CHECKSUM\n[\"iceberg/db/t\",null]\n[\"iceberg/db/t\",\"day=1/kind=\\\"a\\\"\"]\n";
        let (_, lines) = text.split_once('\n').expect("a head");
        let text = text.replace("CHECKSUM", blake3::hash(lines.as_bytes()).to_hex().as_str());
        assert_eq!(String::from_utf8(encode(&pins)).expect("text"), text);
        assert_eq!(decode(text.as_bytes()), Some(pins));
        for wrong in [
            &text[1..],
            &text[..text.len() - 1],
            "",
            &text.replace("day", "dax"),
            &text.replace(" 1 ", " 2 "),
        ] {
            assert_eq!(decode(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn pins_are_there_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("new");
        let pins = Pins::open(&folder).expect("opens");
        for (table, partition) in [("a", None), ("a", Some("x=1")), ("b", Some("x=1")), ("b", Some("x=2"))] {
            assert!(pins.add(pin(table, partition)).expect("adds"));
        }
        assert!(!pins.add(pin("a", None)).expect("is there"));
        assert!(pins.remove(&pin("a", None)).expect("removes"));
        assert!(pins.remove(&pin("b", Some("x=2"))).expect("removes"));
        assert!(!pins.remove(&pin("c", None)).expect("is not there"));
        let again = Pins::open(&folder).expect("opens");
        assert_eq!(again.tables(), BTreeSet::from(["b".to_owned()]));
        assert_eq!(again.of("b"), [pin("b", Some("x=1"))]);
        std::fs::write(folder.join(NAME), "icecache-pins 1 x\n").expect("writes");
        let error = Pins::open(&folder).expect_err("damaged");
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("remove it"), "{error}");
    }

    #[test]
    fn a_partition_is_its_first_fields() {
        let file = |partition: &str| LiveFile {
            location: "s3://b/f".parse().expect("a location"),
            size: 1,
            rows: 1,
            content: icecache_iceberg::publication::Content::Data,
            format: "PARQUET".into(),
            partition: partition.into(),
        };
        let whole = pin("t", None);
        assert!(whole.covers(&file("")) && whole.covers(&file("day=1")));
        let day = pin("t", Some("day=1"));
        assert!(day.covers(&file("day=1")) && day.covers(&file("day=1/kind=a")));
        assert!(!day.covers(&file("day=12")) && !day.covers(&file("")) && !day.covers(&file("kind=a/day=1")));
        assert!(pin("t", Some("day=1/")).covers(&file("day=1/kind=a")));
    }
}
