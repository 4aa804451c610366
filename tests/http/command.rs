//! The command line beside a server: keys of any bytes, targets that are full, origins that are not there.
use crate::harness::lab::BIN;
use crate::harness::served::Served;
use crate::harness::{Finished, LIMIT, is_root, run, skip};
use crate::{BLOCK, content, of_length, site, write};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

/// `icecache cache …` on a cache.
fn verb<S: AsRef<OsStr>>(cache: &Path, args: &[S]) -> Finished {
    let mut command = Command::new(BIN);
    command.arg("cache").args(args).arg("--cache").arg(cache).env("ICECACHE_CONFIG", "/dev/null");
    run(&mut command, LIMIT)
}

fn json<S: AsRef<OsStr>>(cache: &Path, args: &[S]) -> Value {
    let mut all: Vec<&OsStr> = vec!["--json".as_ref()];
    all.extend(args.iter().map(AsRef::as_ref));
    serde_json::from_str(&verb(cache, &all).must("cache").stdout).unwrap()
}

/// A cache with a file.
fn with_file(dir: &Path, key: &str, bytes: &[u8]) -> std::path::PathBuf {
    let (cache, file) = (dir.join("cache"), dir.join("file"));
    fs::write(&file, bytes).unwrap();
    verb(&cache, &["put", key, file.to_str().unwrap()]).must("put");
    cache
}

/// HTTP, Reading: a key is "of any value"; what was put under it can be looked after.
#[test]
fn keys_of_any_bytes_are_handled_by_the_command_line() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    for (n, path) in ["%ff%fe", "%ff%fd", "a%00b", "plain"].into_iter().enumerate() {
        assert_eq!(write(&served, dir.path(), path, &content(n as u32, 100), &[]).status, 201);
    }
    served.stop();
    let cache = dir.path().join("cache");
    let listed = json(&cache, &["ls"]);
    let shown: Vec<_> = listed.as_array().unwrap().iter().map(|line| line["key_bytes"].as_str()).collect();
    assert_eq!(shown, [Some("a%00b"), None, Some("%FF%FD"), Some("%FF%FE")]);
    assert!(verb(&cache, &["ls"]).must("ls").stdout.contains(r"\xff\xfe"));
    let raw = OsStr::from_bytes(b"\xff\xfe");
    let prefix: [&OsStr; 2] = ["ls".as_ref(), OsStr::from_bytes(b"\xff")];
    assert_eq!(json(&cache, &prefix).as_array().unwrap().len(), 2);
    let to = dir.path().join("got");
    let get: [&OsStr; 4] = ["get".as_ref(), raw, "--to".as_ref(), to.as_os_str()];
    assert_eq!(json(&cache, &get)["key_bytes"], "%FF%FE");
    assert!(fs::read(&to).unwrap() == content(0, 100));
    let stat: [&OsStr; 2] = ["stat".as_ref(), raw];
    assert_eq!(json(&cache, &stat)[0]["size"], 100);
    let rm: [&OsStr; 2] = ["rm".as_ref(), raw];
    assert_eq!(json(&cache, &rm)["removed"], 1);
    // As they are listed: what no argument can be, too.
    assert_eq!(json(&cache, &["rm", "--encoded", "a%00b", "%FF%FD"])["removed"], 2);
    assert_eq!(json(&cache, &["ls"]).as_array().unwrap().len(), 1);
}

/// What `get` could not write whole it does not leave, and it is not the cache that is too small.
#[test]
fn a_full_target_is_left_as_it_was() {
    let (dir, _, _) = site();
    let cache = with_file(dir.path(), "key", &content(1, 3 << 20));
    let mut full = Command::new("sh");
    full.args(["-c", "exec \"$1\" cache get key --cache \"$2\" > /dev/full", "sh", BIN]).arg(&cache);
    let full = run(full.env("ICECACHE_CONFIG", "/dev/null"), LIMIT);
    assert!(full.code == 1 && full.stderr.contains("free some space there"), "{full:?}");
    if !is_root() {
        return skip("a small file system", "only root mounts");
    }
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", small.to_str().unwrap()];
    run(Command::new("mount").args(mount), LIMIT).must("mount");
    let to = small.join("got");
    let got = verb(&cache, &["get", "key", "--to", to.to_str().unwrap()]);
    let left = to.exists();
    run(Command::new("mount").args(["-o", "remount,size=8m"]).arg(&small), LIMIT).must("mount");
    let again = verb(&cache, &["get", "key", "--to", to.to_str().unwrap()]);
    let read = fs::read(&to);
    run(Command::new("umount").arg(&small), LIMIT).must("umount");
    assert!(got.code == 1 && !left, "{got:?}");
    assert!(got.stderr.contains("free some space there") && !got.stderr.contains("--max-bytes"), "{got:?}");
    again.must("get");
    assert!(read.unwrap() == content(1, 3 << 20));
}

/// What is said of what is not there leads to where it is.
#[test]
fn advice_is_of_what_went_wrong() {
    let (dir, origin, url) = site();
    let none = verb(&dir.path().join("none"), &["ls"]);
    assert!(none.code == 5 && !none.stderr.contains("cache ls"), "{none:?}");
    let cache = with_file(dir.path(), "key", b"x");
    // Named twice is meant once.
    assert_eq!(json(&cache, &["rm", "key", "key"])["removed"], 1);
    fs::write(origin.join("data/object"), content(1, 1000)).unwrap();
    // So it is where two prefixes begin alike.
    assert_eq!(json(&cache, &["warm", "--origin", &url, "data/o", "data/"])["objects"], 1);
    let object = verb(&cache, &["get", "data/object"]);
    assert!(object.code == 5 && object.stderr.contains("object of a remote"), "{object:?}");
    assert!(object.stderr.contains("serve --origin") && !object.stderr.contains("cache ls"), "{object:?}");
}

/// The hint is of the limit that was reached, which is remembered; the size is that of the whole.
#[test]
fn the_limit_that_is_named_is_the_one_that_was_reached() {
    let (dir, _, _) = site();
    let (cache, file) = (dir.path().join("cache"), dir.path().join("large"));
    fs::write(&file, content(1, 5_000_000)).unwrap();
    let put = |options: &[&str]| verb(&cache, &[&["put", "key", file.to_str().unwrap()], options].concat());
    for (options, hint) in [
        (&["--max-bytes", "1MiB", "--min-free", "0"][..], "with --max-bytes"),
        (&["--max-bytes", "1GiB", "--min-free", "100TiB"], "with --min-free"),
        (&[], "with --min-free"),
    ] {
        let full = put(options);
        assert!(full.code == 1 && full.stderr.contains(hint), "{options:?}: {full:?}");
    }
    let larger = put(&["--max-bytes", "1MiB", "--min-free", "0"]);
    assert!(larger.stderr.contains("5000000 bytes"), "{larger:?}");
    put(&["--max-bytes", "1GiB"]).must("put");
}

/// CACHE: what is damaged is thrown out, and whoever asked for it is told that it was there.
#[test]
fn what_is_thrown_out_as_damaged_is_told_from_what_never_was() {
    let (dir, _, _) = site();
    let cache = with_file(dir.path(), "key", &content(1, 54_321));
    let stored = of_length(&cache, 54_321);
    let mut bytes = fs::read(&stored).unwrap();
    bytes[1000] ^= 1;
    fs::write(&stored, &bytes).unwrap();
    let damaged = verb(&cache, &["get", "key"]);
    assert!(damaged.code == 9 && damaged.stdout.is_empty(), "{damaged:?}");
    assert!(damaged.stderr.contains("damaged"), "{damaged:?}");
    assert_eq!(verb(&cache, &["get", "key"]).code, 5, "it is gone for good");
}

/// An origin that is not there is not an empty one, and a prefix that nothing begins with was mistyped.
#[test]
fn what_is_not_there_cannot_be_brought() {
    let (dir, origin, url) = site();
    fs::write(origin.join("data/object"), content(1, 1000)).unwrap();
    let cache = dir.path().join("cache");
    let missing = verb(&cache, &["warm", "--origin", "file:///nonexist"]);
    assert!(missing.code == 5 && missing.stderr.contains("/nonexist"), "{missing:?}");
    let mistyped = verb(&cache, &["--json", "warm", "--origin", &url, "date/", "data/"]);
    let told: Value = serde_json::from_str(&mistyped.stdout).unwrap();
    assert_eq!((mistyped.code, &told["objects"], &told["unmatched"][0]), (5, &1.into(), &"date/".into()));
    let mut serve = Command::new(BIN);
    serve.args(["serve", "--http", "127.0.0.1:0", "--origin", "file:///nonexist", "--cache"]).arg(&cache);
    let refused = run(serve.env("ICECACHE_CONFIG", "/dev/null"), LIMIT);
    assert!(refused.code == 5 && refused.stderr.contains("/nonexist"), "{refused:?}");
}

/// HTTP, Writing: a token has at most 4096 bytes.
#[test]
fn a_token_is_not_cut_off() {
    let (dir, _, _) = site();
    let token = dir.path().join("long");
    fs::write(&token, "x".repeat(4097)).unwrap();
    let mut serve = Command::new(BIN);
    serve.args(["serve", "--http", "127.0.0.1:0", "--cache"]).arg(dir.path().join("cache"));
    let refused = run(serve.arg("--token-file").arg(&token).env("ICECACHE_CONFIG", "/dev/null"), LIMIT);
    assert!(refused.code == 2 && refused.stderr.contains("4096"), "{refused:?}");
}

/// Issue: "`icecache cache {ls,stat,get,put,rm,verify,gc,warm}`; `--json` on each".
#[test]
fn the_command_line_looks_after_a_cache() {
    let (dir, origin, url) = site();
    let cache = dir.path().join("cache");
    let verb = |args: &[&str]| {
        let mut command = Command::new(BIN);
        command.arg("cache").args(args).arg("--cache").arg(&cache).env("ICECACHE_CONFIG", "/dev/null");
        run(&mut command, LIMIT)
    };
    let json = |args: &[&str]| -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        serde_json::from_str(&verb(&all).must("cache").stdout).unwrap()
    };
    assert_eq!(verb(&["ls"]).code, 5, "there is none yet");
    let file = dir.path().join("file");
    fs::write(&file, content(6, 5000)).unwrap();
    let told = json(&["put", "b", file.to_str().unwrap()]);
    let sum = blake3::hash(&content(6, 5000)).to_hex().to_string();
    assert_eq!(told, serde_json::json!({ "key": "b", "size": 5000, "checksum": sum }));
    fs::write(&file, content(7, 50_000)).unwrap();
    verb(&["put", "a", file.to_str().unwrap()]).must("put");
    assert_eq!(verb(&["put", "a", file.to_str().unwrap()]).code, 8, "it is there");
    fs::write(origin.join("data/one"), content(8, 2 * BLOCK)).unwrap();
    fs::write(origin.join("data/two"), content(9, 10)).unwrap();
    fs::write(origin.join("else"), content(9, 10)).unwrap();
    let warmed = json(&["warm", "--origin", &url, "data/"]);
    assert_eq!((&warmed["objects"], &warmed["cached"]), (&2.into(), &(2 * BLOCK + 10).into()));
    let keys = |args: &[&str]| -> Vec<String> {
        json(args).as_array().unwrap().iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&["ls"]), ["a", "b", "data/one", "data/two"]);
    assert_eq!(keys(&["ls", "--sort", "size", "--limit", "2"]), ["data/one", "a"]);
    assert_eq!(keys(&["ls", "data/"]), ["data/one", "data/two"]);
    let stat = &json(&["stat", "data/one"])[0];
    assert_eq!(
        (&stat["blocks"], &stat["blocks_total"], &stat["size"]),
        (&2.into(), &2.into(), &(2 * BLOCK).into())
    );
    assert!(verb(&["ls"]).must("ls").stdout.contains("KEY"));
    let to = dir.path().join("got");
    verb(&["get", "a", "--to", to.to_str().unwrap()]).must("get");
    assert!(fs::read(&to).unwrap() == content(7, 50_000));
    assert_eq!(verb(&["get", "none"]).code, 5);
    fs::remove_file(&to).unwrap();
    assert_eq!(json(&["get", "b", "--to", to.to_str().unwrap()])["checksum"], sum);

    let well = json(&["verify"]);
    assert_eq!((&well["entries"], &well["dropped"]), (&4.into(), &0.into()));
    // A byte of a file flips.
    let damaged = fs::File::options().write(true).open(of_length(&cache, 50_000)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&damaged, &[content(7, 101)[100] ^ 1], 100).unwrap();
    let found = verb(&["--json", "verify"]);
    assert_eq!(found.code, 9, "{found:?}");
    assert_eq!(keys(&["ls"]), ["b", "data/one", "data/two"]);
    // What opening itself sees counts as well: a file that is too short.
    fs::File::options().write(true).open(of_length(&cache, 5000)).unwrap().set_len(4000).unwrap();
    let found = verb(&["--json", "verify"]);
    let told: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!((found.code, &told["dropped"], &told["entries"]), (9, &1.into(), &2.into()), "{found:?}");
    // A bit of a block's digest, in the attribute that is the witness of an object.
    let (object, name) = (of_length(&cache, 2 * BLOCK as u64), "user.icecache");
    let mut witness = vec![0; 4096];
    let length = rustix::fs::getxattr(&object, name, &mut witness[..]).unwrap();
    witness[length - 20] ^= 1;
    rustix::fs::setxattr(&object, name, &witness[..length], rustix::fs::XattrFlags::REPLACE).unwrap();
    let found = verb(&["--json", "verify"]);
    let told: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!((found.code, &told["dropped"], &told["missing"]), (9, &1.into(), &0.into()), "{found:?}");
    verb(&["warm", "--origin", &url, "data/"]).must("warm");
    // One that is gone is no damage: a kill while it was thrown out leaves that.
    verb(&["put", "b", file.to_str().unwrap()]).must("put");
    fs::remove_file(of_length(&cache, 50_000)).unwrap();
    let told = json(&["verify"]);
    assert_eq!((&told["dropped"], &told["missing"]), (&0.into(), &1.into()));
    verb(&["put", "b", file.to_str().unwrap()]).must("put");
    // What does not fit is said.
    let small = dir.path().join("small");
    let mut warm = Command::new(BIN);
    warm.args(["--json", "cache", "warm", "--origin", &url, "--max-bytes", "1200KiB", "--cache"]);
    let warm = run(warm.arg(&small).args(["data/one"]).env("ICECACHE_CONFIG", "/dev/null"), LIMIT);
    let told: Value = serde_json::from_str(&warm.stdout).unwrap();
    assert_eq!((warm.code, &told["bytes"], &told["cached"]), (1, &(2 * BLOCK).into(), &BLOCK.into()));
    assert!(warm.stderr.contains("--max-bytes"), "{warm:?}");
    // The least recently used go first: what was brought before the last put.
    assert_eq!(json(&["gc", "--max-bytes", "1050KiB"])["entries"], 1);
    let left = json(&["ls"]);
    let bytes: u64 = left.as_array().unwrap().iter().map(|line| line["on_disk"].as_u64().unwrap()).sum();
    assert!(bytes <= 1050 << 10 && keys(&["ls"]) == ["b"], "{left}");
    let held = Served::start(dir.path(), &[], &[]);
    let refused = verb(&["ls"]);
    let pid = held.pid().to_string();
    assert!(refused.code == 4 && refused.stderr.contains(&pid), "{refused:?}");
    held.stop();
    assert_eq!(json(&["rm", "b"])["removed"], 1);
    assert_eq!(verb(&["rm", "b"]).code, 5);
}
