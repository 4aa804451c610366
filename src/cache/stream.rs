//! [`Stream`]: a file from any offset on, whether all of it is there or not.
use super::core::Core;
use super::error::CacheError;
use super::file::File;
use super::filling::{Filling, Progress, State};
use bytes::Bytes;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::watch;

/// The most bytes that come at once.
pub const PIECE_MAX_BYTES: usize = 256 << 10;

/// Reads what is there, and waits for the rest while it comes.
#[derive(Debug)]
pub struct Stream {
    source: Source,
    position: u64,
    end: u64,
}

#[derive(Debug)]
enum Source {
    Filling { core: Arc<Core>, filling: Arc<Filling>, progress: watch::Receiver<Progress> },
    File(File),
}

impl Stream {
    pub(super) fn filling(core: Arc<Core>, filling: Arc<Filling>) -> Self {
        let progress = filling.progress.subscribe();
        Self { source: Source::Filling { core, filling, progress }, position: 0, end: u64::MAX }
    }

    pub(super) fn file(file: File) -> Self {
        Self { source: Source::File(file), position: 0, end: u64::MAX }
    }

    /// Only these bytes of it, cut off at the end.
    #[must_use]
    pub fn range(mut self, range: std::ops::Range<u64>) -> Self {
        (self.position, self.end) = (range.start, range.end);
        self
    }

    /// The size of the whole, if it is known by now.
    pub fn size(&self) -> Option<u64> {
        match &self.source {
            Source::File(file) => Some(file.size()),
            Source::Filling { filling, progress, .. } => match &progress.borrow().state {
                State::Done(file) => Some(file.size()),
                _ => filling.size,
            },
        }
    }

    /// Where it is, in bytes from the beginning of the file.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes, at most `PIECE_MAX_BYTES`; `None` at the end. If the fill fails, its cause: the
    /// file will not be there, and the reader must get it elsewhere.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CacheError> {
        loop {
            match &mut self.source {
                Source::File(file) => {
                    let length = self.end.saturating_sub(self.position).min(PIECE_MAX_BYTES as u64);
                    let bytes = file.read(self.position, length as usize).await?;
                    self.position += bytes.len() as u64;
                    return Ok((!bytes.is_empty()).then_some(bytes));
                }
                Source::Filling { core, filling, progress } => {
                    let (written, state) = {
                        let now = progress.borrow_and_update();
                        (now.written, now.state.clone())
                    };
                    match state {
                        State::Failed(cause) => return Err(cause),
                        State::Done(file) => self.source = Source::File(file),
                        State::Writing if self.position >= self.end => return Ok(None),
                        State::Writing if self.position < written => {
                            let length = written.min(self.end) - self.position;
                            let mut buffer = core.pool.take(length.min(PIECE_MAX_BYTES as u64) as usize);
                            // Just written: it comes out of the page cache.
                            match filling.file.read_exact_at(buffer.space(), self.position) {
                                Ok(()) => {
                                    let bytes = buffer.freeze();
                                    self.position += bytes.len() as u64;
                                    return Ok(Some(bytes));
                                }
                                // Given up meanwhile: the state will say why.
                                Err(_) if matches!(progress.borrow().state, State::Failed(_)) => {}
                                Err(e) => return Err(CacheError::io("read", "tmp", e)),
                            }
                        }
                        State::Writing => progress.changed().await.map_err(|_| CacheError::Closed)?,
                    }
                }
            }
        }
    }

    /// As a stream of the `futures` crate.
    pub fn into_stream(self) -> impl futures::Stream<Item = Result<Bytes, CacheError>> + Send {
        futures::stream::try_unfold(self, |mut stream| async move {
            Ok(stream.next().await?.map(|bytes| (bytes, stream)))
        })
    }
}
