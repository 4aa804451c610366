//! Two writers that go on for long: the chain of HEAD stays short, and nobody is taken for somebody else.
use super::merge::pair;
use super::*;
use std::time::Duration;

const CHAIN: usize = 6;

fn keeping(keep: usize) -> Tidy {
    Tidy { chain: CHAIN, keep, keep_for: None, delete_after: None, amplification: 4 }
}

/// How many versions are kept: enough to take a merged layer apart, and too few.
const KEEPS: [usize; 2] = [100, 1];

impl Site {
    async fn tidy(&self, keep: usize) -> Option<Tidied> {
        let due = self.committer.is_due(&keeping(keep));
        let done = self.committer.tidy(&keeping(keep), HashSet::new()).await.expect("tidies");
        assert!(due || done.is_none());
        done
    }

    /// Saves and tidies; the paths that another changed as well.
    async fn save(&self, keep: usize) -> Vec<String> {
        let receipt = self.flush().await.expect("flushes");
        assert_eq!(receipt.fork, None);
        self.tidy(keep).await;
        let overlapping = receipt.merge.map(|merge| merge.overlapping).unwrap_or_default();
        overlapping.iter().map(ToString::to_string).collect()
    }

    async fn chain(&self) -> usize {
        self.head("work").await.expect("HEAD").layers.len()
    }

    async fn tags(&self) -> Vec<String> {
        self.head("work").await.expect("HEAD").tags.into_keys().collect()
    }
}

#[tokio::test]
async fn the_chain_stays_short_while_two_writers_go_on() {
    for keep in KEEPS {
        let (_memory, first, second) = pair(&["a", "b", "d/x", "e/x", "e/y"]).await;
        let mut longest = 0;
        for round in 0..30 {
            for (site, name, own) in [(&first, "first", "a"), (&second, "second", "b")] {
                site.write(own, &format!("{name} {round}"));
                site.write(&format!("d/{name}{}", round % 7), &format!("{round}"));
                let other = site.dir.path().join(format!("{name} link{round}"));
                fs::hard_link(site.dir.path().join(own), other).expect("links");
                if round % 5 == 4 {
                    let all = format!("{name} dir");
                    let _first_time = fs::remove_dir_all(site.dir.path().join(&all));
                    site.write(&format!("{all}/file{round}"), "1");
                }
                if round % 9 == 8 {
                    site.remove(&format!("{name} link{}", round - 3));
                    site.chmod(own, 0o600 + (round as u32 / 9) % 2);
                }
                assert_eq!(site.save(keep).await, Vec::<String>::new(), "{keep}: round {round}");
                longest = longest.max(site.chain().await);
            }
        }
        assert!(longest <= CHAIN, "{keep}: {longest} layers");
        assert_eq!(second.tags().await, Vec::<String>::new());
        // Both trees together: who shares nothing with the other.
        let mut union: BTreeMap<String, String> = BTreeMap::new();
        for site in [&first, &second] {
            let name = if std::ptr::eq(site, &first) { "first" } else { "second" };
            for line in site.tree() {
                let (path, text) = line.split_once('=').expect("a file");
                let own = path.contains(name) || path == if name == "first" { "a" } else { "b" };
                if own || text == "base" && !["a", "b"].contains(&path) {
                    union.insert(path.to_owned(), text.to_owned());
                }
            }
        }
        let mut union: Vec<String> = union.into_iter().map(|(path, text)| format!("{path}={text}")).collect();
        union.sort();
        let mut restored = second.restored("work").await;
        restored.sort();
        assert_eq!(restored, union, "{keep}");

        // Both change the same file, once.
        first.write("e/x", "first");
        assert_eq!(first.save(keep).await, Vec::<String>::new());
        second.write("e/x", "second");
        assert_eq!(second.save(keep).await, ["e/x"]);
        second.write("e/x", "second again");
        assert_eq!(second.save(keep).await, Vec::<String>::new(), "{keep}: it is settled");
        assert_eq!(second.tags().await.len(), 1);
    }
}

/// However it is hidden in merged layers.
#[tokio::test]
async fn what_another_changed_long_ago_still_counts() {
    for keep in KEEPS {
        let files = ["a", "both", "gone", "mode", "kept", "d/x", "d/y", "e/x"];
        let (_memory, first, second) = pair(&files).await;
        first.write("both", "first");
        first.remove("gone");
        first.chmod("mode", 0o600);
        first.remove("d/x");
        first.write("e/new", "first");
        for round in 0..4 * CHAIN {
            first.write("a", &format!("first {round}"));
            first.save(keep).await;
        }
        assert!(first.chain().await <= CHAIN);
        for name in ["both", "gone", "mode", "kept", "d/x", "d/y", "e/x"] {
            second.write(name, "second");
        }
        second.write("e/new", "second");
        assert_eq!(second.save(keep).await, ["both", "d/x", "e/new", "gone", "mode"], "{keep}");
        let tree = second.restored("work").await;
        assert!(
            tree.contains(&"gone=second".to_owned()) && tree.contains(&"kept=second".to_owned()),
            "{tree:?}"
        );
    }
}

#[tokio::test]
async fn a_directory_that_another_removed_long_ago_takes_no_file_of_ours() {
    for keep in KEEPS {
        let (_memory, first, second) = pair(&["a", "d/x", "d/y"]).await;
        fs::remove_dir_all(first.dir.path().join("d")).expect("removes");
        for round in 0..3 * CHAIN {
            first.write("a", &format!("first {round}"));
            first.save(keep).await;
        }
        second.write("d/x", "second");
        let forked = second.flush().await.expect("flushes").fork.expect("a fork");
        assert_eq!(second.restored(&forked.name).await, ["a=base", "d/x=second", "d/y=base"], "{keep}");
    }
}

/// Equal size and time prove nothing as long as HEAD holds the layer that says so.
#[tokio::test]
async fn a_change_that_only_looks_like_ours_counts() {
    let (_memory, first, second) = pair(&["a", "both"]).await;
    second.write("own", "1");
    second.save(100).await;
    let time =
        fs::metadata(first.dir.path().join("both")).and_then(|found| found.modified()).expect("a time");
    first.write("both", "else");
    first.stamp("both", time);
    for round in 0..3 * CHAIN {
        first.write("a", &format!("first {round}"));
        first.save(100).await;
    }
    second.write("own", "2");
    second.save(100).await;
    second.write("both", "second");
    assert_eq!(second.save(100).await, ["both"]);
}

/// What stood beneath a line was let go: nothing refers to it, and it is not taken for the work of a stranger.
#[tokio::test]
async fn what_head_has_let_go_is_not_referred_to() {
    let (_memory, first, second) = pair(&["a", "b"]).await;
    let noise = |seed: usize| -> Vec<u8> {
        let mut bytes = vec![0; 300_000];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    fs::write(second.dir.path().join("large"), noise(1000)).expect("writes");
    second.save(1).await;
    for round in 0..3 * CHAIN {
        fs::write(first.dir.path().join("a"), noise(round)).expect("writes");
        first.save(1).await;
    }
    let mut changed = noise(1000);
    changed[7] ^= 1;
    fs::write(second.dir.path().join("large"), &changed).expect("writes");
    let error = second.flush().await.expect_err("what it refers to was let go");
    assert!(matches!(error, CommitError::LetGo), "{error}");
    let receipt = second.flush().await.expect("flushes");
    assert_eq!((receipt.fork, receipt.merge.map(|merge| merge.tag)), (None, Some(None)));
    assert!(receipt.bytes > 290_000, "{}", receipt.bytes);
}

#[tokio::test]
async fn a_fork_says_so_when_layers_of_its_line_were_deleted() {
    let (memory, first, second) = pair(&["a", "b", "d/x"]).await;
    second.write("b", "second");
    second.save(1).await;
    fs::remove_dir_all(first.dir.path().join("d")).expect("removes");
    for round in 0..3 * CHAIN {
        first.write("a", &format!("first {round}"));
        first.save(1).await;
    }
    second.write("d/x", "second");
    // The fork would be complete as long as the layers are there.
    let let_go = first.head("work").await.expect("HEAD").unneeded;
    assert!(!let_go.is_empty());
    for layer in let_go {
        memory.delete(&layer.key).await.expect("deletes");
    }
    let before = second.head("work").await;
    let error = second.flush().await.expect_err("a fork would lack layers");
    assert!(matches!(&error, CommitError::Deleted { name, .. } if name == "work"), "{error}");
    assert_eq!(second.head("work").await, before);
    assert!(!second.is_clean(), "it stays unsaved");
    assert_eq!(memory.keys().iter().filter(|key| key.ends_with("HEAD")).count(), 1, "no fork");
}

#[tokio::test]
async fn a_line_deletes_what_nobody_needs_but_itself() {
    let (memory, first, second) = pair(&["a", "b"]).await;
    for round in 0..3 * CHAIN {
        first.write("a", &format!("first {round}"));
        first.flush().await.expect("flushes");
        second.write("b", &format!("second {round}"));
        second.save(1).await;
    }
    let own: Vec<String> = {
        let state = second.committer.state.lock();
        state.head.iter().flat_map(|line| &line.layers).map(|layer| layer.key.clone()).collect()
    };
    assert!(second.committer.unneeded().0 > 0);
    assert!(second.committer.is_prune_due(Duration::ZERO));
    let deleted = second.committer.prune(Duration::ZERO).await.expect("prunes").keys();
    assert!(!deleted.is_empty() && own.iter().all(|key| !deleted.contains(key)));
    assert!(own.iter().all(|key| memory.keys().contains(key)), "a fork has all of the line");
    assert!(!second.committer.is_prune_due(Duration::ZERO));
    let left = second.head("work").await.expect("HEAD").unneeded;
    assert!(left.iter().all(|unneeded| own.contains(&unneeded.key)), "what is gone is not listed");
    first.write("a", "last");
    first.flush().await.expect("flushes");
    assert_eq!(first.restored("work").await, ["a=last", &format!("b=second {}", 3 * CHAIN - 1)]);
}

#[tokio::test]
async fn a_merge_of_layers_goes_beneath_versions_that_were_made_meanwhile() {
    let (_memory, first, second) = pair(&["a", "b"]).await;
    for round in 0..CHAIN {
        first.write("a", &format!("first {round}"));
        first.flush().await.expect("flushes");
        second.write("b", &format!("second {round}"));
        second.flush().await.expect("flushes");
    }
    let long = second.chain().await;
    // Another version comes while HEAD is swapped.
    second.fail(Operation::Put, "HEAD", Fault::FailBefore(precondition()));
    first.write("a", "last");
    let (tidied, flushed) = tokio::join!(second.tidy(100), first.flush());
    flushed.expect("flushes");
    let tidied = tidied.expect("tidied");
    assert_eq!(second.chain().await, long + 2 - tidied.merged);
    assert_eq!(second.restored("work").await, ["a=last", &format!("b=second {}", CHAIN - 1)]);
    assert_eq!(second.records.meta().base.map(|base| base.version), Some(1), "the tree is what it was");
    second.write("b", "last");
    assert_eq!(second.save(100).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_merge_of_layers_whose_answer_was_lost_on_a_line_is_found() {
    for crash in [false, true] {
        let (_memory, first, second) = pair(&["a", "b"]).await;
        for round in 0..CHAIN {
            first.write("a", &format!("first {round}"));
            first.flush().await.expect("flushes");
            second.write("b", &format!("second {round}"));
            second.flush().await.expect("flushes");
        }
        second.fail(Operation::Put, "HEAD", Fault::FailAfter(down()));
        second.fail(Operation::Get, "HEAD", Fault::None); // the one that it begins with
        second.fail(Operation::Get, "HEAD", Fault::FailBefore(down()));
        second.committer.tidy(&keeping(100), HashSet::new()).await.expect_err("nobody knows");
        let expected = ["a=first 5", "b=second 5"];
        assert_eq!(second.restored("work").await, expected);
        if crash {
            let second = second.crash().await;
            assert_eq!(second.opening.relation, Relation::Moved);
            assert!(second.is_clean());
            continue;
        }
        second.committer.settle().await.expect("settles");
        assert!(second.chain().await <= CHAIN);
        let layers = second.memory.keys().len();
        assert_eq!(second.tidy(100).await, None, "it is short already");
        assert_eq!(second.memory.keys().len(), layers, "nothing is sent for it");
        second.write("b", "last");
        assert_eq!(second.save(100).await, Vec::<String>::new());
    }
}
