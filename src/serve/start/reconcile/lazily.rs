//! A start whose content comes later, and one that goes on with such.
use super::{Found, Locks, Restored, Start};
use crate::config::{Layout, OnConflict};
use crate::error::{Error, ErrorKind, Result};
use crate::path::RelPath;
use crate::serve::startup::Progress;
use crate::state::absent::{Absent, Hydrator, Pace, Source};
use crate::state::commit::{Committer, Opening, Relation};
use crate::state::dirty::Marks;
use crate::state::head::Head;
use crate::state::walindex::database_of;
use std::sync::Arc;
use tokio::runtime::Runtime;

impl Start<'_> {
    pub(super) fn absent_place(&self) -> std::path::PathBuf {
        self.settings.state_dir.join("absent")
    }

    fn source(&self, locks: &Locks) -> Result<Source> {
        Ok(Source {
            store: self.store.clone(),
            root: locks.backing_fd()?,
            place: self.absent_place(),
            records: Some(self.records.clone()),
        })
    }

    /// The version is shown at once; its content comes later.
    pub(super) fn lazily(
        &self,
        runtime: &Runtime,
        committer: &Committer,
        opening: &Opening,
        head: &Head,
        locks: &Locks,
    ) -> Result<Found> {
        self.status.progress(Progress { phase: "reading tables".into(), ..Progress::default() });
        // Of an earlier start nothing is here any more.
        self.records.forget_restore()?;
        // First what is to come, then the records that say it has come or will.
        let absent = Arc::new(runtime.block_on(self.source(locks)?.begin(head))?);
        // They are made when somebody looks at them: too late to refuse them.
        absent.try_devices().inspect_err(|_| Source::forget(&self.absent_place()))?;
        self.adopt(committer, opening, Restored::new(), Restored::new())?;
        absent.finish_root()?;
        self.records.set_absent(&absent);
        let left = absent.left();
        tracing::info!(files = left.files, bytes = left.bytes, "restored lazily");
        Ok(Found { marks: Marks::new(), absent: Some(absent) })
    }

    /// What an earlier daemon has left in the remote, and the places that directories with such have left since
    /// then.
    pub(super) fn resume(
        &self,
        runtime: &Runtime,
        locks: &Locks,
        relation: Relation,
    ) -> Result<(Option<Arc<Absent>>, Vec<RelPath>)> {
        if self.records.meta().base.is_none() {
            Source::forget(&self.absent_place()); // of a start that came to nothing
            return Ok((None, Vec::new()));
        }
        if !Source::is_left(&self.absent_place()) {
            return Ok((None, Vec::new()));
        }
        let (absent, strayed) = runtime.block_on(self.source(locks)?.resume())?;
        let absent = Arc::new(absent);
        self.records.set_absent(&absent);
        for (path, files) in strayed.lost.iter().filter(|(_, files)| *files > 0) {
            let path = if path.is_root() { "a directory".to_owned() } else { path.to_string() };
            self.status.notice(format!(
                "{path} was removed or replaced while nothing was mounted, and with it {files} files that were only in \
                 the remote: earlier versions have them ('icecache log' lists those)"
            ));
        }
        // What was named, moved or changed here and is not, must not look as if it were gone when both are brought together.
        let merges = relation == Relation::Moved && self.settings.on_conflict == OnConflict::Merge;
        let edited = || !absent.unsaved_edits().is_empty() || !absent.moved_incomplete().is_empty();
        let anew = matches!(relation, Relation::Lost | Relation::Behind | Relation::Other);
        if anew || self.settings.layout == Layout::Single || merges && edited() {
            // What is saved anew is saved whole.
            self.bring_all(runtime, &absent)?;
        }
        Ok((Some(absent), strayed.left))
    }

    fn bring_all(&self, runtime: &Runtime, absent: &Arc<Absent>) -> Result<()> {
        let (store, handle) = (self.store.clone(), runtime.handle().clone());
        let hydrator = Arc::new(Hydrator::new(absent.clone(), store, handle, true, Pace::default()));
        runtime.block_on(hydrator.bring_all(false, || ())).map_err(|e| {
            Error::new(ErrorKind::Unavailable, "cannot bring what is only in the remote").with_source(e)
        })
    }

    /// A log that was written here is nothing without the database of its version.
    pub(super) fn bring_databases(&self, runtime: &Runtime, local: &Marks) -> Result<()> {
        let Some(absent) = self.records.absent() else { return Ok(()) };
        let mut logs = local.keys().filter_map(|path| Some((path, database_of(path)?.0)));
        match logs.any(|(path, database)| *path != database && absent.is_virtual(&database)) {
            true => self.bring_all(runtime, &absent),
            false => Ok(()),
        }
    }
}
