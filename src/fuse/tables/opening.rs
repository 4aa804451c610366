//! Opens: what the cache has whole is served by the kernel, all else by us; one file in one way at a time.
use super::handles::{Content, Passed};
use super::nodes::Node;
use super::{TablesAdapter, version_of};
use crate::cache::Blob;
use crate::fuse::abi::answer::Opened;
use crate::fuse::transport::Reply;
use crate::tables::{Ahead, Found, Known as Columns, ViewError};
use icecache_iceberg::ObjectError;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

impl TablesAdapter {
    pub(super) fn open(&self, node: Arc<Node>, reply: Reply<Opened>) {
        if !self.0.nodes.is_current(&node) {
            return reply.error(libc::ESTALE); // the kernel looks the path up again
        }
        // The kernel serves a file to all from one registration, and in one way. That somebody has it open does not say
        // that it is still there, but of what a table names.
        let passed = node.opened.lock().passed.upgrade();
        if let Some(passed) = passed
            && matches!(node.found, Found::Object { stated: true, .. })
        {
            return self.passed(node, passed, reply);
        }
        match &node.found {
            Found::Local(file) => match open_plain(file) {
                Ok(file) if node.changes => self.opened(node, Content::Local(file), reply),
                Ok(file) if !file.metadata().is_ok_and(|there| node.is_still(&version_of(&there))) => {
                    self.0.nodes.retire(&node);
                    reply.error(libc::ESTALE);
                }
                Ok(file) => self.opened_whole(node, Whole::Local(file), reply),
                Err(e) => reply.send(Err(e)),
            },
            Found::Text(text) => {
                let text = text.clone();
                self.opened(node, Content::Text(text), reply);
            }
            Found::Object { location, size, stated } => {
                let (own, location, size) = (self.clone(), location.clone(), *size);
                let stated = stated.then_some(size);
                self.0.view.lake().opened(&location);
                self.0.runtime.spawn(async move {
                    let stores = own.0.view.lake().stores();
                    let found = async {
                        if stated.is_none() {
                            stores.changed(&location); // no table says that it never changes
                        }
                        stores.blob(&location, stated).await
                    };
                    let Some(found) = own.in_time(&node.path, found).await else {
                        return reply.error(libc::EIO);
                    };
                    match found {
                        // The kernel may have bytes of the one before under this number, and looks the path up
                        // again: it gets another number.
                        Ok(blob) if blob.size() != size || !node.is_still(&blob.id().tag) => {
                            if blob.size() != size {
                                // Either may be what is old.
                                own.0.view.lake().stores().changed(&location);
                            }
                            own.0.nodes.retire(&node);
                            reply.error(libc::ESTALE);
                        }
                        Ok(blob) => own.open_object(node, blob, reply).await,
                        Err(ObjectError::NotFound { .. }) => {
                            own.0.nodes.retire(&node);
                            reply.error(libc::ENOENT);
                        }
                        Err(error) => {
                            tracing::warn!(%error, "an object cannot be opened");
                            reply.error(ViewError::from(error).errno());
                        }
                    }
                });
            }
            Found::Folder | Found::Link(_) => reply.error(libc::EISDIR),
        }
    }

    async fn open_object(&self, node: Arc<Node>, blob: Blob, reply: Reply<Opened>) {
        let whole = if self.0.how.passthrough { blob.file().await } else { Ok(None) };
        match whole {
            Ok(Some(file)) => match file.open() {
                Ok(fd) => self.opened_whole(node, Whole::Cached(file, fd, blob), reply),
                Err(_) => self.opened_object(node, blob, reply),
            },
            // It is read block by block, each of which is looked at again.
            Ok(None) | Err(_) => self.opened_object(node, blob, reply),
        }
    }

    /// Opens what we serve, from the cache and from its store.
    fn opened_object(&self, node: Arc<Node>, blob: Blob, reply: Reply<Opened>) {
        let (here, all) = blob.blocks();
        let has_columns = Columns::is_of(&node.path) && here < all;
        let ahead = has_columns.then(|| Ahead::new(self.columns(&node, &blob)));
        self.opened(node, Content::Object(blob, ahead), reply);
    }

    /// What is known of the columns of a file; who opens it first reads its footer.
    fn columns(&self, node: &Node, blob: &Blob) -> Arc<Columns> {
        let mut opened = node.opened.lock();
        opened.columns.upgrade().unwrap_or_else(|| {
            let columns = Arc::<Columns>::default();
            opened.columns = Arc::downgrade(&columns);
            let (learned, blob) = (columns.clone(), blob.clone());
            self.0.runtime.spawn(async move {
                if let Err(error) = learned.learn(&blob).await {
                    tracing::debug!(object = %blob.id(), %error, "its footer cannot be read");
                }
            });
            columns
        })
    }

    /// Opens what the kernel can serve, unless the file is open in the other way.
    fn opened_whole(&self, node: Arc<Node>, whole: Whole, reply: Reply<Opened>) {
        let mut opened = node.opened.lock();
        if self.0.how.passthrough && opened.classic == 0 {
            let passed = opened.passed.upgrade().map_or_else(
                || {
                    let backing = reply.register(whole.fd())?;
                    let passed = Arc::new(Passed { backing, _pinned: whole.pinned() });
                    opened.passed = Arc::downgrade(&passed);
                    Ok(passed)
                },
                Ok,
            );
            match passed {
                Ok(passed) => {
                    drop(opened);
                    return self.passed(node, passed, reply);
                }
                Err(error) => {
                    let error: io::Error = error;
                    tracing::debug!(%error, path = %node.path, "the kernel does not serve a file");
                }
            }
        }
        drop(opened);
        let content = match whole {
            Whole::Local(file) => Content::Local(file),
            Whole::Cached(_, _, blob) => return self.opened_object(node, blob, reply),
        };
        self.opened(node, content, reply);
    }

    fn passed(&self, node: Arc<Node>, passed: Arc<Passed>, reply: Reply<Opened>) {
        let id = passed.backing.id();
        let handle = self.0.handles.add(node, Content::Kernel { _passed: passed });
        reply.send(Ok(Opened::Backing { handle, id }));
    }

    fn opened(&self, node: Arc<Node>, content: Content, reply: Reply<Opened>) {
        {
            let mut opened = node.opened.lock();
            if let Some(passed) = opened.passed.upgrade() {
                drop(opened);
                return self.passed(node, passed, reply); // another open was quicker
            }
            opened.classic += 1;
        }
        let fresh = node.changes;
        let handle = self.0.handles.add(node, content);
        reply.send(Ok(if fresh { Opened::Fresh(handle) } else { Opened::Handle(handle) }));
    }
}

/// Opens a plain file. Waits for nobody where it is none, and follows no link: we may read more than who asks.
fn open_plain(path: &std::path::Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file =
        std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::from_raw_os_error(libc::EIO)),
    }
}

/// A file that is all there.
enum Whole {
    Local(std::fs::File),
    Cached(crate::cache::File, Arc<std::fs::File>, Blob),
}

impl Whole {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Local(file) => file.as_fd(),
            Self::Cached(_, fd, _) => fd.as_fd(),
        }
    }

    fn pinned(&self) -> Option<crate::cache::File> {
        match self {
            Self::Local(_) => None,
            Self::Cached(file, ..) => Some(file.clone()),
        }
    }
}
