//! [`Faulty`]: a store whose calls fail when a test says so.
use super::{
    Condition, Download, Level, Object, ObjectStore, Page, Properties, RemoteError, Store, Tag, Upload, body,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, future};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Which call is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `get`
    Get,
    /// `download`
    Download,
    /// `put`
    Put,
    /// The start of an upload.
    Upload,
    /// One `write` of an upload.
    Write,
    /// The end of an upload.
    Finish,
    /// `head`
    Head,
    /// `delete`
    Delete,
    /// One page of a `list`; the key is the prefix.
    List,
}

/// One call, as the hook sees it.
#[derive(Debug)]
pub struct Call<'a> {
    /// What is called.
    pub operation: Operation,
    /// On which key.
    pub key: &'a str,
    /// How many calls came before it on this store.
    pub number: u64,
}

/// What happens to a call.
#[derive(Debug, Default)]
pub enum Fault {
    /// Nothing out of the ordinary.
    #[default]
    None,
    /// It fails and is not applied.
    FailBefore(RemoteError),
    /// It is applied, but the answer is this error: the lost reply.
    FailAfter(RemoteError),
    /// A download breaks off after so many bytes, a `get` fails; other calls are as usual.
    ShortBody(u64),
    /// It waits first.
    Delay(Duration),
}

type Hook = Arc<dyn Fn(&Call<'_>) -> Fault + Send + Sync>;

/// Asks a hook before each call what shall go wrong.
pub struct Faulty {
    inner: Store,
    faults: Faults,
}

#[derive(Clone)]
struct Faults {
    hook: Hook,
    calls: Arc<AtomicU64>,
}

impl Faults {
    async fn before(&self, operation: Operation, key: &str) -> Result<Fault, RemoteError> {
        let number = self.calls.fetch_add(1, Relaxed);
        match (self.hook)(&Call { operation, key, number }) {
            Fault::FailBefore(error) => Err(error),
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                Ok(Fault::None)
            }
            other => Ok(other),
        }
    }
}

fn after<T>(fault: Fault, value: T) -> Result<T, RemoteError> {
    match fault {
        Fault::FailAfter(error) => Err(error),
        _ => Ok(value),
    }
}

impl Faulty {
    /// Wraps `inner`; the hook must not block.
    pub fn new(inner: Store, hook: impl Fn(&Call<'_>) -> Fault + Send + Sync + 'static) -> Self {
        Self { inner, faults: Faults { hook: Arc::new(hook), calls: Arc::default() } }
    }

    /// How many calls were made so far.
    pub fn calls(&self) -> u64 {
        self.faults.calls.load(Relaxed)
    }
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    async fn get(&self, key: &str) -> Result<Object, RemoteError> {
        let fault = self.faults.before(Operation::Get, key).await?;
        let object = self.inner.get(key).await?;
        match fault {
            Fault::ShortBody(n) if n < object.bytes.len() as u64 => {
                Err(body::cut_short(key, n, object.bytes.len() as u64))
            }
            fault => after(fault, object),
        }
    }

    async fn download(&self, key: &str, range: Option<Range<u64>>) -> Result<Download, RemoteError> {
        let fault = self.faults.before(Operation::Download, key).await?;
        let mut download = self.inner.download(key, range).await?;
        match fault {
            Fault::ShortBody(limit) => {
                let head = download.body.scan(limit, |left, item| {
                    let item = item.map(|chunk| chunk.slice(..chunk.len().min(*left as usize)));
                    *left -= item.as_ref().map_or(0, |chunk| chunk.len() as u64);
                    let done = item.as_ref().is_ok_and(Bytes::is_empty);
                    future::ready(if done { None } else { Some(item) })
                });
                download.body = body::exact(Box::pin(head), download.length, key.to_owned());
                Ok(download)
            }
            fault => after(fault, download),
        }
    }

    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError> {
        let fault = self.faults.before(Operation::Put, key).await?;
        let tag = self.inner.put(key, bytes, condition).await?;
        after(fault, tag)
    }

    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        let fault = self.faults.before(Operation::Upload, key).await?;
        let inner = self.inner.upload(key, condition).await?;
        let upload = FaultyUpload { inner, key: key.to_owned(), faults: self.faults.clone() };
        after(fault, Box::new(upload))
    }

    async fn head(&self, key: &str) -> Result<Properties, RemoteError> {
        let fault = self.faults.before(Operation::Head, key).await?;
        let properties = self.inner.head(key).await?;
        after(fault, properties)
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let fault = self.faults.before(Operation::Delete, key).await?;
        self.inner.delete(key).await?;
        after(fault, ())
    }

    async fn list(&self, prefix: &str, after_key: Option<&str>) -> Result<Page, RemoteError> {
        let fault = self.faults.before(Operation::List, prefix).await?;
        let page = self.inner.list(prefix, after_key).await?;
        after(fault, page)
    }

    async fn level(&self, prefix: &str, after_key: Option<&str>) -> Result<Level, RemoteError> {
        let fault = self.faults.before(Operation::List, prefix).await?;
        let level = self.inner.level(prefix, after_key).await?;
        after(fault, level)
    }

    fn hand(&self, key: &str, bytes: &Bytes) {
        self.inner.hand(key, bytes);
    }
}

struct FaultyUpload {
    inner: Box<dyn Upload>,
    key: String,
    faults: Faults,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), RemoteError> {
        let fault = self.faults.before(Operation::Write, &self.key).await?;
        self.inner.write(bytes).await?;
        after(fault, ())
    }

    async fn finish(self: Box<Self>) -> Result<Tag, RemoteError> {
        match self.faults.before(Operation::Finish, &self.key).await {
            Ok(fault) => after(fault, self.inner.finish().await?),
            Err(error) => {
                self.inner.abort().await;
                Err(error)
            }
        }
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}
