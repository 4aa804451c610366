//! [`Writer`]: writes lists, manifests and deletes into the folder, from the leaves up.
use super::folder::{Folder, Staged};
use super::progress::{Halt, Progress};
use super::{Place, Step, StepKind};
use crate::error::TableError;
use crate::location::Location;
use crate::mapping::rewritten_name;
use crate::metadata::Manifests;
use crate::objects::Objects;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// So many small files of deletes are in memory at once. A larger one counts as several.
const DELETES_AT_ONCE: usize = 16;

/// Rewrites files of one table into its folder. Clones share the bounds on what is done at once.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub objects: Arc<dyn Objects>,
    pub place: Arc<Place>,
    pub folder: Folder,
    pub deletes: Arc<Semaphore>,
}

/// A file that is written aside, and will last.
#[derive(Debug)]
pub(super) struct Draft {
    step: Step,
    staged: Staged,
}

/// The path of a manifest list below the folder.
pub(super) fn list_path(snapshot: i64, manifests: &Manifests) -> String {
    match manifests {
        Manifests::List(location) => format!("metadata/{}", rewritten_name(location)),
        Manifests::Inline(locations) => {
            let mut hasher = blake3::Hasher::new();
            for location in locations {
                hasher.update(location.as_str().as_bytes()).update(&[0]);
            }
            format!("metadata/snap-{snapshot}.{}.avro", &hasher.finalize().to_hex()[..16])
        }
    }
}

/// A location in a file of the table.
pub(super) fn location(text: &str, file: &str) -> Result<Location, TableError> {
    text.parse::<Location>().map_err(|error| TableError::malformed(file, error.to_string()))
}

/// Runs `work` where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TableError> + Send + 'static,
) -> Result<T, TableError> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// What has come of work where blocking is allowed.
pub(super) fn joined<T>(ended: Result<Result<T, TableError>, JoinError>) -> Result<T, TableError> {
    match ended {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(TableError::malformed("folder of the table", "the program is ending")),
    }
}

impl Writer {
    pub fn new(objects: Arc<dyn Objects>, place: Arc<Place>, folder: Folder) -> Self {
        Self { objects, place, folder, deletes: Arc::new(Semaphore::new(DELETES_AT_ONCE)) }
    }

    /// The URI of a path below the folder.
    pub fn uri(&self, path: &str) -> String {
        self.place.mapping.uri(&format!("{}/{path}", self.place.path))
    }

    pub async fn size(&self, path: &str) -> Result<Option<u64>, TableError> {
        let (folder, path) = (self.folder.clone(), path.to_owned());
        blocking(move || folder.size(&path)).await
    }

    /// Writes a file aside, so that it lasts.
    pub async fn draft(
        &self,
        kind: StepKind,
        path: String,
        bytes: impl FnOnce() -> Result<Vec<u8>, TableError> + Send + 'static,
    ) -> Result<Draft, TableError> {
        let folder = self.folder.clone();
        blocking(move || {
            let bytes = bytes()?;
            let staged = folder.stage(&path, &bytes)?;
            staged.sync()?;
            Ok(Draft { step: Step { kind, path, size: bytes.len() as u64 }, staged })
        })
        .await
    }

    /// Places a file that names others in the folder `metadata`: first their names, which are to last as it does.
    pub async fn place(&self, draft: Draft, progress: &Progress<'_>) -> Result<(), Halt> {
        progress.check()?;
        let (folder, Draft { step, staged }) = (self.folder.clone(), draft);
        blocking(move || {
            folder.sync("metadata")?;
            staged.place()
        })
        .await?;
        progress.done(step)
    }
}
