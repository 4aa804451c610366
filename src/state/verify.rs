//! Whether a version could be restored, found out without writing anything.
//!
//! [`Depth::Whole`] reads every layer once. What proves its bytes are the digest in HEAD, and frames and
//! table as any reader checks them; what proves its contents is a second look at the same bytes, which
//! decodes the tar stream by itself and holds each entry against its row. [`Depth::Tails`] reads what a
//! lazy restore reads. Both lay out the tree.
mod stream;
#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;

use crate::error::{Error, ErrorKind};
use crate::layer::{Kind, LayerError, LayerIndex, Row};
use crate::remote::{RemoteError, Store};
use crate::state::absent::tree::Tree;
use crate::state::dictionary::{DictionaryError, fetch};
use crate::state::head::{Head, LayerRef, TableRef, VersionId, layer_id};
use crate::state::restore::fetch::Source;
use crate::state::restore::{Counters, Progress};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use uuid::Uuid;

/// How many layers are read at once. Of each at most 20 MiB wait in memory, besides its tail.
const LAYERS_AT_ONCE: usize = 4;
/// How many tails are read at once.
const TAILS_AT_ONCE: usize = 32;
/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every byte of every layer.
    Whole,
    /// The tails of the layers alone: one request each.
    Tails,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The version.
    #[serde(serialize_with = "as_text")]
    pub version: VersionId,
    /// Layers it has.
    pub layers: u64,
    /// Bytes that were read from the remote.
    pub bytes: u64,
    /// Entries of all layers that were found as they should be, whiteouts included.
    pub entries: u64,
    /// Whether the layers together make a tree; `None` if that cannot be told, since of some layer it
    /// is not known what it holds.
    pub tree: Option<bool>,
    /// What is wrong: at most one line a layer, oldest first.
    pub damaged: Vec<Damage>,
    /// Layers whose format has no contents, so that they can only be checked as a whole.
    pub unchecked: Vec<String>,
}

/// A layer that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Its key.
    pub layer: String,
    /// The version that added it.
    #[serde(serialize_with = "as_text")]
    pub version: VersionId,
    /// What is wrong with it. May name entries: print it safely.
    pub what: String,
}

/// As a version is named everywhere: its users take it for a word, not for a number.
#[allow(clippy::trivially_copy_pass_by_ref)] // what serde wants
fn as_text<S: serde::Serializer>(version: &VersionId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

/// Why nothing can be said: it is not known whether anything is damaged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The store failed.
    #[error("cannot read layer {key}: {source}")]
    Remote {
        /// The layer.
        key: String,
        /// The failure.
        source: RemoteError,
    },
    /// The reading thread died.
    #[error("verification was stopped")]
    Stopped,
}

impl From<VerifyError> for Error {
    fn from(e: VerifyError) -> Self {
        let kind = match &e {
            VerifyError::Remote { source: RemoteError::NoBucket { .. }, .. } => ErrorKind::NotFound,
            VerifyError::Remote { source: RemoteError::Denied { .. }, .. } => ErrorKind::Denied,
            VerifyError::Remote { .. } => ErrorKind::Unavailable,
            VerifyError::Stopped => ErrorKind::Io,
        };
        Self::new(kind, "cannot verify").with_source(e)
    }
}

/// Looks at a version. What is damaged is in the report and no error. Needs a runtime with time enabled.
pub async fn verify(
    store: Store,
    head: &Head,
    depth: Depth,
    progress: &dyn Progress,
) -> Result<Report, VerifyError> {
    let counters = Arc::new(Counters::default());
    let entries = AtomicU64::new(0);
    let source = Arc::new(Source::new(Arc::clone(&store), Handle::current(), Arc::clone(&counters)));
    let looker = Looker { store, source, counters: Arc::clone(&counters), depth };
    let total = head.layers.iter().map(|layer| looker.cost(layer)).sum();
    let report = || {
        progress.files(entries.load(Ordering::Relaxed));
        progress.bytes(counters.bytes(), total);
    };
    let mut work = std::pin::pin!(looker.all(head, &entries));
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            result = &mut work => {
                report();
                return result;
            }
            _ = tick.tick() => report(),
        }
    }
}

/// What a layer holds, as far as it is known.
enum Held {
    /// Its tail, which was found to be the one that HEAD names.
    Tail(Bytes),
    /// Its rows; it has no contents of its own.
    Rows(Vec<Row>),
    Unknown,
}

/// One layer after the look at it.
struct Seen {
    held: Held,
    wrong: Option<String>,
}

impl Seen {
    fn damaged(what: impl Into<String>) -> Self {
        Self { held: Held::Unknown, wrong: Some(what.into()) }
    }
}

struct Looker {
    store: Store,
    source: Arc<Source>,
    counters: Arc<Counters>,
    depth: Depth,
}

impl Looker {
    /// How many bytes will be read for a layer.
    fn cost(&self, layer: &LayerRef) -> u64 {
        let tail = layer.table.as_ref().map_or(0, |table| table.bytes);
        match self.depth {
            Depth::Whole => layer.bytes.saturating_add(tail),
            Depth::Tails => tail,
        }
    }

    async fn all(&self, head: &Head, entries: &AtomicU64) -> Result<Report, VerifyError> {
        let mut report = Report {
            version: head.version,
            layers: 0,
            bytes: 0,
            entries: 0,
            tree: None,
            damaged: Vec::new(),
            unchecked: Vec::new(),
        };
        let at_once = if self.depth == Depth::Whole { LAYERS_AT_ONCE } else { TAILS_AT_ONCE };
        let known: Known = head.all_layers().map(|(_, l)| (layer_id(&l.key), l.raw_bytes)).collect();
        let needed = head.needed([head.version]);
        // What is only referred to comes first, and is not laid into the tree.
        let lent = head.held.iter().filter(|layer| needed.contains(&layer.key)).map(|layer| (layer, false));
        let layers: Vec<_> = lent.chain(head.layers.iter().map(|layer| (layer, true))).collect();
        report.layers = layers.len() as u64;
        let undecodable = self.dictionaries(layers.iter().map(|(layer, _)| *layer)).await?;
        let looks =
            layers.iter().map(|(layer, laid)| async move { Ok((*layer, *laid, self.layer(layer).await?)) });
        // In the order of the layers, so that they can be laid as they come and nothing piles up.
        let mut looks = futures::stream::iter(looks).buffered(at_once);
        let mut tree = Some(Tree::default());
        report.tree = Some(true);
        while let Some((layer, laid, mut seen)) = looks.try_next().await? {
            if let Some(what) = layer.dictionary.and_then(|digest| undecodable.get(&digest.0)) {
                seen.wrong.get_or_insert_with(|| what.clone());
            }
            if !laid {
                match seen.wrong {
                    None => report.entries += layer.entries,
                    Some(what) => {
                        report.damaged.push(Damage {
                            layer: layer.key.clone(),
                            version: layer.version,
                            what,
                        });
                    }
                }
                continue;
            }
            if seen.wrong.is_none() && matches!(seen.held, Held::Unknown) {
                report.unchecked.push(layer.key.clone());
                (tree, report.tree) = (None, report.tree.filter(|whole| !whole));
                continue;
            }
            // After a layer that is not known, what later ones say of it means nothing.
            if let Some(below) = &mut tree {
                match lay(below, layer, seen.held, &known) {
                    None => (tree, report.tree) = (None, None),
                    Some(Ok(())) => {}
                    Some(Err(e)) => {
                        (tree, report.tree) = (None, Some(false));
                        seen.wrong.get_or_insert_with(|| e.to_string());
                    }
                }
            }
            match seen.wrong {
                None => {
                    report.entries += layer.entries;
                    entries.store(report.entries, Ordering::Relaxed);
                }
                Some(what) => {
                    report.damaged.push(Damage { layer: layer.key.clone(), version: layer.version, what });
                }
            }
        }
        report.bytes = self.counters.bytes();
        Ok(report)
    }

    /// Of the dictionaries that these layers need, those that are missing or wrong, and how.
    async fn dictionaries(
        &self,
        layers: impl Iterator<Item = &LayerRef>,
    ) -> Result<HashMap<[u8; 32], String>, VerifyError> {
        let mut wrong = HashMap::new();
        let needed: HashSet<[u8; 32]> = layers.filter_map(|layer| Some(layer.dictionary?.0)).collect();
        for digest in needed {
            match fetch(&*self.store, &digest).await {
                Ok(dictionary) => self.counters.add(dictionary.bytes().len() as u64),
                Err(DictionaryError::Remote { key, source }) => {
                    return Err(VerifyError::Remote { key, source });
                }
                Err(e) => drop(wrong.insert(digest, e.to_string())),
            }
        }
        Ok(wrong)
    }

    async fn layer(&self, layer: &LayerRef) -> Result<Seen, VerifyError> {
        let tail = match &layer.table {
            None => None,
            Some(table) => match self.tail(layer, table).await? {
                // What is wrong with all of it says more than what is wrong with its end.
                Err(what) if self.depth == Depth::Tails || what == GONE => return Ok(Seen::damaged(what)),
                tail => Some(tail),
            },
        };
        if self.depth == Depth::Tails {
            let held = tail.and_then(Result::ok).map_or(Held::Unknown, Held::Tail);
            return Ok(Seen { held, wrong: None });
        }
        let (source, layer) = (Arc::clone(&self.source), layer.clone());
        let look = tokio::task::spawn_blocking(move || stream::look(&source, &layer, tail));
        look.await.unwrap_or(Err(VerifyError::Stopped))
    }

    /// The tail of a layer, or what is wrong with it.
    async fn tail(&self, layer: &LayerRef, table: &TableRef) -> Result<Result<Bytes, String>, VerifyError> {
        let remote = |source: RemoteError| VerifyError::Remote { key: layer.key.clone(), source };
        // One byte more than there should be: an object that became longer answers with it.
        let range = layer.bytes - table.bytes..layer.bytes + 1;
        let mut download = match self.store.download(&layer.key, Some(range)).await {
            Ok(download) => download,
            Err(RemoteError::NotFound { .. }) => return Ok(Err(GONE.to_owned())),
            // The store has the object, but nothing of it at that place.
            Err(e @ RemoteError::Refused { .. }) => return Ok(Err(e.to_string())),
            Err(e) => return Err(remote(e)),
        };
        if download.length != table.bytes {
            let start = layer.bytes - table.bytes;
            let least = if download.length > table.bytes { "at least " } else { "" };
            let is = start.saturating_add(download.length);
            return Ok(Err(format!("it has {least}{is} bytes instead of {}", layer.bytes)));
        }
        let mut tail = BytesMut::new();
        while let Some(piece) = download.body.next().await {
            let piece = piece.map_err(remote)?;
            self.counters.add(piece.len() as u64);
            tail.extend_from_slice(&piece);
        }
        if *blake3::hash(&tail).as_bytes() != table.digest.0 {
            return Ok(Err("the digest of its table differs from HEAD".to_owned()));
        }
        let tail = tail.freeze();
        let right = match LayerIndex::read(&tail, layer.bytes) {
            Ok((index, _)) => counts(layer, index.entries(), index.raw_bytes()),
            Err(e) => Err(e.to_string()),
        };
        Ok(right.map(|()| tail))
    }
}

/// What is said of an object that does not exist.
const GONE: &str = "it is not there";

/// Whether a layer has as much as HEAD says.
fn counts(layer: &LayerRef, entries: u64, raw_bytes: u64) -> Result<(), String> {
    if entries != layer.entries {
        return Err(format!("it has {entries} entries, in HEAD {}", layer.entries));
    }
    if raw_bytes != layer.raw_bytes {
        return Err(format!("its tar stream has {raw_bytes} bytes, in HEAD {}", layer.raw_bytes));
    }
    Ok(())
}

/// By their ids, how long the tar streams are of all layers that HEAD lists.
type Known = HashMap<Option<Uuid>, u64>;

/// Whether what a file refers to exists.
fn refers(row: Row, known: &Known) -> Result<Row, LayerError> {
    if let Kind::File { refs, .. } = &row.entry.kind {
        let missing = refs.iter().find(|part| {
            known.get(&Some(part.layer)).is_none_or(|raw_bytes| part.from + part.length > *raw_bytes)
        });
        if let Some(part) = missing {
            let what = format!("it refers to what layer {} does not have", part.layer);
            return Err(LayerError::corrupt(what).in_entry(&row.entry.path));
        }
    }
    Ok(row)
}

/// Lays one more layer; `None` if it is not known what it holds.
fn lay(tree: &mut Tree, layer: &LayerRef, held: Held, known: &Known) -> Option<Result<(), LayerError>> {
    match held {
        Held::Unknown => None,
        Held::Rows(rows) => Some(tree.lay(rows.into_iter().map(|row| refers(row, known)))),
        Held::Tail(tail) => {
            let laid = LayerIndex::read(&tail, layer.bytes)
                .and_then(|(_, rows)| tree.lay(rows.map(|row| row.and_then(|row| refers(row, known)))));
            Some(laid)
        }
    }
}
