//! The S3 operations over maps in memory.
//!
//! A condition is looked at when a request begins and again when it is applied: it fails then (412, or
//! 404 for If-Match on a key that is gone), or it holds but the key was changed meanwhile (409).
use super::checksum::{self, given};
use super::{Control, Fault, cut};
use bytes::Bytes;
use futures::{StreamExt, stream};
use md5::{Digest, Md5};
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// The smallest part of a multipart upload that is not the last.
const PART_MIN_BYTES: usize = 5 << 20;
/// No page of a list has more.
const PAGE_MAX_KEYS: usize = 1000;

#[derive(Clone)]
struct Stored {
    data: Bytes,
    etag: String,
    modified: SystemTime,
    metadata: Option<Metadata>,
    checksums: Checksum,
    encoding: Option<String>,
}

struct Pending {
    bucket: String,
    key: String,
    metadata: Option<Metadata>,
    /// The key's generation when the upload was created.
    generation: u64,
    parts: BTreeMap<i32, (Bytes, [u8; 16])>,
}

#[derive(Default)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Stored>>,
    pending: HashMap<String, Pending>,
    /// How often each key was changed.
    generations: HashMap<(String, String), u64>,
    uploads: u64,
}

#[derive(Clone)]
pub struct MemoryS3 {
    state: Arc<Mutex<State>>,
    control: Arc<Control>,
}

fn error(code: S3ErrorCode) -> S3Error {
    S3Error::new(code)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    condition.is_any() || condition.as_etag().is_some_and(|e| e.value() == etag)
}

impl State {
    fn bucket(&mut self, name: &str) -> S3Result<&mut BTreeMap<String, Stored>> {
        self.buckets.get_mut(name).ok_or_else(|| error(S3ErrorCode::NoSuchBucket))
    }

    fn find(&mut self, bucket: &str, key: &str) -> S3Result<Stored> {
        self.bucket(bucket)?.get(key).cloned().ok_or_else(|| error(S3ErrorCode::NoSuchKey))
    }

    fn generation(&self, bucket: &str, key: &str) -> u64 {
        self.generations.get(&(bucket.to_owned(), key.to_owned())).copied().unwrap_or(0)
    }

    fn changed(&mut self, bucket: &str, key: &str) {
        *self.generations.entry((bucket.to_owned(), key.to_owned())).or_default() += 1;
    }

    fn insert(&mut self, bucket: &str, key: &str, stored: Stored) -> S3Result<()> {
        self.bucket(bucket)?.insert(key.to_owned(), stored);
        self.changed(bucket, key);
        Ok(())
    }

    /// Judges the conditions of a PUT that saw the key in generation `seen`.
    fn check(
        &mut self,
        bucket: &str,
        key: &str,
        if_match: Option<&ETagCondition>,
        if_none_match: Option<&ETagCondition>,
        seen: u64,
    ) -> S3Result<()> {
        let current = self.bucket(bucket)?.get(key).map(|o| o.etag.clone());
        if let Some(condition) = if_match {
            match &current {
                None => return Err(error(S3ErrorCode::NoSuchKey)),
                Some(etag) if !matches(condition, etag) => {
                    return Err(error(S3ErrorCode::PreconditionFailed));
                }
                Some(_) => {}
            }
        }
        if let (Some(condition), Some(etag)) = (if_none_match, &current)
            && matches(condition, etag)
        {
            return Err(error(S3ErrorCode::PreconditionFailed));
        }
        let conditional = if_match.is_some() || if_none_match.is_some();
        if conditional && seen != self.generation(bucket, key) {
            return Err(error(S3ErrorCode::ConditionalRequestConflict));
        }
        Ok(())
    }
}

impl MemoryS3 {
    pub fn new(bucket: &str, control: Arc<Control>) -> Self {
        let store = Self { state: Arc::default(), control };
        store.state.lock().unwrap().buckets.insert(bucket.to_owned(), BTreeMap::new());
        store
    }

    pub fn add_bucket(&self, bucket: &str) {
        self.state.lock().unwrap().buckets.entry(bucket.to_owned()).or_default();
    }

    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.buckets.get(bucket).map(|b| b.keys().cloned().collect()).unwrap_or_default()
    }

    pub fn object(&self, bucket: &str, key: &str) -> Option<Bytes> {
        let state = self.state.lock().unwrap();
        Some(state.buckets.get(bucket)?.get(key)?.data.clone())
    }

    pub fn remove(&self, bucket: &str, key: &str) -> bool {
        let mut state = self.state.lock().unwrap();
        let removed = state.buckets.get_mut(bucket).is_some_and(|b| b.remove(key).is_some());
        if removed {
            state.changed(bucket, key);
        }
        removed
    }

    pub fn put(&self, bucket: &str, key: &str, data: Bytes) {
        let etag = hex(&Md5::digest(&data));
        let (modified, checksums) = (SystemTime::now(), Checksum::default());
        let stored = Stored { data, etag, modified, metadata: None, checksums, encoding: None };
        self.state.lock().unwrap().insert(bucket, key, stored).expect("the bucket is there");
    }

    /// Says of an object that its bytes are encoded so.
    pub fn encode(&self, bucket: &str, key: &str, encoding: &str) {
        let mut state = self.state.lock().unwrap();
        let stored = state.buckets.get_mut(bucket).unwrap().get_mut(key).expect("the object is there");
        stored.encoding = Some(encoding.to_owned());
    }

    /// Other bytes, but everything that the server says of the object is still of the old ones.
    pub fn rot(&self, bucket: &str, key: &str, data: Bytes) {
        let mut state = self.state.lock().unwrap();
        state.buckets.get_mut(bucket).unwrap().get_mut(key).expect("the object is there").data = data;
    }

    pub fn remove_bucket(&self, bucket: &str) {
        self.state.lock().unwrap().buckets.remove(bucket);
    }

    pub fn open_uploads(&self) -> usize {
        self.state.lock().unwrap().pending.len()
    }
}

fn done<T>(fault: Fault, output: T) -> S3Result<S3Response<T>> {
    match fault {
        Fault::FailAfter(code) => Err(error(code)),
        Fault::CutAfter => Err(cut()),
        _ => Ok(S3Response::new(output)),
    }
}

async fn receive(body: Option<StreamingBlob>, promised: Option<i64>) -> S3Result<Bytes> {
    let mut data = Vec::new();
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            data.extend_from_slice(&chunk.map_err(|_| error(S3ErrorCode::IncompleteBody))?);
        }
    }
    if promised.is_some_and(|n| n != data.len() as i64) {
        return Err(error(S3ErrorCode::IncompleteBody));
    }
    Ok(data.into())
}

/// A body that breaks off after `limit` bytes if there is one.
fn body(data: Bytes, limit: Option<usize>) -> StreamingBlob {
    let (first, broken) = match limit {
        Some(n) if n < data.len() => (data.slice(..n), true),
        _ => (data, false),
    };
    let tail = stream::once(async move {
        if broken {
            // hyper must have sent the head and these bytes before it sees the error, else it drops them.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(std::io::Error::other("body cut by the fault hook"))
        } else {
            Ok(Bytes::new())
        }
    });
    StreamingBlob::wrap(stream::iter([Ok(first)]).chain(tail))
}

#[async_trait::async_trait]
impl S3 for MemoryS3 {
    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let mut i = req.input;
        let seen = {
            let mut state = self.state.lock().unwrap();
            let seen = state.generation(&i.bucket, &i.key);
            state.bucket(&i.bucket)?;
            seen
        };
        let fault = self.control.enter("PutObject", &i.key).await?;
        let (if_match, if_none_match) = (i.if_match.as_ref(), i.if_none_match.as_ref());
        self.state.lock().unwrap().check(&i.bucket, &i.key, if_match, if_none_match, seen)?;
        let data = receive(i.body.take(), i.content_length).await?;
        let algorithm = i.checksum_algorithm.as_ref().map(|a| a.as_str());
        let checksums = checksum::verify(&data, given!(i), req.trailing_headers, algorithm)?;
        let etag = hex(&Md5::digest(&data));
        let mut state = self.state.lock().unwrap();
        state.check(&i.bucket, &i.key, if_match, if_none_match, seen)?;
        let modified = SystemTime::now();
        let (metadata, sums) = (i.metadata, checksums.clone());
        let stored = Stored { data, etag: etag.clone(), modified, metadata, checksums: sums, encoding: None };
        state.insert(&i.bucket, &i.key, stored)?;
        done(
            fault,
            PutObjectOutput {
                e_tag: Some(ETag::Strong(etag)),
                checksum_crc32: checksums.checksum_crc32,
                checksum_crc32c: checksums.checksum_crc32c,
                checksum_crc64nvme: checksums.checksum_crc64nvme,
                checksum_sha1: checksums.checksum_sha1,
                checksum_sha256: checksums.checksum_sha256,
                ..Default::default()
            },
        )
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let i = req.input;
        let fault = self.control.enter("GetObject", &i.key).await?;
        let found = self.state.lock().unwrap().find(&i.bucket, &i.key)?;
        if i.if_match.as_ref().is_some_and(|c| !matches(c, &found.etag)) {
            return Err(error(S3ErrorCode::PreconditionFailed));
        }
        if i.if_none_match.as_ref().is_some_and(|c| matches(c, &found.etag)) {
            return Err(error(S3ErrorCode::NotModified));
        }
        let length = found.data.len() as u64;
        let range = i.range.map(|r| r.check(length)).transpose()?;
        let data = match &range {
            Some(r) => found.data.slice(r.start as usize..r.end as usize),
            None => found.data.clone(),
        };
        let sums =
            if range.is_none() && i.checksum_mode.is_some() { found.checksums } else { Checksum::default() };
        let limit = match &fault {
            Fault::ShortBody(n) => Some(*n),
            _ => None,
        };
        done(
            fault,
            GetObjectOutput {
                content_length: Some(data.len() as i64),
                body: Some(body(data, limit)),
                content_range: range
                    .map(|r| format!("bytes {}-{}/{length}", r.start, r.end.saturating_sub(1))),
                accept_ranges: Some("bytes".into()),
                e_tag: Some(ETag::Strong(found.etag)),
                last_modified: Some(found.modified.into()),
                metadata: found.metadata,
                checksum_crc32: sums.checksum_crc32,
                checksum_crc32c: sums.checksum_crc32c,
                checksum_crc64nvme: sums.checksum_crc64nvme,
                checksum_sha1: sums.checksum_sha1,
                checksum_sha256: sums.checksum_sha256,
                ..Default::default()
            },
        )
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let i = req.input;
        let fault = self.control.enter("HeadObject", &i.key).await?;
        let found = self.state.lock().unwrap().find(&i.bucket, &i.key)?;
        done(
            fault,
            HeadObjectOutput {
                content_length: Some(found.data.len() as i64),
                accept_ranges: Some("bytes".into()),
                e_tag: Some(ETag::Strong(found.etag)),
                last_modified: Some(found.modified.into()),
                metadata: found.metadata,
                content_encoding: found.encoding,
                ..Default::default()
            },
        )
    }

    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let mut state = self.state.lock().unwrap();
        if state.buckets.contains_key(&req.input.bucket) {
            return Err(error(S3ErrorCode::BucketAlreadyOwnedByYou));
        }
        state.buckets.insert(req.input.bucket, BTreeMap::new());
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.state.lock().unwrap().bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let i = req.input;
        let fault = self.control.enter("DeleteObject", &i.key).await?;
        let mut state = self.state.lock().unwrap();
        if state.bucket(&i.bucket)?.remove(&i.key).is_some() {
            state.changed(&i.bucket, &i.key);
        }
        done(fault, DeleteObjectOutput::default())
    }

    /// Without delimiter: enough for us, and for a person or a script that looks what is there.
    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let i = req.input;
        let prefix = i.prefix.unwrap_or_default();
        let fault = self.control.enter("ListObjectsV2", &prefix).await?;
        let limit = i.max_keys.map_or(PAGE_MAX_KEYS, |n| usize::try_from(n).unwrap_or(0).min(PAGE_MAX_KEYS));
        let after = i.continuation_token.or(i.start_after.clone());
        let mut state = self.state.lock().unwrap();
        let objects = state.bucket(&i.bucket)?.range(prefix.clone()..);
        let mut objects = objects
            .take_while(|(k, _)| k.starts_with(&prefix))
            .skip_while(|(k, _)| after.as_ref().is_some_and(|after| *k <= after));
        // What goes on behind the delimiter is one prefix, and counts once.
        let delimiter = i.delimiter.filter(|delimiter| !delimiter.is_empty());
        let folder = |key: &str| {
            let end = key[prefix.len()..].find(delimiter.as_deref()?)? + delimiter.as_ref()?.len();
            Some(key[..prefix.len() + end].to_owned())
        };
        let (mut found, mut folders, mut next) = (Vec::new(), BTreeSet::new(), None);
        let mut more = false;
        for (key, stored) in objects.by_ref() {
            let own = folder(key);
            let is_new = own.as_ref().is_none_or(|folder| !folders.contains(folder));
            if is_new && found.len() + folders.len() == limit {
                more = true;
                break;
            }
            next = Some(key.clone());
            match own {
                Some(folder) => drop(folders.insert(folder)),
                None => found.push((key, stored)),
            }
        }
        let contents: Vec<Object> = found
            .into_iter()
            .map(|(key, stored)| Object {
                key: Some(key.clone()),
                size: Some(stored.data.len() as i64),
                e_tag: Some(ETag::Strong(stored.etag.clone())),
                last_modified: Some(stored.modified.into()),
                ..Default::default()
            })
            .collect();
        let prefixes = folders.into_iter().map(|folder| CommonPrefix { prefix: Some(folder) });
        let common_prefixes: Vec<CommonPrefix> = prefixes.collect();
        done(
            fault,
            ListObjectsV2Output {
                name: Some(i.bucket),
                prefix: Some(prefix),
                key_count: Some((contents.len() + common_prefixes.len()) as i32),
                max_keys: Some(limit as i32),
                start_after: i.start_after,
                is_truncated: Some(more),
                next_continuation_token: next.filter(|_| more),
                contents: Some(contents),
                common_prefixes: Some(common_prefixes),
                ..Default::default()
            },
        )
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let i = req.input;
        let fault = self.control.enter("CreateMultipartUpload", &i.key).await?;
        let mut state = self.state.lock().unwrap();
        state.bucket(&i.bucket)?;
        state.uploads += 1;
        let id = format!("upload-{}", state.uploads);
        let generation = state.generation(&i.bucket, &i.key);
        let (bucket, key, metadata) = (i.bucket.clone(), i.key.clone(), i.metadata);
        let pending = Pending { bucket, key, metadata, generation, parts: BTreeMap::new() };
        state.pending.insert(id.clone(), pending);
        done(
            fault,
            CreateMultipartUploadOutput {
                bucket: Some(i.bucket),
                key: Some(i.key),
                upload_id: Some(id),
                ..Default::default()
            },
        )
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let mut i = req.input;
        let fault = self.control.enter("UploadPart", &i.key).await?;
        let data = receive(i.body.take(), i.content_length).await?;
        let algorithm = i.checksum_algorithm.as_ref().map(|a| a.as_str());
        let checksums = checksum::verify(&data, given!(i), req.trailing_headers, algorithm)?;
        let digest: [u8; 16] = Md5::digest(&data).into();
        let mut state = self.state.lock().unwrap();
        let pending = state.pending.get_mut(&i.upload_id).ok_or_else(|| error(S3ErrorCode::NoSuchUpload))?;
        pending.parts.insert(i.part_number, (data, digest));
        done(
            fault,
            UploadPartOutput {
                e_tag: Some(ETag::Strong(hex(&digest))),
                checksum_crc32c: checksums.checksum_crc32c,
                ..Default::default()
            },
        )
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let i = req.input;
        let fault = self.control.enter("CompleteMultipartUpload", &i.key).await?;
        let mut state = self.state.lock().unwrap();
        let pending = state.pending.get(&i.upload_id).filter(|p| p.bucket == i.bucket && p.key == i.key);
        let pending = pending.ok_or_else(|| error(S3ErrorCode::NoSuchUpload))?;
        let wanted = i.multipart_upload.and_then(|m| m.parts).filter(|p| !p.is_empty());
        let wanted = wanted.ok_or_else(|| error(S3ErrorCode::InvalidRequest))?;
        let (mut data, mut digests, mut previous) = (Vec::new(), Md5::new(), 0);
        for (n, part) in wanted.iter().enumerate() {
            let number = part.part_number.unwrap_or(0);
            if number <= previous {
                return Err(error(S3ErrorCode::InvalidPartOrder));
            }
            previous = number;
            let (bytes, digest) =
                pending.parts.get(&number).ok_or_else(|| error(S3ErrorCode::InvalidPart))?;
            if part.e_tag.as_ref().is_some_and(|e| e.value() != hex(digest)) {
                return Err(error(S3ErrorCode::InvalidPart));
            }
            if n + 1 < wanted.len() && bytes.len() < PART_MIN_BYTES {
                return Err(error(S3ErrorCode::EntityTooSmall));
            }
            data.extend_from_slice(bytes);
            digests.update(digest);
        }
        let etag = format!("{}-{}", hex(&digests.finalize()), wanted.len());
        let metadata = pending.metadata.clone();
        // If-None-Match: what counts is the time since the upload was created; If-Match: only now.
        let created = pending.generation;
        let seen = if i.if_match.is_some() { state.generation(&i.bucket, &i.key) } else { created };
        state.check(&i.bucket, &i.key, i.if_match.as_ref(), i.if_none_match.as_ref(), seen)?;
        state.pending.remove(&i.upload_id);
        let (modified, checksums) = (SystemTime::now(), Checksum::default());
        let stored =
            Stored { data: data.into(), etag: etag.clone(), modified, metadata, checksums, encoding: None };
        state.insert(&i.bucket, &i.key, stored)?;
        done(
            fault,
            CompleteMultipartUploadOutput {
                bucket: Some(i.bucket),
                key: Some(i.key),
                e_tag: Some(ETag::Strong(etag)),
                ..Default::default()
            },
        )
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let fault = self.control.enter("AbortMultipartUpload", &req.input.key).await?;
        let removed = self.state.lock().unwrap().pending.remove(&req.input.upload_id);
        removed.ok_or_else(|| error(S3ErrorCode::NoSuchUpload))?;
        done(fault, AbortMultipartUploadOutput::default())
    }
}
