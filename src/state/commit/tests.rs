//! Commits against a store whose calls fail as told.
use super::*;
use crate::journal::{Journal, MemoryJournal};
use crate::layer::{Kind, LayerIndex, LayerReader};
use crate::remote::faulty::{Fault, Operation};
use crate::remote::{Condition, Counted, Counters, Faulty, MemoryStore, ObjectStore};
use crate::state::dirty::{Extent, Marks};
use crate::state::plan::{Captured, LookOptions};
use crate::state::scan::scan;
use crate::state::source::DirectorySource;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

mod at_once;
mod content;
mod line;
mod merge;
mod race;
mod unread;

type Faults = Arc<Mutex<Vec<(Operation, &'static str, Fault)>>>;

/// One machine with its directory, journal and way to the store.
struct Site {
    dir: Arc<tempfile::TempDir>,
    memory: MemoryStore,
    journal: Arc<MemoryJournal>,
    layout: Layout,
    faults: Faults,
    counters: Arc<Counters>,
    records: Arc<Records>,
    committer: Committer,
    opening: Opening,
}

impl Site {
    async fn open(memory: &MemoryStore, layout: Layout) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("dir"));
        Self::start(dir, memory, Arc::new(MemoryJournal::new()), layout).await.expect("opens")
    }

    async fn start(
        dir: Arc<tempfile::TempDir>,
        memory: &MemoryStore,
        journal: Arc<MemoryJournal>,
        layout: Layout,
    ) -> Result<Self, CommitError> {
        let faults: Faults = Arc::default();
        let told = Arc::clone(&faults);
        let faulty = Faulty::new(Arc::new(memory.clone()), move |call| {
            let mut told = told.lock();
            let next = told.iter().position(|(op, key, _)| *op == call.operation && call.key.ends_with(key));
            next.map_or(Fault::None, |n| told.remove(n).2)
        });
        let counters = Arc::new(Counters::default());
        let store = Arc::new(Counted::new(Arc::new(faulty), Arc::clone(&counters)));
        let records = Arc::new(Records::open(Arc::clone(&journal) as _, "memory:", "work").expect("opens"));
        let options = CommitOptions {
            layout,
            host: "box".into(),
            pack: PackOptions::default(),
            dictionary: false,
            log: false,
            at_once: false,
            lost: Lost::Fork,
        };
        let (committer, opening) = Committer::open(store, Arc::clone(&records), options).await?;
        let memory = memory.clone();
        Ok(Self { dir, memory, journal, layout, faults, counters, records, committer, opening })
    }

    /// The machine crashes and starts again.
    async fn crash(self) -> Self {
        let journal = Arc::new(self.journal.crashed());
        Self::start(self.dir, &self.memory, journal, self.layout).await.expect("opens")
    }

    fn root(&self) -> OwnedFd {
        File::open(self.dir.path()).expect("opens").into()
    }

    fn write(&self, name: &str, text: &str) {
        let at = self.dir.path().join(name);
        fs::create_dir_all(at.parent().expect("parent")).expect("makes");
        fs::write(at, text).expect("writes");
    }

    fn chmod(&self, name: &str, mode: u32) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(self.dir.path().join(name), mode).expect("changes the mode");
    }

    fn stamp(&self, name: &str, time: std::time::SystemTime) {
        let file = File::options().write(true).open(self.dir.path().join(name)).expect("opens");
        file.set_modified(time).expect("sets the time");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).expect("removes");
    }

    fn fail(&self, operation: Operation, key: &'static str, fault: Fault) {
        self.faults.lock().push((operation, key, fault));
    }

    fn look(&self) -> LookOptions {
        LookOptions { whole: self.layout == Layout::Single, ..LookOptions::default() }
    }

    fn plan(&self) -> Plan {
        let marks = Marks::from([(RelPath::root(), Extent::Subtree)]);
        Plan::capture(self.root().as_fd(), &self.records, &marks, &self.look()).expect("plans")
    }

    async fn flush(&self) -> Result<Receipt, CommitError> {
        let source = Arc::new(DirectorySource::new(self.root()));
        self.committer.commit(Arc::new(self.plan()), source, Timestamp::now()).await
    }

    fn is_clean(&self) -> bool {
        scan(self.root().as_fd(), &self.records, &self.look()).expect("scans").marks.is_empty()
    }

    async fn head(&self, name: &str) -> Option<Head> {
        head::read_head(&self.memory, name).await.expect("reads").map(|(head, _)| head)
    }

    /// The files of the directory with their text.
    fn tree(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut stack = vec![self.dir.path().to_owned()];
        while let Some(dir) = stack.pop() {
            for entry in fs::read_dir(dir).expect("lists").map(|entry| entry.expect("lists")) {
                if entry.file_type().expect("a type").is_dir() {
                    stack.push(entry.path());
                    continue;
                }
                let path = entry.path();
                let name = path.strip_prefix(self.dir.path()).expect("beneath").display();
                found.push(format!("{name}={}", fs::read_to_string(&path).expect("reads")));
            }
        }
        found.sort();
        found
    }

    /// What a restore of a name gives: files with their text.
    async fn restored(&self, name: &str) -> Vec<String> {
        let layers = match self.layout {
            Layout::Single => vec![head::archive_key(name)],
            Layout::Layered => {
                self.head(name).await.expect("HEAD").layers.into_iter().map(|l| l.key).collect()
            }
        };
        let mut tree = BTreeMap::new();
        for key in layers {
            let bytes = self.memory.get(&key).await.expect("layer").bytes;
            let mut reader = LayerReader::new(io::Cursor::new(bytes)).expect("reads");
            while let Some(entry) = reader.next_entry().expect("reads") {
                match &entry.kind {
                    Kind::Whiteout => tree.retain(|p: &RelPath, _| !p.starts_with(&entry.path)),
                    Kind::File { .. } => {
                        let mut text = Vec::new();
                        reader.read_content(&mut text, 1 << 20).expect("reads");
                        tree.retain(|p: &RelPath, _| !p.starts_with(&entry.path));
                        tree.insert(entry.path, String::from_utf8(text).expect("text"));
                    }
                    Kind::HardLink { target } => {
                        let text = tree.get(target).expect("earlier").clone();
                        tree.insert(entry.path, text);
                    }
                    _ => {}
                }
            }
        }
        tree.into_iter().map(|(p, text)| format!("{p}={text}")).collect()
    }
}

fn down() -> RemoteError {
    RemoteError::Unavailable { message: "told to".into() }
}

fn precondition() -> RemoteError {
    RemoteError::Precondition { key: "HEAD".into() }
}

#[tokio::test]
async fn a_small_flush_is_two_puts_and_an_empty_one_is_none() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    assert_eq!(s.opening.relation, Relation::Fresh);
    s.write("d/a", "1");
    s.write("b", "2");
    let first = s.flush().await.expect("commits");
    assert_eq!((first.version, first.changed, first.removed, first.committed), (1, 4, 0, true));
    let before = s.counters.snapshot();
    s.write("d/a", "11");
    s.remove("b");
    let second = s.flush().await.expect("commits");
    assert_eq!((second.version, second.changed, second.removed), (2, 2, 1));
    let after = s.counters.snapshot();
    assert_eq!((after.put - before.put, after.upload - before.upload), (1, 1));
    assert_eq!((after.get - before.get, after.download - before.download), (0, 0));
    let third = s.flush().await.expect("commits");
    assert!(!third.committed && third.version == 2);
    assert_eq!(s.counters.snapshot().put, after.put);
    assert_eq!(s.restored("work").await, ["d/a=11"]);
    let head = s.head("work").await.expect("HEAD");
    assert_eq!((head.version, head.parent, head.layers.len()), (2, 1, 2));
    assert_eq!((head.layers[1].bytes, head.layers[1].entries), (second.bytes, 3));
    for layer in &head.layers {
        let table = layer.table.as_ref().expect("a layer of ours has a table");
        let object = s.memory.get(&layer.key).await.expect("layer").bytes;
        let tail = &object[object.len() - table.bytes as usize..];
        assert_eq!(table.digest, Digest(*blake3::hash(tail).as_bytes()));
        let (index, rows) = LayerIndex::read(tail, layer.bytes).expect("reads");
        assert_eq!((index.entries(), rows.count() as u64), (layer.entries, layer.entries));
    }
    assert!(s.is_clean());
}

#[tokio::test]
async fn names_of_one_file_come_after_it() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    s.write("z", "text");
    fs::create_dir(s.dir.path().join("a")).expect("makes");
    fs::hard_link(s.dir.path().join("z"), s.dir.path().join("a/y")).expect("links");
    s.flush().await.expect("commits");
    assert_eq!(s.restored("work").await, ["a/y=text", "z=text"]);
}

#[tokio::test]
async fn a_layer_that_does_not_arrive_leaves_nothing() {
    for operation in [Operation::Upload, Operation::Write, Operation::Finish] {
        let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
        s.write("a", "1");
        s.fail(operation, ".tar.zst", Fault::FailBefore(down()));
        let e = s.flush().await.expect_err("fails");
        assert!(e.is_transient() && s.committer.is_settled(), "{e}");
        assert_eq!(s.memory.keys(), Vec::<String>::new());
        assert_eq!(s.records.pending().expect("reads"), []);
        assert_eq!(s.flush().await.expect("commits").version, 1);
        assert!(s.is_clean());
    }
}

#[tokio::test]
async fn a_lost_reply_is_no_lost_race() {
    for reply in [precondition(), down()] {
        let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
        s.write("a", "1");
        s.flush().await.expect("commits");
        s.write("b", "2");
        s.fail(Operation::Put, "HEAD", Fault::FailAfter(reply));
        let receipt = s.flush().await.expect("commits");
        assert_eq!((receipt.version, receipt.fork), (2, None));
        assert!(s.is_clean());
        s.write("c", "3");
        assert_eq!(s.flush().await.expect("commits").version, 3);
        assert_eq!(s.restored("work").await, ["a=1", "b=2", "c=3"]);
    }
}

#[tokio::test]
async fn an_unknown_end_is_settled_before_the_next_plan() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    s.write("b", "2");
    s.fail(Operation::Put, "HEAD", Fault::FailAfter(down()));
    s.fail(Operation::Get, "HEAD", Fault::FailBefore(down()));
    s.flush().await.expect_err("unknown");
    assert!(!s.committer.is_settled());
    assert!(matches!(s.flush().await, Err(CommitError::Unsettled)));
    // The file of that flush goes. Had its records been dropped, no whiteout would be written.
    s.remove("b");
    s.fail(Operation::Get, "HEAD", Fault::FailBefore(down()));
    s.committer.settle().await.expect_err("still down");
    s.committer.settle().await.expect("settles");
    assert_eq!(s.committer.version(), 2);
    let receipt = s.flush().await.expect("commits");
    assert_eq!((receipt.version, receipt.removed), (3, 1));
    assert_eq!(s.restored("work").await, ["a=1"]);
}

#[tokio::test]
async fn a_swap_that_failed_for_certain_is_tried_again() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    s.write("a", "1");
    s.fail(Operation::Put, "HEAD", Fault::FailBefore(down()));
    s.flush().await.expect_err("fails");
    assert!(s.committer.is_settled());
    assert_eq!(s.head("work").await, None);
    // S3 answers so when two conditional PUTs meet, though neither won yet.
    s.fail(Operation::Put, "HEAD", Fault::FailBefore(precondition()));
    let receipt = s.flush().await.expect("commits");
    assert_eq!((receipt.version, receipt.fork), (1, None));
    assert_eq!(s.records.pending().expect("reads"), []);
}

#[tokio::test]
async fn a_swap_that_takes_effect_late_is_recognised() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    let (base, tag) = head::read_head(&s.memory, "work").await.expect("reads").expect("HEAD");
    s.write("b", "2");
    s.fail(Operation::Put, "HEAD", Fault::FailBefore(down()));
    s.flush().await.expect_err("fails");
    // The request was only slow.
    let late = s.records.pending().expect("reads").remove(0);
    let layer = LayerRef { key: late.layer, bytes: late.bytes, ..base.layers[0].clone() };
    let doc = base.next(s.records.meta().writer, "box", layer).to_bytes().expect("bytes");
    s.memory.put("work/HEAD", doc.into(), Condition::IfMatch(tag)).await.expect("puts");
    s.remove("b");
    s.write("a", "11");
    assert!(matches!(s.flush().await, Err(CommitError::Outdated)));
    let receipt = s.flush().await.expect("commits");
    assert_eq!((receipt.version, receipt.fork, receipt.removed), (3, None, 1));
    assert_eq!(s.restored("work").await, ["a=11"]);
}

#[tokio::test]
async fn a_crash_before_the_swap_loses_and_invents_nothing() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    s.write("a", "1");
    s.write("b", "2");
    s.flush().await.expect("commits");
    s.remove("b");
    s.write("c", "3");
    s.fail(Operation::Put, "HEAD", Fault::FailBefore(down()));
    s.flush().await.expect_err("fails");
    let s = s.crash().await;
    assert_eq!(s.opening.relation, Relation::Same);
    assert!(!s.records.was_clean() && !s.is_clean());
    assert_eq!(s.flush().await.expect("commits").version, 2);
    assert_eq!(s.restored("work").await, ["a=1", "c=3"]);
    assert_eq!(s.records.pending().expect("reads"), []);
}

#[tokio::test]
async fn a_crash_after_the_swap_loses_and_invents_nothing() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    s.write("a", "1");
    s.write("b", "2");
    s.flush().await.expect("commits");
    s.remove("b");
    s.write("c", "3");
    s.fail(Operation::Put, "HEAD", Fault::FailAfter(down()));
    s.fail(Operation::Get, "HEAD", Fault::FailBefore(down()));
    s.flush().await.expect_err("unknown");
    let s = s.crash().await;
    assert_eq!(s.opening.relation, Relation::Same);
    assert_eq!(s.committer.version(), 2);
    assert!(s.is_clean(), "the flush was promoted");
    s.remove("c");
    assert_eq!(s.flush().await.expect("commits").removed, 1);
    assert_eq!(s.restored("work").await, ["a=1"]);
}

#[tokio::test]
async fn single_replaces_one_archive() {
    let s = Site::open(&MemoryStore::new(), Layout::Single).await;
    s.write("a", "1");
    s.write("b", "2");
    assert_eq!(s.flush().await.expect("commits").version, 1);
    s.remove("b");
    let receipt = s.flush().await.expect("commits");
    assert_eq!((receipt.version, receipt.removed), (2, 1));
    assert!(!s.flush().await.expect("commits").committed);
    assert_eq!(s.memory.keys(), ["work.zst"]);
    assert_eq!(s.restored("work").await, ["a=1"]);
    s.write("c", "3");
    s.fail(Operation::Finish, ".zst", Fault::FailAfter(precondition()));
    assert_eq!(s.flush().await.expect("a lost reply").version, 3);
    s.write("d", "4");
    s.fail(Operation::Finish, ".zst", Fault::FailAfter(down()));
    s.fail(Operation::Download, ".zst", Fault::FailBefore(down()));
    s.flush().await.expect_err("unknown");
    let s = s.crash().await;
    assert_eq!((s.opening.relation, s.committer.version()), (Relation::Same, 4));
    assert!(s.is_clean());
    assert_eq!(s.restored("work").await, ["a=1", "c=3", "d=4"]);
}

#[tokio::test]
async fn single_never_overwrites_another_writers_archive() {
    let s = Site::open(&MemoryStore::new(), Layout::Single).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    s.memory.put("work.zst", "theirs".into(), Condition::Always).await.expect("puts");
    s.write("b", "2");
    let Err(CommitError::Diverged(fork)) = s.flush().await else { panic!("not diverged") };
    let s = s.crash().await;
    assert_eq!((&s.opening.name, s.opening.relation), (&fork.name, Relation::Same));
    let receipt = s.flush().await.expect("commits");
    assert_eq!(receipt.name, fork.name);
    assert_eq!(s.memory.get("work.zst").await.expect("there").bytes, "theirs");
    assert_eq!(s.restored(&fork.name).await, ["a=1", "b=2"]);
    assert_eq!(s.crash().await.opening.relation, Relation::Same);
}

#[tokio::test]
async fn a_name_in_the_other_layout_is_no_empty_one() {
    for (layout, other, word) in
        [(Layout::Single, Layout::Layered, "single"), (Layout::Layered, Layout::Single, "layered")]
    {
        let s = Site::open(&MemoryStore::new(), layout).await;
        s.write("a", "1");
        s.flush().await.expect("commits");
        let fresh = Arc::new(tempfile::tempdir().expect("dir"));
        let opened = Site::start(fresh, &s.memory, Arc::new(MemoryJournal::new()), other).await;
        let error = opened.map(|_| ()).expect_err("refused");
        assert!(
            matches!(&error, CommitError::OtherLayout { name, layout } if name == "work" && *layout == word),
            "{error}"
        );
    }
}

/// As `import --from-single` leaves it: the archive is there still.
#[tokio::test]
async fn an_archive_that_layers_were_made_of_is_not_gone_on_with() {
    let s = Site::open(&MemoryStore::new(), Layout::Single).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    let elsewhere = MemoryStore::new();
    let layered = Site::open(&elsewhere, Layout::Layered).await;
    layered.write("a", "1");
    layered.flush().await.expect("commits");
    let head = elsewhere.get("work/HEAD").await.expect("there").bytes;
    s.memory.put("work/HEAD", head, Condition::Always).await.expect("puts");
    let again = Arc::new(s.journal.crashed());
    let opened = Site::start(Arc::clone(&s.dir), &s.memory, again, Layout::Single).await;
    let error = opened.map(|_| ()).expect_err("refused");
    assert!(matches!(&error, CommitError::OtherLayout { layout: "layered", .. }), "{error}");
}

#[tokio::test]
async fn a_plan_must_fit_the_layout() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    let whole = LookOptions { whole: true, ..LookOptions::default() };
    let plan = Plan::capture(s.root().as_fd(), &s.records, &Marks::new(), &whole).expect("plans");
    let source = Arc::new(DirectorySource::new(s.root()));
    let result = s.committer.commit(Arc::new(plan), source, Timestamp::now()).await;
    assert!(matches!(result, Err(CommitError::Misfit)));
}
