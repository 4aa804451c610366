//! [`Pins`]: which tables, and which parts of them, are to stay in the cache, also after a restart.
//!
//! docs/FORMAT.md has the bytes of the file.
use super::sealed::{Lasting, Seal, write};
use super::selection::Selection;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The file's name, beside the folders of the tables.
const NAME: &str = "pins";
const SEAL: Seal = Seal { magic: "icecache-pins", version: "2" };
/// Partitions alone could be pinned.
const SEAL_1: Seal = Seal { magic: "icecache-pins", version: "1" };
/// A list that is longer, in bytes, was not written by these rules.
const LIST_MAX_BYTES: u64 = 16 << 20;
/// The most pins.
const PINS_MAX: usize = 10_000;

/// What is pinned, by the table's path below the mount.
pub type Pinned = BTreeMap<String, BTreeSet<Selection>>;

/// See the module. Owner of its lock, and of the file.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    pins: Mutex<Pinned>,
}

impl Pins {
    /// Those that the file in `folder` has; none if there is no file.
    ///
    /// # Errors
    /// It cannot be read, or was damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let pins = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Pinned::new(),
            Err(e) => return Err(failed("read", &path, e)),
            Ok(there) if there.len() > LIST_MAX_BYTES => return Err(damaged(&path)),
            Ok(_) => {
                let bytes = std::fs::read(&path).map_err(|e| failed("read", &path, e))?;
                decode(&bytes).ok_or_else(|| damaged(&path))?
            }
        };
        Ok(Self { path, pins: Mutex::new(pins) })
    }

    /// What is pinned of a table.
    pub fn of(&self, table: &str) -> BTreeSet<Selection> {
        self.pins.lock().get(table).cloned().unwrap_or_default()
    }

    /// Whether anything of a table is pinned.
    pub fn has(&self, table: &str) -> bool {
        self.pins.lock().contains_key(table)
    }

    /// The tables of which something is pinned.
    pub fn tables(&self) -> BTreeSet<String> {
        self.pins.lock().keys().cloned().collect()
    }

    /// Adds one; `false` if it was there. On the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written, or there are too many: nothing has changed.
    pub fn add(&self, table: &str, selection: Selection) -> Result<bool> {
        self.change(|pins| {
            if pins.values().map(BTreeSet::len).sum::<usize>() >= PINS_MAX {
                return Err(Error::new(ErrorKind::Full, format!("there are {PINS_MAX} pins already")));
            }
            Ok(pins.entry(table.to_owned()).or_default().insert(selection))
        })
    }

    /// Takes exactly this one away; `false` if it was not there.
    ///
    /// # Errors
    /// It cannot be written: nothing has changed.
    pub fn remove(&self, table: &str, selection: &Selection) -> Result<bool> {
        self.change(|pins| {
            let Some(of_table) = pins.get_mut(table) else { return Ok(false) };
            let removed = of_table.remove(selection);
            if of_table.is_empty() {
                pins.remove(table);
            }
            Ok(removed)
        })
    }

    /// Takes all pins of a table away; `false` if there was none.
    ///
    /// # Errors
    /// It cannot be written: nothing has changed.
    pub fn remove_all(&self, table: &str) -> Result<bool> {
        self.change(|pins| Ok(pins.remove(table).is_some()))
    }

    fn change(&self, change: impl FnOnce(&mut Pinned) -> Result<bool>) -> Result<bool> {
        let mut pins = self.pins.lock();
        let mut next = pins.clone();
        let changed = change(&mut next)?;
        if changed {
            write(&self.path, &encode(&next), Lasting::Yes).map_err(|e| failed("write", &self.path, e))?;
            *pins = next;
        }
        Ok(changed)
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
fn encode(pins: &Pinned) -> Vec<u8> {
    let lines = pins.iter().flat_map(|(table, selections)| {
        selections.iter().map(move |of| serde_json::json!([table, of]).to_string() + "\n")
    });
    SEAL.seal(lines.collect::<String>().as_bytes())
}

/// `None` if they were not written by these rules, or by those of version 1.
pub fn decode(bytes: &[u8]) -> Option<Pinned> {
    let of_version_1 = |line| {
        let (table, partition) = serde_json::from_str(line).ok()?;
        Some((table, Selection { partition, ..Selection::default() }))
    };
    let mut pins = Pinned::new();
    let mut add = |pin: Option<(String, Selection)>| {
        let (table, selection) = pin?;
        pins.entry(table).or_default().insert(selection);
        Some(())
    };
    let text = |content| std::str::from_utf8(content).ok();
    match SEAL.content(bytes) {
        Some(content) => text(content)?.lines().try_for_each(|line| add(serde_json::from_str(line).ok()))?,
        None => text(SEAL_1.content(bytes)?)?.lines().try_for_each(|line| add(of_version_1(line)))?,
    }
    Some(pins)
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn partition(partition: Option<&str>) -> Selection {
        Selection { partition: partition.map(str::to_owned), ..Selection::default() }
    }

    fn pinned<const N: usize>(of: [(&str, Selection); N]) -> Pinned {
        let mut pins = Pinned::new();
        of.into_iter().for_each(|(table, of)| assert!(pins.entry(table.into()).or_default().insert(of)));
        pins
    }

    #[test]
    fn the_file_is_these_lines() {
        let part = Selection {
            partition: None,
            columns: BTreeSet::from(["b".to_owned(), "a.c".to_owned()]),
            condition: Some("b > 1".to_owned()),
        };
        let pins = pinned([
            ("iceberg/db/t", partition(None)),
            ("iceberg/db/t", part),
            ("iceberg/db/t", partition(Some("day=1/kind=\"a\""))),
        ]);
        let text = "icecache-pins 2 CHECKSUM\n\
                    [\"iceberg/db/t\",{\"partition\":null}]\n\
                    [\"iceberg/db/t\",{\"columns\":[\"a.c\",\"b\"],\"partition\":null,\"where\":\"b > 1\"}]\n\
                    [\"iceberg/db/t\",{\"partition\":\"day=1/kind=\\\"a\\\"\"}]\n";
        let (_, lines) = text.split_once('\n').expect("a head");
        let text = text.replace("CHECKSUM", blake3::hash(lines.as_bytes()).to_hex().as_str());
        assert_eq!(String::from_utf8(encode(&pins)).expect("text"), text);
        assert_eq!(decode(text.as_bytes()), Some(pins));
        for wrong in [
            &text[1..],
            &text[..text.len() - 1],
            "",
            &text.replace("day", "dax"),
            &text.replace(" 2 ", " 3 "),
            &text.replace(" 2 ", " 1 "),
        ] {
            assert_eq!(decode(wrong.as_bytes()), None, "{wrong}");
        }
    }

    /// Read for ever.
    #[test]
    fn a_file_of_version_1_is_read() {
        let lines = "[\"iceberg/db/t\",null]\n[\"iceberg/db/t\",\"day=1/kind=\\\"a\\\"\"]\n";
        let text = format!("icecache-pins 1 {}\n{lines}", blake3::hash(lines.as_bytes()).to_hex());
        let pins = [("iceberg/db/t", partition(None)), ("iceberg/db/t", partition(Some("day=1/kind=\"a\"")))];
        assert_eq!(decode(text.as_bytes()), Some(pinned(pins)));
    }

    #[test]
    fn pins_are_there_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("new");
        let pins = Pins::open(&folder).expect("opens");
        for (table, of) in [("a", None), ("a", Some("x=1")), ("b", Some("x=1")), ("b", Some("x=2"))] {
            assert!(pins.add(table, partition(of)).expect("adds"));
        }
        assert!(!pins.add("a", partition(None)).expect("is there"));
        assert!(pins.remove_all("a").expect("removes"));
        assert!(pins.remove("b", &partition(Some("x=2"))).expect("removes"));
        assert!(!pins.remove("b", &partition(None)).expect("is not there"));
        assert!(!pins.remove_all("c").expect("is not there"));
        let again = Pins::open(&folder).expect("opens");
        assert_eq!(again.tables(), BTreeSet::from(["b".to_owned()]));
        assert_eq!(again.of("b"), BTreeSet::from([partition(Some("x=1"))]));
        assert!(pins.remove("b", &partition(Some("x=1"))).expect("removes") && !pins.has("b"));
        std::fs::write(folder.join(NAME), "icecache-pins 1 x\n").expect("writes");
        let error = Pins::open(&folder).expect_err("damaged");
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("remove it"), "{error}");
    }
}
