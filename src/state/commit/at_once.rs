//! A small layer goes with HEAD: then its object need not be there first, and both are sent at once.
//!
//! HEAD decides, as ever: as soon as the store has it the version stands, since the bytes of the layer are in it. Whether
//! the object is there as well is known when its own PUT is answered. Until then every further HEAD keeps the bytes,
//! and whoever writes one sends the object again; so a PUT that was lost with its writer is made up for by the next.
use super::layered::Swap;
use super::*;
use crate::remote::{Condition, Upload};
use crate::state::head::Inline;
use bytes::Bytes;

/// While so many layers are not known to be objects the next one is sent before HEAD.
const LACKING_MAX: usize = 4;

/// A layer that goes with HEAD.
pub(super) struct Along {
    /// Its object, to be published.
    pub(super) upload: Box<dyn Upload>,
    pub(super) bytes: Bytes,
}

impl Along {
    /// HEAD has it.
    pub(super) fn enter(&self, next: &mut Head) {
        if let Some(layer) = next.layers.last_mut() {
            layer.inline = Some(Inline(self.bytes.clone()));
        }
    }
}

impl Committer {
    /// Whether the layer of the next version may go with a HEAD that is built on `base`.
    pub(super) fn goes_along(&self, base: Option<&Head>) -> bool {
        let lacking = base.map_or(0, |base| self.lacking(base).len());
        self.options.at_once
            && !self.options.log
            && base.is_none_or(|base| !base.log)
            && lacking < LACKING_MAX
    }

    /// The layers in `head` that are not known to be objects.
    fn lacking(&self, head: &Head) -> Vec<(String, Bytes)> {
        let stored = self.stored.lock();
        let lacking = head.inlined().filter(|(key, _)| !stored.contains(*key));
        lacking.map(|(key, bytes)| (key.to_owned(), bytes.clone())).collect()
    }

    /// The bytes of layers that are known to be objects need not be in a HEAD that is about to be written.
    pub(super) fn lighten(&self, head: &mut Head) {
        let mut stored = self.stored.lock();
        stored.retain(|key| head.layer(key).is_some_and(|layer| layer.inline.is_some()));
        head.lighten(|key| stored.contains(key));
    }

    /// Sends the layers in `base` that are not known to be objects. A failure costs nothing but that HEAD keeps them.
    pub(super) async fn make_up(&self, base: &Head) {
        for (key, bytes) in self.lacking(base) {
            match self.store.put(&key, bytes, Condition::Always).await {
                Ok(_) => drop(self.stored.lock().insert(key)),
                Err(error) => tracing::warn!(%error, key, "a layer stays in HEAD alone"),
            }
        }
    }

    /// Publishes the layer `key` while `swap` swaps HEAD, which has its bytes. If HEAD has them the version stands,
    /// whatever became of the object.
    pub(super) async fn publish(
        &self,
        along: Along,
        key: &str,
        swap: impl Future<Output = Result<Swap, CommitError>>,
    ) -> Result<Swap, CommitError> {
        self.store.hand(key, &along.bytes);
        let (published, swapped) = tokio::join!(along.upload.finish(), swap);
        match (published, swapped?) {
            (Ok(_), swapped) => {
                self.stored.lock().insert(key.to_owned());
                Ok(swapped)
            }
            (Err(error), done @ Swap::Done(..)) => {
                tracing::warn!(%error, key, "a layer is in HEAD alone; the next version sends it again");
                Ok(done)
            }
            (Err(error), Swap::Lost(_)) => Err(error.into()),
        }
    }
}
