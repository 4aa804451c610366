//! Starts of whoever may not list, and to whom what is missing looks like what is forbidden.
use super::*;

/// A store of which only `readable` can be read.
fn forbidding(memory: &MemoryStore, readable: String) -> Store {
    let denied = |key: &str| RemoteError::Denied { message: key.to_owned() };
    Arc::new(Faulty::new(Arc::new(memory.clone()), move |call| {
        if call.key == readable { Fault::None } else { Fault::FailBefore(denied(call.key)) }
    }))
}

async fn begun(store: &Store, name: &str, options: CommitOptions) -> Result<(), CommitError> {
    let records = Records::open(Arc::new(MemoryJournal::new()), "memory:", name).expect("opens");
    Committer::unread(store.clone(), Arc::new(records), options).await.map(|_| ())
}

#[tokio::test]
async fn a_name_in_the_other_layout_is_no_empty_one_for_who_may_not_list_either() {
    for (layout, other, word, key) in [
        (Layout::Single, Layout::Layered, "single", head::archive_key("work")),
        (Layout::Layered, Layout::Single, "layered", head::head_key("work")),
    ] {
        let s = Site::open(&MemoryStore::new(), layout).await;
        s.write("a", "1");
        s.flush().await.expect("commits");
        let store = forbidding(&s.memory, key);
        let options = CommitOptions { layout: other, ..s.committer.options.clone() };
        for refused in [begun(&store, "work", options.clone()).await, look(&*store, "work", other).await] {
            let error = refused.expect_err("the name is no empty one");
            assert!(
                matches!(&error, CommitError::OtherLayout { layout, .. } if *layout == word),
                "{word}: {error}"
            );
        }
        look(&*store, "work", layout).await.expect("it can be read");
        // Nothing of this name can be read: a first version can be made, if there is none.
        let error = look(&*store, "another", other).await.expect_err("nobody knows");
        assert!(error.is_denied(), "{word}: {error}");
        begun(&store, "another", options).await.expect("begins");
    }
}

#[tokio::test]
async fn who_does_not_hear_of_the_other_layout_begins_nothing() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    let store: Store = Arc::new(Faulty::new(Arc::new(s.memory.clone()), |_| {
        Fault::FailBefore(RemoteError::Unavailable { message: "slow down".into() })
    }));
    let error = begun(&store, "work", s.committer.options.clone()).await.expect_err("nobody knows");
    assert!(error.is_transient(), "{error}");
}
