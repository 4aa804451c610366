//! [`Inserted`]: files that are put into the cache, from wherever they come.
use super::cache::Cache;
use super::error::CacheError;
use super::file::File;
use super::fill::{Begun, Fill, FillOptions};
use super::key::Key;
use super::waiting::Waiting;
use bytes::Bytes;
use futures::StreamExt;
use std::path::Path;

/// What an insert led to.
#[derive(Debug)]
pub enum Inserted {
    /// It is there from now on.
    New(File),
    /// It was there already, and was not changed.
    There(File),
    /// Somebody fills it already.
    Filling(Waiting),
}

impl Inserted {
    /// The file that the key names; waits for the end of somebody else's fill.
    pub async fn file(self) -> Result<File, CacheError> {
        match self {
            Self::New(file) | Self::There(file) => Ok(file),
            Self::Filling(waiting) => waiting.file().await,
        }
    }
}

impl Cache {
    /// Begins to fill a file, or says that it is there or who fills it. For whoever appends piece by piece,
    /// and to reserve a key that somebody will fill. Blocks for a moment.
    pub fn begin(&self, key: &Key, options: FillOptions) -> Result<Begun, CacheError> {
        Fill::begin(&self.core, key, options)
    }

    /// Inserts bytes.
    pub async fn insert(&self, key: &Key, bytes: Bytes) -> Result<Inserted, CacheError> {
        let size = Some(bytes.len() as u64);
        self.fill_blocking(key, size, move |mut fill| {
            fill.write_blocking(&bytes)?;
            fill.finish_blocking()
        })
        .await
    }

    /// Inserts a copy of a file.
    pub async fn insert_copy(&self, key: &Key, path: &Path) -> Result<Inserted, CacheError> {
        let path = path.to_path_buf();
        self.fill_blocking(key, None, move |fill| copy(fill, &path)).await
    }

    /// Inserts a file by renaming it: it is gone from its place. It must not be changed any more through a
    /// descriptor that is still open. One on another file system, or with more than one name, is copied and
    /// removed. If it is not inserted it stays where it is.
    pub async fn insert_rename(&self, key: &Key, path: &Path) -> Result<Inserted, CacheError> {
        use std::os::unix::fs::MetadataExt;
        let path = path.to_path_buf();
        let root = self.core.store.root().to_path_buf();
        self.fill_blocking(key, None, move |fill| {
            let meta = std::fs::symlink_metadata(&path).map_err(|e| CacheError::io("look at", &path, e))?;
            if !meta.is_file() {
                return Err(CacheError::Invalid { what: format!("no plain file: {}", path.display()) });
            }
            let same = std::fs::metadata(&root).is_ok_and(|root| root.dev() == meta.dev());
            if same && meta.nlink() == 1 {
                return fill.adopt(&path);
            }
            let file = copy(fill, &path)?;
            std::fs::remove_file(&path).map_err(|e| CacheError::io("remove", &path, e))?;
            Ok(file)
        })
        .await
    }

    /// Inserts what a stream brings, of a known size or not. Readers have it as it comes.
    pub async fn insert_stream<S, E>(
        &self,
        key: &Key,
        options: FillOptions,
        stream: S,
    ) -> Result<Inserted, CacheError>
    where
        S: futures::Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display,
    {
        let begun = self.begin_elsewhere(key, options).await?;
        let mut fill = match begun {
            Begun::There(file) => return Ok(Inserted::There(file)),
            Begun::Filling(waiting) => return Ok(Inserted::Filling(waiting)),
            Begun::Fill(fill) => fill,
        };
        let mut stream = std::pin::pin!(stream);
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(bytes) => fill.write(bytes).await?,
                Err(e) => {
                    let why = e.to_string();
                    fill.give_up(why.clone());
                    return Err(CacheError::GivenUp { why });
                }
            }
        }
        fill.finish().await.map(Inserted::New)
    }

    async fn begin_elsewhere(&self, key: &Key, options: FillOptions) -> Result<Begun, CacheError> {
        let (core, key) = (self.core.clone(), key.clone());
        let begun = self.core.runtime.spawn_blocking(move || Fill::begin(&core, &key, options));
        begun.await.unwrap_or(Err(CacheError::Closed))
    }

    async fn fill_blocking(
        &self,
        key: &Key,
        size: Option<u64>,
        work: impl FnOnce(Fill) -> Result<File, CacheError> + Send + 'static,
    ) -> Result<Inserted, CacheError> {
        let (core, key) = (self.core.clone(), key.clone());
        let done = self.core.runtime.spawn_blocking(move || {
            match Fill::begin(&core, &key, FillOptions { size, filler: "insert".into() })? {
                Begun::Fill(fill) => work(fill).map(Inserted::New),
                Begun::There(file) => Ok(Inserted::There(file)),
                Begun::Filling(waiting) => Ok(Inserted::Filling(waiting)),
            }
        });
        done.await.unwrap_or(Err(CacheError::Closed))
    }
}

fn copy(mut fill: Fill, path: &Path) -> Result<File, CacheError> {
    use std::io::Read;
    let io = |e| CacheError::io("read", path, e);
    let mut source = std::fs::File::open(path).map_err(io)?;
    let found = source.metadata().map_err(io)?;
    if found.is_file() {
        fill.foresee(found.len())?;
    }
    let mut buffer = vec![0; 1 << 20];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return fill.finish_blocking(),
            Ok(n) => fill.write_blocking(&buffer[..n])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(e)),
        }
    }
}
