//! An archive as the first version of a new name.
//!
//! The archive is read to its end and packed anew: so it is proven whole before a HEAD names it, and
//! whatever tar wrote it, the layer has frames, checksums and a table.
use super::outline::Outline;
use super::{Opened, Show, Transferred, single_key, spool};
use crate::clock::Timestamp;
use crate::config::{Layout, RemoteSettings};
use crate::layer::{Entry, Kind, LayerError, LayerReader, LayerWriter, PackOptions, Summary};
use crate::remote::{Condition, RemoteError, Upload, supports_conditional_writes};
use crate::serve::startup::Progress;
use crate::state::head::{Digest, Head, LayerRef, head_key, instant, layer_key};
use crate::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use uuid::Uuid;

/// What is handed to an upload at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Makes an archive the first version of a name that has none.
pub fn import(remote: &RemoteSettings, archive: File, show: &Show<'_>) -> Result<Transferred> {
    let opened = Opened::new(remote)?;
    let taken = || {
        let message = format!("name has versions already, import under another: {}", remote.name);
        Error::new(ErrorKind::Conflict, message)
    };
    if remote.layout != Layout::Single && opened.head(remote)?.is_some() {
        return Err(taken());
    }
    // Before anything is written to the remote: it may be no archive at all.
    let archive = Archive::open(archive)?;
    require_conditions(&opened, remote)?;
    let (key, condition) = match remote.layout {
        Layout::Layered | Layout::Log => (layer_key(Uuid::now_v7()), Condition::IfAbsent),
        Layout::Single => (single_key(remote), Condition::IfAbsent),
    };
    let handle = opened.runtime.handle().clone();
    let upload = handle.block_on(opened.store.upload(&key, condition))?;
    let sink = Sink { handle: handle.clone(), upload, buffer: BytesMut::new() };
    let (sink, summary) = repack(archive, sink, show)?;
    sink.finish().map_err(|e| if e.kind() == ErrorKind::Conflict { taken() } else { e })?;
    let transferred = |version| Transferred { version, entries: summary.entries, bytes: summary.bytes };
    if remote.layout == Layout::Single {
        return Ok(transferred(key));
    }
    let head = first_head(remote, key, &summary);
    let bytes = Bytes::from(head.to_bytes()?);
    let head_key = head_key(remote.name.as_str());
    let put = opened.store.put(&head_key, bytes, Condition::IfAbsent);
    handle.block_on(put).map_err(|e| match Error::from(e) {
        e if e.kind() == ErrorKind::Conflict => taken(),
        e => e,
    })?;
    Ok(transferred(head.version.to_string()))
}

/// The archive of a name in layout single, in a file without a name.
pub fn single_archive(remote: &RemoteSettings) -> Result<File> {
    if remote.layout == Layout::Single {
        let message = "the archive is in layout single already: leave --layout out, or --from-single";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let opened = Opened::new(remote)?;
    let found = opened.runtime.block_on(opened.store.download(&single_key(remote), None));
    let mut download = match found {
        Ok(download) => download,
        Err(RemoteError::NotFound { .. }) => return Err(opened.unknown(remote)),
        Err(e) => return Err(e.into()),
    };
    let mut file = spool()?;
    let failed = |e| Error::io("cannot write temporary file", e);
    while let Some(piece) = opened.runtime.block_on(download.body.next()) {
        file.write_all(&piece?).map_err(failed)?;
    }
    file.rewind().map_err(failed)?;
    Ok(file)
}

/// Without conditional writes "has none" would be a guess.
pub(super) fn require_conditions(opened: &Opened, remote: &RemoteSettings) -> Result<()> {
    if remote.allow_unsafe_no_cas {
        return Ok(());
    }
    let key = format!("{}/probe", remote.name);
    if opened.runtime.block_on(supports_conditional_writes(&*opened.store, &key))? {
        return Ok(());
    }
    let message = format!("remote has no conditional writes, see --unsafe-no-cas: {}", remote.remote);
    Err(Error::new(ErrorKind::Unsupported, message))
}

fn first_head(remote: &RemoteSettings, key: String, summary: &Summary) -> Head {
    let writer = Uuid::new_v4();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let layer = LayerRef {
        key,
        bytes: summary.bytes,
        raw_bytes: summary.raw_bytes,
        digest: Digest(summary.digest),
        entries: summary.entries,
        table: Some(summary.tail.into()),
        dictionary: None,
        version: 1,
        base: None,
        refers: Vec::new(),
        time: instant(Timestamp::now()),
        writer,
        changed: summary.entries,
        removed: 0,
        fuzzy: 0,
        inline: None,
        extra: serde_json::Map::new(),
    };
    let mut head = Head::empty(remote.name.as_str(), writer, &host).next(writer, &host, layer);
    head.log = remote.layout == Layout::Log;
    head
}

/// An archive that is being read.
struct Archive {
    reader: LayerReader<Counting<io::BufReader<File>>>,
    /// The next entry.
    next: Option<Entry>,
    read: Arc<AtomicU64>,
    bytes_total: u64,
}

impl Archive {
    fn open(file: File) -> Result<Self> {
        let bytes_total = file.metadata().map_or(0, |m| m.len());
        let read = Arc::new(AtomicU64::new(0));
        let source = Counting { inner: io::BufReader::new(file), count: Arc::clone(&read) };
        let mut reader = LayerReader::lenient(source).map_err(unreadable)?;
        let next = reader.next_entry().map_err(unreadable)?;
        Ok(Self { reader, next, read, bytes_total })
    }
}

/// What an archive is refused for: one that ends too early or holds rubbish is no layer of a remote that fails.
fn unreadable(error: LayerError) -> Error {
    let error = Error::from(error);
    match error.kind() {
        ErrorKind::Corrupt => error.context("not an archive, or not a whole one"),
        _ => error,
    }
}

fn repack<W: Write + Send>(archive: Archive, sink: W, show: &Show<'_>) -> Result<(W, Summary)> {
    let Archive { mut reader, mut next, read, bytes_total } = archive;
    let mut writer = LayerWriter::new(sink, PackOptions::default());
    // For one file's content at a time.
    let spool = spool()?;
    let mut outline = Outline::default();
    let mut entries = 0;
    while let Some(entry) = next {
        // A layer that was exported alone may remove what a first version never had.
        if !matches!(entry.kind, Kind::Whiteout) && outline.add(&entry)? {
            match entry.kind {
                Kind::File { ref refs, .. } if !refs.is_empty() => {
                    let what = "archive is a layer that refers to others; restore its version and import an export of that";
                    return Err(Error::new(ErrorKind::Unsupported, format!("{what}: {}", entry.path)));
                }
                Kind::File { size, .. } if size > 0 => {
                    spool.set_len(0).map_err(|e| Error::io("cannot spool archive", e))?;
                    reader.content_to_file(&spool).map_err(unreadable)?;
                    writer.append(&entry, Some(&spool))?;
                }
                _ => {
                    writer.append(&entry, None)?;
                }
            }
            entries += 1;
            let bytes = read.load(Ordering::Relaxed);
            show(&Progress { phase: "importing".to_owned(), bytes, bytes_total, entries });
        }
        next = reader.next_entry().map_err(unreadable)?;
    }
    outline.finish()?;
    Ok(writer.finish()?)
}

/// Counts what is read.
struct Counting<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.count.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// An upload as a plain writer. Used on threads outside of the runtime only.
struct Sink {
    handle: Handle,
    upload: Box<dyn Upload>,
    buffer: BytesMut,
}

impl Sink {
    fn send(&mut self) -> io::Result<()> {
        let bytes = self.buffer.split().freeze();
        self.handle.block_on(self.upload.write(bytes)).map_err(io::Error::other)
    }

    fn finish(mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.handle.block_on(self.upload.write(self.buffer.split().freeze()))?;
        }
        self.handle.block_on(self.upload.finish())?;
        Ok(())
    }
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(buf);
        if self.buffer.len() >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
