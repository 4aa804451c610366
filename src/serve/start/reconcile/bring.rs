//! Bringing a version to the directory, beside what stands there.
use super::databases::Databases;
use super::judge::Judge;
use super::kept::Kept;
use super::local::Local;
use super::restored::{self, Restored};
use super::{Locks, Start};
use crate::config::{Layout, OnExisting};
use crate::error::{Error, Result};
use crate::path::RelPath;
use crate::serve::start::reports::Reports;
use crate::serve::start::within;
use crate::state::commit::Opening;
use crate::state::head::archive_key;
use crate::state::record::Restoring;
use crate::state::restore::{self, Existing, LayerSource, Lenders, Policy};
use crate::state::walindex;
use crate::sync::Mutex;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Runtime;

impl Start<'_> {
    /// What stands as the version has it, and what that has where something else stays. `local`: what differs from the
    /// records, where these describe an older version; `begun`: what an earlier start did of this.
    pub(super) fn restore(
        &self,
        runtime: &Runtime,
        opening: &Opening,
        locks: &Locks,
        empty: bool,
        local: Option<&Arc<Local>>,
        begun: Option<&Restoring>,
    ) -> Result<(Restored, Restored)> {
        let found: Arc<Mutex<Restored>> = Arc::default();
        let into = found.clone();
        let merges = local.is_some() && self.merges(begun);
        let keep_local = (self.settings.on_existing == OnExisting::Local || merges) && !empty;
        self.require_closed(local.filter(|_| merges).map(|local| &local.marks))?;
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let version = opening.head.as_ref().map_or(1, |head| head.version);
        let on_begin = match begun {
            Some(_) => None,
            None => Some(self.beginning(locks, version, keep_local, local.map(|local| &local.marks))?),
        };
        let databases =
            Databases { records: self.records.clone(), root: locks.backing_fd()?, local: local.cloned() };
        let judge = Arc::new(Judge {
            records: self.records.clone(),
            root: locks.backing_fd()?,
            local: local.cloned(),
            databases: Arc::new(databases),
            then: begun.map(|begun| begun.local.clone()),
            keeps: keep_local,
            newer: self.known_layers(opening),
        });
        let gone = judge.clone();
        let (aside, aside_path) = if empty { (None, None) } else { self.new_aside()? };
        // Of a database that another one takes the place of: whoever opens the new one must not share
        // it with those who still have the old one open.
        let stale: Arc<Mutex<Vec<RelPath>>> = Arc::default();
        let (left_behind, root) = (stale.clone(), locks.backing_fd()?);
        let (records, ours, overruled) = (self.records.clone(), kept.clone(), kept.clone());
        let policy = Policy {
            existing: Existing::Keep(Box::new(move |path, entry, here, layer| {
                judge.standing(path, entry, here, layer)
            })),
            aside,
            lenient: self.settings.layout == Layout::Single,
            gone: Box::new(move |entry, layer| gone.is_gone(entry, layer)),
            lenders: Arc::new(opening.head.as_ref().map(Lenders::of).unwrap_or_default()),
            known: Some(Arc::clone(self.records.known())),
            on_restored: Some(Box::new(move |batch| {
                if !empty {
                    let replaced = batch.iter().filter(|r| !r.kept);
                    let indexes = replaced.filter_map(|r| walindex::beside(&r.path));
                    left_behind.lock().extend(indexes.filter(|path| walindex::is_at(root.as_fd(), path)));
                }
                // What stays as it is here comes as well, a directory at the end and a file that gets further names with
                // these: its record is not to say that it is saved.
                let placed = batch.iter().filter(|r| !r.kept && !ours.lock().stays(&r.path));
                if let Err(e) = records.placed(placed.map(|r| (r.path.clone(), r.identity)), !empty) {
                    tracing::warn!(error = %e, "cannot record what was placed");
                }
                into.lock().extend(batch.into_iter().map(|r| (r.path, r.identity)));
            })),
            on_overruled: Some(Box::new(move |entry| overruled.lock().stay(entry))),
            on_begin,
        };
        let progress = Reports::to(self.status);
        let root = locks.backing_fd()?;
        let restored = runtime.block_on(within(self.limit, async {
            let layers = match &opening.head {
                Some(head) => LayerSource::newest_first(head),
                None => vec![self.archive(&opening.name).await?],
            };
            Ok::<_, Error>(restore::restore(self.store.clone(), layers, root, policy, &progress).await?)
        }))??;
        for note in &restored.notes {
            self.status.notice(note.clone());
        }
        if let (false, Some(place)) = (restored.moved.is_empty(), aside_path) {
            let paths: Vec<String> = restored.moved.iter().take(10).map(ToString::to_string).collect();
            self.status.notice(format!(
                "{} local files differ from the remote's and were moved to {}: {}",
                restored.moved.len(),
                place.display(),
                paths.join(", ")
            ));
        }
        tracing::info!(entries = restored.entries, kept = restored.kept, bytes = restored.bytes, "restored");
        let mut found = std::mem::take(&mut *found.lock());
        let kept = std::mem::take(&mut *kept.lock()).settle(&mut found);
        restored::remove_all(locks, &stale.lock(), &mut found);
        restored::look_at_linked(locks, &mut found);
        self.drop_empty_aside(locks, &mut found);
        Ok((found, kept))
    }

    /// From which index on the layers (newest first) belong to the version that the records describe.
    fn known_layers(&self, opening: &Opening) -> usize {
        let base = self.records.meta().base.map(|base| base.version);
        let layers = opening.head.iter().flat_map(|head| head.layers.iter().rev());
        let newer = layers.take_while(|layer| base.is_none_or(|base| layer.version > base));
        // Without a HEAD there is one archive, and nothing says that it is ours.
        if opening.head.is_some() { newer.count() } else { usize::MAX }
    }

    /// The one object of layout single. No HEAD describes it: its length and its own checksums must do.
    async fn archive(&self, name: &str) -> Result<LayerSource> {
        let key = archive_key(name);
        let found = self.store.download(&key, None).await?;
        Ok(LayerSource { key, bytes: found.length, digest: None, dictionary: None })
    }

    /// A place for local files that the remote has otherwise.
    fn new_aside(&self) -> Result<(Option<OwnedFd>, Option<PathBuf>)> {
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.fZ").to_string();
        let place = self.aside.join(time);
        crate::serve::start::lock::own_directory(&place)?;
        Ok((Some(crate::serve::start::open_directory(&place)?.into()), Some(place)))
    }

    /// Where nothing was moved aside no place for it stays, and if that was within the directory no trace of it either.
    fn drop_empty_aside(&self, locks: &Locks, found: &mut Restored) {
        for entry in std::fs::read_dir(&self.aside).into_iter().flatten().flatten() {
            let _not_empty = std::fs::remove_dir(entry.path());
        }
        let gone = std::fs::remove_dir(&self.aside).is_ok();
        if gone && self.aside.parent() == Some(&self.settings.dir) {
            restored::set_time_back(locks, &RelPath::root(), found);
        }
    }
}
