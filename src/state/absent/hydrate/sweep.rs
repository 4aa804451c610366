//! All that is absent, or all of it in some places, with those who wait going first.
use super::turns::{Background, PIECES};
use super::{Failure, Hydrator, RUN_BYTES};
use crate::layer::LayerError;
use crate::state::absent::outcome::Outcome;
use crate::state::absent::tree;
use crate::state::restore::RestoreError;
use futures::StreamExt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Everything is brought in two rounds: what others were bringing during the first, and did not, comes in the
/// second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    First,
    Rest,
}

impl Hydrator {
    /// Brings everything that is absent in directories that were moved.
    pub async fn bring_moved(self: &Arc<Self>) -> Result<(), Failure> {
        let nodes = self.absent.moved_unmade();
        if nodes.is_empty() {
            return Ok(());
        }
        let (absent, made) = (self.absent.clone(), nodes.clone());
        let make = move || made.iter().try_for_each(|node| absent.make_within(*node));
        let failed = |e| {
            let source = LayerError::io("cannot make entries", e);
            Arc::new(RestoreError::Finish { source })
        };
        tokio::task::spawn_blocking(make)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()))
            .map_err(failed)?;
        let files = nodes.iter().flat_map(|node| self.absent.unreferred_within(*node));
        let mut files: Vec<u32> = files.collect();
        files.sort_unstable();
        files.dedup();
        self.bring(files).await
    }

    /// Brings everything that is absent, in the order of the layers, yielding to those who wait.
    /// `progress` is called after each piece. What cannot come keeps nothing else from coming.
    pub async fn bring_all(self: &Arc<Self>, yields: bool, progress: impl Fn()) -> Result<(), Failure> {
        let brought = self.sweep(yields, progress).await;
        self.buffers.clear();
        crate::memory::give_back();
        brought
    }

    async fn sweep(self: &Arc<Self>, yields: bool, progress: impl Fn()) -> Result<(), Failure> {
        let sweep = self.turns.sweep();
        let mut outcome = Outcome::default();
        for round in [Round::First, Round::Rest] {
            let mut runs = self.runs(&self.wanted(), self.step(yields));
            // Two meet in the middle.
            if sweep.others % 2 == 1 {
                runs.reverse();
            }
            let pieces = futures::stream::iter(runs).map(|run| async move {
                if self.ranges.serves(run.start) {
                    return self.whole(run.start, yields).await;
                }
                let _running = if yields { Some(self.wait_turn(self.cost(&run)).await) } else { None };
                if self.stopped.load(Ordering::Relaxed) {
                    return Err(Arc::new(RestoreError::Stopped));
                }
                self.rest_of(run, round).await
            });
            let mut pieces = pieces.buffered(PIECES);
            while let Some(result) = pieces.next().await {
                outcome.add(result)?;
                progress();
            }
            if round == Round::First {
                self.turns.followed().await;
            }
        }
        let absent = self.absent.clone();
        let rest = tokio::task::spawn_blocking(move || absent.make_within(tree::ROOT));
        rest.await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()))
            .map_err(|e| Arc::new(RestoreError::Finish { source: LayerError::io("cannot make entries", e) }))
            .and_then(|()| outcome.end())
    }

    fn wanted(&self) -> Vec<u32> {
        (0..self.absent.tree().files() as u32).filter(|file| self.absent.wants(*file)).collect()
    }

    /// Brings what is still absent of a run: much of it may have come since the run was made, and at `First` what
    /// comes along with something else is left to that.
    async fn rest_of(self: &Arc<Self>, run: Range<u32>, round: Round) -> Result<(), Failure> {
        let comes = |file: u32| round == Round::First && self.turns.follows(file);
        let files: Vec<u32> = run.filter(|file| self.absent.wants(*file) && !comes(*file)).collect();
        let parts = self.runs(&files, RUN_BYTES).into_iter().map(|part| self.fetch(part.clone(), part, None));
        let (mut parts, mut outcome) =
            (futures::stream::iter(parts).buffer_unordered(PIECES), Outcome::default());
        while let Some(result) = parts.next().await {
            outcome.add(result)?;
        }
        outcome.end()
    }

    /// Waits until the background may ask for so many bytes.
    pub(super) async fn wait_turn(&self, bytes: u64) -> Background<'_> {
        self.pace.take(bytes).await;
        self.background.fetch_add(bytes, Ordering::Relaxed);
        self.turns.turn().await
    }
}
