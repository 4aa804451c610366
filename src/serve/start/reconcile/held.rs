//! A start that would put another version in the place of files that a process goes on with.
use super::{Start, is_below};
use crate::error::{Error, ErrorKind, Result};
use crate::state::dirty::Marks;
use crate::state::held::{HeldFile, Holders, held_files};

/// So many files are told of.
const TOLD_MAX: usize = 5;

impl Start<'_> {
    /// Before anything is replaced: fails if a process has files open that another version may take the place of. It would
    /// go on with files that nobody sees, and of a database with half of each version. `kept`: what stays as it is here.
    ///
    /// Of the files of anybody those count that were saved: what else is open here a version has hardly ever.
    pub(super) fn require_closed(&self, kept: Option<&Marks>) -> Result<()> {
        let held = match self.heeds {
            None => return Ok(()),
            Some(Holders::Anybody) if self.records.meta().base.is_none() => return Ok(()),
            Some(holders) => held_files(&self.settings.dir, holders),
        };
        let mut counted: Vec<HeldFile> = Vec::new();
        for file in held {
            let stays = kept.is_some_and(|kept| kept.contains_key(&file.path) || is_below(kept, &file.path));
            let counts =
                self.heeds == Some(Holders::Offspring) || !stays && self.records.get(&file.path)?.is_some();
            if counts {
                counted.push(file);
            }
        }
        if counted.is_empty() {
            return Ok(());
        }
        counted.sort_by(|one, other| (&one.path, one.process).cmp(&(&other.path, other.process)));
        let told: Vec<String> = counted.iter().take(TOLD_MAX).map(told_of).collect();
        let more = counted.len() - told.len();
        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        let message = format!(
            "the remote has a newer version, and files that it would take the place of are open here: {}{more}; nothing was \
             changed, it comes when these processes have ended",
            told.join(", ")
        );
        Err(Error::new(ErrorKind::Busy, message))
    }
}

fn told_of(HeldFile { path, process, name }: &HeldFile) -> String {
    format!("{path} (process {process}, {name})")
}
