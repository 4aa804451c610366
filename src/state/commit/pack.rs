//! A plan into an object, streaming: one thread packs, the store sends, a bounded channel between.
use super::CommitError;
use crate::layer::content::Content;
use crate::layer::{
    Dictionary, Entry, Kind, LayerError, LayerWriter, Metadata, PackOptions, References, Summary,
};
use crate::path::RelPath;
use crate::remote::{Condition, ObjectStore, Upload};
use crate::state::chunk::{Borrowing, Digested};
use crate::state::head::INLINE_BYTES_MAX;
use crate::state::plan::Plan;
use crate::state::source::{ContentSource, is_of_one_file};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes of one message between packing and sending.
const CHUNK: usize = 256 << 10;
/// Messages between packing and sending.
const CHUNKS_MAX: usize = 8;

/// What was packed.
#[derive(Debug)]
pub struct Packed {
    /// The object.
    pub summary: Summary,
    /// Paths set that differ from the last version.
    pub changed: u64,
    /// Paths removed.
    pub removed: u64,
    /// Files that may not be of one instant.
    pub fuzzy: u64,
    /// Paths left out, and why.
    pub skipped: BTreeMap<RelPath, String>,
    /// Keys of the layers that it refers to.
    pub refers: Vec<String>,
    /// Bytes of files that stand there and were not sent again.
    pub borrowed: u64,
}

/// What is to be packed.
pub(super) struct Material {
    pub(super) plan: Arc<Plan>,
    pub(super) source: Arc<dyn ContentSource>,
    /// What it is compressed with.
    pub(super) dictionary: Option<Dictionary>,
}

/// A copy of what is sent, if that is small.
#[derive(Debug, Default)]
pub(super) struct Copied {
    bytes: BytesMut,
    /// No longer all of it.
    is_cut: bool,
}

impl Copied {
    fn add(&mut self, bytes: &Bytes) {
        self.is_cut |= self.bytes.len() + bytes.len() > INLINE_BYTES_MAX;
        if self.is_cut {
            self.bytes = BytesMut::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The object; `None` if it is too long for a copy.
    pub(super) fn whole(self) -> Option<Bytes> {
        (!self.is_cut).then(|| self.bytes.freeze())
    }
}

/// Packs and sends, and copies what it sends. The object is complete but not yet published: that is
/// `Upload::finish`.
pub(super) async fn send(
    store: &dyn ObjectStore,
    key: &str,
    condition: Condition,
    material: Material,
    options: PackOptions,
    borrowing: Option<Borrowing>,
    copied: &mut Copied,
) -> Result<(Box<dyn Upload>, Packed), CommitError> {
    let write = move |sink| {
        let Material { plan, source, dictionary } = material;
        pack_into(&plan, &*source, LayerWriter::with_dictionary(sink, options, dictionary), borrowing)
    };
    send_by(store, key, condition, Some(copied), write).await
}

/// The same of whatever `write` writes, on a thread that may wait.
pub(super) async fn send_by<T: Send + 'static>(
    store: &dyn ObjectStore,
    key: &str,
    condition: Condition,
    mut copied: Option<&mut Copied>,
    write: impl FnOnce(Sink) -> Result<T, CommitError> + Send + 'static,
) -> Result<(Box<dyn Upload>, T), CommitError> {
    let mut upload = store.upload(key, condition).await?;
    let (sender, mut receiver) = mpsc::channel(CHUNKS_MAX);
    let packer =
        tokio::task::spawn_blocking(move || write(Sink { sender, buffer: Vec::with_capacity(CHUNK) }));
    let mut sent = Ok(());
    while let Some(bytes) = receiver.recv().await {
        if let Some(copied) = &mut copied {
            copied.add(&bytes);
        }
        sent = upload.write(bytes).await;
        if sent.is_err() {
            break;
        }
    }
    // If sending failed the packer's next write fails, too: it always ends.
    drop(receiver);
    let packed = packer.await.map_err(|_| CommitError::Stopped);
    let result = match (sent, packed) {
        (Err(e), _) => Err(e.into()),
        (Ok(()), Ok(Ok(packed))) => Ok(packed),
        (Ok(()), Ok(Err(e)) | Err(e)) => Err(e),
    };
    match result {
        Ok(packed) => Ok((upload, packed)),
        Err(e) => {
            upload.abort().await;
            Err(e)
        }
    }
}

/// Whiteouts first, then what stands, in path order: directories before their content, and files
/// before the links to them. With `borrowing` what stands in earlier layers is referred to.
pub fn pack<W: Write + Send>(
    plan: &Plan,
    source: &dyn ContentSource,
    sink: W,
    options: PackOptions,
    borrowing: Option<Borrowing>,
) -> Result<Packed, CommitError> {
    pack_into(plan, source, LayerWriter::new(sink, options), borrowing)
}

fn pack_into<W: Write + Send>(
    plan: &Plan,
    source: &dyn ContentSource,
    mut writer: LayerWriter<W>,
    mut borrowing: Option<Borrowing>,
) -> Result<Packed, CommitError> {
    let (mut changed, mut removed, mut fuzzy) = (0, 0, 0);
    let mut skipped: BTreeMap<RelPath, String> = BTreeMap::new();
    for path in plan.removals() {
        removed += 1;
        if !plan.is_whole() {
            let entry = Entry { path: path.clone(), kind: Kind::Whiteout, meta: Metadata::default() };
            writer.append(&entry, None)?;
        }
    }
    for (path, captured) in plan.puts() {
        let content = match captured.kind {
            Kind::File { size, .. } if captured.is_referred() && captured.link.is_none() => {
                let content: Box<dyn Content> = Box::new(Elsewhere(size));
                Some(content)
            }
            Kind::File { size, .. } if captured.link.is_none() && size > 0 => {
                match source.open(path, captured) {
                    Ok(file) => Some(file),
                    Err(e) if is_of_one_file(&e) => {
                        skipped.insert(path.clone(), e.to_string());
                        source.done(path, captured);
                        continue;
                    }
                    Err(e) => return Err(CommitError::Source { path: path.clone(), source: e }),
                }
            }
            _ => None,
        };
        if let Some(why) = captured.link.as_ref().and_then(|target| skipped.get(target)) {
            let why = why.clone();
            skipped.insert(path.clone(), why);
            continue;
        }
        let lent = |refs: &References| borrowing.as_ref().is_some_and(|borrowing| borrowing.lends(refs));
        if captured.is_referred()
            && let Kind::File { refs, .. } = &captured.kind
            && !lent(refs)
        {
            let why = "it is not here, and the layer that has it is no longer listed";
            skipped.insert(path.clone(), why.to_owned());
            continue;
        }
        let entry = captured.entry(path);
        let appended = match (&mut borrowing, content.as_deref()) {
            (Some(borrowing), Some(content)) => {
                let refer = !plan.is_carried(path, captured) && !captured.is_referred();
                append_new(&mut writer, borrowing, entry, content, refer)
            }
            (_, content) => writer.append(&entry, content).map(drop).map_err(CommitError::from),
        };
        if captured.has_content() {
            source.done(path, captured);
        }
        match appended {
            Ok(()) => {}
            Err(CommitError::Layer(LayerError::Unstorable { what, .. })) => {
                skipped.insert(path.clone(), what);
                continue;
            }
            Err(e) => return Err(e),
        }
        changed += u64::from(captured.changed);
        fuzzy +=
            u64::from(captured.link.is_none() && matches!(captured.kind, Kind::File { fuzzy: true, .. }));
    }
    let (mut sink, summary) = writer.finish()?;
    sink.flush().map_err(|source| LayerError::Io { what: "cannot send".into(), source })?;
    let (refers, borrowed) = borrowing.map_or((Vec::new(), 0), |b| (b.refers(), b.bytes()));
    Ok(Packed { summary, changed, removed, fuzzy, skipped, refers, borrowed })
}

/// Appends a file, but for what stands in a layer already if it may `refer` to that.
fn append_new<W: Write + Send>(
    writer: &mut LayerWriter<W>,
    borrowing: &mut Borrowing,
    mut entry: Entry,
    content: &dyn Content,
    refer: bool,
) -> Result<(), CommitError> {
    let failed = |path: &RelPath| {
        let path = path.clone();
        move |source| CommitError::Source { path, source }
    };
    let Kind::File { size, refs, .. } = &mut entry.kind else { return Ok(()) };
    let size = *size;
    // One that lost its end is found out by the writer.
    if refer && content.length().map_err(failed(&entry.path))? >= size {
        *refs = borrowing.references(content, size).map_err(failed(&entry.path))?;
    }
    let digested = Digested::new(content, size);
    let appended = writer.append(&entry, Some(&digested))?;
    if let Kind::File { refs, .. } = &entry.kind {
        borrowing.packed(refs, &appended, digested.chunks())?;
    }
    Ok(())
}

/// A file of so many bytes that all stand in other layers.
struct Elsewhere(u64);

impl Content for Elsewhere {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0)
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn data_after(&self, _: u64) -> io::Result<Option<Range<u64>>> {
        Ok(None)
    }
}

/// The packing end of the channel.
pub(super) struct Sink {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Sink {
    fn send(&mut self) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(bytes.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}
