//! Layers that go with HEAD.
use super::*;
use crate::remote::Handed;
use crate::state::head::INLINE_BYTES_MAX;

impl Site {
    async fn at_once(memory: &MemoryStore) -> Self {
        let mut site = Self::open(memory, Layout::Layered).await;
        site.committer.options.at_once = true;
        site
    }

    /// Keys of the layers that HEAD holds itself.
    async fn inlined(&self) -> Vec<String> {
        let head = self.head("work").await.expect("HEAD");
        head.inlined().map(|(key, _)| key.to_owned()).collect()
    }

    /// Keys of the layers of HEAD that are no objects.
    async fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for layer in self.head("work").await.expect("HEAD").layers {
            if self.memory.get(&layer.key).await.is_err() {
                missing.push(layer.key);
            }
        }
        missing
    }
}

fn unavailable() -> RemoteError {
    RemoteError::Unavailable { message: "as told".into() }
}

/// Text that does not become smaller.
fn noise(length: usize) -> String {
    let mut reader = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; length / 2];
    reader.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_small_layer_goes_with_head_until_it_is_known_to_be_there() {
    let memory = MemoryStore::new();
    let s = Site::at_once(&memory).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    let first = s.head("work").await.expect("HEAD").layers[0].key.clone();
    assert_eq!(s.inlined().await, std::slice::from_ref(&first));
    assert!(s.missing().await.is_empty());
    let before = s.counters.snapshot();
    s.write("b", "2");
    s.flush().await.expect("commits");
    let after = s.counters.snapshot();
    assert_eq!((after.upload - before.upload, after.put - before.put), (1, 1), "a layer and HEAD");
    assert_eq!(s.inlined().await.len(), 1);
    assert_ne!(s.inlined().await, [first], "the first is there, so its bytes have gone");
    assert_eq!(s.restored("work").await, ["a=1", "b=2"]);
    // A large one goes first, and HEAD has no other's bytes any more.
    s.write("c", &noise(4 * INLINE_BYTES_MAX));
    s.flush().await.expect("commits");
    assert!(s.inlined().await.is_empty() && s.missing().await.is_empty());
}

#[tokio::test]
async fn a_version_stands_though_the_object_of_its_layer_was_lost() {
    let memory = MemoryStore::new();
    let s = Site::at_once(&memory).await;
    s.write("a", "1");
    s.fail(Operation::Finish, ".zst", Fault::FailBefore(unavailable()));
    let receipt = s.flush().await.expect("HEAD has it");
    assert!(receipt.committed && s.is_clean());
    let lost = s.missing().await;
    assert_eq!(lost.len(), 1);
    assert_eq!(s.inlined().await, lost);
    // Whoever reads HEAD reads the layer.
    let store = Handed::new(Arc::new(memory.clone()));
    let (head, _) = head::read_head(&store, "work").await.expect("reads").expect("HEAD");
    let bytes = store.get(&lost[0]).await.expect("handed over").bytes;
    assert_eq!(head.layers[0].digest, Digest(*blake3::hash(&bytes).as_bytes()));

    // The next writer sends it again, though it is another process and may be on a mount.
    let mut s = s.crash().await;
    s.committer.options.at_once = false;
    s.write("b", "2");
    s.flush().await.expect("commits");
    assert!(s.missing().await.is_empty());
    assert_eq!(s.inlined().await, lost, "it was not known to be there when HEAD was sent");
    assert_eq!(s.restored("work").await, ["a=1", "b=2"]);
    s.write("c", "3");
    s.flush().await.expect("commits");
    assert!(s.inlined().await.is_empty());
}

#[tokio::test]
async fn what_head_refused_is_in_no_version() {
    let memory = MemoryStore::new();
    let s = Site::at_once(&memory).await;
    s.write("a", "1");
    s.flush().await.expect("commits");
    let before = s.head("work").await;
    s.write("b", "2");
    s.fail(Operation::Put, "work/HEAD", Fault::FailBefore(unavailable()));
    s.flush().await.expect_err("HEAD did not take it");
    assert_eq!(s.head("work").await, before);
    assert!(!s.is_clean(), "it is still to be saved");
    s.flush().await.expect("commits");
    assert_eq!(s.restored("work").await, ["a=1", "b=2"]);
    // The same if nothing arrives.
    s.write("c", "3");
    s.fail(Operation::Put, "work/HEAD", Fault::FailBefore(unavailable()));
    s.fail(Operation::Finish, ".zst", Fault::FailBefore(unavailable()));
    s.flush().await.expect_err("nothing arrived");
    assert!(!s.is_clean());
    s.flush().await.expect("commits");
    assert_eq!(s.restored("work").await, ["a=1", "b=2", "c=3"]);
}

/// The answer about HEAD is lost, and the object as well: HEAD is read, and has it.
#[tokio::test]
async fn a_lost_answer_about_a_head_with_a_layer_in_it_is_made_up_for() {
    let memory = MemoryStore::new();
    let s = Site::at_once(&memory).await;
    s.write("a", "1");
    s.fail(Operation::Put, "work/HEAD", Fault::FailAfter(precondition()));
    s.fail(Operation::Finish, ".zst", Fault::FailBefore(unavailable()));
    assert_eq!(s.flush().await.expect("found out").version, 1);
    let s = s.crash().await;
    assert_eq!(s.opening.relation, Relation::Same);
    assert!(s.is_clean());
    s.write("b", "2");
    s.flush().await.expect("commits");
    assert!(s.missing().await.is_empty());
    assert_eq!(s.restored("work").await, ["a=1", "b=2"]);
}

/// Where layers cannot be written HEAD does not grow without bound, and somebody is told.
#[tokio::test]
async fn some_layers_may_be_in_head_alone_but_not_all() {
    let memory = MemoryStore::new();
    let s = Site::at_once(&memory).await;
    let mut failed = None;
    for n in 0..10 {
        s.write("a", &n.to_string());
        s.fail(Operation::Finish, ".zst", Fault::FailBefore(unavailable()));
        for _ in 0..n {
            s.fail(Operation::Put, ".zst", Fault::FailBefore(unavailable()));
        }
        if let Err(e) = s.flush().await {
            failed = Some((n, e));
            break;
        }
        s.faults.lock().clear();
    }
    let (n, error) = failed.expect("it is told");
    assert!((2..=5).contains(&n) && error.is_transient(), "{n}: {error}");
    assert_eq!(s.inlined().await.len(), n);
    s.faults.lock().clear();
    s.flush().await.expect("commits");
    assert!(s.missing().await.is_empty());
    assert_eq!(s.restored("work").await, [format!("a={n}")]);
}

/// Two writers at once, each with its layer in its HEAD: who comes second is merged or forked as ever.
#[tokio::test]
async fn who_is_second_with_a_layer_in_head_loses_nothing() {
    for lost in [Lost::Merge, Lost::Fork] {
        let memory = MemoryStore::new();
        let mut one = Site::at_once(&memory).await;
        one.write("a", "1");
        one.flush().await.expect("commits");
        let mut two = Site::at_once(&memory).await;
        let (head, tag) = head::read_head(&memory, "work").await.expect("reads").expect("HEAD");
        two.committer.adopt(Some(head), Some(tag));
        (one.committer.options.lost, two.committer.options.lost) = (lost, lost);
        one.write("b", "2");
        one.flush().await.expect("commits");
        two.write("c", "3");
        let receipt = two.flush().await.expect("commits");
        let expected: &[&str] = if lost == Lost::Merge { &["a=1", "b=2", "c=3"] } else { &["a=1", "c=3"] };
        assert_eq!(two.restored(&receipt.name).await, expected);
        assert_eq!(receipt.merge.is_some(), lost == Lost::Merge);
    }
}
