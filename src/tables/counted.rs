//! [`Counted`]: objects, and how many requests reading them took.
use async_trait::async_trait;
use bytes::Bytes;
use icecache_iceberg::objects::{Listing, ObjectInfo};
use icecache_iceberg::{Location, ObjectError, Objects};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub(super) struct Counted {
    objects: Arc<dyn Objects>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Counted {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, requests: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Requests so far, and bytes that they brought.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn one(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn brought(&self, bytes: Result<Bytes, ObjectError>) -> Result<Bytes, ObjectError> {
        bytes.inspect(|bytes| {
            self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        })
    }
}

#[async_trait]
impl Objects for Counted {
    async fn get(&self, location: &Location, limit: u64) -> Result<Bytes, ObjectError> {
        self.one();
        self.brought(self.objects.get(location, limit).await)
    }

    async fn get_range(&self, location: &Location, range: Range<u64>) -> Result<Bytes, ObjectError> {
        self.one();
        self.brought(self.objects.get_range(location, range).await)
    }

    async fn head(&self, location: &Location) -> Result<ObjectInfo, ObjectError> {
        self.one();
        self.objects.head(location).await
    }

    async fn list(
        &self,
        prefix: &Location,
        by_folder: bool,
        after: Option<&str>,
    ) -> Result<Listing, ObjectError> {
        self.one();
        self.objects.list(prefix, by_folder, after).await
    }
}
