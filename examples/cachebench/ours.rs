//! Our side of [`rival`](crate::rival): small contents are files, large ones blocks of objects.
use crate::rival::{DISK_BYTES, MEMORY_BYTES, Rival, SHAPES, Shape, replay, value};
use crate::{Outcome, config};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use icecache::cache::{Cache, Config, FetchError, Fetched, Found, Key, ObjectId, Origin};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

struct Ours {
    cache: Cache,
    shape: Shape,
    origin: Arc<Contents>,
}

#[derive(Debug, Default)]
struct Contents(AtomicU64);

#[async_trait]
impl Origin for Contents {
    async fn fetch(&self, id: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError> {
        self.0.fetch_add(1, Relaxed);
        let bytes = value(id.key.parse().unwrap_or(0), (range.end - range.start) as usize);
        Ok(Fetched { body: futures::stream::iter([Ok(bytes)]).boxed(), source: "made up" })
    }
}

impl Rival for Ours {
    async fn get(&self, content: u64) -> Outcome<(Bytes, bool)> {
        let size = self.shape.bytes;
        if size as u64 >= self.cache.config().block_bytes {
            let id =
                ObjectId { bucket: "b".into(), key: content.to_string(), tag: "1".into(), size: size as u64 };
            let before = self.origin.0.load(Relaxed);
            let bytes = self.cache.blob(&id, self.origin.clone())?.read(0, size).await?;
            return Ok((bytes, self.origin.0.load(Relaxed) == before));
        }
        let key = Key::new(content.to_string())?;
        if let Some(Found::File(file)) = self.cache.look_up(&key).await? {
            return Ok((file.read(0, size).await?, true));
        }
        let bytes = value(content, size);
        let _kept = self.cache.insert(&key, bytes.clone()).await?;
        Ok((bytes, false))
    }
}

/// Replays all shapes, each against a cache of its own.
pub async fn run(dir: &Path) -> Outcome<()> {
    for shape in SHAPES {
        let config =
            Config { max_bytes: DISK_BYTES, memory_bytes: MEMORY_BYTES, ..config(&dir.join(shape.name)) };
        let cache = Cache::open(config).await?;
        replay(&Ours { cache: cache.clone(), shape, origin: Arc::default() }, &shape).await?;
        cache.close().await?;
    }
    Ok(())
}
