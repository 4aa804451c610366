//! The tiers between the disk and the origin, as settings name them.
use crate::error::Result;
#[cfg(feature = "redis")]
use crate::redis::{RedisOptions, RedisTier};
use std::sync::Arc;

/// The Redis at this URL, if one is named. One that does not answer is asked again later.
///
/// # Errors
/// The URL cannot be used.
#[cfg(feature = "redis")]
pub async fn redis(url: Option<&str>) -> Result<Option<Arc<RedisTier>>> {
    let Some(url) = url else { return Ok(None) };
    let tier = RedisTier::open(RedisOptions::parse(url)?).await?;
    if let Err(error) = tier.ready().await {
        tracing::warn!(%error, "serving without redis until it answers");
    }
    Ok(Some(Arc::new(tier)))
}

/// None.
///
/// # Errors
/// One is named.
#[cfg(not(feature = "redis"))]
pub async fn tiers(redis: Option<&str>) -> Result<Vec<Arc<dyn crate::cache::Tier>>> {
    match redis {
        None => Ok(Vec::new()),
        Some(_) => {
            let message = "this build has no Redis: it was made without the feature 'redis'";
            Err(crate::Error::new(crate::ErrorKind::Unsupported, message))
        }
    }
}
