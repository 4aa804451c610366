//! `icecache cache warm`.
use super::{CacheArgs, origin_settings, with_cache};
use crate::Result;
use crate::cache::{Blob, Cache, ObjectId, StoreOrigin};
use crate::cli::flags::{Flags, S3Scope};
use crate::cli::output::{bytes, safe};
use crate::cli::progress::View;
use crate::cli::{Context, Exit};
use crate::remote::list::{self, Listed};
use crate::remote::{Store, open_configured};
use crate::serve::startup::Progress;
use futures::StreamExt;
use std::collections::HashSet;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Warm {
    #[command(flatten)]
    cache: CacheArgs,
    /// The remote, such as s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    origin: String,
    #[command(flatten)]
    s3: Flags<S3Scope>,
    /// Objects whose keys begin so; without any: all
    prefixes: Vec<String>,
}

/// What was brought.
#[derive(Debug, Default, serde::Serialize)]
struct Warmed {
    objects: u64,
    /// Their bytes.
    bytes: u64,
    /// How many of these are in the cache now.
    cached: u64,
    failed: Vec<String>,
    /// Prefixes by which nothing begins.
    unmatched: Vec<String>,
}

impl Warm {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.config(context)?;
        let (url, s3) = origin_settings(&self.origin, &self.s3, context)?;
        let prefixes = if self.prefixes.is_empty() { vec![String::new()] } else { self.prefixes };
        let mut view = View::new(&context.output);
        let warmed = with_cache(config, &context.output, |cache| {
            let view = &mut view;
            async move {
                let store = open_configured(&url, &s3, Arc::default()).await?;
                let origin = Arc::new(StoreOrigin::new(store.clone()));
                let mut warmed = Warmed::default();
                let (mut seen, mut brought) = (HashSet::new(), Vec::new());
                for prefix in &prefixes {
                    let mut is_matched = prefix.is_empty(); // all of nothing is nothing
                    let mut objects = std::pin::pin!(list::objects(&*store, prefix, None));
                    while let Some(listed) = objects.next().await {
                        let Listed { key, length, .. } = listed?;
                        is_matched = true;
                        if length == 0 && key.ends_with('/') {
                            continue; // by which some programs mark a folder
                        }
                        if !seen.insert(key.clone()) {
                            continue; // two of the prefixes begin alike
                        }
                        match bring(&cache, &store, &origin, &key).await {
                            Ok(blob) => {
                                warmed.objects += 1;
                                warmed.bytes += blob.size();
                                brought.push(blob.id().clone());
                            }
                            // One that is gone meanwhile, or is no object that can be read, keeps none of the others.
                            Err(e) => warmed.failed.push(format!("{key}: {e}")),
                        }
                        view.show(&Progress {
                            phase: "bringing".into(),
                            bytes: warmed.bytes,
                            bytes_total: 0,
                            entries: warmed.objects,
                        });
                    }
                    if !is_matched {
                        warmed.unmatched.push(prefix.clone());
                    }
                }
                cache.quiet().await;
                warmed.cached = brought.iter().map(|id| cached_bytes(&cache, id, &origin)).sum();
                Ok(warmed)
            }
        })?;
        drop(view);
        if context.output.json {
            context.output.value(&warmed)?;
        }
        for failed in &warmed.failed {
            context.output.warn(&safe(failed));
        }
        for prefix in &warmed.unmatched {
            context.output.warn(&format!("no object of the origin begins so: {}", safe(prefix)));
        }
        let Warmed { objects, bytes: size, cached, .. } = warmed;
        if cached < size {
            context.output.warn(&format!(
                "{objects} objects, {}, were brought, but only {} of them are in the cache: it is too small \
                 (--max-bytes, --max-entries, --min-free)",
                bytes(size),
                bytes(cached)
            ));
        } else {
            context.output.say(&format!("{objects} objects, {}, are in the cache", bytes(size)));
        }
        Ok(match (warmed.failed.is_empty() && cached == size, warmed.unmatched.is_empty()) {
            (true, true) => Exit::Done,
            (true, false) => Exit::NotFound,
            (false, _) => Exit::Failure,
        })
    }
}

async fn bring(cache: &Cache, store: &Store, origin: &Arc<StoreOrigin>, key: &str) -> Result<Blob> {
    let properties = store.head(key).await?;
    let (tag, size) = (properties.tag.0, properties.length);
    let id = ObjectId { bucket: store.identity(), key: key.to_owned(), tag, size };
    let blob = cache.blob(&id, origin.clone())?;
    blob.warm(0..u32::MAX).await?;
    Ok(blob)
}

/// Bytes of an object that are in the cache, in whole blocks.
fn cached_bytes(cache: &Cache, id: &ObjectId, origin: &Arc<StoreOrigin>) -> u64 {
    let Ok(blob) = cache.blob(id, origin.clone()) else { return 0 };
    (u64::from(blob.blocks().0) * blob.block_bytes()).min(id.size)
}
