use super::*;
use crate::remote::faulty::Operation;
use crate::remote::{Condition, Fault, Faulty, MemoryStore};
use crate::state::head::tests::layer;
use crate::state::head::{Digest, layer_key};
use bytes::Bytes;
use std::sync::Arc;
use uuid::Uuid;

fn key(n: u128) -> String {
    layer_key(Uuid::from_u128(n))
}

fn head(name: &str, layers: &[u128]) -> Head {
    let mut head = Head::empty(name, Uuid::from_u128(7), "box");
    for n in layers {
        head = head.next(Uuid::from_u128(7), "box", layer(&key(*n)));
    }
    head
}

async fn put(store: &MemoryStore, key: &str, bytes: Vec<u8>) {
    store.put(key, Bytes::from(bytes), Condition::Always).await.expect("put");
}

async fn write(store: &MemoryStore, head: &Head) {
    put(store, &head::head_key(&head.name), head.to_bytes().expect("bytes")).await;
}

fn candidates(keys: &[u128]) -> Vec<Candidate> {
    let one = |n: &u128| Candidate { key: key(*n), bytes: 1, since: jiff::Timestamp::UNIX_EPOCH };
    keys.iter().map(one).collect()
}

fn keys(objects: &[Candidate]) -> Vec<&str> {
    objects.iter().map(|object| object.key.as_str()).collect()
}

#[tokio::test]
async fn what_any_name_lists_stays() {
    let store = MemoryStore::new();
    // More objects than a page has, before and after the names, which may lie on any page.
    for n in 0..1200 {
        put(&store, &key(n), vec![1]).await;
        put(&store, &format!("a/{n:04}"), vec![1]).await;
    }
    let mut fork = head("work", &[1, 2]).fork("work.fork-x").next(Uuid::from_u128(8), "b", layer(&key(3)));
    fork.held = vec![head::LayerRef { version: 1, base: Some(0), ..layer(&key(4)) }];
    fork.layers[2].dictionary = Some(Digest([5; 32]));
    write(&store, &fork).await;
    write(&store, &head("a", &[6])).await;
    write(&store, &head("zz", &[7])).await;
    let needed = Needed::by_all(&store, None).await.expect("needed");
    assert_eq!(needed.names, 3);
    let done = delete(&store, &needed, candidates(&[1, 2, 3, 4, 6, 7, 8, 9])).await;
    assert_eq!(keys(&done.gone), [key(8), key(9)]);
    assert_eq!(done.shared.len(), 6);
    assert!(done.failure.is_none() && done.left.is_empty());
    assert!(store.get(&key(8)).await.is_err() && store.get(&key(3)).await.is_ok());
    assert!(needed.has(&dictionary_key(&[5; 32])) && !needed.has(&dictionary_key(&[6; 32])));
    // As another document of a name would have it.
    let needed = Needed::by_all(&store, Some(&head("zz", &[9]))).await.expect("needed");
    assert!(!needed.has(&key(7)) && needed.has(&key(9)) && needed.has(&key(6)));
}

#[tokio::test]
async fn a_head_that_cannot_be_read_may_need_anything() {
    for bytes in [&b"{}"[..], b"", b"\xff"] {
        let store = MemoryStore::new();
        write(&store, &head("a", &[1])).await;
        put(&store, "other/HEAD", bytes.to_vec()).await;
        match Needed::by_all(&store, None).await {
            Err(PruneError::Head { key, .. }) => assert_eq!(key, "other/HEAD"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_deletes_nothing_more() {
    let inner = MemoryStore::new();
    for n in 1..20 {
        put(&inner, &key(n), vec![1]).await;
    }
    write(&inner, &head("a", &[1])).await;
    let gone = || RemoteError::Denied { message: "no".into() };
    for operation in [Operation::List, Operation::Get] {
        let store = Faulty::new(Arc::new(inner.clone()), move |call| {
            if call.operation == operation { Fault::FailBefore(gone()) } else { Fault::None }
        });
        assert!(Needed::by_all(&store, None).await.is_err(), "{operation:?}");
    }
    let needed = Needed::by_all(&inner, None).await.expect("needed");
    let denied = key(7);
    let store = Faulty::new(Arc::new(inner.clone()), move |call| {
        if call.key == denied { Fault::FailBefore(gone()) } else { Fault::None }
    });
    let all: Vec<u128> = (1..20).collect();
    let done = delete(&store, &needed, candidates(&all)).await;
    assert!(matches!(done.failure, Some(RemoteError::Denied { .. })));
    assert!(done.left.iter().any(|object| object.key == key(7)));
    assert_eq!((done.shared.len(), done.gone.len() + done.left.len()), (1, 18));
    for object in &done.gone {
        assert!(inner.get(&object.key).await.is_err(), "{}", object.key);
    }
    assert!(inner.get(&key(19)).await.is_ok(), "it goes on after a failure");
}

#[test]
fn what_is_due_has_been_unneeded_for_long_enough() {
    let mut head = head("a", &[1]);
    let now: jiff::Timestamp = "2026-11-21T14:00:00Z".parse().expect("time");
    let hour = Duration::from_secs(3600);
    for (n, age) in [(2, 0), (3, 1), (4, 2)] {
        let since = now.checked_sub(hour * age).expect("time");
        let extra = serde_json::Map::new();
        head.unneeded.push(Unneeded { key: key(n), bytes: 5, since, extra });
    }
    assert_eq!(keys(&due(&head, hour, now)), [key(3), key(4)]);
    assert_eq!(due(&head, Duration::ZERO, now).len(), 3);
    assert_eq!(due(&head, Duration::MAX, now), []);
}

#[tokio::test]
async fn orphans_are_old_and_of_nobody() {
    let store = MemoryStore::new();
    for n in 1..=3 {
        put(&store, &key(n), vec![1]).await;
    }
    let foreign = ["layers/readme.txt", "layers/x.tar.zst", "layers/1.dict"];
    for name in foreign {
        put(&store, name, vec![1]).await;
    }
    put(&store, &dictionary_key(&[1; 32]), vec![1]).await;
    let mut known = head("a", &[1]);
    let (since, extra) = (known.time, serde_json::Map::new());
    known.unneeded = vec![Unneeded { key: key(2), bytes: 5, since, extra }];
    write(&store, &known).await;
    let (now, hour) = (jiff::Timestamp::now(), Duration::from_secs(3600));
    assert!(stored(&store, hour, now).await.expect("list").is_empty(), "all are young");
    let later = now.checked_add(hour * 2).expect("time");
    let found = stored(&store, hour, later).await.expect("list");
    assert_eq!(found.len(), 4);
    let needed = Needed::by_all(&store, None).await.expect("needed");
    let mut orphans = of_nobody(found, &needed);
    orphans.sort_by_key(|object| object.key.len());
    assert_eq!(keys(&orphans), [key(3), dictionary_key(&[1; 32])]);
}
