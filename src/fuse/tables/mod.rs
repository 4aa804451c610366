//! Iceberg tables, as the kernel asks for them: reads, and nothing else.
//!
//! What may wait for a store is answered by tasks of the runtime; what is known, at once.
//!
//! Tables have a mount of their own, or share one with a directory ([`Beside`]).
mod attributes;
mod beside;
mod handles;
mod listing;
mod nodes;
mod opening;

use super::abi::answer::{Brief, BriefAttributes, Offset};
use super::abi::init::{Features, Limits};
use super::abi::request::{Operation, Request};
use super::connection::Wanted;
use super::interrupts::ended;
use super::transport::{Handler, Pending, Reply};
use crate::cache::{CacheError, FetchError};
use crate::clock::Timestamp;
use crate::fs::{Kernel, read_whole};
use crate::tables::{Found, Stays, Turned, View, ViewError};
use attributes::version_of;
pub use beside::{Beside, FOLDERS};
use bytes::Bytes;
use handles::{Content, Handles};
use nodes::{Node, Nodes};
use std::ffi::CString;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle as Runtime;

/// Bytes of one READ at most, and of read-ahead.
pub const IO_BYTES: u32 = 1 << 20;
/// How many reads may wait for their answers.
pub const WITHHELD: usize = 1024;
/// Requests in flight that nobody waits for: what the kernel reads ahead of programs, from whatever store. One that does not
/// answer must not keep all of them.
const BACKGROUND: u16 = 512;
/// How long what does not change may be kept.
const EVER: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a folder is believed to be as it was.
const MOMENT: Duration = Duration::from_secs(1);

/// What the mount asks of the kernel. `stack_depth`: see [`Limits`]. `rings`: some are ready.
pub fn wanted(passthrough: bool, stack_depth: u32, rings: bool) -> Wanted {
    let when = |on, feature| if on { feature } else { Features::default() };
    let helpful = Features::INIT_EXT
        | Features::ASYNC_READ
        | Features::ASYNC_DIO
        | Features::PARALLEL_DIROPS
        | Features::NO_OPENDIR_SUPPORT
        | Features::MAX_PAGES
        | when(rings, Features::OVER_IO_URING);
    let needed = when(passthrough, Features::INIT_EXT | Features::PASSTHROUGH);
    let limits = Limits { io_bytes: IO_BYTES, background: BACKGROUND, stack_depth };
    Wanted { needed, helpful, limits }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct TablesAdapter(Arc<Inner>);

struct Inner {
    view: View,
    runtime: Runtime,
    nodes: Nodes,
    handles: Handles,
    how: Serving,
    /// Statistics of the disk that the cache is on.
    disk: std::fs::File,
    /// Who owns what is shown, and since when it is.
    owner: (u32, u32),
    since: Timestamp,
    kernel: OnceLock<Arc<dyn Kernel>>,
}

/// How tables are served.
#[derive(Debug, Clone, Copy)]
pub struct Serving {
    /// The kernel serves what is whole.
    pub passthrough: bool,
    /// A directory is shown on the same mount.
    pub beside: bool,
    /// A read that has brought nothing for so long fails: no program waits without end.
    pub patience: Duration,
}

impl std::fmt::Debug for TablesAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TablesAdapter").field("view", &self.0.view).finish_non_exhaustive()
    }
}

impl TablesAdapter {
    /// Shows `view`. `disk` is a folder on the disk of the cache.
    pub fn new(view: View, runtime: Runtime, how: Serving, disk: std::fs::File) -> Self {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self(Arc::new(Inner {
            view,
            runtime,
            nodes: Nodes::new(if how.beside { beside::OWN } else { 0 }),
            handles: Handles::default(),
            how,
            disk,
            owner,
            since: Timestamp::now(),
            kernel: OnceLock::new(),
        }))
    }

    /// Connects the way back to the kernel; once.
    pub fn set_kernel(&self, kernel: Arc<dyn Kernel>) {
        let _already = self.0.kernel.set(kernel);
    }

    /// The kernel gives back references.
    fn forget(&self, id: u64, count: u64) {
        self.0.nodes.forget(id, count);
    }

    /// What the kernel may know is no longer so.
    pub fn turned(&self, what: Turned<'_>) {
        match what {
            Turned::Below(path) => self.turned_below(path),
            Turned::Files(paths) => self.replaced(paths),
        }
    }

    /// At these paths stand other files: whoever looks there next gets other numbers for them.
    fn replaced(&self, paths: &[String]) {
        let mut names = Vec::new();
        for path in paths {
            let Some(node) = self.0.nodes.at(path) else { continue };
            self.0.nodes.retire(&node);
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            if let (Some(folder), Ok(name)) = (self.0.nodes.at(folder), CString::new(name)) {
                names.push((folder.id, name));
            }
        }
        let Some(kernel) = self.0.kernel.get().filter(|_| !names.is_empty()).cloned() else { return };
        // It may wait for a look-up in one of these folders, and that for whoever calls us.
        self.0.runtime.spawn_blocking(move || {
            names.iter().for_each(|(folder, name)| kernel.forget_name(*folder, name));
        });
    }

    fn turned_below(&self, path: &str) {
        let Some(kernel) = self.0.kernel.get() else { return };
        let nodes = self.0.nodes.within(path);
        for node in &nodes {
            if node.changes {
                kernel.forget_attr(node.id);
            }
        }
        nodes.iter().for_each(|node| self.forget_listing(node));
    }

    /// What comes of something within the time that a program waits; `None` if nothing does.
    async fn in_time<T>(&self, path: &str, work: impl Future<Output = T>) -> Option<T> {
        let done = tokio::time::timeout(self.0.how.patience, work).await;
        done.inspect_err(|_| tracing::warn!(path, "nothing was heard of it for too long")).ok()
    }

    /// The kernel keeps a listing as long as nobody says otherwise.
    fn forget_listing(&self, node: &Node) {
        if node.is_listed_no_more()
            && let Some(kernel) = self.0.kernel.get()
        {
            kernel.forget_listing(node.id);
        }
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

fn told(error: &ViewError) -> i32 {
    tracing::warn!(%error, "a path cannot be looked at");
    error.errno()
}

impl Handler for TablesAdapter {
    fn handle(&self, request: Request<'_>, pending: Pending) {
        let Request { header, operation } = request;
        let (inner, id) = (&*self.0, header.nodeid);
        match operation {
            Operation::Lookup { name } => match (inner.nodes.get(id), name.to_str()) {
                (Some(parent), Ok(name)) => self.look_up(&parent, name, pending.reply()),
                (None, _) => pending.reply::<()>().send(Err(gone())),
                (_, Err(_)) => pending.reply().send(Ok(Brief(None, EVER))),
            },
            Operation::Forget { count } => {
                pending.none();
                inner.nodes.forget(id, count);
            }
            Operation::BatchForget { items } => {
                pending.none();
                items.iter().for_each(|item| inner.nodes.forget(item.inode, item.count));
            }
            Operation::Getattr => {
                pending.reply().send(inner.nodes.get(id).ok_or_else(gone).and_then(|node| {
                    Ok(BriefAttributes(
                        id,
                        inner.attr(&node)?,
                        if node.changes { Duration::ZERO } else { EVER },
                    ))
                }));
            }
            Operation::Readlink => pending.reply().send(match inner.nodes.get(id).map(|n| n.found.clone()) {
                Some(Found::Link(target)) => Ok(target.into_bytes()),
                _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            }),
            Operation::Statfs => {
                pending.reply().send(rustix::fs::fstatvfs(&inner.disk).map_err(io::Error::from));
            }
            Operation::Readdir { offset, size } => self.list(id, (offset, size), false, pending.reply()),
            Operation::Readdirplus { offset, size } if inner.how.beside => {
                self.list(id, (offset, size), true, pending.reply());
            }
            Operation::Lseek { offset, whence, .. } if inner.how.beside => {
                let size = inner.nodes.get(id).ok_or_else(gone).and_then(|node| inner.attr(&node));
                pending.reply().send(size.and_then(|attr| sought(attr.size, offset, whence)));
            }
            // The kernel would ask nobody on this mount any more.
            Operation::Getxattr { .. } | Operation::Listxattr { .. } if inner.how.beside => {
                pending.reply::<()>().error(libc::EOPNOTSUPP);
            }
            Operation::Open { flags, .. } if flags as i32 & libc::O_ACCMODE != libc::O_RDONLY => {
                pending.reply::<()>().error(libc::EROFS);
            }
            Operation::Open { .. } => match inner.nodes.get(id) {
                Some(node) => self.open(node, pending.reply()),
                None => pending.reply::<()>().send(Err(gone())),
            },
            Operation::Read { handle, offset, size } => self.read(handle, offset, size, pending.reply()),
            Operation::Release { handle, .. } => {
                inner.handles.remove(handle);
                pending.reply().send(Ok(()));
            }
            Operation::Fsync { .. } | Operation::Fsyncdir | Operation::Destroy => {
                pending.reply().send(Ok(()));
            }
            Operation::Getxattr { .. }
            | Operation::Listxattr { .. }
            | Operation::Readdirplus { .. }
            | Operation::Lseek { .. }
            | Operation::Unknown => pending.reply::<()>().error(libc::ENOSYS),
            _ => pending.reply::<()>().error(libc::EROFS),
        }
    }
}

impl TablesAdapter {
    fn look_up(&self, parent: &Arc<Node>, name: &str, reply: Reply<Brief>) {
        if View::is_nowhere(name) {
            return reply.send(Ok(Brief(None, EVER)));
        }
        let (path, own) = (parent.child(name), self.clone());
        if let Some(known) = self.0.nodes.at(&path).filter(|node| !node.changes && node.found.is_final()) {
            let known = self.0.interned(&path, &known.found, false);
            return reply.send(known.map(|known| Brief(Some(known), EVER)));
        }
        self.0.runtime.spawn(async move {
            let Some(found) = own.in_time(&path, own.0.view.find(&path)).await else {
                return reply.error(libc::EIO);
            };
            match found {
                Ok(Some((found, stays))) => {
                    let known = own.0.interned(&path, &found, stays == Stays::Now);
                    let stays = match stays {
                        Stays::Ever => EVER,
                        Stays::Moment => MOMENT,
                        Stays::Now => Duration::ZERO,
                    };
                    reply.send(known.map(|known| Brief(Some(known), stays)));
                }
                // It may come at any time.
                Ok(None) => reply.send(Ok(Brief(None, Duration::ZERO))),
                Err(error) => reply.error(told(&error)),
            }
        });
    }

    fn list(&self, id: u64, (offset, size): (u64, u32), plus: bool, reply: Reply<Vec<u8>>) {
        let Some(node) = self.0.nodes.get(id) else { return reply.send(Err(gone())) };
        if let Some(listing) = node.names.last().filter(|_| offset > 0) {
            return listing.write((offset, size), plus, reply);
        }
        let own = self.clone();
        self.0.runtime.spawn(async move {
            let Some(listed) = own.in_time(&node.path, own.0.view.list(&node.path)).await else {
                return reply.error(libc::EIO);
            };
            match listed {
                Ok(names) => {
                    node.names.turn_to(names).write((offset, size), plus, reply);
                    // However long that took: it is kept from now on.
                    if node.lists() {
                        tokio::time::sleep(MOMENT).await;
                        own.forget_listing(&node);
                    }
                }
                Err(error) => reply.error(told(&error)),
            }
        });
    }

    fn read(&self, handle: u64, offset: u64, size: u32, reply: Reply<Vec<u8>>) {
        let Some(handle) = self.0.handles.get(handle) else {
            return reply.send(Err(io::Error::from_raw_os_error(libc::EBADF)));
        };
        match &handle.content {
            Content::Local(file) => reply.fill(size as usize, |buffer| {
                let read = read_whole(file, buffer, offset)?;
                // The kernel may have parts of what was there before it was written anew.
                let is_still = handle.node.changes || handle.node.is_still(&version_of(&file.metadata()?));
                if is_still { Ok(read) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
            }),
            Content::Text(text) => reply.send(Ok(part(text, offset, size).to_vec())),
            Content::Object(blob, ahead) => {
                if let Some(ahead) = ahead {
                    ahead.read(blob, offset, u64::from(size));
                }
                let mut buffer = vec![0; size as usize];
                if let Some(n) = blob.read_now(offset, &mut buffer) {
                    buffer.truncate(n);
                    return reply.send(Ok(buffer));
                }
                drop(buffer);
                let (own, handle) = (self.clone(), handle.clone());
                self.0.runtime.spawn(async move {
                    let Content::Object(blob, _) = &handle.content else { return };
                    let waiting = reply.interruptible();
                    let read = tokio::time::timeout(own.0.how.patience, blob.read(offset, size as usize));
                    let read = tokio::select! {
                        read = read => read,
                        () = ended(waiting.as_ref()) => return reply.error(libc::EINTR),
                    };
                    match read {
                        Ok(Ok(bytes)) => reply.send(Ok(bytes.to_vec())),
                        Ok(Err(error)) => {
                            if let (CacheError::Fetch(FetchError::Changed { .. }), Found::Object { location, .. }) =
                                (&error, &handle.node.found)
                            {
                                own.0.view.lake().stores().changed(location);
                            }
                            tracing::warn!(%error, path = %handle.node.path, "a read has failed");
                            reply.error(libc::EIO);
                        }
                        Err(_) => {
                            tracing::warn!(path = %handle.node.path, "the store has sent nothing for too long");
                            reply.error(libc::EIO);
                        }
                    }
                });
            }
            // The kernel reads it itself.
            Content::Kernel { .. } => reply.error(libc::EIO),
        }
    }
}

fn part(text: &Bytes, offset: u64, size: u32) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    &text[start..(start + size as usize).min(text.len())]
}

/// There are no holes.
fn sought(size: u64, offset: u64, whence: u32) -> io::Result<Offset> {
    if offset >= size {
        return Err(io::Error::from_raw_os_error(libc::ENXIO));
    }
    Ok(Offset(if whence as i32 == libc::SEEK_HOLE { size } else { offset } as i64))
}
