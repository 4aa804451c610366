//! [`columns`]: what a Parquet file says of its columns, read through the cache.
use crate::cache::{Blob, CacheError};
use icecache_iceberg::columns::{Columns, TAIL_BYTES, footer};
use tokio::sync::Semaphore;

/// So many footers are taken apart at once: each takes some ten times its size of memory meanwhile.
static READING: Semaphore = Semaphore::const_new(4);

/// Where the chunks are of those columns that `is_wanted` says, by their field ids and their paths; `None` if the file
/// has no footer that can be read.
///
/// # Errors
/// The footer cannot be brought.
pub(super) async fn columns(
    blob: &Blob,
    is_wanted: impl Fn(Option<i32>, &str) -> bool + Send + 'static,
) -> Result<Option<Columns>, CacheError> {
    let size = blob.size();
    let Some(at) = size.checked_sub(TAIL_BYTES) else { return Ok(None) };
    let tail = blob.read(at, TAIL_BYTES as usize).await?;
    let Some(range) = footer(&tail, size) else { return Ok(None) };
    blob.fetch_ahead_of(range.clone());
    let bytes = blob.read(range.start, (range.end - range.start) as usize).await?;
    let _turn = READING.acquire().await; // it is never closed
    let read = tokio::task::spawn_blocking(move || Columns::read_some(&bytes, size, is_wanted)).await;
    match read {
        Ok(Ok(columns)) => Ok(Some(columns)),
        Ok(Err(error)) => {
            tracing::debug!(object = %blob.id(), %error, "read without regard to its columns");
            Ok(None)
        }
        Err(_) => Err(CacheError::Closed), // the program is ending
    }
}
