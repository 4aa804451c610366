//! A version of a name, written into a directory.
use super::{Choice, Opened, Reports, Show, Transferred, single_key};
use crate::config::{Layout, RemoteSettings};
use crate::layer::LayerReader;
use crate::layer::extract::Extractor;
use crate::remote::{ByteStream, Download, RemoteError};
use crate::serve::startup::Progress;
use crate::state::choice::choose;
use crate::state::head::Head;
use crate::state::restore::{self, LayerSource, Lenders, Policy};
use crate::{Error, ErrorKind, Result};
use bytes::{Buf, Bytes};
use futures::StreamExt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// What a person sees of it.
const PHASE: &str = "restoring";

/// Writes a version beneath `target`. Also returns what could not be kept, in words.
pub fn restore(
    remote: &RemoteSettings,
    choice: &Choice,
    target: &File,
    show: &Show<'_>,
) -> Result<(Transferred, Vec<String>)> {
    let opened = Opened::new(remote)?;
    let root = OwnedFd::from(target.try_clone().map_err(|e| Error::io("cannot use target directory", e))?);
    match remote.layout {
        Layout::Layered | Layout::Log => {
            layered(&opened, &choose(opened.expect_head(remote)?, choice)?, root, show)
        }
        Layout::Single if *choice == Choice::Newest => single(&opened, remote, root, show),
        Layout::Single => Err(Error::new(
            ErrorKind::Invalid,
            "layout single keeps the newest version only: leave VERSION and --at out",
        )),
    }
}

fn layered(
    opened: &Opened,
    head: &Head,
    root: OwnedFd,
    show: &Show<'_>,
) -> Result<(Transferred, Vec<String>)> {
    let layers = LayerSource::newest_first(head);
    let reports = Reports::new(PHASE, show);
    let store = Arc::clone(&opened.store);
    let policy = Policy { lenders: Arc::new(Lenders::of(head)), ..Policy::default() };
    let work = restore::restore(store, layers, root, policy, &reports);
    let restored = opened.runtime.block_on(work)?;
    let transferred =
        Transferred { version: head.version.to_string(), entries: restored.entries, bytes: restored.bytes };
    Ok((transferred, restored.notes))
}

/// The archive of the original tool, or of anybody: no HEAD says its digest, so what proves it is its
/// length, and its own checksums where it has them.
fn single(
    opened: &Opened,
    remote: &RemoteSettings,
    root: OwnedFd,
    show: &Show<'_>,
) -> Result<(Transferred, Vec<String>)> {
    let found = opened.runtime.block_on(opened.store.download(&single_key(remote), None));
    let Download { length, tag, body } = match found {
        Ok(download) => download,
        Err(RemoteError::NotFound { .. }) => return Err(opened.unknown(remote)),
        Err(e) => return Err(e.into()),
    };
    let count = Arc::new(AtomicU64::new(0));
    let handle = opened.runtime.handle().clone();
    let body = Body { handle, stream: body, current: Bytes::new(), count: Arc::clone(&count) };
    let mut reader = LayerReader::lenient(body)?;
    let mut extractor = Extractor::new(root);
    let mut entries = 0;
    while let Some(entry) = reader.next_entry()? {
        extractor.place(&entry, &mut reader)?;
        entries += 1;
        let bytes = count.load(Ordering::Relaxed);
        show(&Progress { phase: PHASE.to_owned(), bytes, bytes_total: length, entries });
    }
    extractor.end_layer()?;
    let notes = extractor.finish()?.notes;
    let transferred = Transferred { version: tag.0, entries, bytes: length };
    Ok((transferred, notes.iter().map(ToString::to_string).collect()))
}

/// A download as a plain reader. Used on threads outside of the runtime only.
struct Body {
    handle: Handle,
    stream: ByteStream,
    current: Bytes,
    count: Arc<AtomicU64>,
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.handle.block_on(self.stream.next()) {
                Some(Ok(bytes)) => self.current = bytes,
                Some(Err(e)) => return Err(io::Error::other(e)),
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(buf.len());
        self.current.copy_to_slice(&mut buf[..length]);
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
