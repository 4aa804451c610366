//! What every object store must do, run over each kind: directory, memory, the in-process S3, and every
//! server in `ICECACHE_TEST_S3` (`endpoint,bucket,key,secret`, several separated by `;`).
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic
#[path = "remote/faults.rs"]
mod faults;
#[path = "remote/local.rs"]
mod local;
mod support;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use icecache::remote::{
    Condition, Counters, DirectoryStore, Download, MemoryStore, ObjectStore, RemoteError, Retry, RetryPolicy,
    S3Keys, S3Options, S3Store, Store, Tag, list, supports_conditional_writes,
};
use std::sync::Arc;
use std::time::Duration;
use support::s3server::{ACCESS_KEY, BUCKET, Fault, S3Server, SECRET_KEY};

const MIB: usize = 1 << 20;

/// Where an S3 is and who may use it.
#[derive(Clone)]
struct Endpoint {
    url: String,
    bucket: String,
    access_key: String,
    secret_key: String,
}

impl Endpoint {
    fn of(server: &S3Server) -> Self {
        let [bucket, access_key, secret_key] = [BUCKET, ACCESS_KEY, SECRET_KEY].map(str::to_owned);
        Self { url: server.endpoint(), bucket, access_key, secret_key }
    }

    fn from_environment() -> Vec<Self> {
        let list = std::env::var("ICECACHE_TEST_S3").unwrap_or_default();
        list.split(';')
            .filter(|entry| !entry.trim().is_empty())
            .map(|entry| {
                let fields: Vec<String> = entry.trim().split(',').map(str::to_owned).collect();
                let [url, bucket, access_key, secret_key] =
                    fields.try_into().expect("ICECACHE_TEST_S3 is endpoint,bucket,key,secret;...");
                Self { url, bucket, access_key, secret_key }
            })
            .collect()
    }

    async fn connect(&self) -> S3Store {
        self.connect_counted(Arc::default()).await
    }

    async fn connect_counted(&self, counters: Arc<Counters>) -> S3Store {
        let options =
            S3Options { endpoint: Some(self.url.clone()), part_mib: Some(5), ..S3Options::default() };
        let keys = S3Keys {
            access_key: self.access_key.clone(),
            secret_key: self.secret_key.clone(),
            session_token: None,
        };
        let prefix = format!("suite/{}", uuid::Uuid::new_v4());
        S3Store::connect(&self.bucket, &prefix, &options, Some(&keys), counters).await.unwrap()
    }
}

/// One store under test, empty, and what keeps it alive.
struct Target {
    name: String,
    store: Store,
    _directory: Option<tempfile::TempDir>,
    _server: Option<S3Server>,
}

async fn targets() -> Vec<Target> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("made/on/first/use");
    let server = S3Server::start().await;
    let s3 = Endpoint::of(&server).connect().await;
    let target =
        |name: &str, store: Store| Target { name: name.into(), store, _directory: None, _server: None };
    let mut all = vec![
        target("memory", Arc::new(MemoryStore::new())),
        Target {
            _directory: Some(directory),
            ..target("directory", Arc::new(DirectoryStore::open(&root).unwrap()))
        },
        Target { _server: Some(server), ..target("in-process s3", Arc::new(s3)) },
    ];
    for endpoint in Endpoint::from_environment() {
        all.push(target(&endpoint.url.clone(), Arc::new(endpoint.connect().await)));
    }
    all
}

/// Every S3 there is, as a list of endpoints.
async fn endpoints() -> (S3Server, Vec<Endpoint>) {
    let server = S3Server::start().await;
    let mut all = vec![Endpoint::of(&server)];
    all.extend(Endpoint::from_environment());
    (server, all)
}

/// Bytes without a pattern that a shifted or repeated piece could hide in.
fn noise(length: usize) -> Bytes {
    let mut out = vec![0; length];
    let mut reader = blake3::Hasher::new().update(&length.to_le_bytes()).finalize_xof();
    reader.fill(&mut out);
    out.into()
}

async fn read(download: Download) -> Result<Bytes, RemoteError> {
    let mut out = Vec::new();
    let mut body = download.body;
    while let Some(chunk) = body.next().await {
        out.extend_from_slice(&chunk?);
    }
    Ok(out.into())
}

async fn send(
    store: &dyn ObjectStore,
    key: &str,
    data: &Bytes,
    condition: Condition,
) -> Result<Tag, RemoteError> {
    let mut upload = store.upload(key, condition).await?;
    for start in (0..data.len()).step_by(700_001) {
        upload.write(data.slice(start..data.len().min(start + 700_001))).await?;
    }
    upload.finish().await
}

fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 4,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
    }
}

macro_rules! assert_error {
    ($result:expr, $kind:ident, $($context:tt)+) => {
        match $result {
            Err(RemoteError::$kind { .. }) => {}
            other => panic!("{}: wanted {}, got {other:?}", format!($($context)+), stringify!($kind)),
        }
    };
}
use assert_error;

#[tokio::test]
async fn what_is_put_can_be_read() {
    for Target { name, store, .. } in &targets().await {
        assert_error!(store.get("a/HEAD").await, NotFound, "{name}");
        assert_error!(store.download("a/HEAD", None).await, NotFound, "{name}");
        for data in [Bytes::new(), Bytes::from_static(b"one"), noise(3 * MIB)] {
            let tag = store.put("a/HEAD", data.clone(), Condition::Always).await.unwrap();
            let object = store.get("a/HEAD").await.unwrap();
            assert_eq!((object.bytes, object.tag), (data.clone(), tag.clone()), "{name}");
            let download = store.download("a/HEAD", None).await.unwrap();
            assert_eq!((download.length, &download.tag), (data.len() as u64, &tag), "{name}");
            assert_eq!(read(download).await.unwrap(), data, "{name}");
        }
        assert_error!(store.get("a/HEAD2").await, NotFound, "{name}");
    }
}

#[tokio::test]
async fn equal_tags_mean_equal_bytes() {
    for Target { name, store, .. } in &targets().await {
        // Both sides of the directory store's limit between the two kinds of tags; equal sizes.
        for size in [10, 2 * MIB] {
            let (one, mut two) = (noise(size), noise(size).to_vec());
            two[size / 2] ^= 1;
            let first = store.put("k", one, Condition::Always).await.unwrap();
            let second = store.put("k", two.into(), Condition::Always).await.unwrap();
            assert_ne!(first, second, "{name}");
            assert_eq!(store.get("k").await.unwrap().tag, second, "{name}");
        }
    }
}

#[tokio::test]
async fn conditions_are_exact() {
    for Target { name, store, .. } in &targets().await {
        let bogus = Condition::IfMatch(Tag("\"00000000000000000000000000000000\"".into()));
        assert_error!(store.put("k", Bytes::from("x"), bogus.clone()).await, Precondition, "{name}");
        let one = store.put("k", Bytes::from("1"), Condition::IfAbsent).await.unwrap();
        assert_error!(store.put("k", Bytes::from("2"), Condition::IfAbsent).await, Precondition, "{name}");
        assert_error!(store.put("k", Bytes::from("2"), bogus.clone()).await, Precondition, "{name}");
        let two = store.put("k", Bytes::from("2"), Condition::IfMatch(one.clone())).await.unwrap();
        let stale = Condition::IfMatch(one);
        assert_error!(store.put("k", Bytes::from("3"), stale.clone()).await, Precondition, "{name}");
        assert_eq!(store.get("k").await.unwrap().bytes, "2", "{name}");

        for size in [10, 12 * MIB] {
            let data = noise(size);
            assert_error!(send(&**store, "k", &data, stale.clone()).await, Precondition, "{name} {size}");
            assert_error!(
                send(&**store, "k", &data, Condition::IfAbsent).await,
                Precondition,
                "{name} {size}"
            );
            assert_error!(send(&**store, "none", &data, bogus.clone()).await, Precondition, "{name} {size}");
            assert_error!(store.get("none").await, NotFound, "{name} {size}");
        }
        assert_eq!(store.get("k").await.unwrap().bytes, "2", "{name}");
        let tag = send(&**store, "k", &noise(12 * MIB), Condition::IfMatch(two)).await.unwrap();
        assert_eq!(store.get("k").await.unwrap().tag, tag, "{name}");
    }
}

async fn race(store: &Store, key: &str, condition: Condition) -> Vec<usize> {
    let start = Arc::new(tokio::sync::Barrier::new(16));
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (store, start, condition, key) =
            (store.clone(), start.clone(), condition.clone(), key.to_owned());
        writers.spawn(async move {
            start.wait().await;
            let result = store.put(&key, Bytes::from(format!("writer {n}")), condition).await;
            match result {
                Ok(_) => Some(n),
                Err(RemoteError::Precondition { .. }) => None,
                Err(e) => panic!("writer {n}: {e}"),
            }
        });
    }
    writers.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixteen_writers_one_wins() {
    for Target { name, store, .. } in &targets().await {
        for round in 0..3 {
            let key = format!("race-{round}");
            let winners = race(store, &key, Condition::IfAbsent).await;
            assert_eq!(winners.len(), 1, "{name}: IfAbsent");
            let object = store.get(&key).await.unwrap();
            assert_eq!(object.bytes, format!("writer {}", winners[0]), "{name}");
            let seed = store.put(&key, Bytes::from("seed"), Condition::IfMatch(object.tag)).await.unwrap();
            let winners = race(store, &key, Condition::IfMatch(seed)).await;
            assert_eq!(winners.len(), 1, "{name}: IfMatch");
            let object = store.get(&key).await.unwrap();
            assert_eq!(object.bytes, format!("writer {}", winners[0]), "{name}");
        }
    }
}

#[tokio::test]
async fn ranges() {
    for Target { name, store, .. } in &targets().await {
        for size in [1000, 3 * MIB as u64] {
            let data = noise(size as usize);
            store.put("r", data.clone(), Condition::Always).await.unwrap();
            for range in [0..1, 10..20, 0..size, size - 1..size, size / 2..size + 500] {
                let download = store.download("r", Some(range.clone())).await.unwrap();
                let want = data.slice(range.start as usize..range.end.min(size) as usize);
                assert_eq!(download.length, want.len() as u64, "{name} {range:?}");
                assert_eq!(read(download).await.unwrap(), want, "{name} {range:?}");
            }
            for range in [size..size + 1, 5..5] {
                assert_error!(store.download("r", Some(range.clone())).await, Refused, "{name} {range:?}");
            }
        }
        assert_error!(store.download("absent", Some(0..5)).await, NotFound, "{name}");
    }
}

#[tokio::test]
async fn uploads_of_every_size_arrive_whole() {
    for Target { name, store, .. } in &targets().await {
        // Around the part size of 5 MiB, where one PUT becomes several parts.
        for size in [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB, 23 * MIB + 17] {
            let data = noise(size);
            let tag = send(&**store, "u", &data, Condition::Always).await.unwrap();
            let download = store.download("u", None).await.unwrap();
            assert_eq!((download.length, &download.tag), (size as u64, &tag), "{name} {size}");
            assert!(read(download).await.unwrap() == data, "{name} {size}: bytes differ");
        }
    }
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing() {
    for Target { name, store, .. } in &targets().await {
        for size in [10, 12 * MIB] {
            let mut upload = store.upload("gone", Condition::Always).await.unwrap();
            upload.write(noise(size)).await.unwrap();
            assert_error!(store.get("gone").await, NotFound, "{name} before the end");
            upload.abort().await;
            assert_error!(store.get("gone").await, NotFound, "{name} aborted");
            let mut upload = store.upload("gone", Condition::Always).await.unwrap();
            upload.write(noise(size)).await.unwrap();
            drop(upload);
            assert_error!(store.get("gone").await, NotFound, "{name} dropped");
        }
    }
}

#[tokio::test]
async fn what_an_object_is_is_told_without_it() {
    for Target { name, store, .. } in &targets().await {
        assert_error!(store.head("h/absent").await, NotFound, "{name}");
        for data in [Bytes::new(), noise(2 * MIB)] {
            let before = std::time::SystemTime::now();
            let tag = store.put("h/k", data.clone(), Condition::Always).await.unwrap();
            let found = store.head("h/k").await.unwrap();
            assert_eq!((found.length, found.tag), (data.len() as u64, tag), "{name}");
            // The store's clock may be another's, and counts whole seconds.
            let modified = std::time::SystemTime::from(found.modified);
            let apart = modified.duration_since(before).unwrap_or_else(|e| e.duration());
            assert!(apart < Duration::from_secs(3600), "{name}: {modified:?} {before:?}");
        }
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_may_be_deleted_again() {
    for Target { name, store, .. } in &targets().await {
        store.delete("d/k").await.unwrap();
        let tag = store.put("d/k", Bytes::from("v"), Condition::Always).await.unwrap();
        store.put("d/other", Bytes::from("v"), Condition::Always).await.unwrap();
        for _ in 0..2 {
            store.delete("d/k").await.unwrap();
            assert_error!(store.get("d/k").await, NotFound, "{name}");
            assert_error!(store.head("d/k").await, NotFound, "{name}");
        }
        store.delete("d/k/below").await.unwrap();
        let stale = store.put("d/k", Bytes::from("w"), Condition::IfMatch(tag)).await;
        assert_error!(stale, Precondition, "{name}");
        store.put("d/k", Bytes::from("w"), Condition::IfAbsent).await.unwrap();
        assert_eq!(store.get("d/other").await.unwrap().bytes, "v", "{name}");
    }
}

async fn listed(store: &dyn ObjectStore, prefix: &str, after: Option<&str>) -> Vec<(String, u64)> {
    let all = list::objects(store, prefix, after.map(str::to_owned)).map(|o| o.map(|o| (o.key, o.length)));
    all.try_collect().await.unwrap()
}

#[tokio::test]
async fn a_list_is_in_order_and_has_everything() {
    for Target { name, store, .. } in &targets().await {
        assert_eq!(listed(&**store, "", None).await, [], "{name}");
        // A slash sorts between '.' and '0', so that a directory is not where its name alone would put it.
        let mut keys = ["a/b", "a.b", "a0", "a/b.c/d", "a/c/e", "ab/HEAD", "ü/x"].map(str::to_owned);
        for (n, key) in keys.iter().enumerate() {
            store.put(key, noise(n), Condition::Always).await.unwrap();
        }
        keys.sort_unstable();
        let of = |prefix: &str, after: &str| -> Vec<String> {
            keys.iter().filter(|k| k.starts_with(prefix) && k.as_str() > after).cloned().collect()
        };
        for prefix in ["", "a", "a/", "a/b", "a/b.c/", "a/b.c/d", "a/c", "nothing", "nothing/", "ü"] {
            for after in ["", "a", "a/", "a/b", "a/b.c/d", "a0", "ab", "ü/x", "zz"] {
                let found = listed(&**store, prefix, Some(after).filter(|a| !a.is_empty())).await;
                let found: Vec<String> = found.into_iter().map(|(key, _)| key).collect();
                assert_eq!(found, of(prefix, after), "{name} {prefix:?} {after:?}");
            }
        }
        assert_eq!(listed(&**store, "a/c/e", None).await, [("a/c/e".to_owned(), 4)], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_list_of_many_comes_in_pages() {
    for Target { name, store, .. } in &targets().await {
        let keys: Vec<String> = (0..list::PAGE_MAX_OBJECTS + 3).map(|n| format!("many/{n:05}")).collect();
        let puts = keys.iter().map(|key| store.put(key, Bytes::new(), Condition::Always));
        let written: Vec<_> = futures::stream::iter(puts).buffer_unordered(16).try_collect().await.unwrap();
        assert_eq!(written.len(), keys.len());
        let first = store.list("many/", None).await.unwrap();
        assert!(first.more && first.objects.len() <= list::PAGE_MAX_OBJECTS, "{name}");
        let all: Vec<String> =
            listed(&**store, "many/", None).await.into_iter().map(|(key, _)| key).collect();
        assert_eq!(all, keys, "{name}");
        // A page that is exactly full is the last one.
        let last = store.list("many/", Some(&keys[2])).await.unwrap();
        assert_eq!((last.objects.len(), last.more), (list::PAGE_MAX_OBJECTS, false), "{name}");
    }
}

#[tokio::test]
async fn keys_that_leave_the_store_are_refused() {
    for Target { name, store, .. } in &targets().await {
        for key in ["", "/abs", "../up", "a//b", "a/", ".icecache.lock", "a\0b"] {
            // A bucket may have any key that others have written: those are looked for.
            let is_ours = key.is_empty() || ["memory", "directory"].contains(&name.as_str());
            if is_ours {
                assert_error!(store.get(key).await, Refused, "{name} {key:?}");
                assert_error!(store.head(key).await, Refused, "{name} {key:?}");
            } else {
                assert!(store.get(key).await.is_err(), "{name} {key:?}");
                assert!(store.head(key).await.is_err(), "{name} {key:?}");
            }
            assert_error!(store.put(key, Bytes::new(), Condition::Always).await, Refused, "{name} {key:?}");
            assert!(store.upload(key, Condition::Always).await.is_err(), "{name} {key:?}");
            assert_error!(store.delete(key).await, Refused, "{name} {key:?}");
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_is_not_a_missing_object() {
    let (_server, all) = endpoints().await;
    for endpoint in all {
        let elsewhere = Endpoint { bucket: "icecache-no-such-bucket".into(), ..endpoint };
        let store = elsewhere.connect().await;
        let url = &elsewhere.url;
        assert_error!(store.get("HEAD").await, NoBucket, "{url}");
        assert_error!(store.put("HEAD", Bytes::new(), Condition::IfAbsent).await, NoBucket, "{url}");
        assert_error!(send(&store, "l", &noise(6 * MIB), Condition::Always).await, NoBucket, "{url}");
        assert_error!(store.head("HEAD").await, NoBucket, "{url}");
        assert_error!(store.delete("HEAD").await, NoBucket, "{url}");
        assert_error!(store.list("", None).await, NoBucket, "{url}");
    }
}

#[tokio::test]
async fn a_wrong_secret_is_denied() {
    let (_server, all) = endpoints().await;
    for endpoint in all {
        let secret_key = "wrong-secret".to_owned();
        let store = Endpoint { secret_key, ..endpoint }.connect().await;
        assert_error!(store.get("HEAD").await, Denied, "{}", store.url());
        assert_error!(store.put("HEAD", Bytes::new(), Condition::Always).await, Denied, "{}", store.url());
        assert_error!(store.head("HEAD").await, Denied, "{}", store.url());
        assert_error!(store.delete("HEAD").await, Denied, "{}", store.url());
        assert_error!(store.list("", None).await, Denied, "{}", store.url());
        let error = store.get("HEAD").await.unwrap_err();
        assert!(!error.to_string().contains("wrong-secret"), "{error}");
    }
}

#[tokio::test]
async fn the_probe_believes_exact_stores_only() {
    for Target { name, store, .. } in &targets().await {
        for _ in 0..2 {
            assert!(supports_conditional_writes(&**store, "n/probe").await.unwrap(), "{name}");
        }
    }
    // A server that ignores one kind of condition, or both, or answers 501.
    for (ignores_absent, ignores_match) in [(true, true), (true, false), (false, true)] {
        let careless = Careless { inner: MemoryStore::new(), ignores_absent, ignores_match };
        for _ in 0..2 {
            assert!(!supports_conditional_writes(&careless, "n/probe").await.unwrap());
        }
    }
    let server = S3Server::start().await;
    let store = Endpoint::of(&server).connect().await;
    supports_conditional_writes(&store, "n/probe").await.unwrap();
    assert_eq!(server.control().log().len(), 3);
    server.control().set_hook(|_| Fault::FailBefore(s3s::S3ErrorCode::NotImplemented));
    assert!(!supports_conditional_writes(&store, "n/probe").await.unwrap());
    server.control().set_hook(|_| Fault::FailBefore(s3s::S3ErrorCode::SlowDown));
    assert_error!(supports_conditional_writes(&store, "n/probe").await, Unavailable, "probe");
    // A refusal after a repeated request must not look like our own bytes.
    server.control().set_hook(|r| match r.number % 2 {
        0 => Fault::FailBefore(s3s::S3ErrorCode::SlowDown),
        _ => Fault::None,
    });
    let retried = Retry::new(Arc::new(store), quick());
    assert!(supports_conditional_writes(&retried, "n/probe").await.unwrap());
}

/// A store that does not look at conditions of one kind.
#[derive(Debug)]
struct Careless {
    inner: MemoryStore,
    ignores_absent: bool,
    ignores_match: bool,
}

#[async_trait::async_trait]
impl ObjectStore for Careless {
    fn url(&self) -> String {
        self.inner.url()
    }
    async fn get(&self, key: &str) -> Result<icecache::remote::Object, RemoteError> {
        self.inner.get(key).await
    }
    async fn download(
        &self,
        key: &str,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<Download, RemoteError> {
        self.inner.download(key, range).await
    }
    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError> {
        let condition = match condition {
            Condition::IfAbsent if self.ignores_absent => Condition::Always,
            Condition::IfMatch(_) if self.ignores_match => Condition::Always,
            other => other,
        };
        self.inner.put(key, bytes, condition).await
    }
    async fn upload(
        &self,
        key: &str,
        condition: Condition,
    ) -> Result<Box<dyn icecache::remote::Upload>, RemoteError> {
        self.inner.upload(key, condition).await
    }
    async fn head(&self, key: &str) -> Result<icecache::remote::Properties, RemoteError> {
        self.inner.head(key).await
    }
    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        self.inner.delete(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<icecache::remote::Page, RemoteError> {
        self.inner.list(prefix, after).await
    }
}
