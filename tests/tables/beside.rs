//! Tables and a directory on one mount.
use crate::harness::lab::{Mode, version_in};
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, files, names};
use rustix::fs::{SeekFrom, XattrFlags};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory whose remote is one of this machine, and tables in an S3 of this process.
fn prepare(mode: Mode, without: impl Fn(&str) -> bool) -> Lake {
    let mut lake = Lake::prepare(without);
    let setup = &mut lake.cloud.lab.setup;
    (setup.mode, setup.remote) = (mode, None);
    setup.options =
        ["--catalog", "lake=hadoop:s3://lake/wh", "--metrics", "127.0.0.1:0"].map(Into::into).into();
    lake
}

fn table(lake: &Lake, name: &str) -> PathBuf {
    lake.cloud.lab.place().join("iceberg/db").join(name)
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
    result.expect_err("refused").raw_os_error()
}

fn flush(lake: &Lake) -> String {
    version_in(&lake.cloud.lab.verb("flush", &["--wait"]).must("flush --wait").stdout)
}

fn metrics(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Both are there and neither knows of the other: the tables are in no version, and what the directory has is read,
/// written, saved and found again as ever.
#[test]
fn a_directory_and_tables_share_a_mount() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        shared(mode);
    }
}

fn shared(mode: Mode) {
    let lake = prepare(mode, |_| false);
    let (lab, place) = (&lake.cloud.lab, lake.cloud.lab.place());
    lab.mount();
    assert_eq!(names(&place), ["iceberg", "objects"]);
    fs::create_dir(place.join("work")).unwrap();
    fs::write(place.join("work/notes"), "it snows").unwrap();
    fs::write(place.join("iceberg.txt"), "not theirs").unwrap();
    assert_eq!(names(&place), ["iceberg", "iceberg.txt", "objects", "work"]);

    let (data, mut sizes) = (table(&lake, "evolved").join("data"), 0);
    for file in files(&data) {
        let key = format!("wh/db/evolved/data/{}", file.strip_prefix(&data).unwrap().display());
        let bytes = &lake.objects[&key];
        assert_eq!(&fs::read(&file).unwrap(), bytes, "{key}");
        assert_eq!(&fs::read(place.join("objects/s3/lake").join(&key)).unwrap(), bytes, "{key}");
        sizes += bytes.len();
    }
    assert!(sizes > 0);
    assert_eq!(fs::read(table(&lake, "refs").join("metadata/version-hint.text")).unwrap(), b"7");

    // A request that one of them does not serve is asked of the other all the same.
    let (own, theirs) = (place.join("work/notes"), files(&data).remove(0));
    let mut value = [0; 8];
    assert!(rustix::fs::getxattr(&theirs, "user.color", &mut value).is_err());
    rustix::fs::setxattr(&own, "user.color", b"white", XattrFlags::empty()).unwrap();
    assert_eq!(rustix::fs::getxattr(&own, "user.color", &mut value).unwrap(), 5);
    let (length, file) = (fs::metadata(&theirs).unwrap().len(), File::open(&theirs).unwrap());
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(1)).unwrap(), length);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(1)).unwrap(), 1);
    assert!(rustix::fs::seek(&file, SeekFrom::Data(length)).is_err());
    drop(file);
    fs::copy(&theirs, place.join("work/copy")).unwrap();
    assert_eq!(fs::read(place.join("work/copy")).unwrap(), fs::read(&theirs).unwrap());

    refuses(&place, &own, &theirs);

    let version = flush(&lake);
    assert_eq!(lab.status()["dirty_files"], 0);
    files(&table(&lake, "refs"));
    assert_eq!(flush(&lake), version, "nothing of tables is dirty");
    let restored = lab.restored(None);
    assert_eq!(names(&restored), ["iceberg.txt", "work"]);
    assert_eq!(names(&restored.join("work")), ["copy", "notes"]);

    let told = lab.status();
    assert_eq!((&told["read_only"], &told["tables"]["failed"]), (&false.into(), &0.into()), "{told}");
    let printed = lab.verb("status", &[]).must("status").stdout;
    for row in ["dirty_files", "last_flush", "catalog"] {
        assert!(printed.contains(row), "{printed}");
    }
    let listed =
        lab.call(["--json".as_ref(), "tables".as_ref(), "ls".as_ref(), place.as_os_str()]).must("ls");
    assert!(listed.stdout.contains("iceberg/db/refs"), "{}", listed.stdout);
    assert!(lab.stats()["tables"]["cache"]["totals"]["fetches"].as_u64().unwrap() > 0);
    lab.unmount();
    assert_eq!(names(&place), ["iceberg.txt", "work"]);

    let said = lab.try_mount().must("mount").stderr;
    let (_, rest) = said.split_once("metrics are at http://").expect(&said);
    let text = metrics(rest.split_once('/').unwrap().0);
    for line in ["icecache_mount_version ", "icecache_tables{state=\"shown\"} ", "icecache_cache_used_bytes "]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(fs::read(&own).unwrap(), b"it snows");
    assert_eq!(files(&data).iter().map(|file| fs::read(file).unwrap().len()).sum::<usize>(), sizes);
    assert_eq!(lab.stats()["tables"]["cache"]["totals"]["fetches"], 0, "it was in the cache");
    lab.unmount();
}

/// Nothing goes in, nothing goes out, and the two names stay.
fn refuses(place: &Path, own: &Path, theirs: &Path) {
    let beside = theirs.with_file_name("new");
    assert_eq!(errno(File::create(&beside)), Some(libc::EROFS));
    assert_eq!(errno(File::options().write(true).open(theirs)), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(theirs)), Some(libc::EROFS));
    assert_eq!(errno(fs::create_dir(place.join("iceberg/new"))), Some(libc::EROFS));
    assert_eq!(errno(fs::rename(theirs, &beside)), Some(libc::EROFS));
    assert_eq!(errno(fs::rename(own, &beside)), Some(libc::EXDEV));
    assert_eq!(errno(fs::rename(theirs, place.join("taken"))), Some(libc::EXDEV));
    assert_eq!(errno(fs::hard_link(own, &beside)), Some(libc::EXDEV));
    assert_eq!(errno(fs::hard_link(theirs, place.join("taken"))), Some(libc::EXDEV));
    assert_eq!(errno(fs::create_dir(place.join("objects"))), Some(libc::EEXIST));
    assert_eq!(errno(fs::remove_dir(place.join("objects"))), Some(libc::EBUSY));
    assert_eq!(errno(fs::rename(place.join("iceberg"), place.join("taken"))), Some(libc::EBUSY));
    assert_eq!(errno(fs::rename(place.join("work"), place.join("iceberg"))), Some(libc::EBUSY));
    assert!(!place.join("taken").exists() && own.exists() && theirs.exists());
    let top = fs::metadata(place.join("iceberg")).unwrap();
    assert_ne!(top.ino(), fs::metadata(place).unwrap().ino());
}

/// A commit turns a table over there as well, while the directory is written to.
#[test]
fn a_commit_is_seen_beside_a_directory() {
    let newest = "wh/db/refs/metadata/v7.metadata.json";
    let hint = "wh/db/refs/metadata/version-hint.text";
    let lake = prepare(Mode::Passthrough, |key| key == newest || key == hint);
    lake.cloud.server.put_into("lake", hint, "6");
    lake.cloud.lab.mount();
    let metadata = table(&lake, "refs").join("metadata");
    assert_eq!(fs::read(metadata.join("version-hint.text")).unwrap(), b"6");
    names(&metadata);
    lake.commit(&[newest]);
    lake.cloud.server.put_into("lake", hint, "7");
    let mut written = 0;
    eventually("the new version is shown", LIMIT, || {
        written += 1;
        fs::write(lake.cloud.lab.place().join("counter"), written.to_string()).unwrap();
        (fs::read(metadata.join("version-hint.text")).unwrap() == b"7").then_some(())
    });
    eventually("it is listed", LIMIT, || {
        names(&metadata).contains(&"v7.metadata.json".to_owned()).then_some(())
    });
    lake.cloud.lab.unmount();
    let restored = lake.cloud.lab.restored(None);
    assert_eq!(fs::read_to_string(restored.join("counter")).unwrap(), written.to_string());
    assert_eq!(names(&restored), ["counter"]);
}

/// A directory that has one of the two names itself is shown as it is, or with a message not at all.
#[test]
fn an_entry_of_that_name_is_not_hidden() {
    let mut lake = prepare(Mode::Passthrough, |_| false);
    let place = lake.cloud.lab.place();
    fs::create_dir(place.join("objects")).unwrap();
    fs::write(place.join("objects/mine"), "mine").unwrap();
    let refused = lake.cloud.lab.try_mount();
    let said = refused.said();
    assert!(!refused.ok() && said.contains("objects") && said.contains("--tables-only"), "{said}");
    assert!(!lake.cloud.lab.mounted());
    assert_eq!(fs::read(place.join("objects/mine")).unwrap(), b"mine");
    let options = std::mem::take(&mut lake.cloud.lab.setup.options);
    lake.cloud.lab.mount();
    assert_eq!(fs::read(place.join("objects/mine")).unwrap(), b"mine");
    lake.cloud.lab.unmount();
    // Also where it is only in the remote so far.
    lake.cloud.lab.wipe();
    lake.cloud.lab.setup.options = options;
    let refused = lake.cloud.lab.try_mount();
    assert!(!refused.ok() && refused.said().contains("objects"), "{}", refused.said());
    let place = lake.cloud.lab.place();
    lake.cloud.lab.setup.options = vec![];
    lake.cloud.lab.mount();
    assert_eq!(fs::read(place.join("objects/mine")).unwrap(), b"mine");
    lake.cloud.lab.unmount();
}

/// Catalogs stand in the configuration file, each directory with its own; secrets in it are not shown.
#[test]
fn the_file_names_catalogs() {
    let mut lake = prepare(Mode::Passthrough, |_| false);
    let (place, config) = (lake.cloud.lab.place(), lake.cloud.lab.root().join("config.toml"));
    let text = format!(
        "[mount.\"{}\"]\ncatalog = [\"a=hadoop:s3://lake/wh\", \"b=hadoop:s3://lake/wh\"]\n\
         table = [\"one=s3://lake/wh/db/refs\"]\ncatalog-option = [\"a.token=hush\"]\n\
         tables-cache = \"64MiB\"\nkeep-snapshots = [\"3\", \"7d\"]\ntables-poll = \"200ms\"\n\
         [mount.\"{}\"]\ntables-only = true\ncatalog = [\"a=hadoop:s3://lake/wh\"]\n",
        place.display(),
        lake.dir.display(),
    );
    fs::write(&config, text).unwrap();
    let with = ["--config", config.to_str().unwrap()];
    lake.cloud.lab.setup.options = with.map(Into::into).into();
    lake.cloud.lab.mount();
    assert_eq!(names(&place.join("iceberg")), ["a", "b", "one"]);
    assert_eq!(lake.cloud.lab.status()["tables"]["cache_max_bytes"], 64 << 20);
    let shown = lake.cloud.lab.verb("config", &["--json", with[0], with[1]]).must("config");
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["catalog-option"]["value"], "a.token=…");
    assert!(!shown.to_string().contains("hush"));
    lake.cloud.lab.unmount();
    let endpoint = lake.cloud.server.endpoint();
    let state = lake.cloud.lab.root().join("tables-state");
    let dirs = [lake.dir.to_str().unwrap(), state.to_str().unwrap()];
    let args = ["mount", dirs[0], "--state-dir", dirs[1], "--s3-path-style", "--s3-endpoint", &endpoint];
    lake.cloud.lab.call(args.into_iter().chain(with)).must("mount");
    assert_eq!(names(&lake.dir), ["iceberg", "objects"]);
    assert!(names(&lake.dir.join("iceberg/db")).contains(&"refs".to_owned()));
    assert_eq!(errno(File::create(lake.dir.join("new"))), Some(libc::EROFS));
    lake.unmount();
}
