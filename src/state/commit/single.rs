//! Layout single: one archive, replaced whole under the condition that it is the one we know.
//!
//! The archive says neither version nor writer, so it is recognised by its length and digest.
use super::*;
use crate::remote::Condition;
use crate::state::head::archive_key;
use futures::StreamExt;

impl Committer {
    pub(super) async fn commit_whole(
        &self,
        state: State,
        plan: Arc<Plan>,
        source: Arc<dyn ContentSource>,
        time: Timestamp,
    ) -> Result<Receipt, CommitError> {
        let key = archive_key(&state.name);
        let condition = match &state.tag {
            Some(tag) => Condition::IfMatch(tag.clone()),
            None => Condition::IfAbsent,
        };
        let material = pack::Material { plan: Arc::clone(&plan), source, dictionary: None };
        let (upload, packed) = pack::send(
            &*self.store,
            &key,
            condition,
            material,
            self.options.pack,
            None,
            &mut pack::Copied::default(),
        )
        .await?;
        let pending = self.stage(&state, &key, &packed, plan).await?;
        self.state.lock().unsettled = true;
        let failure = match upload.finish().await {
            Ok(tag) => {
                self.promote(&pending, None, tag).await?;
                return Ok(self.receipt(&state.name, pending.version, packed, None));
            }
            Err(e) => e,
        };
        let current = self.find_ours(&state.name).await?;
        self.state.lock().unsettled = false;
        match current {
            Found::Ours(ours, tag) => {
                let version = ours.version;
                let now = ours.layer == pending.layer && ours.digest == pending.digest;
                self.promote(&ours, None, tag).await?;
                if now {
                    Ok(self.receipt(&state.name, version, packed, None))
                } else {
                    Err(CommitError::Outdated)
                }
            }
            Found::Other(None) if state.tag.is_some() => Err(self.gone(state.name, key)),
            Found::Other(tag)
                if tag != state.tag
                    && matches!(failure, RemoteError::Precondition { .. } | RemoteError::NotFound { .. }) =>
            {
                if self.lost() == Lost::GiveWay {
                    return Err(self.give_way(state.name));
                }
                let origin = self.records.meta().name;
                let name = fork::fork_name(&origin, &self.options.host, head::instant(time), 1);
                tracing::error!(fork = %name, from = %state.name,
                    "another writer replaced the archive; our changes go to a fork");
                let target = name.clone();
                self.blocking(move |records| records.move_to_fork(&target)).await?;
                let mut next = self.state.lock();
                next.name.clone_from(&name);
                next.tag = None;
                Err(CommitError::Diverged(Forked { name, from: state.name, base: state.version }))
            }
            Found::Other(_) if matches!(failure, RemoteError::Precondition { .. }) => {
                Err(layered::refused_for_nothing(&key).into())
            }
            Found::Other(_) => Err(failure.into()),
        }
    }

    pub(super) async fn resolve_whole(&self) -> Result<(), CommitError> {
        let name = self.state().name;
        if let Some(cut_off) = self.blocking(|records| records.interrupted()).await? {
            let tag = match self.find_ours(&name).await? {
                Found::Ours(_, tag) => tag,
                Found::Other(_) => Tag(STALE_TAG.into()),
            };
            return self.promote(&cut_off, None, tag).await;
        }
        if let Found::Ours(pending, tag) = self.find_ours(&name).await? {
            self.promote(&pending, None, tag).await?;
        }
        Ok(())
    }

    /// Whether the archive in the remote is one of our pending ones.
    pub(super) async fn find_ours(&self, name: &str) -> Result<Found, CommitError> {
        let key = archive_key(name);
        let mut download = match self.store.download(&key, None).await {
            Ok(download) => download,
            Err(RemoteError::NotFound { .. }) => return Ok(Found::Other(None)),
            Err(e) => return Err(e.into()),
        };
        let mut pending = self.blocking(|records| records.pending()).await?;
        pending.retain(|p| p.layer == key && p.bytes == download.length);
        if pending.is_empty() {
            return Ok(Found::Other(Some(download.tag)));
        }
        let mut hasher = blake3::Hasher::new();
        while let Some(bytes) = download.body.next().await {
            hasher.update(&bytes?);
        }
        let digest = *hasher.finalize().as_bytes();
        Ok(match pending.into_iter().find(|p| p.digest == digest) {
            Some(ours) => Found::Ours(ours, download.tag),
            None => Found::Other(Some(download.tag)),
        })
    }
}

/// What stands at the key of the archive.
pub(super) enum Found {
    /// A pending flush of ours.
    Ours(Pending, Tag),
    /// Something else, or nothing.
    Other(Option<Tag>),
}
