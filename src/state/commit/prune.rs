//! What no version has needed for a while is deleted, beside the commits.
use super::layered::{self, Swap};
use super::*;
use crate::remote::Condition;
use crate::state::head::UNNEEDED_MAX;
use crate::state::prune::{self, Candidate, Deleted, Needed, PruneError};
use std::time::Duration;

/// No more objects are deleted at one time.
const AT_ONCE_MAX: usize = 1000;
/// What a fork would need is not deleted while no more layers than this are listed as unneeded.
const LISTED_FOR_A_FORK: usize = UNNEEDED_MAX / 2;

/// Why a deletion came to nothing, or to nothing that HEAD knows of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruningError {
    /// Nothing was deleted.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// What was deleted is still listed; it will be deleted once more, which does no harm.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl PruningError {
    /// Whether the store does not let us find out what is needed, or cannot tell.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Prune(PruneError::List(error)) if !error.is_transient())
    }
}

impl Committer {
    /// How many layers nothing needs, and their bytes.
    pub fn unneeded(&self) -> (u64, u64) {
        let state = self.state.lock();
        let unneeded = state.there().map_or(&[][..], |(head, _)| &head.unneeded);
        (unneeded.len() as u64, unneeded.iter().map(|layer| layer.bytes).sum())
    }

    /// Whether something has not been needed for longer than `grace`.
    pub fn is_prune_due(&self, grace: Duration) -> bool {
        !self.due(grace).is_empty()
    }

    fn due(&self, grace: Duration) -> Vec<Candidate> {
        let state = self.state.lock();
        let there = state.there().filter(|(_, tag)| tag.0 != STALE_TAG || state.line.is_some());
        let head = there.map(|(head, _)| head).filter(|_| self.options.layout == Layout::Layered);
        let mut due = head.map(|head| prune::due(head, grace, jiff::Timestamp::now())).unwrap_or_default();
        if state.line.is_some() {
            let needed = self.needed_here(&state);
            due.retain(|candidate| !needed.contains(&candidate.key));
        }
        due.truncate(AT_ONCE_MAX);
        due
    }

    /// What a line needs though HEAD does not: what is not on the disk yet, and as long as the list is not long all that
    /// a fork would need. Others may delete it all the same.
    fn needed_here(&self, state: &State) -> HashSet<String> {
        let absent = self.records.absent();
        let layers = absent.iter().flat_map(|absent| absent.layers());
        let mut needed: HashSet<String> = layers.map(|layer| layer.source.key.clone()).collect();
        let has_room = state.there().is_some_and(|(head, _)| head.unneeded.len() <= LISTED_FOR_A_FORK);
        let line = state.head.iter().filter(|_| has_room).flat_map(Head::all_layers);
        needed.extend(line.map(|(_, layer)| layer.key.clone()));
        needed
    }

    /// Deletes what has not been needed for longer than `grace`, unless another name needs it. Commits wait
    /// only while HEAD is written; what is unneeded never comes into use again, so the rest needs no turn.
    pub async fn prune(&self, grace: Duration) -> Result<Deleted, PruningError> {
        let due = self.due(grace);
        if due.is_empty() {
            return Ok(Deleted::default());
        }
        let needed = Needed::by_all(&*self.store, None).await?;
        let deleted = prune::delete(&*self.store, &needed, due).await;
        if !deleted.gone.is_empty() {
            self.unlist(&deleted).await?;
        }
        Ok(deleted)
    }

    /// Takes what is gone out of HEAD, unless another writer moved it, which the next commit finds out; on a line, of
    /// whatever is there.
    async fn unlist(&self, deleted: &Deleted) -> Result<(), CommitError> {
        let gone = deleted.keys();
        let _turn = self.turn.lock().await;
        let state = self.state();
        if state.unsettled {
            return Err(CommitError::Unsettled);
        }
        let Some((mut base, mut stored)) = state.there().map(|(head, tag)| (head.clone(), tag.clone()))
        else {
            return Ok(());
        };
        if stored.0 == STALE_TAG && state.line.is_none() {
            return Ok(());
        }
        for _ in 0..SWAP_ATTEMPTS {
            let next = base.pruned(&gone, stored.clone());
            match self.swap(&next, None, Condition::IfMatch(stored)).await? {
                Swap::Done(tag, _) => return self.replaced(next, tag, 0).await,
                // Somebody gave the version a name; or it is another writer's, as it was before.
                Swap::Lost(Some(theirs)) if state.line.is_some() || layered::is_ours(&state, &theirs.0) => {
                    (base, stored) = *theirs;
                }
                Swap::Lost(_) => return Ok(()),
            }
        }
        Err(layered::refused_for_nothing(&head::head_key(&state.name)).into())
    }
}
