//! [`Patience`]: when a merge is tried again that took too long.
use crate::state::head::VersionId;

/// Counted in versions, since what is to be merged grows by them. Owned by the flusher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Patience {
    next: VersionId,
    pause: VersionId,
}

impl Patience {
    /// Whether it may be tried at this version.
    pub(super) fn is_over(&self, version: VersionId) -> bool {
        version >= self.next
    }

    /// It took too long at this version. The version at which it is tried again.
    pub(super) fn grow(&mut self, version: VersionId) -> VersionId {
        self.pause = self.pause.saturating_mul(2).max(1);
        self.next = version.saturating_add(self.pause);
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_that_takes_too_long_doubles_the_pause() {
        let mut patience = Patience::default();
        assert!(patience.is_over(1));
        let mut tried = Vec::new();
        for version in 1..=40 {
            if patience.is_over(version) {
                tried.push(version);
                patience.grow(version);
            }
        }
        assert_eq!(tried, [1, 2, 4, 8, 16, 32]);
    }
}
