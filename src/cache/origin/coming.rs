//! [`Coming`]: an origin that has begun to answer.
use crate::cache::ObjectId;
use crate::cache::tier::{FetchError, Fetched, ORIGIN, Origin};
use crate::remote::ByteStream;
use crate::sync::Mutex;
use async_trait::async_trait;
use std::ops::Range;
use std::sync::Arc;

/// The first to ask gets what is on its way; then `origin` is asked.
pub(in crate::cache) struct Coming {
    body: Mutex<Option<ByteStream>>,
    origin: Arc<dyn Origin>,
}

impl Coming {
    /// `body` are the bytes of what is asked for first.
    pub(in crate::cache) fn new(body: ByteStream, origin: Arc<dyn Origin>) -> Self {
        Self { body: Mutex::new(Some(body)), origin }
    }
}

impl std::fmt::Debug for Coming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coming").field("origin", &self.origin).finish_non_exhaustive()
    }
}

#[async_trait]
impl Origin for Coming {
    async fn fetch(&self, object: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError> {
        let coming = self.body.lock().take();
        match coming {
            Some(body) => Ok(Fetched { body, source: ORIGIN }),
            None => self.origin.fetch(object, range).await,
        }
    }
}
