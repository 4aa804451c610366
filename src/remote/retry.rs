//! [`Retry`]: bounded patience with a store that is briefly not there.
use super::{
    ByteStream, Condition, Download, Level, Object, ObjectStore, Page, Properties, RemoteError, Store, Tag,
    Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

/// How often, and after which pauses, a transient failure is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts of one call in all, the first included; at least 1.
    pub attempts: u32,
    /// The longest pause before the second attempt; it doubles with each further one.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    /// Five attempts within about six seconds; whoever needs more patience has a schedule of their own.
    fn default() -> Self {
        Self { attempts: 5, first_pause: Duration::from_millis(200), longest_pause: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// One attempt.
    pub fn never() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// The pause after failed attempt number `failed` (1 is the first): exponential, with the upper half
    /// random, so that many clients of a store that comes back do not all come at once.
    pub fn pause(&self, failed: u32) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(16));
        let limit = doubled.min(self.longest_pause);
        let random = uuid::Uuid::new_v4().as_u128() as u16;
        limit / 2 + (limit / 2).mul_f64(f64::from(random) / f64::from(u16::MAX))
    }

    /// Calls until it succeeds, fails for good, or the attempts are used up. Hands each call the number
    /// of attempts that failed before it.
    pub(super) async fn run<T, F, C>(&self, mut call: C) -> Result<T, RemoteError>
    where
        F: Future<Output = Result<T, RemoteError>>,
        C: FnMut(u32) -> F,
    {
        let mut failed = 0;
        loop {
            match call(failed).await {
                Err(error) if error.is_transient() && failed + 1 < self.attempts => {
                    failed += 1;
                    let pause = self.pause(failed);
                    tracing::debug!(%error, failed, ?pause, "remote call failed, will try again");
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
    }
}

/// Repeats calls that failed for a passing reason, and resumes downloads that broke off.
///
/// A conditional PUT whose first reply was lost is refused when repeated, because the first one was
/// applied. So after a refusal of a *repeated* PUT the object is read back: equal bytes are taken for ours.
/// A refusal that remains must be judged by the caller, who knows what its own bytes look like.
///
/// Uploads are passed through: the store that holds their parts repeats them.
#[derive(Debug, Clone)]
pub struct Retry {
    inner: Store,
    policy: RetryPolicy,
}

impl Retry {
    /// Repeats the calls of `inner` by `policy`.
    pub fn new(inner: Store, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }
}

#[async_trait]
impl ObjectStore for Retry {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    async fn get(&self, key: &str) -> Result<Object, RemoteError> {
        self.policy.run(|_| self.inner.get(key)).await
    }

    async fn download(&self, key: &str, range: Option<Range<u64>>) -> Result<Download, RemoteError> {
        let first = self.policy.run(|_| self.inner.download(key, range.clone())).await?;
        let start = range.map_or(0, |r| r.start);
        let resuming = Resuming {
            inner: self.inner.clone(),
            policy: self.policy,
            key: key.to_owned(),
            tag: first.tag.clone(),
            next: start,
            end: start + first.length,
            failed: 0,
            body: Some(first.body),
        };
        Ok(Download { length: first.length, tag: first.tag, body: resuming.stream() })
    }

    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError> {
        let mut repeated = false;
        let result = self
            .policy
            .run(|failed| {
                repeated = failed > 0;
                self.inner.put(key, bytes.clone(), condition.clone())
            })
            .await;
        match result {
            Err(RemoteError::Precondition { key }) if repeated => match self.get(&key).await {
                Ok(found) if found.bytes == bytes => Ok(found.tag),
                Ok(_) | Err(RemoteError::NotFound { .. }) => Err(RemoteError::Precondition { key }),
                Err(error) => Err(error),
            },
            result => result,
        }
    }

    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        self.policy.run(|_| self.inner.upload(key, condition.clone())).await
    }

    async fn head(&self, key: &str) -> Result<Properties, RemoteError> {
        self.policy.run(|_| self.inner.head(key)).await
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        self.policy.run(|_| self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError> {
        self.policy.run(|_| self.inner.list(prefix, after)).await
    }

    async fn level(&self, prefix: &str, after: Option<&str>) -> Result<Level, RemoteError> {
        self.policy.run(|_| self.inner.level(prefix, after)).await
    }

    fn hand(&self, key: &str, bytes: &Bytes) {
        self.inner.hand(key, bytes);
    }
}

/// A download that goes on by range where it broke off, as long as the object is the same.
struct Resuming {
    inner: Store,
    policy: RetryPolicy,
    key: String,
    tag: Tag,
    next: u64,
    end: u64,
    /// Failures since the last byte arrived.
    failed: u32,
    body: Option<ByteStream>,
}

impl Resuming {
    fn stream(self) -> ByteStream {
        Box::pin(stream::unfold(Some(self), |state| async move {
            let mut state = state?;
            match state.chunk().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(state))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, RemoteError> {
        loop {
            let error = match self.body.as_mut() {
                None => match self.reopen().await {
                    Ok(body) => {
                        self.body = Some(body);
                        continue;
                    }
                    Err(error) => error,
                },
                Some(body) => match body.next().await {
                    Some(Ok(chunk)) => {
                        self.next += chunk.len() as u64;
                        self.failed = 0;
                        return Ok(Some(chunk));
                    }
                    None if self.next == self.end => return Ok(None),
                    None => super::body::cut_short(&self.key, self.next, self.end),
                    Some(Err(error)) => error,
                },
            };
            self.body = None;
            self.failed += 1;
            if !error.is_transient() || self.failed >= self.policy.attempts || self.next >= self.end {
                return Err(error);
            }
            tracing::debug!(%error, key = self.key, offset = self.next, "download broke off, will resume");
            tokio::time::sleep(self.policy.pause(self.failed)).await;
        }
    }

    async fn reopen(&mut self) -> Result<ByteStream, RemoteError> {
        let download = self.inner.download(&self.key, Some(self.next..self.end)).await?;
        if download.tag != self.tag || download.length != self.end - self.next {
            return Err(RemoteError::Precondition { key: self.key.clone() });
        }
        Ok(download.body)
    }
}
