//! Names that files get. One that is not on the disk gets most of them without its content; what cannot be done so
//! begins anew when it is here.
use super::gated::by_name;
use super::{Adapter, entry};
use crate::fs::absent::Need;
use crate::fs::{NotHere, Volume};
use crate::fuse::abi::answer::Entry;
use crate::fuse::transport::Reply;
use std::ffi::CString;

impl Adapter {
    /// Another name for an inode, in the directory `parent`.
    pub(super) fn link(&self, inode: u64, parent: u64, name: CString, need: Need, reply: Reply<Entry>) {
        self.when_here(need, reply, move |this, reply| {
            let again = this.clone();
            this.gated(reply, &*name, &|_| vec![inode], move |volume, reply, name| {
                match volume.link(inode, parent, name) {
                    Err(e) if NotHere::is(&e) => {
                        // Not within this pass of the gate.
                        let (need, name) = (volume.need(inode, None), name.to_owned());
                        let pool = again.pool.clone();
                        pool.run(move || again.link(inode, parent, name, need, reply));
                    }
                    linked => reply.send(entry(linked)),
                }
            });
        });
    }

    /// A rename between two directories; with `whole` what is renamed comes to the disk first.
    pub(super) fn rename(
        &self,
        (parent, new_parent): (u64, u64),
        names: (CString, CString),
        flags: u32,
        whole: bool,
        reply: Reply<()>,
    ) {
        let need = self.volume.need_to_move((parent, &names.0), (new_parent, &names.1), flags, whole);
        self.when_here(need, reply, move |this, reply| {
            let again = this.clone();
            let locked = |volume: &Volume| {
                let both = [by_name(volume, parent, &names.0), by_name(volume, new_parent, &names.1)];
                both.into_iter().flatten().collect()
            };
            this.gated(reply, &names, &locked, move |volume, reply, (from, to)| {
                match volume.rename(parent, from, new_parent, to, flags) {
                    Err(e) if NotHere::is(&e) && !whole => {
                        let (names, pool) = ((from.clone(), to.clone()), again.pool.clone());
                        pool.run(move || again.rename((parent, new_parent), names, flags, true, reply));
                    }
                    renamed => reply.send(renamed),
                }
            });
        });
    }
}
