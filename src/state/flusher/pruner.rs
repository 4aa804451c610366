//! [`Pruner`]: deletes what no version needs, in the background.
use crate::state::commit::{Committer, PruningError};
use crate::state::prune::Deleted;
use crate::sync::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// The longest time between two attempts.
const EVERY: Duration = Duration::from_secs(600);
/// How long to leave a store alone that does not let us, or cannot.
const REFUSED: Duration = Duration::from_secs(6 * 3600);

/// When to delete, and what came of it. Owner of its lock.
#[derive(Debug)]
pub(super) struct Pruner {
    grace: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Not before.
    next: Option<Instant>,
    failure: Option<String>,
}

impl Pruner {
    pub(super) fn new(grace: Option<Duration>) -> Self {
        Self { grace, state: Mutex::default() }
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    /// Starts a deletion if one is due and none is under way; does not wait for it. One that the end of the
    /// program cuts off is made up for later.
    pub(super) fn wake(self: &Arc<Self>, committer: &Arc<Committer>, runtime: &Handle) {
        let Some(grace) = self.grace else { return };
        {
            let mut state = self.state.lock();
            let early = state.next.is_some_and(|next| Instant::now() < next);
            if state.running || early || !committer.is_prune_due(grace) {
                return;
            }
            state.running = true;
        }
        let (pruner, committer) = (Arc::clone(self), Arc::clone(committer));
        runtime.spawn(async move {
            let done = committer.prune(grace).await;
            pruner.ended(grace, done);
        });
    }

    fn ended(&self, grace: Duration, done: Result<Deleted, PruningError>) {
        let soon = grace.min(EVERY);
        let (failure, again) = match done {
            Ok(Deleted { gone, failure: None, .. }) => {
                if !gone.is_empty() {
                    let bytes: u64 = gone.iter().map(|object| object.bytes).sum();
                    tracing::info!(objects = gone.len(), bytes, "deleted what no version needs");
                }
                (None, soon)
            }
            Ok(Deleted { failure: Some(error), .. }) => {
                let again = if error.is_transient() { soon } else { REFUSED };
                (Some(format!("cannot delete what no version needs: {error}")), again)
            }
            Err(error) => (Some(error.to_string()), if error.is_refusal() { REFUSED } else { soon }),
        };
        let mut state = self.state.lock();
        (state.running, state.next) = (false, Some(Instant::now() + again));
        match &failure {
            // Once: it is no harm but space, and `status` shows it.
            Some(error) if state.failure.is_none() => {
                tracing::warn!(error, "what no version needs stays in the remote; it stays listed in HEAD");
            }
            Some(error) => tracing::debug!(error, "what no version needs stays in the remote"),
            None => {}
        }
        state.failure = failure;
    }
}
