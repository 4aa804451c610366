//! The verbs that a scenario needs, on a real mount or on its twin.
use std::path::{Path, PathBuf};

/// Something that saves a directory in versions and gives it back.
pub trait Subject {
    /// The directory that programs write in. Changes with [`Subject::elsewhere`].
    fn dir(&self) -> PathBuf;
    /// Saves everything written so far; returns the version once it is durable.
    fn flush(&mut self) -> String;
    /// The daemon dies without a word.
    fn strike(&mut self);
    /// It is started again on the same disk.
    fn revive(&mut self);
    /// Both at once.
    fn crash(&mut self) {
        self.strike();
        self.revive();
    }
    /// A clean stop and a new start on the same disk.
    fn remount(&mut self);
    /// The machine is lost, with its disk: the newest version comes up in another place.
    fn elsewhere(&mut self);
    /// A past version as a plain directory.
    fn checkout(&self, version: &str) -> PathBuf;
    /// The newest version as one `tar.zst`.
    fn archive(&self, to: &Path);
    /// Names the processes that write, for a twin that has to stop them during its copy.
    fn writers(&mut self, _pids: &[u32]) {}
}

/// Runs a scenario that must fail, and returns how it failed. Panics if the defect went unnoticed.
#[track_caller]
pub fn must_notice(what: &str, scenario: impl FnOnce()) -> String {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(scenario));
    let Err(cause) = outcome else { panic!("the check did not notice: {what}") };
    cause
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_default()
}
