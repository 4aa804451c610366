//! [`Reports`]: how far a start is, for those who wait for it.
use crate::serve::startup::{Progress, StatusPipe};
use crate::state::restore;
use crate::sync::Mutex;

/// Hands the progress of a restore to whoever waits for the mount.
pub struct Reports {
    status: StatusPipe,
    progress: Mutex<Progress>,
}

impl Reports {
    /// Tells `status`.
    pub fn to(status: &StatusPipe) -> Self {
        Self { status: status.clone(), progress: Mutex::default() }
    }
}

impl restore::Progress for Reports {
    fn bytes(&self, done: u64, total: u64) {
        let mut progress = self.progress.lock();
        progress.phase = "restoring".into();
        (progress.bytes, progress.bytes_total) = (done, total);
        self.status.progress(progress.clone());
    }

    fn files(&self, done: u64) {
        self.progress.lock().entries = done;
    }
}
