//! [`Underway`]: files that are made to last while the next ones are made.
use super::Step;
use super::progress::{Halt, Progress};
use super::writer::joined;
use crate::error::TableError;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinHandle;

/// So many at once, each with a file that is open.
const UNDERWAY_MAX: usize = 16;

/// Files that are written aside, on their way to the disk and then into place. They get there whether anybody waits for
/// them or not.
#[derive(Default)]
pub(super) struct Underway(FuturesUnordered<JoinHandle<Result<Step, TableError>>>);

impl Underway {
    /// One more, which `work` brings there.
    pub async fn add(
        &mut self,
        step: Step,
        work: impl FnOnce() -> Result<(), TableError> + Send + 'static,
        progress: &Progress<'_>,
    ) -> Result<(), Halt> {
        while self.0.len() >= UNDERWAY_MAX {
            self.one(progress).await?;
        }
        progress.check()?;
        self.0.push(tokio::task::spawn_blocking(move || work().map(|()| step)));
        Ok(())
    }

    async fn one(&mut self, progress: &Progress<'_>) -> Result<(), Halt> {
        match self.0.next().await {
            Some(ended) => progress.done(joined(ended)?),
            None => Ok(()),
        }
    }

    /// All are there; or one of the errors, once the others have ended as well.
    pub async fn ended(mut self, progress: &Progress<'_>) -> Result<(), Halt> {
        let mut outcome = Ok(());
        while !self.0.is_empty() {
            let one = self.one(progress).await;
            outcome = outcome.and(one);
        }
        outcome
    }
}
