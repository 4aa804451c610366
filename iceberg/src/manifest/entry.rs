//! Manifests: entries, each a data file or a file of deletes.
use super::crew::together;
use super::evidence::Evidence;
use super::metrics::{Metrics, MetricsChange};
use super::partition::partition_text;
use super::{ENTRIES_MAX, fault};
use crate::avro::{
    AvroError, Container, Edits, Item, Node, Room, Run, Schema, long, put_bytes, put_long, text, walk,
};
use crate::error::TableError;
use crate::publication::Content;
use std::collections::HashMap;
use std::sync::Arc;

const STATUS: i32 = 0;
const DATA_FILE: i32 = 2;
const PATH: i32 = 100;
const FORMAT: i32 = 101;
const PARTITION: i32 = 102;
const ROWS: i32 = 103;
const SIZE: i32 = 104;
const KEY: i32 = 131;
const SPLITS: i32 = 132;
const CONTENT: i32 = 134;
const REFERENCED: i32 = 143;
const OFFSET: i32 = 144;

/// Whether a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It was there before, or came with this snapshot.
    Live,
    /// It is not part of the snapshot any more.
    Deleted,
}

/// An entry of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Whether the file is there.
    pub status: Status,
    /// It came with the snapshot that wrote this entry, whatever was at its path before.
    pub came: bool,
    /// What is in it.
    pub content: Content,
    /// Where it is, as written.
    pub path: String,
    /// Its format, as written.
    pub format: Arc<str>,
    /// How many rows it has.
    pub rows: u64,
    /// Its size in bytes, as written.
    pub size: u64,
    /// Its partition, as text.
    pub partition: Arc<str>,
    /// The data file that the deletes are for, where there is one alone.
    pub referenced: Option<String>,
    /// Where in a Puffin file the deletion vector begins.
    pub offset: Option<i64>,
}

/// What becomes of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryChange {
    /// Its new path.
    pub path: String,
    /// Its new size, if that changes.
    pub size: Option<u64>,
    /// The new path of the data file that its deletes are for.
    pub referenced: Option<String>,
    /// Its new format, if that changes.
    pub format: Option<&'static str>,
    /// The new places where it may be split, if they change.
    pub splits: Option<Vec<i64>>,
    /// What becomes of what is told of its columns.
    pub metrics: MetricsChange,
}

/// Where the parts of an entry lie.
#[derive(Default)]
struct Parts {
    status: Option<Item>,
    content: Option<Item>,
    path: Option<Item>,
    format: Option<Item>,
    partition: Option<Item>,
    rows: Option<Item>,
    size: Option<Item>,
    metrics: Metrics,
    splits: Option<Item>,
    referenced: Option<Item>,
    offset: Option<Item>,
    encrypted: bool,
}

fn parts(schema: &Schema, content: &[u8], at: usize) -> Result<(Parts, usize), AvroError> {
    let mut parts = Parts::default();
    let mut file = None;
    let end = walk(schema, schema.root(), content, at, |field, item| {
        match field.id {
            Some(STATUS) => parts.status = Some(item),
            Some(DATA_FILE) => file = Some(item),
            _ => {}
        }
        Ok(())
    })?;
    let file = file.ok_or(AvroError::Malformed("its schema has no field 2, the data file"))?;
    walk(schema, file.node, content, file.range.start, |field, item| {
        let item = Some(item).filter(|item| !item.is_null(schema));
        match field.id {
            Some(CONTENT) => parts.content = item,
            Some(PATH) => parts.path = item,
            Some(FORMAT) => parts.format = item,
            Some(PARTITION) => parts.partition = item,
            Some(ROWS) => parts.rows = item,
            Some(SIZE) => parts.size = item,
            Some(SPLITS) => parts.splits = item,
            Some(REFERENCED) => parts.referenced = item,
            Some(OFFSET) => parts.offset = item,
            Some(KEY) => parts.encrypted = item.is_some(),
            Some(id) => parts.metrics.found(id, item),
            None => {}
        }
        Ok(())
    })?;
    Ok((parts, end))
}

impl Entry {
    fn read(schema: &Schema, parts: &Parts, content: &[u8], shared: &mut Shared) -> Result<Self, AvroError> {
        let need = |item: &Option<Item>, what| item.clone().ok_or(AvroError::Malformed(what));
        let count = |item: &Item| long(schema, item, content).map(|n| u64::try_from(n).unwrap_or(0));
        let path = need(&parts.path, "an entry has no path (field 100)")?;
        let format = need(&parts.format, "an entry has no format (field 101)")?;
        let size = need(&parts.size, "an entry has no size (field 104)")?;
        let status = long(schema, &need(&parts.status, "an entry has no status (field 0)")?, content)?;
        let kind = parts.content.as_ref().map_or(Ok(0), |item| long(schema, item, content))?;
        Ok(Self {
            status: if status == 2 { Status::Deleted } else { Status::Live },
            came: status == 1,
            content: match kind {
                0 => Content::Data,
                1 => Content::PositionDeletes,
                2 => Content::EqualityDeletes,
                _ => {
                    return Err(AvroError::Malformed("an entry has a content that is not known (field 134)"));
                }
            },
            path: text(schema, &path, content)?.to_owned(),
            format: shared.format(text(schema, &format, content)?),
            rows: parts.rows.as_ref().map_or(Ok(0), count)?,
            size: count(&size)?,
            partition: match &parts.partition {
                Some(item) => shared.partition(schema, item, content)?,
                None => shared.format(""),
            },
            referenced: match &parts.referenced {
                Some(item) => Some(text(schema, item, content)?.to_owned()),
                None => None,
            },
            offset: parts.offset.as_ref().map(|item| long(schema, item, content)).transpose()?,
        })
    }
}

/// Texts that many entries have.
#[derive(Default)]
struct Shared {
    formats: HashMap<Box<str>, Arc<str>>,
    /// By their bytes, which are all of one type.
    partitions: HashMap<Box<[u8]>, Arc<str>>,
    of: Option<Node>,
}

impl Shared {
    fn format(&mut self, text: &str) -> Arc<str> {
        match self.formats.get(text) {
            Some(known) => known.clone(),
            None => self.formats.entry(text.into()).or_insert(text.into()).clone(),
        }
    }

    fn partition(&mut self, schema: &Schema, item: &Item, content: &[u8]) -> Result<Arc<str>, AvroError> {
        if self.of.replace(item.node) != Some(item.node) {
            self.partitions.clear();
        }
        let bytes = &content[item.range.clone()];
        if let Some(known) = self.partitions.get(bytes) {
            return Ok(known.clone());
        }
        let text: Arc<str> = partition_text(schema, item, content)?.into();
        self.partitions.insert(bytes.into(), text.clone());
        Ok(text)
    }
}

/// Why the entries of a manifest cannot be told, or not be changed.
enum Refusal {
    Format(AvroError),
    Table(TableError),
}

impl From<AvroError> for Refusal {
    fn from(error: AvroError) -> Self {
        Self::Format(error)
    }
}

/// A manifest whose header is understood, and that has no more entries than are possible.
fn open<'a>(bytes: &'a [u8]) -> Result<(Container<'a>, Vec<Run>), AvroError> {
    let manifest = Container::parse(bytes)?;
    let runs = manifest.runs()?;
    let entries = runs.iter().fold(0_u64, |sum, run| sum.saturating_add(run.records));
    if entries > ENTRIES_MAX as u64 {
        return Err(AvroError::Malformed("it has too many entries"));
    }
    Ok((manifest, runs))
}

/// The entry that begins at `at`, where its parts are, and where it ends.
fn entry(
    schema: &Schema,
    content: &[u8],
    at: usize,
    shared: &mut Shared,
) -> Result<(Entry, Parts, usize), Refusal> {
    let (parts, end) = parts(schema, content, at)?;
    if parts.encrypted {
        return Err(Refusal::Table(TableError::Encrypted { by: "its files have key metadata" }));
    }
    Ok((Entry::read(schema, &parts, content, shared)?, parts, end))
}

/// Says which manifest it is about.
fn told(name: &str) -> impl Fn(Refusal) -> TableError {
    let fault = fault("manifest", name);
    move |refusal| match refusal {
        Refusal::Format(error) => fault(error),
        Refusal::Table(error) => error,
    }
}

/// The number of its partition spec, where it says so.
fn spec_of(manifest: &Container<'_>) -> Option<i64> {
    manifest.meta("partition-spec-id").and_then(|id| std::str::from_utf8(id).ok()?.parse().ok())
}

/// A manifest: the number of its partition spec, where it says so, and its entries in order.
pub(crate) fn read_manifest(bytes: &[u8], name: &str) -> Result<(i64, Vec<Entry>), TableError> {
    let (manifest, runs) = open(bytes).map_err(fault("manifest", name))?;
    let spec = spec_of(&manifest);
    let room = Room::default();
    let entries = together(&runs, |run| {
        let (mut entries, mut shared) = (Vec::new(), Shared::default());
        manifest.records_of(run, &room, |content, at| {
            let (entry, _, end) = entry(&manifest.schema, content, at, &mut shared)?;
            entries.push(entry);
            Ok::<_, Refusal>(end)
        })?;
        Ok::<_, Refusal>(entries)
    });
    Ok((spec.unwrap_or(0), entries.map_err(told(name))?.into_iter().flatten().collect()))
}

/// The entries that `keep` wants, after a look at what is told of the rows in their files: of the others nothing stays.
pub(crate) fn filter_manifest(
    bytes: &[u8],
    name: &str,
    keep: impl Fn(&Entry, &Evidence<'_>) -> Result<bool, AvroError> + Sync,
) -> Result<Vec<Entry>, TableError> {
    let (manifest, runs) = open(bytes).map_err(fault("manifest", name))?;
    let (schema, spec) = (&manifest.schema, spec_of(&manifest));
    let room = Room::default();
    let entries = together(&runs, |run| {
        let (mut entries, mut shared) = (Vec::new(), Shared::default());
        manifest.records_of(run, &room, |content, at| {
            let (entry, parts, end) = entry(schema, content, at, &mut shared)?;
            let (partition, metrics) = (parts.partition.as_ref(), &parts.metrics);
            if keep(&entry, &Evidence { spec, schema, content, partition, metrics })? {
                entries.push(entry);
            }
            Ok::<_, Refusal>(end)
        })?;
        Ok::<_, Refusal>(entries)
    });
    Ok(entries.map_err(told(name))?.into_iter().flatten().collect())
}

/// The same manifest with these changes, one for each entry, and its entries as they are then: those of which `keep`
/// wants to know more.
pub(crate) fn rewrite_manifest(
    bytes: &[u8],
    name: &str,
    change: impl Fn(&Entry) -> Result<EntryChange, TableError> + Sync,
    keep: impl Fn(&Entry) -> bool + Sync,
) -> Result<(Vec<u8>, Vec<Entry>), TableError> {
    let (manifest, runs) = open(bytes).map_err(fault("manifest", name))?;
    let room = Room::default();
    let parts = together(&runs, |run| {
        let (mut kept, mut shared) = (Vec::new(), Shared::default());
        let blocks = manifest.rewrite_run(run, &room, |content, at, edits| {
            let (entry, parts, end) = entry(&manifest.schema, content, at, &mut shared)?;
            let change = change(&entry).map_err(Refusal::Table)?;
            change.apply(&manifest.schema, content, &parts, edits)?;
            if keep(&entry) {
                kept.push(change.made(entry));
            }
            Ok::<_, Refusal>(end)
        })?;
        Ok::<_, Refusal>((blocks, kept))
    });
    let (mut out, mut kept) = (manifest.head().to_vec(), Vec::new());
    for (blocks, entries) in parts.map_err(told(name))? {
        out.extend_from_slice(&blocks);
        kept.extend(entries);
    }
    Ok((out, kept))
}

impl EntryChange {
    /// What it makes of an entry.
    fn made(self, entry: Entry) -> Entry {
        Entry {
            path: self.path,
            size: self.size.unwrap_or(entry.size),
            format: self.format.map_or(entry.format, Arc::from),
            referenced: self.referenced.or(entry.referenced),
            ..entry
        }
    }

    fn apply(
        &self,
        schema: &Schema,
        content: &[u8],
        parts: &Parts,
        edits: &mut Edits,
    ) -> Result<(), AvroError> {
        let string = |text: &str| {
            let mut out = Vec::new();
            put_bytes(&mut out, text.as_bytes());
            out
        };
        if let Some(item) = &parts.path {
            edits.replace(item.range.clone(), string(&self.path));
        }
        if let (Some(item), Some(size)) = (&parts.size, self.size) {
            let mut out = Vec::new();
            put_long(&mut out, size as i64);
            edits.replace(item.range.clone(), out);
        }
        if let (Some(item), Some(format)) = (&parts.format, self.format) {
            edits.replace(item.range.clone(), string(format));
        }
        if let (Some(item), Some(referenced)) = (&parts.referenced, &self.referenced) {
            edits.replace(item.range.clone(), string(referenced));
        }
        if let (Some(item), Some(splits)) = (&parts.splits, &self.splits) {
            let mut out = Vec::new();
            if !splits.is_empty() {
                put_long(&mut out, splits.len() as i64);
                splits.iter().for_each(|at| put_long(&mut out, *at));
            }
            put_long(&mut out, 0);
            edits.replace(item.range.clone(), out);
        }
        self.metrics.apply(schema, content, &parts.metrics, edits)
    }
}
