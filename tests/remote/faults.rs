//! What the S3 store and the retrying decorator do when the server fails, answers late, or is cut off.
use super::support::s3server::{Fault, Request, S3Server};
use super::{Endpoint, MIB, assert_error, noise, quick, send};
use bytes::Bytes;
use futures::StreamExt;
use icecache::remote::faulty::Operation;
use icecache::remote::{
    Condition, Counted, Counters, DirectoryStore, Fault as StoreFault, Faulty, MemoryStore, ObjectStore,
    RemoteError, Retry, S3Store, Store,
};
use s3s::S3ErrorCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

async fn connect(server: &S3Server) -> Arc<S3Store> {
    Arc::new(Endpoint::of(server).connect().await)
}

fn patient(store: Store) -> Retry {
    Retry::new(store, quick())
}

async fn read(store: &dyn ObjectStore, key: &str) -> Result<Bytes, RemoteError> {
    let mut body = store.download(key, None).await?.body;
    let mut out = Vec::new();
    while let Some(chunk) = body.next().await {
        out.extend_from_slice(&chunk?);
    }
    Ok(out.into())
}

/// Applies `fault` to the first `times` requests of one operation.
fn first(times: u64, operation: &'static str, fault: Fault) -> impl Fn(&Request) -> Fault + Send + Sync {
    let seen = AtomicU64::new(0);
    move |request| {
        let hit = request.operation == operation && seen.fetch_add(1, Relaxed) < times;
        if hit { fault.clone() } else { Fault::None }
    }
}

#[tokio::test]
async fn a_storm_of_503_passes() {
    let server = S3Server::start().await;
    let store = connect(&server).await;
    let retry = patient(store.clone());
    let storm = |operation| first(3, operation, Fault::FailBefore(S3ErrorCode::SlowDown));
    server.control().set_hook(storm("PutObject"));
    retry.put("k", Bytes::from("v"), Condition::IfAbsent).await.unwrap();
    server.control().set_hook(storm("GetObject"));
    assert_eq!(retry.get("k").await.unwrap().bytes, "v");
    server.control().set_hook(storm("GetObject"));
    assert_eq!(read(&retry, "k").await.unwrap(), "v");
    // Patience is bounded, and the store itself has none.
    server.control().set_hook(|_| Fault::FailBefore(S3ErrorCode::SlowDown));
    server.control().clear_log();
    assert!(matches!(retry.get("k").await, Err(RemoteError::Unavailable { .. })));
    assert_eq!(server.control().log().len(), 4);
    server.control().clear_log();
    assert!(matches!(store.get("k").await, Err(RemoteError::Unavailable { .. })));
    assert_eq!(server.control().log().len(), 1);
}

#[tokio::test]
async fn every_step_of_an_upload_is_repeated() {
    let server = S3Server::start().await;
    let store = connect(&server).await;
    let data = noise(12 * MIB);
    for operation in ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"] {
        for fault in [Fault::FailBefore(S3ErrorCode::InternalError), Fault::CutBefore] {
            server.control().set_hook(first(1, operation, fault.clone()));
            send(&*store, operation, &data, Condition::IfAbsent).await.unwrap();
            assert!(read(&*store, operation).await.unwrap() == data, "{operation} {fault:?}");
            server.control().clear_hook();
            server.remove(&server.keys()[0]);
        }
    }
    assert_eq!(server.open_uploads(), 0);
}

#[tokio::test]
async fn our_own_put_is_recognised_after_a_lost_reply() {
    let server = S3Server::start().await;
    let retry = patient(connect(&server).await);
    for fault in [Fault::FailAfter(S3ErrorCode::InternalError), Fault::CutAfter] {
        server.remove_all();
        server.control().set_hook(first(1, "PutObject", fault.clone()));
        let one = retry.put("HEAD", Bytes::from("version 1"), Condition::IfAbsent).await.unwrap();
        assert_eq!(retry.get("HEAD").await.unwrap().tag, one);
        server.control().set_hook(first(1, "PutObject", fault));
        let two = retry.put("HEAD", Bytes::from("version 2"), Condition::IfMatch(one)).await.unwrap();
        let head = retry.get("HEAD").await.unwrap();
        assert_eq!((head.bytes, head.tag), (Bytes::from("version 2"), two));
    }
}

#[tokio::test]
async fn another_writers_put_is_not_taken_for_ours() {
    let server = S3Server::start().await;
    let store = connect(&server).await;
    let retry = patient(store.clone());
    let old = store.put("HEAD", Bytes::from("old"), Condition::Always).await.unwrap();
    store.put("HEAD", Bytes::from("theirs"), Condition::IfMatch(old.clone())).await.unwrap();
    server.control().set_hook(first(1, "PutObject", Fault::FailBefore(S3ErrorCode::SlowDown)));
    let result = retry.put("HEAD", Bytes::from("ours"), Condition::IfMatch(old)).await;
    assert!(matches!(result, Err(RemoteError::Precondition { .. })), "{result:?}");
    assert_eq!(store.get("HEAD").await.unwrap().bytes, "theirs");
}

#[tokio::test]
async fn our_own_upload_is_recognised_after_a_lost_reply() {
    let server = S3Server::start().await;
    let store = connect(&server).await;
    for (size, operation) in [(10, "PutObject"), (12 * MIB, "CompleteMultipartUpload")] {
        for fault in [Fault::FailAfter(S3ErrorCode::InternalError), Fault::CutAfter] {
            let key = format!("l-{operation}");
            server.remove_all();
            let data = noise(size);
            server.control().set_hook(first(1, operation, fault.clone()));
            let tag = send(&*store, &key, &data, Condition::IfAbsent).await.unwrap();
            server.control().set_hook(first(1, operation, fault));
            let tag = send(&*store, &key, &data, Condition::IfMatch(tag)).await.unwrap();
            assert_eq!(store.get(&key).await.unwrap().tag, tag, "{operation}");
            // The same bytes from somebody else are not ours.
            server.control().set_hook(first(1, operation, Fault::FailBefore(S3ErrorCode::InternalError)));
            let lost = send(&*store, &key, &data, Condition::IfAbsent).await;
            assert!(matches!(lost, Err(RemoteError::Precondition { .. })), "{operation} {lost:?}");
        }
    }
}

#[tokio::test]
async fn a_truncated_body_is_an_error_and_is_resumed() {
    let server = S3Server::start().await;
    let store = connect(&server).await;
    let data = noise(6 * MIB);
    store.put("k", data.clone(), Condition::Always).await.unwrap();
    server.control().set_hook(|_| Fault::ShortBody(MIB));
    assert!(matches!(read(&*store, "k").await, Err(RemoteError::Unavailable { .. })));
    assert!(matches!(store.get("k").await, Err(RemoteError::Unavailable { .. })));
    server.control().clear_log();
    // Each answer breaks off after 1 MiB: six are needed, more than attempts without progress.
    assert!(read(&patient(store.clone()), "k").await.unwrap() == data);
    assert!((6..=8).contains(&server.control().log().len()), "{:?}", server.control().counts());
    // Breaking off before the first byte, for ever, is not progress.
    server.control().set_hook(|_| Fault::ShortBody(0));
    assert!(matches!(read(&patient(store), "k").await, Err(RemoteError::Unavailable { .. })));
}

#[tokio::test]
async fn a_download_is_resumed_only_from_the_same_version() {
    let directory = tempfile::tempdir().unwrap();
    let stores: [Store; 2] =
        [Arc::new(MemoryStore::new()), Arc::new(DirectoryStore::open(directory.path()).unwrap())];
    for store in stores {
        let data = noise(3 * MIB);
        store.put("k", data.clone(), Condition::Always).await.unwrap();
        let short = Faulty::new(store.clone(), |call| match call.operation {
            Operation::Download if call.number == 0 => StoreFault::ShortBody(1000),
            _ => StoreFault::None,
        });
        assert!(read(&patient(Arc::new(short)), "k").await.unwrap() == data, "{}", store.url());
        let short = Faulty::new(store.clone(), |call| match call.operation {
            Operation::Download if call.number == 0 => StoreFault::ShortBody(1000),
            _ => StoreFault::None,
        });
        let mut body = patient(Arc::new(short)).download("k", None).await.unwrap().body;
        store.put("k", noise(3 * MIB + 1), Condition::Always).await.unwrap();
        let mut items = Vec::new();
        while let Some(item) = body.next().await {
            items.push(item);
        }
        let last = items.pop().unwrap();
        assert!(matches!(last, Err(RemoteError::Precondition { .. })), "{last:?}");
        let before: usize = items.iter().map(|item| item.as_ref().unwrap().len()).sum();
        assert_eq!(before, 1000);
    }
}

#[tokio::test]
async fn each_failure_has_its_meaning() {
    let server = S3Server::start().await;
    let store = connect(&server).await;
    store.put("k", Bytes::from("v"), Condition::Always).await.unwrap();
    let mut meanings = Vec::new();
    for code in [
        S3ErrorCode::ExpiredToken,
        S3ErrorCode::AccessDenied,
        S3ErrorCode::InvalidAccessKeyId,
        S3ErrorCode::InternalError,
        S3ErrorCode::ServiceUnavailable,
        S3ErrorCode::SlowDown,
        S3ErrorCode::RequestTimeout,
        S3ErrorCode::ConditionalRequestConflict,
        S3ErrorCode::NotImplemented,
        S3ErrorCode::NoSuchBucket,
    ] {
        server.control().set_hook(move |_| Fault::FailBefore(code.clone()));
        let error = store.put("k", Bytes::from("w"), Condition::IfAbsent).await.unwrap_err();
        meanings.push(match error {
            RemoteError::Denied { .. } => "denied",
            RemoteError::Unavailable { .. } => "unavailable",
            RemoteError::Precondition { .. } => "precondition",
            RemoteError::Refused { .. } => "refused",
            RemoteError::NoBucket { .. } => "no bucket",
            _ => "other",
        });
    }
    let (denied, away) = (["denied"; 3], ["unavailable"; 4]);
    let rest = ["precondition", "refused", "no bucket"];
    assert_eq!(meanings, [&denied[..], &away[..], &rest[..]].concat());
    // The bucket vanishes under us; then the server.
    server.control().clear_hook();
    server.remove_bucket();
    assert!(matches!(store.get("k").await, Err(RemoteError::NoBucket { .. })));
    drop(server);
    assert!(matches!(store.get("k").await, Err(RemoteError::Unavailable { .. })));
    assert!(matches!(
        store.put("k", Bytes::new(), Condition::IfAbsent).await,
        Err(RemoteError::Unavailable { .. })
    ));
}

#[tokio::test]
async fn a_slow_answer_is_only_slow() {
    let server = S3Server::start().await;
    let store = connect(&server).await;
    server.control().set_hook(|_| Fault::Delay(Duration::from_millis(100)));
    let tag = store.put("k", Bytes::from("v"), Condition::IfAbsent).await.unwrap();
    assert_eq!(store.get("k").await.unwrap().tag, tag);
}

#[tokio::test]
async fn the_faults_of_the_decorator() {
    let inner = MemoryStore::new();
    let lost = || RemoteError::Unavailable { message: "lost".into() };
    let store = Faulty::new(Arc::new(inner.clone()), move |call| match call.number {
        0 => StoreFault::FailBefore(lost()),
        1 => StoreFault::FailAfter(lost()),
        _ => StoreFault::None,
    });
    assert!(store.put("a", Bytes::from("1"), Condition::IfAbsent).await.is_err());
    assert_eq!(inner.keys(), Vec::<String>::new());
    assert!(store.put("a", Bytes::from("1"), Condition::IfAbsent).await.is_err());
    assert_eq!(inner.keys(), ["a"]);
    assert_eq!(store.get("a").await.unwrap().bytes, "1");
    assert_eq!(store.calls(), 3);
}

#[tokio::test]
async fn abort_frees_the_parts_on_the_server() {
    let server = S3Server::start().await;
    let store = Endpoint::of(&server).connect().await;
    let mut upload = store.upload("k", Condition::Always).await.unwrap();
    upload.write(noise(12 * MIB)).await.unwrap();
    assert_eq!(server.open_uploads(), 1);
    upload.abort().await;
    assert_eq!(server.open_uploads(), 0);
    // A condition that fails at the end does not leave the parts either.
    store.put("k", Bytes::from("x"), Condition::Always).await.unwrap();
    assert_error!(send(&store, "k", &noise(12 * MIB), Condition::IfAbsent).await, Precondition, "upload");
    assert_eq!(server.open_uploads(), 0);
}

#[tokio::test]
async fn an_object_that_fits_one_part_is_one_request() {
    let server = S3Server::start().await;
    let counters = Arc::new(Counters::default());
    let s3 = Endpoint::of(&server).connect_counted(counters.clone()).await;
    let store = Counted::new(Arc::new(s3), counters.clone());
    assert_eq!(server.control().log(), [], "connecting sends nothing");
    send(&store, "layer", &noise(5 * MIB), Condition::IfAbsent).await.unwrap();
    store.put("HEAD", Bytes::from("{}"), Condition::IfAbsent).await.unwrap();
    assert_eq!(server.control().counts().into_iter().collect::<Vec<_>>(), [("PutObject", 2)]);
    let seen = counters.snapshot();
    assert_eq!((seen.http_requests, seen.upload, seen.put, seen.errors), (2, 1, 1, 0));
    assert_eq!(seen.bytes_out, 5 * MIB as u64 + 2);
    server.control().clear_log();
    send(&store, "large", &noise(11 * MIB), Condition::IfAbsent).await.unwrap();
    let counts: Vec<_> = server.control().counts().into_iter().collect();
    assert_eq!(counts, [("CompleteMultipartUpload", 1), ("CreateMultipartUpload", 1), ("UploadPart", 3)]);
    assert_eq!(counters.snapshot().http_requests, 7);
}

#[tokio::test]
async fn looking_and_deleting_are_repeated_and_counted() {
    let server = S3Server::start().await;
    let counters = Arc::new(Counters::default());
    let s3 = Endpoint::of(&server).connect_counted(counters.clone()).await;
    let store = patient(Arc::new(Counted::new(Arc::new(s3), counters.clone())));
    store.put("k", Bytes::from("v"), Condition::Always).await.unwrap();
    let busy = || Fault::FailBefore(S3ErrorCode::SlowDown);
    server.control().set_hook(first(1, "HeadObject", busy()));
    assert_eq!(store.head("k").await.unwrap().length, 1);
    server.control().set_hook(first(1, "ListObjectsV2", busy()));
    assert_eq!(store.list("", None).await.unwrap().objects[0].key, "k");
    // Deleted, but the answer was lost: the second attempt finds nothing, which is what was wanted.
    server.control().set_hook(first(1, "DeleteObject", Fault::CutAfter));
    store.delete("k").await.unwrap();
    let seen = counters.snapshot();
    assert_eq!((seen.head, seen.list, seen.delete, seen.errors), (2, 2, 2, 3));
    assert_eq!(seen.http_requests, 7);
}

#[tokio::test]
async fn what_may_not_be_and_what_cannot_be_are_told_apart() {
    let server = S3Server::start().await;
    let store = patient(connect(&server).await);
    for code in [S3ErrorCode::AccessDenied, S3ErrorCode::NotImplemented, S3ErrorCode::MethodNotAllowed] {
        let answer = code.clone();
        server.control().set_hook(move |_| Fault::FailBefore(answer.clone()));
        let errors = [store.delete("k").await.err(), store.list("", None).await.err()];
        for error in errors {
            let denied = matches!(error, Some(RemoteError::Denied { .. }));
            let refused = matches!(error, Some(RemoteError::Refused { .. }));
            assert_eq!(
                (denied, refused),
                match code {
                    S3ErrorCode::AccessDenied => (true, false),
                    _ => (false, true),
                }
            );
        }
    }
    assert_eq!(server.control().log().len(), 6, "no attempt is repeated");
}

#[tokio::test]
async fn an_object_that_is_lost_to_head_is_looked_for() {
    let server = S3Server::start().await;
    let store = connect(&server).await;
    assert_error!(store.head("k").await, NotFound, "absent");
    let seen: Vec<_> = server.control().log().into_iter().map(|r| r.operation).collect();
    assert_eq!(seen, ["HeadObject", "GetObject"]);
    server.remove_bucket();
    assert_error!(store.head("k").await, NoBucket, "no bucket");
}

#[tokio::test]
async fn the_decorator_fails_what_looks_and_deletes() {
    let inner = MemoryStore::new();
    inner.put("k", Bytes::from("v"), Condition::Always).await.unwrap();
    let lost = || RemoteError::Unavailable { message: "lost".into() };
    let store = Faulty::new(Arc::new(inner.clone()), move |call| match call.operation {
        Operation::Delete => StoreFault::FailAfter(lost()),
        _ => StoreFault::FailBefore(lost()),
    });
    assert!(store.head("k").await.is_err() && store.list("", None).await.is_err());
    assert_eq!(inner.keys(), ["k"]);
    assert!(store.delete("k").await.is_err());
    assert_eq!(inner.keys(), Vec::<String>::new());
}
