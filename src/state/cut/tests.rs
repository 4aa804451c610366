use super::*;
use crate::journal::{self, Batch, Journal, JournalError, MemoryJournal, Pairs};
use crate::state::dirty::DirtySet;
use crate::state::live::Writer;
use crate::state::plan::Change;
use crate::state::record::Base;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::Instant;

/// A tree with one file that is open for writing until the gate closes.
struct Tree {
    dir: tempfile::TempDir,
    root: OwnedFd,
    dirty: DirtySet,
    written: Mutex<Vec<Writer>>,
    /// What happens last before the gate is closed.
    before_close: fn(&Tree),
    /// How often the hold fails still.
    unheld: Mutex<u32>,
}

impl Tree {
    fn new(before_close: fn(&Tree)) -> Arc<Self> {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("f");
        std::fs::write(&file, b"old").expect("write");
        let stat = file.metadata().expect("stat");
        let (node, id) = (stat.ino(), (stat.dev(), stat.ino()));
        let root = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        let path = RelPath::new("f").expect("valid path");
        Arc::new(Self {
            dir,
            root: root.expect("open"),
            dirty: DirtySet::new(),
            written: Mutex::new(vec![Writer { node, path, id, passing: false }]),
            before_close,
            unheld: Mutex::new(0),
        })
    }

    fn cutter(self: &Arc<Self>, staging: &std::path::Path, barrier: Option<Barrier>) -> Cutter {
        let look = LookOptions::default();
        let options = CutOptions { deadline: Duration::from_secs(5), mount_dev: 0, hold: true, look };
        let staging = Staging::open(staging).expect("staging");
        Cutter::new(self.clone(), staging, options, barrier)
    }
}

impl Live for Tree {
    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
    fn dirty(&self) -> &DirtySet {
        &self.dirty
    }
    fn writers(&self, _find: &dyn Fn(FileId) -> Option<RelPath>) -> Vec<Writer> {
        self.written.lock().clone()
    }
    fn without_helper(&self) {}
    fn close(&self, _deadline: Instant) -> bool {
        (self.before_close)(self);
        true
    }
    fn open(&self) {}
    fn expect_held(&self, _count: usize) {}
    fn hold(&self, _nodes: &[u64]) {}
    fn wait_held(&self, _deadline: Instant) -> Vec<u64> {
        let mut unheld = self.unheld.lock();
        *unheld = unheld.saturating_sub(1);
        if *unheld > 0 { vec![1] } else { Vec::new() }
    }
    fn release(&self, _node: u64) {}
    fn release_all(&self) {}
    fn shelter(&self, _files: Vec<FileId>) {}
    fn content(&self, path: &RelPath, _file: FileId) -> io::Result<Box<dyn Content>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.root, path.to_cstring(), flags, Mode::empty())?;
        Ok(Box::new(File::from(file)))
    }
    fn unshelter(&self, _file: FileId) {}
    fn abandon(&self) {}
}

fn records() -> Records {
    Records::open(Arc::new(MemoryJournal::new()), "memory:", "work").expect("records")
}

#[test]
fn a_file_written_and_closed_after_it_was_copied_ahead_is_not_taken_from_the_copy() {
    let tree = Tree::new(|tree| {
        let file = File::options().write(true).open(tree.dir.path().join("f")).expect("open");
        file.write_all_at(b"new", 0).expect("write");
        for writer in std::mem::take(&mut *tree.written.lock()) {
            tree.dirty.mark(writer.path, Extent::Entry);
        }
    });
    let staging = tempfile::tempdir().expect("temp dir");
    let cut = tree.cutter(staging.path(), None).cut(&records(), &[]).expect("cut");
    let path = RelPath::new("f").expect("valid path");
    let Some(Change::Put(captured)) = cut.plan.get(&path) else { panic!("the file is not in the plan") };
    let mut content = [0; 3];
    let got = cut.open(&path, captured).and_then(|c| c.read_at(&mut content, 0)).expect("read");
    assert_eq!((got, &content), (3, b"new"));
}

#[test]
fn without_its_helper_there_is_no_cut_and_no_mark_is_lost() {
    let tree = Tree::new(|_| {});
    let path = RelPath::new("f").expect("valid path");
    tree.dirty.mark(path, Extent::Entry);
    let staging = tempfile::tempdir().expect("temp dir");
    let gone = Barrier::start(Command::new("true"), tree.dir.path()).expect("start");
    let cutter = tree.cutter(staging.path(), Some(gone));
    assert!(matches!(cutter.cut(&records(), &[]), Err(CutError::HelperLost)));
    assert!(!cutter.has_barrier() && tree.dirty.len() == 1);
}

#[test]
fn what_came_late_in_an_attempt_given_up_is_looked_at_in_the_next() {
    let tree = Tree::new(|tree| {
        let late = tree.dir.path().join("late");
        if !late.exists() {
            std::fs::write(late, b"late").expect("write");
            tree.dirty.mark(RelPath::new("late").expect("valid path"), Extent::Entry);
        }
    });
    let staging = tempfile::tempdir().expect("temp dir");
    *tree.unheld.lock() = 2;
    let barrier = Barrier::in_process(tree.dir.path());
    let cutter = tree.cutter(staging.path(), Some(barrier));
    let cut = cutter.cut(&records(), &[]).expect("cut");
    assert_eq!(cutter.stats().retries, 1, "no attempt was given up: the check is void");
    assert!(cut.plan.get(&RelPath::new("late").expect("valid path")).is_some());
}

/// A journal that counts what it is asked.
#[derive(Debug, Default)]
struct Asked {
    inner: MemoryJournal,
    times: std::sync::atomic::AtomicU64,
}

impl Journal for Asked {
    fn get(&self, tree: journal::Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.times.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.inner.get(tree, key)
    }
    fn apply(&self, batch: Batch) -> Result<(), JournalError> {
        self.inner.apply(batch)
    }
    fn scan(&self, tree: journal::Tree, prefix: &[u8], from: &[u8]) -> Pairs<'_> {
        self.times.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.inner.scan(tree, prefix, from)
    }
    fn flush(&self) -> Result<(), JournalError> {
        self.inner.flush()
    }
}

#[test]
fn looks_at_open_files_ask_the_journal_only_after_a_change() {
    let tree = Tree::new(|_| {});
    let staging = tempfile::tempdir().expect("temp dir");
    let cutter = tree.cutter(staging.path(), None);
    let journal = Arc::new(Asked::default());
    let records = Records::open(journal.clone(), "memory:", "work").expect("records");
    let times = || journal.times.load(std::sync::atomic::Ordering::Relaxed);
    let look = || cutter.observe(&records, false).changed.into_iter().map(|(_, ident)| ident).next();
    let new = look().expect("it has no record yet");
    let asked = times();
    assert_eq!(look(), Some(new));
    assert_eq!(times(), asked, "asked again for what was told");

    let path = || RelPath::new("f").expect("valid path");
    let base = Base { version: 1, tag: crate::remote::Tag("tag".into()), history: None };
    records.restored(std::iter::once((path(), new)), base, false).expect("records it");
    assert_eq!(look(), None, "it has a record now");
    let asked = times();
    assert_eq!(look(), None);
    assert_eq!(times(), asked, "asked again for what was told");

    std::fs::write(tree.dir.path().join("f"), b"newer").expect("write");
    assert!(look().is_some(), "it differs from its record again");
}

#[test]
fn names_of_nameless_files_are_asked_for_once_and_again_after_a_change() {
    let journal = Arc::new(Asked::default());
    let records = Records::open(journal.clone(), "memory:", "work").expect("records");
    let times = || journal.times.load(std::sync::atomic::Ordering::Relaxed);
    let told = observe::Told::default();
    let asked = times();
    assert_eq!(told.names(&records, (0, 7), |_| true), None);
    assert_eq!(told.names(&records, (0, 7), |_| true), None);
    assert_eq!(times(), asked + 1);

    let tree = Tree::new(|_| {});
    let stat = rustix::fs::stat(tree.dir.path().join("f")).expect("stat");
    let ident = crate::state::identity::Identity { ino: 7, nlink: 2, ..(&stat).into() };
    let base = Base { version: 1, tag: crate::remote::Tag("tag".into()), history: None };
    let path = RelPath::new("f").expect("valid path");
    records.restored(std::iter::once((path.clone(), ident)), base, false).expect("records it");
    assert_eq!(told.names(&records, (0, 7), |_| true), Some(path));
}
