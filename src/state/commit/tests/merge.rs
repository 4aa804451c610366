//! Two writers of one name that put their layers on top of each other.
use super::*;

/// Two sites on one name, both made of the same version; the policy is to merge.
pub(super) async fn pair(files: &[&str]) -> (MemoryStore, Site, Site) {
    let memory = MemoryStore::new();
    let mut first = Site::open(&memory, Layout::Layered).await;
    for file in files {
        first.write(file, "base");
    }
    first.flush().await.expect("flushes");
    first.committer.options.lost = Lost::Merge;
    let dir = Arc::new(tempfile::tempdir().expect("dir"));
    let second =
        Site::start(dir, &memory, Arc::new(MemoryJournal::new()), Layout::Layered).await.expect("opens");
    let (head, tag) = head::read_head(&memory, "work").await.expect("reads").expect("there");
    for file in files {
        second.write(file, "base");
        let time =
            fs::metadata(first.dir.path().join(file)).and_then(|found| found.modified()).expect("a time");
        second.stamp(file, time);
    }
    let identities = second.plan();
    let entries: Vec<_> = identities.puts().map(|(path, captured)| (path.clone(), captured.ident)).collect();
    let base = Base { version: head.version, tag: tag.clone(), history: None };
    second.records.restored(entries.into_iter(), base, true).expect("records");
    second.committer.adopt(Some(head), Some(tag));
    let mut second = second;
    second.committer.options.lost = Lost::Merge;
    (memory, first, second)
}

#[tokio::test]
async fn changes_of_different_paths_are_merged_and_go_on_to_be() {
    let (_memory, first, second) = pair(&["a", "d/x", "d/y"]).await;
    for round in 1..=3 {
        first.write("a", &format!("first {round}"));
        first.write(&format!("d/first{round}"), "1");
        second.write("d/x", &format!("second {round}"));
        let one = first.flush().await.expect("flushes");
        let two = second.flush().await.expect("flushes");
        let merge = two.merge.expect("merged");
        assert_eq!((merge.onto, merge.overlapping, merge.tag), (one.version, vec![], None));
        assert_eq!(two.version, one.version + 1);
        assert_eq!(
            one.merge.is_some(),
            round > 1,
            "the other one is behind as well, from the second round on"
        );
        let tree = second.restored("work").await;
        assert!(tree.contains(&format!("a=first {round}")), "{tree:?}");
        assert!(tree.contains(&format!("d/x=second {round}")), "{tree:?}");
        assert!(tree.contains(&format!("d/first{round}=1")), "{tree:?}");
        assert_eq!(second.committer.version(), two.version);
        // The tree of the second does not have that, and its records say so.
        assert_eq!(second.records.meta().base.map(|base| base.version), Some(1));
        assert!(second.is_clean());
    }
    let second = second.crash().await;
    assert_eq!(second.opening.relation, Relation::Moved);
}

/// A new name in it is no change of a directory; its attributes are.
#[tokio::test]
async fn attributes_of_a_directory_are_not_undone_in_silence() {
    let (_memory, first, second) = pair(&["d/x", "e/x"]).await;
    first.write("d/first", "1");
    second.write("d/second", "2");
    first.chmod("e", 0o700);
    second.write("e/second", "2");
    first.flush().await.expect("flushes");
    let merge = second.flush().await.expect("flushes").merge.expect("merged");
    let names: Vec<String> = merge.overlapping.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["e"]);
}

#[tokio::test]
async fn of_a_path_that_both_changed_the_other_side_has_a_tag() {
    let (memory, first, second) = pair(&["both", "gone", "d/x"]).await;
    first.write("both", "first");
    first.write("gone", "first");
    first.remove("d/x");
    second.write("both", "second");
    second.remove("gone");
    let one = first.flush().await.expect("flushes");
    let merge = second.flush().await.expect("flushes").merge.expect("merged");
    let names: Vec<String> = merge.overlapping.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["both", "gone"]);
    let tag = merge.tag.expect("tag");
    let head = second.head("work").await.expect("HEAD");
    assert_eq!(head.tags.get(&tag), Some(&one.version));
    assert_eq!(second.restored("work").await, ["both=second"]);
    // What we have settled ourselves is no overlap the next time.
    second.write("both", "second again");
    let merge = second.flush().await.expect("flushes").merge.expect("merged");
    assert_eq!((merge.overlapping, merge.tag), (vec![], None));
    drop(memory);
}

#[tokio::test]
async fn what_would_stand_in_nothing_goes_to_a_fork() {
    let (_memory, first, second) = pair(&["d/x", "d/y"]).await;
    fs::remove_dir_all(first.dir.path().join("d")).expect("removes");
    first.write("d", "a file now");
    second.write("d/x", "second"); // says nothing of the directory
    first.flush().await.expect("flushes");
    let forked = second.flush().await.expect("flushes").fork.expect("a fork");
    assert_eq!(first.restored("work").await, ["d=a file now"]);
    assert_eq!(second.restored(&forked.name).await, ["d/x=second", "d/y=base"]);
    assert!(second.is_clean());
}

#[tokio::test]
async fn the_files_of_a_database_are_not_mixed() {
    for (theirs, ours, forks) in [
        (&["d/x"][..], &["d/x-wal"][..], true),
        (&["d/x", "d/x-wal"], &["d/x-wal"], true),
        (&["d/x-wal"], &["d/x"], true),
        (&["d/x-journal"], &["d/x"], true),
        (&["d/x-wal"], &["d/x", "d/x-wal"], false),
        (&["d/x", "d/x-wal"], &["d/x", "d/x-wal"], false),
        (&["d/x", "d/x-wal"], &["d/y", "d/y-wal"], false),
    ] {
        let (_memory, first, second) = pair(&["d/x", "d/x-wal", "d/x-journal", "d/y", "d/y-wal"]).await;
        theirs.iter().for_each(|file| first.write(file, "first"));
        ours.iter().for_each(|file| second.write(file, "second"));
        first.flush().await.expect("flushes");
        let receipt = second.flush().await.expect("flushes");
        assert_eq!((receipt.fork.is_some(), receipt.merge.is_some()), (forks, !forks), "{theirs:?} {ours:?}");
    }
}

#[tokio::test]
async fn a_fork_after_merges_has_all_of_our_tree() {
    let (_memory, first, second) = pair(&["d/x", "e"]).await;
    first.write("a", "first");
    first.flush().await.expect("flushes");
    second.write("e", "second");
    assert!(second.flush().await.expect("flushes").merge.is_some());
    fs::remove_dir_all(first.dir.path().join("d")).expect("removes");
    first.flush().await.expect("flushes");
    second.write("d/x", "second");
    let forked = second.flush().await.expect("flushes").fork.expect("a fork");
    assert_eq!(second.restored(&forked.name).await, ["d/x=second", "e=second"]);
    // From here on it is a name of its own.
    second.write("f", "second");
    let receipt = second.flush().await.expect("flushes");
    assert_eq!((receipt.name, receipt.merge, receipt.fork), (forked.name, None, None));
}

#[tokio::test]
async fn a_merge_whose_answer_was_lost_is_recognised() {
    for crash in [false, true] {
        let (_memory, first, second) = pair(&["a", "b"]).await;
        first.write("a", "first");
        first.flush().await.expect("flushes");
        second.write("b", "second");
        second.fail(Operation::Put, "HEAD", Fault::None); // the one that loses
        second.fail(Operation::Put, "HEAD", Fault::FailAfter(down()));
        second.fail(Operation::Get, "HEAD", Fault::None);
        second.fail(Operation::Get, "HEAD", Fault::FailBefore(down()));
        let failed = second.flush().await.expect_err("nobody knows");
        assert!(failed.is_transient(), "{failed}");
        let second = if crash {
            second.crash().await
        } else {
            second.committer.settle().await.expect("settles");
            second
        };
        assert!(second.is_clean(), "crash: {crash}");
        assert_eq!(second.records.meta().base.map(|base| base.version), Some(1), "crash: {crash}");
        assert_eq!(second.restored("work").await, ["a=first", "b=second"]);
        if !crash {
            second.write("b", "once more");
            assert!(second.flush().await.expect("flushes").merge.is_some());
            assert_eq!(second.restored("work").await, ["a=first", "b=once more"]);
        }
    }
}

#[tokio::test]
async fn who_could_not_read_the_remote_puts_nothing_on_top_of_it() {
    for has_versions in [true, false] {
        let memory = MemoryStore::new();
        let (mut unread, mut other) =
            (Site::open(&memory, Layout::Layered).await, Site::open(&memory, Layout::Layered).await);
        let options = CommitOptions { lost: Lost::Merge, ..unread.committer.options.clone() };
        let opened =
            Committer::unread(Arc::new(memory.clone()), Arc::clone(&unread.records), options.clone());
        unread.committer = opened.await.expect("opens").0;
        unread.write("mine", "1");
        if has_versions {
            other.write("theirs", "1");
            other.flush().await.expect("flushes");
            let refused = unread.flush().await.expect_err("there is a state");
            assert!(matches!(refused, CommitError::Moved { .. }), "{refused}");
            assert_eq!(other.restored("work").await, ["theirs=1"]);
        } else {
            unread.flush().await.expect("the first version");
            // From then on it is known what there is.
            other.committer.options.lost = Lost::Merge;
            other.write("theirs", "1");
            other.flush().await.expect("flushes");
            unread.write("mine", "2");
            assert!(unread.flush().await.expect("flushes").merge.is_some());
            assert_eq!(unread.restored("work").await, ["mine=2", "theirs=1"]);
        }
    }
}

/// What a HEAD that was put back lacks of ours nobody has removed.
#[tokio::test]
async fn a_head_that_went_back_is_not_merged_with() {
    let (memory, first, _second) = pair(&["a", "d/x"]).await;
    let old = memory.get("work/HEAD").await.expect("there").bytes;
    first.write("a", "2");
    first.write("d/new", "2");
    first.flush().await.expect("flushes");
    first.write("b", "3");
    first.flush().await.expect("flushes");
    memory.put("work/HEAD", old, Condition::Always).await.expect("puts");
    let again = Arc::new(first.journal.crashed());
    let start = Site::start(Arc::clone(&first.dir), &memory, again, Layout::Layered).await.expect("opens");
    assert_eq!(start.opening.relation, Relation::Behind);
    assert!(matches!(start.flush().await, Ok(Receipt { committed: false, .. })));

    first.write("last", "4");
    let forked = first.flush().await.expect("flushes").fork.expect("a fork");
    assert_eq!(first.restored(&forked.name).await, ["a=2", "b=3", "d/new=2", "d/x=base", "last=4"]);
    assert_eq!(first.head("work").await.map(|head| head.version), Some(1), "it stays as it is");
}
