//! The command line beside a server: keys of any bytes, targets that are full, origins that are not there.
use crate::harness::lab::BIN;
use crate::harness::served::Served;
use crate::harness::{Finished, LIMIT, is_root, run, skip};
use crate::{content, of_length, site, write};
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
