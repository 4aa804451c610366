//! Redis, or what speaks like it, as a tier of the cache that many machines share; and events between them.
//!
//! ```text
//!   cache/tier ──► tier ──► key: which slot, which keys ──► fleet: which server
//!                    │                                        │
//!                    │                                        ├── scout: who are the servers, what moved?
//!                    ▼                                        ▼
//!                  value: magic, checksum, zstd             node ──► breaker: is it asked at all?
//!                                                             │        ▲
//!   events ──► channel of the namespace                       ▼        │
//!                                                           connect ◄─ keeper: connects in the background
//! ```
//!
//! Nothing here is needed: an error is a miss, a call has a deadline, and a server that fails is left out until
//! it answers again. Nothing here can be stale: a key names one range of one version of one object. And nothing
//! is believed: a value has a checksum, and one that is wrong is a miss.
//!
//! The breaker is one for each server, so that a node of a cluster that is gone costs the others nothing; that is
//! why the slots are looked up here and not by a cluster client.
//!
//! docs/CACHE.md has what is promised; docs/FORMAT.md has the bytes.
//!
//! ```no_run
//! use icecache::cache::{Cache, Chain, Config, ObjectId, Origin};
//! use icecache::redis::{RedisOptions, RedisTier};
//! use std::sync::Arc;
//!
//! # async fn example(origin: Arc<dyn Origin>, id: ObjectId) -> Result<(), Box<dyn std::error::Error>> {
//! let options = RedisOptions::parse("rediss://cache.example:6379?ca=/etc/ca.pem&password-file=/run/secret")?;
//! let redis = RedisTier::open(options).await?;
//! let chain = Arc::new(Chain::new(vec![Arc::new(redis.clone())], origin));
//! let cache = Cache::open(Config::new("/var/cache/icecache")).await?;
//! let bytes = cache.blob(&id, chain)?.read(0, 4096).await?;
//! # Ok(())
//! # }
//! ```
mod bell;
mod breaker;
mod connect;
mod error;
pub mod events;
mod fleet;
mod key;
mod node;
mod options;
mod pause;
mod slots;
mod stats;
mod tier;
pub mod value;

pub use connect::{Capabilities, Expiry};
pub use error::RedisError;
pub use events::{Event, Notice, Subscription};
pub use options::{Address, RedisOptions, Secret};
pub use stats::{NodeStatus, RedisStatus, RedisTotals};
pub use tier::RedisTier;
