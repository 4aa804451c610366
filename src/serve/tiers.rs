//! The tiers between the disk and the origin, as settings name them.
use crate::cache::Tier;
use crate::error::Result;
use std::sync::Arc;

/// The Redis at this URL, if one is named. One that does not answer is asked again later.
///
/// # Errors
/// The URL cannot be used, or this build has no Redis.
#[cfg(feature = "redis")]
pub async fn tiers(redis: Option<&str>) -> Result<Vec<Arc<dyn Tier>>> {
    use crate::redis::{RedisOptions, RedisTier};
    let Some(url) = redis else { return Ok(Vec::new()) };
    let tier = RedisTier::open(RedisOptions::parse(url)?).await?;
    if let Err(error) = tier.ready().await {
        tracing::warn!(%error, "serving without redis until it answers");
    }
    Ok(vec![Arc::new(tier)])
}

/// The same without Redis.
///
/// # Errors
/// One is named.
#[cfg(not(feature = "redis"))]
pub async fn tiers(redis: Option<&str>) -> Result<Vec<Arc<dyn Tier>>> {
    match redis {
        None => Ok(Vec::new()),
        Some(_) => {
            let message = "this build has no Redis: it was made without the feature 'redis'";
            Err(crate::Error::new(crate::ErrorKind::Unsupported, message))
        }
    }
}
