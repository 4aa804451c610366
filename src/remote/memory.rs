//! [`MemoryStore`]: a store with exact conditions that lives as long as the process. For tests and
//! documentation.
use super::{
    Condition, Download, Listed, Object, ObjectStore, Page, Properties, RemoteError, Tag, Upload, body, key,
    list,
};
use crate::clock::Timestamp;
use crate::sync::Mutex;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, OnceLock};

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    tag: Tag,
    modified: Timestamp,
}

#[derive(Debug, Default)]
struct Objects {
    by_key: BTreeMap<String, Stored>,
    puts: u64,
}

/// Objects in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    name: String,
    objects: Arc<Mutex<Objects>>, // the one lock; held for one map operation
}

impl MemoryStore {
    /// An empty store that nobody else sees.
    pub fn new() -> Self {
        Self::default()
    }

    /// The store of this name in this process, made at its first use.
    pub fn named(name: &str) -> Self {
        static NAMED: OnceLock<Mutex<BTreeMap<String, MemoryStore>>> = OnceLock::new();
        let mut named = NAMED.get_or_init(Mutex::default).lock();
        let fresh = || Self { name: name.to_owned(), ..Self::default() };
        named.entry(name.to_owned()).or_insert_with(fresh).clone()
    }

    /// The keys that exist, in order.
    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().by_key.keys().cloned().collect()
    }

    /// Removes an object, as an operator would behind our back; says whether there was one.
    pub fn remove(&self, key: &str) -> bool {
        self.objects.lock().by_key.remove(key).is_some()
    }

    fn find(&self, key: &str) -> Result<Stored, RemoteError> {
        key::check(key)?;
        let found = self.objects.lock().by_key.get(key).cloned();
        found.ok_or_else(|| RemoteError::NotFound { key: key.to_owned() })
    }

    fn store(&self, key: &str, bytes: Bytes, condition: &Condition) -> Result<Tag, RemoteError> {
        key::check(key)?;
        let mut objects = self.objects.lock();
        let holds = match (condition, objects.by_key.get(key)) {
            (Condition::Always, _) | (Condition::IfAbsent, None) => true,
            (Condition::IfMatch(tag), Some(stored)) => stored.tag == *tag,
            (Condition::IfAbsent, Some(_)) | (Condition::IfMatch(_), None) => false,
        };
        if !holds {
            return Err(RemoteError::Precondition { key: key.to_owned() });
        }
        objects.puts += 1;
        let tag = Tag(format!("m{}", objects.puts));
        objects.by_key.insert(key.to_owned(), Stored { bytes, tag: tag.clone(), modified: Timestamp::now() });
        Ok(tag)
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn url(&self) -> String {
        format!("mem:{}", self.name)
    }

    async fn get(&self, key: &str) -> Result<Object, RemoteError> {
        self.find(key).map(|s| Object { bytes: s.bytes, tag: s.tag })
    }

    async fn download(&self, key: &str, range: Option<Range<u64>>) -> Result<Download, RemoteError> {
        let stored = self.find(key)?;
        let range = body::clip(range, stored.bytes.len() as u64, key)?;
        let bytes = stored.bytes.slice(range.start as usize..range.end as usize);
        Ok(Download { length: range.end - range.start, tag: stored.tag, body: body::once(bytes) })
    }

    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError> {
        self.store(key, bytes, &condition)
    }

    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        key::check(key)?;
        let store = self.clone();
        Ok(Box::new(MemoryUpload { store, key: key.to_owned(), condition, bytes: BytesMut::new() }))
    }

    async fn head(&self, key: &str) -> Result<Properties, RemoteError> {
        let Stored { bytes, tag, modified } = self.find(key)?;
        Ok(Properties {
            length: bytes.len() as u64,
            tag,
            modified,
            content_type: None,
            content_encoding: None,
        })
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        key::check(key)?;
        self.remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError> {
        let objects = self.objects.lock();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let found = objects.by_key.range::<str, _>((from, Bound::Unbounded));
        let mut found = found.take_while(|(key, _)| key.starts_with(prefix));
        let listed = |(key, stored): (&String, &Stored)| {
            let (key, length) = (key.clone(), stored.bytes.len() as u64);
            Listed { key, length, modified: stored.modified }
        };
        let objects = found.by_ref().take(list::PAGE_MAX_OBJECTS).map(listed).collect();
        Ok(Page { objects, more: found.next().is_some() })
    }
}

struct MemoryUpload {
    store: MemoryStore,
    key: String,
    condition: Condition,
    bytes: BytesMut,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), RemoteError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Tag, RemoteError> {
        self.store.store(&self.key, self.bytes.freeze(), &self.condition)
    }

    async fn abort(self: Box<Self>) {}
}
