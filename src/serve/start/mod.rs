//! What a start has in common, whether a mount shows the directory or nothing does: the locks, the journal,
//! the remote, and how the disk and the newest version become one tree.
pub mod lock;
pub mod reconcile;
mod remounted;
mod replaced;
pub mod reports;
pub mod store_check;

use super::run::doubt;
use super::startup::StatusPipe;
use crate::config::{self, MountSettings, OnConflict};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Journal, SledJournal};
use crate::layer::PackOptions;
use crate::state::commit::{CommitOptions, Layout, Lost};
use crate::state::head::VersionId;
use crate::state::record::Records;
use lock::Locks;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where in a state directory local files go that the remote has otherwise.
pub const ASIDE: &str = "conflicts";

/// How long a remote may say nothing before a person is told that it is waited for.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a start waits for the journal of another one that is still ending.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(5);

/// The records of a directory that is locked; whether an earlier journal was damaged and had to be set aside.
pub fn open_records(
    settings: &MountSettings,
    locks: &Locks,
    status: &StatusPipe,
) -> Result<(Arc<Records>, bool)> {
    let opened = SledJournal::open(&settings.state_dir.join("journal"), JOURNAL_PATIENCE)?;
    let lost = opened.damage.is_some();
    if let Some(damage) = opened.damage {
        status.notice(format!(
            "the journal was damaged and has been set aside ({}); everything is compared with the remote: {}",
            damage.moved_to.display(),
            damage.reason
        ));
    }
    let journal: Arc<dyn Journal> = Arc::new(opened.journal);
    let mut records = Records::open(journal, &settings.remote, settings.name.as_str())?;
    if doubt::is_in(&settings.state_dir) {
        records.doubt();
        // Until an orderly end the journal says the same from now on.
        if let Err(error) = doubt::settle(&settings.state_dir) {
            tracing::warn!(%error, "the next start will compare everything as well");
        }
    }
    replaced::forget_another(settings, &records, locks, status)?;
    Ok((Arc::new(records), lost))
}

/// How versions are made.
pub fn commit_options(settings: &MountSettings) -> CommitOptions {
    CommitOptions {
        layout: match settings.layout {
            config::Layout::Layered | config::Layout::Log => Layout::Layered,
            config::Layout::Single => Layout::Single,
        },
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pack: PackOptions { level: settings.level as i32, ..PackOptions::default() },
        dictionary: settings.dictionary,
        log: settings.layout == config::Layout::Log,
        at_once: false,
        lost: match settings.on_conflict {
            OnConflict::Fork => Lost::Fork,
            OnConflict::Merge => Lost::Merge,
            OnConflict::Fail | OnConflict::ReadOnly => Lost::GiveWay,
        },
    }
}

/// A version as people and JSON see it.
pub fn version(version: VersionId) -> Option<String> {
    (version > 0).then(|| version.to_string())
}

/// Waits for `work` until `limit`, if there is one; then it is dropped. Needs a runtime with time enabled.
pub async fn within<T>(limit: Option<Instant>, work: impl Future<Output = T>) -> Result<T> {
    let Some(limit) = limit else { return Ok(work.await) };
    let late = |_| Error::new(ErrorKind::Unavailable, "the remote did not give everything in time");
    tokio::time::timeout_at(limit.into(), work).await.map_err(late)
}

/// Waits for `work`, the first that is asked of the remote, and tells a person if that takes long: nothing else would.
pub async fn answered<T>(settings: &MountSettings, status: &StatusPipe, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    match tokio::time::timeout(SILENCE, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            status.notice(format!("waiting for the remote, which has not answered yet: {}", settings.remote));
            work.await
        }
    }
}

/// Opens a directory for calls relative to it.
pub fn open_directory(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io(format!("cannot open directory: {}", path.display()), e))
}
