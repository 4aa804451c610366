//! The table of every key: its default as text and what it means.
use super::types::{
    Access, FsyncMode, Layout, OnConflict, OnExisting, Passthrough, Restore, Scan, Transport, Xattr,
};

/// One setting as all sources name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The name in the file; `--name` as a flag, `ICECACHE_NAME` as a variable.
    pub name: &'static str,
    /// The default as text; `None`: derived from the directory or the user, or simply absent.
    pub default: Option<&'static str>,
    /// One line for people.
    pub help: &'static str,
    /// It may be given several times: an array in the file, a line each in a variable.
    pub list: bool,
}

impl Key {
    /// The environment variable of this key.
    pub fn variable(&self) -> String {
        format!("ICECACHE_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The words that it may be, if it is one.
    pub fn words(&self) -> Option<&'static [&'static str]> {
        Some(match self.name {
            "layout" => Layout::WORDS,
            "on-existing" => OnExisting::WORDS,
            "on-conflict" => OnConflict::WORDS,
            "scan" => Scan::WORDS,
            "restore" => Restore::WORDS,
            "fsync" => FsyncMode::WORDS,
            "access" => Access::WORDS,
            "xattr" => Xattr::WORDS,
            "passthrough" => Passthrough::WORDS,
            "transport" => Transport::WORDS,
            _ => return None,
        })
    }
}

const fn key(name: &'static str, default: Option<&'static str>, help: &'static str) -> Key {
    Key { name, default, help, list: false }
}

const fn list(name: &'static str, help: &'static str) -> Key {
    Key { name, default: None, help, list: true }
}

/// All keys, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key("remote", None, "where versions go: s3://BUCKET/PREFIX or file:///PATH"),
    key("name", None, "the name of this directory's history in the remote"),
    key("state-dir", None, "where the daemon keeps journal, log and socket"),
    key("backing", None, "keep the files here instead of underneath the mount"),
    key(
        "layout",
        Some("layered"),
        "layered: one layer per flush; log: the same, and nothing is ever deleted; single: one whole archive per flush",
    ),
    key("s3-endpoint", None, "URL of an S3-compatible store"),
    key("s3-region", None, "region of the bucket"),
    key("s3-path-style", None, "on: the bucket stands in the path of the URL; default: on with an endpoint"),
    key("s3-profile", None, "profile of the AWS configuration files"),
    key("unsafe-no-cas", Some("off"), "on: accept a store without conditional writes"),
    key("on-existing", Some("merge"), "local files and a remote version: merge, local or fail"),
    key(
        "on-conflict",
        Some("fork"),
        "another writer moved the name: fork; merge by path; or keep all unsaved: fail, or read-only",
    ),
    key("scan", Some("auto"), "compare the backing with the journal: auto (after an unclean stop) or always"),
    key(
        "restore",
        Some("lazy"),
        "lazy: usable at once, content comes when it is touched and in the background; eager: all of it first",
    ),
    key("no-prefetch", Some("off"), "on: with a lazy restore bring only what is touched"),
    key(
        "prefetch-rate",
        Some("unlimited"),
        "bytes a second that the background of a lazy restore brings at most, such as 500K or 20M",
    ),
    key("chain", Some("16"), "how many layers a version may have, before some become one"),
    key(
        "amplification",
        Some("4"),
        "how many times what changed the merge of a whole version may write, to get rid of what is dead; 0: never",
    ),
    key("keep", Some("100"), "how many of the newest versions are kept; tagged ones always are"),
    key("keep-for", Some("none"), "keep versions that are younger as well, such as 12h, 7d or 8w"),
    key(
        "delete-after",
        Some("1d"),
        "delete layers that no kept version has needed for so long, such as 12h or 7d; or never",
    ),
    key("debounce", Some("1s"), "flush this long after the last change"),
    key("max-delay", Some("10s"), "flush at least this often under constant writing"),
    key("cut-deadline", Some("500ms"), "how long one attempt of a cut may hold writers"),
    key("unmount-timeout", Some("60s"), "how long unmount waits for the final flush"),
    key("level", Some("3"), "zstd level of new layers, 1 to 19"),
    key(
        "dictionary",
        Some("off"),
        "on: compress small layers with a dictionary; plain tar reads none of those",
    ),
    key(
        "fsync",
        Some("local"),
        "fsync returns when data is safe: local, on this disk; remote, in the remote",
    ),
    key("fsync-timeout", Some("30s"), "with fsync=remote: fail with EIO after this long"),
    key("access", Some("auto"), "who may enter: owner, all, or auto (for root: whoever could before)"),
    key("xattr", Some("on"), "extended attributes and access lists: on or off"),
    key("passthrough", Some("auto"), "kernel passthrough for file data: auto or off"),
    key("transport", Some("auto"), "how requests reach the daemon: auto (io_uring where it can), or device"),
    key("fuse-threads", Some("2"), "threads that answer the kernel by the device, 1 to 64"),
    key("metrics", None, "serve metrics for Prometheus at this address, as HOST:PORT"),
    list(
        "catalog",
        "show the tables of this catalog below iceberg/, read-only: NAME=rest:http://…, NAME=sql:sqlite:///PATH, \
         NAME=sql:postgres://…, NAME=glue:[REGION], NAME=hive:thrift://HOST:PORT, NAME=hadoop:s3://BUCKET/PATH or \
         NAME=hadoop:file:///PATH; may be repeated",
    ),
    list(
        "table",
        "show one table that no catalog has, by its location: NAME=s3://BUCKET/PATH; may be repeated",
    ),
    list(
        "catalog-option",
        "a property of a catalog, such as NAME.warehouse=…; a secret as NAME.token=env:VARIABLE or =file:PATH; may \
         be repeated",
    ),
    key("tables-only", Some("off"), "on: show tables and nothing else"),
    key("tables-cache", Some("10GiB"), "the most bytes of tables on the local disk"),
    key(
        "tables-block",
        Some("1MiB"),
        "how much of a table's file is fetched and kept at once: 4KiB to 64MiB, a power of two",
    ),
    list(
        "keep-snapshots",
        "which older versions of a table stay readable for who has opened one: so many (16), those of so long ago \
         (12h, 7d, 8w), or until their metadata has so many bytes (500MB); several of these: what all permit",
    ),
    key("tables-redis", None, "ask this Redis before the object store, as redis[s]://HOST:PORT"),
    key(
        "tables-hints",
        None,
        "take hints that tables have changed at this address, as HOST:PORT: POST /tables/TABLE/refresh",
    ),
    key(
        "tables-hints-token",
        None,
        "who hints must show this token, as Authorization: Bearer; env:VARIABLE or file:PATH",
    ),
    key("tables-poll", Some("1s"), "how often catalogs are asked while somebody looks into their tables"),
    key("tables-poll-idle", Some("60s"), "how often catalogs are asked at least"),
    key(
        "tables-timeout",
        Some("120s"),
        "a read of a table that has brought nothing for so long fails with EIO",
    ),
    key("mount-flags", Some(""), "list of nosuid, nodev, noexec (noatime is always on)"),
];

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

/// The key whose name is nearest to a mistyped one, if any is near enough to be meant.
pub fn nearest(name: &str) -> Option<&'static Key> {
    let name: String = name.chars().take(64).collect::<String>().to_ascii_lowercase().replace('_', "-");
    KEYS.iter()
        .map(|k| (strsim::damerau_levenshtein(&name, k.name), k))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, k)| *distance <= 2.max(k.name.len() / 3))
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_finds_its_neighbour() {
        assert_eq!(nearest("debouce").map(|k| k.name), Some("debounce"));
        assert_eq!(nearest("max_delay").map(|k| k.name), Some("max-delay"));
        assert_eq!(nearest("colour-of-the-sky"), None);
    }

    #[test]
    fn the_default_of_a_word_is_one_of_them() {
        let of_words = KEYS.iter().filter_map(|key| Some((key, key.words()?, key.default?)));
        for (key, words, default) in of_words.clone() {
            assert!(words.contains(&default), "{}: {default}", key.name);
        }
        assert_eq!(of_words.count(), 10);
    }

    /// The mount helper has no dependencies, so it has a list of its own.
    #[test]
    fn the_mount_helper_knows_every_key() {
        let helper = include_str!("../../mount-helper/src/options.rs");
        for key in KEYS.iter().filter(|k| k.name != "remote") {
            assert!(helper.contains(&format!("\"{}", key.name)), "not in mount-helper: {}", key.name);
        }
    }

    #[test]
    fn variables_follow_from_names() {
        assert_eq!(find("s3-path-style").map(Key::variable).as_deref(), Some("ICECACHE_S3_PATH_STYLE"));
    }
}
