//! Branches and tags that somebody has looked into: they move with their table.
use super::lake::Lake;
use super::slot::{Shown, Slot};
use futures::stream::{self, StreamExt, TryStreamExt};
use icecache_iceberg::TableError;
use std::collections::BTreeSet;

/// So many branches and tags of a table are brought at once: what each of them waits for is the disk.
const REFERENCES_AT_ONCE: usize = 8;

impl Lake {
    /// The branches and tags that somebody has looked into, as this version has them. One that has not moved since `old`
    /// is left alone.
    pub(super) async fn bring_references(
        &self,
        slot: &Slot,
        new: &Shown,
        old: Option<&Shown>,
    ) -> Result<(), TableError> {
        let has_moved =
            |name: &&String| old.is_none_or(|old| !new.publication.has_still(&old.publication, name));
        let wanted: Vec<String> = slot.references.lock().iter().filter(has_moved).cloned().collect();
        let snapshot = |name: &String| Some(new.publication.metadata().refs.get(name)?.snapshot);
        // Whoever reads the hint of one must find the files; several may be of one snapshot.
        let snapshots: BTreeSet<i64> = wanted.iter().filter_map(snapshot).collect();
        let learned = stream::iter(snapshots).map(|id| async move {
            match self.learn_snapshot(id, new, old).await {
                Err(error) if !error.is_of_a_file() => Err(error),
                // Those of which it is are told of it.
                _ => Ok(()),
            }
        });
        learned.buffer_unordered(REFERENCES_AT_ONCE).try_collect::<()>().await?;
        let brought = stream::iter(wanted).map(|name| self.bring_reference(slot, name, new, old));
        brought.buffer_unordered(REFERENCES_AT_ONCE).try_collect().await
    }

    async fn bring_reference(
        &self,
        slot: &Slot,
        name: String,
        new: &Shown,
        old: Option<&Shown>,
    ) -> Result<(), TableError> {
        let brought = async {
            if let Some(reference) = new.publication.metadata().refs.get(&name) {
                self.learn_snapshot(reference.snapshot, new, old).await?;
            }
            new.publication.reference(&name).await
        };
        match brought.await {
            Ok(_) => {}
            Err(TableError::NoSuch { .. }) => drop(slot.references.lock().remove(&name)),
            Err(error) if error.is_of_a_file() => {
                tracing::warn!(table = %slot.id, name, %error, "a branch or a tag cannot be shown");
                slot.references.lock().remove(&name);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn learn_snapshot(
        &self,
        snapshot: i64,
        new: &Shown,
        old: Option<&Shown>,
    ) -> Result<(), TableError> {
        let is_known = |shown: &Shown| shown.learned.lock().contains(&snapshot);
        if is_known(new) || old.is_some_and(is_known) {
            return Ok(());
        }
        self.learn(&new.publication, &new.publication.files(snapshot).await?, false);
        new.learned.lock().insert(snapshot);
        Ok(())
    }
}
