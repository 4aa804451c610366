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

mod merge;

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
async fn who_loses_the_race_goes_on_in_a_fork() {
    let memory = MemoryStore::new();
    let s = Site::open(&memory, Layout::Layered).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    let (base, tag) = head::read_head(&memory, "work").await.expect("reads").expect("HEAD");
    let theirs =
        base.next(Uuid::from_u128(9), "other", LayerRef { key: "layers/x".into(), ..base.layers[0].clone() });
    memory
        .put("work/HEAD", theirs.to_bytes().expect("bytes").into(), Condition::IfMatch(tag))
        .await
        .expect("puts");
    s.write("b", "2");
    // The reply to the fork's own HEAD gets lost, too.
    s.fail(Operation::Put, "Z/HEAD", Fault::FailAfter(precondition()));
    let receipt = s.flush().await.expect("commits");
    let fork = receipt.fork.expect("forked");
    assert!(fork.name.starts_with("work.fork-box-"), "{}", fork.name);
    assert_eq!((fork.from.as_str(), fork.base, receipt.version), ("work", 1, 2));
    assert_eq!(s.head("work").await.expect("HEAD").writer, Uuid::from_u128(9));
    assert_eq!(s.restored(&fork.name).await, ["a=1", "b=2"]);
    s.write("c", "3");
    let next = s.flush().await.expect("commits");
    assert_eq!((next.name.as_str(), next.version, next.fork), (fork.name.as_str(), 3, None));
    let head = s.head(&fork.name).await.expect("HEAD");
    assert_eq!(head.forked_from.map(|f| (f.name, f.version)), Some(("work".into(), 1)));
    let s = s.crash().await;
    assert_eq!((s.opening.name.as_str(), s.opening.relation), (fork.name.as_str(), Relation::Same));
    assert!(s.is_clean());
}

#[tokio::test]
async fn without_forks_a_lost_race_is_an_error_that_sends_no_more() {
    for layout in [Layout::Layered, Layout::Single] {
        let mut s = Site::open(&MemoryStore::new(), layout).await;
        s.committer.options.lost = Lost::GiveWay;
        s.write("a", "1");
        s.flush().await.expect("commits");
        let key = if layout == Layout::Single { "work.zst" } else { "work/HEAD" };
        let theirs = match s.head("work").await {
            Some(head) => {
                let layer = LayerRef { key: "layers/theirs.tar.zst".into(), ..head.layers[0].clone() };
                head.next(Uuid::from_u128(9), "other", layer).to_bytes().expect("bytes")
            }
            None => b"theirs".to_vec(),
        };
        s.memory.put(key, theirs.clone().into(), Condition::Always).await.expect("puts");
        s.write("b", "2");
        let mut sent = Vec::new();
        for _ in 0..2 {
            let before = s.counters.snapshot();
            let error = s.flush().await.expect_err("lost");
            assert!(matches!(&error, CommitError::Moved { name } if name == "work"), "{layout:?}: {error}");
            assert!(!error.is_transient());
            let after = s.counters.snapshot();
            sent.push((after.put + after.upload) - (before.put + before.upload));
        }
        assert!(sent[0] > 0 && sent[1] == 0, "{layout:?}: a known loser sends again: {sent:?}");
        assert_eq!(s.memory.get(key).await.expect("there").bytes, theirs, "{layout:?}: overwritten");
        assert!(!s.is_clean(), "{layout:?}: what is unsaved must stay dirty");
    }
}

#[tokio::test]
async fn two_first_versions_do_not_overwrite_each_other() {
    let memory = MemoryStore::new();
    let (one, two) = (Site::open(&memory, Layout::Layered).await, Site::open(&memory, Layout::Layered).await);
    one.write("a", "1");
    two.write("b", "2");
    one.flush().await.expect("commits");
    let fork = two.flush().await.expect("commits").fork.expect("forked");
    assert_eq!(fork.base, 0);
    assert_eq!(one.restored("work").await, ["a=1"]);
    assert_eq!(two.restored(&fork.name).await, ["b=2"]);
}

#[tokio::test]
async fn who_was_away_while_head_moved_adopts_or_forks() {
    let memory = MemoryStore::new();
    let away = Site::open(&memory, Layout::Layered).await;
    away.write("a", "1");
    away.flush().await.expect("commits");
    let (base, tag) = head::read_head(&memory, "work").await.expect("reads").expect("HEAD");
    let theirs =
        base.next(Uuid::from_u128(9), "other", LayerRef { key: "layers/x".into(), ..base.layers[0].clone() });
    let doc = theirs.to_bytes().expect("bytes").into();
    memory.put("work/HEAD", doc, Condition::IfMatch(tag)).await.expect("puts");
    away.write("b", "2");
    let s = away.crash().await;
    assert_eq!(s.opening.relation, Relation::Moved);
    assert!(matches!(s.flush().await, Err(CommitError::Unadopted)));
    assert!(s.committer.keep(s.opening.head.as_ref().expect("HEAD")));
    let fork = s.flush().await.expect("commits").fork.expect("forked");
    assert_eq!(s.restored(&fork.name).await, ["a=1", "b=2"]);
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_never_an_empty_start() {
    let memory = MemoryStore::new();
    memory.put("work/HEAD", "<html>".into(), Condition::Always).await.expect("puts");
    let dir = Arc::new(tempfile::tempdir().expect("dir"));
    let journal = Arc::new(MemoryJournal::new());
    let result = Site::start(dir, &memory, Arc::clone(&journal), Layout::Layered).await;
    assert!(matches!(result.map(|_| ()), Err(CommitError::Head(HeadError::Foreign(_)))));
    let faulty = Faulty::new(Arc::new(MemoryStore::new()), |_| {
        Fault::FailBefore(RemoteError::NoBucket { name: "b".into() })
    });
    assert!(head::read_head(&faulty, "work").await.is_err());
    journal.flush().expect("flushes");
}

#[tokio::test]
async fn a_version_that_vanished_is_noticed() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    assert!(s.memory.remove("work/HEAD"));
    s.write("b", "2");
    assert!(matches!(s.flush().await, Err(CommitError::Gone { .. })));
    assert_eq!(s.crash().await.opening.relation, Relation::Lost);
}

#[tokio::test]
async fn a_version_that_vanished_is_no_other_writer_and_may_come_back() {
    for (layout, key) in [(Layout::Layered, "work/HEAD"), (Layout::Single, "work.zst")] {
        let s = Site::open(&MemoryStore::new(), layout).await;
        s.write("a", "1");
        s.flush().await.expect("commits");
        let there = s.memory.get(key).await.expect("there");
        assert!(s.memory.remove(key));
        s.write("b", "2");
        let mut keys = Vec::new();
        for _ in 0..3 {
            let settled = s.committer.settle().await;
            let e = match settled {
                Ok(()) => s.flush().await.expect_err("gone"),
                Err(e) => e,
            };
            assert!(matches!(&e, CommitError::Gone { name, .. } if name == "work"), "{layout:?}: {e}");
            keys.push(s.memory.keys());
        }
        assert_eq!(keys[0], keys[2], "{layout:?}: each attempt leaves more in the remote");
        assert!(!keys[2].iter().any(|k| k.contains("fork") || *k == key), "{layout:?}: {:?}", keys[2]);
        assert!(!s.is_clean(), "{layout:?}: what is unsaved must stay dirty");
        let tag = s.memory.put(key, there.bytes, Condition::IfAbsent).await.expect("puts");
        s.committer.settle().await.expect("settles");
        // A store whose tags are not of the content (this one's) takes what came back for another's.
        s.committer.adopt(s.committer.head(), Some(tag));
        let receipt = s.flush().await.expect("commits");
        assert_eq!((receipt.version, receipt.fork), (2, None), "{layout:?}");
        assert_eq!(s.restored("work").await, ["a=1", "b=2"]);
    }
}

#[test]
fn what_was_cut_short_while_it_was_read_is_no_damage() {
    let error = |kind: io::ErrorKind| {
        let path = RelPath::new(b"f").expect("a path");
        crate::Error::from(CommitError::Source { path, source: kind.into() })
    };
    assert_eq!(error(io::ErrorKind::UnexpectedEof).kind(), crate::ErrorKind::Io);
    assert_eq!(error(io::ErrorKind::InvalidData).kind(), crate::ErrorKind::Corrupt);
}

/// Refuses one file, and counts what was given back.
struct Guarded {
    inner: DirectorySource,
    refused: &'static str,
    error: fn() -> io::Error,
    done: Mutex<Vec<String>>,
}

impl ContentSource for Guarded {
    fn open(
        &self,
        path: &RelPath,
        captured: &Captured,
    ) -> io::Result<Box<dyn crate::layer::content::Content>> {
        if path.to_string() == self.refused { Err((self.error)()) } else { self.inner.open(path, captured) }
    }

    fn done(&self, path: &RelPath, _captured: &Captured) {
        self.done.lock().push(path.to_string());
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_left_out_and_told() {
    use rustix::io::Errno;
    let errors: [fn() -> io::Error; 4] = [
        || io::ErrorKind::PermissionDenied.into(),
        || Errno::NAMETOOLONG.into(),
        || Errno::LOOP.into(),
        || Errno::IO.into(),
    ];
    for error in errors {
        left_out_and_told(error).await;
    }
}

async fn left_out_and_told(error: fn() -> io::Error) {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    for name in ["a", "b", "empty"] {
        s.write(name, if name == "empty" { "" } else { "1" });
    }
    fs::hard_link(s.dir.path().join("b"), s.dir.path().join("c")).expect("links");
    let guarded = |error| {
        let inner = DirectorySource::new(s.root());
        Arc::new(Guarded { inner, refused: "b", error, done: Mutex::default() })
    };
    let broken = guarded(|| rustix::io::Errno::MFILE.into());
    let e = s.committer.commit(Arc::new(s.plan()), broken, Timestamp::now()).await.expect_err("fails");
    assert!(matches!(e, CommitError::Source { .. }));
    assert_eq!(s.memory.keys(), Vec::<String>::new());
    let source = guarded(error);
    let receipt = s
        .committer
        .commit(Arc::new(s.plan()), Arc::clone(&source) as _, Timestamp::now())
        .await
        .expect("commits");
    assert_eq!(receipt.skipped.keys().map(ToString::to_string).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(*source.done.lock(), ["a", "b", "empty"]);
    assert_eq!(s.restored("work").await, ["a=1", "empty="]);
    assert!(!s.is_clean(), "what was left out stays to be done");
    assert_eq!(s.flush().await.expect("commits").changed, 2);
    assert_eq!(s.restored("work").await, ["a=1", "b=1", "c=1", "empty="]);
}

#[tokio::test]
async fn much_content_goes_through_a_bounded_channel() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 24 << 20];
    noise.fill(&mut bytes);
    fs::write(s.dir.path().join("big"), &bytes).expect("writes");
    let receipt = s.flush().await.expect("commits");
    assert!(receipt.bytes > 24 << 20);
    let key = s.head("work").await.expect("HEAD").layers.remove(0).key;
    let object = s.memory.get(&key).await.expect("layer").bytes;
    assert_eq!(object.len() as u64, receipt.bytes);
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

#[tokio::test]
async fn a_plan_must_fit_the_layout() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    let whole = LookOptions { whole: true, ..LookOptions::default() };
    let plan = Plan::capture(s.root().as_fd(), &s.records, &Marks::new(), &whole).expect("plans");
    let source = Arc::new(DirectorySource::new(s.root()));
    let result = s.committer.commit(Arc::new(plan), source, Timestamp::now()).await;
    assert!(matches!(result, Err(CommitError::Misfit)));
}

/// Sets a tag as the verb does, while the site does not look.
async fn tag_behind(memory: &MemoryStore, tag: &str, version: VersionId) {
    let (head, stored) = head::read_head(memory, "work").await.expect("reads").expect("HEAD");
    let doc = head.tagged(tag, Some(version), stored.clone()).to_bytes().expect("bytes");
    memory.put("work/HEAD", doc.into(), Condition::IfMatch(stored)).await.expect("puts");
}

#[tokio::test]
async fn a_tag_set_meanwhile_is_no_other_writer() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    tag_behind(&s.memory, "first", 1).await;
    tag_behind(&s.memory, "good", 1).await;
    s.write("b", "2");
    let receipt = s.flush().await.expect("commits");
    assert_eq!((receipt.version, receipt.fork), (2, None));
    let head = s.head("work").await.expect("HEAD");
    assert_eq!(head.tags.into_iter().collect::<Vec<_>>(), [("first".into(), 1), ("good".into(), 1)]);
    assert!(head.formerly.is_empty());
    assert_eq!(s.committer.head().map(|h| h.tags.len()), Some(2));
    assert_eq!(s.restored("work").await, ["a=1", "b=2"]);
    // A version of unknown end that turns out to stand, and was tagged since.
    s.write("c", "3");
    s.fail(Operation::Put, "HEAD", Fault::FailAfter(down()));
    s.fail(Operation::Get, "HEAD", Fault::FailBefore(down()));
    s.flush().await.expect_err("unknown");
    tag_behind(&s.memory, "late", 3).await;
    s.committer.settle().await.expect("settles");
    s.write("d", "4");
    let receipt = s.flush().await.expect("commits");
    assert_eq!((receipt.version, receipt.fork), (4, None));
    assert_eq!(s.head("work").await.expect("HEAD").tags.len(), 3);
}

#[tokio::test]
async fn a_tag_set_between_two_daemons_is_no_other_writer() {
    let memory = MemoryStore::new();
    let s = Site::open(&memory, Layout::Layered).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    // Another site took this version over, so that it is not its own.
    let other = Site::open(&memory, Layout::Layered).await;
    assert_eq!(other.opening.relation, Relation::Moved);
    let Opening { head, tag, .. } = other.opening.clone();
    other.write("a", "1");
    let found = std::iter::empty();
    let base = Base { version: 1, tag: tag.clone().expect("tag") };
    other.records.restored(found, base, true).expect("records");
    other.committer.adopt(head, tag);
    tag_behind(&memory, "good", 1).await;
    let (s, other) = (s.crash().await, other.crash().await);
    assert_eq!((s.opening.relation, other.opening.relation), (Relation::Same, Relation::Same));
    other.write("more", "2");
    let receipt = other.flush().await.expect("commits");
    assert_eq!((receipt.version, receipt.fork), (2, None));
    assert_eq!(s.head("work").await.expect("HEAD").tags["good"], 1);
    s.write("more", "3");
    assert!(s.flush().await.expect("commits").fork.is_some(), "another writer is one");
}

#[tokio::test]
async fn another_writer_is_one_also_with_tags() {
    let memory = MemoryStore::new();
    let s = Site::open(&memory, Layout::Layered).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    tag_behind(&memory, "good", 1).await;
    let (base, tag) = head::read_head(&memory, "work").await.expect("reads").expect("HEAD");
    let layer = LayerRef { key: "layers/x".into(), ..base.layers[0].clone() };
    let theirs = base.next(Uuid::from_u128(9), "other", layer).to_bytes().expect("bytes");
    memory.put("work/HEAD", theirs.into(), Condition::IfMatch(tag)).await.expect("puts");
    tag_behind(&memory, "theirs", 2).await;
    s.write("b", "2");
    let fork = s.flush().await.expect("commits").fork.expect("forked");
    assert_eq!(s.head(&fork.name).await.expect("HEAD").tags.len(), 0, "tags as of the last look");
}

#[tokio::test]
async fn another_history_of_the_same_length_is_no_tag() {
    let memory = MemoryStore::new();
    let s = Site::open(&memory, Layout::Layered).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    let (base, _) = head::read_head(&memory, "work").await.expect("reads").expect("HEAD");
    let layer = LayerRef { key: "layers/x".into(), ..base.layers[0].clone() };
    let writer = Uuid::from_u128(9);
    let theirs = Head::empty("work", writer, "other").next(writer, "other", layer);
    memory.put("work/HEAD", theirs.to_bytes().expect("bytes").into(), Condition::Always).await.expect("puts");
    s.write("b", "2");
    let s = s.crash().await;
    assert_eq!(s.opening.relation, Relation::Moved);
    assert!(s.committer.keep(s.opening.head.as_ref().expect("HEAD")));
    assert!(s.flush().await.expect("commits").fork.is_some());
    assert_eq!(s.head("work").await.expect("HEAD").version, 1);
}
