//! [`Handed`]: objects whose bytes came another way than by a request for them.
use super::{
    Condition, Download, Level, Object, ObjectStore, Page, Properties, RemoteError, Store, Tag, Upload,
};
use crate::sync::Mutex;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// So many objects are kept; the oldest go first. What hands them over bounds each.
const OBJECTS_MAX: usize = 64;
/// What an object is called that the store was not asked for.
const TAG: &str = "\"handed\"";

/// A store of which some objects are read from where they were handed over ([`ObjectStore::hand`]), whether the store
/// has them or not.
#[derive(Debug)]
pub struct Handed {
    inner: Store,
    objects: Objects,
}

/// Owner of its lock.
#[derive(Debug, Default)]
struct Objects(Mutex<VecDeque<(String, Bytes)>>);

impl Objects {
    fn put(&self, key: &str, bytes: &Bytes) {
        let mut objects = self.0.lock();
        if objects.iter().any(|(other, _)| other == key) {
            return;
        }
        if objects.len() == OBJECTS_MAX {
            objects.pop_front();
        }
        objects.push_back((key.to_owned(), bytes.clone()));
    }

    fn get(&self, key: &str) -> Option<Object> {
        let objects = self.0.lock();
        let (_, bytes) = objects.iter().find(|(other, _)| other == key)?;
        Some(Object { bytes: bytes.clone(), tag: Tag(TAG.into()) })
    }

    fn forget(&self, key: &str) {
        self.0.lock().retain(|(other, _)| other != key);
    }
}

impl Handed {
    /// What is handed over stands before `inner`.
    pub fn new(inner: Store) -> Self {
        Self { inner, objects: Objects::default() }
    }
}

#[async_trait]
impl ObjectStore for Handed {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    async fn get(&self, key: &str) -> Result<Object, RemoteError> {
        match self.objects.get(key) {
            Some(object) => Ok(object),
            None => self.inner.get(key).await,
        }
    }

    async fn download(&self, key: &str, range: Option<Range<u64>>) -> Result<Download, RemoteError> {
        match self.objects.get(key).and_then(|object| object.part(range.clone())) {
            Some(part) => Ok(part),
            None => self.inner.download(key, range).await,
        }
    }

    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError> {
        self.inner.put(key, bytes, condition).await
    }

    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        self.inner.upload(key, condition).await
    }

    async fn head(&self, key: &str) -> Result<Properties, RemoteError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        self.objects.forget(key);
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError> {
        self.inner.list(prefix, after).await
    }

    async fn level(&self, prefix: &str, after: Option<&str>) -> Result<Level, RemoteError> {
        self.inner.level(prefix, after).await
    }

    fn hand(&self, key: &str, bytes: &Bytes) {
        self.objects.put(key, bytes);
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::remote::MemoryStore;
    use futures::StreamExt;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_was_handed_over_is_read_whether_it_is_there_or_not() {
        let store = Handed::new(Arc::new(MemoryStore::new()));
        let bytes = Bytes::from_static(b"0123456789");
        assert!(matches!(store.get("layers/a").await, Err(RemoteError::NotFound { .. })));
        store.hand("layers/a", &bytes);
        assert_eq!(store.get("layers/a").await.expect("handed").bytes, bytes);
        let mut download = store.download("layers/a", Some(8..100)).await.expect("handed");
        assert_eq!(download.length, 2);
        assert_eq!(download.body.next().await.expect("a piece").expect("bytes"), &b"89"[..]);
        assert!(store.head("layers/a").await.is_err(), "the store does not have it");
        store.delete("layers/a").await.expect("deletes");
        assert!(matches!(store.get("layers/a").await, Err(RemoteError::NotFound { .. })));
        for n in 0..=OBJECTS_MAX {
            store.hand(&format!("layers/{n}"), &bytes);
        }
        assert!(store.get("layers/0").await.is_err() && store.get("layers/1").await.is_ok(), "bounded");
    }
}
