//! Views: the table as of a snapshot, or as a branch or a tag has it; written once somebody asks.
use super::progress::Progress;
use super::version::HINT;
use super::writer::{blocking, list_path};
use super::{Publication, ended};
use crate::error::TableError;
use crate::mapping::escape_name;
use crate::metadata::{Snapshot, View};
use std::ops::ControlFlow;

impl Publication {
    /// Publishes `snapshots/<id>/`, the table as of that snapshot, with the schema it had then; returns its path
    /// below the folder. Once it is there it does not change any more.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if the table has no such snapshot (any more).
    pub async fn snapshot(&self, id: i64) -> Result<String, TableError> {
        let snapshot = self.find(id)?;
        let path = format!("snapshots/{id}");
        // The hint comes last. After a loss of power it may be there, but not what it said.
        let (folder, hint) = (self.writer.folder.clone(), format!("{path}/metadata/{HINT}"));
        if blocking(move || folder.read(&hint)).await?.as_deref() != Some(&b"1"[..]) {
            self.view(snapshot, &path, View::Snapshot(id), 1).await?;
        }
        Ok(path)
    }

    /// Publishes `refs/<name>/`, the table as a branch or tag has it; returns its path below the folder. A branch
    /// has the schema of the table, a tag that of its snapshot. It is of this version: call it again after the
    /// next one is published.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if the table has no such branch or tag (any more).
    pub async fn reference(&self, name: &str) -> Result<String, TableError> {
        let reference = self.metadata.refs.get(name);
        let reference =
            reference.ok_or_else(|| TableError::NoSuch { what: format!("branch or tag '{name}'") })?;
        let path = format!("refs/{}", escape_name(name));
        self.view(self.find(reference.snapshot)?, &path, View::Reference(name), self.number).await?;
        Ok(path)
    }

    async fn view(
        &self,
        snapshot: &Snapshot,
        path: &str,
        view: View<'_>,
        number: u64,
    ) -> Result<(), TableError> {
        let progress = Progress::new(|_| ControlFlow::Continue(()));
        let all = async {
            self.writer.snapshot(snapshot, &progress).await?;
            if let Some(metadata) = self.draft_version(path, view, number).await? {
                self.writer.place(metadata, &progress).await?;
            }
            self.hint(path, number, &progress).await
        };
        ended(all.await)
    }

    /// The snapshot that was the current one at a time: milliseconds since 1970, or `2026-01-31T12:00:00Z`, or
    /// `2026-01-31` (its first instant, UTC). `None` before the first, and if it has been expired.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] for what is no time.
    pub fn snapshot_at(&self, time: &str) -> Result<Option<i64>, TableError> {
        let ms = milliseconds(time).ok_or_else(|| TableError::NoSuch { what: format!("time '{time}'") })?;
        Ok(self.metadata.snapshot_at(ms))
    }

    /// Makes sure that a file below the folder which metadata names, but nobody has asked for yet (the list of an
    /// older snapshot), is there, and what it names.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if no metadata names it.
    pub async fn materialise(&self, path: &str) -> Result<(), TableError> {
        if self.writer.size(path).await?.is_some() {
            return Ok(());
        }
        let lists = self.lists.get_or_init(|| {
            let lists = self.metadata.snapshots.iter().enumerate();
            lists.map(|(n, snapshot)| (list_path(snapshot.id, &snapshot.manifests), n)).collect()
        });
        let n = lists.get(path).ok_or_else(|| TableError::NoSuch { what: format!("file {path}") })?;
        self.ensure(&self.metadata.snapshots[*n]).await
    }

    pub(super) async fn ensure(&self, snapshot: &Snapshot) -> Result<(), TableError> {
        if self.writer.size(&list_path(snapshot.id, &snapshot.manifests)).await?.is_some() {
            return Ok(());
        }
        let progress = Progress::new(|_| ControlFlow::Continue(()));
        ended(self.writer.snapshot(snapshot, &progress).await)?;
        // Published metadata names it already.
        let folder = self.writer.folder.clone();
        blocking(move || folder.sync("metadata")).await
    }
}

/// Milliseconds since 1970, of a number, an instant or a day.
fn milliseconds(time: &str) -> Option<i64> {
    if let Ok(ms) = time.parse::<i64>() {
        return Some(ms);
    }
    if let Ok(at) = time.parse::<jiff::Timestamp>() {
        return Some(at.as_millisecond());
    }
    let day: jiff::civil::Date = time.parse().ok()?;
    Some(day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}
