//! Whole files: every way in, the look-ups, and the end.
use crate::common::{BLOCK, assert_budget, config, content, files, key, place, read, taken};
use bytes::Bytes;
use futures::TryStreamExt;
use icecache::cache::{
    Begun, Cache, CacheError, Config, Event, FillOptions, Found, Inserted, Key, Removed, Subject, Whereabouts,
};
use icecache::journal::MemoryJournal;
use std::sync::Arc;

async fn open(dir: &std::path::Path) -> Cache {
    Cache::open_on(config(dir), Arc::new(MemoryJournal::new())).await.unwrap()
}

fn begun(begun: Begun) -> icecache::cache::Fill {
    match begun {
        Begun::Fill(fill) => fill,
        other => panic!("not to be filled: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_inserted_is_found_and_never_overwritten() {
    let dir = place();
    let cache = open(dir.path()).await;
    let mut events = cache.subscribe();
    for (n, size) in [(0, 0), (1, 1), (2, BLOCK), (3, BLOCK + 1), (4, 5 * BLOCK + 17)] {
        let bytes = Bytes::from(content(n, 0..size));
        assert!(cache.look_up(key(n)).await.unwrap().is_none());
        assert!(cache.hit(key(n)).is_none());
        let Inserted::New(file) = cache.insert(&key(n), bytes.clone()).await.unwrap() else { panic!() };
        assert_eq!(file.size(), size);
        let again = cache.insert(&key(n), Bytes::from("other bytes")).await.unwrap();
        let Inserted::There(_) = again else { panic!("overwritten: {again:?}") };
        let Some(Found::File(found)) = cache.look_up(key(n)).await.unwrap() else { panic!() };
        assert_eq!((read(&found), read(&file)), (bytes.to_vec(), bytes.to_vec()));
        assert_eq!(found.checksum(), Some(*blake3::hash(&bytes).as_bytes()));
        assert_eq!(
            found.read(size / 2, 100).await.unwrap(),
            bytes.slice((size / 2) as usize..).slice(..100.min((size - size / 2) as usize))
        );
        let path = found.path();
        assert_eq!(cache.whereabouts(key(n)), Whereabouts::There { path, size });
        assert_budget(&cache, "after an insert");
    }
    let seen: Vec<Event> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    let subject = Subject::File(key(1));
    let of_one: Vec<_> = seen
        .iter()
        .filter(|event| matches!(event, Event::Insert { subject: s, .. } | Event::Hit(s) | Event::Miss(s) if *s == subject))
        .collect();
    assert!(
        matches!(of_one[..], [Event::Miss(_), Event::Insert { bytes: 1, .. }, Event::Hit(_)]),
        "{of_one:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_leaves_the_source_and_a_rename_takes_it() {
    let dir = place();
    let cache = open(&dir.path().join("cache")).await;
    let source = dir.path().join("source");
    let bytes = content(1, 0..3 * BLOCK + 5);
    std::fs::write(&source, &bytes).unwrap();
    let copied = cache.insert_copy(&key(1), &source).await.unwrap().file().await.unwrap();
    let inode = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let before = inode(&source);
    let moved = cache.insert_rename(&key(2), &source).await.unwrap().file().await.unwrap();
    assert!(!source.exists());
    assert_eq!(inode(&moved.path()), before, "not a byte was copied");
    for file in [&copied, &moved] {
        assert_eq!(read(file), bytes);
        assert_eq!(file.checksum(), Some(*blake3::hash(&bytes).as_bytes()));
    }
    // One with a second name could be changed through that: it is copied.
    std::fs::write(&source, &bytes).unwrap();
    std::fs::hard_link(&source, dir.path().join("other")).unwrap();
    let file = cache.insert_rename(&key(3), &source).await.unwrap().file().await.unwrap();
    std::fs::write(dir.path().join("other"), b"changed").unwrap();
    assert_eq!(read(&file), bytes);
    assert!(!source.exists());
    // One that is not inserted stays.
    std::fs::write(&source, &bytes).unwrap();
    assert!(matches!(cache.insert_rename(&key(3), &source).await.unwrap(), Inserted::There(_)));
    assert!(source.exists());
    assert_budget(&cache, "after copies and renames");
}

/// Whatever the reason: who gives a file away and fails still has it, as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_taken_stays_what_it_was() {
    use std::os::unix::fs::PermissionsExt;
    let dir = place();
    let home = dir.path().join("cache");
    let cache = Cache::open(Config { max_bytes: 8 << 20, ..config(&home) }).await.unwrap();
    let source = dir.path().join("source");
    let bytes = content(1, 0..(2 << 20) + 5);
    std::fs::write(&source, &bytes).unwrap();
    std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o640)).unwrap();
    let stays = |why: &str| {
        assert!(std::fs::read(&source).unwrap() == bytes, "{why}");
        let mode = source.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640, "{why}");
        assert_eq!(rustix::fs::getxattr(&source, "user.icecache", &mut [0_u8; 4096]).ok(), None, "{why}");
    };
    // Its key is deleted at whatever moment of the insert.
    for round in 0..30 {
        let (adding, key) = (cache.clone(), key(1));
        let (name, path) = (key.clone(), source.clone());
        let insert = tokio::spawn(async move { adding.insert_rename(&name, &path).await });
        while cache.stats().filling == 0 && !insert.is_finished() {
            tokio::task::yield_now().await;
        }
        for _ in 0..round * 4 {
            tokio::task::yield_now().await;
        }
        let removed = cache.remove(&key).await;
        match insert.await.unwrap() {
            Ok(_) => {
                assert!(!source.exists());
                cache.remove(&key).await;
                std::fs::write(&source, &bytes).unwrap();
                std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o640)).unwrap();
            }
            Err(CacheError::Deleted) => stays(&format!("{removed:?} in round {round}")),
            Err(e) => panic!("round {round}: {e}"),
        }
    }
    // There is no place for its name.
    std::fs::remove_dir_all(home.join("objects")).unwrap();
    cache.insert_rename(&key(2), &source).await.unwrap_err();
    stays("no folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_streams_what_is_there_and_waits_for_the_rest() {
    let dir = place();
    let cache = open(dir.path()).await;
    let bytes = content(1, 0..3 * BLOCK);
    let options = FillOptions { size: None, filler: "the test".into() };
    let mut fill = begun(cache.begin(&key(1), options).unwrap());
    let Inserted::Filling(waiting) = cache.insert(&key(1), Bytes::from("x")).await.unwrap() else { panic!() };
    assert_eq!(waiting.filler(), "the test");
    let mut stream = cache.look_up(key(1)).await.unwrap().unwrap().stream();
    fill.write(Bytes::copy_from_slice(&bytes[..1000])).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), bytes[..1000], "before the last byte is there");
    assert!(matches!(cache.whereabouts(key(1)), Whereabouts::Filling { written: 1000, .. }));
    let rest = tokio::spawn(async move {
        let mut rest = Vec::new();
        while let Some(piece) = stream.next().await.unwrap() {
            rest.extend_from_slice(&piece);
        }
        rest
    });
    let part = cache.look_up(key(1)).await.unwrap().unwrap().stream().range(500..2000);
    for piece in bytes[1000..].chunks(7000) {
        fill.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    let file = fill.finish().await.unwrap();
    assert_eq!(rest.await.unwrap(), bytes[1000..]);
    assert_eq!(read(&waiting.file().await.unwrap()), bytes);
    assert_eq!(read(&file), bytes);
    let mut part = std::pin::pin!(part.into_stream());
    let mut got = Vec::new();
    while let Some(piece) = futures::StreamExt::next(&mut part).await {
        got.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(got, bytes[500..2000]);
    assert_budget(&cache, "after a fill");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_the_wrong_size_or_with_an_error_leaves_nothing() {
    let dir = place();
    let cache = open(dir.path()).await;
    for (size, pieces, fails) in [
        (Some(10), vec![Ok("12345")], true),
        (Some(4), vec![Ok("12345")], true),
        (None, vec![Ok("12345"), Err("the source broke off")], true),
        (Some(5), vec![Ok("12345")], false),
    ] {
        let stream = futures::stream::iter(pieces).map_ok(Bytes::from);
        let options = FillOptions { size, filler: String::new() };
        let inserted = cache.insert_stream(&key(1), options, stream).await;
        assert_eq!(inserted.is_err(), fails, "{inserted:?}");
        assert_budget(&cache, "after a stream");
    }
    assert_eq!(taken(dir.path()).1, 1);
    assert_eq!(cache.stats().totals.fills_failed, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fill_fails_its_waiters_with_the_cause() {
    let dir = place();
    let cache = open(dir.path()).await;
    let mut fill = begun(cache.begin(&key(1), FillOptions::default()).unwrap());
    fill.write(Bytes::from("some")).await.unwrap();
    let waiting = fill.waiting();
    let mut stream = waiting.stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), "some");
    fill.give_up("the printer is on fire");
    for error in [waiting.file().await.unwrap_err(), stream.next().await.unwrap_err()] {
        assert!(matches!(&error, CacheError::GivenUp { why } if why == "the printer is on fire"), "{error}");
    }
    assert!(cache.look_up(key(1)).await.unwrap().is_none());
    assert_budget(&cache, "after a failed fill");
    assert!(files(&dir.path().join("tmp")).is_empty());
    assert_eq!(cache.stats().used.entries, 0);

    // A filler that is just dropped is no better.
    let fill = begun(cache.begin(&key(1), FillOptions::default()).unwrap());
    let waiting = fill.waiting();
    drop(fill);
    assert!(matches!(waiting.file().await, Err(CacheError::GivenUp { .. })));
    cache.insert(&key(1), Bytes::from("good")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_ends_a_fill_and_frees_the_key_of_what_is_held() {
    let dir = place();
    let cache = open(dir.path()).await;
    let mut fill = begun(cache.begin(&key(1), FillOptions::default()).unwrap());
    fill.write(Bytes::from("some")).await.unwrap();
    let waiting = fill.waiting();
    assert_eq!(cache.remove(key(1)).await, Removed::Filling);
    assert!(matches!(waiting.file().await, Err(CacheError::Deleted)));
    assert!(matches!(fill.write(Bytes::from("more")).await, Err(CacheError::Deleted)));
    assert!(matches!(fill.finish().await, Err(CacheError::Deleted)));

    let old = cache.insert(&key(1), Bytes::from("old")).await.unwrap().file().await.unwrap();
    let path = old.path();
    assert_eq!(cache.remove(key(1)).await, Removed::WhenUnpinned);
    assert!(cache.look_up(key(1)).await.unwrap().is_none(), "the key is free at once");
    let new = cache.insert(&key(1), Bytes::from("new")).await.unwrap().file().await.unwrap();
    assert_eq!((read(&old), read(&new)), (b"old".to_vec(), b"new".to_vec()));
    assert_budget(&cache, "while a deleted file is held");
    let clone = old.clone();
    drop(old);
    assert!(path.exists());
    drop(clone);
    assert!(!path.exists(), "the last guard takes the bytes with it");
    assert_budget(&cache, "after the last guard");
    assert_eq!(cache.remove(key(1)).await, Removed::WhenUnpinned);
    assert_eq!(cache.remove(key(1)).await, Removed::Absent);
    drop(new);
    assert_eq!(taken(dir.path()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_never_evicted_and_what_is_not_goes_in_order() {
    let dir = place();
    let mut config = config(dir.path());
    config.max_bytes = 10 * 2 * 4096; // each with its witness
    let cache = Cache::open_on(config, Arc::new(MemoryJournal::new())).await.unwrap();
    let mut held = Vec::new();
    for n in 0..10 {
        let file =
            cache.insert(&key(n), Bytes::from(vec![n as u8; 4096])).await.unwrap().file().await.unwrap();
        if n < 5 {
            held.push(file);
        }
    }
    for n in 10..15 {
        cache.insert(&key(n), Bytes::from(vec![n as u8; 4096])).await.unwrap();
        assert_budget(&cache, "while others are evicted");
    }
    for n in 0..15 {
        let there = cache.look_up(key(n)).await.unwrap().is_some();
        assert_eq!(there, !(5..10).contains(&n), "key {n}");
    }
    assert_eq!(cache.stats().totals.evicted_bytes, 5);
    for (n, file) in held.iter().enumerate() {
        assert_eq!(read(file), vec![n as u8; 4096]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_removed_by_its_guard_while_its_key_names_it() {
    let dir = place();
    let cache = open(dir.path()).await;
    let put = async |text: &'static str| match cache.insert(&key(1), Bytes::from(text)).await.unwrap() {
        Inserted::New(file) => file,
        other => panic!("{other:?}"),
    };
    let old = put("old").await;
    assert_eq!(cache.remove(key(1)).await, Removed::WhenUnpinned);
    let new = put("new").await;
    assert_eq!(cache.remove_file(&old).await, Removed::Absent, "the key names another one");
    assert_eq!(cache.remove_file(&new).await, Removed::WhenUnpinned);
    assert!(cache.look_up(key(1)).await.unwrap().is_none());
    assert_eq!((read(&new), cache.stats().totals.deleted), (b"new".to_vec(), 2));
    drop((old, new));
    assert_budget(&cache, "after both");
    // A fill counts as well.
    let _fill = begun(cache.begin(&key(2), FillOptions::default()).unwrap());
    assert_eq!(cache.remove(key(2)).await, Removed::Filling);
    assert_eq!(cache.stats().totals.deleted, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_entries_and_of_free_disk_hold() {
    let dir = place();
    let mut few = config(dir.path());
    few.max_entries = 3;
    let cache = Cache::open_on(few, Arc::new(MemoryJournal::new())).await.unwrap();
    for n in 0..10 {
        cache.insert(&key(n), Bytes::from("x")).await.unwrap();
        assert!(cache.stats().used.entries <= 3);
    }
    assert_eq!(cache.stats().totals.evicted_entries, 7);
    assert_budget(&cache, "at the limit of entries");
    cache.close().await.unwrap();

    let dir = place();
    let mut none = config(dir.path());
    none.min_free = u64::MAX / 2;
    let cache = Cache::open_on(none, Arc::new(MemoryJournal::new())).await.unwrap();
    let refused = cache.insert(&key(1), Bytes::from("x")).await;
    assert!(matches!(refused, Err(CacheError::NoRoom { .. })), "{refused:?}");
    let totals = cache.stats().totals;
    assert_eq!((totals.not_kept_full, totals.refused_full), (1, 1));
    assert_eq!(taken(dir.path()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_too_much_is_not_admitted() {
    let dir = place();
    let mut config = config(dir.path());
    config.admission.max_entry_bytes = Some(1000);
    config.admission.write_bytes_per_second = Some(1500);
    let cache = Cache::open_on(config, Arc::new(MemoryJournal::new())).await.unwrap();
    let keys: Vec<Key> = (0..4).map(key).collect();
    let too_large = cache.insert(&keys[0], Bytes::from(vec![1; 1001])).await;
    assert!(matches!(too_large, Err(CacheError::NotAdmitted { .. })), "{too_large:?}");
    let mut fill = begun(cache.begin(&keys[0], FillOptions::default()).unwrap());
    fill.write(Bytes::from(vec![1; 900])).await.unwrap();
    let grown = fill.write(Bytes::from(vec![1; 4000])).await;
    assert!(matches!(grown, Err(CacheError::NotAdmitted { .. })), "{grown:?}");
    // What came of the stream counts, although nobody could say before how much it would be.
    cache.insert(&keys[1], Bytes::from(vec![1; 500])).await.unwrap();
    let too_much = cache.insert(&keys[2], Bytes::from(vec![1; 1000])).await;
    assert!(matches!(too_much, Err(CacheError::NotAdmitted { .. })), "{too_much:?}");
    let totals = cache.stats().totals;
    assert_eq!((totals.not_admitted_size, totals.not_admitted_rate), (2, 1));
    assert_eq!((totals.refused_size, totals.refused_rate, totals.refused_full), (2, 1, 0));
    assert_budget(&cache, "after refusals");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_fit_throws_nobody_out() {
    let dir = place();
    let mut large = config(dir.path());
    large.max_bytes = u64::MAX >> 1;
    let cache = Cache::open_on(large, Arc::new(MemoryJournal::new())).await.unwrap();
    for n in 0..10 {
        cache.insert(&key(n), Bytes::from(vec![n as u8; 4096])).await.unwrap();
    }
    let whole_disk = FillOptions { size: Some(1 << 60), filler: "greedy".into() };
    assert!(cache.begin(&key(10), whole_disk).is_err_and(|e| e.is_full()));
    assert_eq!(cache.stats().used.entries, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_its_last_byte_comes_is_gone() {
    let dir = place();
    let cache = open(dir.path()).await;
    for n in 0..300 {
        let mut fill = begun(cache.begin(&key(n), FillOptions::default()).unwrap());
        fill.write(Bytes::from("some")).await.unwrap();
        let finishing = tokio::spawn(fill.finish());
        let removed = cache.remove(key(n)).await;
        let finished = finishing.await.unwrap();
        assert_ne!(removed, Removed::Absent, "round {n}: it was there, filled or not");
        assert!(cache.look_up(key(n)).await.unwrap().is_none(), "round {n}: {removed:?}, and it is there");
        assert!(finished.is_ok() || matches!(finished, Err(CacheError::Deleted)), "round {n}");
    }
    assert_eq!(cache.stats().used.entries, 0);
}
