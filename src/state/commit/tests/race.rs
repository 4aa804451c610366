//! Other writers of one name, and what only looks like one.
use super::*;

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
    let base = Base { version: 1, tag: tag.clone().expect("tag"), history: None };
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
