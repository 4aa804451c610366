//! [`Absence`]: whether a store is taken to be away.
use crate::sync::Mutex;
use std::time::Instant;

/// One object for which there is no answer says something of that object. Two of them, with no answer in between,
/// say that the store is away, until there is an answer to anything.
#[derive(Debug, Default)]
pub(super) struct Absence(Mutex<State>); // owner of the lock

#[derive(Debug, Default)]
struct State {
    /// Of which object there was no answer last, since there was one of any.
    unanswered: Option<Box<str>>,
    /// When it was asked for that.
    asked: Option<Instant>,
    is_away: bool,
}

impl Absence {
    /// There was no answer about this object, for which the store was asked then.
    pub(super) fn unanswered(&self, key: &str, asked: Instant) {
        let mut state = self.0.lock();
        state.asked = state.asked.max(Some(asked));
        state.is_away |= state.unanswered.as_deref().is_some_and(|other| other != key);
        state.unanswered = Some(key.into());
    }

    /// There was an answer, whatever it said.
    pub(super) fn answered(&self) {
        *self.0.lock() = State::default();
    }

    /// If it is taken to be away, when it was asked last in vain.
    pub(super) fn asked(&self) -> Option<Instant> {
        let state = self.0.lock();
        state.asked.filter(|_| state.is_away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_is_not_the_store() {
        let (absence, now) = (Absence::default(), Instant::now());
        absence.unanswered("a", now);
        absence.unanswered("a", now);
        assert!(absence.asked().is_none());
        absence.unanswered("b", now);
        assert!(absence.asked().is_some());
        absence.unanswered("b", now);
        assert!(absence.asked().is_some());
        absence.answered();
        assert!(absence.asked().is_none());
        absence.unanswered("b", now);
        absence.answered();
        absence.unanswered("a", now);
        assert!(absence.asked().is_none(), "there was an answer in between");
    }
}
