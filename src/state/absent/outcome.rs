//! [`Outcome`]: how it went with many pieces. The first failure that is one of a piece alone is told at the
//! end, while the others go on.
use super::arrival::is_gone;
use super::hydrate::Failure;
use crate::error::ErrorKind;
use crate::state::restore::RestoreError;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outcome(Option<Failure>);

impl Outcome {
    /// Fails at once with what the next piece would fail with as well.
    pub(super) fn add(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        let Err(failure) = result else { return Ok(()) };
        match &*failure {
            RestoreError::Layer { source, .. } | RestoreError::Finish { source } => match source {
                source if source.kind() == ErrorKind::Full => return Err(failure),
                // Nothing is missing where nothing belongs any more.
                source if is_gone(source) => return Ok(()),
                _ => {}
            },
            RestoreError::Mismatch { .. } | RestoreError::Dictionary { .. } => {}
            // One layer is lost; the others need not be.
            failed @ RestoreError::Remote { .. } if failed.kind() == ErrorKind::Corrupt => {}
            RestoreError::Remote { .. } | RestoreError::Stopped => return Err(failure),
        }
        self.0.get_or_insert(failure);
        Ok(())
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        self.0.map_or(Ok(()), Err)
    }
}
