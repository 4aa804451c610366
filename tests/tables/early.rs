//! A version that is on the disk before all that it leads to is known.
use crate::dropped::on_disk;
use crate::harness::{LIMIT, eventually};
use crate::lake::{files, names};
use crate::verbs::{commit, table_as_of};
use std::fs::{self, File};

/// TABLES: "its metadata is not to be found before that": who looks beside the hint for the next version, as Hadoop tables do, finds
/// none, neither by its name nor in a listing.
#[test]
fn a_version_is_not_to_be_found_before_the_hint_names_it() {
    let (lake, keys) = table_as_of("refs", 6, 7);
    let deaf = ["--tables-poll", "12h", "--tables-poll-idle", "12h"];
    lake.mount_with(&[&["--catalog", "lake=hadoop:s3://lake/wh"][..], &deaf].concat()).must("mount");
    let metadata = lake.table("refs").join("metadata");
    let hint = || fs::read_to_string(metadata.join("version-hint.text")).unwrap();
    assert_eq!((hint(), files(&lake.table("refs").join("data")).len()), ("6".to_owned(), 1));
    // What was shown cannot be remembered: the turn ends when the version is written, and nothing is told of its files yet.
    let shown = on_disk(&lake, "refs").join(".shown");
    fs::remove_file(&shown).unwrap();
    fs::create_dir_all(shown.join("in the way")).unwrap();
    commit(&lake, &keys);
    let next = metadata.join("v7.metadata.json");
    let refused = lake.tables("refresh", &["db.refs"]);
    assert!(!refused.ok() && refused.said().contains("cannot remember"), "{}", refused.said());
    assert!(on_disk(&lake, "refs").join("metadata/v7.metadata.json").exists(), "it is written");
    assert_eq!(hint(), "6");
    assert_eq!(File::open(&next).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert!(!names(&metadata).contains(&"v7.metadata.json".to_owned()));
    fs::remove_dir_all(&shown).unwrap();
    assert_eq!(lake.told("refresh", &["db.refs"])[0]["version"], 7);
    assert_eq!(hint(), "7");
    File::open(&next).unwrap();
    eventually("it is listed", LIMIT, || {
        names(&metadata).contains(&"v7.metadata.json".to_owned()).then_some(())
    });
    assert_eq!(files(&lake.table("refs").join("data")).len(), 2);
    lake.unmount();
}
