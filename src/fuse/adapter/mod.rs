//! Translates each FUSE request into one call of the volume, and its result into one reply.
//!
//! Operations that change the tree pass the gate first; at a closed gate they are parked together
//! with their reply (`gated`). Whatever may wait for a disk goes to the pool.
mod absent;
mod durable;
mod gated;
mod list;
mod names;
mod open;
mod ranges;
mod wanted;

pub use durable::Durable;
pub use wanted::{io_bytes, wanted};

use super::abi::InHeader;
use super::abi::answer::{Attributes, Entry, Offset, Written};
use super::abi::request::{Operation, Request};
use super::pool::Pool;
use super::transport::{Handler, Pending, Reply};
use crate::fs::absent::Need;
use crate::fs::attr::Attr;
use crate::fs::open::Opening;
use crate::fs::{Caller, Volume};
use crate::state::absent::Hydrator;
use gated::{NONE, by_name};
use rustix::fs::OFlags;
use std::io;
use std::sync::Arc;

/// The FUSE side of a volume.
#[derive(Clone)]
pub struct Adapter {
    volume: Arc<Volume>,
    pool: Arc<Pool>,
    /// Withholds FSYNC replies until a flush is committed (`--fsync remote`).
    durable: Option<Arc<dyn Durable>>,
    /// Brings what is not on the disk yet.
    hydrator: Option<Arc<Hydrator>>,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl Adapter {
    /// Serves `volume`.
    pub fn new(
        volume: Arc<Volume>,
        durable: Option<Arc<dyn Durable>>,
        hydrator: Option<Arc<Hydrator>>,
    ) -> Self {
        Self { volume, pool: Arc::default(), durable, hydrator }
    }
}

impl Handler for Adapter {
    fn handle(&self, request: Request<'_>, pending: Pending) {
        let Request { header, operation } = request;
        let (volume, id) = (&*self.volume, header.nodeid);
        match operation {
            Operation::Lookup { name } => {
                pending.reply().send(match volume.lookup(id, name) {
                    Ok(found) => Ok(Entry(Some(found))),
                    Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(Entry(None)),
                    Err(e) => Err(e),
                });
            }
            Operation::Forget { count } => {
                pending.none();
                volume.forget(id, count);
            }
            Operation::BatchForget { items } => {
                pending.none();
                items.iter().for_each(|item| volume.forget(item.inode, item.count));
            }
            Operation::Getattr => pending.reply().send(attributes(id, volume.getattr(id))),
            Operation::Readlink => pending.reply().send(volume.readlink(id)),
            Operation::Statfs => pending.reply().send(volume.statfs()),
            Operation::Getxattr { name, size } => {
                pending.reply().send(volume.getxattr(id, name, size as usize));
            }
            Operation::Listxattr { size } => pending.reply().send(volume.listxattr(id, size as usize)),
            Operation::Readdir { offset, size } => list::readdir(volume, id, offset, size, pending.reply()),
            Operation::Readdirplus { offset, size } => {
                list::readdirplus(volume, id, offset, size, pending.reply());
            }
            Operation::Lseek { handle, offset, whence } => match self.reader(handle) {
                Some((hydrator, reader)) => {
                    self.seek_absent(hydrator, reader, (id, handle), (offset, whence), pending.reply());
                }
                None => {
                    let sought = volume.lseek(id, handle, offset as i64, whence as i32);
                    pending.reply().send(sought.map(Offset));
                }
            },
            Operation::Read { handle, offset, size } => match self.reader(handle) {
                Some((hydrator, reader)) => self.read_absent(hydrator, reader, offset, size, pending.reply()),
                None => pending.reply().fill(size as usize, |buffer| volume.read(handle, offset, buffer)),
            },
            Operation::Release { handle, flags } => {
                volume.release(id, handle, OFlags::from_bits_retain(flags));
                pending.reply().send(Ok(()));
                volume.after_release(id);
            }
            Operation::Fsync { handle, data_only } => {
                self.sync_file(id, handle, data_only, pending.reply());
            }
            Operation::Fsyncdir => self.sync_dir(id, pending.reply()),
            Operation::Destroy => pending.reply().send(Ok(())),
            Operation::Unknown => pending.reply::<()>().error(libc::ENOSYS),
            Operation::Open { flags, kill_privileges } => {
                let how = opening(caller(&header, 0), flags, kill_privileges);
                if volume.is_read_only() && how.changes() {
                    return pending.reply::<()>().error(libc::EROFS);
                }
                self.open(id, how, pending.reply());
            }
            _ if volume.is_read_only() => pending.reply::<()>().error(libc::EROFS),
            change => self.change(&header, change, pending),
        }
    }
}

impl Adapter {
    fn open(&self, id: u64, how: Opening, reply: Reply<super::abi::answer::Opened>) {
        let need = self.volume.need(id, how.flags.contains(OFlags::TRUNC).then_some(0));
        if let (Need::Files(files), true) = (&need, !how.changes() || how.can_wait())
            && let [file] = files[..]
            && let Some(hydrator) = self.hydrator.as_ref().filter(|h| h.ranges().serves(file))
        {
            return self.open_absent(hydrator, file, id, how, reply);
        }
        self.open_here(id, how, need, reply);
    }

    fn open_here(&self, id: u64, how: Opening, need: Need, reply: Reply<super::abi::answer::Opened>) {
        if how.changes() {
            self.when_here_gated(id, (need, false), reply, move |volume, reply| {
                open::open(volume, id, how, reply);
            });
        } else {
            self.when_here(need, reply, move |this, reply| open::open(&this.volume, id, how, reply));
        }
    }

    /// What changes the tree: each inside the gate.
    fn change(&self, header: &InHeader, operation: Operation<'_>, pending: Pending) {
        let id = header.nodeid;
        match operation {
            Operation::Setattr { handle, set } => {
                let need = self.volume.need_to_set(id, &set);
                let op = move |volume: &Volume, reply: Reply<Attributes>| {
                    reply.send(attributes(id, volume.setattr(id, handle, set)));
                };
                if set.size.is_some() {
                    let trusted = handle.is_some_and(|handle| self.volume.is_deferred(handle));
                    return self.when_here_gated(id, (need, trusted), pending.reply(), op);
                }
                self.when_here(need, pending.reply(), move |this, reply| {
                    this.gated(reply, &(), &|_| vec![id], move |volume, reply, ()| op(volume, reply));
                });
            }
            Operation::Mknod { name, mode, umask, rdev } => {
                let caller = caller(header, umask);
                self.gated(pending.reply(), name, NONE, move |volume, reply, name| {
                    reply.send(entry(volume.mknod(caller, id, name, mode, rdev)));
                });
            }
            Operation::Mkdir { name, mode, umask } => {
                let caller = caller(header, umask);
                self.gated(pending.reply(), name, NONE, move |volume, reply, name| {
                    reply.send(entry(volume.mkdir(caller, id, name, mode)));
                });
            }
            Operation::Symlink { name, target } => {
                let caller = caller(header, 0);
                let names = (name.to_owned(), target.to_owned());
                self.gated(pending.reply(), &names, NONE, move |volume, reply, (name, target)| {
                    reply.send(entry(volume.symlink(caller, id, name, target)));
                });
            }
            Operation::Link { inode, name } => {
                let need = self.volume.need_to_link(inode);
                self.link(inode, id, name.to_owned(), need, pending.reply());
            }
            Operation::Create { name, mode, umask, flags, kill_privileges } => {
                let how = opening(caller(header, umask), flags, kill_privileges);
                let what = open::Creation { parent: id, mode, how };
                self.gated(pending.reply(), name, NONE, move |volume, reply, name| {
                    open::create(volume, what, name, reply);
                });
            }
            Operation::Unlink { name } => {
                let locked = |volume: &Volume| by_name(volume, id, name).into_iter().collect();
                self.gated(pending.reply(), name, &locked, move |volume, reply, name| {
                    reply.send(volume.unlink(id, name));
                });
            }
            Operation::Rmdir { name } => {
                self.gated(pending.reply(), name, NONE, move |volume, reply, name| {
                    reply.send(volume.rmdir(id, name));
                });
            }
            Operation::Rename { name, new_parent, new_name, flags } => {
                let names = (name.to_owned(), new_name.to_owned());
                self.rename((id, new_parent), names, flags, false, pending.reply());
            }
            data => self.change_data(header, data, pending),
        }
    }

    /// What changes the content or the extended attributes of one inode.
    fn change_data(&self, header: &InHeader, operation: Operation<'_>, pending: Pending) {
        let (caller, id, volume) = (caller(header, 0), header.nodeid, &self.volume);
        match operation {
            Operation::Write { handle, offset, data, kill_privileges }
                if self.hydrator.is_some() && volume.is_deferred(handle) =>
            {
                let (need, data) = (volume.need_to_write(id, handle), data.to_vec());
                self.when_here_gated(id, (need, true), pending.reply(), move |volume, reply| {
                    let written = volume.write(handle, offset, &data, kill_privileges);
                    reply.send(written.map(|()| Written(data.len() as u32)));
                });
            }
            Operation::Write { handle, offset, data, kill_privileges } => {
                self.gated(pending.reply(), data, &|_| vec![id], move |volume, reply, data| {
                    let written = volume.write(handle, offset, data, kill_privileges);
                    reply.send(written.map(|()| Written(data.len() as u32)));
                });
            }
            Operation::Fallocate { handle, offset, length, mode } => {
                let need = volume.need_to_write(id, handle);
                self.when_here_gated(id, (need, true), pending.reply(), move |volume, reply| {
                    reply.send(volume.fallocate(caller, id, handle, (offset, length), mode as i32));
                });
            }
            Operation::CopyFileRange { handle, offset, to, length } => {
                // The reply carries 32 bits; a longer copy is continued by the caller.
                let length = length.min(u64::from(u32::MAX) & !0xfff);
                let reply: Reply<Written> = pending.reply();
                if !volume.options().copy_file_range {
                    return reply.error(libc::ENOSYS); // the kernel asks once, and copies by itself
                }
                let need = volume.need_to_write(to.0, to.1);
                self.when_here(need, reply, move |this, reply| {
                    let own = this.volume.clone();
                    // As long as it takes: not on a thread that serves requests.
                    this.pool.run(move || {
                        let copy = move |volume: &Volume, reply: Reply<Written>, (): &()| {
                            let copied = volume.copy_file_range(caller, (id, handle, offset), to, length);
                            reply.send(copied.map(|n| Written(n as u32)));
                        };
                        gated::through(&own, reply, &(), &|_| vec![to.0], copy);
                    });
                });
            }
            Operation::Setxattr { name, value, flags, kill_setgid } => {
                let need = self.volume.need_to_set_xattr(id, name, value);
                let borrowed = (name.to_owned(), value.to_vec()); // small: at most 64 KiB
                self.when_here(need, pending.reply(), move |this, reply| {
                    this.gated(reply, &borrowed, &|_| vec![id], move |volume, reply, (name, value)| {
                        reply.send(volume.setxattr(id, name, value, flags as i32, kill_setgid));
                    });
                });
            }
            Operation::Removexattr { name } => {
                let (need, name) = (self.volume.need_to_set_xattr(id, name, &[]), name.to_owned());
                self.when_here(need, pending.reply(), move |this, reply| {
                    this.gated(reply, &*name, &|_| vec![id], move |volume, reply, name| {
                        reply.send(volume.removexattr(id, name));
                    });
                });
            }
            _ => pending.reply::<()>().error(libc::ENOSYS),
        }
    }
}

fn caller(header: &InHeader, umask: u32) -> Caller {
    Caller { uid: header.uid, gid: header.gid, pid: header.pid, umask }
}

fn opening(caller: Caller, flags: u32, kill_privileges: bool) -> Opening {
    Opening { caller, flags: OFlags::from_bits_retain(flags), kill_privileges }
}

fn attributes(id: u64, result: io::Result<Attr>) -> io::Result<Attributes> {
    result.map(|attr| Attributes(id, attr))
}

fn entry(result: io::Result<(u64, Attr)>) -> io::Result<Entry> {
    result.map(|found| Entry(Some(found)))
}
