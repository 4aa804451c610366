//! [`Absence`]: whether a store is taken to be away.
use crate::sync::Mutex;

/// One object for which there is no answer says something of that object. Two of them, with no answer in between,
/// say that the store is away, until there is an answer to anything.
#[derive(Debug, Default)]
pub(super) struct Absence(Mutex<State>); // owner of the lock

#[derive(Debug, Default)]
struct State {
    /// Of which object there was no answer last, since there was one of any.
    unanswered: Option<Box<str>>,
    is_away: bool,
}

impl Absence {
    /// There was no answer about this object.
    pub(super) fn unanswered(&self, key: &str) {
        let mut state = self.0.lock();
        state.is_away |= state.unanswered.as_deref().is_some_and(|other| other != key);
        state.unanswered = Some(key.into());
    }

    /// There was an answer, whatever it said.
    pub(super) fn answered(&self) {
        *self.0.lock() = State::default();
    }

    pub(super) fn is_away(&self) -> bool {
        self.0.lock().is_away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_is_not_the_store() {
        let absence = Absence::default();
        absence.unanswered("a");
        absence.unanswered("a");
        assert!(!absence.is_away());
        absence.unanswered("b");
        assert!(absence.is_away());
        absence.unanswered("b");
        assert!(absence.is_away());
        absence.answered();
        assert!(!absence.is_away());
        absence.unanswered("b");
        absence.answered();
        absence.unanswered("a");
        assert!(!absence.is_away(), "there was an answer in between");
    }
}
