//! Operations that change the tree: inside the gate, or parked with their reply until it opens.
use super::Adapter;
use crate::fs::Volume;
use crate::fuse::pool::Pool;
use std::borrow::Borrow;
use std::ffi::CStr;
use std::sync::Arc;

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
        through(&self.volume, reply, borrowed, locked, op);
    }

    /// The same for an operation that may first have to copy the file `inode` for a flush under way:
    /// that takes as long as the file is large, so it is done by the pool. Whoever serves requests,
    /// and whoever opens the gate, goes on.
    pub(super) fn gated_copying(&self, inode: u64, op: impl FnOnce(&Volume) + Send + 'static) {
        pass(&self.volume, &self.pool, inode, false, op);
    }
}

/// See [`Adapter::gated`].
pub(super) fn through<R: Send + 'static, B>(
    volume: &Arc<Volume>,
    reply: R,
    borrowed: &B,
    locked: Locked<'_>,
    op: impl FnOnce(&Volume, R, &B) + Send + 'static,
) where
    B: ToOwned<Owned: Send + 'static> + ?Sized,
{
    if let Some(_pass) = volume.gate().enter() {
        op(volume, reply, borrowed);
        return;
    }
    let (own, owned) = (volume.clone(), borrowed.to_owned());
    let locked = locked(volume);
    volume.gate().park(
        &locked,
        Box::new(move || {
            // The gate is open now, or closing again: a pass, if there is one, keeps it from
            // closing under us.
            let _pass = own.gate().enter();
            op(&own, reply, owned.borrow());
        }),
    );
    volume.holds().poke();
}

fn pass(
    volume: &Arc<Volume>,
    pool: &Arc<Pool>,
    inode: u64,
    in_pool: bool,
    op: impl FnOnce(&Volume) + Send + 'static,
) {
    if !in_pool && volume.must_copy(inode) {
        let (volume, own) = (volume.clone(), pool.clone());
        pool.run(move || pass(&volume, &own, inode, true, op));
        return;
    }
    if let Some(_pass) = volume.gate().enter() {
        op(volume);
        return;
    }
    let (own, pool) = (volume.clone(), pool.clone());
    volume.gate().park(&[inode], Box::new(move || pass(&own, &pool, inode, false, op)));
    volume.holds().poke();
}
