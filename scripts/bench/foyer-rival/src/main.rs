//! Replays the requests of `examples/cachebench/rival.rs` against foyer's hybrid cache, as it is by default but for
//! its sizes.
//!
//! ```text
//! foyer-rival DIR
//! ```
#[path = "../../../../examples/cachebench/rival.rs"]
mod rival;

use bytes::Bytes;
use foyer::{BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder};
use rival::{DISK_BYTES, MEMORY_BYTES, Rival, SHAPES, Shape, replay, value};
use std::error::Error;
use std::path::Path;

struct Foyer {
    cache: HybridCache<u64, Bytes>,
    shape: Shape,
}

impl Rival for Foyer {
    async fn get(&self, content: u64) -> Result<(Bytes, bool), Box<dyn Error>> {
        if let Some(found) = self.cache.get(&content).await? {
            return Ok((found.value().clone(), true));
        }
        let bytes = value(content, self.shape.bytes);
        self.cache.insert(content, bytes.clone());
        Ok((bytes, false))
    }
}

async fn run(dir: &Path) -> Result<(), Box<dyn Error>> {
    for shape in SHAPES {
        let device = FsDeviceBuilder::new(dir.join(shape.name)).with_capacity(DISK_BYTES as usize).build()?;
        let cache = HybridCacheBuilder::new()
            .memory(MEMORY_BYTES as usize)
            .with_weighter(|_, value: &Bytes| value.len())
            .storage()
            .with_engine_config(BlockEngineConfig::new(device))
            .build()
            .await?;
        replay(&Foyer { cache: cache.clone(), shape }, &shape).await?;
        cache.close().await?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).ok_or("usage: foyer-rival DIR")?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(Path::new(&dir)))
}
