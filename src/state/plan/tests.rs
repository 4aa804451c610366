//! Plans against real trees.
use super::*;
use crate::journal::MemoryJournal;
use crate::layer::References;
use crate::remote::Tag;
use crate::state::dirty::Extent::{self, Entry as E, Subtree as S};
use crate::state::record::Base;
use crate::state::scan::{Scan, Seen, scan, scan_again};
use std::cell::RefCell;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

mod figures;
mod random;

pub(super) fn path(s: &str) -> RelPath {
    RelPath::new(s).expect("valid path")
}

/// A directory, its records, and what a restore of the last version would give.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    root: OwnedFd,
    pub(super) records: Records,
    pub(super) options: LookOptions,
    version: u64,
    seen: RefCell<Seen>,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let root = OwnedFd::from(fs::File::open(dir.path()).expect("opens"));
        let records = Records::open(Arc::new(MemoryJournal::new()), "memory:", "n").expect("opens");
        let options = LookOptions::default();
        Self { dir, root, records, options, version: 0, seen: RefCell::default() }
    }

    /// With these files (name and content alike) and directories (trailing slash), committed.
    fn with(entries: &[&str]) -> Self {
        let mut world = Self::new();
        for entry in entries {
            world.make(entry);
        }
        world.commit(&[("", S)]);
        world
    }

    fn make(&self, entry: &str) {
        match entry.strip_suffix('/') {
            Some(dir) => fs::create_dir_all(self.at(dir)).expect("makes"),
            None => fs::write(self.at(entry), entry).expect("writes"),
        }
    }

    pub(super) fn at(&self, p: &str) -> PathBuf {
        self.dir.path().join(p)
    }

    /// On old kernels: waits for the next tick, so that no later change has the time of an earlier one.
    fn tick(&self) {
        if change_tick(self.root.as_fd()).is_zero() {
            return;
        }
        let now = || rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let start = now();
        while now() == start {
            std::thread::yield_now();
        }
    }

    pub(super) fn capture(&self, marks: &Marks) -> Plan {
        self.tick();
        Plan::capture(self.root.as_fd(), &self.records, marks, &self.options).expect("plans")
    }

    pub(super) fn refresh(&self, plan: &mut Plan, marks: &Marks) {
        self.tick();
        plan.refresh(self.root.as_fd(), &self.records, marks, &self.options).expect("plans");
    }

    fn plan(&self, marks: &[(&str, Extent)]) -> Plan {
        self.capture(&marks_of(marks))
    }

    pub(super) fn promote(&mut self, plan: &Plan) {
        self.version += 1;
        let skipped = BTreeSet::new();
        let staged = self
            .records
            .stage("n", &format!("l{}", self.version), ([0; 32], 0), self.version, plan.deltas(&skipped))
            .expect("stages");
        let base = Base { version: self.version, tag: Tag(self.version.to_string()), history: None };
        self.records.promote(&staged, base).expect("promotes");
    }

    fn commit(&mut self, marks: &[(&str, Extent)]) {
        let plan = self.plan(marks);
        self.promote(&plan);
    }

    /// What was seen before makes no difference.
    pub(super) fn scan(&self) -> Scan {
        let (root, mut seen) = (self.root.as_fd(), self.seen.borrow_mut());
        let again = scan_again(root, &self.records, &self.options, &mut seen).expect("scans");
        let found = scan(root, &self.records, &self.options).expect("scans");
        assert_eq!((&again.marks, again.looked), (&found.marks, found.looked));
        found
    }
}

fn marks_of(marks: &[(&str, Extent)]) -> Marks {
    marks.iter().map(|(p, e)| (path(p), *e)).collect()
}

/// The plan as words: `-x` removed, `+x` put, `x=y` a link of y.
fn words(plan: &Plan) -> Vec<String> {
    plan.changes()
        .map(|(p, change)| match change {
            Change::Remove => format!("-{p}"),
            Change::Put(Captured { link: Some(target), .. }) => format!("{p}={target}"),
            Change::Put(_) => format!("+{p}"),
        })
        .collect()
}

#[test]
fn nothing_changed_is_an_empty_plan() {
    let w = World::with(&["d/", "d/f", "g"]);
    let w_plan = w.plan(&[("d/f", E), ("g", E), ("never", E), ("d", S)]);
    assert!(w_plan.is_empty(), "{:?}", words(&w_plan));
}

#[test]
fn the_first_plan_has_everything_and_its_attributes() {
    let w = World::new();
    w.make("d/");
    w.make("d/f");
    symlink("over/there", w.at("l")).expect("links");
    fs::set_permissions(w.at("d/f"), fs::Permissions::from_mode(0o640)).expect("chmod");
    let xattr = rustix::fs::setxattr(w.at("d/f"), "user.k", b"v\0w", rustix::fs::XattrFlags::empty());
    let _socket = std::os::unix::net::UnixListener::bind(w.at("s")).expect("binds");
    let plan = w.plan(&[("", S)]);
    assert_eq!(words(&plan), ["+.", "+d", "+d/f", "+l"]);
    assert_eq!(plan.bytes(), 3);
    let Some(Change::Put(f)) = plan.get(&path("d/f")) else { panic!("no f") };
    assert_eq!(f.kind, Kind::File { size: 3, fuzzy: false, refs: References::none() });
    assert_eq!(f.meta.mode, 0o640);
    if xattr.is_ok() {
        assert!(f.meta.xattrs.contains(&(b"user.k".to_vec(), b"v\0w".to_vec())));
    }
    let Some(Change::Put(l)) = plan.get(&path("l")) else { panic!("no l") };
    assert_eq!(l.kind, Kind::Symlink { target: b"over/there".to_vec() });
}

#[test]
fn a_change_brings_its_file_and_a_new_name_its_directory() {
    let w = World::with(&["d/", "d/f", "d/g"]);
    fs::write(w.at("d/f"), "other").expect("writes");
    assert_eq!(words(&w.plan(&[("d/f", E)])), ["+d/f"]);
    w.make("d/h");
    assert_eq!(words(&w.plan(&[("d/f", E), ("d/h", E)])), ["+d", "+d/f", "+d/h"]);
}

#[test]
fn a_gone_tree_is_one_whiteout_and_a_name_that_never_was_is_none() {
    let mut w = World::with(&["a/", "a/d/", "a/d/e/", "a/d/e/f", "a/d/g"]);
    fs::remove_dir_all(w.at("a/d")).expect("removes");
    let plan = w.plan(&[("a/d/e/f", E), ("a/d/e", E), ("a/d", E), ("a/d/g", E), ("a/new", E)]);
    assert_eq!(words(&plan), ["+a", "-a/d"]);
    // Found from the deepest name alone, too.
    assert_eq!(words(&w.plan(&[("a/d/e/f", E)])), ["+a", "-a/d"]);
    w.promote(&plan);
    assert!(!w.records.any_within(&path("a/d")).expect("reads"));
    assert!(w.plan(&[("a/d/e/f", E), ("", S)]).is_empty());
}

#[test]
fn deleted_and_made_again() {
    let w = World::with(&["d/", "d/x", "d/y", "f"]);
    fs::remove_dir_all(w.at("d")).expect("removes");
    w.make("d/");
    w.make("d/y");
    fs::remove_file(w.at("f")).expect("removes");
    w.make("f");
    let plan = w.plan(&[("d", E), ("d/x", E), ("d/y", E), ("f", E)]);
    assert_eq!(words(&plan), ["+.", "+d", "-d/x", "+d/y", "+f"]);
}

#[test]
fn types_that_change_hide_by_themselves() {
    let mut w = World::with(&["d/", "d/x", "f"]);
    fs::remove_dir_all(w.at("d")).expect("removes");
    w.make("d");
    fs::remove_file(w.at("f")).expect("removes");
    w.make("f/");
    w.make("f/y");
    for marks in [&[("d/x", E), ("d", E), ("f", E), ("f/y", E)][..], &[("d/x", E), ("f/y", E)], &[("", S)]] {
        assert_eq!(words(&w.plan(marks)), ["+.", "+d", "+f", "+f/y"]);
    }
    w.commit(&[("", S)]);
    assert_eq!(w.records.get(&path("d/x")).expect("reads"), None);
    fs::remove_file(w.at("f/y")).expect("removes");
    let _socket = std::os::unix::net::UnixListener::bind(w.at("f/y")).expect("binds");
    assert_eq!(words(&w.plan(&[("f/y", E)])), ["+f", "-f/y"]);
}

#[test]
fn a_renamed_directory_is_gone_there_and_whole_here() {
    let w = World::with(&["a/", "a/b/", "a/b/f", "to/", "to/old/"]);
    fs::rename(w.at("a/b"), w.at("to/old")).expect("renames");
    let plan = w.plan(&[("a/b", E), ("to/old", S), ("a/b/f", E)]);
    assert_eq!(words(&plan), ["+a", "-a/b", "+to", "+to/old", "+to/old/f"]);
}

#[test]
fn all_names_of_a_file_travel_together() {
    let mut w = World::with(&["a/", "z"]);
    fs::hard_link(w.at("z"), w.at("a/y")).expect("links");
    let plan = w.plan(&[("a/y", E), ("z", E)]);
    assert_eq!(words(&plan), ["+a", "+a/y", "z=a/y"]);
    assert_eq!(plan.bytes(), 1);
    w.promote(&plan);
    // A change under one name.
    fs::write(w.at("z"), "more").expect("writes");
    assert_eq!(words(&w.plan(&[("z", E)])), ["+a/y", "z=a/y"]);
    // The first name goes: the other has to bring the content.
    fs::remove_file(w.at("a/y")).expect("removes");
    let plan = w.plan(&[("a/y", E)]);
    assert_eq!(words(&plan), ["+a", "-a/y", "+z"]);
    w.promote(&plan);
    assert_eq!(w.records.links(fs::metadata(w.at("z")).expect("stat").ino()).expect("reads"), []);
}

#[test]
fn a_name_lost_with_its_directory_or_by_replacement_brings_the_others() {
    let w = World::with(&["d/", "d/a", "r"]);
    fs::hard_link(w.at("d/a"), w.at("z")).expect("links");
    let mut w = w;
    w.commit(&[("d/a", E), ("z", E)]);
    fs::remove_dir_all(w.at("d")).expect("removes");
    w.make("d");
    assert_eq!(words(&w.plan(&[("d", E)])), ["+.", "+d", "+z"]);
    w.commit(&[("", S)]);
    fs::hard_link(w.at("z"), w.at("y")).expect("links");
    w.commit(&[("z", E), ("y", E)]);
    fs::rename(w.at("r"), w.at("y")).expect("renames");
    assert_eq!(words(&w.plan(&[("r", E), ("y", E)])), ["+.", "-r", "+y", "+z"]);
}

#[test]
fn a_refresh_follows_what_happened_since() {
    let w = World::with(&["d/", "d/x", "d/y", "keep"]);
    fs::remove_dir_all(w.at("d")).expect("removes");
    w.make("new");
    fs::hard_link(w.at("new"), w.at("also")).expect("links");
    let mut plan = w.plan(&[("d", E), ("d/x", E), ("d/y", E), ("new", E), ("also", E)]);
    assert_eq!(words(&plan), ["+.", "+also", "-d", "new=also"]);
    // Back, with one of its two names; its other names were not marked again.
    w.make("d/");
    w.make("d/y");
    fs::remove_file(w.at("also")).expect("removes");
    w.refresh(&mut plan, &marks_of(&[("d/y", E), ("also", E)]));
    assert_eq!(words(&plan), ["+.", "+d", "-d/x", "+d/y", "+new"]);
    fs::remove_dir_all(w.at("d")).expect("removes");
    w.make("d");
    w.refresh(&mut plan, &marks_of(&[("d", E), ("d/y", E)]));
    assert_eq!(words(&plan), ["+.", "+d", "+new"]);
    fs::remove_file(w.at("d")).expect("removes");
    w.make("d/");
    w.refresh(&mut plan, &marks_of(&[("d", E)]));
    assert_eq!(words(&plan), ["+.", "+d", "-d/x", "-d/y", "+new"]);
}

#[test]
fn a_symbolic_link_on_the_way_is_not_followed() {
    let outside = tempfile::tempdir().expect("dir");
    fs::write(outside.path().join("f"), "secret").expect("writes");
    let w = World::with(&["d/", "d/f"]);
    fs::remove_dir_all(w.at("d")).expect("removes");
    symlink(outside.path(), w.at("d")).expect("links");
    let plan = w.plan(&[("d/f", E)]);
    assert_eq!(words(&plan), ["+.", "+d"]);
    let Some(Change::Put(d)) = plan.get(&path("d")) else { panic!("no d") };
    assert!(matches!(d.kind, Kind::Symlink { .. }));
}

#[test]
fn what_is_excluded_is_not_there() {
    let mut w = World::with(&["tmp/", "tmp/f", "g"]);
    w.options.exclude = Some(Arc::new(|p: &RelPath| *p == path("tmp")));
    assert_eq!(words(&w.plan(&[("tmp/f", E)])), ["-tmp"]);
    assert_eq!(words(&w.plan(&[("", S)])), ["-tmp"]);
    w.commit(&[("", S)]);
    w.make("tmp/new");
    assert_eq!(words(&w.plan(&[("tmp/new", E), ("tmp", S)])), Vec::<String>::new());
    assert!(w.scan().marks.is_empty());
}

#[test]
fn a_whole_plan_has_all_but_knows_whether_anything_changed() {
    let mut w = World::with(&["d/", "d/f", "g"]);
    w.options.whole = true;
    let plan = w.plan(&[("", S)]);
    assert_eq!(words(&plan), ["+.", "+d", "+d/f", "+g"]);
    assert!(plan.is_empty());
    fs::remove_file(w.at("g")).expect("removes");
    let plan = w.plan(&[("", S)]);
    assert_eq!(words(&plan), ["+.", "+d", "+d/f", "-g"]);
    assert!(!plan.is_empty());
}

#[test]
fn a_file_changed_within_a_tick_stays_suspect() {
    let mut w = World::with(&["f"]);
    w.options.tick = Duration::from_secs(3600);
    let plan = w.plan(&[("f", E)]);
    assert_eq!(words(&plan)[1..], ["+f"]);
    w.promote(&plan);
    w.options.tick = Duration::ZERO;
    assert_eq!(words(&w.plan(&[("f", E)]))[1..], ["+f"]);
    assert!(w.scan().marks.contains_key(&path("f")));
}

#[test]
fn what_cannot_be_read_is_reported_and_kept() {
    let w = World::with(&["d/", "d/f"]);
    fs::set_permissions(w.at("d"), fs::Permissions::from_mode(0o000)).expect("chmod");
    let plan = w.plan(&[("d", S), ("d/f", E)]);
    let root = rustix::process::geteuid().is_root();
    assert_eq!(plan.unreadable().is_empty(), root);
    assert_eq!(words(&plan), ["+d"]);
    fs::set_permissions(w.at("d"), fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn a_scan_finds_what_no_mark_told() {
    let mut w = World::with(&["a/", "a/f", "a/gone", "b/", "b/c/", "b/c/f", "g", "t/", "t/x", "u"]);
    let found = w.scan();
    assert!(found.marks.is_empty(), "{:?}", found.marks);
    assert_eq!(found.looked, 11);
    fs::write(w.at("a/f"), "changed").expect("writes");
    fs::remove_file(w.at("a/gone")).expect("removes");
    fs::remove_dir_all(w.at("b")).expect("removes");
    w.make("n/");
    w.make("n/x");
    fs::remove_dir_all(w.at("t")).expect("removes");
    w.make("t");
    fs::remove_file(w.at("u")).expect("removes");
    w.make("u/");
    w.make("u/v");
    let marks = w.scan().marks;
    let expected = [("", E), ("a", E), ("a/f", E), ("a/gone", S), ("b", S), ("n", S), ("t", S), ("u", S)];
    assert_eq!(marks, marks_of(&expected));
    let plan = w.capture(&marks);
    assert_eq!(words(&plan), ["+.", "+a", "+a/f", "-a/gone", "-b", "+n", "+n/x", "+t", "+u", "+u/v"]);
    w.promote(&plan);
    assert!(w.scan().marks.is_empty());

    // By the time of a plan there are directories again, and programs have told of these alone.
    let w = World::with(&["b/", "b/c/", "b/c/f", "t/", "t/x"]);
    fs::remove_dir_all(w.at("b")).expect("removes");
    fs::remove_dir_all(w.at("t")).expect("removes");
    w.make("t");
    let mut marks = w.scan().marks;
    fs::remove_file(w.at("t")).expect("removes");
    for name in ["b/", "t/", "t/y"] {
        w.make(name);
        marks.entry(RelPath::new(name.trim_end_matches('/')).expect("path")).or_insert(E);
    }
    assert_eq!(words(&w.capture(&marks)), ["+.", "+b", "-b/c", "+t", "-t/x", "+t/y"]);
}

#[test]
fn names_of_any_depth_are_reached() {
    let w = World::new();
    let name = "x".repeat(250);
    let mut dir =
        rustix::fs::open(w.dir.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).expect("opens");
    let mut deep = RelPath::root();
    for _ in 0..40 {
        rustix::fs::mkdirat(&dir, &name, rustix::fs::Mode::RWXU).expect("makes");
        dir = rustix::fs::openat(&dir, &name, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())
            .expect("opens");
        deep = deep.join(name.as_bytes());
    }
    let plan = w.plan(&[("", S)]);
    assert_eq!(plan.len(), 41);
    assert!(plan.unreadable().is_empty());
    assert!(plan.get(&deep).is_some());
}

/// As SQLite makes it when a database with a log is opened.
fn index() -> Vec<u8> {
    let mut bytes = vec![0; 32768];
    for at in [0, 48] {
        bytes[at..at + 4].copy_from_slice(&3_007_000_u32.to_ne_bytes());
    }
    bytes
}

#[test]
fn an_index_of_a_log_is_left_out_until_it_has_another_name_or_content() {
    let mut w = World::with(&["d/", "d/db", "d/notes-shm"]);
    assert!(w.records.get(&path("d/notes-shm")).expect("reads").is_some(), "it is only called so");
    fs::write(w.at("d/db-shm"), index()).expect("writes");
    assert_eq!(words(&w.plan(&[("d/db-shm", E)])), ["+d"]);
    w.commit(&[("d/db-shm", E)]);
    assert!(w.records.get(&path("d/db-shm")).expect("reads").is_none());
    assert!(w.scan().marks.is_empty(), "{:?}", w.scan().marks);
    assert!(w.plan(&[("", S)]).is_empty(), "found by a walk");

    fs::rename(w.at("d/db-shm"), w.at("d/kept")).expect("renames");
    assert_eq!(words(&w.plan(&[("d/db-shm", E), ("d/kept", E)])), ["+d", "+d/kept"]);
    fs::hard_link(w.at("d/kept"), w.at("d/db-shm")).expect("links");
    let both = words(&w.plan(&[("d/db-shm", E), ("d/kept", E)]));
    assert_eq!(both, ["+d", "+d/db-shm", "d/kept=d/db-shm"], "two names: somebody keeps it");
    fs::remove_file(w.at("d/kept")).expect("removes");
    assert_eq!(words(&w.plan(&[("d/db-shm", E), ("d/kept", E)])), ["+d"]);
    fs::write(w.at("d/db-shm"), b"mine now").expect("writes");
    assert_eq!(words(&w.plan(&[("d/db-shm", E)])), ["+d", "+d/db-shm"]);
}

#[test]
fn an_index_that_the_last_version_has_is_removed_from_the_next() {
    let mut w = World::with(&["db", "db-shm"]);
    fs::write(w.at("db-shm"), index()).expect("writes");
    assert_eq!(w.scan().marks, marks_of(&[("db-shm", S)]));
    let plan = w.plan(&[("db-shm", E)]);
    assert_eq!(words(&plan), ["-db-shm"]);
    w.promote(&plan);
    assert!(w.plan(&[("", S)]).is_empty());
}
