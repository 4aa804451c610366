//! Tables as a catalog names them: below each other, by names longer than the system's, and while nobody answers.
use crate::harness::{Finished, LIMIT, eventually};
use crate::lake::{Lake, files, names};
use crate::support::s3server::Fault;
use rusqlite::Connection;
use s3s::S3ErrorCode;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// A SQL catalog with tables of the fixtures.
struct Sql {
    lake: Lake,
    file: PathBuf,
}

impl Sql {
    /// `(namespace, name, table of the fixtures, version)`
    fn prepare(tables: &[(&str, &str, &str, u32)]) -> Self {
        let lake = Lake::prepare(|_| false);
        let sql = Self { file: lake.cloud.lab.root().join("catalog.db"), lake };
        sql.open()
            .execute_batch(
                "CREATE TABLE iceberg_tables (catalog_name TEXT, table_namespace TEXT, table_name TEXT, \
                 metadata_location TEXT, previous_metadata_location TEXT, iceberg_type TEXT);
                 CREATE TABLE iceberg_namespace_properties (catalog_name TEXT, namespace TEXT, property_key TEXT, \
                 property_value TEXT);",
            )
            .unwrap();
        for (namespace, name, table, version) in tables {
            let metadata = format!("s3://lake/wh/db/{table}/metadata/v{version}.metadata.json");
            let row = ("c", namespace, name, &metadata, "TABLE");
            let insert = "INSERT INTO iceberg_tables VALUES (?1, ?2, ?3, ?4, NULL, ?5)";
            assert_eq!(sql.open().execute(insert, row).unwrap(), 1);
        }
        sql
    }

    fn open(&self) -> Connection {
        Connection::open(&self.file).unwrap()
    }

    fn drop_table(&self, name: &str) {
        let gone = self.open().execute("DELETE FROM iceberg_tables WHERE table_name = ?1", [name]);
        assert_eq!(gone.unwrap(), 1);
    }

    fn mount(&self) -> Finished {
        let endpoint = self.lake.cloud.server.endpoint();
        let (lab, dir) = (&self.lake.cloud.lab, self.lake.dir.as_os_str());
        let (state, catalog) =
            (lab.root().join("tables-state"), format!("c=sql:sqlite://{}", self.file.display()));
        let mut args: Vec<&OsStr> = vec!["mount".as_ref(), dir, "--state-dir".as_ref(), state.as_os_str()];
        let more = ["--tables-only", "--s3-path-style", "--s3-endpoint", &endpoint, "--catalog", &catalog];
        args.extend(more.iter().map(OsStr::new));
        lab.call(args).must("mount")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.lake.dir.join("iceberg").join(path)
    }
}

fn hint(table: &Path) -> String {
    fs::read_to_string(table.join("metadata/version-hint.text")).unwrap()
}

/// TABLES: "A namespace that has the name of a table stands in the folder of that table, beside what the table has itself".
#[test]
fn a_namespace_may_have_the_name_of_a_table() {
    let sql = Sql::prepare(&[
        ("db", "x", "evolved", 5),
        ("db.x", "y", "refs", 7),
        ("db.x.deeper", "z", "refs", 6),
        ("db.x", "data", "refs", 6), // of these two names the table's own folder is the one
    ]);
    sql.mount();
    let own = ["data", "metadata", "refs", "snapshots"];
    let all = names(&sql.at("db/x"));
    assert_eq!(all, ["data", "deeper", "metadata", "refs", "snapshots", "y"]);
    assert_eq!(names(&sql.at("db/x/deeper")), ["z"]);
    assert_eq!(names(&sql.at("db/x/y")), own);
    assert_eq!((hint(&sql.at("db/x/y")), hint(&sql.at("db/x/deeper/z"))), ("7".into(), "6".into()));
    let before = files(&sql.at("db/x/data"));
    assert!(!before.is_empty() && !sql.at("db/x/data/metadata").exists());
    let below = files(&sql.at("db/x/y/data"));
    fs::read(&below[0]).unwrap();
    assert!(!sql.at("db/x/none").exists());
    // The one goes, the other stays.
    sql.drop_table("x");
    eventually("the table is gone", LIMIT, || {
        (names(&sql.at("db/x")) == ["data", "deeper", "y"]).then_some(())
    });
    assert_eq!(files(&sql.at("db/x/y/data")), below);
    fs::read(&below[0]).unwrap();
    assert!(!sql.at("db/x/snapshots").exists());
    sql.lake.unmount();
}

/// TABLES: "A name of more than 255 bytes is a folder in a folder".
#[test]
fn a_name_may_be_longer_than_a_path_component() {
    let long = "x".repeat(400);
    let sql = Sql::prepare(&[("db", &long, "refs", 7), ("db", "short", "refs", 6)]);
    sql.mount();
    let all = names(&sql.at("db"));
    assert_eq!((all.len(), all[0].as_str()), (2, "short"));
    let first = sql.at("db").join(&all[1]);
    assert!(all[1].ends_with("~+") && all[1].len() == 255, "{}", all[1]);
    let rest = names(&first);
    assert_eq!(rest, [&long[253..]]);
    let table = first.join(&rest[0]);
    assert_eq!(hint(&table), "7");
    let data = files(&table.join("data"));
    fs::read(&data[0]).unwrap();
    sql.lake.unmount();
}

/// The same of branches and tags, of which two begin alike.
#[test]
fn a_reference_may_have_a_longer_name_too() {
    let sql = Sql::prepare(&[("db", "t", "refs", 8)]);
    let (one, two) = (format!("{}/1", "x".repeat(400)), format!("{}/2", "x".repeat(400)));
    let commit = |version: u32, names: &[&String]| {
        let mut metadata: serde_json::Value =
            serde_json::from_slice(&sql.lake.objects["wh/db/refs/metadata/v7.metadata.json"]).unwrap();
        let first = metadata["refs"]["first"].clone();
        names.iter().for_each(|name| metadata["refs"][name.as_str()] = first.clone());
        let key = format!("wh/db/refs/metadata/v{version}.metadata.json");
        sql.lake.cloud.server.put_into("lake", &key, metadata.to_string());
    };
    commit(8, &[&one, &two]);
    sql.mount();
    let refs = sql.at("db/t/refs");
    let all = names(&refs);
    assert_eq!((all.len(), &all[..3]), (4, &["dev~2ftwo".into(), "first".into(), "main".into()][..]));
    let part = refs.join(&all[3]);
    assert!(all[3].ends_with("~+") && all[3].len() == 255 && part.is_dir(), "{}", all[3]);
    let rest = "x".repeat(400 - 253);
    assert_eq!(names(&part), [format!("{rest}~2f1"), format!("{rest}~2f2")]);
    let view = part.join(format!("{rest}~2f2"));
    assert_eq!(names(&view), ["metadata"]);
    let metadata = fs::read_to_string(view.join(format!("metadata/v{}.metadata.json", hint(&view)))).unwrap();
    assert!(metadata.contains(&format!("\"location\":\"file://{}\"", view.display())), "{metadata}");
    assert!(!part.join(&rest).exists() && !refs.join(format!("{}~+", "y".repeat(253))).exists());
    // One goes with the next version.
    commit(9, &[&two]);
    let now =
        "UPDATE iceberg_tables SET metadata_location = 's3://lake/wh/db/refs/metadata/v9.metadata.json'";
    assert_eq!(sql.open().execute(now, []).unwrap(), 1);
    eventually("one is gone", LIMIT, || (names(&part) == [format!("{rest}~2f2")]).then_some(()));
    assert_eq!(hint(&view), "8", "it has not moved");
    assert!(!part.join(format!("{rest}~2f1")).exists());
    sql.lake.unmount();
}

/// TABLES: "After a start the same goes for what was shown before it", catalog and store being away, and "as soon as the
/// catalog answers, what it says counts".
#[test]
fn a_start_while_nobody_answers_shows_what_was_there() {
    let sql = Sql::prepare(&[("db", "seen", "evolved", 5), ("db", "unseen", "refs", 7)]);
    sql.mount();
    let file = files(&sql.at("db/seen/data")).remove(0);
    let (bytes, version) = (fs::read(&file).unwrap(), hint(&sql.at("db/seen")));
    let tree = files(&sql.at("db/seen"));
    sql.lake.unmount();
    let away = sql.file.with_extension("away");
    fs::rename(&sql.file, &away).unwrap();
    let control = sql.lake.cloud.server.control();
    control.set_hook(|_| Fault::FailBefore(S3ErrorCode::ServiceUnavailable));
    let said = sql.mount().said();
    assert!(said.contains("not all catalogs answer yet"), "{said}");
    assert_eq!(names(&sql.at("db")), ["seen", "unseen"]);
    assert_eq!(hint(&sql.at("db/seen")), version);
    assert_eq!(files(&sql.at("db/seen")), tree);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert_eq!(names(&sql.at("db/unseen")), ["ERROR"], "nobody has ever looked into it");
    assert_eq!(fs::metadata(sql.at("db/new")).unwrap_err().raw_os_error(), Some(libc::EIO), "nobody knows");
    let status =
        sql.lake.cloud.lab.call([OsStr::new("status"), sql.lake.dir.as_os_str()]).must("status").said();
    assert!(status.contains("catalog.db"), "{status}");
    // It is back, and the table is another one.
    control.clear_hook();
    fs::rename(&away, &sql.file).unwrap();
    let now = "UPDATE iceberg_tables SET metadata_location = 's3://lake/wh/db/refs/metadata/v6.metadata.json' \
               WHERE table_name = 'unseen'";
    sql.open().execute(now, []).unwrap();
    sql.drop_table("seen");
    eventually("the catalog counts", LIMIT, || (names(&sql.at("db")) == ["unseen"]).then_some(()));
    sql.lake.unmount();
    sql.mount();
    assert_eq!(hint(&sql.at("db/unseen")), "6");
    sql.lake.unmount();
}
