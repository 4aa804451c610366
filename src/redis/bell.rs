//! [`Bell`]: what the nodes tell the scout, and both tell whoever watches.
use tokio::sync::{Notify, watch};

/// Rung by the nodes and the scout.
#[derive(Debug, Default)]
pub struct Bell {
    look_again: Notify,
    changes: watch::Sender<()>,
}

impl Bell {
    /// The servers may be others by now.
    pub fn look_again(&self) {
        self.look_again.notify_one();
    }

    /// Ends when somebody wants the scout to look again.
    pub async fn asked(&self) {
        self.look_again.notified().await;
    }

    /// A server answers or does not any more, or the scout has looked.
    pub fn changed(&self) {
        self.changes.send_replace(());
    }

    /// Told of each change from now on.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}
