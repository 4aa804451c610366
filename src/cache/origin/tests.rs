//! What is asked of a store for what is known and what is stated of an object.
use super::*;
use crate::cache::{Config, FetchError, StoreOrigin};
use crate::remote::{Condition, Counted, Counters, Fault, Faulty, MemoryStore, ObjectStore};
use bytes::Bytes;
use std::sync::atomic::AtomicBool;

const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 3 * BLOCK + 1000;

struct Site {
    files: Arc<OriginFiles>,
    counters: Arc<Counters>,
    away: Arc<AtomicBool>,
    memory: Arc<MemoryStore>,
    bytes: Bytes,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let bytes: Bytes = (0..SIZE).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
        let memory = Arc::new(MemoryStore::new());
        for (key, bytes) in [("large", bytes.clone()), ("small", bytes.slice(..7)), ("empty", Bytes::new())] {
            memory.put(key, bytes, Condition::Always).await.expect("puts");
        }
        let (counters, away) = (Arc::<Counters>::default(), Arc::<AtomicBool>::default());
        let is_away = away.clone();
        let faulty: Store = Arc::new(Faulty::new(memory.clone(), move |_| match is_away.load(SeqCst) {
            true => Fault::FailBefore(RemoteError::Unavailable { message: "away".into() }),
            false => Fault::None,
        }));
        let store: Store = Arc::new(Counted::new(faulty, counters.clone()));
        let dir = tempfile::tempdir().expect("directory");
        let config = Config { block_bytes: BLOCK, ..Config::new(dir.path()) };
        let cache = Cache::open(config).await.expect("cache");
        let origin = Arc::new(StoreOrigin::new(store.clone()));
        let files = Arc::new(OriginFiles::new(cache, store, origin, Duration::from_secs(3600)));
        Self { files, counters, away, memory, bytes, _dir: dir }
    }

    /// How often the store was asked what an object is, and for bytes of one.
    fn asked(&self) -> (u64, u64) {
        let counted = self.counters.snapshot();
        (counted.head, counted.download)
    }
}

#[tokio::test]
async fn what_is_stated_is_asked_for_by_its_last_block() {
    let site = Site::new().await;
    let id = site.files.stated("large", SIZE).await.expect("answers").expect("is there");
    assert_eq!((id.size, site.asked()), (SIZE, (0, 1)));
    let blob = site.files.blob(&id).expect("opens");
    let tail = blob.read(3 * BLOCK, 5000).await.expect("reads");
    assert_eq!(tail, site.bytes.slice(3 * BLOCK as usize..));
    assert_eq!(site.asked(), (0, 1), "it came with the answer");
    assert_eq!(blob.read(0, SIZE as usize).await.expect("reads"), site.bytes);
    assert_eq!(site.asked(), (0, 4));
    // It is known by now, whoever asks.
    assert_eq!(site.files.stated("large", SIZE).await.expect("answers"), Some(id.clone()));
    assert_eq!(site.files.object("large").await.expect("answers").map(|(id, _)| id), Some(id));
    assert_eq!(site.asked(), (0, 4));

    let small = site.files.stated("small", 7).await.expect("answers").expect("is there");
    assert_eq!(
        site.files.blob(&small).expect("opens").read(0, 9).await.expect("reads"),
        site.bytes.slice(..7)
    );
    assert_eq!(site.asked(), (0, 5), "all of a small one comes with the answer");
}

#[tokio::test]
async fn whoever_states_another_size_is_told_the_real_one() {
    for wrong in [0, 1, BLOCK, SIZE - 1, SIZE + 1, 2 * SIZE] {
        let site = Site::new().await;
        let id = site.files.stated("large", wrong).await.expect("answers").expect("is there");
        assert_eq!((id.size, site.asked().0), (SIZE, 1), "stated: {wrong}");
        assert_eq!(
            site.files.blob(&id).expect("opens").read(0, SIZE as usize).await.expect("reads"),
            site.bytes
        );
    }
    let site = Site::new().await;
    let empty = site.files.stated("empty", 0).await.expect("answers").expect("is there");
    assert_eq!(empty.size, 0);
    assert_eq!(site.files.stated("empty", 5).await.expect("answers").map(|id| id.size), Some(0));
    assert_eq!(site.files.stated("nothing", 5).await.expect("answers"), None);
}

#[tokio::test]
async fn a_store_that_is_away_says_nothing_of_what_is_stated() {
    let site = Site::new().await;
    site.away.store(true, SeqCst);
    assert!(site.files.stated("large", SIZE).await.is_err());
    site.away.store(false, SeqCst);
    let id = site.files.stated("large", SIZE).await.expect("answers").expect("is there");
    assert_eq!(id.size, SIZE);
    // What is known is given to all while it is away.
    site.away.store(true, SeqCst);
    assert_eq!(site.files.stated("large", SIZE).await.expect("answers"), Some(id));
}

/// The disk it lies on is not mounted.
#[tokio::test]
async fn what_is_known_is_given_to_all_while_the_place_of_the_origin_is_gone() {
    let dir = tempfile::tempdir().expect("directory");
    let place = dir.path().join("origin");
    let store: Store = Arc::new(crate::remote::DirectoryStore::open(&place).expect("opens"));
    for key in ["known", "unknown"] {
        store.put(key, Bytes::from_static(b"content"), Condition::Always).await.expect("puts");
    }
    let cache = Cache::open(Config::new(dir.path().join("cache"))).await.expect("cache");
    let origin = Arc::new(StoreOrigin::new(store.clone()));
    let files = Arc::new(OriginFiles::new(cache, store, origin, Duration::ZERO));
    let known = files.object("known").await.expect("answers");
    std::fs::rename(&place, dir.path().join("aside")).expect("rename");
    assert!(known.is_some());
    let ids = |found: Option<(ObjectId, Properties)>| found.map(|(id, _)| id);
    assert_eq!(ids(files.object("known").await.expect("answers")), ids(known));
    let failed = FetchError::from(files.object("unknown").await.expect_err("is gone"));
    assert_eq!(failed.kind(), crate::ErrorKind::Unavailable, "{failed}");
}

/// Who says that an object is another one by now knew that later than the store was last asked in vain.
#[tokio::test]
async fn what_is_doubted_after_an_outage_is_asked_for() {
    let site = Site::new().await;
    for key in ["large", "small"] {
        site.files.object(key).await.expect("answers").expect("is there");
    }
    site.away.store(true, SeqCst);
    site.files.forget_all();
    for key in ["large", "small"] {
        assert!(site.files.object(key).await.expect("it is known").is_some());
    }
    let asked = site.asked();
    assert!(site.files.object("large").await.expect("it is known").is_some());
    assert_eq!(site.asked(), asked, "nobody waits for a store that is away");
    site.away.store(false, SeqCst);
    site.memory.put("large", Bytes::from_static(b"another one"), Condition::Always).await.expect("puts");
    site.files.forget_below("larg");
    let (id, _) = site.files.object("large").await.expect("answers").expect("is there");
    assert_eq!(id.size, 11);
}

/// `--tables-timeout` is how long somebody waits for an answer, also if that is longer than ten seconds, but of what is known
/// nobody waits so long.
#[tokio::test]
async fn who_is_patient_waits_for_a_slow_store() {
    const SOON: Duration = Duration::from_millis(200);
    for (patience, is_answered) in [(SOON, false), (100 * SOON, true), (SOON / 2, false)] {
        let (memory, is_slow) = (Arc::new(MemoryStore::new()), Arc::new(AtomicBool::new(true)));
        memory.put("key", Bytes::from_static(b"bytes"), Condition::Always).await.expect("puts");
        let slow = is_slow.clone();
        let store: Store = Arc::new(Faulty::new(memory, move |_| match slow.load(SeqCst) {
            true => Fault::Delay(3 * SOON),
            false => Fault::None,
        }));
        let dir = tempfile::tempdir().expect("directory");
        let cache = Cache::open(Config::new(dir.path())).await.expect("cache");
        let origin = Arc::new(StoreOrigin::new(store.clone()));
        let mut files = OriginFiles::new(cache, store, origin, Duration::ZERO).patient_for(patience);
        files.soon = SOON;
        let files = Arc::new(files);
        assert_eq!(files.object("key").await.is_ok(), is_answered, "{patience:?}");
        is_slow.store(false, SeqCst);
        files.forget_all();
        assert!(files.object("key").await.is_ok());
        is_slow.store(true, SeqCst);
        files.forget_all();
        let begun = Instant::now();
        assert!(files.object("key").await.is_ok());
        assert!(begun.elapsed() < 3 * SOON, "{patience:?}: of what is known nobody waits so long");
    }
}
