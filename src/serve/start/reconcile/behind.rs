//! A start that finds the remote at an older version than the directory was saved as, or at one of another history.
use super::{Locks, Start};
use crate::config::OnExisting;
use crate::error::{Error, ErrorKind, Result};
use crate::state::commit::{Committer, Opening, Relation};
use crate::state::dirty::Marks;
use tokio::runtime::Runtime;

impl Start<'_> {
    /// What the remote lacks of this directory nobody has removed. So it is taken for what came later only by whoever asks
    /// for that: as if nothing were known of how the two came about. `broken_off`: an earlier start was.
    pub(super) fn behind(
        &self,
        runtime: &Runtime,
        committer: &Committer,
        opening: &Opening,
        locks: &Locks,
        broken_off: bool,
    ) -> Result<Marks> {
        let saved = self.records.meta().base.map_or(0, |base| base.version);
        let there = opening.head.as_ref().map_or(0, |head| head.version);
        let (what, advice) = match opening.relation {
            Relation::Other => (
                format!(
                    "another history of {} stands in the remote, version {there}; here is version {saved} of the first",
                    opening.name
                ),
                "bring the first one back, mount another directory (--state-dir as well) for the new one, or use \
                 --on-existing local to save what is here on top of that",
            ),
            _ => (
                format!(
                    "the remote went back from version {saved} of {} to version {there}, as where a backup was put back or \
                     a replica lags",
                    opening.name
                ),
                "bring the newer version back, or use --on-existing local to save what is here on top of the older one",
            ),
        };
        if self.settings.on_existing != OnExisting::Local {
            let message = format!("{what}; nothing here was changed: {advice}");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        self.status.notice(format!(
            "{what}: what is here is saved on top of that, and what was removed here since may be back"
        ));
        if broken_off {
            self.remove_left_over(locks)?;
        }
        self.resume(runtime, locks, opening.relation)?;
        self.records.forget_base()?;
        self.moved(runtime, committer, opening, locks, false, &|marks| marks)
    }
}
