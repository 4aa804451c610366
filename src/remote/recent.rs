//! [`Recent`]: remembers small objects that were just written, for whoever reads them again soon.
use super::{
    ByteStream, Condition, Download, Level, Object, ObjectStore, Page, Properties, RemoteError, Store,
};
use super::{Tag, Upload};
use crate::sync::Mutex;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A larger object is read from the store.
const OBJECT_BYTES_MAX: usize = 128 << 10;
/// All of them together; the oldest go first.
const BYTES_MAX: usize = 2 << 20;

impl Object {
    /// It, or a range of it, as a store would send it. `None` for a range of which it has nothing: the store has words
    /// for that.
    pub(super) fn part(self, range: Option<Range<u64>>) -> Option<Download> {
        let Self { bytes, tag } = self;
        let length = bytes.len() as u64;
        let range = range.map_or(0..length, |range| range.start..range.end.min(length));
        if range.is_empty() && length > 0 {
            return None;
        }
        let part = bytes.slice(range.start as usize..range.end as usize);
        let body: ByteStream = futures::stream::once(std::future::ready(Ok(part))).boxed();
        Some(Download { length: range.end - range.start, tag, body })
    }
}

/// A store of which some objects never change once they are written: the small ones among them that this
/// process has written last are read without a request.
#[derive(Debug)]
pub struct Recent {
    inner: Store,
    /// Keys that begin so name objects that never change.
    immutable: &'static str,
    kept: Arc<Kept>,
}

/// Owner of its lock.
#[derive(Debug, Default)]
struct Kept(Mutex<VecDeque<(String, Object)>>);

impl Kept {
    fn put(&self, key: String, object: Object) {
        let mut kept = self.0.lock();
        kept.retain(|(other, _)| *other != key);
        kept.push_back((key, object));
        let mut bytes: usize = kept.iter().map(|(_, object)| object.bytes.len()).sum();
        while bytes > BYTES_MAX {
            bytes -= kept.pop_front().map_or(bytes, |(_, object)| object.bytes.len());
        }
    }

    fn get(&self, key: &str) -> Option<Object> {
        self.0.lock().iter().find(|(other, _)| other == key).map(|(_, object)| object.clone())
    }

    fn forget(&self, key: &str) {
        self.0.lock().retain(|(other, _)| other != key);
    }
}

impl Recent {
    /// Remembers what is written to `inner` under keys that begin with `immutable`.
    pub fn new(inner: Store, immutable: &'static str) -> Self {
        Self { inner, immutable, kept: Arc::default() }
    }
}

/// An object on its way, and a copy of it while it is small.
struct Copied {
    inner: Box<dyn Upload>,
    key: String,
    copy: Option<BytesMut>,
    kept: Arc<Kept>,
}

#[async_trait]
impl Upload for Copied {
    async fn write(&mut self, bytes: Bytes) -> Result<(), RemoteError> {
        match &mut self.copy {
            Some(copy) if copy.len() + bytes.len() <= OBJECT_BYTES_MAX => copy.extend_from_slice(&bytes),
            copy => *copy = None,
        }
        self.inner.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<Tag, RemoteError> {
        let Self { inner, key, copy, kept } = *self;
        let tag = inner.finish().await?;
        if let Some(copy) = copy {
            kept.put(key, Object { bytes: copy.freeze(), tag: tag.clone() });
        }
        Ok(tag)
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}

#[async_trait]
impl ObjectStore for Recent {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    async fn get(&self, key: &str) -> Result<Object, RemoteError> {
        match self.kept.get(key) {
            Some(object) => Ok(object),
            None => self.inner.get(key).await,
        }
    }

    async fn download(&self, key: &str, range: Option<Range<u64>>) -> Result<Download, RemoteError> {
        match self.kept.get(key).and_then(|object| object.part(range.clone())) {
            Some(part) => Ok(part),
            None => self.inner.download(key, range).await,
        }
    }

    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError> {
        self.inner.put(key, bytes, condition).await
    }

    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        let inner = self.inner.upload(key, condition).await?;
        if !key.starts_with(self.immutable) {
            return Ok(inner);
        }
        let (key, kept) = (key.to_owned(), self.kept.clone());
        Ok(Box::new(Copied { inner, key, copy: Some(BytesMut::new()), kept }))
    }

    async fn head(&self, key: &str) -> Result<Properties, RemoteError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        self.kept.forget(key);
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError> {
        self.inner.list(prefix, after).await
    }

    async fn level(&self, prefix: &str, after: Option<&str>) -> Result<Level, RemoteError> {
        self.inner.level(prefix, after).await
    }

    fn hand(&self, key: &str, bytes: &Bytes) {
        self.inner.hand(key, bytes);
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::remote::{Counted, Counters, MemoryStore};

    async fn write(store: &Recent, key: &str, bytes: Vec<u8>) {
        let mut upload = store.upload(key, Condition::Always).await.expect("begins");
        upload.write(bytes.into()).await.expect("writes");
        upload.finish().await.expect("ends");
    }

    async fn read(store: &Recent, key: &str, range: Option<Range<u64>>) -> Vec<u8> {
        let download = store.download(key, range).await.expect("there");
        let pieces: Vec<_> = download.body.map(|piece| piece.expect("bytes")).collect().await;
        assert_eq!(pieces.iter().map(|piece| piece.len() as u64).sum::<u64>(), download.length);
        pieces.concat()
    }

    #[tokio::test]
    async fn small_objects_just_written_are_read_without_a_request() {
        let counters = Arc::<Counters>::default();
        let inner: Store = Arc::new(Counted::new(Arc::new(MemoryStore::new()), counters.clone()));
        let store = Recent::new(inner, "layers/");
        write(&store, "layers/a", b"0123456789".to_vec()).await;
        assert_eq!(read(&store, "layers/a", None).await, b"0123456789");
        assert_eq!(read(&store, "layers/a", Some(8..100)).await, b"89");
        assert_eq!(counters.snapshot().download, 0);
        assert!(store.download("layers/a", Some(10..20)).await.is_err(), "as the store has it");
        write(&store, "other/a", b"x".to_vec()).await;
        write(&store, "layers/large", vec![7; OBJECT_BYTES_MAX + 1]).await;
        let before = counters.snapshot().download;
        assert_eq!(read(&store, "other/a", None).await, b"x");
        assert_eq!(read(&store, "layers/large", Some(0..2)).await, [7, 7]);
        assert_eq!(counters.snapshot().download, before + 2);
        for n in 0..=BYTES_MAX / OBJECT_BYTES_MAX {
            write(&store, &format!("layers/{n}"), vec![n as u8; OBJECT_BYTES_MAX]).await;
        }
        let before = counters.snapshot().download;
        assert_eq!(read(&store, "layers/a", None).await, b"0123456789");
        assert_eq!(counters.snapshot().download, before + 1, "the oldest has gone");
        store.delete("layers/3").await.expect("deletes");
        assert!(matches!(store.download("layers/3", None).await, Err(RemoteError::NotFound { .. })));
    }
}
