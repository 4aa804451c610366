//! [`S3Upload`]: an object of unknown length, sent while it is being made.
use super::super::{Condition, RemoteError, Tag, Upload};
use super::answer::{self, Kind};
use super::{ANSWER_TIMEOUT, S3Store, conditions, put_limit, within};
use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream as SdkStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;

/// Parts being sent at the same time; one more is being filled.
pub const PARTS_IN_FLIGHT: usize = 3;
/// The limit of S3.
pub const PARTS_MAX: i32 = 10_000;
/// The metadata that tells our object from another writer's when a reply was lost.
const MARK: &str = "icecache-upload";

pub(super) struct S3Upload {
    store: S3Store,
    key: String,
    condition: Condition,
    mark: String,
    buffer: BytesMut,
    /// The id, once there is more than one part.
    multipart: Option<String>,
    sending: JoinSet<Result<CompletedPart, RemoteError>>,
    sent: Vec<CompletedPart>,
    next_part: i32,
    failed: bool,
}

impl S3Upload {
    pub(super) fn new(store: S3Store, key: String, condition: Condition) -> Self {
        Self {
            store,
            key,
            condition,
            mark: uuid::Uuid::new_v4().to_string(),
            buffer: BytesMut::new(),
            multipart: None,
            sending: JoinSet::new(),
            sent: Vec::new(),
            next_part: 1,
            failed: false,
        }
    }

    async fn start(&self) -> Result<String, RemoteError> {
        let (store, key) = (&self.store, self.key.as_str());
        let full = store.full(key)?;
        store
            .policy
            .run(|_| async {
                let request = store.client.create_multipart_upload().bucket(&*store.bucket).key(&full);
                let request =
                    request.checksum_algorithm(ChecksumAlgorithm::Crc32C).metadata(MARK, &self.mark);
                let answer = within(ANSWER_TIMEOUT, key, request.send()).await?;
                let started = answer.map_err(|e| answer::meaning(&e, &store.call(Kind::Write, key)))?;
                started.upload_id.ok_or_else(|| RemoteError::Refused {
                    message: format!("answer to CreateMultipartUpload lacks an id: {key}"),
                })
            })
            .await
    }

    /// Hands the buffer to a task, after waiting for one of the parts before it if there are too many.
    async fn send_part(&mut self) -> Result<(), RemoteError> {
        let id = match &self.multipart {
            Some(id) => id.clone(),
            None => {
                let id = self.start().await?;
                self.multipart.insert(id).clone()
            }
        };
        while self.sending.len() >= PARTS_IN_FLIGHT {
            self.receive_part().await?;
        }
        if self.next_part > PARTS_MAX {
            let message = format!("object has more than {PARTS_MAX} parts, use larger ones: {}", self.key);
            return Err(RemoteError::Refused { message });
        }
        let number = self.next_part;
        self.next_part += 1;
        let bytes = self.buffer.split().freeze();
        let (store, key) = (self.store.clone(), self.key.clone());
        self.sending.spawn(async move {
            store.policy.run(|_| send_part_once(&store, &key, &id, number, bytes.clone())).await
        });
        Ok(())
    }

    async fn receive_part(&mut self) -> Result<(), RemoteError> {
        match self.sending.join_next().await {
            None => Ok(()),
            Some(Ok(part)) => {
                self.sent.push(part?);
                Ok(())
            }
            Some(Err(e)) => Err(RemoteError::Unavailable { message: format!("part was not sent: {e}") }),
        }
    }

    async fn append(&mut self, mut bytes: Bytes) -> Result<(), RemoteError> {
        while !bytes.is_empty() {
            if self.buffer.len() == self.store.part_bytes {
                self.send_part().await?;
            }
            let take = bytes.len().min(self.store.part_bytes - self.buffer.len());
            self.buffer.extend_from_slice(&bytes.split_to(take));
        }
        Ok(())
    }

    /// Publishes; a lost reply is recognised by the mark.
    async fn publish(&mut self) -> Result<Tag, RemoteError> {
        if self.failed {
            let message = format!("an earlier write of the upload failed: {}", self.key);
            return Err(RemoteError::Unavailable { message });
        }
        if self.multipart.is_some() {
            self.send_part().await?;
            while !self.sending.is_empty() {
                self.receive_part().await?;
            }
            self.sent.sort_by_key(|part| part.part_number);
        }
        let whole = self.buffer.split().freeze();
        let this = &*self;
        let policy = this.store.policy;
        let mut repeated = false;
        let publish = |failed| {
            repeated = failed > 0;
            this.publish_once(whole.clone(), failed > 0)
        };
        match policy.run(publish).await {
            // Refused when repeated, or no word at all: perhaps because an attempt was applied after all.
            Err(error) if error.is_transient() || (repeated && is_precondition(&error)) => {
                match policy.run(|_| this.find_own()).await {
                    Ok(Some(tag)) => Ok(tag),
                    Ok(None) => Err(error),
                    // Not known to be lost, so not to be called lost.
                    Err(unknown) if unknown.is_transient() => Err(unknown),
                    Err(_) => Err(error),
                }
            }
            result => result,
        }
    }

    async fn publish_once(&self, whole: Bytes, repeated: bool) -> Result<Tag, RemoteError> {
        if repeated && let Ok(Some(tag)) = self.find_own().await {
            return Ok(tag);
        }
        match &self.multipart {
            Some(id) => self.complete(id).await,
            None => {
                let mark = Some((MARK, self.mark.as_str()));
                self.store.put_once(&self.key, whole, &self.condition, mark).await
            }
        }
    }

    async fn complete(&self, id: &str) -> Result<Tag, RemoteError> {
        let (store, key) = (&self.store, self.key.as_str());
        let (if_match, if_none_match) = conditions(&self.condition);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.sent.clone())).build();
        let request = store.client.complete_multipart_upload().bucket(&*store.bucket).key(store.full(key)?);
        let request = request.upload_id(id).multipart_upload(parts);
        let sent = request.set_if_match(if_match).set_if_none_match(if_none_match).send();
        // Putting the parts together may take the server a while.
        let answer = within(4 * ANSWER_TIMEOUT, key, sent).await?;
        let done = answer.map_err(|e| answer::meaning(&e, &store.call(Kind::of(&self.condition), key)))?;
        done.e_tag.map(Tag).ok_or_else(|| RemoteError::Refused {
            message: format!("answer to CompleteMultipartUpload lacks ETag: {key}"),
        })
    }

    /// The tag of the object if it is the one made by this upload.
    async fn find_own(&self) -> Result<Option<Tag>, RemoteError> {
        let (store, key) = (&self.store, self.key.as_str());
        let full = store.full(key)?;
        let request = store.client.head_object().bucket(&*store.bucket).key(full);
        match within(ANSWER_TIMEOUT, key, request.send()).await? {
            Ok(found) => {
                let own = found.metadata.as_ref().and_then(|m| m.get(MARK)) == Some(&self.mark);
                Ok(found.e_tag.filter(|_| own).map(Tag))
            }
            Err(e) if e.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(None),
            Err(e) => Err(answer::meaning(&e, &store.call(Kind::Read, key))),
        }
    }
}

fn is_precondition(error: &RemoteError) -> bool {
    matches!(error, RemoteError::Precondition { .. })
}

async fn send_part_once(
    store: &S3Store,
    key: &str,
    id: &str,
    number: i32,
    bytes: Bytes,
) -> Result<CompletedPart, RemoteError> {
    let limit = put_limit(bytes.len());
    let request = store.client.upload_part().bucket(&*store.bucket).key(store.full(key)?);
    let sent = request
        .upload_id(id)
        .part_number(number)
        .checksum_algorithm(ChecksumAlgorithm::Crc32C)
        .body(SdkStream::from(bytes))
        .customize()
        .disable_payload_signing()
        .send();
    let answer = within(limit, key, sent).await?;
    let part = answer.map_err(|e| answer::meaning(&e, &store.call(Kind::Write, key)))?;
    Ok(CompletedPart::builder()
        .part_number(number)
        .set_e_tag(part.e_tag)
        .set_checksum_crc32_c(part.checksum_crc32_c)
        .build())
}

/// Tells the server to forget the parts. Best effort: a bucket's lifecycle rule is the backstop.
async fn forget(store: S3Store, key: String, id: String) {
    let Ok(full) = store.full(&key) else { return };
    let request = store.client.abort_multipart_upload().bucket(&*store.bucket).key(full).upload_id(id);
    match within(ANSWER_TIMEOUT, &key, request.send()).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => tracing::debug!(key, error = answer::chain(&e), "parts of an upload were not freed"),
        Err(error) => tracing::debug!(key, %error, "parts of an upload were not freed"),
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), RemoteError> {
        let result = self.append(bytes).await;
        self.failed |= result.is_err();
        result
    }

    async fn finish(mut self: Box<Self>) -> Result<Tag, RemoteError> {
        let result = self.publish().await;
        match &result {
            Ok(_) => self.multipart = None,
            Err(_) => self.abort().await,
        }
        result
    }

    async fn abort(mut self: Box<Self>) {
        self.sending.shutdown().await; // a part that arrives after the abort would stay
        if let Some(id) = self.multipart.take() {
            forget(self.store.clone(), self.key.clone(), id).await;
        }
    }
}

impl Drop for S3Upload {
    /// Neither finished nor aborted, as when the task around it was cancelled.
    fn drop(&mut self) {
        if let (Some(id), Ok(runtime)) = (self.multipart.take(), tokio::runtime::Handle::try_current()) {
            self.sending.abort_all();
            runtime.spawn(forget(self.store.clone(), self.key.clone(), id));
        }
    }
}
