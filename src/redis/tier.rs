//! [`RedisTier`]: blocks in Redis, as a tier of the cache.
use super::connect::Connector;
use super::error::RedisError;
use super::events::{Channel, Subscription};
use super::fleet::Fleet;
use super::key::BlockKey;
use super::options::RedisOptions;
use super::stats::{Meters, RedisStatus};
use super::value;
use crate::cache::{ObjectId, Tier, TierError};
use ::redis::{Value, pipe};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::watch;

/// Blocks in Redis. Cheap to clone; the connections end with the last one.
#[derive(Debug, Clone)]
pub struct RedisTier {
    fleet: Arc<Fleet>,
    meters: Arc<Meters>,
    channel: Arc<Channel>,
}

impl RedisTier {
    /// Connects in the background, and again for as long as it exists: a server that is not there is no error.
    /// Reads miss until it is. An option that is wrong, and a file of certificates that cannot be used, are errors.
    pub async fn open(options: RedisOptions) -> Result<Self, RedisError> {
        let meters = Arc::new(Meters::default());
        let channel = Arc::new(Channel::new(&options.namespace));
        let fleet = Arc::new(Fleet::new(Connector::new(options).await?, meters.clone()));
        Ok(Self { fleet, meters, channel })
    }

    /// Ends when each server was tried once, within a few connect deadlines; an error says why one is left out.
    pub async fn ready(&self) -> Result<(), RedisError> {
        self.fleet.ready().await
    }

    /// The servers and all totals, now.
    pub fn status(&self) -> RedisStatus {
        self.fleet.status()
    }

    /// Changes whenever a server begins or ceases to answer, and when it was looked anew who the servers are: then
    /// [`status`](Self::status) may be another.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.fleet.bell().watch()
    }

    /// Tells all machines that listen under this namespace, this one included. It has come to nobody for sure:
    /// whoever listens is told when there may have been more.
    pub async fn publish<T: serde::Serialize + Sync>(
        &self,
        topic: &str,
        payload: &T,
    ) -> Result<(), RedisError> {
        let message = self.channel.message(topic, payload)?;
        let node = self.fleet.any().ok_or(RedisError::Open)?;
        node.begin_event()?.publish(self.channel.name(), &message).await?;
        Meters::count(&self.meters.events_published);
        Ok(())
    }

    /// Listens for events whose topic begins with `prefix`, until the subscription is dropped.
    pub fn subscribe(&self, prefix: &str) -> Subscription {
        Subscription::start(prefix, self.fleet.clone(), self.channel.clone(), self.meters.clone())
    }

    async fn read(&self, object: &ObjectId, range: Range<u64>) -> Result<Option<Bytes>, RedisError> {
        let options = self.fleet.options();
        let length = range.end - range.start;
        if length > options.max_bytes {
            return Ok(None);
        }
        let key = BlockKey::new(&options.namespace, object, &range, options.chunk_bytes);
        let chunks = length.div_ceil(options.chunk_bytes);
        let node = self.fleet.node(key.slot()).ok_or(RedisError::Open)?;
        let mut commands = pipe();
        for chunk in 0..chunks {
            commands.cmd("GET").arg(key.chunk(chunk));
        }
        let values = node.read(&commands, chunks as usize).await?;
        if values.len() as u64 != chunks || values.contains(&Value::Nil) {
            return Ok(None);
        }
        let (names, chunk_bytes) = (key.clone(), options.chunk_bytes);
        let decoding = tokio::task::spawn_blocking(move || {
            let mut block = Vec::with_capacity(length as usize);
            for (chunk, value) in values.iter().enumerate() {
                let left = length - block.len() as u64;
                let Value::BulkString(bytes) = value else { return None };
                let expected = left.min(chunk_bytes) as usize;
                value::decode(&names.chunk(chunk as u64), bytes, expected, &mut block).ok()?;
            }
            Some(Bytes::from(block))
        });
        // It fails only if the runtime ends.
        let decoded = decoding.await.ok().flatten();
        if decoded.is_none() {
            Meters::count(&self.meters.corrupt);
            tracing::warn!(%object, ?range, "a block in redis is not what was written; it is deleted");
            tokio::spawn(async move {
                let keys: Vec<_> = (0..chunks).map(|chunk| key.chunk(chunk)).collect();
                if let Ok(writing) = node.begin_write() {
                    let _missed_anyway = writing.delete(&keys).await;
                }
            });
        }
        Ok(decoded)
    }

    async fn write(&self, object: &ObjectId, range: Range<u64>, bytes: Bytes) -> Result<(), RedisError> {
        let options = self.fleet.options();
        let length = bytes.len() as u64;
        if length > options.max_bytes || length != range.end - range.start {
            return Ok(());
        }
        let key = BlockKey::new(&options.namespace, object, &range, options.chunk_bytes);
        let node = self.fleet.node(key.slot()).ok_or(RedisError::Open)?;
        // A place first: what is not sent is not compressed either.
        let writing = node.begin_write()?;
        let (chunk_bytes, compress) = (options.chunk_bytes as usize, options.compress);
        let encoding = tokio::task::spawn_blocking(move || {
            let chunks = bytes.chunks(chunk_bytes).zip(0..);
            let values = chunks.map(|(chunk, number)| {
                let name = key.chunk(number);
                let value = value::encode(&name, chunk, compress);
                (name, value)
            });
            values.collect::<Vec<_>>()
        });
        let Ok(values) = encoding.await else { return Ok(()) };
        writing.set(&values, options.ttl).await?;
        Meters::count(&self.meters.writes);
        self.meters.bytes_written.fetch_add(length, Relaxed);
        let stored: usize = values.iter().map(|(_, value)| value.len()).sum();
        self.meters.bytes_stored.fetch_add(stored as u64, Relaxed);
        Ok(())
    }
}

#[async_trait]
impl Tier for RedisTier {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn get(&self, object: &ObjectId, range: Range<u64>) -> Result<Option<Bytes>, TierError> {
        let read = self.read(object, range).await;
        let counter = match &read {
            Ok(Some(bytes)) => {
                self.meters.bytes_read.fetch_add(bytes.len() as u64, Relaxed);
                &self.meters.hits
            }
            Ok(None) => &self.meters.misses,
            Err(RedisError::TimedOut { .. }) => &self.meters.timed_out,
            Err(RedisError::Open) => &self.meters.skipped,
            Err(RedisError::Busy) => &self.meters.shed,
            Err(_) => &self.meters.failed,
        };
        Meters::count(counter);
        read.map_err(|e| {
            let asked = !matches!(e, RedisError::Open | RedisError::Busy);
            TierError { message: e.to_string(), asked }
        })
    }

    async fn put(&self, object: &ObjectId, range: Range<u64>, bytes: Bytes) -> Result<(), TierError> {
        self.write(object, range, bytes).await.map_err(|e| {
            Meters::count(&self.meters.not_written);
            TierError::failed(e.to_string())
        })
    }

    fn corrupt(&self) -> u64 {
        self.meters.corrupt.load(Relaxed)
    }
}
