//! [`S3Store`]: a bucket of S3 or of something that speaks its protocol.
//!
//! * Each call of [`ObjectStore`] is one request and is not repeated here ([`Retry`](super::Retry) does
//!   that and knows what a repeated conditional PUT means); only the parts of an upload are.
//! * Payloads are not signed, but every PUT carries a CRC32C. Signing means SHA-256 over every byte, four
//!   times the cost of all the rest of a PUT. Over https TLS protects the bytes. Over plain http whoever
//!   could change the body could read everything anyway; against accidents the CRC is enough, and each layer
//!   has its BLAKE3 digest in HEAD.
//! * Downloads are not checked against stored checksums (a range has none, and the digest in HEAD is
//!   stronger); `get` is.
mod answer;
mod keyring;
mod options;
mod upload;

pub use keyring::Keyring;
pub use options::{KeySource, LentKeys, S3Keys, S3Options};

use super::{ByteStream, RetryPolicy};
use super::{
    Condition, Counters, Download, Level, Listed, Object, ObjectStore, Page, Properties, RemoteError, Tag,
    Upload, body, key, list,
};
use crate::clock::Timestamp;
use answer::Kind;
use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream as SdkStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, Object as Entry};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A `get` of anything larger is refused: it is meant for small documents.
pub const GET_MAX_BYTES: u64 = 64 << 20;
/// How long the answer to a request may take to begin, and each piece of a body to arrive.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A PUT has in addition the time its bytes need at this rate.
pub const SLOWEST_UPLINK_BYTES_PER_SECOND: u64 = 64 << 10;

/// A bucket and a prefix in it. Clones share the client and its connections.
#[derive(Debug, Clone)]
pub struct S3Store {
    client: aws_sdk_s3::Client,
    bucket: Arc<str>,
    prefix: Arc<str>,
    /// The one that was named, if not AWS' own.
    endpoint: Option<Arc<str>>,
    part_bytes: usize,
    policy: RetryPolicy,
}

impl S3Store {
    /// Prepares a client; sends nothing. `keys` overrides the usual search for credentials
    /// (environment, profile, container, instance), which happens at the first request.
    /// Fails if the options make no sense.
    pub async fn connect(
        bucket: &str,
        prefix: &str,
        options: &S3Options,
        keys: Option<&S3Keys>,
        counters: Arc<Counters>,
    ) -> Result<Self, RemoteError> {
        let keys = keys.map(|keys| SharedCredentialsProvider::new(keys.clone().credentials(None)));
        Self::with(bucket, prefix, options, keys, counters).await
    }

    /// The same with credentials that `source` lends.
    pub async fn borrowing(
        bucket: &str,
        prefix: &str,
        options: &S3Options,
        source: Arc<dyn KeySource>,
        counters: Arc<Counters>,
    ) -> Result<Self, RemoteError> {
        let keys = SharedCredentialsProvider::new(options::Lent(source));
        Self::with(bucket, prefix, options, Some(keys), counters).await
    }

    async fn with(
        bucket: &str,
        prefix: &str,
        options: &S3Options,
        keys: Option<SharedCredentialsProvider>,
        counters: Arc<Counters>,
    ) -> Result<Self, RemoteError> {
        let part_bytes = options.part_bytes()?;
        let config = options.load(keys).await?.interceptor(CountRequests(counters)).build();
        Ok(Self {
            client: aws_sdk_s3::Client::from_conf(config),
            bucket: bucket.into(),
            prefix: prefix.trim_matches('/').into(),
            endpoint: options.endpoint()?.map(|endpoint| endpoint.trim_end_matches('/').into()),
            part_bytes,
            policy: RetryPolicy::default(),
        })
    }

    /// The full key in the bucket, of what we write.
    fn full(&self, key: &str) -> Result<String, RemoteError> {
        let full = self.full_of_any(key)?;
        key::check(key)?;
        key::check(&full)?;
        Ok(full)
    }

    /// The full key in the bucket, of what is read: others may have written it.
    fn full_of_any(&self, key: &str) -> Result<String, RemoteError> {
        let full = if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        key::check_any(key)?;
        key::check_any(&full)?;
        Ok(full)
    }

    fn call<'a>(&'a self, kind: Kind, key: &'a str) -> answer::Call<'a> {
        answer::Call { kind, bucket: &self.bucket, key }
    }

    async fn fetch(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        checked: bool,
    ) -> Result<Download, RemoteError> {
        if range.as_ref().is_some_and(|r| r.start >= r.end) {
            return Err(RemoteError::Refused { message: format!("empty range of {key}") });
        }
        let asked = range.as_ref().map(|r| format!("bytes={}-{}", r.start, r.end - 1));
        let mode = checked.then_some(ChecksumMode::Enabled);
        let request = self.client.get_object().bucket(&*self.bucket).key(self.full_of_any(key)?);
        let sent = request.set_range(asked).set_checksum_mode(mode).send();
        let answer = within(ANSWER_TIMEOUT, key, sent).await?;
        let found = answer.map_err(|e| answer::meaning(&e, &self.call(Kind::Read, key)))?;
        let partial = found.content_range.as_deref().and_then(start_of_range);
        if let Some(r) = &range
            && partial != Some(r.start)
        {
            let message = format!("server ignored the range asked for: {key}");
            return Err(RemoteError::Refused { message });
        }
        let length = found.content_length.and_then(|n| u64::try_from(n).ok());
        let (Some(length), Some(tag)) = (length, found.e_tag) else {
            return Err(RemoteError::Refused {
                message: format!("answer lacks ETag or Content-Length: {key}"),
            });
        };
        if range.is_some_and(|r| length > r.end - r.start) {
            return Err(RemoteError::Refused {
                message: format!("answer exceeds the range asked for: {key}"),
            });
        }
        let body = body::exact(timed(found.body, key.to_owned()), length, key.to_owned());
        Ok(Download { length, tag: Tag(tag), body })
    }

    /// One PutObject. `mark` becomes metadata of the object.
    async fn put_once(
        &self,
        key: &str,
        bytes: Bytes,
        condition: &Condition,
        mark: Option<(&str, &str)>,
    ) -> Result<Tag, RemoteError> {
        let (if_match, if_none_match) = conditions(condition);
        let limit = put_limit(bytes.len());
        let mut request = self.client.put_object().bucket(&*self.bucket).key(self.full(key)?);
        if let Some((name, value)) = mark {
            request = request.metadata(name, value);
        }
        let sent = request
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .body(SdkStream::from(bytes))
            .customize()
            .disable_payload_signing()
            .send();
        let answer = within(limit, key, sent).await?;
        let put = answer.map_err(|e| answer::meaning(&e, &self.call(Kind::of(condition), key)))?;
        put.e_tag
            .map(Tag)
            .ok_or_else(|| RemoteError::Refused { message: format!("answer to PUT lacks ETag: {key}") })
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    fn url(&self) -> String {
        super::RemoteUrl::S3 { bucket: self.bucket.to_string(), prefix: self.prefix.to_string() }.to_string()
    }

    fn identity(&self) -> String {
        let url = self.url();
        self.endpoint
            .as_ref()
            .map_or_else(|| url.clone(), |endpoint| super::url::with_endpoint(endpoint, &url))
    }

    async fn get(&self, key: &str) -> Result<Object, RemoteError> {
        let mut found = self.fetch(key, None, true).await?;
        if found.length > GET_MAX_BYTES {
            let message = format!("object is too large to be read whole: {key}: {} bytes", found.length);
            return Err(RemoteError::Refused { message });
        }
        let mut bytes = BytesMut::with_capacity(found.length as usize);
        while let Some(chunk) = found.body.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(Object { bytes: bytes.freeze(), tag: found.tag })
    }

    async fn download(&self, key: &str, range: Option<Range<u64>>) -> Result<Download, RemoteError> {
        self.fetch(key, range, false).await
    }

    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError> {
        self.put_once(key, bytes, &condition, None).await
    }

    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        self.full(key)?;
        Ok(Box::new(upload::S3Upload::new(self.clone(), key.to_owned(), condition)))
    }

    async fn head(&self, key: &str) -> Result<Properties, RemoteError> {
        let sent = self.client.head_object().bucket(&*self.bucket).key(self.full_of_any(key)?).send();
        let found = match within(ANSWER_TIMEOUT, key, sent).await? {
            Ok(found) => found,
            // The answer has no body, so it does not say whether object or bucket is missing: a GET does.
            Err(e) if e.raw_response().is_some_and(|answer| answer.status().as_u16() == 404) => {
                self.fetch(key, Some(0..1), false).await?;
                return Err(RemoteError::Unavailable { message: format!("object came just now: {key}") });
            }
            Err(e) => return Err(answer::meaning(&e, &self.call(Kind::Read, key))),
        };
        let length = found.content_length.and_then(|n| u64::try_from(n).ok());
        let (Some(length), Some(tag), Some(modified)) = (length, found.e_tag, found.last_modified) else {
            let message = format!("answer lacks ETag, Content-Length or Last-Modified: {key}");
            return Err(RemoteError::Refused { message });
        };
        let (tag, modified, content_type) = (Tag(tag), timestamp(&modified), found.content_type);
        let content_encoding = found.content_encoding.as_deref().and_then(encoding_of_bytes);
        Ok(Properties { length, tag, modified, content_type, content_encoding })
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let sent = self.client.delete_object().bucket(&*self.bucket).key(self.full(key)?).send();
        match within(ANSWER_TIMEOUT, key, sent).await? {
            Ok(_) => Ok(()),
            Err(e) => match answer::meaning(&e, &self.call(Kind::Read, key)) {
                RemoteError::NotFound { .. } => Ok(()), // some servers say so
                error => Err(error),
            },
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError> {
        let (root, found) = self.listed(prefix, after, None).await?;
        let more = found.is_truncated.unwrap_or(false);
        let page = Page { objects: objects(found.contents, &root, prefix)?, more };
        list::check(&page, prefix, after)?;
        Ok(page)
    }

    async fn level(&self, prefix: &str, after: Option<&str>) -> Result<Level, RemoteError> {
        let (root, found) = self.listed(prefix, after, Some("/")).await?;
        let more = found.is_truncated.unwrap_or(false);
        let page = Page { objects: objects(found.contents, &root, prefix)?, more: false };
        list::check(&page, prefix, after)?;
        let folders =
            found.common_prefixes.unwrap_or_default().into_iter().filter_map(|folder| folder.prefix);
        let folders = folders.filter_map(|folder| folder.strip_prefix(&root).map(str::to_owned)).collect();
        Level { objects: page.objects, folders, next: None }.checked(prefix, after, more)
    }
}

impl S3Store {
    /// What stands before all keys, and a part of the list of those that begin with `prefix`.
    async fn listed(
        &self,
        prefix: &str,
        after: Option<&str>,
        delimiter: Option<&str>,
    ) -> Result<(String, ListObjectsV2Output), RemoteError> {
        let root = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let request = self.client.list_objects_v2().bucket(&*self.bucket).prefix(format!("{root}{prefix}"));
        let request = request.set_delimiter(delimiter.map(str::to_owned));
        let sent = request.set_start_after(after.map(|after| format!("{root}{after}"))).send();
        let answer = within(ANSWER_TIMEOUT, prefix, sent).await?;
        let found = answer.map_err(|e| answer::meaning(&e, &self.call(Kind::Read, prefix)))?;
        Ok((root, found))
    }
}

fn objects(found: Option<Vec<Entry>>, root: &str, prefix: &str) -> Result<Vec<Listed>, RemoteError> {
    let listed = |object: Entry| {
        let key = object.key.as_deref().and_then(|key| key.strip_prefix(root));
        let length = object.size.and_then(|size| u64::try_from(size).ok());
        let (Some(key), Some(length), Some(modified)) = (key, length, object.last_modified) else {
            let message = format!("list of {prefix:?}: an entry lacks key, size or time");
            return Err(RemoteError::Refused { message });
        };
        Ok(Listed { key: key.to_owned(), length, modified: timestamp(&modified) })
    };
    found.unwrap_or_default().into_iter().map(listed).collect()
}

fn conditions(condition: &Condition) -> (Option<String>, Option<String>) {
    match condition {
        Condition::Always => (None, None),
        Condition::IfAbsent => (None, Some("*".to_owned())),
        Condition::IfMatch(tag) => (Some(tag.0.clone()), None),
    }
}

fn timestamp(time: &DateTime) -> Timestamp {
    Timestamp { sec: time.secs(), nsec: time.subsec_nanos() }
}

fn put_limit(bytes: usize) -> Duration {
    ANSWER_TIMEOUT + Duration::from_secs(bytes as u64 / SLOWEST_UPLINK_BYTES_PER_SECOND)
}

/// A `Content-Encoding` without `aws-chunked`, which is how an upload was sent and which some servers keep.
fn encoding_of_bytes(header: &str) -> Option<String> {
    let codings = header.split(',').map(str::trim);
    let of_bytes = codings.filter(|one| !one.is_empty() && !one.eq_ignore_ascii_case("aws-chunked"));
    let of_bytes: Vec<_> = of_bytes.collect();
    (!of_bytes.is_empty()).then(|| of_bytes.join(", "))
}

/// The `a` of `bytes a-b/n`.
fn start_of_range(header: &str) -> Option<u64> {
    header.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Gives up after `limit`. Own timers instead of the SDK's: its time-outs are part of what tells pools of
/// connections apart, so that one per size of PUT would mean one pool each.
async fn within<T>(limit: Duration, key: &str, call: impl Future<Output = T>) -> Result<T, RemoteError> {
    tokio::time::timeout(limit, call).await.map_err(|_| RemoteError::Unavailable {
        message: format!("no answer within {} s: {key}", limit.as_secs()),
    })
}

/// The body as it arrives, each piece within [`ANSWER_TIMEOUT`].
fn timed(body: SdkStream, key: String) -> ByteStream {
    Box::pin(stream::unfold(Some((body, key)), |state| async move {
        let (mut body, key) = state?;
        match within(ANSWER_TIMEOUT, &key, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some((body, key)))),
            Ok(Some(Err(e))) => {
                let message = format!("body of {key} broke off: {}", answer::chain(&e));
                Some((Err(RemoteError::Unavailable { message }), None))
            }
            Err(e) => Some((Err(e), None)),
        }
    }))
}

#[derive(Debug)]
struct CountRequests(Arc<Counters>);

impl Intercept for CountRequests {
    fn name(&self) -> &'static str {
        "CountRequests"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.http_request();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_an_upload_was_sent_is_no_encoding_of_its_bytes() {
        for (header, encoding) in [
            ("gzip", Some("gzip")),
            ("aws-chunked", None),
            ("aws-chunked,gzip", Some("gzip")),
            ("gzip, AWS-chunked, br", Some("gzip, br")),
            ("", None),
        ] {
            assert_eq!(encoding_of_bytes(header).as_deref(), encoding, "{header}");
        }
    }
}
