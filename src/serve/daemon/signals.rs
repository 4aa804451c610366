//! Signals that end a mount in good order.
use crate::error::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Hook;

/// The signals, caught from the start: one that comes while restoring ends the mount once it stands.
pub struct Signals(Hook);

impl Signals {
    /// Catches them.
    pub fn catch() -> Result<Self> {
        let hook = Hook::new([SIGTERM, SIGINT, SIGHUP]);
        Ok(Self(hook.map_err(|e| Error::io("cannot catch signals", e))?))
    }

    /// From now on each asks for the end.
    pub fn forward_to(mut self, end: impl Fn() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in self.0.forever() {
                tracing::info!(signal, "ending");
                end();
            }
        });
        thread.map(drop).map_err(|e| Error::io("cannot start thread", e))
    }
}
