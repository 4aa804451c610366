//! [`DirectoryUpload`]: an object of unknown length on its way into a directory.
use super::super::{Condition, RemoteError, Tag, Upload};
use super::{Aside, CHUNK_BYTES, DirectoryStore, failed};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::io::Write;

/// Bytes that are written aside until they are published.
pub(super) struct DirectoryUpload {
    store: DirectoryStore,
    key: String,
    condition: Condition,
    aside: Option<Aside>, // none after a failed write
    buffer: BytesMut,
}

impl DirectoryUpload {
    pub(super) fn new(store: DirectoryStore, key: String, condition: Condition, aside: Aside) -> Self {
        Self { store, key, condition, aside: Some(aside), buffer: BytesMut::new() }
    }

    fn broken(&self) -> RemoteError {
        RemoteError::Unavailable { message: format!("an earlier write of the upload failed: {}", self.key) }
    }

    async fn drain(&mut self) -> Result<(), RemoteError> {
        let aside = self.aside.take().ok_or_else(|| self.broken())?;
        let bytes = self.buffer.split();
        let written = self.store.blocking(move |_| {
            let mut aside = aside;
            aside.file.write_all(&bytes).map_err(|e| failed("write", &aside.path, &e))?;
            Ok(aside)
        });
        self.aside = Some(written.await?);
        Ok(())
    }
}

#[async_trait]
impl Upload for DirectoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), RemoteError> {
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.len() >= CHUNK_BYTES { self.drain().await } else { Ok(()) }
    }

    async fn finish(mut self: Box<Self>) -> Result<Tag, RemoteError> {
        self.drain().await?;
        let aside = self.aside.take().ok_or_else(|| self.broken())?;
        let (key, condition) = (self.key.clone(), self.condition.clone());
        self.store.blocking(move |shared| shared.publish(&key, aside, None, &condition)).await
    }

    async fn abort(self: Box<Self>) {
        let aside = self.aside;
        // Removing a large file takes a while; nobody waits for the outcome.
        let _ = tokio::task::spawn_blocking(move || drop(aside)).await;
    }
}
