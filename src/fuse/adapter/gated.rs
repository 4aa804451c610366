//! Operations that change the tree: inside the gate, or parked with their reply until it opens.
use super::Adapter;
use crate::fs::Volume;
use std::borrow::Borrow;
use std::ffi::CStr;

/// The inodes that the caller of a parked operation holds locked in the kernel meanwhile.
pub(super) type Locked<'a> = &'a dyn Fn(&Volume) -> Vec<u64>;

/// It holds none locked that a file's content could be waited for on.
pub(super) const NONE: Locked<'static> = &|_| vec![];

/// The inode behind a name, for what a parked operation may have locked.
pub(super) fn by_name(volume: &Volume, parent: u64, name: &CStr) -> Option<u64> {
    volume.peek(parent, name)
}

impl Adapter {
    /// Runs `op` inside the gate, or parks it. `borrowed` is what it needs of the request: copied only
    /// when it must outlive the request.
    pub(super) fn gated<R: Send + 'static, B>(
        &self,
        reply: R,
        borrowed: &B,
        locked: Locked<'_>,
        op: impl FnOnce(&Volume, R, &B) + Send + 'static,
    ) where
        B: ToOwned<Owned: Send + 'static> + ?Sized,
    {
        if let Some(_pass) = self.volume.gate().enter() {
            op(&self.volume, reply, borrowed);
            return;
        }
        let (volume, owned) = (self.volume.clone(), borrowed.to_owned());
        let locked = locked(&self.volume);
        self.volume.gate().park(
            &locked,
            Box::new(move || {
                // The gate is open now, or closing again: a pass, if there is one, keeps it from
                // closing under us.
                let _pass = volume.gate().enter();
                op(&volume, reply, owned.borrow());
            }),
        );
        self.volume.holds().poke();
    }
}
