//! [`Counted`]: how many calls, bytes and failures a store has seen.
use super::{
    Condition, Download, Level, Object, ObjectStore, Page, Properties, RemoteError, Store, Tag, Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Running totals; shared between a [`Counted`], the store beneath it and whoever shows them.
#[derive(Debug, Default)]
pub struct Counters {
    get: AtomicU64,
    download: AtomicU64,
    put: AtomicU64,
    upload: AtomicU64,
    head: AtomicU64,
    delete: AtomicU64,
    list: AtomicU64,
    errors: AtomicU64,
    http_requests: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// The totals at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    /// Calls of `get`, repeated attempts included.
    pub get: u64,
    /// Calls of `download`, resumed ones included.
    pub download: u64,
    /// Calls of `put`, repeated attempts included.
    pub put: u64,
    /// Uploads started.
    pub upload: u64,
    /// Calls of `head`, repeated attempts included.
    #[serde(default)]
    pub head: u64,
    /// Calls of `delete`, repeated attempts included.
    #[serde(default)]
    pub delete: u64,
    /// Pages asked for by `list`, repeated attempts included.
    #[serde(default)]
    pub list: u64,
    /// Calls and streams that failed; an absent object and a lost condition are answers, not failures.
    pub errors: u64,
    /// HTTP requests sent (S3 only): each part of an upload is one.
    pub http_requests: u64,
    /// Bytes of objects received.
    pub bytes_in: u64,
    /// Bytes of objects handed over for sending.
    pub bytes_out: u64,
}

impl Counters {
    /// The totals now. Each is exact; together they may be of slightly different moments.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            get: self.get.load(Relaxed),
            download: self.download.load(Relaxed),
            put: self.put.load(Relaxed),
            upload: self.upload.load(Relaxed),
            head: self.head.load(Relaxed),
            delete: self.delete.load(Relaxed),
            list: self.list.load(Relaxed),
            errors: self.errors.load(Relaxed),
            http_requests: self.http_requests.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }

    pub(super) fn http_request(&self) {
        self.http_requests.fetch_add(1, Relaxed);
    }

    fn failed<T>(&self, result: Result<T, RemoteError>) -> Result<T, RemoteError> {
        use RemoteError::{NotFound, Precondition};
        if matches!(&result, Err(e) if !matches!(e, NotFound { .. } | Precondition { .. })) {
            self.errors.fetch_add(1, Relaxed);
        }
        result
    }
}

/// Counts what passes. Put it beneath [`Retry`](super::Retry), so that it sees every attempt.
#[derive(Debug)]
pub struct Counted {
    inner: Store,
    counters: Arc<Counters>,
}

impl Counted {
    /// Counts the calls of `inner` in `counters`.
    pub fn new(inner: Store, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }
}

#[async_trait]
impl ObjectStore for Counted {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    async fn get(&self, key: &str) -> Result<Object, RemoteError> {
        self.counters.get.fetch_add(1, Relaxed);
        let object = self.counters.failed(self.inner.get(key).await)?;
        self.counters.bytes_in.fetch_add(object.bytes.len() as u64, Relaxed);
        Ok(object)
    }

    async fn download(&self, key: &str, range: Option<Range<u64>>) -> Result<Download, RemoteError> {
        self.counters.download.fetch_add(1, Relaxed);
        let mut download = self.counters.failed(self.inner.download(key, range).await)?;
        let counters = self.counters.clone();
        let counted = download.body.map(move |item| {
            let item = counters.failed(item)?;
            counters.bytes_in.fetch_add(item.len() as u64, Relaxed);
            Ok(item)
        });
        download.body = Box::pin(counted);
        Ok(download)
    }

    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError> {
        self.counters.put.fetch_add(1, Relaxed);
        self.counters.bytes_out.fetch_add(bytes.len() as u64, Relaxed);
        self.counters.failed(self.inner.put(key, bytes, condition).await)
    }

    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        self.counters.upload.fetch_add(1, Relaxed);
        let inner = self.counters.failed(self.inner.upload(key, condition).await)?;
        Ok(Box::new(CountedUpload { inner, counters: self.counters.clone() }))
    }

    async fn head(&self, key: &str) -> Result<Properties, RemoteError> {
        self.counters.head.fetch_add(1, Relaxed);
        self.counters.failed(self.inner.head(key).await)
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        self.counters.delete.fetch_add(1, Relaxed);
        self.counters.failed(self.inner.delete(key).await)
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError> {
        self.counters.list.fetch_add(1, Relaxed);
        self.counters.failed(self.inner.list(prefix, after).await)
    }

    async fn level(&self, prefix: &str, after: Option<&str>) -> Result<Level, RemoteError> {
        self.counters.list.fetch_add(1, Relaxed);
        self.counters.failed(self.inner.level(prefix, after).await)
    }

    fn hand(&self, key: &str, bytes: &Bytes) {
        self.inner.hand(key, bytes);
    }
}

struct CountedUpload {
    inner: Box<dyn Upload>,
    counters: Arc<Counters>,
}

#[async_trait]
impl Upload for CountedUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), RemoteError> {
        self.counters.bytes_out.fetch_add(bytes.len() as u64, Relaxed);
        self.counters.failed(self.inner.write(bytes).await)
    }

    async fn finish(self: Box<Self>) -> Result<Tag, RemoteError> {
        self.counters.failed(self.inner.finish().await)
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}
